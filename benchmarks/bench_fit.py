"""A whole fit of five epochs, from a new net to its last loss."""

from typing import Any

import numpy as np

from benchmarks.workloads import Workload


def fit(run: Any) -> float:
    run.reset()
    run.epochs(5)
    return run.loss()


def test_fit(benchmark: Any, workload: Workload, run: Any) -> None:
    fit(run)
    benchmark.group = f"fit, {workload.name}"
    assert np.isfinite(benchmark(fit, run))
