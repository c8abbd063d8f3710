"""Predictions of a trained 16-64-64-2: one row, and many."""

from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import QUICK
from benchmarks.peers import load
from benchmarks.workloads import BY_NAME


@pytest.mark.parametrize("n_rows", [1, 32, 1_000 if QUICK else 100_000])
def test_predict(benchmark: Any, peer: str, n_rows: int) -> None:
    workload = BY_NAME["16-64-64-2@64"]
    run = load(peer).make(workload.quick())
    x = run.rows(np.resize(workload.data()[0], (n_rows, workload.sizes[0])))
    predict = list(run.predictors().values())[-1]
    predict(x)
    benchmark.group = f"predict {n_rows} rows"
    assert len(benchmark(predict, x)) == n_rows
