"""Predictions for one row and for all, into a given array."""

from typing import Any

import numpy as np
import pytest

from benchmarks.workloads import WORKLOADS, Workload


@pytest.mark.parametrize("n_rows", [1, None], ids=["one row", "all rows"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_predict(benchmark: Any, workload: Workload, n_rows: int | None) -> None:
    net, (x, _) = workload.net(), workload.data()
    x = x[:n_rows]
    out = np.empty((len(x), workload.layer_sizes[-1]), np.float32)
    net.predict(x, out=out)
    benchmark.group = f"predict {len(x)} rows of {workload.name}"
    assert benchmark(net.predict, x, out=out) is out
