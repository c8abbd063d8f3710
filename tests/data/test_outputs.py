"""A block at a time: arrays and memory maps are read,
predictions written to Arrow and Parquet.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from fitting import peak_of
from small_models import forms_of, in_pieces

from fastmlp import (
    MLP,
    Blocks,
    MLPClassifier,
    MLPRegressor,
    predict_arrow,
    predict_parquet,
)
from fastmlp.backends.cpu import dispatch, limits
from fastmlp.backends.cpu.dispatch import Work
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.data import feed as feeding
from fastmlp.data.feed import Feed, feed_of
from fastmlp.data.sources import Reading, SourceSlice
from fastmlp.model import core_of

rng = np.random.default_rng(0)
N = 1000
X = np.column_stack([rng.normal(size=(N, 2)), rng.integers(9, size=N)])
LABELS = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
# The columns stand in another order than the net's, among others.
TABLE = pa.table(
    {
        "id": [f"row {i}" for i in range(N)],
        "c": X[:, 2].astype(np.int16),
        "b": X[:, 1],
        "day": ["Monday"] * N,
        "a": X[:, 0],
    }
)
PIECES = in_pieces(TABLE)


def net(outputs: int = 1, **settings: Any) -> MLP:
    made = MLP((3, 8, outputs), seed=1, **settings)
    made.feature_names = ["a", "b", "c"]
    return made


def stream() -> Iterator[Any]:
    for first in range(0, N, 130):
        yield X[first : first + 130]
        yield X[:0]


TABLES = forms_of(TABLE)
SOURCES = TABLES | {
    "array": lambda folder: X,
    "list": lambda folder: X.tolist(),
    "blocks": lambda folder: [X[:300], (X[300:], None)],
    "stream": lambda folder: stream,
    "generator": lambda folder: ((part, None) for part in stream()),
    "Blocks": lambda folder: Blocks.from_arrays(X, LABELS, rows=170),
    "named blocks": lambda folder: Blocks.from_arrow(
        TABLE.append_column("y", TABLE["a"]),
        target="y",
        features=["c", "a", "b"],
        rows=170,
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_has_the_predictions_of_arrays(name: str, tmp_path: Path) -> None:
    model = net()
    whole = net().predict(X)
    parts = list(model.predict_batches(SOURCES[name](tmp_path), batch_rows=100))
    assert max(map(len, parts)) <= 100
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_kept_beside_predictions(name: str, tmp_path: Path) -> None:
    out = predict_arrow(
        net(), TABLES[name](tmp_path), keep=["id", "a"], output="y", batch_rows=64
    )
    table = out.read_all()
    assert table.schema.names == ["id", "a", "y"]
    assert table["id"].to_pylist() == TABLE["id"].to_pylist()
    assert np.array_equal(table["a"], X[:, 0])
    assert np.array_equal(table["y"], net().predict(X)[:, 0])


def columns(model: Any, source: Any = TABLE) -> dict[str, Any]:
    table = predict_arrow(model, source, batch_rows=300).read_all()
    return {name: np.asarray(table[name]) for name in table.schema.names}


def test_columns_of_nets() -> None:
    softmax = net(3, loss="cross_entropy")
    result = columns(softmax)
    p = softmax.predict(X)
    assert list(result) == [
        "probability_0",
        "probability_1",
        "probability_2",
        "prediction",
    ]
    assert np.array_equal(result["probability_2"], p[:, 2])
    assert np.array_equal(result["prediction"], p.argmax(1))
    sigmoid = net(loss="binary_cross_entropy")
    result = columns(sigmoid)
    p = sigmoid.predict(X)
    assert list(result) == ["probability_0", "probability_1", "prediction"]
    assert np.array_equal(result["prediction"], p[:, 0] > 0.5)
    result = columns(net(2, loss="binary_cross_entropy"))
    assert list(result) == [
        "probability_0",
        "probability_1",
        "prediction_0",
        "prediction_1",
    ]
    result = columns(net(2))
    assert list(result) == ["prediction_0", "prediction_1"]
    assert np.array_equal(result["prediction_1"], net(2).predict(X)[:, 1])


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_columns_of_estimators(tmp_path: Path) -> None:
    frame = TABLE.select(["a", "b", "c"]).to_pandas()
    path = tmp_path / "out.parquet"
    for rows in (frame, X):
        model = MLPClassifier((4,), max_iter=2, random_state=0).fit(rows, LABELS)
        if rows is frame:
            table = TABLE
        else:
            table = TABLE.select(["id", "a", "b", "c"])
        assert predict_parquet(model, table, path, keep="id", batch_rows=300) == N
        result = pq.read_table(path)
        assert result.schema.names == [
            "id",
            "probability_no",
            "probability_yes",
            "prediction",
        ]
        assert result["prediction"].to_pylist() == model.predict(rows).tolist()
        assert np.array_equal(
            result["probability_yes"], model.predict_proba(rows)[:, 1]
        )
        parts = model.predict_batches(
            table.drop(["id"]), method="predict_proba", batch_rows=300
        )
        assert np.array_equal(np.concatenate(list(parts)), model.predict_proba(rows))
    several = np.column_stack([LABELS == "yes", X[:, 0] > 0]).astype(int)
    model = MLPClassifier((4,), max_iter=2, random_state=0).fit(frame, several)
    found_of = columns(model)
    assert list(found_of) == [
        "probability_0",
        "probability_1",
        "prediction_0",
        "prediction_1",
    ]
    assert np.array_equal(found_of["prediction_1"], model.predict(frame)[:, 1])
    bridged = net().as_estimator(epochs=1, random_state=0).fit(frame, X[:, 0])
    parts = bridged.predict_batches(TABLE, batch_rows=300)
    assert np.array_equal(np.concatenate(list(parts)), bridged.predict(frame))


@pytest.mark.parametrize("seed", range(6))
def test_the_ending_of_the_path_says_what_is_written(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    ending = [".parquet", ".csv", ".arrow", ".feather", ".ipc", ".CSV"][seed]
    model = net(1 + int(draw.integers(3)))
    n_rows = int(draw.integers(1, 400))
    path = tmp_path / f"out{ending}"
    assert predict_parquet(model, TABLE, path, keep="id", batch_rows=n_rows) == N
    read: Any = {".parquet": pq.read_table, ".csv": pyarrow.csv.read_csv}
    result = read.get(ending.lower(), pyarrow.feather.read_table)(path)
    expected = predict_arrow(model, TABLE, keep="id").read_all()
    for name in expected.column_names:
        assert result[name].cast(expected[name].type).equals(expected[name])
    other = ["out", "out.txt", "out.parquet.zip", "csv", "out.xlsx", ".parquet"][seed]
    message = r"path must end in \.parquet, \.csv, \.arrow, \.feather, \.ipc, got "
    with pytest.raises(ValueError, match=message):
        predict_parquet(model, TABLE, tmp_path / other)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(TABLE.slice(0, 0), path)
    frame = TABLE.select(["a", "b", "c"]).to_pandas()
    classifier = MLPClassifier((4,), max_iter=1).fit(frame, LABELS)
    for model in (net(), classifier):
        like = predict_arrow(model, TABLE, keep="id").read_all()
        for empty in (path, TABLE.slice(0, 0), TABLE.slice(0, 0).to_reader()):
            assert predict_arrow(model, empty, keep="id").read_all() == like.slice(0, 0)


def test_a_reader_pulls_batch_by_batch() -> None:
    read = []

    def batches() -> Iterator[Any]:
        for k, batch in enumerate(PIECES.to_batches()):
            read.append(k)
            yield batch

    source = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    out = predict_arrow(net(), source)
    assert read == [0]
    out.read_next_batch()
    out.read_next_batch()
    assert read == [0, 1]
    result: Any = pl.from_arrow(out)
    assert len(result) == N - 2 * 170
    assert read == list(range(6))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_errors_of_a_later_batch_name_its_rows(tmp_path: Path) -> None:
    holes = TABLE["b"].to_pylist()
    holes[700] = None
    path = tmp_path / "holes.parquet"
    pq.write_table(TABLE.set_column(2, "b", [holes]), path, row_group_size=170)
    message = f"rows 600 to 699 of {path}: X has 1 missing value in column 'b'"
    with pytest.raises(ValueError, match=message.replace("600 to 699", "700 to 799")):
        list(net().predict_batches(path, batch_rows=100))
    out = tmp_path / "out.parquet"
    out.write_bytes(b"before")
    with pytest.raises(
        ValueError, match="X has 1 missing value in column 'b'"
    ) as caught:
        predict_parquet(net(), path, out, batch_rows=100)
    assert f"in rows 700 to 799 of {path}" in caught.value.__notes__
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2).fit(
        TABLE.select(["a", "b", "c"]), X[:, 0]
    )
    with pytest.raises(ValueError, match="b") as caught:
        list(model.predict_batches(path, batch_rows=100))
    assert f"in rows 700 to 799 of {path}" in caught.value.__notes__
    assert out.read_bytes() == b"before"
    assert {each.name for each in tmp_path.iterdir()} == {
        "holes.parquet",
        "out.parquet",
    }


def test_what_a_source_raises_arrives_with_its_traceback(tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    def breaking() -> Iterator[Any]:
        yield X
        raise Mine("the line went dead")

    def tables() -> Iterator[Any]:
        yield from PIECES.to_batches()
        raise Mine("no table more")

    source = pa.RecordBatchReader.from_batches(TABLE.schema, tables())
    with pytest.raises(Mine, match="no table more"):
        predict_parquet(net(), source, tmp_path / "out.csv")
    parts = net().predict_batches(breaking)
    assert len(next(parts)) == N
    out = tmp_path / "out.csv"
    for call in (lambda: next(parts), lambda: predict_parquet(net(), breaking, out)):
        with pytest.raises(Mine, match="the line went dead") as caught:
            call()
        assert caught.traceback[-1].name == "breaking"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """A stream of 40 or 200 blocks of 160 KB;
    the Arrow pool's bytes are beside NumPy's.
    """
    block = np.zeros((2000, 10))
    model = MLP((10, 8, 1), seed=0)
    path = tmp_path / "out.parquet"
    model.feature_names = [f"x{j}" for j in range(10)]
    arrow = [0]

    def rows(n: int) -> Iterator[Any]:
        for _ in range(n):
            arrow[0] = max(arrow[0], pa.total_allocated_bytes())
            yield block.copy()

    def batches(n: int) -> Iterator[Any]:
        names = model.feature_names
        for one in rows(n):
            yield pa.RecordBatch.from_arrays(
                [pa.array(item) for item in one.T], names=names
            )

    def tables(n: int) -> Any:
        schema = pa.schema([(name, pa.float64()) for name in model.feature_names or ()])
        return pa.RecordBatchReader.from_batches(schema, batches(n))

    calls: list[Callable[[int], object]] = [
        lambda n: sum(map(len, model.predict_batches(lambda: rows(n)))),
        lambda n: predict_parquet(model, tables(n), path),
    ]
    for call in calls:
        call(4)
        before = pa.total_allocated_bytes()
        arrow[0] = 0
        most = [peak_of(partial(call, n)) for n in (40, 200)]
        assert most[1] < most[0] + 300_000
        assert most[1] < 10 * block.nbytes
        assert arrow[0] - before < 20 * block.nbytes
    assert pq.read_metadata(path).num_rows == 200 * 2000


def test_of_a_file_one_batch_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    names = [f"x{j}" for j in range(10)]
    table = pa.table(dict(zip(names, rng.normal(size=(10, 60_000)), strict=True)))
    pq.write_table(
        table, path, row_group_size=2000, compression="none", use_dictionary=False
    )
    model = MLP((10, 8, 1), seed=0)
    most = 0
    del table
    before = pa.total_allocated_bytes()
    for _ in model.predict_batches(path, batch_rows=2000):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < path.stat().st_size / 4


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r"predict_arrow needs pyarrow: pip install pyarrow$"
    ):
        predict_arrow(net(), TABLE)
    assert (
        len(list(net().predict_batches(pl.DataFrame(X, schema=["a", "b", "c"])))) == 1
    )


def test_predictions_in_mixed_precision(tmp_path: Path) -> None:
    wide = MLP((3, 40, 40, 2), loss="cross_entropy", seed=0)
    expected = wide.predict(X, compute_dtype="bfloat16")
    assert not np.array_equal(wide.predict(X), expected)
    options: Any = {"batch_rows": 300, "compute_dtype": "bfloat16"}
    result = predict_arrow(wide, X, **options).read_all()
    path = tmp_path / "p.parquet"
    assert predict_parquet(wide, X, path, **options) == N
    for table in (result, pq.read_table(path)):
        both = [table.column(f"probability_{k}").to_numpy() for k in range(2)]
        np.testing.assert_array_equal(np.stack(both, axis=1), expected)


def test_mixed_precision_is_of_nets() -> None:
    single = X.astype(np.float32)
    options = dict[str, Any](compute_dtype="bfloat16")
    model = MLPClassifier((40, 40), tol=1e3, random_state=0).fit(single, LABELS)
    with pytest.raises(
        TypeError, match=r"needs an MLP, got MLPClassifier.*: use its net_"
    ):
        predict_arrow(model, X, **options)
    result = (
        predict_arrow(model.net_, single, **options)
        .read_all()
        .column("probability_1")
        .to_numpy()
    )
    np.testing.assert_array_equal(result, model.net_.predict(single, **options)[:, 0])
    error = np.abs(result - model.predict_proba(single)[:, 1]).max()
    assert 0 < error < 0.02


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
def test_a_read_takes_a_thread_of_training(
    computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0 if computes else 1e9)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    source = Source()
    less = 3 if computes else 4
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
def test_a_feed_that_goes_on_reads_to_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
def test_the_thread_comes_back_if_a_read_blocks(
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
def test_a_call_beside_others_is_not_timed_as_a_team(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The autotuner would take one thread's time for a team's."""
    monkeypatch.setattr(dispatch, "pays", lambda work, n: n > 1)
    kind = ("a kind of its own",)
    work = Work(10**9, 1)
    alone = dispatch.threads_for(work, kind, 2)
    assert alone.n == 2
    with limits.reserved(3):
        beside = dispatch.threads_for(work, kind, 2)
    assert beside.n == 1
    assert beside.tuner is not alone.tuner


