"""Models in ONNX beside onnxruntime, and parts of a model: what the model predicts."""

import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from fitting import unconverged
from own_activations import branch, built_of_others, constant, of_logarithms, of_numpy, plain
from small_models import CASES, FEW, MODELS, TARGETS, X, classifier, drawn, regressor

import fastmlp
from fastmlp import MLP, TabularMLPClassifier, TabularMLPRegressor, to_onnx
from fastmlp.export.models import ModelParts, parts_of
from fastmlp.rules.activations import ActivationName

# In float32 sums are of another order, and links may be steep.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
LOSSES = ("mse", "binary_cross_entropy", "cross_entropy", "poisson", "quantile", "gaussian_nll")
rng = np.random.default_rng(0)


def run(graph: Any, rows: Any) -> list[Any]:
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    result: list[Any] = session.run(None, rows if isinstance(rows, dict) else {names[0]: rows})
    return result


@pytest.mark.few(12)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", get_args(ActivationName))
def test_every_activation_and_link(activation: Any, dtype: Any) -> None:
    rows = rng.normal(size=(50, 3)).astype(dtype)
    for loss in LOSSES:
        setting: Any = fastmlp.Quantile([0.1, 0.5, 0.9]) if loss == "quantile" else loss
        n = {"quantile": 3, "cross_entropy": 3, "gaussian_nll": 4}.get(loss, 2)
        net = MLP((3, 7, 5, n), activation=activation, loss=setting, dtype=dtype, seed=1)
        if activation == "gelu" and dtype == "float64":
            with pytest.raises(NotImplementedError, match="to_onnx: gelu needs the node Erf"):
                to_onnx(net, dtype=dtype)
            continue
        (values,) = run(to_onnx(net, dtype=dtype), rows)
        assert values.dtype == dtype
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(values, net.predict(rows), rtol=tolerance, atol=tolerance)


def net_of(*own: Any, dtype: Any = "float32") -> MLP:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return MLP((3, *[7] * len(own), 2), activation=[*own], dtype=dtype, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [plain, built_of_others, of_logarithms, constant])
def test_activations_of_ones_own(rule: Any, dtype: Any) -> None:
    net, rows = net_of(rule, rule, dtype=dtype), rng.normal(size=(50, 3)).astype(dtype)
    (values,) = run(to_onnx(net, dtype=dtype), rows)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(values, net.predict(rows), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", [branch, of_numpy])
def test_activations_that_are_more_than_arithmetic(rule: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"to_onnx: the activation '{rule.__name__}' is"):
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
    numbers = rng.normal(size=(100, 3))
    model = TabularMLPRegressor(**FEW, cv=2).fit(numbers, 2 * numbers[:, 0])
    graph = to_onnx(model, dtype="float64")
    assert [node.name for node in graph.graph.input] == ["X"]
    (values,) = run(graph, numbers)
    np.testing.assert_allclose(values[:, 0], model.predict(numbers), rtol=1e-5, atol=1e-6)


OUTPUTS = ["label", "probabilities", "variable"]


@pytest.mark.parametrize("more", [[], ["predicted_label"], ["cast_1", "constant_2", "gather_5"]])
@pytest.mark.parametrize("kind", [TabularMLPRegressor, TabularMLPClassifier])
def test_columns_may_have_the_names_of_outputs_and_nodes(kind: Any, more: list[str]) -> None:
    X = pd.DataFrame({name: rng.choice([0.5, 2, 7], 60) for name in OUTPUTS + more})
    X["town"] = rng.choice(["Bern", "Chur"], 60)
    model = kind(n_members=1, max_iter=1, random_state=0).fit(X, X["label"] > 1)
    graph = to_onnx(model)
    names = [one.name for one in (*graph.graph.input, *graph.graph.output)]
    assert sorted(names[: len(X.columns)]) == sorted(X)
    assert len({*names}) == len(names)
    expected = model.predict(X) if kind is TabularMLPRegressor else model.predict_proba(X)[:, 1]
    np.testing.assert_allclose(run(graph, columns_of(X))[-1][:, -1], expected, atol=1e-5)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    net = MLP((3, 4, 1), seed=0)
    path = tmp_path / "net.onnx"
    graph = to_onnx(net, path, opset=15)
    assert onnx.load(path) == graph
    assert {item.domain: item.version for item in graph.opset_import} == {"": 15, "ai.onnx.ml": 2}
    before = path.read_bytes()
    with pytest.raises(NotImplementedError, match="activation 'branch' is more than arithmetic"):
        to_onnx(net_of(branch), path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def by_parts(parts: ModelParts, rows: Any) -> Any:
    values = parts.net.predict(rows)
    return np.hstack([1 - values, values]) if parts.complements else values


@unconverged
@pytest.mark.parametrize(("name", "target"), CASES)
def test_parts_predict_as_the_model(name: str, target: str) -> None:
    model = MODELS[name](target).fit(X, TARGETS[target])
    parts = parts_of(model, "export")
    expected = model.predict_proba(X) if hasattr(model, "classes_") else model.predict(X)
    np.testing.assert_array_equal(by_parts(parts, X), expected.reshape(len(X), -1))
    assert (parts.n_features, parts.n_outputs) == (3, expected.size // len(X))
    same = np.array_equal(parts.net.predict(X), expected.reshape(len(X), -1))
    assert parts.complements != same


def test_parts_of_a_net() -> None:
    net = MLP((3, 4, 2), seed=0)
    net.feature_names = [*"abc"]
    parts = parts_of(net, "export")
    assert parts.net is net
    assert parts.feature_names == ("a", "b", "c")
    assert not parts.complements


def test_a_model_of_tables_has_no_parts() -> None:
    with pytest.raises(TypeError, match=r"to_c: a Tabular\w+ is a model of tables, .* take"):
        parts_of(regressor(), "to_c")
