"""The syntax tree of a function, and checks of it."""

import ast
import linecache
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple, TypeVar


class Unsupported(Exception):
    """Code outside the translator's subset; Numba compiles it."""

    def at(self, filename: str, line: int) -> "Unsupported":
        """Return the exception with a place in the source, unless it has one."""
        return self if len(self.args) > 1 else Unsupported(self.args[0], f"{filename}:{line}")

    def __str__(self) -> str:
        return ", at ".join(map(str, self.args))


Definition = ast.FunctionDef
F = TypeVar("F", bound=Callable[..., None])
# Names of some fields of records, by the records' classes.
Fields = Mapping[Any, Sequence[str]]


NO_FIELDS: Fields = MappingProxyType({})


class Hints(NamedTuple):
    """Facts about a block that the translator may use.

    Attributes
    ----------
    control : the block's loops are short, or of vectors already: LLVM runs few passes
    zeros : fields of records that are 0 whenever the block runs; code for other values is left out
    """

    control: bool = False
    zeros: Fields = NO_FIELDS


_HINTS = "fastmlp_hints"


def hinted(*, control: bool = False, zeros: Fields = NO_FIELDS) -> Callable[[F], F]:
    """Numba ignores hints."""

    def add(function: F) -> F:
        setattr(function, _HINTS, Hints(control, zeros))
        return function

    return add


def hints_of(function: Callable[..., None]) -> Hints:
    hints: Hints = getattr(function, _HINTS, Hints())
    return hints


def definition_of(function: FunctionType) -> Definition:
    code, names = function.__code__, function.__globals__
    definitions = _definitions(code.co_filename, tuple(linecache.getlines(code.co_filename, names)))
    node = definitions.get((code.co_name, code.co_firstlineno))
    if node is None:
        raise Unsupported(f"no source of {code.co_name}")
    return node


@lru_cache(maxsize=64)
def _definitions(filename: str, lines: tuple[str, ...]) -> dict[tuple[str, int], Definition]:
    """Functions by name and first line, which may be a decorator's."""
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return {}
    return {
        (node.name, min([node.lineno, *(mark.lineno for mark in node.decorator_list)])): node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def names_of(function: FunctionType) -> dict[str, Any]:
    """Names that a function sees from outside: its module's and its closure's."""
    names = function.__code__.co_freevars
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {**function.__globals__, **dict(zip(names, cells, strict=True))}


def parameters_of(function: FunctionType) -> list[Any]:
    """For each parameter the NamedTuple class that annotates it, or None: a word."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    kinds = (function.__annotations__.get(name) for name in names)
    return [kind if hasattr(kind, "_fields") else None for kind in kinds]


def n_words(function: FunctionType) -> int:
    """Return how many integers a function takes, counting each field of NamedTuples."""
    return sum(1 if kind is None else len(kind._fields) for kind in parameters_of(function))


def is_entry(function: FunctionType) -> bool:
    """Return True if Python calls a function with objects: it returns a float or a bool."""
    return function.__annotations__.get("return") in (float, bool)


def integers_of(function: FunctionType) -> list[bool]:
    """For each argument of an entry True for an integer, False for an array."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return [function.__annotations__[name] is int for name in names]


def grouped(function: FunctionType, words: Iterable[Any]) -> tuple[Any, ...]:
    """The arguments of a function with NamedTuples, from their integers."""
    words = iter(words)
    return tuple(
        next(words) if kind is None else kind(*islice(words, len(kind._fields)))
        for kind in parameters_of(function)
    )


def check_shared(node: ast.For, outside: set[str]) -> None:
    """Raise if a `prange` loop assigns an outer name, returns or breaks."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id in outside:
            raise Unsupported(f"a prange loop assigns {part.id!r}, a name of outside")
        if isinstance(part, ast.Return):
            raise Unsupported("a prange loop returns")
    for part in _own_statements(node.body):
        if isinstance(part, ast.Break):
            raise Unsupported("a prange loop breaks")


def _own_statements(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those in their branches, without inner loops."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If):
            yield from _own_statements(statement.body + statement.orelse)
