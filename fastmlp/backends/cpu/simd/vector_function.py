"""Vector loops as functions of words that kernels call;
uncompiled they run on NumPy's arrays.

Uncompiled, words are Python's integers; vectors and masks are arrays.
"""

import builtins
import ctypes
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Self

import numpy as np

from fastmlp.backends.cpu.simd import vector
from fastmlp.compiler.jit import emitted

# A process's first page is empty, and addresses have at most this many bits.
PAGE, ADDRESS_BITS = 4096, 56


@cache
def memory(dtype: np.dtype[Any]) -> Any:
    """All memory from `PAGE` on as one array:
    a slice takes 0.1 us, a view made for an address 1.5.
    """
    everything: Any = (ctypes.c_char * (1 << ADDRESS_BITS)).from_address(PAGE)
    return np.frombuffer(everything, dtype)


INT64, INT32 = np.dtype(np.int64), np.dtype(np.int32)


def sum_to_odd(a: Any, b: Any) -> Any:
    """a + b, rounded to odd as bfmmla does:
    towards 0, and the last bit set if inexact.
    """
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    total = a + b
    # The part that the sum in float64 lacks:
    # it is made odd in that direction, then cut.
    part = total - a
    lack = (a - (total - part)) + (b - part)
    inexact = np.isfinite(total) & (lack != 0) & (total.view(np.uint64) % 2 == 0)
    total = np.where(inexact, np.nextafter(total, np.copysign(np.inf, lack)), total)
    bits = total.view(np.uint64)
    cut = bits & np.uint64((1 << 29) - 1)
    kept = (bits - cut).view(np.float64).astype(np.float32)
    return (kept.view(np.uint32) | (np.isfinite(kept) & (cut != 0))).view(np.float32)


class NumPyVariable:
    def __init__(self, value: Any) -> None:
        self.value = value


