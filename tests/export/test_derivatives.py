"""Jacobians, gradients of losses, and attributions:
complex steps, differences, definitions.
"""

import warnings
from itertools import product
from math import factorial
from typing import Any, get_args

import naive
import numpy as np
import pandas as pd
import pytest
from fitting import unconverged
from small_models import (
    CASES,
    LITTLE,
    MODELS,
    TARGETS,
    X,
    classifier,
    net_of,
    regressor,
    untrained,
)
from small_models import drawn as drawn_table

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    Quantile,
    TabularMLPClassifier,
    TabularMLPRegressor,
    gradient,
    jacobian,
    shap_values,
)
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.export import shapley
from fastmlp.export.derivatives import Attribution
from fastmlp.rules.activations import ActivationName
from fastmlp.rules.elementary import exp
from fastmlp.tabular.schema import Values

pytestmark = unconverged
ACTIVATIONS: tuple[Any, ...] = get_args(ActivationName)
LOSSES = (
    "mse",
    "binary_cross_entropy",
    "cross_entropy",
    "poisson",
    "three quantiles",
    "gaussian_nll",
)
rng = np.random.default_rng(0)


def drawn(seed: int) -> tuple[MLP, dict[str, Any]]:
    g = np.random.default_rng(seed)
    loss = str(LOSSES[seed % len(LOSSES)])
    n_outputs = {"three quantiles": 3, "gaussian_nll": 4}.get(
        loss, int(g.integers(2, 5))
    )
    hidden = g.choice([1, 2, 3, 8, 15, 33], g.integers(3)).tolist()
    # Each activation is among the seeds.
    names = [ACTIVATIONS[(seed + i) % len(ACTIVATIONS)] for i in range(len(hidden))]
    output = str(g.choice(ACTIVATIONS)) if loss == "mse" else None
    net = MLP(
        (int(g.integers(1, 20)), *hidden, n_outputs),
        activation=names or "relu",
        output_activation=output,  # type: ignore[arg-type]
        loss=Quantile([0.1, 0.5, 0.9]) if loss == "three quantiles" else loss,  # type: ignore[arg-type]
        dtype="float64",
        seed=seed,
    )
    net.parameters[:] += 0.3 * g.normal(size=len(net.parameters))
    return net, {
        "activations": names,
        "output_activation": output or "identity",
        "loss": loss,
    }


