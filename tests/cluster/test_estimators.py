"""Searches, models of tables and predictions on a cluster: the same numbers."""

import copy
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import dask.dataframe as dd
import joblib
import numba
import numpy as np
import pandas as pd
import pytest
from fitting import unconverged
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_set_params,
)
from small_models import FEW, drawn, labels

import fastmlp
from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    TabularMLPClassifier,
    TabularMLPRegressor,
    cluster,
    fit_many,
    predict_arrow,
)
from fastmlp.backends.cpu import limits
from fastmlp.many import groups
from fastmlp.network.state import NetState

pytestmark = unconverged
# Workers cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
LABELS = np.where(X[:, 0] * X[:, 1] > 0, "a", "b")
GRID = {"alpha": [1e-3, 1.0, 30.0], "learning_rate_init": [0.01, 0.1]}
SMALL: dict[str, Any] = {"max_iter": 5, "random_state": 0}
ONE = {"alpha": [0.1, 1.0]}
Make = Any


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a few fits: these are too small to be dealt to several workers."""
    monkeypatch.setattr(groups, "LEAST_COST", 1.0)


def net(**settings: Any) -> MLPClassifier:
    return MLPClassifier((8,), **{"max_iter": 5, "random_state": 0, **settings})


def assert_same_results(one: MLPSearchCV, other: MLPSearchCV) -> None:
    assert one.cv_results_.keys() == other.cv_results_.keys()
    for name, values in one.cv_results_.items():
        if not name.endswith("_time"):
            np.testing.assert_array_equal(values, other.cv_results_[name], err_msg=name)
    assert one.best_params_ == other.best_params_


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
def test_a_search_has_the_results_of_here(
    client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    here = MLPSearchCV(net(), GRID, cv=3, return_train_score=True).fit(X, LABELS)
    there = clone(here).set_params(client=client).fit(X, LABELS, progress=True)
    assert "18/18" in capfd.readouterr().err
    assert_same_results(here, there)
    np.testing.assert_array_equal(here.predict_proba(X), there.predict_proba(X))


def weigh(estimator: Any, X: Any, y: Any) -> float:
    return float(np.square(estimator.predict_proba(X)).sum())


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    "make",
    [
        lambda **more: MLPSearchCV(
            make_pipeline(StandardScaler(), net()),
            {
                "mlpclassifier__alpha": [1e-3, 1.0],
                "standardscaler__with_mean": [True, False],
            },
            cv=2,
            scoring={"own": weigh, "accuracy": "accuracy"},
            refit="own",
            **more,
        ),
        lambda **more: MLPSearchCV(
            net(), GRID, halving=True, cv=2, factor=2, random_state=0, **more
        ),
        lambda **more: MLPSearchCV(net(), {"alpha": [0.1, -1.0]}, cv=2, **more),
    ],
    ids=["pipeline", "halving", "error"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_other_searches_too(client: Any, make: Make) -> None:
    here = make().fit(X, LABELS)
    there = make(client=client).fit(X, LABELS)
    assert_same_results(here, there)


@pytest.mark.slow
def test_an_error_of_a_fit_says_which_fits_it_is_of(client: Any) -> None:
    search = MLPSearchCV(
        net(), {"alpha": [-1.0]}, cv=2, error_score="raise", client=client
    )
    with pytest.raises(ValueError, match="'alpha'") as caught:
        search.fit(X, LABELS)
    assert any(note.startswith("in fits") for note in caught.value.__notes__)


@pytest.mark.slow
def test_a_limit_of_time_that_is_not_met_changes_nothing(client: Any) -> None:
    frame, y = drawn()
    model = TabularMLPRegressor(**FEW, time_limit=60, client=client, cv=2).fit(frame, y)
    here = TabularMLPRegressor(**FEW, cv=2).fit(frame, y)
    np.testing.assert_array_equal(model.predict(frame), here.predict(frame))


def test_a_worker_has_one_thread(client: Any) -> None:
    """Dask sets OMP_NUM_THREADS there: several workers share the machine."""
    assert client.submit(os.environ.get, "OMP_NUM_THREADS", pure=False).result() == "1"
    assert client.submit(limits.thread_limit, pure=False).result() == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (TabularMLPClassifier, {"cv": 3}),
        (TabularMLPRegressor, {"validation_fraction": 0.4}),
        (TabularMLPRegressor, {"cv": 2, "trees": True, "ensemble": "mean"}),
    ],
    ids=["folds", "fraction", "trees"],
)
def test_a_model_of_tables_is_that_of_here(
    client: Any, kind: Any, more: dict[str, Any]
) -> None:
    frame = drawn()[0]
    few = {**FEW, "n_members": 4, **more}
    if kind is TabularMLPClassifier:
        targets = labels()
    else:
        targets = drawn()[1]
    here = kind(**few).fit(frame, targets)
    there = kind(**few, client=client).fit(frame, targets)
    np.testing.assert_array_equal(here.weights_, there.weights_)
    np.testing.assert_array_equal(here.predict(frame), there.predict(frame))
    assert here.validation_score_ == there.validation_score_
    assert here.summary() == there.summary()


HOLDERS: dict[str, Any] = {
    "search": lambda **more: MLPSearchCV(net(), {"alpha": [0.1, 1.0]}, cv=2, **more),
    "tables": lambda **more: TabularMLPClassifier(**FEW, cv=2, **more),
}
each_holder = pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)


@pytest.mark.slow
@each_holder
def test_copies_have_the_client(client: Any, make: Make) -> None:
    made = make(client=client, group_timeout=60)
    assert made.get_params()["client"] is client
    for copied in (clone(made), copy.copy(made), copy.deepcopy(made)):
        assert copied.client is client
    assert clone(make_pipeline(StandardScaler(), made))[-1].client is client


@pytest.mark.slow
@each_holder
def test_pickles_have_no_client(client: Any, make: Make) -> None:
    made = make(client=client, group_timeout=60)
    result = pickle.loads(pickle.dumps(made))
    assert result.client is None
    assert result.group_timeout == 60
    assert made.client is client


@each_holder
def test_pickles_keep_auto(make: Make) -> None:
    assert pickle.loads(pickle.dumps(make(client="auto"))).client == "auto"


@pytest.mark.slow
@each_holder
def test_copies_of_a_fit_on_workers_have_its_predictions(
    client: Any, make: Make, tmp_path: Path
) -> None:
    made = make(client=client, group_timeout=60).fit(X, LABELS)
    expected = made.predict_proba(X)
    fastmlp.save(made, tmp_path / "model")
    for other in (
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        fastmlp.load(tmp_path / "model"),
    ):
        np.testing.assert_array_equal(other.predict_proba(X), expected)
        assert other.client in (None, client)


@pytest.mark.slow
@each_holder
def test_checks_of_parameters_pass_with_a_client(client: Any, make: Make) -> None:
    for check in (check_estimator_cloneable, check_estimator_repr):
        check("holder", make(client=client))
    # They copy the parameters by themselves.
    for check in (check_get_params_invariance, check_set_params):
        check("holder", make(client="auto"))


def search_by(client: Any) -> MLPSearchCV:
    model = MLPRegressor("squared_error", (4,), **SMALL)
    return MLPSearchCV(model, ONE, cv=2, client=client)


fit: Callable[[Any], Any] = lambda model: model.fit(X, X[:, 0]).predict(X)  # noqa: E731


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_auto_is_the_current_client() -> None:
    np.testing.assert_array_equal(fit(search_by("auto")), fit(search_by(None)))


@pytest.mark.slow
def test_a_task_on_a_worker_has_no_current_client(client: Any) -> None:
    words = "this is a task on a worker: leave client out"
    with pytest.raises(ValueError, match=words):
        client.submit(fit, search_by("auto"), pure=False).result()


@pytest.mark.slow
def test_a_search_that_is_sent_leaves_its_client_behind(client: Any) -> None:
    result = client.submit(fit, search_by(client), pure=False).result()
    np.testing.assert_array_equal(result, fit(search_by(None)))


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
def test_ctrl_c_ends_a_fit(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastmlp.estimators.search.SubmittedFit.ends", interrupt)
    with pytest.raises(KeyboardInterrupt):
        MLPSearchCV(net(), GRID, cv=2, client=client).fit(X, LABELS)
    monkeypatch.setattr(NetState, "adopt", interrupt)
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match="fit_many interrupted"),
    ):
        TabularMLPRegressor(**FEW, cv=2, client=client).fit(*drawn())


def count_arrays() -> None:
    from distributed.protocol.serialize import dask_deserialize

    inner = dask_deserialize.dispatch(np.ndarray)

    def counting(header: Any, frames: Any) -> Any:
        result = inner(header, frames)
        counts[result.shape] += 1
        return result

    counts = Counter[tuple[int, ...]]()
    np.fastmlp_counts = counts, inner  # type: ignore[attr-defined]
    dask_deserialize.register(np.ndarray, counting)


def counted() -> Counter[tuple[int, ...]]:
    from distributed.protocol.serialize import dask_deserialize

    counts, inner = np.fastmlp_counts  # type: ignore[attr-defined]
    dask_deserialize.register(np.ndarray, inner)
    result: Counter[tuple[int, ...]] = counts
    return result


@pytest.fixture
def copies_stay(client: Any) -> Iterator[None]:
    client.amm.stop()
    yield
    client.amm.start()


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups", "copies_stay")
def test_rows_come_to_each_worker_once(client: Any) -> None:
    client.run(count_arrays)
    many = rng.normal(size=(511, 4)).astype(np.float32)
    y = rng.normal(size=511)
    nets = [fastmlp.MLP((4, n, 1), seed=n) for n in range(2, 10)]
    for _ in range(2):
        fit_many(nets, many, y, epochs=1, client=client)
    rows = rng.normal(size=(512, 4))
    MLPSearchCV(net(max_iter=2), GRID, cv=2, client=client).fit(rows, rows[:, 0] > 0)
    rows = rng.normal(size=(1200, 4))
    TabularMLPRegressor(**{**FEW, "n_members": 4}, client=client).fit(
        rows, 2 * rows[:, 0]
    )
    results = list(client.run(counted).values())
    assert len(results) == 2
    for counts in results:
        assert [counts[n, 4] for n in (511, 512)] == [1, 1]
        # Each of both encodings once.
        assert sum(
            n for shape, n in counts.items() if shape[0] == 1200 and len(shape) == 2
        ) in (
            2,
            3,
        )


@pytest.mark.slow
def test_a_search_has_the_same_results_there(client: Any) -> None:
    made = MLPClassifier((8,), solver="lbfgs", max_iter=200, alpha=0.1, random_state=0)
    search = GridSearchCV(made, {"activation": ["tanh", "relu"]}, cv=2, n_jobs=-1)
    here = GridSearchCV(made, search.param_grid, cv=2).fit(X, LABELS)
    with joblib.parallel_config("dask", client=client, wait_for_workers_timeout=60):
        search.fit(X, LABELS)
    for name in (
        "mean_test_score",
        "split0_test_score",
        "split1_test_score",
        "rank_test_score",
    ):
        np.testing.assert_array_equal(search.cv_results_[name], here.cv_results_[name])
    np.testing.assert_array_equal(search.predict_proba(X), here.predict_proba(X))


def test_in_a_task_cores_are_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed.worker as module

    class Worker:
        class state:
            nthreads = 3

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    monkeypatch.setattr(limits, "_cgroup_cpus", lambda: 12)
    assert limits.thread_limit() == 8
    monkeypatch.setattr(
        module.thread_state, "execution_state", {"worker": Worker}, raising=False
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert limits.thread_limit() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert limits.thread_limit() == 5
    Worker.state.nthreads = 100
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert limits.thread_limit() == 1


N = 400
ROWS = rng.normal(size=(N, 3))
ANSWERS = np.where(ROWS[:, 0] * ROWS[:, 1] > 0, "yes", "no")
# The columns stand in another order than the models', among others.
TABLE = pd.DataFrame(
    {
        "id": [f"row {i}" for i in range(N)],
        "c": ROWS[:, 2],
        "b": ROWS[:, 1],
        "a": ROWS[:, 0],
    },
    index=np.arange(N) * 2,
)
NAMED = pd.DataFrame(ROWS, columns=["a", "b", "c"])


def named_net(outputs: int = 1, **settings: Any) -> MLP:
    made = MLP((3, 8, outputs), seed=1, **settings)
    made.feature_names = ["a", "b", "c"]
    return made


def classifier(rows: Any) -> MLPClassifier:
    return MLPClassifier((8,), solver="lbfgs", random_state=0, max_iter=5).fit(
        rows, ANSWERS
    )


def regressor(n_outputs: int, rows: Any) -> MLPRegressor:
    if n_outputs == 1:
        y = ROWS[:, 0]
    else:
        y = ROWS[:, :n_outputs]
    made = MLPRegressor(
        "squared_error", (8,), solver="lbfgs", random_state=0, max_iter=5
    )
    return made.fit(rows, y)


# From the rows that an estimator is fitted on.
MODELS: dict[str, Callable[[Any], Any]] = {
    "net": lambda rows: named_net(),
    "net of classes": lambda rows: named_net(3, loss="cross_entropy"),
    "classifier": classifier,
    "regressor": partial(regressor, 1),
    "regressor of several": partial(regressor, 2),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def expected_of(model: Any, keep: list[str], *, probabilities: bool) -> pd.DataFrame:
    result = (
        predict_arrow(model, TABLE, keep=keep)
        .read_all()
        .to_pandas()
        .set_axis(TABLE.index)
    )
    result = result.assign(**TABLE[keep])
    if probabilities:
        dropped = []
    else:
        dropped = [n for n in result if n.startswith("probability")]
    return result.drop(columns=dropped)


@each_model
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_frame_has_predictions_of_arrow(
    make: Callable[[Any], Any], probabilities: bool
) -> None:
    model = make(NAMED)
    frame = dd.from_pandas(TABLE, npartitions=3)
    result = cluster.predict(model, frame, keep="id", probabilities=probabilities)
    expected = expected_of(model, ["id"], probabilities=probabilities)
    # Dask has texts in a dtype of its own.
    expected["id"] = frame["id"].compute(scheduler="synchronous")
    assert result.divisions == frame.divisions
    pd.testing.assert_frame_equal(result.compute(scheduler="synchronous"), expected)
    pd.testing.assert_frame_equal(result._meta, expected.iloc[:0])


@each_model
@pytest.mark.parametrize("probabilities", [False, True])
def test_an_array_has_its_predictions(
    make: Callable[[Any], Any], probabilities: bool
) -> None:
    model = make(ROWS)
    rows = da.from_array(ROWS, chunks=(150, 3))
    if probabilities and not hasattr(model, "predict_proba"):
        with pytest.raises(ValueError, match="has no predict_proba"):
            cluster.predict(model, rows, probabilities=True)
        return
    expected = (model.predict_proba if probabilities else model.predict)(ROWS)
    result = cluster.predict(model, rows, probabilities=probabilities)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.chunks[0] == rows.chunks[0]
    np.testing.assert_array_equal(result.compute(scheduler="synchronous"), expected)


@each_model
def test_partitions_without_rows_have_predictions_without_rows(
    make: Callable[[Any], Any],
) -> None:
    model = make(NAMED)
    parts = [TABLE.iloc[:0], TABLE.iloc[:100], TABLE.iloc[:0], TABLE.iloc[100:]]
    frame = dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])
    result = cluster.predict(model, frame, probabilities=True).compute(
        scheduler="synchronous"
    )
    pd.testing.assert_frame_equal(result, expected_of(model, [], probabilities=True))


def test_chunks_of_unknown_lengths_are_predicted() -> None:
    made = named_net(2)
    rows = dd.from_pandas(NAMED, npartitions=3)[["a", "b", "c"]]
    unknown = cluster.predict(made, rows[rows["a"] > 1e9].to_dask_array())
    assert unknown.compute(scheduler="synchronous").shape == (0, 2)


def test_chunks_without_rows_are_predicted() -> None:
    made = named_net(2)
    known = cluster.predict(made, da.from_array(ROWS, chunks=((0, 150, 0, 250), 3)))
    result = known.compute(scheduler="synchronous")
    np.testing.assert_array_equal(result, made.predict(ROWS))


def test_a_model_without_names_takes_all_columns_but_those_to_keep() -> None:
    made = MLP((3, 4, 1), seed=0)
    result = cluster.predict(
        made, dd.from_pandas(TABLE, npartitions=2), keep=["id"], output="hot"
    )
    expected = made.predict(TABLE[["c", "b", "a"]].to_numpy()).ravel()
    computed = result.compute(scheduler="synchronous")
    np.testing.assert_array_equal(computed["hot"], expected)
    assert list(computed) == ["id", "hot"]
    frame = dd.from_pandas(TABLE.drop(columns="b"), npartitions=2)
    with pytest.raises(ValueError, match="X lacks 1 of the 3 known columns: 'b'"):
        cluster.predict(named_net(), frame)


def test_the_graph_holds_the_model_once() -> None:
    """Not in each task: pickles of them all would have it as often as there are
    partitions.
    """
    made = MLP((3, 1000, 1), seed=0)
    rows = da.from_array(ROWS, chunks=(10, 3))
    graph = dict(cluster.predict(made, rows).__dask_graph__())
    assert len(graph) >= N / 10
    holding = [
        key for key, task in graph.items() if len(cloudpickle.dumps(task)) > 10_000
    ]
    assert len(holding) == 1
