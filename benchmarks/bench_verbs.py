"""Each verb of a contestant under pytest-benchmark: `-k step`, `-k "fit and 16-64-64 and jax"`.

The verbs are forward, gradient, step, epoch, fit, predict, and new processes, which import fastmlp
beside Numba's own import, and fit with and without a cache.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cold_start
from benchmarks.conftest import QUICK, supported
from benchmarks.peers import load
from benchmarks.workloads import BY_NAME, Workload


def test_forward(benchmark: Any, workload: Workload, peer: str) -> None:
    run = supported(load(peer).make, workload)
    if peer == "sklearn":
        run.epochs(1)
    predict, *_ = run.predictors().values()
    x = run.rows(workload.data()[0][: workload.batch])
    predict(x)
    benchmark.group = f"forward, {workload.name}"
    assert len(benchmark(predict, x)) == workload.batch


def test_gradient(benchmark: Any, workload: Workload, run: Any) -> None:
    supported(run.gradient)
    benchmark.group = f"gradient, {workload.name}"
    assert len(benchmark(run.gradient)) > 0


def test_step(benchmark: Any, workload: Workload, run: Any) -> None:
    """A step that is called from Python: the price of a loop of one's own."""
    run.steps(1)
    benchmark.group = f"step, {workload.name}"
    benchmark(run.steps, 1)
    assert np.isfinite(run.parameters()).all()


def test_epoch(benchmark: Any, workload: Workload, run: Any) -> None:
    run.epochs(1)
    benchmark.group = f"epoch of {workload.n_steps} steps, {workload.name}"
    benchmark(run.epochs, 1)
    assert np.isfinite(run.parameters()).all()


def fit(run: Any) -> float:
    """Train five epochs from a new net; return the loss."""
    run.reset()
    run.epochs(5)
    return float(run.loss())


def test_fit(benchmark: Any, workload: Workload, run: Any) -> None:
    fit(run)
    benchmark.group = f"fit, {workload.name}"
    assert np.isfinite(benchmark(fit, run))


@pytest.mark.parametrize("n_rows", [1, 32, 1_000 if QUICK else 100_000])
def test_predict(benchmark: Any, peer: str, n_rows: int) -> None:
    workload = BY_NAME["16-64-64-2@64"]
    run = load(peer).make(workload.quick())
    x = run.rows(np.resize(workload.data()[0], (n_rows, workload.sizes[0])))
    predict = list(run.predictors().values())[-1]
    predict(x)
    benchmark.group = f"predict {n_rows} rows"
    assert len(benchmark(predict, x)) == n_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the first test fills."""
    return tmp_path_factory.mktemp("cache")


def test_new_process_with_an_empty_cache(benchmark: Any, cache: Path) -> None:
    benchmark.group = "cold start, cache empty"
    command = cold_start.fit_of("fastmlp")
    benchmark.pedantic(cold_start.launch, (command, cache), rounds=1)


@pytest.mark.parametrize("name", ["import numba", "import fastmlp", "fit"])
def test_new_process_with_a_full_cache(benchmark: Any, name: str, cache: Path) -> None:
    command = cold_start.fit_of("fastmlp") if name == "fit" else name
    benchmark.group = "cold start, cache full"
    turns = {"rounds": 1} if QUICK else {"rounds": 3, "warmup_rounds": 1}
    benchmark.pedantic(cold_start.launch, (command, cache), **turns)
