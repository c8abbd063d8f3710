"""Rows of packs: folds with classes alike, and strips: all rows once, in order."""

import threading
import warnings
from typing import Any

import numpy as np
import pytest

from fastmlp._process.task_pool import Pool, Task
from fastmlp._process.warnings import warn
from fastmlp.tabular.pack import rows
from fastmlp.tabular.pack.rows import CHUNK, FEWEST_ROWS, folds_of, in_strips


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_classes_are_dealt_out_evenly(n_folds: int) -> None:
    generator = np.random.default_rng(0)
    y = generator.choice(4, 203, p=[0.7, 0.2, 0.08, 0.02])
    folds = folds_of(y, n_folds, generator)
    for label in range(4):
        counts = np.bincount(folds[y == label], minlength=n_folds)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds, minlength=n_folds)) <= 1


def test_numbers_are_dealt_out_by_their_order() -> None:
    y = np.random.default_rng(1).normal(size=500)
    folds = folds_of(y, 5, np.random.default_rng(0))
    means = [y[folds == k].mean() for k in range(5)]
    assert np.ptp(means) < 0.1


def test_equal_rows_are_dealt_out_at_random() -> None:
    y = np.zeros(100, np.int64)
    first, second = (folds_of(y, 5, np.random.default_rng(seed)) for seed in range(2))
    assert (first != second).any()


@pytest.fixture
def n_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    n = int(request.param)
    monkeypatch.setattr(rows, "n_threads_of", lambda given: n)
    monkeypatch.setattr(rows, "pool_of", lambda given: Pool(n))
    return n


several = pytest.mark.parametrize("n_threads", [1, 2, 64], indirect=True)


@several
@pytest.mark.parametrize("n_rows", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 20 * CHUNK])
def test_every_row_is_in_one_strip(n_rows: int, n_threads: int) -> None:
    found = in_strips(n_rows, lambda rows: np.arange(n_rows)[rows])
    np.testing.assert_array_equal(np.concatenate(found), np.arange(n_rows))
    sizes = [len(each) for each in found]
    assert max(sizes) <= CHUNK
    assert max(sizes) - min(sizes) <= 1
    if n_rows > CHUNK:
        # The bits of a row do not depend on the strip: all are predicted in short.
        assert min(sizes) >= CHUNK // 2 > FEWEST_ROWS
    if n_rows == 20 * CHUNK:
        assert len(found) in (20, 40)


@pytest.mark.parametrize("n_threads", [2], indirect=True)
def test_threads_share_the_strips(n_threads: int) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(rows: slice) -> int:
        both.wait()
        return threading.get_ident()

    assert len({*in_strips(2 * CHUNK, meet)}) == 2


@pytest.mark.parametrize("n_threads", [2], indirect=True)
def test_warnings_and_errors_come_through(n_threads: int) -> None:
    def tell(rows: slice) -> Any:
        warn(f"from {rows.start}", UserWarning)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        in_strips(2 * CHUNK, tell)
    assert [str(each.message) for each in told] == ["from 0", f"from {CHUNK}"]

    def fail(rows: slice) -> Any:
        raise LookupError(f"at {rows.start}")

    with pytest.raises(LookupError, match="at "):
        in_strips(2 * CHUNK, fail)


def test_a_task_of_a_pool_uses_its_share_of_the_threads() -> None:
    seen: list[int] = []

    def task() -> None:
        in_strips(4 * CHUNK, lambda rows: seen.append(threading.get_ident()))

    Pool(1).run([Task(1, task)], "")
    assert len(seen) == 4
    assert len({*seen}) == 1
