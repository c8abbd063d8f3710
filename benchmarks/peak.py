"""What the machine could do at best: fused multiply-adds in registers, on one thread or several."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import float32, float64, njit, types
from numba.extending import intrinsic

Spec = tuple[Any, int, int]


class BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite does not have; it writes modules as text."""

    def _to_string(self) -> str:
        return "bfloat"


def vector_bytes() -> int:
    """Return the width of the host's vector registers."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def _loop(
    builder: ir.IRBuilder, n: ir.Value, scalar: ir.Type, lanes: int, chains: int, pairs: bool
) -> ir.Value:
    """Emit n rounds of one FMA, or of one product of pairs of bfloat16, for each chain; return the
    sum of the chains' first lanes."""
    vector = ir.VectorType(scalar, lanes)
    suffix = f"v{lanes}f{32 if isinstance(scalar, ir.FloatType) else 64}"
    module = builder.module
    factor, addend = ir.Constant(vector, [0.999] * lanes), ir.Constant(vector, [0.001] * lanes)
    if pairs:
        numbers, ints = ir.VectorType(BFloat16(), 32), ir.VectorType(ir.IntType(32), lanes)
        signature = ir.FunctionType(vector, [vector, numbers, numbers])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        # Of each pair (0.5, 0): sums stay finite.
        both = builder.bitcast(ir.Constant(ints, [0x3F00] * lanes), numbers)
        rest = [both, both]
    else:
        signature, name = ir.FunctionType(vector, [vector] * 3), f"llvm.fma.{suffix}"
        rest = [factor, addend]
    fma = module.globals.get(name) or ir.Function(module, signature, name)
    before, body = builder.block, builder.append_basic_block("rounds")
    after = builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    i = builder.phi(n.type)
    sums = [builder.phi(vector) for _ in range(chains)]
    news = [builder.call(fma, [chain, *rest]) for chain in sums]
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
    """Return a compiled loop of n rounds that releases the GIL, and its operations a round."""
    pairs = dtype == "bfloat16"
    size = 4 if pairs else np.dtype(dtype).itemsize
    lanes = vector_bytes() // size
    # Latency 4 on 2 ports asks for 8; with 16 registers, more than 13 would spill.
    chains = 24 if vector_bytes() == 64 else 12
    kind, scalar = (float32, ir.FloatType()) if size == 4 else (float64, ir.DoubleType())

    @intrinsic
    def rounds(typing_context: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _loop(builder, args[0], scalar, lanes, chains, pairs)

        return kind(types.int64), emit

    @njit(nogil=True)
    def run(n: int) -> float:
        return rounds(n)

    return run, 2 * lanes * chains * (1 + pairs)


def multiplies_pairs() -> bool:
    """Return True if the host multiplies pairs of bfloat16."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


def peak(dtype: str, n_threads: int, seconds: float = 0.1) -> float:
    """Return GFLOP/s of n_threads threads, the best of five tries."""
    run, flops = fma_loop(dtype)
    run(1)
    n = int(seconds * 50e9 / flops)
    return max(_try(run, n, n_threads) * flops for _ in range(5)) / 1e9


def _try(run: Callable[[int], float], n: int, n_threads: int) -> float:
    """Return rounds a second, all threads together."""
    threads = [threading.Thread(target=run, args=(np.int64(n),)) for _ in range(n_threads)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n * n_threads / (time.perf_counter() - begin)


def main() -> None:
    """Print the peaks of one thread and of two."""
    for dtype in ("float32", "float64", *(["bfloat16"] if multiplies_pairs() else [])):
        rates = ", ".join(f"{peak(dtype, n):.0f} on {n}" for n in (1, 2))
        print(f"{dtype}, {8 * vector_bytes()} bits: GFLOP/s {rates} threads")


if __name__ == "__main__":
    main()
