"""The vector operations as LLVM IR, emitted at a builder's position."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from llvmlite import ir

from fastmlp.backends.cpu.simd.vector import (
    DEEP,
    LEFT_TILES,
    RIGHT_TILES,
    ROW_BYTES,
    SUM_TILES,
    Scalar,
    TileRegisters,
    VectorAccess,
    Vectors,
)
from fastmlp.compiler.native.operands import (
    add,
    declare,
    emit_fetch,
    entry_alloca,
    is_arm,
    is_pointer,
    pointer_of,
    subtract,
    word_of,
)
from fastmlp.compiler.target import multiplies_pairs

WORD: Any = ir.IntType(64)
LANE: Any = ir.IntType(32)
HALF: Any = ir.IntType(16)


class _BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite lacks:
    it writes a module as text, where a type is its name.
    """

    def _to_string(self) -> str:
        return "bfloat"


BFLOAT16_TYPE = _BFloat16()


class _Word:
    """An integer in a register, with Python's operators.
    Comparisons are signed, divisions not.

    An address on the stack is a pointer: its sums with integers are element pointers.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    def _of(self, value: Any) -> "_Word":
        return _Word(self.builder, value)

    def __add__(self, other: Any) -> "_Word":
        if _is(other, 0):
            return self
        return self._of(add(self.builder, self.value, _register(other)))

    __radd__ = __add__

    def __sub__(self, other: Any) -> "_Word":
        return self._of(subtract(self.builder, self.value, _register(other)))

    def __rsub__(self, other: Any) -> "_Word":
        return self._of(subtract(self.builder, _register(other), self.value))

    def __mul__(self, other: Any) -> "_Word":
        return (
            self
            if _is(other, 1)
            else self._of(self.builder.mul(self.value, _register(other)))
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> "_Word":
        return self._of(self.builder.udiv(self.value, _register(other)))

    def __mod__(self, other: Any) -> "_Word":
        return self._of(self.builder.urem(self.value, _register(other)))

    def __lt__(self, other: Any) -> Any:
        return self._compared("<", other)

    def __le__(self, other: Any) -> Any:
        return self._compared("<=", other)

    def __gt__(self, other: Any) -> Any:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> Any:
        return self._compared(">=", other)

    def _compared(self, sign: str, other: Any) -> Any:
        words = (word_of(self.builder, each) for each in (self.value, _register(other)))
        return self.builder.icmp_signed(sign, *words)


def _is(word: Any, number: int) -> bool:
    return isinstance(word, int) and word == number


def _register(word: Any) -> Any:
    return ir.Constant(WORD, word) if isinstance(word, int) else word.value


class _Vector:
    """A vector in a register, with Python's operators."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    def __add__(self, other: "_Vector") -> "_Vector":
        return _Vector(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: "_Vector") -> "_Vector":
        return _Vector(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: "_Vector") -> "_Vector":
        return _Vector(self.builder, self.builder.fmul(self.value, other.value))

    def __lt__(self, other: "_Vector") -> Any:
        return self.builder.fcmp_ordered("<", self.value, other.value)

    def __gt__(self, other: "_Vector") -> Any:
        return self.builder.fcmp_ordered(">", self.value, other.value)


class LLVMVariable:
    """A vector on the stack, which LLVM promotes to a register."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.place = builder, entry_alloca(builder, value.value.type)
        self.value = value

    @property
    def value(self) -> Any:
        return _Vector(self.builder, self.builder.load(self.place))

    @value.setter
    def value(self, value: Any) -> None:
        self.builder.store(value.value, self.place)


class LLVMTileRegisters(TileRegisters):
    """Emits AMX's instructions; the compiler assumes nothing of memory across each."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def _call(self, name: str, *operands: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        function = declare(self.builder, f"llvm.x86.{name}", kind)
        self.builder.call(function, operands)

    def _register(self, number: int) -> Any:
        return ir.Constant(ir.IntType(8), number)

    def _place(self, address: Any) -> Any:
        return pointer_of(self.builder, address.value)

    def configure(self, rows: Any) -> None:
        builder = self.builder
        words = ir.ArrayType(ir.IntType(64), 8)
        place = entry_alloca(builder, words)
        for i, word in enumerate(_configuration(rows)):
            value = (
                ir.Constant(words.element, word)
                if isinstance(word, int)
                else word.value
            )
            at = [ir.Constant(LANE, 0), ir.Constant(LANE, i)]
            to = builder.gep(place, at, inbounds=True, source_etype=words)
            builder.store(value, to)
        self._call("ldtilecfg", place)

    def release(self) -> None:
        self._call("tilerelease")

    def load(self, register: int, address: Any, stride: Any) -> None:
        self._move("tileloadd64", register, address, stride)

    def store(self, register: int, address: Any, stride: Any) -> None:
        self._move("tilestored64", register, address, stride)

    def _move(self, name: str, register: int, address: Any, stride: Any) -> None:
        step = (
            ir.Constant(ir.IntType(64), stride)
            if isinstance(stride, int)
            else stride.value
        )
        self._call(name, self._register(register), self._place(address), step)

    def multiply(self, sums: int, left: int, right: int) -> None:
        self._call("tdpbf16ps", *map(self._register, (sums, left, right)))


