"""Rules in C: code of the same operations in the same order, which rounds as the library does."""

from functools import partial
from typing import Any

import numpy as np

from fastmlp.compiler import elementary, fma
from fastmlp.compiler.expressions import FORMS
from fastmlp.export.trace import Comparison, Symbol, Trace

C_TYPES: dict[Any, str] = {np.float32: "float", np.float64: "double"}
# From a method of Python to the sign in C.
SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def literal(number: Any) -> str:
    """A NumPy scalar in C: the shortest text that reads back as the same number."""
    bits, suffix = 8 * number.itemsize, "f" if number.itemsize == 4 else ""
    if not np.isfinite(number):
        return f"$of_bits{bits}(0x{int(number.view(f'u{number.itemsize}')):x}u{'ll' * (bits > 32)})"
    text = f"{number!s}{suffix}"
    return f"({text})" if text.startswith("-") else text


class Code(Trace):
    """The statements of a rule in C."""

    forms = FORMS

    def __init__(self) -> None:
        super().__init__()
        self.own |= {
            elementary.where: self.where,
            elementary.polynomial: self._polynomial,
            fma: partial(self.apply, "fma"),
            elementary.copysign: partial(self.apply, "copysign"),
            elementary.scaled: partial(self.apply, "scaled"),
            elementary.octave: partial(self.apply, "octave"),
            np.sqrt: partial(self.apply, "sqrt"),
        }

    def text(self, number: Any, kind: Any) -> str:
        """A number in C, in this precision."""
        if not isinstance(number, Symbol):
            return literal(kind(number))
        return number.name if number.kind is kind else f"({C_TYPES[kind]}){number.name}"

    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        """An expression in C."""
        if name in SIGNS:
            return f" {SIGNS[name]} ".join(operands)
        if name == "neg":
            return f"-{operands[0]}"
        if name == "where":
            return "{} ? {} : {}".format(*operands)
        return f"${name}{8 * np.dtype(kind).itemsize}({', '.join(operands)})"

    def relation(self, name: str, a: str, b: str) -> Comparison:
        """A relation in C."""
        return Comparison(f"({a} {RELATIONS[name]} {b})")

    def lines(self, *results: str) -> list[str]:
        """The statements that texts of results need."""
        return [
            f"const {C_TYPES[kind]} {name} = {text};" for kind, text, name in self.needed(*results)
        ]

    def _polynomial(self, x: Any, coefficients: Any) -> Any:
        *others, value = coefficients
        for coefficient in reversed(others):
            value = self.apply("fma", value, x, coefficient)
        return value


def loop_of(rule: Any, scalar: Any, name: str, *, slopes: bool = False) -> str:
    """A C function that replaces n numbers by a rule's values; with `slopes`, writes these too.

    Parameters
    ----------
    rule : an activation, which returns a value and a slope, or a link, which returns a value
    name : of the C function; `$` stands for the prefix of the file

    Raises
    ------
    NotImplementedError
        If the rule is more than arithmetic.
    """
    code, real = Code(), C_TYPES[scalar]
    results = code.results(rule, "to_c", code.symbol(scalar, "x"))
    texts = [code.text(result, scalar) for result in results[: 1 + slopes]]
    lines = code.lines(*texts)
    targets = ["z[i]", "slope[i]"]
    body = [*lines, *(f"{target} = {text};" for target, text in zip(targets, texts, strict=False))]
    indented = "\n".join(f"        {line}" for line in body)
    more = f", {real} *$RESTRICT slope" * slopes
    return f"""static void {name}({real} *$RESTRICT z{more}, int n)
{{
    for (int i = 0; i < n; ++i) {{
        const {real} x = z[i];
{indented}
    }}
}}
"""
