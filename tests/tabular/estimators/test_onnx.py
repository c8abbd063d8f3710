"""Models of tables in ONNX: predictions of onnxruntime beside those of the models."""

import copy
import importlib
import sys
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from skl2onnx import to_onnx
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor
from small_models import FEW, WITH_TREES, classifier, drawn, regressor, with_trees

import fastmlp
from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.export.onnx import register
from fastmlp.tabular import extras
from fastmlp.tabular.outputs import Objective

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
rng = np.random.default_rng(0)
NUMBERS = rng.normal([0, 1e4, 3, 0], [1, 5, 1e-3, 1], (150, 4)).astype(np.float32)
NUMBERS[:, 3] = np.round(NUMBERS[:, 3])
NUMBERS[rng.random((150, 4)) < 0.1] = np.nan
SUM = np.nansum(NUMBERS * [1, 0.1, 500, 1], axis=1)


def run(model: Any, X: Any, **keywords: Any) -> list[Any]:
    options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
    graph = to_onnx(
        model, None if keywords else X[:1], options=options, **keywords
    ).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    if isinstance(X, pd.DataFrame):
        rows = {name: X[[name]].fillna("").to_numpy() for name in X if X[name].dtype == object}
        rows |= {name: X[[name]].to_numpy() for name in X if name not in rows}
    else:
        rows = {"X": X}
    result: list[Any] = session.run(
        None, {each.name: rows[each.name] for each in session.get_inputs()}
    )
    return result


@pytest.mark.slow
@pytest.mark.few(3)
@pytest.mark.parametrize("kind", WITH_TREES)
def test_boosted_trees(kind: str) -> None:
    model, frame = with_trees(kind)
    X, (_, grown) = complete(frame), model.extra_members_[0]
    ends = grown.numbers[grown.features == [*model.schema_.numeric_names].index("income")]
    near = np.concatenate([ends, np.nextafter(ends, -np.inf), np.nextafter(ends, np.inf)])
    at_ends = X.iloc[np.arange(len(near)) % len(X)].assign(income=near, town="Rome")
    X = pd.concat([X, at_ends.astype(X.dtypes)])
    if hasattr(model, "classes_"):
        np.testing.assert_allclose(run(model, X)[1], model.predict_proba(X), atol=1e-6)
    else:
        np.testing.assert_allclose(run(model, X)[0][:, 0], model.predict(X), rtol=1e-5)
    graph = fastmlp.to_onnx(model).graph
    assert {one.name for one in graph.initializer} <= {x for node in graph.node for x in node.input}


