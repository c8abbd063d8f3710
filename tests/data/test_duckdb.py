"""Queries of DuckDB as sources, and predictions that DuckDB reads."""

import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from fastmlp import MLP, Status, fit_many, predict_arrow, predict_parquet

rng = np.random.default_rng(0)
N = 10_000
X = rng.normal(size=(N, 3))
Y = X[:, 0] * X[:, 1]
HOT = np.where(Y > 0, "hot", "cold")
QUERY = "SELECT a, b, c, y FROM table_of_rows"
# Several buffers an epoch; DuckDB has batches of some thousand rows.
HOW: dict[str, Any] = {"epochs": 3, "batch_size": 100, "buffer_rows": 3000}


@pytest.fixture
def connection() -> Iterator[Any]:
    columns = {name: X[:, j] for j, name in enumerate("abc")}
    rows = pa.table({**columns, "y": Y, "hot": HOT, "id": np.arange(N)})
    with duckdb.connect() as opened:
        opened.register("rows", rows)
        opened.execute("CREATE TABLE table_of_rows AS SELECT * FROM rows ORDER BY id")
        yield opened


def net(**settings: Any) -> MLP:
    return MLP((3, 8, 1), **{"seed": 1, **settings})


def is_free(connection: Any) -> bool:
    """Return True if the connection takes a query, and no thread reads."""
    counted = connection.sql("SELECT count(*) FROM table_of_rows").fetchall()
    readers = [one for one in threading.enumerate() if one.name == "fastmlp reader"]
    return counted == [(N,)] and not readers


@pytest.mark.parametrize("buffer_rows", [None, 3000])
def test_a_query_trains_in_the_bits_of_arrays(connection: Any, buffer_rows: Any) -> None:
    """With the same batches in several buffers; the query runs for each epoch."""

    def arrays() -> Iterator[Any]:
        yield X, Y

    nets, options = [net(), net()], {**HOW, "buffer_rows": buffer_rows}
    held = connection.sql(f"{QUERY} WHERE id < 500")
    expected = nets[0].fit(arrays, validation_data=(X[:500], Y[:500]), **options)
    history = nets[1].fit(connection.sql(QUERY), target="y", validation_data=held, **options)
    assert history.loss == expected.loss
    assert history.validation_loss == expected.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert nets[1].feature_names == ("a", "b", "c")
    assert is_free(connection)


def test_many_nets(connection: Any) -> None:
    nets = [net(seed=i) for i in range(2)]
    fit_many(nets, connection.sql(QUERY), target="y", **HOW)
    alone = net(seed=1)
    alone.fit(connection.sql(QUERY), target="y", **HOW)
    assert nets[1].parameters.tobytes() == alone.parameters.tobytes()
    assert is_free(connection)


def test_numbers_of_its_types(connection: Any) -> None:
    query = "SELECT a::DECIMAL(9, 3) AS a, id::HUGEINT AS b, a > 0 AS c, y::FLOAT AS y FROM"
    net().fit(connection.sql(f"{query} table_of_rows"), target="y", epochs=1)


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
        ("SELECT a, b, nullif(c, c * (id < 9900)::INT) AS c, y FROM table_of_rows", {}, ValueError,
         "missing values? in column 'c'"),
        ("SELECT a, b, if(id < 9900, '1', 'oops')::DOUBLE AS c, y FROM table_of_rows", {}, UNREAD,
         "Could not convert string 'oops' to DOUBLE"),
        ("SELECT a, b, hot AS c, y FROM table_of_rows", {}, TypeError, "text, .* in column 'c'"),
        (QUERY, {"target": "z"}, ValueError, "MLP.fit: there is no column 'z'"),
    ],
)  # fmt: skip
def test_an_error_leaves_no_open_result(
    connection: Any, query: str, settings: Any, error: Any, message: str
) -> None:
    made = net()
    with pytest.raises(error, match=message) as raised:
        made.fit(connection.sql(query), **{"target": "y", **HOW, **settings})
    # Though a traceback holds the frames that read, as a notebook's does.
    assert raised.tb is not None
    assert is_free(connection)
    made.feature_names = None
    made.fit(connection.sql(QUERY), target="y", **HOW)


def test_a_fit_that_stops_leaves_no_open_result(connection: Any) -> None:
    history = net().fit(
        connection.sql(QUERY), target="y", callbacks=lambda report: report.stop(), **HOW
    )
    assert history.status is Status.STOPPED
    assert is_free(connection)


def test_duckdb_reads_predictions(connection: Any, tmp_path: Any) -> None:
    """The query that is predicted needs a cursor of its own: one result of each is open."""
    model = net()
    model.fit(X, Y, epochs=1)
    model.feature_names = ["a", "b", "c"]
    expected = model.predict(X)[:, 0]
    cursor = connection.cursor()
    query = cursor.sql("SELECT id, c, a, b FROM table_of_rows")
    reader = predict_arrow(model, query, keep="id", batch_rows=1000)
    connection.execute("CREATE TABLE predictions AS SELECT * FROM reader")
    result = connection.sql("SELECT prediction FROM predictions ORDER BY id").fetchnumpy()
    assert np.array_equal(result["prediction"], expected)
    assert reader.schema.names == ["id", "prediction"]
    path = tmp_path / "predictions.parquet"
    assert predict_parquet(model, connection.sql(QUERY), path) == N
    result = connection.sql(f"SELECT prediction FROM '{path}'").fetchnumpy()
    assert np.array_equal(result["prediction"], expected)
    assert np.array_equal(model.predict(connection.sql("SELECT b, a, c FROM table_of_rows"))[:, 0],
                          expected)  # fmt: skip
    assert is_free(connection)


def test_an_error_of_predictions_arrives_in_duckdb(connection: Any) -> None:
    model, query = net(), "SELECT a, b, if(id < 9900, c, NULL) AS c FROM table_of_rows"
    model.feature_names = ["a", "b", "c"]
    cursor = connection.cursor()
    reader = predict_arrow(model, cursor.sql(query), batch_rows=1000)
    with pytest.raises(duckdb.Error, match="missing values in column 'c'"):
        connection.execute("CREATE TABLE predictions AS SELECT * FROM reader")
    assert reader.schema.names == ["prediction"]
    del reader
    assert is_free(connection)
