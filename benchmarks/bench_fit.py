"""One epoch of training, data in memory, shuffled."""

from typing import Any

import pytest

from benchmarks.workloads import WORKLOADS, Workload


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_epoch(benchmark: Any, workload: Workload) -> None:
    net, (x, y) = workload.net(), workload.data()
    net.fit(x, y, epochs=1, batch_size=workload.batch_size)
    benchmark.group = f"epoch of {workload.name}"
    history = benchmark(net.fit, x, y, epochs=1, batch_size=workload.batch_size)
    assert len(history.loss) == 1
