"""Functions of kernels: `njit`, `prange`, calls, source, hints; the compiler's choice.

Stored code needs neither Numba nor LLVM: nothing here imports them. Functions with two
bodies, Python and LLVM IR, have the Python body here, so kernels run uncompiled too;
`native.operands` has the other.

Two compilers take a `prange` loop. The translator turns its body into a function of
(names that it reads, first, last, thread) for the team at the address `team`, the
kernel's first argument. Numba runs the loop on Numba's threads.
"""

import ast
import ctypes
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import FunctionType, MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, overload

Function = TypeVar("Function", bound=Callable[..., Any])


def setting(name: str, default: Any = None) -> Any:
    """A setting of Numba's: its present value if Numba is imported,
    else the environment's NUMBA_...

    The result has the default's type, or is a str.
    """
    config = sys.modules.get("numba.core.config")
    if hasattr(config, name):
        return getattr(config, name)
    text = os.environ.get(name if name.startswith("NUMBA_") else f"NUMBA_{name}")
    try:
        if text is None:
            return default
        return (str if default is None else type(default))(text)
    except ValueError:  # Numba ignores it too
        return default


def chosen_compiler(asked: str) -> Literal["translator", "numba"]:
    if asked not in ("", "translator", "numba"):
        raise ValueError(
            f"FASTMLP_COMPILER must be 'translator' or 'numba', not {asked!r}"
        )
    return "numba" if asked == "numba" else "translator"


INTERPRETED = bool(setting("DISABLE_JIT", 0))
COMPILER = chosen_compiler(os.environ.get("FASTMLP_COMPILER", ""))
# How Numba compiles a marked function: as a function,
# with its `prange` loops on Numba's threads, or inlined where it is called.
Mark = Literal["function", "parallel", "inlined"]
_MARK = "fastmlp_mark"


@overload
def njit(function: Function) -> Function: ...
@overload
def njit(*, parallel: bool) -> Callable[[Function], Function]: ...
def njit(function: Any = None, *, parallel: bool = False) -> Any:
    """Mark a kernel, or a function that kernels call:
    the translator and Numba may compile it.

    A `parallel` kernel shares its `prange` loops among threads. The first argument is
    `team`: the address of the team's record, or 0 if the calling thread works alone.
    """
    return _marked("parallel" if parallel else "function", function)


def inlined(function: Function) -> Function:
    """Mark a function that Numba inlines:
    a loop with a call in it does not vectorise.
    """
    marked: Function = _marked("inlined", function)
    return marked


def _marked(mark: Mark, function: Any) -> Any:
    def put(function: Function) -> Function:
        function.__dict__[_MARK] = mark
        return function

    return put if function is None else put(function)


def mark_of(function: Any) -> Mark | None:
    mark: Mark | None = getattr(function, _MARK, None)
    return mark


class Emitted(NamedTuple):
    """The compiled form of a function.

    Attributes
    ----------
    generate : callable of an LLVM builder and values, or NamedTuples of values; returns a value
    result : dtype of the result, the number of the argument whose dtype it has, or None
    constant : the arguments are integers that are known when compiling
    alike : all arguments must be floats of one dtype
    """

    generate: Callable[..., Any]
    result: Any
    constant: bool
    alike: bool


EMITTED: dict[Any, Emitted] = {}


def emitted(
    function: Callable[..., Any],
    result: Any = None,
    *,
    constant: bool = False,
    alike: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the compiled form of a function, for both compilers."""

    def register(generate: Callable[..., Any]) -> Callable[..., Any]:
        EMITTED[function] = Emitted(generate, result, constant, alike)
        return generate

    return register


class prange:
    """A range whose iterations a team of threads may share,
    in a kernel with an argument `team`.
    """

    def __new__(cls, *limits: Any) -> Any:
        return range(*limits)


def call(address: Any, arguments: Any) -> None:
    """Call the block at `address` with a tuple of integers,
    and of NamedTuples of integers.
    """
    interpreted[address](*flatten(arguments))


# Blocks by their addresses, uncompiled. The address 0 stands for a missing block.
interpreted: list[Any] = [None]


def flatten(arguments: tuple[Any, ...]) -> list[Any]:
    parts = (flatten(item) if isinstance(item, tuple) else [item] for item in arguments)
    return [word for part in parts for word in part]


def fma(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once (uncompiled: twice)."""
    return a * b + c


def flush_denormals() -> int:
    """Flush denormals in this thread, and return the previous mode."""
    return 0


def restore_denormals(mode: Any) -> None:
    """Restore the mode that `flush_denormals` returned."""


def pause() -> None:
    """Pause for some tens of cycles (140 on recent Intel cores)."""


# Fields of a `bitgen_t`: the state, and the function that draws 32 bits.
STATE, DRAW = 0, 2


def next_word(generator: Any) -> Any:
    """Return the next 32 random bits, by the address of a `bitgen_t`."""
    fields = (ctypes.c_int64 * (DRAW + 1)).from_address(int(generator))
    draw = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)(fields[DRAW])
    return draw(fields[STATE])


