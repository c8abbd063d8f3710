"""MLP as users meet it: real data, numbers at the edge, the same bits everywhere."""

import pickle
import warnings
from typing import Any

import naive
import numpy as np
import pytest
from loss_cases import cube, descent, fourth
from numba import config
from sklearn.datasets import load_digits

from fastmlp import MLP, SGD, Adam, Custom, Loss, Status
from fastmlp.rules.losses import LOSSES

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
compiled_only = pytest.mark.skipif(
    bool(config.DISABLE_JIT), reason="hours of steps in plain Python"
)


def wave(n: int = 60, width: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, (n, width))
    return x, np.sin(3 * x[:, 0]) + 0.5 * x[:, 1]


@compiled_only
def test_xor_is_learnt_from_nearly_every_seed() -> None:
    solved = 0
    for seed in range(20):
        net = MLP(
            (2, 4, 1),
            activation="sigmoid",
            output_activation="sigmoid",
            optimizer=SGD(4.0),
            seed=seed,
        )
        history = net.fit(*XOR, epochs=20_000, batch_size=4)
        solved += history.loss[-1] < 0.01
    assert solved >= 18


@compiled_only
@pytest.mark.parametrize("seed", range(3))
def test_digits_reach_97_percent_on_a_held_out_fifth(seed: int) -> None:
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    test = rows[: len(x) // 5]
    train = rows[len(x) // 5 :]
    net = MLP(
        (64, 200, 10), loss="cross_entropy", optimizer=Adam(0.003), l2=1e-3, seed=seed
    )
    net.fit(x[train] / 16, y[train], epochs=30, batch_size=64)
    accuracy = np.mean(net.predict(x[test] / 16).argmax(axis=1) == y[test])
    assert accuracy >= 0.97


def test_one_step_by_hand() -> None:
    net = MLP((1, 1), optimizer=SGD(0.1), initializer="zeros", dtype="float64")
    net.weights[0][:] = 2.0
    net.biases[0][:] = 1.0
    history = net.fit([[3.0]], [5.0], epochs=1)
    # Prediction 7, error 2: loss 4, slope 4; dW = 4 * 3, db = 4.
    assert history.loss == [4.0]
    np.testing.assert_allclose(
        net.parameters, [2.0 - 0.1 * 12, 1.0 - 0.1 * 4], rtol=1e-15
    )


def test_a_layer_has_an_activation_of_its_own() -> None:
    x, _ = wave(9)
    net = MLP((3, 4, 5, 1), activation=["relu", "tanh"], dtype="float64", seed=0)
    expected = naive.predict(net.weights, net.biases, x, activations=["relu", "tanh"])
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-12)


def test_a_pickle_in_memory_that_is_only_read_trains() -> None:
    x, y = wave()
    net = MLP((3, 4, 1), seed=0)
    buffers = list[Any]()
    pickled = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    # As joblib's workers get arrays above a megabyte.
    other = pickle.loads(pickled, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert buffers
    for each in (net, other):
        each.fit(x, y, epochs=2)
    assert other.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize("n_rows", [1, 20, 2000])
def test_raw_outputs_see_what_has_happened_to_the_net(n_rows: int) -> None:
    net = MLP((2, 5, 1), loss="binary_cross_entropy", seed=0)
    rng = np.random.default_rng(n_rows)
    x = rng.normal(size=(n_rows, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    events: dict[str, Any] = {
        "parameters": lambda: net.parameters.__imul__(1.5),
        "fit": lambda: net.fit(x, y, epochs=1),
        "step": lambda: net.train_on_batch(x, y),
        "gradient": lambda: net.apply_gradient(np.ones(len(net.parameters))),
        "threads": lambda: setattr(net, "n_threads", 1 + (net.n_threads == 1)),
        "layers": lambda: setattr(net, "layer_rates", [0.5, 1]),
        "probabilities": lambda: net.predict(x),
    }
    for name in rng.choice([*events], 30):
        before = net.predict_raw(x)
        events[name]()
        raw = net.predict_raw(x)
        other = pickle.loads(pickle.dumps(net))
        assert np.array_equal(raw, other.predict_raw(x)), name
        assert np.array_equal(raw, before) == (
            name in ("threads", "layers", "probabilities")
        ), name


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("n_rows", [3, 30, 1500])
@pytest.mark.parametrize("sizes", [(4, 8, 4), (2, 3, 4), (4, 3, 2), (130, 4, 130)])
def test_predictions_may_go_over_the_rows_themselves(
    sizes: tuple[int, ...], n_rows: int, shift: int, rng: np.random.Generator
) -> None:
    n_in = sizes[0]
    n_out = sizes[-1]
    net = MLP(sizes, seed=0)
    room = rng.normal(size=(n_rows + 2) * max(sizes)).astype(np.float32)
    x = room[max(sizes) :][: n_rows * n_in].reshape(n_rows, n_in)
    out = room[max(sizes) + shift * n_out :][: n_rows * n_out].reshape(n_rows, n_out)
    for _ in range(2):
        rows = x.copy()
        expected = net.predict(rows)
        assert net.predict(x, out=out) is out
        np.testing.assert_array_equal(out, expected)


def log_cosh(w: Any) -> Any:
    return np.log(np.cosh(w)), np.tanh(w)


@pytest.mark.slow
def test_rules_of_ones_own_have_right_gradients() -> None:
    x, y = wave(11)
    net = MLP(
        (3, 4, 1),
        activation=cube,
        loss=fourth,
        penalties={log_cosh: 0.5},
        dtype="float64",
        seed=0,
    )
    _, gradient = net.loss_and_gradient(x, y)
    direction = np.random.default_rng(1).standard_normal(len(gradient))
    start = net.parameters.copy()
    step = 1e-6
    net.parameters[:] = start + step * direction
    above, _ = net.loss_and_gradient(x, y)
    net.parameters[:] = start - step * direction
    below, _ = net.loss_and_gradient(x, y)
    assert gradient @ direction == pytest.approx((above - below) / (2 * step), rel=1e-7)


def test_an_optimizer_of_ones_own_trains_as_its_equal() -> None:
    x, y = wave()
    own = MLP((3, 4, 1), optimizer=Custom(descent, learning_rate=0.05), seed=0)
    known = MLP((3, 4, 1), optimizer=SGD(0.05), seed=0)
    for net in (own, known):
        net.fit(x, y, epochs=2)
    assert own.parameters.tobytes() == known.parameters.tobytes()
    assert MLP((3, 1), optimizer=descent).optimizer.learning_rate == 0.001


def test_a_loss_of_ones_own_has_a_link() -> None:
    poisson = LOSSES["poisson"]
    net = MLP((3, 4, 1), loss=Loss(poisson.rule, link="exp", targets="count"), seed=0)
    x, y = wave()
    net.fit(x, abs(y), epochs=1)
    assert (net.predict(x) > 0).all()


def test_the_optimizer_of_a_repr_is_that_in_use() -> None:
    net = MLP((3, 1), optimizer=SGD(0.5, momentum=0.9))
    assert "optimizer=SGD(learning_rate=0.5, momentum=0.9)," in repr(net)
    net.optimizer = Custom(descent, learning_rate=0.1)
    assert "optimizer=Custom(rule=descent, learning_rate=0.1)," in repr(net)


def test_x_of_the_right_dtype_is_not_written_to_and_may_be_read_only() -> None:
    x, y = wave()
    x = np.ascontiguousarray(x, np.float32)
    x.flags.writeable = False
    net = MLP((3, 4, 1), seed=0)
    net.fit(x, y, epochs=1)
    assert net.predict(x).shape == (60, 1)


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
    net = make(dtype=dtype)
    x = X.copy()
    x[:, 1] *= scale
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(
        net.predict(x), expected(net, x), rtol=tolerance, atol=tolerance
    )


@each_dtype
def test_huge_columns_train_or_diverge_aloud(dtype: str) -> None:
    net = make(activation="relu", optimizer=SGD(0.1), dtype=dtype)
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning, match=r"diverged in epoch 1 .* standardise X"):
        history = net.fit(X * (1e30 if dtype == "float32" else 1e200), Y, epochs=3)
    assert history.status is Status.DIVERGED
    assert net.parameters.tobytes() == before.tobytes()


def leap(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - type(w)(1e38) * g * rate, m, v


@pytest.mark.parametrize("sizes", [(3, 1), (3, 40), (3, 40, 1), (3, 40, 40)])
def test_biases_alone_that_are_not_finite_are_a_divergence(
    sizes: tuple[int, ...],
) -> None:
    """The loss is that of before the step,
    and a row of zeros moves no weight of a first layer.
    """
    net = make(
        sizes, activation="relu", loss="mae", optimizer=Custom(leap, learning_rate=1e3)
    )
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning, match="diverged in epoch 1"):
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
    # By its name the loss is refused where it has one output,
    # but files of such nets are in use.
    net = make((3, 5, n_classes), loss=LOSSES["cross_entropy"], optimizer=Adam(0.05))
    history = net.fit(X, np.zeros(30, int), epochs=50)
    assert history.loss[-1] <= history.loss[0]
    assert (net.predict(X)[:, 0] > 0.5).all()


def test_predictions_that_are_not_finite_warn_at_the_callers_line() -> None:
    net = MLP((1, 2, 1), seed=0, initializer="normal")
    net.weights[0][:] = 1
    net.weights[1][:] = [[1], [-1]]
    for x in ([[3e38]], [[3e38]] * 9, np.full((1, 1), 3e38, np.float32)):
        net.parameters[:2] = 3e38
        with pytest.warns(
            RuntimeWarning, match="MLP.predict: not all predictions"
        ) as caught:
            net.predict(x)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.predict([[0.0]])


def test_far_predictions_do_not_warn() -> None:
    net = MLP((1, 1), initializer="zeros")
    net.biases[0][:] = 3e38
    assert (net.predict(np.zeros((9, 1))) == np.float32(3e38)).all()


def test_far_validation_losses_warn() -> None:
    net = MLP((3, 1), seed=0, optimizer=SGD(1e-3))
    far = np.full((2, 3), 3e38, np.float32)
    with pytest.warns(RuntimeWarning, match="the validation loss is (inf|nan)"):
        history = net.fit(X, Y, epochs=1, validation_data=(far, [0, 0]))
    assert history.status is Status.COMPLETED
