"""Second derivatives of rules, from their traces by the chain rule.

A rule that returns a value and a slope is run on symbols; the slope's derivative is the
curvature. A link returns a value alone, whose derivative is the slope. The three
results are written as a function in Python, which a compiler takes like a rule.
"""

import ast
import linecache
import math
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from fastmlp.compiler.jit import Unsupported, inlined
from fastmlp.compiler.trace import (
    RELATIONS,
    SIGNS,
    Comparison,
    Symbol,
    Trace,
    signed,
)
from fastmlp.network.spec import Network, name_of
from fastmlp.rules import activations, elementary, losses

# The rules of the library whose slopes jump: their curvatures train nothing.
JUMPING = ("relu", "leaky_relu", "selu")
OF_NUMPY = {getattr(np, f.__name__, f): f for f in elementary.FUNCTIONS}
LANGUAGE = {f: f for f in elementary.FUNCTIONS} | OF_NUMPY
LANGUAGE |= {
    getattr(math, f.__name__, f): f
    for f in elementary.FUNCTIONS
    if f not in (elementary.logistic, elementary.softplus)
}
CURVATURE_CALLER = "derivatives"


class Derivation(Trace):
    """Statements in Python, each with the operation and the numbers that it is made
    of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, tuple[str, tuple[Any, ...]]] = {}
        self._derivatives: dict[str, Any] = {}
        self.own |= {
            function: partial(self.apply, form.__name__)
            for function, form in LANGUAGE.items()
        }

    def text(self, number: Any, kind: Any) -> str:
        if not isinstance(number, Symbol):
            return f"{kind.__name__}({float(kind(number))!r})"
        if number.kind is kind:
            return number.name
        return f"{kind.__name__}({number.name})"

    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        if name == "where":
            condition, a, b = operands
            return f"{a} if {condition} else {b}"
        return signed(name, operands) or f"{name}({', '.join(operands)})"

    def relation(self, name: str, a: str, b: str) -> Comparison:
        return Comparison(f"{a} {RELATIONS[name]} {b}")

    def apply(self, name: str, *numbers: Any) -> Any:
        result = super().apply(name, *numbers)
        self.parts[result.name] = name, numbers
        return result

    def convert(self, number: Any, kind: Any) -> Any:
        result = super().convert(number, kind)
        self.parts[result.name] = "convert", (number,)
        return result

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        result = super().where(condition, a, b)
        if isinstance(condition, Comparison) and isinstance(result, Symbol):
            self.parts[result.name] = "where", (condition, a, b)
        return result

    def derivative(self, number: Any) -> Any:
        """The derivative by the rule's argument;
        None where it is 0 for all arguments.
        """
        if not isinstance(number, Symbol):
            return None
        if number.name not in self._derivatives:
            self._derivatives[number.name] = self._by_chain_rule(number)
        return self._derivatives[number.name]

    def _by_chain_rule(self, result: Any) -> Any:
        if result.name not in self.parts:  # the argument
            return result.kind(1)
        name, numbers = self.parts[result.name]
        slopes = [self.derivative(number) for number in numbers]
        if all(slope is None for slope in slopes):
            return None
        if name == "where":
            zero = result.kind(0)
            _, a, b = (zero if slope is None else slope for slope in slopes)
            return self.where(numbers[0], a, b)
        if name == "convert":
            return type(result)(slopes[0])
        if name in SIGNS:
            return _of_operation(name, result, numbers, slopes)
        return _times(self._outer(name, result, numbers[0]), slopes[0])

    def _outer(self, name: str, result: Any, x: Any) -> Any:
        """The derivative of a function by its argument,
        at x, where it has this result.
        """
        kind = result.kind
        one = kind(1)
        if name == "neg":
            return -one
        if name == "abs":
            return self.where(x < kind(0), -one, one)
        if name == "exp":
            return result
        if name == "expm1":
            return self.apply("exp", x)
        if name == "log":
            return one / x
        if name == "log1p":
            return one / (one + x)
        if name == "sqrt":
            return kind(0.5) / result
        if name == "tanh":
            return one - result * result
        if name == "erf":
            return kind(2 / math.sqrt(math.pi)) * self.apply("exp", -(x * x))
        if name == "softplus":
            return self.apply("logistic", x)
        assert name == "logistic", name
        return result * (one - result)


def _plus(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _times(a: Any, b: Any) -> Any:
    """The product; None stands for 0."""
    if a is None or b is None:
        return None
    if not isinstance(b, Symbol) and b == 1:
        return a
    return b if not isinstance(a, Symbol) and a == 1 else a * b


def _of_operation(name: str, result: Any, numbers: Any, slopes: Any) -> Any:
    """The derivative of a sum, a difference, a product or a quotient."""
    (a, b), (of_a, of_b) = numbers, slopes
    if name == "add":
        return _plus(of_a, of_b)
    if name == "mul":
        return _plus(_times(of_a, b), _times(a, of_b))
    if name == "truediv":
        of_b = _times(result, of_b)
    difference = of_a if of_b is None else -of_b if of_a is None else of_a - of_b
    return difference / b if name == "truediv" else difference


def curved(rule: Callable[..., Any], scalar: Any) -> Callable[..., Any]:
    """The function z -> (value, slope, curvature) of a rule, for one precision.

    Parameters
    ----------
    rule : callable
        An activation, which returns (value, slope), or a link of numbers,
        which returns a value. A rule that returns three numbers is the result.

    Raises
    ------
    NotImplementedError
        If the rule is more than arithmetic and functions of `rules.elementary`.
    """
    if returns_curvature(rule):
        return rule
    code, results = _derived(rule, scalar, CURVATURE_CALLER)
    value, slope = (*results, code.derivative(results[0]))[:2]
    zero = scalar(0)
    numbers = [
        zero if number is None else number
        for number in (value, slope, code.derivative(slope))
    ]
    texts = [code.text(number, scalar) for number in numbers]
    lines = [f"    {name} = {text}" for _, text, name in code.needed(*texts)]
    source = ["def curved(z):", *lines, f"    return {', '.join(texts)}"]
    return _function_of(
        f"<curvature of {name_of(rule)} {id(rule)} {scalar.__name__}>", source
    )


def returns_curvature(rule: Any) -> bool:
    """True for a rule of three results, which is called uncompiled."""
    result = getattr(rule, "py_func", rule)(np.float64(0.5))
    return isinstance(result, tuple) and len(result) == 3


def _derived(rule: Any, scalar: Any, who: str) -> tuple[Derivation, tuple[Any, ...]]:
    code = Derivation()
    function = LANGUAGE.get(rule, rule)
    results = code.results(function, who, code.symbol(scalar, "z"))
    return code, results


def _function_of(filename: str, source: list[str]) -> Callable[..., Any]:
    """A function from its lines, which the translator reads again from `linecache`."""
    lines = [f"{line}\n" for line in source]
    linecache.cache[filename] = (len(lines), None, lines, filename)
    names: dict[str, Any] = {f.__name__: f for f in elementary.FUNCTIONS}
    names |= {"float32": np.float32, "float64": np.float64}
    names |= {"inf": math.inf, "nan": math.nan, "__name__": __name__}
    exec(compile(ast.parse("".join(lines)), filename, "exec"), names)
    function: FunctionType = names["curved"]
    return inlined(function)


def check_curvatures(network: Network, who: str) -> None:
    """Raise a ValueError for rules without a second derivative to train.

    A net without a hidden layer, and layers of identity beside others, are linear.
    """
    for rule in dict.fromkeys(network.activations):
        _check_curvature(rule, who)
    if network.link == losses.LINKS["sorted"]:
        raise ValueError(
            f"{who}: derivatives of sorted predictions are not trained; use another "
            f"loss, "
            "such as 'mse', or train_on_gradient with jacobian_gradient="
        )


def _check_curvature(rule: Any, who: str) -> None:
    """Raise a ValueError if a rule has no second derivative: its slope jumps, it cannot
    be derived, or its second derivative is 0 everywhere.
    """
    name = name_of(rule)
    if rule is activations.identity or returns_curvature(rule):
        return
    remedy = "tanh, softplus or silu"
    if rule in [activations.RULES[known] for known in JUMPING]:
        raise ValueError(
            f"{who}: derivatives need an activation whose slope has a derivative, and "
            f"the slope of {name!r} jumps: use {remedy}"
        )
    given = "return value, slope and curvature from it"
    try:
        code, results = _derived(rule, np.float64, who)
    except (NotImplementedError, Unsupported) as error:
        words = f"{error}; for derivatives {given}, or use {remedy}"
        raise ValueError(words) from error
    if code.derivative(results[1]) is None:
        raise ValueError(
            f"{who}: the second derivative of the activation {name!r} is 0 everywhere, "
            f"so derivatives cannot train it; {given}, or use {remedy}"
        )