ShareLoop = Callable[[Any, Any, Any, Any], None]


_runtime: list[ShareLoop] = []


def runtime(share_loop: ShareLoop) -> ShareLoop:
    """Register the function that a translated loop calls:
    ``(team, body, n, environment)``.
    """
    _runtime[:] = [share_loop]
    return share_loop


def share_loop() -> Any:
    return _runtime[0]


def thread_number() -> Any:
    """The number of the thread that runs an iteration of a `prange` loop,
    from 0; 0 outside.

    Each thread of a loop may have separate buffers.
    """
    return 0


class Unsupported(Exception):
    """Code outside the translator's subset; Numba compiles it."""

    def at(self, filename: str, line: int) -> "Unsupported":
        """Return the exception with a place in the source, unless it has one."""
        if len(self.args) > 1:
            return self
        return type(self)(self.args[0], f"{filename}:{line}")

    def __str__(self) -> str:
        return ", at ".join(map(str, self.args))


class NoSource(Unsupported):
    """A function without a source, as in a frozen program: Numba takes its bytecode."""


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
    code = function.__code__
    names = function.__globals__
    definitions = _definitions(
        code.co_filename, tuple(linecache.getlines(code.co_filename, names))
    )
    node = definitions.get((code.co_name, code.co_firstlineno))
    if node is None:
        raise NoSource(f"no source of {code.co_name}")
    return node


@lru_cache(maxsize=64)
def _definitions(
    filename: str, lines: tuple[str, ...]
) -> dict[tuple[str, int], Definition]:
    """Functions by name and first line, which may be a decorator's."""
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return {}
    definitions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
            definitions[node.name, first] = node
    return definitions


def names_of(function: FunctionType) -> dict[str, Any]:
    """Names that a function sees from outside: its module's and its closure's."""
    names = function.__code__.co_freevars
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {**function.__globals__, **dict(zip(names, cells, strict=True))}


def argument_kinds(function: FunctionType) -> list[Any]:
    """For each parameter the NamedTuple class that annotates it, or None: a word."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    kinds = (function.__annotations__.get(name) for name in names)
    return [kind if hasattr(kind, "_fields") else None for kind in kinds]


def n_words(function: FunctionType) -> int:
    """Return how many integers a function takes, counting each field of NamedTuples."""
    return sum(
        1 if kind is None else len(kind._fields) for kind in argument_kinds(function)
    )


def is_entry(function: FunctionType) -> bool:
    """Return True if Python calls a function with objects:
    it returns a float or a bool.
    """
    return function.__annotations__.get("return") in (float, bool)


def integers_of(function: FunctionType) -> list[bool]:
    """For each argument of an entry True for an integer, False for an array."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return [function.__annotations__[name] is int for name in names]


def group_words(function: FunctionType, words: Iterable[Any]) -> tuple[Any, ...]:
    """The arguments of a function with NamedTuples, from their integers."""
    words = iter(words)
    return tuple(
        next(words) if kind is None else kind(*islice(words, len(kind._fields)))
        for kind in argument_kinds(function)
    )


def check_shared(node: ast.For, outside: set[str]) -> None:
    """Raise if a `prange` loop assigns an outer name, returns or breaks."""
    for part in ast.walk(node):
        if (
            isinstance(part, ast.Name)
            and isinstance(part.ctx, ast.Store)
            and part.id in outside
        ):
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
