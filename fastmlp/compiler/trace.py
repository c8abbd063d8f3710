"""Rules run on symbols: each operation on a symbol becomes a statement of another
language.

Rules, and compiled forms of elementary functions, are arithmetic without branches: run
once on symbols they give the same operations in the same order. A `Trace` writes
numbers and operations in a language.
"""

import ast
import operator
import re
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import lru_cache, partial
from types import CodeType, FunctionType
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from fastmlp.compiler.jit import Unsupported, definition_of, names_of
from fastmlp.network.spec import name_of

Scalar = type[np.floating[Any]]
TEMPORARY = re.compile(r"\bt\d+\b")


class Comparison(NamedTuple):
    """A relation that the program decides."""

    text: str

    def __bool__(self) -> NoReturn:
        raise Unsupported(
            "a branch, `and`, `or` or `not` on a number, where `a if c else b` works"
        )


class Symbol:
    """A number of one precision that the program computes.

    In rules ``type(z)(1)`` converts a number to this precision.
    """

    kind: ClassVar[Scalar]
    code: "Trace"
    name: str
    __array_ufunc__ = (
        None  # NumPy's scalars leave operations with symbols to this class
    )

    def __new__(cls, number: Any) -> Any:
        if isinstance(number, Symbol):
            return number.code.convert(number, cls.kind)
        return cls.kind(number)

    def __neg__(self) -> Any:
        return self.code.apply("neg", self)

    def __pow__(self, exponent: Any) -> Any:
        """A whole power: squares, multiplied in the order of compiled code."""
        if not isinstance(exponent, int):
            raise Unsupported(f"** by {exponent!r}, where whole numbers work")
        one = self.kind(1)
        result: Any = one
        square: Any = self
        for digit in reversed(f"{abs(exponent):b}"):
            if digit == "1":
                result = result * square
            square = square * square
        return result if exponent >= 0 else one / result


# From a method of Python to the sign in Python, and in C.
SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def signed(name: str, operands: list[str]) -> str:
    """The expression of an operation with a sign; "" for others."""
    if name in SIGNS:
        return f" {SIGNS[name]} ".join(operands)
    return f"-{operands[0]}" if name == "neg" else ""


def _relation(name: str, a: Any, b: Any) -> Comparison:
    # A constant that is exact in the symbol's precision, such as 0, widens nothing.
    if not isinstance(b, Symbol) and a.kind(b) == b:
        kind = a.kind
    else:
        kind = common(a, b)
    return a.code.relation(name, a.code.text(a, kind), a.code.text(b, kind))


for _name in SIGNS:
    setattr(Symbol, f"__{_name}__", lambda a, b, name=_name: a.code.apply(name, a, b))
    setattr(Symbol, f"__r{_name}__", lambda b, a, name=_name: b.code.apply(name, a, b))
for _name in RELATIONS:
    setattr(Symbol, f"__{_name}__", lambda a, b, name=_name: _relation(name, a, b))
TRACED_TYPES = (np.float32, np.float64)
SYMBOLS = {
    kind: type(f"Symbol_{kind.__name__}", (Symbol,), {"kind": kind})
    for kind in TRACED_TYPES
}


def common(*numbers: Any) -> Any:
    """The precision of an operation, as in compiled code:
    Python's numbers are float64.
    """
    kinds = [
        getattr(number, "kind", None) or np.result_type(number) for number in numbers
    ]
    return np.result_type(
        *(np.float64 if np.dtype(k).kind != "f" else k for k in kinds)
    ).type


