"""The peak of a machine: fused multiply-adds in registers, on one thread or several."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import float32, float64, njit, types
from numba.extending import intrinsic

from benchmarks.race import Race, key_of, timed
from benchmarks.scores import Record, failed

Step = Callable[[ir.Value], ir.Value]


class _BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"


def vector_bytes() -> int:
    """The width of the host's vector registers."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def multiplies_pairs() -> bool:
    """Return True if the host multiplies pairs of bfloat16."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


def _fma(builder: ir.IRBuilder, dtype: str, lanes: int, vector: ir.Type) -> Step:
    """A function that emits a chain's next value: 0.999 times the last, and 0.001; for "bfloat16"
    the last and two products of each lane's pair."""

    def function(name: str, *kinds: ir.Type) -> ir.Function:
        signature = ir.FunctionType(vector, kinds)
        return builder.module.globals.get(name) or ir.Function(
            builder.module, signature, name
        )

    if dtype == "bfloat16":
        pairs = ir.VectorType(_BFloat16(), 2 * lanes)
        add = function(
            f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}", vector, pairs, pairs
        )
        small = builder.bitcast(ir.Constant(vector, [0.001] * lanes), pairs)
        return lambda chain: builder.call(add, [chain, small, small])
    fma = function(
        f"llvm.fma.v{lanes}f{8 * np.dtype(dtype).itemsize}", vector, vector, vector
    )
    factor, addend = (
        ir.Constant(vector, [0.999] * lanes),
        ir.Constant(vector, [0.001] * lanes),
    )
    return lambda chain: builder.call(fma, [chain, factor, addend])


def _loop(
    builder: ir.IRBuilder, n: ir.Value, dtype: str, lanes: int, chains: int
) -> ir.Value:
    """Emit n rounds of one FMA for each chain; return the sum of the chains' first lanes."""
    scalar = ir.DoubleType() if dtype == "float64" else ir.FloatType()
    vector = ir.VectorType(scalar, lanes)
    step = _fma(builder, dtype, lanes, vector)
    before, body = builder.block, builder.append_basic_block("rounds")
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
    lanes = vector_bytes() // size
    # Latency 4 on 2 ports asks for 8; with 16 registers, more than 13 would spill.
    chains = 24 if vector_bytes() == 64 else 12
    kind = float32 if size == 4 else float64

    @intrinsic
    def rounds(typing_context: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _loop(builder, args[0], dtype, lanes, chains)

        return kind(types.int64), emit

    @njit(nogil=True)
    def run(n: int) -> float:
        return rounds(n)

    return run, (4 if dtype == "bfloat16" else 2) * lanes * chains


def dtypes() -> list[str]:
    """The dtypes of operands that have a peak on this host."""
    return ["float32", "float64", *(["bfloat16"] if multiplies_pairs() else [])]


def peak(dtype: str, n_threads: int, seconds: float = 0.1) -> float:
    """GFLOP/s of n_threads threads, the best of five tries."""
    run, flops = fma_loop(dtype)
    run(1)
    n = int(seconds * 50e9 / flops)
    return max(_try(run, n, n_threads) * flops for _ in range(5)) / 1e9


def _try(run: Callable[[int], float], n: int, n_threads: int) -> float:
    """Rounds a second, all threads together."""
    threads = [
        threading.Thread(target=run, args=(np.int64(n),)) for _ in range(n_threads)
    ]
    clock = time.process_time if n_threads == 1 else time.perf_counter
    begin = clock()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n * n_threads / (clock() - begin)


class Work:
    """In a contestant's process: GFLOP/s of multiply-adds in registers, by fastmlp's, and of the
    library's own product."""

    def __init__(self, worker: Any, quick: bool, threads: int) -> None:
        self.about: Record = {}
        if worker.name == "fastmlp":
            self.about |= {f"fma {dtype}": peak(dtype, threads) for dtype in dtypes()}
        if product := getattr(worker.module, "sgemm", None):
            size = 512 if quick else 2048
            multiply = product(size)
            multiply()
            self.about["sgemm"] = max(
                2e-9 * size**3 / timed(multiply)[0] for _ in range(3)
            )


def measure(race: Race) -> list[Record]:
    """FMA peaks by dtype and threads, and the sgemm of each library, in their processes."""
    return [
        key_of(contestant, what=what, gflops=rate)
        for contestant in race.contestants
        for what, rate in contestant.ask(
            "make", part="peak", quick=race.quick, threads=contestant.n_threads
        ).items()
        if not failed({what: rate})
    ]


def main() -> None:
    """Print the peaks of one thread and of two."""
    for dtype in dtypes():
        rates = ", ".join(f"{peak(dtype, n):.0f} on {n}" for n in (1, 2))
        print(f"{dtype}, {8 * vector_bytes()} bits: GFLOP/s {rates} threads")


if __name__ == "__main__":
    main()
