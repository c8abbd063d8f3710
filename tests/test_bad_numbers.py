"""Numbers at the edge: a clear error, or a right answer."""

import warnings
from typing import Any

import naive
import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam, Custom, Status
from fastmlp.rules.losses import LOSSES

X = np.random.default_rng(0).uniform(-1, 1, (30, 3))
Y = X[:, 0]
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(sizes: tuple[int, ...] = (3, 5, 1), **settings: Any) -> MLP:
    return MLP(sizes, **{"activation": "tanh", "seed": 0, **settings})


def expected(net: MLP, x: Any) -> Any:
    weights = [w.astype(float) for w in net.weights]
    biases = [b.astype(float) for b in net.biases]
    activations = ["tanh"] * (len(weights) - 1)
    return naive.predict(weights, biases, np.asarray(x, float), activations=activations)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_with_its_place(number: float) -> None:
    x, y = X.copy(), Y.copy()
    x[7, 2] = y[8] = number
    net = make()
    for call in (lambda: net.fit(x, Y), lambda: net.predict(x), lambda: net.predict(x[7:8])):
        with pytest.raises(ValueError, match=r"X must be finite as float32, got .*, column 2"):
            call()
    with pytest.raises(ValueError, match=r"y must be finite as float32, got .* in row 8"):
        net.fit(X, y)


def test_a_number_beyond_float32_is_not_finite_there() -> None:
    x = X.copy()
    x[3, 1] = 1e300
    with pytest.raises(
        ValueError, match=r"X must be finite as float32, got 1e\+300 in row 3, column 1"
    ):
        make().predict(x)
    assert np.isfinite(make(dtype="float64").predict(x)).all()


@each_dtype
@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-310, 1e-38, 1e15])
def test_columns_of_any_size_are_predicted_right(scale: float, dtype: str) -> None:
    net, x = make(dtype=dtype), X.copy()
    x[:, 1] *= scale
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(net.predict(x), expected(net, x), rtol=tolerance, atol=tolerance)


@each_dtype
def test_constant_columns_train(dtype: str) -> None:
    x = X.copy()
    x[:, 1], x[:, 2] = 0, 1
    net = make(dtype=dtype)
    history = net.fit(x, Y, epochs=20)
    assert history.status is Status.COMPLETED
    assert history.loss[-1] < history.loss[0]


@each_dtype
def test_huge_columns_train_or_diverge_aloud(dtype: str) -> None:
    net = make(activation="relu", optimizer=SGD(0.1), dtype=dtype)
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning, match=r"diverged in epoch 0 .* standardise X"):
        history = net.fit(X * (1e30 if dtype == "float32" else 1e200), Y, epochs=3)
    assert history.status is Status.DIVERGED
    assert net.parameters.tobytes() == before.tobytes()


def leap(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - type(w)(1e38) * g * rate, m, v


@pytest.mark.parametrize("sizes", [(3, 1), (3, 40), (3, 40, 1), (3, 40, 40)])
def test_biases_alone_that_are_not_finite_are_a_divergence(sizes: tuple[int, ...]) -> None:
    """The loss is that of before the step, and a row of zeros moves no weight of a first layer."""
    net = make(sizes, activation="relu", loss="mae", optimizer=Custom(leap, learning_rate=1e3))
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning, match="diverged in epoch 0"):
        history = net.fit(np.zeros((4, 3)), np.ones((4, sizes[-1])), epochs=1)
    assert history.status is Status.DIVERGED
    assert net.parameters.tobytes() == before.tobytes()


@each_dtype
@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy", "poisson"])
def test_a_single_row_trains(loss: str, dtype: str) -> None:
    net = make(loss=loss, dtype=dtype)
    history = net.fit(X[:1], [1.0], epochs=30)
    assert history.loss[-1] < history.loss[0]
    assert np.isfinite(net.predict(X[:1])).all()


@pytest.mark.parametrize("n_classes", [1, 2])
def test_a_single_class_is_learnt(n_classes: int) -> None:
    # By its name the loss is refused where it has one output, but files of such nets are in use.
    net = make((3, 5, n_classes), loss=LOSSES["cross_entropy"], optimizer=Adam(0.05))
    history = net.fit(X, np.zeros(30, int), epochs=50)
    assert history.loss[-1] <= history.loss[0]
    assert (net.predict(X)[:, 0] > 0.5).all()


def test_predictions_that_are_not_finite_warn_at_the_callers_line() -> None:
    net = MLP((1, 2, 1), seed=0, initializer="normal")
    net.weights[0][:], net.weights[1][:] = 1, [[1], [-1]]
    for x in ([[3e38]], [[3e38]] * 9, np.full((1, 1), 3e38, np.float32)):
        net.parameters[:2] = 3e38
        with pytest.warns(RuntimeWarning, match="MLP.predict: not all predictions") as caught:
            net.predict(x)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.predict([[0.0]])


def test_predictions_may_be_so_large_that_their_sum_is_not_finite() -> None:
    net = MLP((1, 1), initializer="zeros")
    net.biases[0][:] = 3e38
    assert (net.predict(np.zeros((9, 1))) == np.float32(3e38)).all()


def test_a_validation_loss_that_is_not_finite_warns() -> None:
    net = MLP((3, 1), seed=0, optimizer=SGD(1e-3))
    far = np.full((2, 3), 3e38, np.float32)
    with pytest.warns(RuntimeWarning, match="the validation loss is (inf|nan)"):
        history = net.fit(X, Y, epochs=1, validation_data=(far, [0, 0]))
    assert history.status is Status.COMPLETED
