"""The peak of a machine: fused multiply-adds in registers, on one thread or several."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import binding, ir
from numba import float32, float64, njit, types
from numba.extending import intrinsic

from benchmarks.bench_train import Race
from benchmarks.machine import cores
from benchmarks.peers import Unsupported
from benchmarks.race import Ways, repeated

Step = Callable[[ir.Value], ir.Value]


class _BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"


def vector_bytes() -> int:
    """The width of the host's vector registers."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    if features.get("avx2"):
        return 32
    return 16


def multiplies_pairs() -> bool:
    """Return True if the host multiplies pairs of bfloat16."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


def _fma(builder: ir.IRBuilder, dtype: str, lanes: int, vector: ir.Type) -> Step:
    """A function that emits a chain's next value: 0.999 times the last, and 0.001;
    for "bfloat16" the last and two products of each lane's pair.
    """

    def function(name: str, *kinds: ir.Type) -> ir.Function:
        known = builder.module.globals.get(name)
        if known:
            return known
        signature = ir.FunctionType(vector, kinds)
        return ir.Function(builder.module, signature, name)

    if dtype == "bfloat16":
        pairs = ir.VectorType(_BFloat16(), 2 * lanes)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
        add = function(name, vector, pairs, pairs)
        small = builder.bitcast(ir.Constant(vector, [0.001] * lanes), pairs)
        return lambda chain: builder.call(add, [chain, small, small])
    bits = 8 * np.dtype(dtype).itemsize
    fma = function(f"llvm.fma.v{lanes}f{bits}", vector, vector, vector)
    factor = ir.Constant(vector, [0.999] * lanes)
    addend = ir.Constant(vector, [0.001] * lanes)
    return lambda chain: builder.call(fma, [chain, factor, addend])


def _loop(
    builder: ir.IRBuilder, n: ir.Value, dtype: str, lanes: int, chains: int
) -> ir.Value:
    """Emit n rounds of one FMA for each chain;
    return the sum of the chains' first lanes.
    """
    if dtype == "float64":
        scalar = ir.DoubleType()
    else:
        scalar = ir.FloatType()
    vector = ir.VectorType(scalar, lanes)
    step = _fma(builder, dtype, lanes, vector)
    before = builder.block
    body = builder.append_basic_block("rounds")
    after = builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    i = builder.phi(n.type)
    sums = [builder.phi(vector) for _ in range(chains)]
    news = [step(chain) for chain in sums]
    following = builder.add(i, n.type(1))
    i.add_incoming(n.type(0), before)
    i.add_incoming(following, body)
    for k, (chain, new) in enumerate(zip(sums, news, strict=True)):
        chain.add_incoming(ir.Constant(vector, [k + 1.0] * lanes), before)
        chain.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, n), body, after)
    builder.position_at_end(after)
    total = ir.Constant(scalar, 0.0)
    for new in news:
        total = builder.fadd(total, builder.extract_element(new, ir.IntType(32)(0)))
    return total


def fma_loop(dtype: str) -> tuple[Callable[[int], float], int]:
    """A compiled loop of n rounds that releases the GIL, and its operations a round.

    With "bfloat16" operands are pairs of it, and sums float32.
    """
    size = 8 if dtype == "float64" else 4
    kind = float64 if dtype == "float64" else float32
    lanes = vector_bytes() // size
    # Latency 4 on 2 ports asks for 8; with 16 registers, more than 13 would spill.
    chains = 12
    if vector_bytes() == 64:
        chains = 24

    @intrinsic
    def rounds(typing_context: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _loop(builder, args[0], dtype, lanes, chains)

        return kind(types.int64), emit

    @njit(nogil=True)
    def run(n: int) -> float:
        return rounds(n)

    products = 2 if dtype == "bfloat16" else 1
    return run, 2 * products * lanes * chains


def in_threads(run: Callable[[int], float], n: int, n_threads: int) -> None:
    """Run n rounds on each of some threads."""
    threads = []
    for _ in range(n_threads):
        threads.append(threading.Thread(target=run, args=(np.int64(n),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Work(Ways):
    """Multiply-adds in registers on each core of the process,
    or a library's own product of float32; a unit is an operation.
    """

    def __init__(self, worker: Any, quick: bool, dtype: str) -> None:
        if worker.name != "fastmlp":
            size = 256 if quick else 2048
            product = repeated(worker.module.sgemm(size))
            super().__init__(worker, quick, {"sgemm": product}, units=2 * size**3)
            return
        if dtype == "bfloat16" and not multiplies_pairs():
            raise Unsupported("this processor has no products of bfloat16")
        loop, flops = fma_loop(dtype)
        loop(1)
        rounds = 10_000 if quick else 1_000_000
        threads = 1 if quick else cores()
        calls = repeated(in_threads, loop, rounds, threads)
        units = flops * rounds * threads
        super().__init__(worker, quick, {"registers": calls}, units=units)


@pytest.mark.libraries("fastmlp", "numpy", "torch")
def test_peak(race: Race) -> None:
    race(Work, seconds=0.1, flops=1, dtype="float32")


@pytest.mark.libraries("fastmlp")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_peak_of(race: Race, dtype: str) -> None:
    race(Work, seconds=0.1, flops=1, dtype=dtype)
