"""Products of pairs by Arm's bfmmla, run: their machine code in a small program under QEMU."""

import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panelled import across, along, from_panels, to_bfloat16, to_panels

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.simd.microkernel import PLUS, RELU_PLUS, STORE, TIMES, WHERE_POSITIVE

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason="it needs Debian's gcc-aarch64-linux-gnu and qemu-user",
)
# The script runs where kernels are made as for the processor.
ENVIRONMENT = {"NUMBA_CPU_NAME": "neoverse-v1", "NUMBA_CPU_FEATURES": "+neon,+bf16"}
SCRIPT = """
import sys
import numpy as np
from panelled import assembly_for
from fastmlp.backends.cpu.simd.gemm import product
loop = product(np.float32, sys.argv[1] == "by_column", "matrices")
print(assembly_for(loop, "aarch64-linux-gnu", "neoverse-v1", "+neon,+bf16"))
"""
# Memory is a file: calls of 15 words each and one that is not 0, and a 0; then the matrices.
BASE, LANES, CALL = 0x10000000, 4, 16
PROGRAM = """
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
void kernel();
int main(int n, char **words) {
    int file = open(words[1], O_RDWR), all = PROT_READ | PROT_WRITE;
    long *w = (long *)BASE, size = lseek(file, 0, SEEK_END);
    if (mmap(w, size, all, MAP_SHARED | MAP_FIXED, file, 0) != w) return 1;
    for (; w[15]; w += 16)
        kernel(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7],
               w[8], w[9], w[10], w[11], w[12], w[13], w[14]);
}
"""


class Memory:
    """The program's memory: arrays at places that are multiples of 64, with NaN between them."""

    def __init__(self, n_calls: int) -> None:
        self.calls = np.zeros((n_calls + 1, CALL), np.int64)
        self.arrays: list[Any] = []
        self.end = round_up(self.calls.nbytes, 64)

    def put(self, array: Any) -> int:
        """Add an array; return its address."""
        place, self.end = self.end, round_up(self.end + array.nbytes, 64) + 64
        self.arrays.append((place, array))
        return BASE + place

    def run(self, program: Path) -> None:
        """Run the calls; the arrays become what they are after them."""
        image = np.full(self.end, 0xFF, np.uint8)
        for place, array in [(0, self.calls), *self.arrays]:
            image[place : place + array.nbytes] = array.view(np.uint8).ravel()
        path = program.with_suffix(".memory")
        image.tofile(path)
        subprocess.run([EMULATOR, "-cpu", "max", program, path], check=True, timeout=900)
        after = np.fromfile(path, np.uint8)
        for place, array in self.arrays:
            array.view(np.uint8).ravel()[...] = after[place : place + array.nbytes]


def odd_sum(a: Any, b: Any) -> Any:
    """a + b, rounded to odd: of two neighbours of an inexact sum, that whose last digit is 1."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    total = a + b
    rest = (a - (total - (total - a))) + (b - (total - a))
    nearest = total.astype(np.float32)
    beyond = (total - nearest) + rest
    even = (nearest.view(np.uint32) % 2 == 0) & (beyond != 0)
    towards = np.copysign(np.inf, beyond).astype(np.float32)
    return np.where(even, np.nextafter(nearest, towards), nearest)


def expected(start: Any, a: Any, b: Any, epilogue: int, operand: Any) -> Any:
    total = start
    a, b = to_bfloat16(a), to_bfloat16(b)
    for k in range(0, len(b), 2):
        products = [a[:, i, None] * b[i] for i in range(k, min(k + 2, len(b)))]
        total = odd_sum(total, odd_sum(*products) if len(products) == 2 else products[0])
    if epilogue in (PLUS, RELU_PLUS):
        total = total + operand
    if epilogue == RELU_PLUS:
        total = np.maximum(total, 0)
    factor = {TIMES: operand, WHERE_POSITIVE: operand > 0}.get(epilogue, np.float32(1))
    return total * factor


def linked(form: str, python: Callable[..., str], folder: Path) -> Path:
    program, texts = folder / "product", {"product.s": python(SCRIPT, form, **ENVIRONMENT)}
    texts["main.c"] = PROGRAM.replace("BASE", hex(BASE))
    for name, text in texts.items():
        (folder / name).write_text(text)
    sources = [str(folder / name) for name in texts]
    options = ["-O1", "-static", "-march=armv8.6-a+bf16", "-o", str(program)]
    subprocess.run([COMPILER, *options, *sources], check=True)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("form", ["along", "by_column"])
def test_products_by_bfmmla_have_its_bits(
    form: str, soak: bool, python: Callable[..., str], tmp_path: Path, rng: np.random.Generator
) -> None:
    heights = [1, 2, 3, 5, 8, 9, 16, 23, 64, 127, 128] if soak else [1, 8, 13]
    widths = [1, 4, 5, 8, 9, 12, 13, 40] if soak else [3, 17]
    depths = [1, 2, 3, 4, 7, 16, 33, 512, 1031] if soak else [5, 1026]
    known = [STORE, TIMES, WHERE_POSITIVE, *([PLUS, RELU_PLUS] if form == "along" else [])]
    shapes = list(product(heights, widths, depths))
    memory, cases = Memory(len(shapes)), list[tuple[Any, ...]]()
    for i, (height, width, depth) in enumerate(shapes):
        sizes = ((height, width), (height, depth), (depth, width), (height, width))
        start, a, b, operand = (rng.normal(size=size).astype(np.float32) for size in sizes)
        most, epilogue = round_up(height, 8), known[i % len(known)]
        left = across(a.T, LANES) if form == "by_column" else along(a, LANES, most)
        right, c = across(b, LANES), to_panels(np.full_like(start, np.nan), LANES, most)
        origin, panels = to_panels(start, LANES, most), to_panels(operand, LANES, most)
        memory.calls[i] = (
            memory.put(c), c[0].nbytes, memory.put(origin), 4 * LANES, origin[0].nbytes,
            memory.put(right), right[0].nbytes, memory.put(left), left[0].nbytes, (depth + 1) // 2,
            epilogue, memory.put(panels), width, height, 0, 1,
        )  # fmt: skip
        cases.append((c, start, a, b, epilogue, operand))
    memory.run(linked(form, python, tmp_path))
    for c, start, a, *others in cases:
        assert np.array_equal(from_panels(c, *start.shape), expected(start, a, *others)), a.shape
