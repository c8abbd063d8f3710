"""Sizes are looked at before memory is asked for;
one call at a time takes a kept object.
"""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import in_threads

from fastmlp import MLP
from fastmlp._process import memory
from fastmlp._process.memory import MOST_BUFFERS, BufferPool, FreeList
from fastmlp.backends.cpu.plan import plan
from fastmlp.backends.cpu.predict import predictor, row_blocks
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network.spec import make_layout

HUGE = [(10**6, 10**6, 1), (2**31, 2**31), (2**62, 2), (2**40, 1, 2**40), (1, 2**61)]


@pytest.mark.parametrize("sizes", HUGE, ids=str)
def test_a_net_that_cannot_be_names_its_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(
        MemoryError, match=r"MLP: layer_sizes=\(.*parameters needs .* available"
    ):
        MLP(sizes)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)


@pytest.mark.usefixtures("little")
def test_data_predictions_and_workspaces_are_looked_at() -> None:
    net = MLP((2, 100, 1), seed=0)
    x = np.zeros((200_000, 2))
    with pytest.raises(
        MemoryError, match=r"MLP.predict: X as float32, shape \(200000, 2\), needs 1"
    ):
        net.predict(x)
    with pytest.raises(MemoryError, match=r"MLP.fit: X as float32"):
        net.fit(x, x[:, 0])
    wide = MLP((2, 100), seed=0)
    with pytest.raises(
        MemoryError, match=r"predictions of shape \(9000, 100\) needs 3.6 MB"
    ):
        wide.predict(np.zeros((9000, 2), np.float32))
    with pytest.raises(
        MemoryError, match=r"a workspace of .* rows needs .* MB, and 1 MB are avail"
    ):
        plan.make_workspace(
            make_layout((2, 100, 1)), 9000, 1, "float32", 16, train=True
        )
    several = MLP((2, 3000, 1), seed=0)
    with pytest.raises(MemoryError, match="MLP: a workspace of"):
        several.fit(
            np.zeros((500, 2), np.float32), np.zeros(500), batch_size=500, epochs=1
        )
    # And what fits goes on.
    assert net.fit(x[:10], x[:10, 0], epochs=1).loss


LIMITED = """
import resource
from fastmlp import MLP
space = 4 << 30
resource.setrlimit(resource.RLIMIT_AS, (space, space))
try:
    MLP((20_000, 20_000, 1))
except MemoryError as error:
    print(error)
print(MLP((20, 20, 1), seed=0).fit([[0.0] * 20], [1.0], epochs=1).status.name)
"""


@pytest.mark.slow
def test_a_limit_of_the_address_space_counts(python: Callable[..., str]) -> None:
    pytest.importorskip("resource")
    told, status = python(LIMITED).splitlines()
    assert told.startswith(
        "MLP: layer_sizes=(20000, 20000, 1): making 400,040,001 parameters"
    )
    assert status == "COMPLETED"


def test_a_control_groups_rest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\nfile 300000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    most = memory.available()
    assert most is None or most > 1_000_000


def test_where_nothing_tells_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_machine", "_control_group", "_address_space"):
        monkeypatch.setattr(memory, name, lambda: None)
    memory.require(1 << 60, "test", "everything")
    monkeypatch.setattr(memory, "_machine", lambda: 1)
    with pytest.raises(
        MemoryError, match=r"test: everything needs 1.15 EB, and 1 bytes are avail"
    ):
        memory.require(1 << 60, "test", "everything")


class Rows(np.ndarray):
    """An array that can be watched."""


def test_kept_things_are_bounded_by_key_number_and_size() -> None:
    idle = FreeList()
    assert idle.take("a") is None
    idle.give("a", 1)
    assert idle.take("a") == 1
    assert idle.take("a") is None
    idle.give("a", 1)
    idle.give("b", 2)
    assert idle.take("c") is None
    assert (idle.take("b"), idle.take("a"), idle.take("b")) == (2, 1, None)
    idle = FreeList()
    for thing in range(2 * MOST_BUFFERS):
        idle.give("a", thing)
    assert [idle.take("a") for _ in range(MOST_BUFFERS)] == [
        *range(MOST_BUFFERS, 2 * MOST_BUFFERS)
    ]
    assert idle.take("a") is None
    kept = BufferPool(100)
    for thing, n_bytes in ((1, 40), (2, 40), (3, 40)):
        kept.give(thing % 2, thing, n_bytes)
    assert kept.n_bytes == 80
    assert (kept.take(0), kept.take(1), kept.take(1)) == (2, 3, None)
    assert kept.n_bytes == 0
    kept = BufferPool(100)
    kept.give("a", 1, 100)
    kept.give("a", 2, 101)
    assert (kept.take("a"), kept.take("a")) == (1, None)
    kept = BufferPool(100)
    for thing in range(2 * MOST_BUFFERS):
        kept.give("a", thing, 1)
    assert kept.n_bytes == MOST_BUFFERS
    kept.clear()
    assert kept.take("a") is None


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_begins_with_none(duplicate: Any) -> None:
    idle = FreeList()
    idle.give("a", 1)
    assert duplicate(idle).take("a") is None
    assert idle.take("a") == 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(predictor, "GIL_ROWS", 64)
    seen: list[Any] = []
    original = row_blocks.RowBlocks.__init__

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        seen.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(row_blocks.RowBlocks, "__init__", counted)
    return seen


@pytest.mark.slow
def test_buffers_are_made_once_for_any_number_of_rows(made: list[Any]) -> None:
    net = MLP((3, 5, 2), seed=0, dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    expected = np.concatenate([net.predict(x[i : i + 1]) for i in range(1000)])
    for n in (100, 1000, 65, 300):
        assert np.array_equal(net.predict(x[:n]), expected[:n])
    net.parameters[:] *= 2
    assert not np.array_equal(net.predict(x), expected)
    assert len(made) == 1


def test_raw_outputs_and_another_number_of_threads_have_their_own(
    made: list[Any],
) -> None:
    net = MLP((3, 5, 2), loss="cross_entropy", seed=0)
    x = np.ones((100, 3), np.float32)
    probabilities, raw = net.predict(x), net.predict_raw(x)
    assert not np.array_equal(probabilities, raw)
    assert np.array_equal(net.predict(x), probabilities)
    net.n_threads = 1
    assert np.array_equal(net.predict(x), probabilities)
    assert len(made) == 3


@pytest.mark.slow
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
    net = MLP((3, 16, 2), seed=0)
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(500, 3)).astype(np.float32) for _ in range(4)]
    expected = [net.predict(part) for part in parts]
    wrong: list[int] = []

    def predict(i: int) -> None:
        for _ in range(2 if INTERPRETED else 50):
            if not np.array_equal(net.predict(parts[i]), expected[i]):
                wrong.append(i)

    in_threads(predict, 4)
    assert not wrong
