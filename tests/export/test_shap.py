"""Attributions: their definition, their sum, and columns of tables."""

import warnings
from itertools import product
from math import factorial
from typing import Any

import naive
import numpy as np
import pandas as pd
import pytest
from fitting import unconverged
from sklearn.dummy import DummyRegressor
from small_models import classifier, drawn, regressor, untrained

from fastmlp import MLP, MLPClassifier, MLPRegressor, TabularMLPRegressor, jacobian, shap_values
from fastmlp.export.shap import Attribution

rng = np.random.default_rng(0)
YES: Any = "yes"
X = rng.normal(size=(40, 4))
FEW: dict[str, Any] = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "tol": 0}


def assert_complete(attribution: Attribution, predictions: Any, atol: float = 1e-9) -> None:
    sums = attribution.base + attribution.values.sum(axis=-1)
    np.testing.assert_allclose(sums, predictions, atol=atol)
    assert attribution.values.dtype == np.float64
    assert attribution.gap.shape == sums.shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_values_are_those_of_the_definition(dtype: Any, n_outputs: int) -> None:
    net = MLP((4, 8, 5, n_outputs), activation=["tanh", "silu"], dtype=dtype, seed=1)
    attribution = shap_values(net, X[:3], X[20:27], n_steps=12)
    model: Any = {"activations": ["tanh", "silu"]}
    weights, biases = ([w.astype(float) for w in each] for each in (net.weights, net.biases))
    expected = naive.integrated_gradients(
        lambda x: naive.jacobian(weights, biases, x, **model), X[:3], X[20:27], 400
    )
    values = attribution.values.reshape(3, n_outputs, 4)
    np.testing.assert_allclose(values, expected, atol=1e-5 if dtype == "float64" else 1e-4)
    predictions, of_background = net.predict(X[:3]), net.predict(X[20:27])
    if n_outputs == 1:
        predictions, of_background = predictions[:, 0], of_background[:, 0]
        assert isinstance(attribution.base, float)
    np.testing.assert_allclose(attribution.base, of_background.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert_complete(attribution, predictions, 1e-6)


def test_a_line_is_attributed_exactly_and_equal_columns_alike() -> None:
    line = MLP((4, 2), dtype="float64", seed=0)
    values = shap_values(line, X[:5], X[10:30], n_steps=1).values
    expected = (X[:5] - X[10:30].mean(axis=0))[:, None] * line.weights[0].T
    np.testing.assert_allclose(values, expected, atol=1e-14)
    net = MLP((4, 16, 1), activation="gelu", dtype="float64", seed=0)
    net.weights[0][1], net.weights[0][2] = net.weights[0][0], 0
    rows = np.column_stack([X[:, 0], X[:, 0], X[:, 2:]])
    values = shap_values(net, rows[:5], rows[10:]).values
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-12)
    np.testing.assert_array_equal(values[:, 2], 0)