def _configuration(rows: Any) -> list[Any]:
    """The 64 bytes that describe the registers, as words: the table of shapes, then
    bytes of a row of each register, 16 bits each, and rows of each, 8 bits each.
    """
    widths = sum(ROW_BYTES << 16 * i for i in range(4))
    ones = sum(1 << 8 * i for i in (*SUM_TILES, *LEFT_TILES))
    fixed = sum(DEEP << 8 * i for i in RIGHT_TILES)
    return [1, 0, widths, widths, 0, 0, rows * ones + fixed, 0]


class LLVMVectors(Vectors):
    """Emits operations at the builder's position.
    LLVM splits vectors on a host with narrower registers.
    """

    def __init__(self, builder: Any, scalar: Scalar, lanes: int) -> None:
        super().__init__(scalar, lanes)
        self.builder = builder
        self.kind: Any = ir.VectorType(
            ir.FloatType() if self.size == 4 else ir.DoubleType(), lanes
        )
        self.zero: Any = self._vector(ir.Constant(self.kind, None))

    def of_lanes(self, lanes: int) -> Self:
        return type(self)(self.builder, self.scalar, lanes)

    def tile_registers(self) -> LLVMTileRegisters:
        return LLVMTileRegisters(self.builder)

    def argument(self, value: Any) -> Any:
        """An argument of a function being built as a word,
        or as a NamedTuple of words.
        """
        if isinstance(value, tuple):
            return type(value)(*map(self.argument, value))
        return _Word(self.builder, value)

    def _pointer(self, address: Any) -> Any:
        return pointer_of(self.builder, address.value)

    def _loaded(self, address: Any, kind: Any, align: int | None = None) -> Any:
        return self.builder.load(self._pointer(address), align=align, typ=kind)

    def _vector(self, value: Any) -> Any:
        return _Vector(self.builder, value)

    def load(self, address: Any) -> Any:
        return self._vector(self._loaded(address, self.kind, self.size))

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value.value, self._pointer(address), align=self.size)

    def store_non_temporal(self, value: Any, address: Any) -> None:
        place = self._pointer(address)
        store = self.builder.store(value.value, place, align=self.bytes)
        once = self.builder.module.add_metadata([ir.Constant(LANE, 1)])
        store.set_metadata("nontemporal", once)

    def load_masked(self, address: Any, mask: Any) -> Any:
        pointer = self._pointer(address)
        zeros = ir.Constant(self.kind, None)
        operands = [pointer, ir.Constant(LANE, self.size), mask, zeros]
        return self._vector(self._masked("load", self.kind, operands))

    def store_masked(self, value: Any, address: Any, mask: Any) -> None:
        pointer = self._pointer(address)
        operands = [value.value, pointer, ir.Constant(LANE, self.size), mask]
        self._masked("store", ir.VoidType(), operands)

    def _masked(self, verb: str, result: Any, operands: list[Any]) -> Any:
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        name = f"llvm.masked.{verb}.v{self.lanes}f{8 * self.size}.p0"
        function = declare(self.builder, name, kind)
        return self.builder.call(function, operands)

    def store_lane(self, value: Any, address: Any) -> None:
        number = self.builder.extract_element(value.value, LANE(0))
        self.builder.store(number, self._pointer(address))

    def broadcast(self, address: Any) -> Any:
        number = self._loaded(address, self.kind.element, self.size)
        return self._vector(self._everywhere(number, self.kind))

    def _everywhere(self, number: Any, kind: Any) -> Any:
        empty = ir.Constant(kind, ir.Undefined)
        nowhere = [0] * kind.count
        first_lane = self.builder.insert_element(empty, number, LANE(0))
        places = ir.Constant(ir.VectorType(LANE, kind.count), nowhere)
        return self.builder.shuffle_vector(first_lane, first_lane, places)

    def word(self, address: Any) -> Any:
        return _Word(self.builder, self._loaded(address, WORD))

    def int32(self, address: Any) -> Any:
        number = self._loaded(address, LANE)
        return _Word(self.builder, self.builder.sext(number, WORD))

    def scratch(self, n: int) -> Any:
        place = entry_alloca(self.builder, ir.ArrayType(self.kind, n))
        return _Word(self.builder, place)

    def prefetch(self, address: Any) -> None:
        emit_fetch(self.builder, address.value)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.kind, [self.kind] * 3)
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        function = declare(self.builder, name, kind)
        return self._vector(self.builder.call(function, [a.value, b.value, c.value]))

    def add_pairs(self, a: Any, b: Any, c: Any) -> Any:
        if not multiplies_pairs() or self.bytes < 32:
            (a_low, a_high), (b_low, b_high) = self._of_pairs(a), self._of_pairs(b)
            return self.fma(a_low, b_low, self.fma(a_high, b_high, c))
        return self._multiplied(
            f"llvm.x86.avx512bf16.dpbf16ps.{8 * self.bytes}", a, b, c
        )

    def add_matrices(self, a: Any, b: Any, c: Any) -> Any:
        return self._multiplied("llvm.aarch64.neon.bfmmla", a, b, c)

    def _multiplied(self, name: str, a: Any, b: Any, c: Any) -> Any:
        """The instruction of this name for c and vectors of pairs."""
        pairs = ir.VectorType(BFLOAT16_TYPE, 2 * self.lanes)
        kind = ir.FunctionType(self.kind, [self.kind, pairs, pairs])
        function = declare(self.builder, name, kind)
        factors = [self.builder.bitcast(vector.value, pairs) for vector in (a, b)]
        return self._vector(self.builder.call(function, [c.value, *factors]))

    def _of_pairs(self, pairs: Any) -> tuple[Any, Any]:
        """The first number of each pair, and the second, as float32."""
        builder = self.builder
        ints = ir.VectorType(LANE, self.lanes)
        bits = builder.bitcast(pairs.value, ints)
        half = ir.Constant(ints, [16] * self.lanes)
        high = builder.shl(builder.lshr(bits, half), half)
        both = (
            builder.bitcast(part, self.kind) for part in (builder.shl(bits, half), high)
        )
        first, second = map(self._vector, both)
        return first, second

    def rounded(self, a: Any, b: Any) -> Any:
        if multiplies_pairs() and self.bytes == 64:
            pairs = ir.VectorType(BFLOAT16_TYPE, 2 * self.lanes)
            kind = ir.FunctionType(pairs, [self.kind] * 2)
            name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
            function = declare(self.builder, name, kind)
            return self._in_floats(self.builder.call(function, [b.value, a.value]))
        both = [self._upper_bits(vector) for vector in (a, b)]
        places = ir.Constant(
            ir.VectorType(LANE, 2 * self.lanes), list(range(2 * self.lanes))
        )
        return self._in_floats(self.builder.shuffle_vector(*both, places))

    def _in_floats(self, pairs: Any) -> Any:
        return self._vector(self.builder.bitcast(pairs, self.kind))

    def _upper_bits(self, value: Any) -> Any:
        """Numbers rounded to bfloat16, as 16 bits each."""
        builder = self.builder
        ints = ir.VectorType(LANE, self.lanes)

        def const(number: int) -> Any:
            return ir.Constant(ints, [number] * self.lanes)

        bits = builder.bitcast(value.value, ints)
        none = const(0)
        last = builder.and_(builder.lshr(bits, const(16)), const(1))
        nearest = builder.add(builder.add(bits, const(0x7FFF)), last)
        exponent = builder.and_(bits, const(0x7F800000))
        subnormal = builder.icmp_signed("==", exponent, none)
        sign = builder.and_(bits, const(-0x80000000))
        nearest = builder.select(subnormal, sign, nearest)
        is_nan = builder.fcmp_unordered("uno", value.value, value.value)
        nearest = builder.select(is_nan, builder.or_(bits, const(0x400000)), nearest)
        upper = builder.lshr(nearest, const(16))
        return builder.trunc(upper, ir.VectorType(HALF, self.lanes))

    def mixed(self, pairs: Any, places: Sequence[int]) -> Any:
        numbers = self.builder.bitcast(pairs.value, ir.VectorType(HALF, 2 * self.lanes))
        chosen = ir.Constant(ir.VectorType(LANE, len(places)), list(places))
        return self._in_floats(self.builder.shuffle_vector(numbers, numbers, chosen))

    def first(self, n: Any) -> Any:
        ints = ir.VectorType(LANE, self.lanes)
        limits = self._everywhere(self.builder.trunc(_register(n), LANE), ints)
        return self.builder.icmp_signed(
            "<", ir.Constant(ints, list(range(self.lanes))), limits
        )

    def equal(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("==", a.value, _register(b))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return self._vector(self.builder.select(condition, a.value, b.value))

    def choose(self, condition: Any, a: Any, b: Any) -> Any:
        values = [_register(a), _register(b)]
        if any(map(is_pointer, values)):
            values = [pointer_of(self.builder, value) for value in values]
        return _Word(self.builder, self.builder.select(condition, *values))

    def shuffle(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        chosen = ir.Constant(ir.VectorType(LANE, len(places)), list(places))
        return self._vector(self.builder.shuffle_vector(a.value, b.value, chosen))

    def opaque(self, value: Any) -> Any:
        kind = ir.FunctionType(self.kind, [self.kind])
        register = "w" if is_arm(self.builder) else "v"
        same = self.builder.asm(
            kind, "", f"={register},0", [value.value], side_effect=False
        )
        return self._vector(same)

    def range(self, first: Any, last: Any = None) -> Iterator[Any]:
        builder = self.builder
        (first, last) = (0, first) if last is None else (first, last)
        begin = _register(first)
        end = _register(last)
        before = builder.block
        body, after = (builder.append_basic_block(name) for name in ("body", "after"))
        # The test at the end is for inequality:
        # then LLVM keeps one count for the whole loop.
        builder.cbranch(builder.icmp_signed("<", begin, end), body, after)
        builder.position_at_end(body)
        count = builder.phi(WORD)
        count.add_incoming(begin, before)
        yield _Word(builder, count)
        more = builder.add(count, WORD(1), flags=("nuw", "nsw"))
        count.add_incoming(more, builder.block)
        builder.cbranch(builder.icmp_signed("!=", more, end), body, after)
        builder.position_at_end(after)

    def parts(self, n: Any) -> Iterator[tuple[Any, VectorAccess]]:
        whole = n // self.lanes
        rest = n % self.lanes
        mask = self.first(rest)
        for index in self.range(whole):
            yield index, VectorAccess(self.load, self.store)
        with self.builder.if_then(rest > 0, likely=True):
            yield (
                whole,
                VectorAccess(
                    lambda address: self.load_masked(address, mask),
                    lambda value, address: self.store_masked(value, address, mask),
                ),
            )

    def when(
        self, condition: Any, then: Callable[[], None], likely: bool = False
    ) -> None:
        with self.builder.if_then(condition, likely=likely or None):
            then()

    def either(
        self, condition: Any, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        with self.builder.if_else(condition, likely=True) as blocks:
            for block, emit in zip(blocks, (then, otherwise), strict=True):
                with block:
                    emit()

    def switch(self, word: Any, cases: Mapping[int, Callable[[], None]]) -> None:
        builder = self.builder
        after = self.builder.append_basic_block("after")
        blocks = [builder.append_basic_block(f"case.{number}") for number in cases]
        choice = builder.switch(word.value, blocks[0])
        for (number, emit), block in zip(cases.items(), blocks, strict=True):
            if block is not blocks[0]:
                choice.add_case(ir.Constant(WORD, number), block)
            builder.position_at_end(block)
            emit()
            builder.branch(after)
        builder.position_at_end(after)

    def variable(self, value: Any) -> Any:
        return LLVMVariable(self.builder, value)