def test_bits_do_not_depend_on_threads_of_reading(
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


FED = np.arange(60, dtype=np.float32).reshape(20, 3)
Y = np.arange(20)


def joined(source: Any) -> list[Any]:
    read = [source.read(i) for i in range(len(source.block_sizes))]
    return [np.concatenate(parts) for parts in zip(*read, strict=True)]


def test_arrays_come_in_blocks() -> None:
    source = Blocks.from_arrays(FED, Y, Y / 2, rows=8, seed=3)
    assert source.block_sizes == (8, 8, 4)
    assert [len(np.asarray(part)) for part in source.read(2)] == [4, 4, 4]
    x, y, weight = joined(source)
    assert np.array_equal(x, FED)
    assert np.array_equal(y, Y)
    assert np.array_equal(weight, Y / 2)
    assert repr(source) == "Blocks(20 rows in 3 blocks, seed=3)"


def test_frames_come_in_blocks_by_position() -> None:
    pandas = pytest.importorskip("pandas", reason="frames are pandas'")
    frame = pandas.DataFrame(FED, index=Y[::-1])
    assert np.array_equal(joined(Blocks.from_arrays(frame, frame[0], rows=6))[0], FED)


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


@pytest.mark.parametrize("first", [0, 7])
def test_maps_are_read_from_their_files(first: int, tmp_path: Path) -> None:
    """Also slices of maps, whose attribute `offset` is that of the whole file."""
    np.save(tmp_path / "X.npy", FED)
    raw = np.memmap(tmp_path / "y", np.int64, "w+", offset=0, shape=(20,))
    raw[:] = Y
    raw.flush()
    x = np.load(tmp_path / "X.npy", mmap_mode="r")[first:]
    y = raw[first:]
    read = joined(Blocks.from_memmap(x, y, rows=8))
    assert np.array_equal(read[0], FED[first:])
    assert np.array_equal(read[1], Y[first:])
    assert not isinstance(Blocks.from_memmap(x, y).read(0)[0], np.memmap)
    # What is not contiguous is read by its map.
    assert np.array_equal(
        joined(Blocks.from_memmap(x[:, 1:], y, rows=8))[0], FED[first:, 1:]
    )


def test_a_file_that_was_cut_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, FED)
    source = Blocks.from_memmap(np.load(path, mmap_mode="r"), Y, rows=5)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 12)
    with pytest.raises(OSError, match=r"X\.npy ends before row 19: has it been cut\?"):
        MLP((3, 4, 1), seed=0).fit(source, epochs=1)
