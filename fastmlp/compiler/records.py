"""Records that kernels read: classes with annotated fields, which define a dtype.

A field annotated `int` is an int64, a count or an address; a field annotated `float` is a float64.
Python makes a table with ``np.zeros(n, Net.dtype)``; a kernel reads it at its address.
"""

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import typeof_impl

from fastmlp.compiler.intrinsics import emitted
from fastmlp.compiler.memory import row, view_of

NUMBERS: dict[Any, Any] = {int: np.int64, float: np.float64, "int": np.int64, "float": np.float64}


class RecordType(type):
    """The metaclass of records, which makes their dtype.

    Attributes
    ----------
    dtype : np.dtype of a record with these fields
    size : int, the bytes of a record
    """

    dtype: np.dtype[Any]
    size: int

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        fields = [(field, NUMBERS[kind]) for field, kind in inspect.get_annotations(cls).items()]
        cls.dtype = np.dtype((np.record, fields))
        cls.size = cls.dtype.itemsize


class Record(metaclass=RecordType):
    """The base class of records. It is never instantiated: kernels read NumPy's records."""


R = TypeVar("R", bound=Record)


def record_at(address: Any, kind: type[R]) -> R:
    """Return the record at `address`, live."""
    return records_at(address, 1, kind)[0]


def records_at(address: Any, n: Any, kind: type[R]) -> Sequence[R]:
    """Return the n records at `address`, live."""
    found: Sequence[R] = row(address, n, kind.dtype)
    return found


@typeof_impl.register(RecordType)
def _typeof(kind: RecordType, context: Any) -> Any:
    return types.DType(from_dtype(kind.dtype))


@emitted(records_at)
def _records_at(typing_context: Any, address: Any, n: Any, kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return view_of(context, builder, signature.return_type, arguments[0], arguments[1:2])

    return types.Array(kind.dtype, 1, "C")(types.intp, types.intp, kind), generate


@emitted(record_at)
def _record_at(typing_context: Any, address: Any, kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer: ir.Type = context.get_value_type(signature.return_type)
        return builder.inttoptr(arguments[0], pointer)

    return kind.dtype(types.intp, kind), generate
