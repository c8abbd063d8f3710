"""Derivatives are those of complex steps, and of differences of what models predict."""

from typing import Any, get_args

import naive
import numpy as np
import pytest
from fitting import unconverged
from small_models import CASES, LITTLE, MODELS, TARGETS, X

from fastmlp import MLP, MLPClassifier, MLPRegressor, Quantile, gradient, jacobian
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.rules.activations import ActivationName
from fastmlp.rules.elementary import exp

pytestmark = unconverged

ACTIVATIONS: tuple[Any, ...] = get_args(ActivationName)
LOSSES = (
    "mse", "binary_cross_entropy", "cross_entropy", "poisson", "three quantiles", "gaussian_nll",
)  # fmt: skip
rng = np.random.default_rng(0)


def drawn(seed: int) -> tuple[MLP, dict[str, Any]]:
    g = np.random.default_rng(seed)
    loss = str(LOSSES[seed % len(LOSSES)])
    n_outputs = {"three quantiles": 3, "gaussian_nll": 4}.get(loss, int(g.integers(2, 5)))
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
    return net, {"activations": names, "output_activation": output or "identity", "loss": loss}


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
    np.testing.assert_allclose(jacobian(net, x), expected, rtol=1e-12, atol=1e-13 * scale)
    places = np.random.default_rng(seed).permutation(net.layer_sizes[-1])[:2]
    some = jacobian(net, x, outputs=places)
    np.testing.assert_array_equal(some, jacobian(net, x)[:, places])
    raw = {**model, "loss": "mse", "output_activation": "identity"}
    expected = naive.jacobian(net.weights, net.biases, x, **raw)
    np.testing.assert_allclose(jacobian(net, x, raw=True), expected, rtol=1e-12, atol=1e-12 * scale)
    single = MLP(net.layer_sizes, activation=model["activations"] or "relu", seed=0)
    single.parameters[:] = net.parameters
    derivatives = jacobian(single, x, raw=True)
    assert derivatives.dtype == np.float32
    np.testing.assert_allclose(derivatives, expected, rtol=2e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_the_threads(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    net = MLP((5, 17, 9, 3), activation=["tanh", "relu"], loss="cross_entropy", seed=0, dtype=dtype)
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


def test_kinks_have_the_slopes_of_training() -> None:
    for activation, slope in (("relu", 0.0), ("leaky_relu", 0.01)):
        net = MLP((1, 1, 1), activation=activation, initializer="zeros")  # type: ignore[arg-type]
        net.weights[0][:], net.weights[1][:] = 1, 2
        assert jacobian(net, [[0.0], [1.0]]).ravel().tolist() == pytest.approx([2 * slope, 2])


def bump(z: float) -> tuple[float, float]:
    value = exp(-z * z)
    return value, -(z + z) * value


def test_an_activation_of_ones_own() -> None:
    net = MLP((3, 5, 2), activation=bump, output_activation=bump, dtype="float64", seed=0)
    np.testing.assert_allclose(jacobian(net, X), differences(net.predict, X), atol=1e-8)


def differences(predict: Any, x: Any, h: float = 1e-6) -> Any:
    columns = [(predict(x + h * e) - predict(x - h * e)) / (2 * h) for e in np.eye(x.shape[1])]
    return np.stack(columns, axis=-1).reshape(len(x), -1, x.shape[1])


def net_of(outputs: int, loss: Any) -> Any:
    net = MLP((3, 4, outputs), loss=loss, dtype="float64")
    return net.as_estimator(random_state=0, epochs=2)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_estimators_are_derived_as_they_predict(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.export.derivatives.BLOCK", 100)
    model = MODELS[name](target)
    if "dtype" in model.get_params():
        model.set_params(dtype="float64")
    model.fit(X, TARGETS[target])
    predict = model.predict_proba if hasattr(model, "classes_") else model.predict
    expected = differences(predict, X)
    derivatives = jacobian(model, X)
    assert derivatives.dtype == np.float64
    np.testing.assert_allclose(derivatives, expected, atol=1e-8)
    last = expected.shape[1] - 1
    np.testing.assert_array_equal(jacobian(model, X, outputs=[last]), derivatives[:, [last]])
    if last == 0 or target in ("two", "one"):
        np.testing.assert_array_equal(gradient(model, X), derivatives[:, last])
    several = hasattr(model, "estimators_")
    if target in ("two", "three", "rare") and several:
        logs = differences(lambda x: np.log(model.predict_proba(x)), X)
        logs = logs[:, 1:] - logs[:, :1] if target == "two" else logs
        np.testing.assert_allclose(jacobian(model, X, raw=True), logs, atol=1e-7)
    elif several and target != "one":
        with pytest.raises(TypeError, match="raw outputs are those of one net"):
            jacobian(model, X, raw=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_of_the_loss_is_that_of_differences(seed: int) -> None:
    net, model = drawn(seed)
    x = rows_for(net, seed, 5)
    g, n_outputs, loss = np.random.default_rng(seed), net.layer_sizes[-1], model["loss"]
    y: Any = g.random((5, {"three quantiles": 1, "gaussian_nll": 2}.get(loss, n_outputs)))
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
        *[(MLPClassifier(**LITTLE, alpha=3.0), target) for target in ("two", "three", "labels")],
        (MLPRegressor(**LITTLE, alpha=3.0), "number"),
        (net_of(1, "binary_cross_entropy"), "two"),
        (net_of(3, "cross_entropy"), "three"),
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
        classes = model.classes_[1:] if values.shape[1] == 1 else model.classes_
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


def test_what_lies_after_the_last_row_is_not_read() -> None:
    rows = np.full((8, 3), np.nan)
    rows[:5] = X[:5]
    net, out = MLP((3, 4, 2), dtype="float64", seed=0), np.empty((5, 2, 3))
    assert Engine(net._network, 1).jacobian(net.parameters, rows[:5], [0, 1], out)
    np.testing.assert_array_equal(out, jacobian(net, X)[:5])


def test_frames_are_read_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    net = MLP((3, 4, 1), dtype="float64", seed=0)
    net.feature_names = [*"abc"]
    frame = pandas.DataFrame(X[:, ::-1], columns=[*"cba"])
    np.testing.assert_array_equal(gradient(net, frame), gradient(net, X))


def test_far_rows_warn() -> None:
    net = MLP((1, 1), loss="poisson", initializer="zeros")
    net.weights[0][:] = 1
    with pytest.warns(RuntimeWarning, match=r"fastmlp\.jacobian: not all"):
        assert np.isinf(jacobian(net, [[1000.0]]))


def test_labels_are_known() -> None:
    with pytest.raises(ValueError, match=r"y holds .*z.*not among the model's classes"):
        gradient(MLPClassifier(**LITTLE).fit(X, TARGETS["three"]), X[:2], y=["a", "z"])
