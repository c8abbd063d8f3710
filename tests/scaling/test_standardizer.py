"""Standardizer: against scikit-learn's scalers, and in blocks of any size."""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.preprocessing import RobustScaler, StandardScaler

from fastmlp import Blocks, Standardizer
from fastmlp.scaling import standardizer
from fastmlp.scaling.standardizer import Sample

rng = np.random.default_rng(0)
N = 3000
# Large means, long tails, few values, one value, one value that has no float exactly.
X = np.column_stack(
    [
        rng.normal(1e6, 1e-2, N),
        rng.lognormal(3, 2, N),
        rng.integers(0, 3, N),
        np.full(N, 7.0),
        np.full(N, 0.1),
        rng.normal(0, 1e-200, N),
    ]
)
NAMES = [*"abcdef"]


class Stored:
    """Blocks in storage."""

    block_sizes = (1000, 0, 1, 1999)

    def read(self, i: int) -> tuple[Any, Any]:
        start = sum(self.block_sizes[:i])
        rows = X[start : start + self.block_sizes[i]]
        return rows, rows[:, 0]


def stream() -> Iterator[tuple[Any, ...]]:
    blocks = Stored()
    return (blocks.read(i) for i in range(4))


FRAME = pd.DataFrame(X, columns=NAMES)
SOURCES: dict[str, Any] = {
    "an array": lambda: X,
    "a list of rows": lambda: X.tolist(),
    "a transposed array": lambda: np.asfortranarray(X),
    "pandas": lambda: FRAME,
    "polars": lambda: pl.DataFrame(X, schema=NAMES),
    "arrow": lambda: pa.table(FRAME),
    "blocks": Stored,
    "a function": lambda: stream,
    "a generator": stream,
    "a list of blocks": lambda: [X[:7], X[7:]],
    "a list of pairs": lambda: [(X[:7], None), (X[7:], None)],
    "batches": lambda: pa.table(FRAME).to_batches(max_chunksize=700),
}


@pytest.mark.parametrize("form", SOURCES)
def test_moments_are_those_of_scikit_learn(form: str) -> None:
    scaler, peer = Standardizer().fit(SOURCES[form]()), StandardScaler().fit(X)
    assert scaler.n_rows == N
    np.testing.assert_allclose(scaler.center, peer.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, peer.scale_, rtol=1e-12)
    expected = peer.transform(X)
    # One bit of a mean of 1e6 is 1.2e-8 of a deviation of 1e-2.
    np.testing.assert_allclose(scaler.transform(X), expected, rtol=1e-12, atol=2e-8)
    named = form in ("pandas", "polars", "arrow", "batches")
    assert scaler.feature_names == (tuple(NAMES) if named else None)


@pytest.mark.parametrize("form", SOURCES)
def test_quartiles_are_those_of_scikit_learn(form: str) -> None:
    scaler, peer = Standardizer(robust=True).fit(SOURCES[form]()), RobustScaler().fit(X)
    np.testing.assert_allclose(scaler.center, peer.center_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, peer.scale_, rtol=1e-12)
    np.testing.assert_allclose(scaler.transform(X), peer.transform(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("robust", [False, True])
def test_parts_are_the_whole(robust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standardizer, "SAMPLE", 500)
    whole = Standardizer(robust=robust, seed=3).fit(X)
    parts = Standardizer(robust=robust, seed=3)
    for start in range(0, N, 97):
        parts.partial_fit(X[start : start + 97])
        if start == 970:
            parts = pickle.loads(pickle.dumps(copy.deepcopy(parts)))
    np.testing.assert_allclose(parts.center, whole.center, rtol=1e-13)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-11)
    assert parts.fit(X).center.tobytes() == whole.center.tobytes()


def test_a_sample_takes_every_row_with_the_same_chance() -> None:
    taken = np.zeros(60)
    for seed in range(2000):
        sample = Sample(20, np.random.default_rng(seed))
        for block in np.split(np.arange(60.0)[:, None], [5, 33, 34]):
            sample.add(block)
        rows = sample.rows()[:, 0].astype(int)
        assert len({*rows}) == 20
        taken[rows] += 1
    # Each of 60 rows is in a third of the samples; five standard deviations.
    assert np.abs(taken - 2000 / 3).max() < 5 * np.sqrt(2000 * 2 / 9)


def test_float32_stays_float32_and_is_summed_in_float64() -> None:
    x = rng.normal(1000, 1, (300_000, 1)).astype(np.float32)
    scaler = Standardizer().fit(x)
    np.testing.assert_allclose(scaler.center, x.astype(float).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(scaler.scale, x.astype(float).std(axis=0), rtol=1e-11)
    scaled = scaler.transform(x)
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous
    assert abs(scaled.mean(dtype=float)) < 1e-6


def test_columns_by_name() -> None:
    scaler = Standardizer().fit(FRAME)
    mixed = FRAME[NAMES[::-1]].assign(id="u")
    assert scaler.transform(mixed).tobytes() == scaler.transform(FRAME).tobytes()
    with pytest.raises(ValueError, match=r"transform: X lacks 1 of the 6 known columns: 'a'$"):
        scaler.transform(FRAME.drop(columns="a"))
    assert scaler.partial_fit(mixed).n_rows == 2 * N
    blocks = Blocks.from_arrow(pa.table(FRAME), target="a", rows=500)
    scaler = Standardizer().fit(blocks)
    assert scaler.feature_names == (*"bcdef",)
    np.testing.assert_allclose(scaler.center, X[:, 1:].mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Standardizer().center, "Standardizer.center: nothing has been learned; call fit$"),
        (lambda: Standardizer().transform(X), "transform: nothing has been learned; call fit$"),
        (lambda: Standardizer().fit([]), "Standardizer.fit: there are no rows$"),
        (lambda: Standardizer().fit(iter([X[:0]])), "Standardizer.fit: there are no rows$"),
        (
            lambda: Standardizer().fit([X[:5], X[:5, :4]]),
            "Standardizer.fit: block 1: X has 4 features, but there were 6 before$",
        ),
        (
            lambda: Standardizer().fit([FRAME, FRAME.assign(b=["u"] * N)]),
            r"block 1: X must hold real numbers, got dtype \w+: text, such as 'u' in column 'b'",
        ),
        (
            lambda: Standardizer().fit([FRAME, FRAME.assign(b=[None] * N)]),
            "fit: block 1: X has 3000 missing values in column 'b'; fill",
        ),
        (lambda: Standardizer().partial_fit([1.0, 2.0]), r"partial_fit: X must have shape \(n_ro"),
        (lambda: Standardizer().partial_fit([[np.inf]]), "X must be finite as float64, got inf in"),
        (lambda: Standardizer(seed=-1), "Standardizer: seed must be an integer of 0 or more, got"),
        (lambda: Standardizer(robust=1), "Standardizer: robust must be True or False, got 1$"),
    ],
)
def test_errors(call: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_its_form() -> None:
    scaler = Standardizer(robust=True)
    assert repr(scaler) == "Standardizer(robust=True)"
    assert repr(scaler.fit(X)) == "<Standardizer(robust=True): 6 columns, 3000 rows>"
