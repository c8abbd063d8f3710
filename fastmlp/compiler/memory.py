"""Memory at an address: records, views, words that threads share, a call's stack.

Kernels run uncompiled too: the Python bodies are here, `native.operands` has the LLVM
IR. A record is a class with annotated fields, which define a dtype: `int` is an int64,
a count or an address; `float` is a float64. Python makes a table with
``np.zeros(n, Net.dtype)``; a kernel reads it at its address.
"""

import ctypes
import inspect
import sys
import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np


def row(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as a view, an array over that memory.

    Loops over such views, indexed from 0 by a range, vectorise.
    Loops over one flat array with an offset do not: 3x slower on a 16-64-64-2 net.
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
    """Return the address of `n_bytes` on the stack of the calling block;
    n_bytes is a constant.

    Call it in the block itself:
    memory of a function that the block calls may be freed on return.
    """
    # A block may call it twice: each call's place has separate memory.
    caller: Any = sys._getframe(1)
    taken: dict[Any, Any] = _stacks.__dict__
    place = caller.f_code, caller.f_lasti, n_bytes
    if place not in taken:
        taken[place] = np.zeros(n_bytes, np.uint8)
    return int(taken[place].ctypes.data)


FIELD_DTYPES: dict[Any, Any] = {
    int: np.int64,
    float: np.float64,
    "int": np.int64,
    "float": np.float64,
}


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
        fields = [
            (field, FIELD_DTYPES[kind])
            for field, kind in inspect.get_annotations(cls).items()
        ]
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
    """Order all earlier writes of this thread, non-temporal ones included,
    before later writes; `store_release` alone does not order non-temporal stores.
    """