@pytest.mark.parametrize("seed", range(4))
def test_columns_that_equal_the_background_have_no_effect(seed: int) -> None:
    """All slopes underflow along the lines: the gap is shared by the distances."""
    rng = np.random.default_rng(seed)
    net = MLP((4, 9, 2), activation="tanh", seed=seed)
    rows = rng.choice([0, 1e4, 2e5], (5, 4))
    rows[0] = [1e5, 0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of gaps
        values, base, _ = shap_values(net, rows, background=np.zeros((1, 4)))
    np.testing.assert_array_equal(values[np.broadcast_to(rows[:, None] == 0, values.shape)], 0)
    np.testing.assert_allclose(base + values.sum(axis=2), net.predict(rows), atol=1e-5)
    assert values[0, 0, 0] != 0


def test_blocks_of_any_size_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MLP((4, 8, 2), activation="tanh", dtype="float64", seed=0)
    expected = shap_values(net, X[:7], X[10:]).values
    for block in (1, 500, 5000):
        monkeypatch.setattr("fastmlp.export.shap.BLOCK", block)
        np.testing.assert_allclose(shap_values(net, X[:7], X[10:]).values, expected, atol=1e-14)


TARGETS: dict[str, Any] = {
    "number": X[:, 0] + 1,
    "two": X[:, 0] > 0,
    "three": np.array([*"abc"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "labels": (X[:, :2] > 0).astype(int),
}


@unconverged
@pytest.mark.filterwarnings("ignore:.*the integrals miss")
@pytest.mark.parametrize(
    ("model", "target"),
    [
        (MLPRegressor(**FEW), "number"),
        *[(MLPClassifier(**FEW), target) for target in ("two", "three", "labels")],
    ],
)
def test_the_sum_is_the_prediction(model: Any, target: str) -> None:
    model.fit(X, TARGETS[target])
    if target == "number":
        assert_complete(shap_values(model, X, X[:9]), model.predict(X))
        return
    probabilities = model.predict_proba(X)
    assert_complete(shap_values(model, X, X[:9], raw=False), probabilities)
    logs = np.log(probabilities)
    if target == "two":
        expected = logs[:, 1] - logs[:, 0]
    elif target == "labels":
        expected = logs - np.log(1 - probabilities)
    else:
        expected = model.net_.predict_raw(X)
    assert_complete(shap_values(model, X, X[:9]), expected, 1e-6)


# Tables.


@pytest.mark.filterwarnings("ignore:.*the integrals miss")
@pytest.mark.parametrize("seed", range(16))
def test_drawn_tables_are_attributed_to_their_columns(seed: int) -> None:
    model, frame = untrained(seed)
    attribution = shap_values(model, frame[:5], frame[20:40])
    values = attribution.values
    assert values.shape[-1] == frame.shape[1]
    dropped = [frame.columns.get_loc(name) for name in model.schema_.dropped]
    np.testing.assert_array_equal(values[..., dropped], 0)
    if hasattr(model, "classes_"):
        probabilities = np.log(model.predict_proba(frame[:5]))
        several = probabilities.shape[1] > 2
        expected = probabilities if several else probabilities[:, 1] - probabilities[:, 0]
    else:
        expected = model.predict(frame[:5])
    assert_complete(attribution, expected, 1e-5)
    # A column that is as in the background has no part.
    alike = shap_values(model, frame[20:21], frame[20:21])
    np.testing.assert_allclose(alike.values, 0, atol=1e-6)


def shapley_values(predict: Any, X: Any, background: Any) -> Any:
    n, names = X.shape[1], [*X]
    of_sets = {}
    for chosen in product((0, 1), repeat=n):
        rows = pd.concat([background] * len(X), ignore_index=True)
        for name in (name for name, taken in zip(names, chosen, strict=True) if taken):
            rows[name] = np.repeat(X[name].to_numpy(), len(background))
        of_sets[chosen] = predict(rows).reshape(len(X), len(background)).mean(axis=1)
    values = np.zeros((len(X), n))
    for chosen, before in of_sets.items():
        k = sum(chosen)
        weight = factorial(k) * factorial(max(n - k - 1, 0)) / factorial(n)
        for j in (j for j in range(n) if not chosen[j]):
            after = of_sets[(*chosen[:j], 1, *chosen[j + 1 :])]
            values[:, j] += weight * (after - before)
    return values


@pytest.mark.slow
def test_columns_of_tables_have_about_their_shapley_values() -> None:
    frame, _ = drawn()
    model = regressor()
    X, background = frame[:12], frame[60:80]
    values = shap_values(model, X, background).values
    expected = shapley_values(model.predict, X, background)
    assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.slow
def test_tables_of_several_classes() -> None:
    frame, _ = drawn()
    probabilities = classifier().predict_proba(frame)
    attribution = shap_values(classifier(), frame, frame[:10], raw=False)
    assert_complete(attribution, probabilities, 1e-6)


def test_members_that_are_no_nets_are_refused() -> None:
    frame, y = drawn()
    extra = [("mean", DummyRegressor())]
    model = TabularMLPRegressor(n_members=1, max_iter=1, extra_members=extra, random_state=0)
    model.fit(frame, y)
    model.pack_.extra_weights = np.array([0.5])
    with pytest.raises(NotImplementedError, match="cannot be derived: 'mean'"):
        shap_values(model, frame, frame)


# Messages.


def test_few_steps_over_kinks_warn() -> None:
    net = MLP((1, 1, 1), initializer="zeros", dtype="float64")
    net.weights[0][:], net.weights[1][:] = 1, 1
    with pytest.warns(RuntimeWarning, match="n_steps="):
        attribution = shap_values(net, [[1.0]], [[-3.0]], n_steps=2)
    assert attribution.values.tolist() == [[1.0]]
    assert abs(attribution.gap[0]) > 0.05


def test_a_long_background_is_picked_evenly() -> None:
    net = MLP((4, 1), dtype="float64", seed=0)
    rows = np.repeat(X, 50, axis=0)
    with pytest.warns(RuntimeWarning, match="1000 of 2000 rows of background"):
        attribution = shap_values(net, X, rows)
    np.testing.assert_allclose(attribution.values, shap_values(net, X, X).values, atol=1e-12)


def test_what_cannot_be_attributed() -> None:
    model, rows = regressor(), drawn()[0]
    with pytest.raises(TypeError, match="no raw outputs"):
        shap_values(model, rows, rows, raw=True)
    with pytest.raises(ValueError, match="rows"):
        shap_values(model, rows[:0], rows)


def test_one_step_is_the_derivative_in_the_middle() -> None:
    net = MLP((4, 5, 1), activation="tanh", dtype="float64", seed=0)
    attribution = shap_values(net, X[:1], X[1:2], n_steps=1)
    middle = jacobian(net, (X[:1] + X[1:2]) / 2)[:, 0] * (X[:1] - X[1:2])
    unshared = attribution.values - attribution.gap * np.abs(middle) / np.abs(middle).sum()
    np.testing.assert_allclose(unshared, middle, atol=1e-12)
