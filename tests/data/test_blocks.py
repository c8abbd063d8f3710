"""Blocks: arrays and memory maps, a block at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Blocks

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


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((X, Y[1:]), {}, "Blocks.from_arrays: X has 20 rows, but y has 19"),
        ((X, Y, Y[:3]), {}, "Blocks.from_arrays: X has 20 rows, but sample_weight has 3"),
        ((X, 1.0), {}, "Blocks.from_arrays: y must be an array, got float"),
        ((X, Y), {"rows": 0}, "Blocks.from_arrays: rows must be an integer of 1 or more, got 0"),
        ((X, Y), {"seed": -1}, "Blocks.from_arrays: seed must be an integer of 0 or more, got -1"),
    ],
)
def test_what_is_refused(arguments: Any, settings: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Blocks.from_arrays(*arguments, **settings)