def test_a_tree_that_is_a_long_chain() -> None:
    """Its missing values go on, as other rows do: ways must not be counted as nodes."""
    model, n = copy.deepcopy(with_trees("number")[0]), 60
    inner, leaves = np.arange(n), np.arange(n, 2 * n + 1)
    on = np.where(inner < n - 1, inner + 1, leaves[-1])
    chain = extras.BoostedTrees(n_categories=2).restore(
        {
            "classes_": np.empty(0, np.int64),
            "roots": np.zeros(1, np.int32),
            "features": np.repeat([0, -1], [n, n + 1]).astype(np.int32),
            "numbers": np.concatenate([20.0 + inner, 10.0 * np.arange(n + 1)]),
            "children": np.concatenate(
                [np.stack([leaves[:n], on, on], axis=1), np.zeros((n + 1, 3))]
            ).astype(np.int32),
            "places": np.full(2 * n + 1, -1, np.int32),
            "sets": np.empty(0, np.int32),
        },
        len(model.schema_.columns),
    )
    model.extra_members_ = [(extras.NAME, chain)]
    X = complete(drawn()[0])
    expected = model.predict(X)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(run(model, X)[0][:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss", [*get_args(Objective)][1:])
def test_other_losses(loss: Any, seed: int) -> None:
    """Drawn targets, levels, powers and trees: graphs predict what models do."""
    g = np.random.default_rng([seed, len(loss)])
    frame, y = drawn(90, seed)
    y = np.exp(y / g.uniform(1, 4)) if g.random() < 0.7 else 1e3 * np.exp(y)
    if loss in ("poisson", "tweedie"):
        y = np.where(g.random(90) < 0.3, 0.0, y)
    settings: dict[str, Any] = {"quantile": float(g.uniform(0.05, 0.95))}
    settings |= {"power": float(g.uniform(1.01, 1.99)), "trees": bool(g.random() < 0.3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extras, "ROUNDS", 5)
        few = {**FEW, "n_members": 1, "max_iter": 3, "cv": 2}
        model = TabularMLPRegressor(**few, **settings, loss=loss).fit(frame, y)
    X = complete(frame)
    (result,) = run(model, X)
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=2e-5)


def complete(X: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that begins with a row of all values: types of inputs are read from it."""
    first = X[X["town"].notna() & X["income"].notna()].index[0]
    return pd.concat([X.loc[[first]], X]).assign(town=lambda item: item["town"].astype(object))


@pytest.mark.slow
@pytest.mark.parametrize("grown", [False, True])
def test_numbers_with_missing_values(grown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "ROUNDS", 5)
    few = {**FEW, "n_members": 6, "max_members": 6, "cv": 2, "trees": grown}
    model = TabularMLPRegressor(**few).fit(NUMBERS, SUM)
    assert {member.encoding for member in model.members_} >= {0, 1}
    for dtype in (np.float32, np.float64):
        X = np.concatenate([NUMBERS, 1e6 * NUMBERS, np.full((1, 4), np.nan)]).astype(dtype)
        (result,) = run(model, X)
        assert result.dtype == dtype
        assert result.shape == (len(X), 1)
        np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-6, atol=1e-5)
    (none,) = run(model, NUMBERS[:0], initial_types=[("X", FloatTensorType([None, None]))])
    assert none.shape == (0, 1)


@pytest.mark.parametrize("classes", [["no", "yes"], [3, 4, 7], [False, True]])
def test_classes(classes: list[Any]) -> None:
    edges = np.quantile(SUM, np.linspace(0, 1, len(classes) + 1)[1:-1])
    y = np.array(classes)[np.searchsorted(edges, SUM)]
    model = TabularMLPClassifier(**FEW, cv=2).fit(NUMBERS, y)
    result, p = run(model, NUMBERS)
    assert result.tolist() == model.predict(NUMBERS).tolist()
    np.testing.assert_allclose(p, model.predict_proba(NUMBERS), atol=1e-6)
    assert [
        len(each)
        for each in run(model, NUMBERS[:0], initial_types=[("X", FloatTensorType([None, 4]))])
    ] == [0, 0]


def test_columns_of_texts_and_truth_are_inputs_of_their_own() -> None:
    X = complete(drawn()[0])
    X.loc[X.index[5:8], "town"] = "Basel"
    (result,) = run(regressor(), X)
    np.testing.assert_allclose(result[:, 0], regressor().predict(X), rtol=1e-5)
    # By name, in any order.
    printed, p = run(classifier(), X[X.columns[::-1]])
    np.testing.assert_allclose(p, classifier().predict_proba(X), atol=1e-6)
    assert (printed == classifier().predict(X)).all()
    session = run(classifier(), X)
    assert session[1].shape == (len(X), 3)


def test_categories_of_numbers_and_of_many_levels() -> None:
    X = np.stack([rng.integers(0, 40, 400), rng.integers(0, 3, 400) / 4, rng.normal(size=400)], 1)
    y = rng.normal(size=40)[X[:, 0].astype(int)] + X[:, 1]
    model = TabularMLPRegressor(**FEW, cv=2, categorical_features=[0, 1]).fit(X, y)
    assert "statistics" in model.pack_.encodings[0].parts
    X[:5, 0] = [99, 1.5, np.nan, -1, 7]
    (result,) = run(model, X)
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-5, atol=1e-6)
    (result,) = run(model, X.astype(np.float32))
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-5, atol=1e-5)
    # Near a level, and none.
    before = model.predict(X)
    X[:, 1] += 1e-12
    (result,) = run(model, X)
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model.predict(X), before, rtol=0.01)


def test_a_table_of_texts_only_and_a_pipeline() -> None:
    X, y = drawn()
    towns = X[["town"]].fillna("none").astype(object).to_numpy()
    model = TabularMLPRegressor(**FEW, cv=2).fit(towns, y)
    (result,) = run(model, towns, initial_types=[("X", StringTensorType([None, 1]))])
    np.testing.assert_allclose(result[:, 0], model.predict(towns), rtol=1e-5)
    whole = make_pipeline(FunctionTransformer(), TabularMLPRegressor(**FEW, cv=2)).fit(NUMBERS, SUM)
    (result,) = run(whole, NUMBERS)
    np.testing.assert_allclose(result[:, 0], whole.predict(NUMBERS), rtol=1e-5, atol=1e-5)


def test_a_graph_that_is_asked_for_before_fit() -> None:
    with pytest.raises(Exception, match="not fitted"):
        to_onnx(TabularMLPRegressor(), NUMBERS)


DATED = pd.DataFrame({"a": np.arange(40.0), "when": ["2024-03-01", "2024-03-05"] * 20})
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "trees": (
        lambda: to_onnx(
            TabularMLPRegressor(**FEW, cv=2, extra_members=[DecisionTreeRegressor()]).fit(
                X := np.repeat(np.arange(20.0), 10)[:, None], np.cos(9 * X[:, 0])
            ),
            X,
        ),
        "the ensemble holds 'DecisionTreeRegressor' with weight .*: fit without extra_members",
    ),
    "dates": (
        lambda: to_onnx(TabularMLPRegressor(**FEW, cv=2).fit(DATED, -np.arange(40.0)), DATED[:1]),
        "the columns 'when' hold dates or times",
    ),
    "fewer columns": (
        lambda: to_onnx(regressor(), complete(drawn()[0])[["age", "income"]]),
        r"needs one input of 4 columns, or one of shape \[None, 1\] for each, got 'age' of shape "
        r"\[None, 1\].*; without 'town', 'member': pass X\[:1\], of a frame as in training",
    ),
    "another name": (
        lambda: to_onnx(regressor(), complete(drawn()[0]).rename(columns={"age": "years"})),
        r"got 'years' of shape \[None, 1\].*; without 'age': pass X",
    ),
    "texts as numbers": (
        lambda: to_onnx(regressor(), np.zeros((1, 4))),
        "'town' held texts in training, and is to be numbers: give each column an input of its own",
    ),
    "numbers as texts": (
        lambda: to_onnx(regressor(), complete(drawn()[0]).astype(str)),
        "'age' held numbers in training, and is to be texts$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_graph(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=words):
        call()


def test_levels_that_are_one_number_in_float32() -> None:
    X = np.stack([np.tile([2.0**24, 2.0**24 + 1], 40), rng.normal(size=80)], axis=1)
    model = TabularMLPRegressor(**FEW, cv=2, categorical_features=[0]).fit(X, -X[:, 1])
    with pytest.raises(NotImplementedError, match="'x0' has levels that are the same number in"):
        to_onnx(model, X)


@pytest.mark.parametrize("first", ["skl2onnx", "fastmlp"])
def test_converters_are_registered_whichever_comes_first(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sklearn_operator_name_map
    for estimator in (TabularMLPClassifier, TabularMLPRegressor):
        monkeypatch.delitem(names, estimator)
    if first == "fastmlp":
        monkeypatch.delitem(sys.modules, "skl2onnx")
    register(TabularMLPClassifier, TabularMLPRegressor)
    assert (TabularMLPClassifier in names) == (first == "skl2onnx")
    importlib.import_module("skl2onnx")
    assert names[TabularMLPClassifier] == "FastmlpTabularMLPClassifier"
    assert names[TabularMLPRegressor] == "FastmlpTabularMLPRegressor"
