"""Rules run on symbols: each operation on a symbol becomes a statement of C.

The rule of an activation or a link, and the compiled form of an elementary function, is a straight
line of arithmetic. Run once on symbols it gives C code of the same operations in the same order,
which rounds as the library does.
"""

import ast
import operator
import re
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial
from types import CodeType, FunctionType
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from fastmlp.compiler import elementary, fma
from fastmlp.compiler.expressions import FORMS
from fastmlp.compiler.operands import Unsupported
from fastmlp.compiler.source import definition_of, names_of

Scalar = type[np.floating[Any]]
C_TYPES: dict[Any, str] = {np.float32: "float", np.float64: "double"}
# From a method of Python to the sign in C.
OPERATIONS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
NAME = re.compile(r"\bt\d+\b")


class Comparison(NamedTuple):
    """A relation that the C program decides."""

    text: str

    def __bool__(self) -> NoReturn:
        raise Unsupported("a branch, `and`, `or` or `not` on a number; `a if c else b` is none")


class Symbol:
    """A number of one precision that the C program computes.

    Called, as `type(z)(1)` in rules, its class converts a number to this precision.
    """

    kind: ClassVar[Scalar]
    code: "Code"
    name: str
    __array_ufunc__ = None  # NumPy's scalars leave operations with symbols to this class

    def __new__(cls, number: Any) -> Any:
        """Convert a number."""
        if isinstance(number, Symbol):
            return number.code.put(cls.kind, number.code.text(number, cls.kind))
        return cls.kind(number)

    def __neg__(self) -> Any:
        return self.code.put(self.kind, f"-{self.name}")


def _operation(sign: str, a: Any, b: Any) -> Any:
    code, kind = _code_of(a, b), common(a, b)
    return code.put(kind, f"{code.text(a, kind)} {sign} {code.text(b, kind)}")


def _relation(sign: str, a: Any, b: Any) -> Comparison:
    # A constant that is exact in the symbol's precision, as 0 is, widens nothing.
    kind = a.kind if not isinstance(b, Symbol) and a.kind(b) == b else common(a, b)
    return Comparison(f"({a.code.text(a, kind)} {sign} {a.code.text(b, kind)})")


for _name, _sign in OPERATIONS.items():
    setattr(Symbol, f"__{_name}__", lambda a, b, sign=_sign: _operation(sign, a, b))
    setattr(Symbol, f"__r{_name}__", lambda b, a, sign=_sign: _operation(sign, a, b))
for _name, _sign in RELATIONS.items():
    setattr(Symbol, f"__{_name}__", lambda a, b, sign=_sign: _relation(sign, a, b))
SYMBOLS = {kind: type(f"Symbol_{kind.__name__}", (Symbol,), {"kind": kind}) for kind in C_TYPES}


def _code_of(*numbers: Any) -> "Code":
    return next(number.code for number in numbers if isinstance(number, Symbol))


def common(*numbers: Any) -> Any:
    """The precision of an operation, as in compiled code: Python's numbers are float64."""
    kinds = [getattr(number, "kind", None) or np.result_type(number) for number in numbers]
    return np.result_type(*(np.float64 if np.dtype(k).kind != "f" else k for k in kinds)).type


def literal(number: Any) -> str:
    """A NumPy scalar in C: the shortest text that reads back as the same number."""
    bits, suffix = 8 * number.itemsize, "f" if number.itemsize == 4 else ""
    if not np.isfinite(number):
        return f"$of_bits{bits}(0x{int(number.view(f'u{number.itemsize}')):x}u{'ll' * (bits > 32)})"
    text = f"{number!s}{suffix}"
    return f"({text})" if text.startswith("-") else text


