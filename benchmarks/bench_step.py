"""One step, called from Python: what a loop of one's own pays."""

from typing import Any

import numpy as np

from benchmarks.workloads import Workload


def test_step(benchmark: Any, workload: Workload, run: Any) -> None:
    run.steps(1)
    benchmark.group = f"step, {workload.name}"
    benchmark(run.steps, 1)
    assert np.isfinite(run.parameters()).all()
