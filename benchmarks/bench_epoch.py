"""One epoch, shuffled."""

from typing import Any

import numpy as np

from benchmarks.workloads import Workload


def test_epoch(benchmark: Any, workload: Workload, run: Any) -> None:
    run.epochs(1)
    benchmark.group = f"epoch of {workload.n_steps} steps, {workload.name}"
    benchmark(run.epochs, 1)
    assert np.isfinite(run.parameters()).all()
