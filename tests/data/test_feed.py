"""Arrays and memory maps, a block at a time, and a feed's reading thread."""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastmlp import MLP, Blocks
from fastmlp.backends.cpu import dispatch, limits
from fastmlp.backends.cpu.dispatch import Work
from fastmlp.data import feed as feeding
from fastmlp.data.feed import Feed, feed_of
from fastmlp.data.sources import Reading, SourceSlice
from fastmlp.model import core_of

WAIT_SECONDS = 20.0
ONE_EPOCH = Reading(1, 4, True, 128)


class Source:
    """Blocks of 64 rows, of which reads wait from the fourth on."""

    block_sizes = (64,) * 12

    def __init__(self) -> None:
        self.n_read, self.free = 0, threading.Semaphore(3)

    def read(self, i: int) -> Any:
        assert self.free.acquire(timeout=WAIT_SECONDS)
        self.n_read += 1
        return np.zeros((64, 3)), np.zeros(64)


def feed(source: Any, reading: Reading = ONE_EPOCH) -> Feed:
    network = core_of(MLP((3, 4, 1), seed=0)).engine.network
    result = feed_of(source, None, None, network, reading, "MLP.fit")
    assert result is not None
    return result


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("computes", [True, False])
def test_training_has_a_thread_less_while_a_buffer_is_read(
    computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0 if computes else 1e9)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    source, less = Source(), 3 if computes else 4
    # Of the first buffer, and of the block after it.
    feed_of_source = feed(source)
    assert limits.free_threads(4) == 4
    feed_of_source.start(0)
    assert limits.free_threads(4) == less
    for _ in range(5):
        source.free.release(2)
        feed_of_source.next()
        assert limits.free_threads(4) == (4 if feed_of_source.ends else less)
    assert feed_of_source.ends
    feed_of_source.close()
    assert limits.free_threads(4) == 4


@pytest.mark.usefixtures("four_threads")
def test_a_feed_that_goes_on_reads_to_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    source = Source()
    running = feed(source, Reading(3, 4, True, 128, 32))
    running.start(1)
    # Of the two blocks of a buffer, the next one's wait until the threads are counted.
    for n_blocks, n_free in ((1, 3), (2, 4)):
        source.free.release(n_blocks)
        running.next()
        assert running.ends
        assert limits.free_threads(4) == n_free
    running.close()


@pytest.mark.usefixtures("four_threads")
def test_the_thread_is_given_back_if_a_read_blocks_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    monkeypatch.setattr(feeding, "END_SECONDS", 0.01)
    source = Source()
    feed_of_source = feed(source)
    feed_of_source.start(0)
    feed_of_source.close()
    assert limits.free_threads(4) == 4
    source.free.release(20)
    feed_of_source._reader._thread.join(WAIT_SECONDS)  # type: ignore[union-attr]


@pytest.mark.usefixtures("four_threads")
def test_a_call_beside_others_is_not_timed_as_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autotuner would take one thread's time for a team's."""
    monkeypatch.setattr(dispatch, "pays", lambda work, n: n > 1)
    kind, work = ("a kind of its own",), Work(10**9, 1)
    alone = dispatch.threads_for(work, kind, 2)
    assert alone.n == 2
    with limits.reserved(3):
        beside = dispatch.threads_for(work, kind, 2)
    assert beside.n == 1
    assert beside.tuner is not alone.tuner


def test_bits_do_not_depend_on_the_threads_that_the_reading_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4096, 20))
    source = Blocks.from_arrays(X, X[:, 0] * X[:, 1], rows=256)
    nets = []
    for seconds in (-1.0, 1e9):
        monkeypatch.setattr(feeding, "LEAST_SECONDS", seconds)
        net = MLP((20, 128, 64, 1), seed=0)
        net.fit(source, epochs=3, batch_size=64, buffer_rows=1024)
        nets.append(net.parameters.tobytes())
    assert nets[0] == nets[1]


X = np.arange(60, dtype=np.float32).reshape(20, 3)
Y = np.arange(20)


def joined(source: Any) -> list[Any]:
    read = [source.read(i) for i in range(len(source.block_sizes))]
    return [np.concatenate(parts) for parts in zip(*read, strict=True)]


def test_arrays_come_in_blocks() -> None:
    source = Blocks.from_arrays(X, Y, Y / 2, rows=8, seed=3)
    assert source.block_sizes == (8, 8, 4)
    assert [len(np.asarray(part)) for part in source.read(2)] == [4, 4, 4]
    x, y, weight = joined(source)
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert np.array_equal(weight, Y / 2)
    assert repr(source) == "Blocks(20 rows in 3 blocks, seed=3)"


class Uneven(NamedTuple):
    values: Any
    block_sizes: list[int]

    def read(self, i: int) -> Any:
        return (np.split(self.values, np.cumsum(self.block_sizes))[i],)


@pytest.mark.parametrize("seed", range(20))
def test_a_part_of_a_source_has_its_rows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 5, 8).tolist()
    values = np.arange(sum(sizes))
    first, last = sorted(draw.integers(0, len(values) + 1, 2).tolist())
    part = SourceSlice(Uneven(values, sizes), first, last)
    blocks = [part.read(i)[0] for i in range(len(part.block_sizes))]
    assert [*map(len, blocks)] == [*part.block_sizes]
    assert [*np.concatenate([[], *blocks])] == [*range(first, last)]


def test_frames_are_read_by_position() -> None:
    pandas = pytest.importorskip("pandas", reason="frames are pandas'")
    frame = pandas.DataFrame(X, index=Y[::-1])
    assert np.array_equal(joined(Blocks.from_arrays(frame, frame[0], rows=6))[0], X)


@pytest.mark.parametrize("first", [0, 7])
def test_maps_are_read_from_their_files(first: int, tmp_path: Path) -> None:
    """Also slices of maps, whose attribute `offset` is that of the whole file."""
    np.save(tmp_path / "X.npy", X)
    raw = np.memmap(tmp_path / "y", np.int64, "w+", offset=0, shape=(20,))
    raw[:] = Y
    raw.flush()
    x, y = np.load(tmp_path / "X.npy", mmap_mode="r")[first:], raw[first:]
    read = joined(Blocks.from_memmap(x, y, rows=8))
    assert np.array_equal(read[0], X[first:])
    assert np.array_equal(read[1], Y[first:])
    assert not isinstance(Blocks.from_memmap(x, y).read(0)[0], np.memmap)
    # What is not contiguous is read by its map.
    assert np.array_equal(joined(Blocks.from_memmap(x[:, 1:], y, rows=8))[0], X[first:, 1:])


def test_a_file_that_was_cut_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, X)
    source = Blocks.from_memmap(np.load(path, mmap_mode="r"), Y, rows=5)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 12)
    with pytest.raises(OSError, match=r"X\.npy ends before row 19: has it been cut\?"):
        MLP((3, 4, 1), seed=0).fit(source, epochs=1)
