"""Models, their parts, and models of tables in ONNX: what onnxruntime predicts."""

import copy
import importlib
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
from exported import branch, built_of_others, constant, of_logarithms, of_numpy, plain
from fitting import needs_compiler, unconverged
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor
from small_models import (
    CASES,
    FEW,
    MODELS,
    TARGETS,
    WITH_TREES,
    X,
    classifier,
    decided,
    drawn,
    regressor,
    with_trees,
)

import fastmlp
from fastmlp import MLP, TabularMLPClassifier, TabularMLPRegressor, to_onnx
from fastmlp.export.c_source import C_TYPES
from fastmlp.export.onnx import register
from fastmlp.rules.activations import ActivationName
from fastmlp.tabular import boosted_trees
from fastmlp.tabular.outputs import Objective

pytestmark = [unconverged, needs_compiler]

# In float32 sums are of another order, and links may be steep.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
LOSSES = (
    "mse",
    "binary_cross_entropy",
    "cross_entropy",
    "poisson",
    "quantile",
    "gaussian_nll",
)
rng = np.random.default_rng(0)


def run(graph: Any, rows: Any) -> list[Any]:
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    if not isinstance(rows, dict):
        rows = {session.get_inputs()[0].name: rows}
    result: list[Any] = session.run(None, rows)
    return result


@pytest.mark.few(12)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", get_args(ActivationName))
def test_every_activation_is_exported(activation: Any, dtype: Any) -> None:
    """With the link of every loss; but gelu in float64, for which no node is."""
    rows = rng.normal(size=(50, 3)).astype(dtype)
    tolerance = TOLERANCE[dtype]
    for loss in LOSSES:
        setting: Any = loss
        if loss == "quantile":
            setting = fastmlp.Quantile([0.1, 0.5, 0.9])
        n = {"quantile": 3, "cross_entropy": 3, "gaussian_nll": 4}.get(loss, 2)
        settings: Any = {"activation": activation, "loss": setting, "dtype": dtype}
        net = MLP((3, 7, 5, n), **settings, seed=1)
        if activation == "gelu" and dtype == "float64":
            words = "to_onnx: gelu needs the node Erf"
            with pytest.raises(NotImplementedError, match=words):
                to_onnx(net, dtype=dtype)
            continue
        (values,) = run(to_onnx(net, dtype=dtype), rows)
        assert values.dtype == dtype
        expected = net.predict(rows)
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_graph_has_the_dtype_of_the_net(dtype: Any) -> None:
    rows = rng.normal(size=(50, 3)).astype(dtype)
    net = MLP((3, 7, 2), dtype=dtype, seed=1)
    own = fastmlp.MLPRegressor(hidden_layer_sizes=(7,), max_iter=2, random_state=0)
    own.fit(rows, rows[:, :2])
    for model in (net, own):
        (values,) = run(to_onnx(model), rows)
        assert values.dtype == dtype
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(values, model.predict(rows), tolerance, tolerance)
        other: Any = {"float32": "float64", "float64": "float32"}[dtype]
        assert run(to_onnx(model, dtype=other), rows.astype(other))[0].dtype == other
        assert f"const {C_TYPES[np.dtype(dtype).type]} x" in fastmlp.to_c(model)


def test_a_graph_of_a_table_has_the_dtype_of_its_nets() -> None:
    assert {net.dtype for net in regressor()._table_parts("to_onnx").nets} == {
        np.dtype("float32")
    }
    (values,) = run(to_onnx(regressor()), columns_of(drawn()[0]))
    assert values.dtype == np.float32