class Code:
    """The statements of a rule, in the order of its operations; equal ones stand once."""

    def __init__(self) -> None:
        self.statements: dict[tuple[Any, str], str] = {}
        self._own: dict[Any, Callable[..., Any]] = {
            elementary.where: self.where,
            elementary.polynomial: self._polynomial,
            fma: partial(self._function, "fma"),
            elementary.copysign: partial(self._function, "copysign"),
            elementary.scaled: partial(self._function, "scaled"),
            elementary.octave: partial(self._function, "octave"),
            abs: partial(self._function, "abs"),
            np.sqrt: partial(self._function, "sqrt"),
            min: partial(self._chosen, operator.lt),
            max: partial(self._chosen, operator.gt),
        }

    def symbol(self, kind: Any, name: str) -> Any:
        """A symbol of this name."""
        symbol: Any = object.__new__(SYMBOLS[kind])
        symbol.code, symbol.name = self, name
        return symbol

    def put(self, kind: Any, expression: str) -> Any:
        """The symbol of an expression's value."""
        name = self.statements.setdefault((kind, expression), f"t{len(self.statements)}")
        return self.symbol(kind, name)

    def text(self, number: Any, kind: Any) -> str:
        """A number in C, in this precision."""
        if not isinstance(number, Symbol):
            return literal(kind(number))
        return number.name if number.kind is kind else f"({C_TYPES[kind]}){number.name}"

    def lines(self, *results: str) -> list[str]:
        """The statements that these names need."""
        needed, lines = set(results), []
        for (kind, expression), name in reversed(self.statements.items()):
            if name in needed:
                needed.update(NAME.findall(expression))
                lines.append(f"const {C_TYPES[kind]} {name} = {expression};")
        return lines[::-1]

    def run(self, rule: FunctionType) -> Callable[..., Any]:
        """A function of symbols that does what the rule does.

        Raises
        ------
        Unsupported
            If its source is not available.
        """
        names = {**names_of(rule), "_call": self.call, "_where": self.where}
        exec(_on_symbols(rule), names)
        function: Callable[..., Any] = names[rule.__name__]
        return function

    def call(self, function: Any, *arguments: Any, **others: Any) -> Any:
        """The result of a call in a rule, of a function as a compiler would take it."""
        if function in self._own:
            return self._own[function](*arguments)
        if function in SYMBOLS:
            return SYMBOLS[function](*arguments)
        if function in FORMS:
            function = FORMS[function](common(*arguments))
        function = getattr(function, "py_func", function)
        if isinstance(function, FunctionType):
            function = self.run(function)
        return function(*arguments, **others)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """One of two numbers, or of two tuples of numbers."""
        if not isinstance(condition, Comparison):
            return a if condition else b
        if isinstance(a, tuple):
            return tuple(map(partial(self.where, condition), a, b))
        kind = common(a, b)
        return self.put(kind, f"{condition.text} ? {self.text(a, kind)} : {self.text(b, kind)}")

    def _function(self, name: str, *numbers: Any) -> Any:
        kind = common(*numbers)
        texts = ", ".join(self.text(number, kind) for number in numbers)
        return self.put(kind, f"${name}{8 * np.dtype(kind).itemsize}({texts})")

    def _polynomial(self, x: Any, coefficients: Any) -> Any:
        *others, value = coefficients
        for coefficient in reversed(others):
            value = self._function("fma", value, x, coefficient)
        return value

    def _chosen(self, better: Any, best: Any, *others: Any) -> Any:
        for other in others:
            best = self.where(better(other, best), other, best)
        return best


class _Calls(ast.NodeTransformer):
    """Makes calls and conditional expressions calls of a `Code`'s methods."""

    def visit_Call(self, node: ast.Call) -> Any:
        """Turn ``f(x)`` into ``_call(f, x)``."""
        self.generic_visit(node)
        return ast.Call(ast.Name("_call", ast.Load()), [node.func, *node.args], node.keywords)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        """Turn ``a if c else b`` into ``_where(c, a, b)``."""
        self.generic_visit(node)
        numbers = [node.test, node.body, node.orelse]
        return ast.Call(ast.Name("_where", ast.Load()), numbers, [])


@lru_cache(maxsize=256)
def _on_symbols(rule: FunctionType) -> CodeType:
    """A definition of the rule for symbols, compiled."""
    definition = _Calls().visit(deepcopy(definition_of(rule)))
    definition.decorator_list, definition.returns = [], None
    for argument in definition.args.args:
        argument.annotation = None
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    return compile(tree, rule.__code__.co_filename, "exec")


def loop_of(rule: Any, scalar: Any, name: str, *, slopes: bool = False) -> str:
    """A C function that replaces n numbers by a rule's values; with `slopes`, writes these too.

    Parameters
    ----------
    rule : an activation, which returns a value and a slope, or a link, which returns a value
    name : of the C function; `$` stands for the prefix of the file

    Raises
    ------
    Unsupported, or an exception of the rule's own
        If it is no straight line of arithmetic and the functions of `rules.elementary`.
    """
    code, real = Code(), C_TYPES[scalar]
    results = code.call(rule, code.symbol(scalar, "x"))
    results = results if isinstance(results, tuple) else (results,)
    texts = [code.text(result, scalar) for result in results[: 1 + slopes]]
    lines = code.lines(*(name for text in texts for name in NAME.findall(text)))
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
