"""Matrices in panels and pairs, epilogues in NumPy,
and machine code as tests read it.
"""

import re
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.simd.microkernel import (
    BY_COLUMN,
    PLUS,
    RELU,
    RELU_PLUS,
    STORE,
    TIMES,
    WHERE_POSITIVE,
)
from fastmlp.backends.cpu.tuning import ROW_BLOCK
from fastmlp.compiler import Block, fma
from fastmlp.compiler.blocks import NativeCode
from fastmlp.compiler.native import objects
from fastmlp.compiler.native.translator import translate
from fastmlp.compiler.target import Host, target

Array = NDArray[Any]
# Uncompiled kernels are a thousand times slower:
# the same tests there take fewer shapes.
INTERPRETED = bool(numba.config.DISABLE_JIT)


def to_panels(
    matrix: Array, lanes: int, n_rows: int | None = None, fill: float = 0.0
) -> Array:
    """The matrix as (n_panels, n_rows, lanes), and `fill` where it has no numbers."""
    height, width = matrix.shape
    n_rows = height if n_rows is None else n_rows
    n_panels = -(-width // lanes)
    padded = np.full((n_rows, n_panels * lanes), fill, matrix.dtype)
    padded[:height, :width] = matrix
    panels = aligned(padded.size, matrix.dtype).reshape(n_panels, n_rows, lanes)
    panels[...] = padded.reshape(n_rows, n_panels, lanes).transpose(1, 0, 2)
    return panels


def from_panels(panels: Array, height: int, width: int) -> Array:
    n_panels, n_rows, lanes = panels.shape
    return panels.transpose(1, 0, 2).reshape(n_rows, n_panels * lanes)[:height, :width]


def address(array: Array, *index: int) -> int:
    return int(array.ctypes.data) + sum(
        i * n for i, n in zip(index, array.strides, strict=False)
    )


def rounding(depth: int, dtype: Any) -> float:
    """Bound the relative error of a sum of so many products and of one operation
    more.
    """
    return (depth + 2) * float(np.finfo(dtype).eps)


@numba.njit
def _chains(start: Any, a: Any, b: Any, c: Any) -> None:
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = start[i, j]
            for k in range(a.shape[1]):
                total = fma(a[i, k], b[k, j], total)
            c[i, j] = total


def chains(start: Array, a: Array, b: Array) -> Array:
    """start + A B, each element one chain of multiply-adds in the order of k:
    the kernels' bits.
    """
    c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    _chains(np.broadcast_to(start, c.shape).copy(), a, b, c)
    return c


# One piece of three lines, which a product by column prefetches in turns.
STREAM = np.array([1, 3, 0])
STREAM[2] = address(STREAM)


def multiply_panels(
    compiled: Block,
    c: Array,
    start: Array,
    left: Array,
    right: Array,
    by_column: bool,
    depth: int,
    epilogue: int,
    sizes: tuple[int, int],
    buffer: Array = STREAM[:0],
) -> None:
    """Have a product of panels computed as kernels do:
    `ROW_BLOCK` rows a call, C the operand.

    `start` has a row for each of C, or one for all; `depth` counts rows of `right`,
    and `sizes` are the height and width of C.
    """
    height, width = sizes
    lanes = right.shape[2]
    vector = right.shape[2] * right.itemsize
    if by_column and depth % 2:
        streams = address(STREAM)
    else:
        streams = address(buffer) * (buffer.size > 0)
    stride = vector * (start.shape[1] > 1)
    for r in range(0, height, ROW_BLOCK):
        if by_column:
            place = address(left, r // lanes)
        else:
            place = address(left, 0, r)
        compiled(
            address(c, 0, r),
            c[0].nbytes,
            address(start) + r * stride,
            stride,
            start[0].nbytes,
            address(right),
            right[0].nbytes,
            place,
            left[0].nbytes,
            depth,
            epilogue,
            address(c, 0, r),
            width,
            min(ROW_BLOCK, height - r),
            streams,
        )


def block(loop: Callable[..., None], on: Host | None = None) -> Block:
    return Block(loop, None, on)


def assembly(compiled: Block) -> str:
    if not isinstance(compiled._code, NativeCode):
        return str(compiled._code._library.get_asm_str())
    module = objects.optimize(
        compiled._code._function, target(), light=compiled._code._light
    )
    return str(objects.machine(target()).emit_assembly(module)).replace("@PLT", "")


def upper_bits(matrix: Array) -> NDArray[np.uint16]:
    """Numbers rounded to bfloat16, to nearest even,
    as 16 bits; NaN is quiet, subnormals zeros.
    """
    value = np.ascontiguousarray(matrix, np.float32)
    bits = value.view(np.uint32).astype(np.uint64)
    nearest = bits + 0x7FFF + (bits >> 16 & 1)
    nearest = np.where(bits & 0x7F800000, nearest, bits & 0x80000000)
    nearest = np.where(np.isnan(value), bits | 0x400000, nearest)
    return (nearest >> 16).astype(np.uint16)


def to_bfloat16(matrix: Array) -> Array:
    return (upper_bits(matrix).astype(np.uint32) << 16).view(np.float32)


def operand(
    sizes: Sequence[int], wide: int, setting: Any = "bfloat16"
) -> Callable[[int, Array], Array]:
    """From a layer and an operand of its products to the operand as they take it:
    rounded, if the setting says so, or a layer has `wide` inputs and outputs. Kernels
    round float32 numbers.
    """

    def rounded(layer: int, given: Array) -> Array:
        single = given.astype(np.float32)
        is_rounded = min(sizes[layer : layer + 2]) >= wide
        if isinstance(setting, tuple):
            is_rounded = setting[layer] == "bfloat16"
        return (to_bfloat16(single) if is_rounded else single).astype(np.float64)

    return rounded


def _pairs(first: Array, second: Array) -> Array:
    low, high = (upper_bits(each).astype(np.uint32) for each in (first, second))
    return (high << 16 | low).view(np.float32)


def along(matrix: Array, lanes: int, n_rows: int) -> Array:
    """Pairs of neighbours in a row, in panels of half as many lanes."""
    even = np.zeros((len(matrix), matrix.shape[1] + matrix.shape[1] % 2), np.float32)
    even[:, : matrix.shape[1]] = matrix
    return to_panels(_pairs(even[:, ::2], even[:, 1::2]), lanes // 2, n_rows)


def across(matrix: Array, lanes: int) -> Array:
    """Pairs of neighbours in a column, in panels: (n_panels, pairs of rows, lanes)."""
    even = np.zeros((len(matrix) + len(matrix) % 2, matrix.shape[1]), np.float32)
    even[: len(matrix)] = matrix
    return to_panels(_pairs(even[::2], even[1::2]), lanes)


EPILOGUES = {
    "store": STORE,
    "relu": RELU,
    "times": TIMES,
    "where_positive": WHERE_POSITIVE,
    "plus": PLUS,
    "relu_plus": RELU_PLUS,
}


def epilogues_of(**readings: Any) -> Any:
    """Each way to read A with each epilogue; by column there are fewer."""
    return pytest.mark.parametrize(
        ("by_column", "epilogue"),
        [
            pytest.param(by_column, code, id=f"{way}-{name}")
            for way, by_column in readings.items()
            for name, code in EPILOGUES.items()
            if by_column is not True or code in BY_COLUMN
        ],
    )


each_epilogue = epilogues_of(by_row=False, by_column=True)


def finished(value: Any, epilogue: int, operand: Any) -> Any:
    if epilogue in (PLUS, RELU_PLUS):
        value = value + operand
    if epilogue in (RELU, RELU_PLUS):
        return np.maximum(value, 0)
    if epilogue == TIMES:
        return value * operand
    if epilogue == WHERE_POSITIVE:
        return np.where(operand > 0, value, 0)
    return value


def magnitude(size: Any, epilogue: int, operand: Any) -> Any:
    """The size that rounding of sums is relative to, after the epilogue."""
    if epilogue in (PLUS, RELU_PLUS):
        return size + abs(operand)
    return size * abs(operand) if epilogue == TIMES else size


LABEL = re.compile(r"^(\.LBB\w+):")
# A jump of x86, or a branch of Arm, to a label.
JUMP = re.compile(
    r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s+#\d+,)\s+(\.LBB\w+)$"
)


def innermost(text: str) -> list[str]:
    """The loops of an assembly with no loop in them:
    from a label to a jump back to it.
    """
    lines = text.splitlines()
    places = dict[str, int]()
    spans = list[tuple[int, int]]()
    for i, line in enumerate(lines):
        if label := LABEL.match(line):
            places[label[1]] = i
        elif (jump := JUMP.match(line)) and jump[1] in places:
            spans.append((places[jump[1]], i))
    return [
        "\n".join(lines[first : last + 1])
        for first, last in spans
        if not any(
            first <= a and b <= last and (a, b) != (first, last) for a, b in spans
        )
    ]


def assembly_for(loop: FunctionType, triple: str, cpu: str, features: str) -> str:
    """The machine code of a function of integers for another processor,
    optimized as a kernel.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, 3)
    module: Any = translate(loop, "kernel", triple)
    module.data_layout = str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    options = llvm.create_pipeline_tuning_options()
    options.speed_level = 2
    options.loop_unrolling = False
    options.loop_vectorization = options.slp_vectorization = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed))
