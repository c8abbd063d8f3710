"""Loads, stores, masks and shuffles of whole vectors: what moves are emitted with, as LLVM IR."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

WORD, LANE, BIT = ir.IntType(64), ir.IntType(32), ir.IntType(1)


class Vectors:
    """Loads, stores and masks of vectors by address."""

    def __init__(self, builder: Any, lanes: int, size: int) -> None:
        self.builder, self.lanes, self.size = builder, lanes, size
        self.bytes = lanes * size
        self.kind = ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes)
        self.bits = ir.VectorType(BIT, lanes)
        self.zero = ir.Constant(self.kind, None)

    def number(self, n: int) -> Any:
        return ir.Constant(WORD, n)

    def at(self, address: Any, offset: int = 0) -> Any:
        place = self.builder.add(address, self.number(offset)) if offset else address
        return self.builder.inttoptr(place, self.kind.as_pointer())

    def load(self, address: Any, offset: int = 0) -> Any:
        return self.builder.load(self.at(address, offset), align=self.size)

    def store(self, value: Any, address: Any, offset: int = 0) -> None:
        self.builder.store(value, self.at(address, offset), align=self.size)

    def stream(self, value: Any, address: Any, offset: int = 0) -> None:
        """Store to a whole vector's boundary, past the caches: a `fence` puts it in order."""
        store = self.builder.store(value, self.at(address, offset), align=self.bytes)
        once = self.builder.module.add_metadata([ir.Constant(LANE, 1)])
        store.set_metadata("nontemporal", once)

    def first(self, n: Any) -> Any:
        """A mask of the first n lanes."""
        builder, ints = self.builder, ir.VectorType(LANE, self.lanes)
        one = builder.insert_element(
            ir.Constant(ints, ir.Undefined), builder.trunc(n, LANE), ir.Constant(LANE, 0)
        )
        n_everywhere = builder.shuffle_vector(one, one, ir.Constant(ints, [0] * self.lanes))
        return builder.icmp_signed("<", ir.Constant(ints, list(range(self.lanes))), n_everywhere)

    def everywhere(self, address: Any, offset: int) -> Any:
        """The number at an address, in every lane."""
        place = self.builder.add(address, self.number(offset))
        pointer = self.builder.inttoptr(place, self.kind.element.as_pointer())
        return self.splat(self.builder.load(pointer, align=self.size))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once."""
        kind = ir.FunctionType(self.kind, [self.kind] * 3)
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def splat(self, number: Any) -> Any:
        """A vector of one number."""
        empty = ir.Constant(self.kind, ir.Undefined)
        one = self.builder.insert_element(empty, number, ir.Constant(LANE, 0))
        nowhere = ir.Constant(ir.VectorType(LANE, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, one, nowhere)

    def summed(self, vector: Any) -> Any:
        """The sum of a vector's numbers, in every lane: halves, quarters, ... added."""
        builder, half = self.builder, self.lanes // 2
        while half:
            order = [(j + half) % self.lanes for j in range(self.lanes)]
            places = ir.Constant(ir.VectorType(LANE, self.lanes), order)
            vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, places))
            half //= 2
        return vector

    def masked_load(self, address: Any, mask: Any) -> Any:
        pointer = self.at(address)
        kind = ir.FunctionType(self.kind, [pointer.type, LANE, self.bits, self.kind])
        load = self.function("load", kind)
        align = ir.Constant(LANE, self.size)
        return self.builder.call(load, [pointer, align, mask, self.zero])

    def masked_store(self, value: Any, address: Any, mask: Any) -> None:
        pointer = self.at(address)
        kind = ir.FunctionType(ir.VoidType(), [self.kind, pointer.type, LANE, self.bits])
        store = self.function("store", kind)
        self.builder.call(store, [value, pointer, ir.Constant(LANE, self.size), mask])

    def function(self, verb: str, kind: Any) -> Any:
        name = f"llvm.masked.{verb}.v{self.lanes}f{8 * self.size}.p0"
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def parts(self, width: Any) -> tuple[Any, Any]:
        """How many whole vectors there are in a row, and how many numbers are left."""
        lanes = self.number(self.lanes)
        return self.builder.udiv(width, lanes), self.builder.urem(width, lanes)

    def ceil(self, n: Any) -> Any:
        """How many vectors hold n numbers."""
        lanes = self.number(self.lanes)
        return self.builder.udiv(self.builder.add(n, self.number(self.lanes - 1)), lanes)
