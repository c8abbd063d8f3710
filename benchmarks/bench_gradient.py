"""Loss and gradient of one batch."""

from typing import Any

import pytest

from benchmarks.peers.run import Unsupported
from benchmarks.workloads import Workload


def test_gradient(benchmark: Any, workload: Workload, run: Any) -> None:
    try:
        run.gradient()
    except Unsupported as reason:
        pytest.skip(str(reason))
    benchmark.group = f"gradient, {workload.name}"
    assert len(benchmark(run.gradient)) > 0
