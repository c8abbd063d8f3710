"""Predictions: a call of one row to many, by two nets,
and by ten drawn ones; and from njit.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.race import Ways, repeated
from benchmarks.workloads import BY_NAME, Workload, sized

PREDICTED = "16-64-64-2@64"
WIDE = "784-512-512-10@128"
ROWS = (1, 2, 4, 16, 64, 256, 1_000, 10_000)
N_DRAWN = 10
NARROWEST = 64
WIDEST = 1000
SECONDS = 0.02


def drawn(seed: int = 1) -> Iterator[Workload]:
    """Three nets that are known to be hard, and others of a seed."""
    rng = np.random.default_rng(seed)
    chosen = [(784, 512, 512, 10), (128, 256, 256, 10), (128, 1024, 1024, 10)]
    while len(chosen) < N_DRAWN:
        hidden = rng.integers(NARROWEST, WIDEST + 1, size=rng.integers(1, 4))
        chosen.append(
            (int(rng.integers(8, 801)), *hidden.tolist(), int(rng.integers(1, 21)))
        )
    for sizes in chosen:
        yield Workload(sizes, 64, 256)


DRAWN = {net.name: net for net in drawn()}
NETS = {**DRAWN, **BY_NAME}


class Work(Ways):
    """A library's ways to predict so many rows;
    those of the form "njit" from compiled code.
    """

    def __init__(
        self, worker: Any, quick: bool, net: str, n_rows: int, form: str | None = None
    ) -> None:
        load = NETS[net]._replace(batch=64, n_rows=256)
        load = sized(load, quick)
        run = worker.module.make(load)
        if hasattr(run, "net") and hasattr(run.net, "partial_fit"):
            run.epochs(1)
        n = min(n_rows, 100) if quick else n_rows
        x = run.rows(np.resize(load.data()[0], (n, load.sizes[0])))
        calls = {name: repeated(f, x) for name, f in run.predictors().items()}
        if form == "njit":
            calls = {"jit.predict": from_njit(run.net, x)}
        super().__init__(worker, quick, calls)


@cache
def loop() -> Callable[..., None]:
    """A compiled loop of calls with the same rows; it takes seconds to compile."""
    from numba import njit

    from fastmlp import jit

    @njit
    def calls(handle: Any, x: Any, out: Any, n: int) -> None:
        for _ in range(n):
            jit.predict(handle, x, out)

    return calls


def from_njit(net: Any, x: Any) -> Callable[[int], Any]:
    """A function that makes n calls of `jit.predict` in compiled code."""
    from fastmlp import jit

    handle = jit.compiled(net)
    out = np.empty((len(x), net.layer_sizes[-1]), x.dtype)
    return lambda n: loop()(handle, x, out, n)


def in_race(race: Race, net: str, n_rows: int) -> None:
    flops = 2 * n_rows * NETS[net].n_weights
    race(Work, seconds=SECONDS, flops=flops, rows=n_rows, net=net, n_rows=n_rows)


@pytest.mark.libraries(
    *("fastmlp", "fastmlp-njit", "numpy", "sklearn", "torch", "compile", "jax", "onnx")
)
@pytest.mark.parametrize("n_rows", ROWS, ids=lambda n: f"{n}-rows")
@pytest.mark.parametrize("net", [PREDICTED, WIDE])
def test_predict(race: Race, net: str, n_rows: int) -> None:
    in_race(race, net, n_rows)


@pytest.mark.libraries("fastmlp", "onnx", "torch")
@pytest.mark.parametrize("n_rows", ROWS, ids=lambda n: f"{n}-rows")
@pytest.mark.parametrize("net", DRAWN)
def test_predict_drawn(race: Race, net: str, n_rows: int) -> None:
    in_race(race, net, n_rows)