class Trace(ABC):
    """Statements of a rule, in the order of operations; equal ones stand once.

    Attributes
    ----------
    own : from a function of the language to the form of a call
    forms : functions whose calls have another form, by precision
    """

    forms: ClassVar[Mapping[Any, Callable[[Any], Any]]] = {}

    def __init__(self) -> None:
        self.statements: dict[tuple[Any, str], str] = {}
        self.own: dict[Any, Callable[..., Any]] = {
            abs: partial(self.apply, "abs"),
            min: partial(self._chosen, operator.lt),
            max: partial(self._chosen, operator.gt),
        }

    @abstractmethod
    def text(self, number: Any, kind: Any) -> str:
        """A number, or a symbol, in this precision."""

    @abstractmethod
    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        """The expression of an operation: Python's name,
        "where", or a name of `own`.
        """

    @abstractmethod
    def relation(self, name: str, a: str, b: str) -> Comparison:
        """The relation of this name."""

    def symbol(self, kind: Any, name: str) -> Any:
        symbol: Any = object.__new__(SYMBOLS[kind])
        symbol.code = self
        symbol.name = name
        return symbol

    def name(self, kind: Any, expression: str) -> str:
        return self.statements.setdefault(
            (kind, expression), f"t{len(self.statements)}"
        )

    def put(self, kind: Any, expression: str) -> Any:
        return self.symbol(kind, self.name(kind, expression))

    def convert(self, number: Any, kind: Any) -> Any:
        return self.put(kind, self.text(number, kind))

    def apply(self, name: str, *numbers: Any) -> Any:
        kind = common(*numbers)
        return self.put(
            kind, self.operation(name, kind, [self.text(n, kind) for n in numbers])
        )

    def needed(self, *results: str) -> list[tuple[Any, str, str]]:
        """Kinds, expressions and names of the statements that texts of results need."""
        names = set(TEMPORARY.findall(" ".join(results)))
        needed = []
        for (kind, expression), name in reversed(self.statements.items()):
            if name in names:
                names.update(TEMPORARY.findall(expression))
                needed.append((kind, expression, name))
        return needed[::-1]

    def run(self, rule: FunctionType) -> Callable[..., Any]:
        names = {**names_of(rule), "_call": self.call, "_where": self.where}
        exec(_on_symbols(rule), names)
        function: Callable[..., Any] = names[rule.__name__]
        return function

    def call(self, function: Any, *arguments: Any, **others: Any) -> Any:
        """The result of a call in a rule, of a function as a compiler would take it."""
        if function in self.own:
            return self.own[function](*arguments)
        if function in SYMBOLS:
            return SYMBOLS[function](*arguments)
        on_symbols = any(isinstance(argument, Symbol) for argument in arguments)
        if on_symbols and isinstance(function, np.ufunc):
            raise Unsupported(f"a call of NumPy's {function.__name__}")
        if function in self.forms:
            function = self.forms[function](common(*arguments))
        function = getattr(function, "py_func", function)
        if isinstance(function, FunctionType):
            function = self.run(function)
        return function(*arguments, **others)

    def results(self, rule: Any, who: str, *arguments: Any) -> tuple[Any, ...]:
        """Symbols that the rule of an activation or a link returns."""
        try:
            results = self.call(rule, *arguments)
        except NotImplementedError:
            raise
        except Exception as error:
            raise NotImplementedError(
                f"{who}: the activation {name_of(rule)!r} is more than arithmetic, "
                f"`a if c else b` and functions of fastmlp.rules.elementary: {error}"
                f"{_line_of(rule, error)}"
            ) from error
        return results if isinstance(results, tuple) else (results,)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """One of two numbers, or of two tuples of numbers."""
        if not isinstance(condition, Comparison):
            return a if condition else b
        if isinstance(a, tuple):
            return tuple(map(partial(self.where, condition), a, b))
        kind = common(a, b)
        texts = [condition.text, self.text(a, kind), self.text(b, kind)]
        return self.put(kind, self.operation("where", kind, texts))

    def _chosen(self, better: Any, best: Any, *others: Any) -> Any:
        for other in others:
            best = self.where(better(other, best), other, best)
        return best


def _line_of(rule: Any, error: BaseException) -> str:
    """The last line of a rule's file that an error passed; "" where it is not known."""
    code = getattr(getattr(rule, "py_func", rule), "__code__", None)
    filename = getattr(code, "co_filename", "")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.line for frame in frames if frame.filename == filename]
    return f", in the line {own[-1]!r}" if own and own[-1] else ""


class _Calls(ast.NodeTransformer):
    """Turns calls and conditional expressions into calls of a `Code`'s methods."""

    def visit_Call(self, node: ast.Call) -> Any:
        """Turn ``f(x)`` into ``_call(f, x)``."""
        self.generic_visit(node)
        return ast.Call(
            ast.Name("_call", ast.Load()), [node.func, *node.args], node.keywords
        )

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        """Turn ``a if c else b`` into ``_where(c, a, b)``."""
        self.generic_visit(node)
        numbers = [node.test, node.body, node.orelse]
        return ast.Call(ast.Name("_where", ast.Load()), numbers, [])


@lru_cache(maxsize=256)
def _on_symbols(rule: FunctionType) -> CodeType:
    definition = _Calls().visit(deepcopy(definition_of(rule)))
    definition.decorator_list = []
    definition.returns = None
    for argument in definition.args.args:
        argument.annotation = None
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    return compile(tree, rule.__code__.co_filename, "exec")