class NumPyVectors(vector.Vectors):
    """Computes as `LLVMVectors` emits, but that an fma rounds twice."""

    def __init__(self, scalar: vector.Scalar, lanes: int) -> None:
        super().__init__(scalar, lanes)
        self._zeros = self.zero = np.zeros(lanes, scalar)
        # Shared, as vectors are not changed in place.
        self._zeros.flags.writeable = False
        self._numbers = memory(np.dtype(scalar))
        self._lanes = np.arange(lanes)
        self._scratch: list[Any] = []

    def of_lanes(self, lanes: int) -> Self:
        return type(self)(self.scalar, lanes)

    def tile_registers(self) -> vector.NumPyTileRegisters:
        return vector.NumPyTileRegisters(self)

    def _slice(self, address: Any, n: int) -> Any:
        """A view of n numbers; a vector in a register is a copy of it."""
        first = (address - PAGE) // self.size
        return self._numbers[first : first + n]

    def load(self, address: Any) -> Any:
        return self._slice(address, self.lanes).copy()

    def store(self, value: Any, address: Any) -> None:
        self._slice(address, self.lanes)[:] = value

    def store_non_temporal(self, value: Any, address: Any) -> None:
        self.store(value, address)

    def load_masked(self, address: Any, mask: Any) -> Any:
        value = self._zeros.copy()
        n = int(mask.sum())
        value[:n] = self._slice(address, n)
        return value

    def store_masked(self, value: Any, address: Any, mask: Any) -> None:
        n = int(mask.sum())
        self._slice(address, n)[:] = value[:n]

    def store_lane(self, value: Any, address: Any) -> None:
        self._slice(address, 1)[0] = value[0]

    def broadcast(self, address: Any) -> Any:
        return self._slice(address, 1).repeat(self.lanes)

    def word(self, address: Any) -> Any:
        return int(memory(INT64)[(address - PAGE) // 8])

    def int32(self, address: Any) -> Any:
        return int(memory(INT32)[(address - PAGE) // 4])

    def scratch(self, n: int) -> Any:
        self._scratch.append(np.empty(n * self.lanes, self.scalar))
        return int(self._scratch[-1].ctypes.data)

    def prefetch(self, address: Any) -> None:
        pass

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def add_pairs(self, a: Any, b: Any, c: Any) -> Any:
        (a_low, a_high), (b_low, b_high) = vector.pair_of(a), vector.pair_of(b)
        return a_low * b_low + (a_high * b_high + c)

    def add_matrices(self, a: Any, b: Any, c: Any) -> Any:
        # Two pairs of each row; a product of two bfloat16 is a float32.
        left, right = (
            [half.reshape(2, 2) for half in vector.pair_of(pairs)] for pairs in (a, b)
        )
        low, high = (x[:, None] * y for x, y in zip(left, right, strict=True))
        for pair in sum_to_odd(low, high).reshape(4, 2).T:
            c = sum_to_odd(c, pair)
        return c

    def rounded(self, a: Any, b: Any) -> Any:
        value = np.concatenate((a, b))
        bits = value.view(np.uint32)
        nearest = bits + 0x7FFF + (bits >> 16 & 1)
        nearest = np.where(bits & 0x7F800000, nearest, bits & 0x80000000)
        nearest = np.where(np.isnan(value), bits | 0x400000, nearest)
        return (nearest >> 16).astype(np.uint16).view(self.scalar)

    def mixed(self, pairs: Any, places: Sequence[int]) -> Any:
        return pairs.view(np.uint16)[list(places)].view(self.scalar)

    def first(self, n: Any) -> Any:
        return self._lanes < n

    def equal(self, a: Any, b: Any) -> Any:
        return a == b

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, np.ndarray):
            return np.where(condition, a, b)
        return a if condition else b

    def choose(self, condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    def shuffle(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        return np.concatenate((a, b))[list(places)]

    def opaque(self, value: Any) -> Any:
        return value

    def range(self, first: Any, last: Any = None) -> Iterator[Any]:
        return iter(
            builtins.range(first) if last is None else builtins.range(first, last)
        )

    def parts(self, n: Any) -> Iterator[tuple[Any, vector.VectorAccess]]:
        whole, rest = divmod(n, self.lanes)
        for index in builtins.range(whole):
            yield index, vector.VectorAccess(self.load, self.store)
        if rest:
            mask = self.first(rest)
            yield (
                whole,
                vector.VectorAccess(
                    lambda address: self.load_masked(address, mask),
                    lambda value, address: self.store_masked(value, address, mask),
                ),
            )

    def when(
        self, condition: Any, then: Callable[[], None], likely: bool = False
    ) -> None:
        if condition:
            then()

    def either(
        self, condition: Any, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        then() if condition else otherwise()

    def switch(self, word: Any, cases: Mapping[int, Callable[[], None]]) -> None:
        cases.get(word, next(iter(cases.values())))()

    def variable(self, value: Any) -> Any:
        return NumPyVariable(value)


VectorFunction = Callable[..., None]


def vector_function(
    loop: Callable[..., None], scalar: vector.Scalar, lanes: int
) -> VectorFunction:
    """``loop(v, ...)``, of a `Vectors` and of words, as a function of the words alone.

    An argument may be a NamedTuple of words.
    """
    return _vector_function(loop, np.dtype(scalar), lanes)


@cache
def _vector_function(
    loop: Callable[..., None], dtype: np.dtype[Any], lanes: int
) -> VectorFunction:
    scalar = dtype.type

    def run(*arguments: Any) -> None:
        loop(NumPyVectors(scalar, lanes), *map(_plain, arguments))

    def generate(builder: Any, *values: Any) -> None:
        # Stored code needs no LLVM.
        from fastmlp.backends.cpu.simd.vector_llvm import LLVMVectors

        v = LLVMVectors(builder, scalar, lanes)
        loop(v, *map(v.argument, values))

    signature = inspect.signature(loop)
    run.__name__ = loop.__name__
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values()][1:]
    )
    emitted(run)(generate)
    return run


class Loops:
    """A module's vector loops by their names, as functions of the words alone."""

    def __init__(
        self, module: dict[str, Any], scalar: vector.Scalar, lanes: int
    ) -> None:
        self._module = module
        self._scalar = scalar
        self._lanes = lanes

    def __getattr__(self, name: str) -> VectorFunction:
        return vector_function(self._module[name], self._scalar, self._lanes)


def _plain(argument: Any) -> Any:
    """An argument in Python's integers."""
    words = isinstance(argument, tuple)
    return argument._make(map(int, argument)) if words else int(argument)
