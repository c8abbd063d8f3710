"""Functions with two bodies, Python and LLVM IR: records and views at an address, atomics, others.

The Python body is here, so kernels run uncompiled too; `native.operands` has the other. A record is
a class with annotated fields, which define a dtype: `int` is an int64, a count or an address;
`float` is a float64. Python makes a table with ``np.zeros(n, Net.dtype)``; a kernel reads it at its
address.

Two compilers take a `prange` loop. The translator turns its body into a function of (names that it
reads, first, last, thread) for the team at the address `team`, the kernel's first argument. Numba
runs the loop on Numba's threads.
"""

import ctypes
import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np


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
    function: Callable[..., Any], result: Any = None, *, constant: bool = False, alike: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the compiled form of a function, for both compilers."""

    def register(generate: Callable[..., Any]) -> Callable[..., Any]:
        EMITTED[function] = Emitted(generate, result, constant, alike)
        return generate

    return register


class prange:
    """A range whose iterations a team of threads may share, in a kernel with an argument `team`."""

    def __new__(cls, *limits: Any) -> Any:
        return range(*limits)


def call(address: Any, arguments: Any) -> None:
    """Call the block at `address` with a tuple of integers, and of NamedTuples of integers."""
    interpreted[address](*flattened(arguments))


# Blocks by their addresses, uncompiled. The address 0 stands for a missing block.
interpreted: list[Any] = [None]


def flattened(arguments: tuple[Any, ...]) -> list[Any]:
    parts = (flattened(item) if isinstance(item, tuple) else [item] for item in arguments)
    return [word for part in parts for word in part]


def fma(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once (uncompiled: twice)."""
    return a * b + c


def row(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as a view, an array over that memory.

    Loops over such views, indexed from 0 by a range, vectorise. Loops over one flat array with an
    offset do not: 3x slower on a 16-64-64-2 net.
    """
    kind = np.dtype(dtype)
    memory = (ctypes.c_char * (int(n) * kind.itemsize)).from_address(int(address))
    return np.frombuffer(memory, kind, int(n))


def rows(address: Any, n_rows: Any, width: Any, dtype: Any) -> Any:
    """Return the numbers at `address` as a view of shape (n_rows, width)."""
    return row(address, n_rows * width, dtype).reshape(int(n_rows), int(width))


def coefficients_at(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as a tuple; n must be a constant."""
    return tuple(row(address, n, dtype))


_stacks = threading.local()


def stack(n_bytes: Any) -> Any:
    """Return the address of `n_bytes` on the stack of the calling block; n_bytes is a constant.

    Call it in the block itself: memory of a function that the block calls may be freed on return.
    """
    # A block may call it twice: each call's place has separate memory.
    caller: Any = sys._getframe(1)
    taken: dict[Any, Any] = _stacks.__dict__
    place = caller.f_code, caller.f_lasti, n_bytes
    if place not in taken:
        taken[place] = np.zeros(n_bytes, np.uint8)
    return int(taken[place].ctypes.data)


NUMBERS: dict[Any, Any] = {int: np.int64, float: np.float64, "int": np.int64, "float": np.float64}


class RecordType(type):
    """Makes the dtype of records.

    Attributes
    ----------
    size : the bytes of a record
    """

    dtype: np.dtype[Any]
    size: int

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        fields = [(field, NUMBERS[kind]) for field, kind in inspect.get_annotations(cls).items()]
        cls.dtype = np.dtype((np.record, fields))
        cls.size = cls.dtype.itemsize


class Record(metaclass=RecordType):
    """The base class of records, never instantiated: kernels read NumPy's records."""


R = TypeVar("R", bound=Record)


def record_at(address: Any, kind: type[R]) -> R:
    return records_at(address, 1, kind)[0]


def records_at(address: Any, n: Any, kind: type[R]) -> Sequence[R]:
    records: Sequence[R] = row(address, n, kind.dtype)
    return records


def flush_denormals() -> int:
    """Flush denormals in this thread, and return the previous mode."""
    return 0


def restore_denormals(mode: Any) -> None:
    """Restore the mode that `flush_denormals` returned."""


def load_acquire(address: Any) -> Any:
    """Everything written before the `store_release` is visible after it."""
    return ctypes.c_int64.from_address(int(address)).value


def store_release(address: Any, value: Any) -> None:
    """Earlier writes of this thread become visible before it."""
    ctypes.c_int64.from_address(int(address)).value = int(value)


def fetch_add(address: Any, value: Any) -> Any:
    """Add to the word; return its previous value."""
    word = ctypes.c_int64.from_address(int(address))
    before = word.value
    word.value = before + int(value)
    return before


def exchange_if(address: Any, expected: Any, value: Any) -> Any:
    """Write the word if it has the expected value; return True if it had."""
    word = ctypes.c_int64.from_address(int(address))
    same = word.value == int(expected)
    if same:
        word.value = int(value)
    return same


def fence() -> None:
    """Order all earlier writes of this thread, non-temporal ones included, before later writes;
    `store_release` alone does not order non-temporal stores."""


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
    """Register the function that a translated loop calls: ``(team, body, n, environment)``."""
    _runtime[:] = [share_loop]
    return share_loop


def share_loop() -> Any:
    return _runtime[0]


def thread_number() -> Any:
    """The number of the thread that runs an iteration of a `prange` loop, from 0; 0 outside.

    Each thread of a loop may have separate buffers.
    """
    return 0


def flushed() -> Any:
    """Flush denormals in an iteration that a thread of Numba runs; return its previous mode.

    Translated code does nothing here: a team's threads flush denormals when they enter.
    """
    return 0


def restored(mode: Any) -> None:
    """Restore the mode that `flushed` returned."""
