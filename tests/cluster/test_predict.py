"""Predictions of Dask's collections: those of the model itself, partition by partition."""

from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from fitting import unconverged

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    cluster,
    predict_arrow,
)

N = 400
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3))
LABELS = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
# The columns stand in another order than the models', among others.
TABLE = pd.DataFrame(
    {"id": [f"row {i}" for i in range(N)], "c": X[:, 2], "b": X[:, 1], "a": X[:, 0]},
    index=np.arange(N) * 2,
)
NAMED = pd.DataFrame(X, columns=["a", "b", "c"])


def net(outputs: int = 1, **settings: Any) -> MLP:
    made = MLP((3, 8, outputs), seed=1, **settings)
    made.feature_names = ["a", "b", "c"]
    return made


def classifier(rows: Any) -> MLPClassifier:
    return MLPClassifier((8,), solver="lbfgs", random_state=0, max_iter=5).fit(rows, LABELS)


def regressor(n_outputs: int, rows: Any) -> MLPRegressor:
    y = X[:, 0] if n_outputs == 1 else X[:, :n_outputs]
    made = MLPRegressor("squared_error", (8,), solver="lbfgs", random_state=0, max_iter=5)
    return made.fit(rows, y)


# From the rows that an estimator is fitted on.
MODELS: dict[str, Callable[[Any], Any]] = {
    "net": lambda rows: net(),
    "net of classes": lambda rows: net(3, loss="cross_entropy"),
    "classifier": classifier,
    "regressor": partial(regressor, 1),
    "regressor of several": partial(regressor, 2),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
# Their fits have too few iterations on purpose.
pytestmark = unconverged


def expected_of(model: Any, keep: list[str], *, probabilities: bool) -> pd.DataFrame:
    result = predict_arrow(model, TABLE, keep=keep).read_all().to_pandas().set_axis(TABLE.index)
    result = result.assign(**TABLE[keep])
    dropped = [] if probabilities else [n for n in result if n.startswith("probability")]
    return result.drop(columns=dropped)


@each_model
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_frame_has_the_predictions_of_predict_arrow(
    make: Callable[[Any], Any], probabilities: bool
) -> None:
    model, frame = make(NAMED), dd.from_pandas(TABLE, npartitions=3)
    result = cluster.predict(model, frame, keep="id", probabilities=probabilities)
    expected = expected_of(model, ["id"], probabilities=probabilities)
    # Dask has texts in a dtype of its own.
    expected["id"] = frame["id"].compute(scheduler="synchronous")
    assert result.divisions == frame.divisions
    pd.testing.assert_frame_equal(result.compute(scheduler="synchronous"), expected)
    pd.testing.assert_frame_equal(result._meta, expected.iloc[:0])


@each_model
@pytest.mark.parametrize("probabilities", [False, True])
def test_an_array_has_the_predictions_of_the_model(
    make: Callable[[Any], Any], probabilities: bool
) -> None:
    model, rows = make(X), da.from_array(X, chunks=(150, 3))
    if probabilities and not hasattr(model, "predict_proba"):
        with pytest.raises(ValueError, match="has no predict_proba"):
            cluster.predict(model, rows, probabilities=True)
        return
    expected = (model.predict_proba if probabilities else model.predict)(X)
    result = cluster.predict(model, rows, probabilities=probabilities)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.chunks[0] == rows.chunks[0]
    np.testing.assert_array_equal(result.compute(scheduler="synchronous"), expected)


@each_model
def test_partitions_without_rows_have_predictions_without_rows(make: Callable[[Any], Any]) -> None:
    model = make(NAMED)
    parts = [TABLE.iloc[:0], TABLE.iloc[:100], TABLE.iloc[:0], TABLE.iloc[100:]]
    frame = dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])
    result = cluster.predict(model, frame, probabilities=True).compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(result, expected_of(model, [], probabilities=True))


def test_chunks_without_rows_and_of_unknown_lengths_are_predicted() -> None:
    made = net(2)
    rows = dd.from_pandas(NAMED, npartitions=3)[["a", "b", "c"]]
    unknown = cluster.predict(made, rows[rows["a"] > 1e9].to_dask_array())
    assert unknown.compute(scheduler="synchronous").shape == (0, 2)
    known = cluster.predict(made, da.from_array(X, chunks=((0, 150, 0, 250), 3)))
    np.testing.assert_array_equal(known.compute(scheduler="synchronous"), made.predict(X))


def test_a_model_without_names_takes_all_columns_but_those_to_keep() -> None:
    made = MLP((3, 4, 1), seed=0)
    result = cluster.predict(made, dd.from_pandas(TABLE, npartitions=2), keep=["id"], output="hot")
    expected = made.predict(TABLE[["c", "b", "a"]].to_numpy()).ravel()
    computed = result.compute(scheduler="synchronous")
    np.testing.assert_array_equal(computed["hot"], expected)
    assert list(computed) == ["id", "hot"]


def test_the_graph_holds_the_model_once() -> None:
    """Not in each task: pickles of them all would have it as often as there are partitions."""
    made, rows = MLP((3, 1000, 1), seed=0), da.from_array(X, chunks=(10, 3))
    graph = dict(cluster.predict(made, rows).__dask_graph__())
    assert len(graph) >= N / 10
    holding = [key for key, task in graph.items() if len(cloudpickle.dumps(task)) > 10_000]
    assert len(holding) == 1


def test_what_is_wrong_is_said_before_anything_is_computed() -> None:
    made, frame = net(), dd.from_pandas(TABLE, npartitions=2)
    rows = da.from_array(X, chunks=(100, 2))
    with pytest.raises(ValueError, match=r"2 chunks of columns: give X.rechunk\(\{1: -1\}\)"):
        cluster.predict(made, rows)
    with pytest.raises(ValueError, match="must have 2 dimensions, got 1"):
        cluster.predict(made, rows[:, 0])
    with pytest.raises(ValueError, match="keep and output are for a DataFrame"):
        cluster.predict(made, rows, keep="id")
    with pytest.raises(ValueError, match="X lacks 1 of the 3 known columns: 'b'"):
        cluster.predict(made, frame.drop(columns="b"))
    with pytest.raises(TypeError, match="one of type ndarray; predict_parquet takes"):
        cluster.predict(made, X)
    with pytest.raises(TypeError, match="model must be an MLP or a fitted estimator"):
        cluster.predict(MLPRegressor, rows)
    with pytest.raises(TypeError, match="names of columns must be str, got 0, 1, 2"):
        cluster.predict(made, dd.from_pandas(pd.DataFrame(X), npartitions=1))
    with pytest.raises(TypeError, match="probabilities must be"):
        cluster.predict(made, rows, probabilities=1)  # type: ignore[arg-type]
