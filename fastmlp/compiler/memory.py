"""Numbers and records at an address, memory on the stack, and the fused multiply-add.

Each function has a Python body, so kernels run uncompiled too. A record is a class with annotated
fields, which define a dtype: a field annotated `int` is an int64, a count or an address; a field
annotated `float` is a float64. Python makes a table with ``np.zeros(n, Net.dtype)``; a kernel reads
it at its address.
"""

import ctypes
import inspect
import sys
import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import typeof_impl
from numba.np.arrayobj import make_array, populate_array

from fastmlp.compiler.intrinsics import emitted


def fma(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once (uncompiled: twice)."""
    return a * b + c


def row(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as a view, an array that does not own its memory.

    Loops over such views, indexed from 0 by a range, vectorise; the same loops over one flat array
    with an offset added to the index do not, which cost 3x on a 16-64-64-2 net.
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


def entry_alloca(builder: Any, kind: Any) -> Any:
    """Allocate a `kind` on the stack in the entry block of the function that is being built.

    Numba's alloca_once would fill it with zeros, byte by byte, which took 30 s to compile.
    """
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = 64
    return place


_interpreted = threading.local()


def stack(n_bytes: Any) -> Any:
    """Return the address of `n_bytes` on the stack of the calling block; n_bytes is a constant.

    Call it in the block itself: memory of a function that the block calls may be freed on return.
    """
    # A block may call it twice: each place of a call has memory of its own.
    caller: Any = sys._getframe(1)
    taken: dict[Any, Any] = _interpreted.__dict__
    place = caller.f_code, caller.f_lasti, n_bytes
    if place not in taken:
        taken[place] = np.zeros(n_bytes, np.uint8)
    return int(taken[place].ctypes.data)


@emitted(fma)
def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    if not isinstance(a, types.Float) or b != a or c != a:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        signature_of_fma = ir.FunctionType(kind, [kind] * 3)
        function = builder.module.declare_intrinsic("llvm.fma", [kind], signature_of_fma)
        return builder.call(function, arguments)

    return a(a, a, a), generate


@emitted(row)
def _row(typing_context: Any, address: Any, n: Any, dtype: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return view_of(context, builder, signature.return_type, arguments[0], arguments[1:2])

    return types.Array(dtype.dtype, 1, "C")(types.intp, types.intp, dtype), generate


@emitted(rows)
def _rows(typing_context: Any, address: Any, n_rows: Any, width: Any, dtype: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return view_of(context, builder, signature.return_type, arguments[0], arguments[1:3])

    return types.Array(dtype.dtype, 2, "C")(types.intp, types.intp, types.intp, dtype), generate


def view_of(context: Any, builder: Any, kind: Any, address: Any, shape: Any) -> Any:
    """Build a view of this type and shape at the address."""
    array, number = make_array(kind)(context, builder), context.get_data_type(kind.dtype)
    size = cgutils.intp_t(context.get_abi_sizeof(number))
    strides = [size]
    for n in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], n))
    data = builder.inttoptr(address, number.as_pointer())
    populate_array(array, data, list(shape), strides, size, None)
    return array._getvalue()


@emitted(coefficients_at, prefer_literal=True)
def _coefficients_at(typing_context: Any, address: Any, n: Any, dtype: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None
    kind, count = dtype.dtype, n.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())
        numbers = [builder.load(cgutils.gep(builder, pointer, i)) for i in range(count)]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(kind, count)(types.intp, n, dtype), generate


@emitted(stack, prefer_literal=True)
def _stack_of(typing_context: Any, n_bytes: Any) -> Any:
    if not isinstance(n_bytes, types.IntegerLiteral):
        return None
    line = ir.ArrayType(ir.IntType(8), n_bytes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(entry_alloca(builder, line), ir.IntType(64))

    return types.intp(n_bytes), generate


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
    records: Sequence[R] = row(address, n, kind.dtype)
    return records


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