def net_of(*own: Any, dtype: Any = "float32") -> MLP:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return MLP((3, *[7] * len(own), 2), activation=[*own], dtype=dtype, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [plain, built_of_others, of_logarithms, constant])
def test_activations_of_ones_own(rule: Any, dtype: Any) -> None:
    net = net_of(rule, rule, dtype=dtype)
    rows = rng.normal(size=(50, 3)).astype(dtype)
    (values,) = run(to_onnx(net, dtype=dtype), rows)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(
        values, net.predict(rows), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("rule", [branch, of_numpy])
def test_activations_that_are_more_than_arithmetic(rule: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=f"to_onnx: the activation '{rule.__name__}' is"
    ):
        to_onnx(net_of(rule))


@unconverged
@pytest.mark.parametrize(("name", "target"), CASES)
def test_every_model(name: str, target: str) -> None:
    model = MODELS[name](target).fit(X, TARGETS[target])
    graph = to_onnx(model, dtype="float64")
    if not hasattr(model, "classes_"):
        (values,) = run(graph, X)
        expected = model.predict(X)
        np.testing.assert_allclose(values, expected.reshape(len(X), -1), atol=1e-6)
        return
    labels, p = run(graph, X)
    np.testing.assert_allclose(p, model.predict_proba(X), atol=1e-6)
    assert labels.tolist() == model.predict(X).tolist()
    assert run(graph, X[:0])[1].shape == (0, p.shape[1])


def columns_of(X: pd.DataFrame) -> dict[str, Any]:
    return {
        name: X[[name]].fillna("").to_numpy(object)
        if X[name].dtype.kind not in "fib"
        else X[[name]].to_numpy(np.float32)
        for name in X
    }


def test_models_of_tables() -> None:
    X = drawn()[0]
    rows = columns_of(X)
    (values,) = run(to_onnx(regressor()), rows)
    np.testing.assert_allclose(values[:, 0], regressor().predict(X), rtol=1e-4)
    labels, p = run(to_onnx(classifier()), rows)
    np.testing.assert_allclose(p, classifier().predict_proba(X), atol=1e-5)
    assert (labels == classifier().predict(X)).all()
    model, X, _ = decided()
    labels, p = run(to_onnx(model), columns_of(X))
    np.testing.assert_allclose(p, model.predict_proba(X), atol=1e-5)
    assert (labels == model.predict(X)).all()
    assert (labels != p.argmax(axis=1)).any()
    X = complete(X)
    assert (run_table(model, X)[0] == model.predict(X)).all()
    numbers = rng.normal(size=(100, 3))
    model = TabularMLPRegressor(**FEW, cv=2).fit(numbers, 2 * numbers[:, 0])
    graph = to_onnx(model, dtype="float64")
    assert [node.name for node in graph.graph.input] == ["X"]
    (values,) = run(graph, numbers)
    np.testing.assert_allclose(
        values[:, 0], model.predict(numbers), rtol=1e-5, atol=1e-6
    )


OUTPUTS = ["label", "probabilities", "variable"]


@pytest.mark.parametrize(
    "more", [[], ["predicted_label"], ["cast_1", "constant_2", "gather_5"]]
)
@pytest.mark.parametrize("kind", [TabularMLPRegressor, TabularMLPClassifier])
def test_columns_may_have_any_name_of_the_graph(kind: Any, more: list[str]) -> None:
    X = pd.DataFrame({name: rng.choice([0.5, 2, 7], 60) for name in OUTPUTS + more})
    X["town"] = rng.choice(["Bern", "Chur"], 60)
    model = kind(n_members=1, max_iter=1, random_state=0).fit(X, X["label"] > 1)
    graph = to_onnx(model)
    names = [one.name for one in (*graph.graph.input, *graph.graph.output)]
    assert sorted(names[: len(X.columns)]) == sorted(X)
    assert len({*names}) == len(names)
    if kind is TabularMLPRegressor:
        expected = model.predict(X)
    else:
        expected = model.predict_proba(X)[:, 1]
    result = run(graph, columns_of(X))[-1]
    np.testing.assert_allclose(result[:, -1], expected, atol=1e-5)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    net = MLP((3, 4, 1), seed=0)
    path = tmp_path / "net.onnx"
    graph = to_onnx(net, path, opset=15)
    assert onnx.load(path) == graph
    versions = {item.domain: item.version for item in graph.opset_import}
    assert versions == {"": 15, "ai.onnx.ml": 2}
    before = path.read_bytes()
    words = "activation 'branch' is more than arithmetic"
    with pytest.raises(NotImplementedError, match=words):
        to_onnx(net_of(branch), path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


NUMBERS = rng.normal([0, 1e4, 3, 0], [1, 5, 1e-3, 1], (150, 4)).astype(np.float32)
NUMBERS[:, 3] = np.round(NUMBERS[:, 3])
NUMBERS[rng.random((150, 4)) < 0.1] = np.nan
SUM = np.nansum(NUMBERS * [1, 0.1, 500, 1], axis=1)


def run_table(model: Any, X: Any, **keywords: Any) -> list[Any]:
    if hasattr(model, "classes_"):
        options = {id(model): {"zipmap": False}}
    else:
        options = None
    graph = skl2onnx.to_onnx(
        model, None if keywords else X[:1], options=options, **keywords
    ).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    if isinstance(X, pd.DataFrame):
        rows = {
            name: X[[name]].fillna("").to_numpy()
            for name in X
            if X[name].dtype == object
        }
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
    X = complete(frame)
    (_, grown) = model.extra_members_[0]
    ends = grown.numbers[
        grown.features == [*model.schema_.numeric_names].index("income")
    ]
    near = np.concatenate(
        [ends, np.nextafter(ends, -np.inf), np.nextafter(ends, np.inf)]
    )
    at_ends = X.iloc[np.arange(len(near)) % len(X)].assign(income=near, town="Rome")
    X = pd.concat([X, at_ends.astype(X.dtypes)])
    if hasattr(model, "classes_"):
        np.testing.assert_allclose(
            run_table(model, X)[1], model.predict_proba(X), atol=1e-6
        )
    else:
        np.testing.assert_allclose(
            run_table(model, X)[0][:, 0], model.predict(X), rtol=1e-5
        )
    graph = fastmlp.to_onnx(model).graph
    assert {one.name for one in graph.initializer} <= {
        x for node in graph.node for x in node.input
    }


def test_a_tree_that_is_a_long_chain() -> None:
    """Its missing values go on, as other rows do: ways must not be counted as nodes."""
    model = copy.deepcopy(with_trees("number")[0])
    n = 60
    inner = np.arange(n)
    leaves = np.arange(n, 2 * n + 1)
    on = np.where(inner < n - 1, inner + 1, leaves[-1])
    chain = boosted_trees.BoostedTrees(n_categories=2).restore(
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
    model.extra_members_ = [(boosted_trees.TREES_NAME, chain)]
    X = complete(drawn()[0])
    expected = model.predict(X)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(run_table(model, X)[0][:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss", [*get_args(Objective)][1:])
def test_other_losses(loss: Any, seed: int) -> None:
    g = np.random.default_rng([seed, len(loss)])
    frame, y = drawn(90, seed)
    if g.random() < 0.7:
        y = np.exp(y / g.uniform(1, 4))
    else:
        y = 1e3 * np.exp(y)
    if loss in ("poisson", "tweedie"):
        y = np.where(g.random(90) < 0.3, 0.0, y)
    settings: dict[str, Any] = {"quantile": float(g.uniform(0.05, 0.95))}
    settings |= {"power": float(g.uniform(1.01, 1.99)), "trees": bool(g.random() < 0.3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted_trees, "ROUNDS", 5)
        few = {**FEW, "n_members": 1, "max_iter": 3, "cv": 2}
        model = TabularMLPRegressor(**few, **settings, loss=loss).fit(frame, y)
    X = complete(frame)
    (result,) = run_table(model, X)
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=2e-5)


def complete(X: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that begins with a row of all values:
    types of inputs are read from it.
    """
    first = X[X["town"].notna() & X["income"].notna()].index[0]
    return pd.concat([X.loc[[first]], X]).assign(
        town=lambda item: item["town"].astype(object)
    )


@pytest.mark.slow
@pytest.mark.parametrize("grown", [False, True])
def test_numbers_with_missing_values(
    grown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 5)
    few = {**FEW, "n_members": 6, "max_members": 6, "cv": 2, "trees": grown}
    model = TabularMLPRegressor(**few).fit(NUMBERS, SUM)
    assert {member.encoding for member in model.members_} >= {0, 1}
    for dtype in (np.float32, np.float64):
        X = np.concatenate([NUMBERS, 1e6 * NUMBERS, np.full((1, 4), np.nan)]).astype(
            dtype
        )
        (result,) = run_table(model, X)
        assert result.dtype == dtype
        assert result.shape == (len(X), 1)
        np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-6, atol=1e-5)
    (none,) = run_table(
        model, NUMBERS[:0], initial_types=[("X", FloatTensorType([None, None]))]
    )
    assert none.shape == (0, 1)


@pytest.mark.parametrize("classes", [["no", "yes"], [3, 4, 7], [False, True]])
def test_classes(classes: list[Any]) -> None:
    edges = np.quantile(SUM, np.linspace(0, 1, len(classes) + 1)[1:-1])
    y = np.array(classes)[np.searchsorted(edges, SUM)]
    model = TabularMLPClassifier(**FEW, cv=2).fit(NUMBERS, y)
    result, p = run_table(model, NUMBERS)
    assert result.tolist() == model.predict(NUMBERS).tolist()
    np.testing.assert_allclose(p, model.predict_proba(NUMBERS), atol=1e-6)
    types = [("X", FloatTensorType([None, 4]))]
    labels, probabilities = run_table(model, NUMBERS[:0], initial_types=types)
    assert len(labels) == len(probabilities) == 0


def with_a_new_town() -> pd.DataFrame:
    X = complete(drawn()[0])
    X.loc[X.index[5:8], "town"] = "Basel"
    return X


def test_columns_of_texts_are_inputs_of_their_own() -> None:
    X = with_a_new_town()
    (result,) = run_table(regressor(), X)
    np.testing.assert_allclose(result[:, 0], regressor().predict(X), rtol=1e-5)


def test_columns_are_found_by_name_in_any_order() -> None:
    X = with_a_new_town()
    model = classifier()
    printed, p = run_table(model, X[X.columns[::-1]])
    assert p.shape == (len(X), 3)
    np.testing.assert_allclose(p, model.predict_proba(X), atol=1e-6)
    assert (printed == model.predict(X)).all()


@cache
def of_levels() -> tuple[TabularMLPRegressor, Any]:
    """A model with many levels and few, all numbers, and its rows, some of them new."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, 400)
    quarters = rng.integers(0, 3, 400) / 4
    X = np.column_stack([codes, quarters, rng.normal(size=400)])
    y = rng.normal(size=40)[codes] + quarters
    model = TabularMLPRegressor(**FEW, cv=2, categorical_features=[0, 1]).fit(X, y)
    X[:5, 0] = [99, 1.5, np.nan, -1, 7]
    return model, X


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-6), (np.float32, 1e-5)])
def test_numbers_may_be_levels(dtype: Any, atol: float) -> None:
    model, X = of_levels()
    assert "statistics" in model.pack_.encodings[0].parts
    (result,) = run_table(model, X.astype(dtype))
    np.testing.assert_allclose(result[:, 0], model.predict(X), rtol=1e-5, atol=atol)


def test_a_number_near_a_level_is_none() -> None:
    model, X = of_levels()
    near = X.copy()
    near[:, 1] += 1e-12
    (result,) = run_table(model, near)
    expected = model.predict(near)
    np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, model.predict(X), rtol=0.01)


def test_an_array_of_texts_is_one_input() -> None:
    X, y = drawn()
    towns = X[["town"]].fillna("none").astype(object).to_numpy()
    model = TabularMLPRegressor(**FEW, cv=2).fit(towns, y)
    types = [("X", StringTensorType([None, 1]))]
    (result,) = run_table(model, towns, initial_types=types)
    np.testing.assert_allclose(result[:, 0], model.predict(towns), rtol=1e-5)


def test_a_pipeline_that_ends_in_a_table_is_exported() -> None:
    whole = make_pipeline(FunctionTransformer(), TabularMLPRegressor(**FEW, cv=2))
    whole.fit(NUMBERS, SUM)
    (result,) = run_table(whole, NUMBERS)
    expected = whole.predict(NUMBERS)
    np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_a_table_without_a_fit_is_refused() -> None:
    with pytest.raises(Exception, match="not fitted"):
        skl2onnx.to_onnx(TabularMLPRegressor(), NUMBERS)


DATED = pd.DataFrame({"a": np.arange(40.0), "when": ["2024-03-01", "2024-03-05"] * 20})
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "trees": (
        lambda: skl2onnx.to_onnx(
            TabularMLPRegressor(
                **FEW, cv=2, extra_members=[DecisionTreeRegressor()]
            ).fit(X := np.repeat(np.arange(20.0), 10)[:, None], np.cos(9 * X[:, 0])),
            X,
        ),
        "the ensemble holds 'DecisionTreeRegressor' with weight .*: fit without "
        "extra_members",
    ),
    "dates": (
        lambda: skl2onnx.to_onnx(
            TabularMLPRegressor(**FEW, cv=2).fit(DATED, -np.arange(40.0)), DATED[:1]
        ),
        "the columns 'when' hold dates or times",
    ),
    "fewer columns": (
        lambda: skl2onnx.to_onnx(regressor(), complete(drawn()[0])[["age", "income"]]),
        r"needs one input of 4 columns, or one of shape \[None, 1\] for each, got "
        r"'age' of shape \[None, 1\].*; without 'town', 'member': pass X\[:1\], of a "
        r"frame as in training",
    ),
    "another name": (
        lambda: skl2onnx.to_onnx(
            regressor(), complete(drawn()[0]).rename(columns={"age": "years"})
        ),
        r"got 'years' of shape \[None, 1\].*; without 'age': pass X",
    ),
    "texts as numbers": (
        lambda: skl2onnx.to_onnx(regressor(), np.zeros((1, 4))),
        "'town' held texts in training, and is to be numbers: give each column an "
        "input of its own",
    ),
    "numbers as texts": (
        lambda: skl2onnx.to_onnx(regressor(), complete(drawn()[0]).astype(str)),
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
    with pytest.raises(
        NotImplementedError, match="'x0' has levels that are the same number in"
    ):
        skl2onnx.to_onnx(model, X)


@pytest.mark.parametrize("first", ["skl2onnx", "fastmlp"])
def test_converters_are_registered(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
