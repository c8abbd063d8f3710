"""Records as classes: their dtype, and how kernels read them, compiled and not."""

from typing import Any

import numba
import numpy as np
import pytest

from fastmlp.compiler import INTERPRETED, Record, njit, record_at, records_at
from fastmlp.compiler.blocks import NativeCode


class Piece(Record):
    """A record of three fields."""

    first: int
    weight: float
    last: int


def double(address: Any, n: Any) -> None:
    """Write to fields by both ways."""
    pieces = records_at(address, n, Piece)
    for i in range(n):
        pieces[i].last = 2 * pieces[i].first
        record_at(address + i * 24, Piece).weight = pieces[i].last * 0.25


def table() -> Any:
    pieces = np.zeros(3, Piece.dtype)
    pieces["first"] = 1, 2, 3
    return pieces


def test_the_dtype_is_that_of_the_annotations() -> None:
    assert Piece.dtype.names == ("first", "weight", "last")
    assert [str(Piece.dtype[name]) for name in Piece.dtype.names] == ["int64", "float64", "int64"]
    assert Piece.size == Piece.dtype.itemsize == 24


def test_an_annotation_of_another_kind_is_an_error() -> None:
    with pytest.raises(KeyError):

        class Wrong(Record):
            name: str


def test_records_are_live_uncompiled() -> None:
    pieces = table()
    double(pieces.ctypes.data, 3)
    assert pieces["last"].tolist() == [2, 4, 6]
    assert pieces["weight"].tolist() == [0.5, 1.0, 1.5]


@pytest.mark.skipif(INTERPRETED, reason="with the JIT off nothing is compiled")
@pytest.mark.parametrize("compiler", ["translator", "numba"])
def test_both_compilers_read_and_write_fields(compiler: str) -> None:
    pieces, expected = table(), table()
    double(expected.ctypes.data, 3)
    entry: Any = numba.njit(double)
    if compiler == "translator":
        entry = NativeCode(double, None, light=True).entry  # type: ignore[arg-type]
    entry(pieces.ctypes.data, 3)
    np.testing.assert_array_equal(pieces, expected)


@pytest.mark.skipif(INTERPRETED, reason="with the JIT off nothing is compiled")
def test_a_function_takes_a_record() -> None:
    @njit
    def total(piece: Any) -> Any:
        return piece.first + piece.weight

    def add(address: Any) -> None:
        piece = record_at(address, Piece)
        piece.weight = total(piece)

    pieces = table()
    NativeCode(add, None, light=True).entry(pieces[1:].ctypes.data)  # type: ignore[arg-type]
    assert pieces["weight"].tolist() == [0.0, 2.0, 0.0]
