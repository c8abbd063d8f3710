"""Arrow's tables, streams and files, and DuckDB's queries,
as sources: the bits of arrays.
"""

import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask.dataframe
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from small_models import forms_of, written

from fastmlp import MLP, Blocks, Status, fit_many, predict_arrow, predict_parquet

rng = np.random.default_rng(0)
N = 1000
X = np.column_stack(
    [rng.normal(size=(N, 3)), rng.integers(9, size=N), rng.integers(2, size=N)]
)
Y = X[:, 0] * X[:, 1] + X[:, 4]
TABLE = pa.table(
    {
        **{name: X[:, j] for j, name in enumerate("abc")},
        "whole": X[:, 3].astype(np.int16),
        "y": Y,
        "flag": X[:, 4].astype(bool),
    }
)
HOLED = TABLE.set_column(1, "b", pa.array([None, *X[1:, 1]]))


def net(**settings: Any) -> MLP:
    return MLP((5, 8, 1), **{"seed": 1, **settings})


def mapped(folder: Path) -> Any:
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def parts() -> Iterator[Any]:
    yield X[:30], Y[:30]
    yield X[30:], Y[30:]


SOURCES = forms_of(TABLE) | {
    "memmap": lambda folder: Blocks.from_memmap(mapped(folder), Y, rows=170),
    "generator": lambda folder: parts,
}


@pytest.mark.parametrize("name", SOURCES)
def test_each_trains_in_the_bits_of_arrays(name: str, tmp_path: Path) -> None:
    epochs = 1 if name == "reader" else 3
    nets = [net(), net()]
    make = SOURCES[name]
    arrays = nets[0].fit(X, Y, epochs=epochs, validation_data=(X, Y))
    source, held = make(tmp_path), make(tmp_path)
    target = None if name in ("memmap", "generator") else "y"
    more: dict[str, Any] = {"validation_data": held, "buffer_rows": 2 * N}
    history = nets[1].fit(source, target=target, epochs=epochs, **more)
    assert history.loss == arrays.loss
    assert history.validation_loss == arrays.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_parquet_has_its_row_groups_as_blocks_or_pieces_of_them(tmp_path: Path) -> None:
    paths = written(TABLE, tmp_path, ".parquet")
    options = dict[str, Any](target=["y"], weight="flag")
    source = Blocks.from_parquet(paths, **options, features=["b", "a"], seed=3)
    assert source.block_sizes == (170, 170, 170, 90, 170, 170, 60)
    pieces = Blocks.from_parquet(paths, **options, features=["b", "a"], rows=100)
    assert pieces.block_sizes == (100, 70, 100, 70, 100, 70, 90, 100, 70, 100, 70, 60)
    for blocks in (source, pieces):
        read = [blocks.read(i) for i in range(len(blocks.block_sizes))]
        x, y, weight = (np.concatenate(parts) for parts in zip(*read, strict=True))
        assert np.array_equal(x, X[:, [1, 0]])
        assert np.array_equal(y, Y[:, None])
        assert np.array_equal(weight, X[:, 4])
    assert np.asarray(source.read(6)[0]).shape == (60, 2)
    others = tuple(name for name in TABLE.column_names if name not in ("y", "flag"))
    assert Blocks.from_parquet(paths, **options).feature_names == others
    assert Blocks.from_arrow(TABLE, target="y", rows=400, seed=3).block_sizes == (
        400,
        400,
        200,
    )
    nets = [MLP((2, 4, 1), seed=0) for _ in range(2)]
    for each, buffer_rows in zip(nets, (512, None), strict=True):
        each.fit(source, epochs=2, batch_size=32, buffer_rows=buffer_rows)
        assert each.n_steps == 2 * 32


MIXED = pa.table(
    {
        "a": np.ones(3, np.float32),
        "b": [True, False, True],
        "d": [Decimal("1.5")] * 3,
        "y": np.array([0, 1, 2], np.int8),
    }
)


def test_float32_stays_float32() -> None:
    blocks = Blocks.from_arrow(MIXED, target="y", features=["a", "b"])
    dtypes = [np.asarray(part).dtype for part in blocks.read(0)]
    assert dtypes == [np.float32, np.int8]