def rows_for(net: MLP, seed: int, n: int | None = None) -> Any:
    g = np.random.default_rng(seed)
    return g.normal(size=(n or int(g.integers(1, 120)), net.layer_sizes[0]))


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(24))
def test_derivatives_are_those_of_complex_steps(seed: int) -> None:
    net, model = drawn(seed)
    x = rows_for(net, seed)
    expected = naive.jacobian(net.weights, net.biases, x, **model)
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(
        jacobian(net, x), expected, rtol=1e-12, atol=1e-13 * scale
    )
    places = np.random.default_rng(seed).permutation(net.layer_sizes[-1])[:2]
    some = jacobian(net, x, outputs=places)
    np.testing.assert_array_equal(some, jacobian(net, x)[:, places])
    raw = {**model, "loss": "mse", "output_activation": "identity"}
    expected = naive.jacobian(net.weights, net.biases, x, **raw)
    np.testing.assert_allclose(
        jacobian(net, x, raw=True), expected, rtol=1e-12, atol=1e-12 * scale
    )
    single = MLP(net.layer_sizes, activation=model["activations"] or "relu", seed=0)
    single.parameters[:] = net.parameters
    derivatives = jacobian(single, x, raw=True)
    assert derivatives.dtype == np.float32
    np.testing.assert_allclose(derivatives, expected, rtol=2e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_of_one_thread(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    net = MLP(
        (5, 17, 9, 3),
        activation=["tanh", "relu"],
        loss="cross_entropy",
        seed=0,
        dtype=dtype,
    )
    x = rows_for(net, 0, 997)
    net.n_threads = 1
    expected = jacobian(net, x)
    for n_threads in (2, 2, 3):
        net.n_threads = n_threads
        np.testing.assert_array_equal(jacobian(net, x), expected)
    # A row's bits are its own.
    np.testing.assert_array_equal(jacobian(net, x[40:45]), expected[40:45])


def test_calls_of_many_operations_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MLP((3, 8, 2), seed=0)
    expected = jacobian(net, X)
    monkeypatch.setattr("fastmlp.backends.cpu.predict.row_blocks.PREDICT_FLOPS", 3000)
    other = MLP((3, 8, 2), seed=0)
    np.testing.assert_array_equal(jacobian(other, X, raw=True), expected)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_the_slope_at_a_kink_is_that_of_its_left(activation: Any, slope: float) -> None:
    net = MLP((1, 1, 1), activation=activation, initializer="zeros")
    net.weights[0][:] = 1
    net.weights[1][:] = 2
    slopes = jacobian(net, [[0.0], [1.0]]).ravel().tolist()
    assert slopes == pytest.approx([2 * slope, 2])


def test_activations_of_your_own_have_slopes() -> None:
    own: Any = {"activation": bump, "output_activation": bump}
    net = MLP((3, 5, 2), **own, dtype="float64", seed=0)
    np.testing.assert_allclose(jacobian(net, X), differences(net.predict, X), atol=1e-8)


def bump(z: float) -> tuple[float, float]:
    value = exp(-z * z)
    return value, -(z + z) * value


def differences(predict: Any, x: Any, h: float = 1e-6) -> Any:
    columns = [
        (predict(x + h * e) - predict(x - h * e)) / (2 * h) for e in np.eye(x.shape[1])
    ]
    return np.stack(columns, axis=-1).reshape(len(x), -1, x.shape[1])


@pytest.mark.parametrize(("name", "target"), CASES)
def test_estimators_are_derived(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.export.derivatives.BLOCK_NUMBERS", 100)
    model = MODELS[name](target)
    if "dtype" in model.get_params():
        model.set_params(dtype="float64")
    model.fit(X, TARGETS[target])
    if hasattr(model, "classes_"):
        predict = model.predict_proba
    else:
        predict = model.predict
    expected = differences(predict, X)
    derivatives = jacobian(model, X)
    assert derivatives.dtype == np.float64
    np.testing.assert_allclose(derivatives, expected, atol=1e-8)
    last = expected.shape[1] - 1
    np.testing.assert_array_equal(
        jacobian(model, X, outputs=[last]), derivatives[:, [last]]
    )
    if last == 0 or target in ("two", "one"):
        np.testing.assert_array_equal(gradient(model, X), derivatives[:, last])


@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_of_the_loss_is_that_of_differences(seed: int) -> None:
    net, model = drawn(seed)
    x = rows_for(net, seed, 5)
    g = np.random.default_rng(seed)
    n_outputs = net.layer_sizes[-1]
    loss = model["loss"]
    y: Any = g.random(
        (5, {"three quantiles": 1, "gaussian_nll": 2}.get(loss, n_outputs))
    )
    y = g.integers(n_outputs, size=5) if loss == "cross_entropy" else y

    def losses(rows: Any) -> Any:
        pairs = ((rows[i : i + 1], y[i : i + 1]) for i in range(len(rows)))
        return np.array([net.loss_and_gradient(*pair)[0] for pair in pairs])

    net.trainable = False
    expected = differences(losses, x)[:, 0]
    np.testing.assert_allclose(gradient(net, x, y=y), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        *[
            (MLPClassifier(**LITTLE, alpha=3.0), target)
            for target in ("two", "three", "labels")
        ],
        (MLPRegressor(**LITTLE, alpha=3.0), "number"),
        (net_of("two", "binary_cross_entropy").set_params(dtype="float64"), "two"),
        (net_of("three", "cross_entropy").set_params(dtype="float64"), "three"),
    ],
)
def test_the_gradient_of_an_estimators_loss(model: Any, target: str) -> None:
    """Labels are any; penalties are left out. Losses may differ by a factor."""
    y = TARGETS[target]
    slopes = gradient(model.fit(X, y), X, y=y)

    def losses(x: Any) -> Any:
        values = model.net_.predict(x)
        if target == "number":
            return (values[:, 0] - y) ** 2
        if values.shape[1] == 1:
            classes = model.classes_[1:]
        else:
            classes = model.classes_
        wanted = y if target == "labels" else y[:, None] == classes
        if np.allclose(values.sum(axis=1), 1):
            return -np.log(values[wanted])
        return -np.log(np.where(wanted, values, 1 - values)).sum(axis=1)

    expected = differences(losses, X)[:, 0]
    factor = np.abs(expected).max() / np.abs(slopes).max()
    assert factor in (pytest.approx(1), pytest.approx(2), pytest.approx(3))
    np.testing.assert_allclose(slopes * factor, expected, atol=1e-6)


def test_results_are_written_where_they_are_asked_for() -> None:
    net = MLP((3, 4, 3), seed=0)
    x = X.astype(np.float32)
    out = np.empty((60, 3, 3), np.float32)
    assert jacobian(net, x, out=out) is out
    np.testing.assert_array_equal(out, jacobian(net, x))
    shared = np.ascontiguousarray(np.broadcast_to(x[:, None], (60, 3, 3)))
    expected = jacobian(net, shared[:, 0])
    np.testing.assert_array_equal(jacobian(net, shared[:, 0], out=shared), expected)
    with pytest.raises(ValueError, match=r"out must be .* of shape \(60, 1, 3\)"):
        jacobian(net, x, outputs=[0], out=out)


def test_no_row_after_the_last_is_read() -> None:
    rows = np.full((8, 3), np.nan)
    rows[:5] = X[:5]
    net = MLP((3, 4, 2), dtype="float64", seed=0)
    out = np.empty((5, 2, 3))
    assert Engine(net._network, 1).jacobian(net.parameters, rows[:5], [0, 1], out)
    np.testing.assert_array_equal(out, jacobian(net, X)[:5])


def test_frames_are_read_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    net = MLP((3, 4, 1), dtype="float64", seed=0)
    net.feature_names = [*"abc"]
    frame = pandas.DataFrame(X[:, ::-1], columns=[*"cba"])
    np.testing.assert_array_equal(gradient(net, frame), gradient(net, X))


def test_slopes_that_are_not_finite_warn() -> None:
    net = MLP((1, 1), loss="poisson", initializer="zeros")
    net.weights[0][:] = 1
    with pytest.warns(RuntimeWarning, match=r"fastmlp\.jacobian: not all"):
        assert np.isinf(jacobian(net, [[1000.0]]))


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    model = MLPClassifier(**LITTLE).fit(X, TARGETS["three"])
    with pytest.raises(ValueError, match=r"y holds .*z.*not among the model's classes"):
        gradient(model, X[:2], y=["a", "z"])


ROWS = rng.normal(size=(40, 4))


def assert_complete(
    attribution: Attribution, predictions: Any, atol: float = 1e-9
) -> None:
    sums = attribution.base + attribution.values.sum(axis=-1)
    np.testing.assert_allclose(sums, predictions, atol=atol)
    assert attribution.values.dtype == np.float64
    assert attribution.gap.shape == sums.shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_values_are_those_of_the_definition(dtype: Any, n_outputs: int) -> None:
    net = MLP((4, 8, 5, n_outputs), activation=["tanh", "silu"], dtype=dtype, seed=1)
    attribution = shap_values(net, ROWS[:3], ROWS[20:27], n_steps=12)
    weights = [part.astype(float) for part in net.weights]
    biases = [part.astype(float) for part in net.biases]

    def slopes(x: Any) -> Any:
        return naive.jacobian(weights, biases, x, activations=["tanh", "silu"])

    expected = naive.integrated_gradients(slopes, ROWS[:3], ROWS[20:27], 400)
    values = attribution.values.reshape(3, n_outputs, 4)
    tolerance = {"float64": 1e-5, "float32": 1e-4}[dtype]
    np.testing.assert_allclose(values, expected, atol=tolerance)
    predictions = net.predict(ROWS[:3])
    of_background = net.predict(ROWS[20:27])
    if n_outputs == 1:
        predictions = predictions[:, 0]
        of_background = of_background[:, 0]
        assert isinstance(attribution.base, float)
    np.testing.assert_allclose(
        attribution.base, of_background.mean(axis=0), rtol=1e-5, atol=1e-6
    )
    assert_complete(attribution, predictions, 1e-6)


def test_a_line_is_attributed_exactly() -> None:
    line = MLP((4, 2), dtype="float64", seed=0)
    values = shap_values(line, ROWS[:5], ROWS[10:30], n_steps=1).values
    expected = (ROWS[:5] - ROWS[10:30].mean(axis=0))[:, None] * line.weights[0].T
    np.testing.assert_allclose(values, expected, atol=1e-14)


def test_equal_columns_are_attributed_alike() -> None:
    net = MLP((4, 16, 1), activation="gelu", dtype="float64", seed=0)
    net.weights[0][1] = net.weights[0][0]
    net.weights[0][2] = 0
    rows = np.column_stack([ROWS[:, 0], ROWS[:, 0], ROWS[:, 2:]])
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
    np.testing.assert_array_equal(
        values[np.broadcast_to(rows[:, None] == 0, values.shape)], 0
    )
    np.testing.assert_allclose(base + values.sum(axis=2), net.predict(rows), atol=1e-5)
    assert values[0, 0, 0] != 0


def test_blocks_of_any_size_give_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = MLP((4, 8, 2), activation="tanh", dtype="float64", seed=0)
    expected = shap_values(net, ROWS[:7], ROWS[10:]).values
    for block in (1, 500, 5000):
        monkeypatch.setattr("fastmlp.export.derivatives.PATHS_AT_ONCE", block)
        np.testing.assert_allclose(
            shap_values(net, ROWS[:7], ROWS[10:]).values, expected, atol=1e-14
        )


@unconverged
@pytest.mark.filterwarnings("ignore:.*the integrals miss")
@pytest.mark.parametrize(
    ("model", "target"),
    [
        (MLPRegressor(**LITTLE), "number"),
        *[(MLPClassifier(**LITTLE), target) for target in ("two", "three", "labels")],
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
        if several:
            expected = probabilities
        else:
            expected = probabilities[:, 1] - probabilities[:, 0]
    else:
        expected = model.predict(frame[:5])
    assert_complete(attribution, expected, 1e-5)
    # A column that is as in the background has no part.
    alike = shap_values(model, frame[20:21], frame[20:21])
    np.testing.assert_allclose(alike.values, 0, atol=1e-6)


def shapley_values(predict: Any, X: Any, background: Any) -> Any:
    n = X.shape[1]
    names = [*X]
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
def test_tables_of_numbers_have_shapley_values() -> None:
    frame, _ = drawn_table()
    model = regressor()
    X = frame[:12]
    background = frame[60:80]
    values = shap_values(model, X, background).values
    expected = shapley_values(model.predict, X, background)
    assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.99


def test_attributions_of_probabilities_add_up() -> None:
    frame, _ = drawn_table()
    probabilities = classifier().predict_proba(frame)
    attribution = shap_values(classifier(), frame, frame[:10], raw=False)
    assert_complete(attribution, probabilities, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [True, False])
def test_members_that_are_not_nets_have_shapley_values(numbers: bool) -> None:
    frame, y = drawn_table()
    make: Any = TabularMLPRegressor
    if not numbers:
        make = TabularMLPClassifier
        y = y > np.median(y)
    model = make(n_members=2, max_iter=3, ensemble="mean", cv=2, random_state=0)
    model.fit(frame, y)
    assert [name for name, *_ in model._beside] == ["boosted trees"]

    def predict(rows: Any) -> Any:
        if numbers:
            return model.predict(rows)
        logs = model.predict_log_proba(rows)
        return logs[:, 1] - logs[:, 0]

    X = frame[:6]
    background = frame[60:80]
    attribution = shap_values(model, X, background)
    assert_complete(attribution, predict(X), 1e-5)
    expected = shapley_values(predict, X, background)
    assert np.corrcoef(attribution.values.ravel(), expected.ravel())[0, 1] > 0.999
    again = shap_values(model, X, background)
    np.testing.assert_array_equal(again.values, attribution.values)
    # A column that is as in the background has no part.
    alike = shap_values(model, X[:1], X[:1])
    np.testing.assert_allclose(alike.values, 0, atol=1e-6)


def test_blocks_of_rows_have_the_shapley_values_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    g = np.random.default_rng(0)
    rows, background = (
        Values(g.normal(size=(n, 3)), g.integers(0, 3, (n, 1)).astype(np.int32))
        for n in (5, 4)
    )

    def predict(values: Values) -> Any:
        numbers = values.numbers
        return (numbers[:, :1] * numbers[:, 1:2] + numbers[:, 2:]) * values.codes

    places = (np.array([0, 0, 2]), np.array([1]))
    whole = shapley.of_columns(predict, rows, background, places, 3)
    monkeypatch.setattr(shapley, "ROWS_AT_ONCE", 10)
    parts = shapley.of_columns(predict, rows, background, places, 3)
    np.testing.assert_allclose(parts, whole, atol=1e-12)
    change = predict(rows) - predict(background).mean(axis=0)
    np.testing.assert_allclose(whole.sum(axis=2), change, atol=1e-12)


# Messages.


def test_few_steps_warn() -> None:
    net = MLP((1, 1, 1), initializer="zeros", dtype="float64")
    net.weights[0][:] = 1
    net.weights[1][:] = 1
    with pytest.warns(RuntimeWarning, match="n_steps="):
        attribution = shap_values(net, [[1.0]], [[-3.0]], n_steps=2)
    assert attribution.values.tolist() == [[1.0]]
    assert abs(attribution.gap[0]) > 0.05


def test_rows_of_a_long_background_are_picked_evenly() -> None:
    net = MLP((4, 1), dtype="float64", seed=0)
    rows = np.repeat(ROWS, 50, axis=0)
    with pytest.warns(RuntimeWarning, match="1000 of 2000 rows of background"):
        attribution = shap_values(net, ROWS, rows)
    expected = shap_values(net, ROWS, ROWS).values
    np.testing.assert_allclose(attribution.values, expected, atol=1e-12)


def test_a_model_without_raw_outputs_has_no_attribution_of_them() -> None:
    rows, _ = drawn_table()
    with pytest.raises(TypeError, match="no raw outputs"):
        shap_values(regressor(), rows, rows, raw=True)


def test_no_rows_have_no_attribution() -> None:
    rows, _ = drawn_table()
    with pytest.raises(ValueError, match="rows"):
        shap_values(regressor(), rows[:0], rows)


def test_one_step_is_taken_at_the_middle() -> None:
    net = MLP((4, 5, 1), activation="tanh", dtype="float64", seed=0)
    row = ROWS[:1]
    background = ROWS[1:2]
    attribution = shap_values(net, row, background, n_steps=1)
    slopes = jacobian(net, (row + background) / 2)[:, 0]
    middle = slopes * (row - background)
    shares = np.abs(middle) / np.abs(middle).sum()
    unshared = attribution.values - attribution.gap * shares
    np.testing.assert_allclose(unshared, middle, atol=1e-12)
