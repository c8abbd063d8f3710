"""Strips of rows: all rows once, in order, whatever the threads."""

import threading
import warnings
from typing import Any

import numpy as np
import pytest

from fastmlp._process.task_pool import Pool, Task
from fastmlp._process.warnings import warn
from fastmlp.tabular.pack import strips
from fastmlp.tabular.pack.inputs import FEWEST_ROWS
from fastmlp.tabular.pack.strips import CHUNK, in_strips


@pytest.fixture
def n_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    n = int(request.param)
    monkeypatch.setattr(strips, "n_threads_of", lambda given: n)
    monkeypatch.setattr(strips, "pool_of", lambda given: Pool(n))
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