def test_decimals_are_numbers() -> None:
    x = np.asarray(Blocks.from_arrow(MIXED, target="y").read(0)[0])
    assert np.array_equal(x[:, 2], [1.5] * 3)


def test_a_number_that_is_not_finite_is_in_a_block_and_a_column(tmp_path: Path) -> None:
    table = TABLE.set_column(
        2, "c", pa.array(np.where(np.arange(N) == 777, np.inf, X[:, 2]))
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    with pytest.raises(
        ValueError, match=r"block 7: X must be finite .* in row 77, column 'c'"
    ):
        net().fit(tmp_path / "rows.parquet", target="y")


@pytest.mark.parametrize("end", [".parquet", ".feather"])
def test_nulls_and_texts_of_a_late_block_are_named(end: str, tmp_path: Path) -> None:
    """The hundredth block of a file;
    texts are of a second file, as a column has one type.
    """

    def write(table: Any, path: Path) -> None:
        if end == ".parquet":
            pq.write_table(table, path, row_group_size=10)
        else:
            pyarrow.feather.write_feather(table, path, chunksize=10)

    first = tmp_path / f"a{end}"
    second = tmp_path / f"b{end}"
    what = "(row group|batch)"
    write(TABLE.set_column(1, "b", pa.array([*X[:995, 1], None, *X[996:, 1]])), first)
    with pytest.raises(
        ValueError, match=rf"^{what} 99 of .*a{end}: X has 1 .* in column 'b'"
    ):
        net().fit(first, target="y", epochs=1)
    write(TABLE, first)
    write(TABLE.set_column(1, "b", pa.array(["1.5"] * 999 + ["?"])), second)
    with pytest.raises(
        TypeError, match=rf"^{what} 0 of .*b{end}: X must .*'1.5' in column 'b'"
    ):
        net().fit([first, second], target="y", epochs=1, shuffle=False)
    batches = (batch for table in (TABLE, HOLED) for batch in table.to_batches(10))
    late = pa.RecordBatchReader.from_batches(TABLE.schema, batches)
    with pytest.raises(
        ValueError, match=r"^rows 1000 to 1009: X has 1 missing value in column 'b'"
    ):
        net().fit(late, target="y", epochs=1)


@pytest.mark.parametrize("end", [".parquet", ".feather"])
def test_a_file_that_is_cut_while_it_is_read(end: str, tmp_path: Path) -> None:
    """Between two epochs: the error names the file, and the net is usable."""
    path = written(TABLE, tmp_path, end)[0]
    made = net()

    def cut(report: Any) -> None:
        path.write_bytes(path.read_bytes()[:4000])

    with pytest.raises((OSError, ValueError)) as caught:
        made.fit(
            path, target="y", epochs=4, batch_size=5, buffer_rows=100, callbacks=cut
        )
    assert f"in {path}" in caught.value.__notes__
    made.fit(X, Y, epochs=1)


def test_patterns_and_folders(tmp_path: Path) -> None:
    """Their files, sorted, at all doors;
    names that begin with _ or a point are of others.
    """
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        pq.write_table(TABLE.slice(300 * i, 300), folder / f"part-{i}.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-0.parquet.crc").write_text("")
    nets = [net() for _ in range(4)]
    options: dict[str, Any] = {"epochs": 2, "batch_size": 20}
    paths = [str(folder / f"part-{i}.parquet") for i in range(3)]
    nets[0].fit(paths, target="y", **options)
    nets[1].fit(folder, target="y", **options)
    nets[2].fit(str(folder / "part-?.parquet"), target="y", **options)
    nets[3].fit(Blocks.from_parquet(folder, target="y"), **options)
    assert len({one.parameters.tobytes() for one in nets}) == 1
    expected = [*nets[0].predict_batches(paths)]
    for given in (
        folder,
        f"{folder}/*.parquet",
        [f"{folder}/part-[01].parquet", paths[2]],
    ):
        assert np.array_equal([*nets[0].predict_batches(given)], expected)
    (tmp_path / "empty").mkdir()
    for lacks, values in (
        (tmp_path / "empty", "MLP.fit: the folder '.*empty' has no files of .parquet"),
        (folder / "no*.parquet", "MLP.fit: there is no file '.*no"),
    ):
        with pytest.raises(FileNotFoundError, match=values):
            net().fit(lacks, target="y")
    (folder / "b.csv").write_text("a,y\n")
    with pytest.raises(
        ValueError, match=r"must be of one kind of .*, got b\.csv, part-0\.parquet"
    ):
        net().fit(folder, target="y")


def test_what_is_no_table_says_what_to_pass() -> None:
    lazy = dask.dataframe.from_pandas(TABLE.to_pandas(), npartitions=2)
    with duckdb.connect() as connection:
        cases: list[tuple[Any, str]] = [
            (lazy, r"got DataFrame of Dask: .*X.to_parquet.*, or X.compute\(\)"),
            (connection, r'got DuckDBPyConnection: pass connection.sql\("select ...'),
        ]
        for table, message in cases:
            with pytest.raises(TypeError, match=f"^MLP.fit: .*{message}"):
                net().fit(table, target="y")
            with pytest.raises(TypeError, match=f"^MLP.predict_batches: .*{message}"):
                next(net().predict_batches(table))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = written(TABLE, tmp_path, ".parquet")[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="Parquet magic bytes not found") as caught:
        net().fit(path, target="y")
    assert caught.value.__notes__ == [f"in {path}"]


def test_a_file_without_a_column_of_the_first_is_named(tmp_path: Path) -> None:
    paths = written(TABLE, tmp_path, ".feather")
    pyarrow.feather.write_feather(TABLE.drop_columns("b"), paths[1])
    with pytest.raises(ValueError, match=r"1\.feather: there is no column 'b'"):
        net().fit(paths, target="y")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(
        ImportError, match=r"from_parquet needs pyarrow: pip install pyarrow$"
    ):
        Blocks.from_parquet(tmp_path / "a.parquet", target="y")


N_QUERIED = 10_000
QUERIED = rng.normal(size=(N_QUERIED, 3))
QUERIED_Y = QUERIED[:, 0] * QUERIED[:, 1]
HOT = np.where(QUERIED_Y > 0, "hot", "cold")
QUERY = "SELECT a, b, c, y FROM table_of_rows"
# Several buffers an epoch; DuckDB has batches of some thousand rows.
HOW: dict[str, Any] = {"epochs": 3, "batch_size": 100, "buffer_rows": 3000}


@pytest.fixture
def connection() -> Iterator[Any]:
    columns = {name: QUERIED[:, j] for j, name in enumerate("abc")}
    rows = pa.table({**columns, "y": QUERIED_Y, "hot": HOT, "id": np.arange(N_QUERIED)})
    with duckdb.connect() as opened:
        opened.register("rows", rows)
        opened.execute("CREATE TABLE table_of_rows AS SELECT * FROM rows ORDER BY id")
        yield opened


def queried_net(**settings: Any) -> MLP:
    return MLP((3, 8, 1), **{"seed": 1, **settings})


def is_free(connection: Any) -> bool:
    counted = connection.sql("SELECT count(*) FROM table_of_rows").fetchall()
    readers = [one for one in threading.enumerate() if one.name == "fastmlp reader"]
    return counted == [(N_QUERIED,)] and not readers


@pytest.mark.parametrize("buffer_rows", [None, 3000])
def test_a_query_trains_in_the_bits_of_arrays(
    connection: Any, buffer_rows: Any
) -> None:
    """With the same batches in several buffers; the query runs for each epoch."""

    def arrays() -> Iterator[Any]:
        yield QUERIED, QUERIED_Y

    nets = [queried_net(), queried_net()]
    options = {**HOW, "buffer_rows": buffer_rows}
    held = connection.sql(f"{QUERY} WHERE id < 500")
    expected = nets[0].fit(
        arrays, validation_data=(QUERIED[:500], QUERIED_Y[:500]), **options
    )
    history = nets[1].fit(
        connection.sql(QUERY), target="y", validation_data=held, **options
    )
    assert history.loss == expected.loss
    assert history.validation_loss == expected.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert nets[1].feature_names == ("a", "b", "c")
    assert is_free(connection)


def test_a_query_trains_many_nets(connection: Any) -> None:
    nets = [queried_net(seed=i) for i in range(2)]
    fit_many(nets, connection.sql(QUERY), target="y", **HOW)
    alone = queried_net(seed=1)
    alone.fit(connection.sql(QUERY), target="y", **HOW)
    assert nets[1].parameters.tobytes() == alone.parameters.tobytes()
    assert is_free(connection)


def test_a_query_has_numbers_of_its_types(connection: Any) -> None:
    query = (
        "SELECT a::DECIMAL(9, 3) AS a, id::HUGEINT AS b, a > 0 AS c, y::FLOAT AS y FROM"
    )
    queried_net().fit(connection.sql(f"{query} table_of_rows"), target="y", epochs=1)


# Its own error, or Arrow's, by when the query is run.
UNREAD = (OSError, duckdb.Error)


class Stop(Exception):
    pass


def fails(report: Any) -> None:
    raise Stop("in epoch 0")


@pytest.mark.parametrize(
    ("query", "settings", "error", "message"),
    [
        (QUERY, {"callbacks": fails}, Stop, "in epoch 0"),
        (
            "SELECT a, b, nullif(c, c * (id < 9900)::INT) AS c, y FROM table_of_rows",
            {},
            ValueError,
            "missing values? in column 'c'",
        ),
        (
            "SELECT a, b, if(id < 9900, '1', 'oops')::DOUBLE AS c, y FROM "
            "table_of_rows",
            {},
            UNREAD,
            "Could not convert string 'oops' to DOUBLE",
        ),
        (
            "SELECT a, b, hot AS c, y FROM table_of_rows",
            {},
            TypeError,
            "text, .* in column 'c'",
        ),
        (QUERY, {"target": "z"}, ValueError, "MLP.fit: there is no column 'z'"),
    ],
)
def test_an_error_leaves_no_open_result(
    connection: Any, query: str, settings: Any, error: Any, message: str
) -> None:
    made = queried_net()
    with pytest.raises(error, match=message) as raised:
        made.fit(connection.sql(query), **{"target": "y", **HOW, **settings})
    # Though a traceback holds the frames that read, as a notebook's does.
    assert raised.tb is not None
    assert is_free(connection)
    made.feature_names = None
    made.fit(connection.sql(QUERY), target="y", **HOW)


def test_a_stopped_fit_leaves_no_open_result(connection: Any) -> None:
    history = queried_net().fit(
        connection.sql(QUERY), target="y", callbacks=lambda report: report.stop(), **HOW
    )
    assert history.status is Status.STOPPED
    assert is_free(connection)


def test_an_error_in_predictions_leaves_no_open_result(connection: Any) -> None:
    model = queried_net()
    query = "SELECT a, b, if(id < 9900, c, NULL) AS c FROM table_of_rows"
    model.feature_names = ["a", "b", "c"]
    cursor = connection.cursor()
    reader = predict_arrow(model, cursor.sql(query), batch_rows=1000)
    with pytest.raises(duckdb.Error, match="missing values in column 'c'"):
        connection.execute("CREATE TABLE predictions AS SELECT * FROM reader")
    assert reader.schema.names == ["prediction"]
    del reader
    assert is_free(connection)


def test_duckdb_reads_predictions(connection: Any, tmp_path: Any) -> None:
    """The query that is predicted needs a cursor of its own:
    one result of each is open.
    """
    model = queried_net()
    model.fit(QUERIED, QUERIED_Y, epochs=1)
    model.feature_names = ["a", "b", "c"]
    expected = model.predict(QUERIED)[:, 0]
    cursor = connection.cursor()
    query = cursor.sql("SELECT id, c, a, b FROM table_of_rows")
    reader = predict_arrow(model, query, keep="id", batch_rows=1000)
    connection.execute("CREATE TABLE predictions AS SELECT * FROM reader")
    result = connection.sql(
        "SELECT prediction FROM predictions ORDER BY id"
    ).fetchnumpy()
    assert np.array_equal(result["prediction"], expected)
    assert reader.schema.names == ["id", "prediction"]
    path = tmp_path / "predictions.parquet"
    assert predict_parquet(model, connection.sql(QUERY), path) == N_QUERIED
    result = connection.sql(f"SELECT prediction FROM '{path}'").fetchnumpy()
    assert np.array_equal(result["prediction"], expected)
    assert np.array_equal(
        model.predict(connection.sql("SELECT b, a, c FROM table_of_rows"))[:, 0],
        expected,
    )
    assert is_free(connection)
