"""Scores of rows, batch by batch, beside scikit-learn's of all rows."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from fastmlp.cli.scores import METRICS, Auc

N = 1003


def batches(*arrays: Any) -> Iterator[Any]:
    """Rows of several arrays, 100 at a time."""
    for first in range(0, len(arrays[0]), 100):
        yield tuple(array[first : first + 100] for array in arrays)


def scored(task: Any, name: str, y: Any, predictions: Any) -> float:
    metric = METRICS[task][name]()
    for part in batches(y, predictions):
        metric.add(*part)
    return metric.value()


@pytest.mark.parametrize("n_classes", [2, 3, 300])
def test_scores_of_classes(rng: np.random.Generator, n_classes: int) -> None:
    codes = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=N - n_classes)])
    p = rng.random((N, n_classes)).astype(np.float32)
    p[np.arange(N), codes] += rng.random(N, np.float32)
    p /= p.sum(axis=1, keepdims=True)
    p[:, 0] += 1 - p.sum(axis=1)
    exact = p / p.sum(axis=1, dtype=np.float64)[:, None]
    options: Any = {} if n_classes == 2 else {"multi_class": "ovr"}
    area = metrics.roc_auc_score(codes, p[:, 1] if n_classes == 2 else exact, **options)
    expected = {
        "accuracy": metrics.accuracy_score(codes, p.argmax(axis=1)),
        "log_loss": metrics.log_loss(codes, exact),
        "auc": area,
    }
    assert {*expected} == {*METRICS["classification"]}
    for name, value in expected.items():
        assert scored("classification", name, codes, p) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("center", [0.0, 1e8])
def test_scores_of_numbers(rng: np.random.Generator, center: float) -> None:
    y = rng.normal(center, 2, N)
    result = y + rng.normal(size=N)
    expected = {
        "rmse": metrics.root_mean_squared_error(y, result),
        "mae": metrics.mean_absolute_error(y, result),
        "r2": metrics.r2_score(y, result),
    }
    assert {*expected} == {*METRICS["regression"]}
    for name, value in expected.items():
        assert scored("regression", name, y, result) == pytest.approx(
            value, rel=1e-9 if center else 1e-12
        )
    assert np.isnan(scored("regression", "r2", np.ones(N), result))


def test_only_the_area_keeps_rows(rng: np.random.Generator) -> None:
    """Five bytes a row of two classes, a probability and a class; others keep none."""
    n, made = 1000, [make() for task in METRICS.values() for make in task.values()]
    y, p = rng.integers(2, size=n), rng.random((n, 2), np.float32)
    for metric in made:
        args = (y, p) if metric in made[:3] else (y.astype(float), p[:, 0].astype(float))
        metric.add(*args)
        tracemalloc.start()
        for _ in range(200):
            metric.add(*args)
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        most = 200 * (5 * n + 600) if isinstance(metric, Auc) else 20_000
        assert grown < most
