"""Free lists of predictions: one call at a time takes an object, without a user's rows in it."""

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp._process.buffer_pool import MOST, BufferPool, FreeList
from fastmlp.backends.cpu.predict import predictor, row_blocks
from fastmlp.compiler.jit import INTERPRETED


class Rows(np.ndarray):
    """An array that can be watched."""


def test_a_thing_is_taken_once_and_by_its_key_alone() -> None:
    idle = FreeList()
    assert idle.take("a") is None
    idle.give("a", 1)
    assert idle.take("a") == 1
    assert idle.take("a") is None
    idle.give("a", 1)
    assert idle.take("b") is None
    assert idle.take("a") is None


def test_no_more_are_kept_than_threads_may_want() -> None:
    idle = FreeList()
    for thing in range(2 * MOST):
        idle.give("a", thing)
    assert sorted(idle.take("a") for _ in range(MOST)) == list(range(MOST))
    assert idle.take("a") is None


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_begins_with_none(duplicate: Any) -> None:
    idle = FreeList()
    idle.give("a", 1)
    assert duplicate(idle).take("a") is None
    assert idle.take("a") == 1


def test_of_large_things_the_oldest_goes_first() -> None:
    kept = BufferPool(100)
    for thing, n_bytes in ((1, 40), (2, 40), (3, 40)):
        kept.give(thing % 2, thing, n_bytes)
    assert kept.n_bytes == 80
    assert (kept.take(0), kept.take(1), kept.take(1)) == (2, 3, None)
    assert kept.n_bytes == 0


def test_what_is_too_large_is_not_kept_and_takes_nobodys_place() -> None:
    kept = BufferPool(100)
    kept.give("a", 1, 100)
    kept.give("a", 2, 101)
    assert (kept.take("a"), kept.take("a")) == (1, None)


def test_small_things_are_kept_by_their_number() -> None:
    kept = BufferPool(100)
    for thing in range(2 * MOST):
        kept.give("a", thing, 1)
    assert kept.n_bytes == MOST
    kept.clear()
    assert kept.take("a") is None


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How often buffers for predictions of more than 64 rows were made."""
    monkeypatch.setattr(predictor, "GIL_ROWS", 64)
    seen: list[Any] = []
    original = row_blocks.RowBlocks.__init__

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        seen.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(row_blocks.RowBlocks, "__init__", counted)
    return seen


def test_buffers_are_made_once_for_any_number_of_rows(made: list[Any]) -> None:
    net, rng = MLP((3, 5, 2), seed=0, dtype="float64"), np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    expected = np.concatenate([net.predict(x[i : i + 1]) for i in range(1000)])
    for n in (100, 1000, 65, 300):
        assert np.array_equal(net.predict(x[:n]), expected[:n])
    net.parameters[:] *= 2
    assert not np.array_equal(net.predict(x), expected)
    assert len(made) == 1


def test_raw_outputs_and_another_number_of_threads_have_their_own(made: list[Any]) -> None:
    net, x = MLP((3, 5, 2), loss="cross_entropy", seed=0), np.ones((100, 3), np.float32)
    probabilities, raw = net.predict(x), net.predict_raw(x)
    assert not np.array_equal(probabilities, raw)
    assert np.array_equal(net.predict(x), probabilities)
    net.n_threads = 1
    assert np.array_equal(net.predict(x), probabilities)
    assert len(made) == 4


@pytest.mark.usefixtures("made")
def test_the_rows_are_let_go() -> None:
    net = MLP((3, 5, 2), seed=0)
    x = np.ones((100, 3), np.float32).view(Rows)
    gone = weakref.ref(x)
    net.predict(x)
    del x
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("made")
def test_threads_do_not_share_what_is_in_use() -> None:
    net, rng = MLP((3, 16, 2), seed=0), np.random.default_rng(0)
    parts = [rng.normal(size=(500, 3)).astype(np.float32) for _ in range(4)]
    expected = [net.predict(part) for part in parts]
    wrong: list[int] = []

    def predict(i: int) -> None:
        for _ in range(2 if INTERPRETED else 50):
            if not np.array_equal(net.predict(parts[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=predict, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
