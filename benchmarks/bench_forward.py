"""The forward pass: one batch of the workload."""

from typing import Any

import pytest

from benchmarks.peers import load
from benchmarks.peers.run import Unsupported
from benchmarks.workloads import Workload


def test_forward(benchmark: Any, workload: Workload, peer: str) -> None:
    try:
        run = load(peer).make(workload)
    except Unsupported as reason:
        pytest.skip(str(reason))
    if peer == "sklearn":
        run.epochs(1)
    predict, *_ = run.predictors().values()
    x = run.rows(workload.data()[0][: workload.batch])
    predict(x)
    benchmark.group = f"forward, {workload.name}"
    assert len(benchmark(predict, x)) == workload.batch
