"""Scores of rows that are read batch by batch, beside their formulas."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fastmlp.cli.tables import METRICS, score
from fastmlp.data.arrow import Place
from fastmlp.data.batches import PredictBatch

N = 1003


def batches(y: Any, predictions: Any) -> Iterator[PredictBatch]:
    """Rows that are their predictions, 100 at a time."""
    for first in range(0, N, 100):
        part, where = slice(first, first + 100), Place("rows", first)
        rows = pa.table({str(j): column for j, column in enumerate(predictions[part].T)})
        yield PredictBatch(rows, where, pa.record_batch({"y": pa.array(y[part])}))


def scored(y: Any, predictions: Any, **classes: Any) -> dict[str, float]:
    def method(rows: Any) -> Any:
        return np.column_stack([column.to_numpy() for column in rows.columns])

    task: Any = "classification" if classes else "regression"
    model = SimpleNamespace(
        predict_proba=method, predict=lambda rows: method(rows)[:, 0], **classes
    )
    return score(model, batches(y, predictions), "y", "score", [*METRICS[task]])


@pytest.mark.parametrize("n_classes", [2, 3, 30])
def test_scores_of_classes(rng: np.random.Generator, n_classes: int) -> None:
    codes = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=N - n_classes)])
    p = rng.random((N, n_classes)).astype(np.float32)
    p[np.arange(N), codes] += rng.random(N, np.float32)
    scores = scored(codes, p, classes_=np.arange(n_classes))
    p = p / p.sum(axis=1, keepdims=True, dtype=np.float64)
    above = []
    for code in range(1 if n_classes == 2 else 0, n_classes):
        inside, outside = p[codes == code, code], p[codes != code, code]
        ahead = np.sign(inside[:, None] - outside)
        above.append((ahead.mean() + 1) / 2)
    expected = {
        "accuracy": np.mean(p.argmax(axis=1) == codes),
        "log_loss": -np.mean(np.log(p[np.arange(N), codes])),
        "auc": np.mean(above),
    }
    assert scores == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("center", [0.0, 1e6])
def test_scores_of_numbers(rng: np.random.Generator, center: float) -> None:
    y = rng.normal(center, 2, N)
    result = y + rng.normal(size=N)
    error = y - result
    expected = {
        "rmse": np.sqrt(np.mean(error**2)),
        "mae": np.mean(np.abs(error)),
        "r2": 1 - np.sum(error**2) / np.sum((y - y.mean()) ** 2),
    }
    assert scored(y, result[:, None]) == pytest.approx(expected, rel=1e-9)
