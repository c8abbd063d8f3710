"""Initializers: the numbers of a net before its first step."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastmlp import MLP, Orthogonal
from fastmlp.rules.activations import RULES
from fastmlp.rules.initializers import INITIALIZERS, SQUARES

SHAPE = (400, 300)
VARIANCES = {
    "glorot_uniform": 2 / 700,
    "glorot_normal": 2 / 700,
    "he_uniform": 2 / 400,
    "he_normal": 2 / 400,
    "lecun_uniform": 1 / 400,
    "lecun_normal": 1 / 400,
    "normal": 0.0025,
    "zeros": 0.0,
    "sklearn": 2 / 700,
    "torch": 1 / 1200,
}
each_initializer = pytest.mark.parametrize("name", INITIALIZERS)


def draw(name: str, seed: int = 0, shape: tuple[int, int] = SHAPE) -> Any:
    """Draw the weights of a layer."""
    return weights_of(INITIALIZERS[name](np.random.default_rng(seed), shape))


def weights_of(drawn: Any) -> Any:
    return drawn[0] if isinstance(drawn, tuple) else drawn


@each_initializer
def test_weights_have_the_variance_of_the_paper(name: str) -> None:
    # The variance of 120,000 normal numbers is known to sqrt(2 / 120,000) = 0.4 %.
    assert draw(name).var() == pytest.approx(VARIANCES[name], rel=0.02, abs=0)


@each_initializer
def test_weights_have_a_mean_of_0(name: str) -> None:
    weights = draw(name)
    deviation_of_mean = np.sqrt(VARIANCES[name] / weights.size)
    assert abs(weights.mean()) <= 5 * deviation_of_mean


@each_initializer
def test_a_second_draw_of_a_generator_has_other_weights(name: str) -> None:
    generator = np.random.default_rng(0)
    first = weights_of(INITIALIZERS[name](generator, (3, 2)))
    second = weights_of(INITIALIZERS[name](generator, (3, 2)))
    assert np.array_equal(first, second) == (not first.any())


UNIFORM = [name for name in INITIALIZERS if name.endswith("uniform")]
NORMAL = [name for name in INITIALIZERS if name.endswith("normal")]


@pytest.mark.parametrize("name", [*UNIFORM, "sklearn", "torch"])
def test_uniform_weights_fill_their_bounds(name: str) -> None:
    weights = draw(name)
    bound = np.sqrt(3 * VARIANCES[name])
    assert 0.999 * bound < weights.max() <= bound
    assert -bound <= weights.min() < -0.999 * bound


@pytest.mark.parametrize("name", NORMAL)
def test_normal_weights_have_the_tails_of_the_normal_distribution(name: str) -> None:
    # 4.55 % lie beyond two standard deviations; a uniform distribution has none there.
    beyond = np.abs(draw(name)) > 2 * np.sqrt(VARIANCES[name])
    assert beyond.mean() == pytest.approx(0.0455, abs=0.003)


def net_of(*hidden: int, **settings: Any) -> MLP:
    return MLP((40, *hidden, 20), dtype="float64", seed=0, **settings)


def bounds(net: MLP) -> list[tuple[float, float]]:
    """The largest weight and the largest bias of each layer."""
    pairs = zip(net.weights, net.biases, strict=True)
    return [(np.abs(w).max(), np.abs(b).max()) for w, b in pairs]


@pytest.mark.parametrize("name", sorted({*INITIALIZERS} - {"sklearn", "torch"}))
def test_biases_are_0_but_those_of_sklearn_and_torch(name: str) -> None:
    net = net_of(30, initializer=name)
    assert not np.any(np.concatenate(net.biases))


def test_torch_is_the_start_of_a_linear_layer() -> None:
    net = net_of(300, initializer="torch")
    for n_in, (weight, bias) in zip((40, 300), bounds(net), strict=True):
        bound = 1 / np.sqrt(n_in)
        assert 0.8 * bound < bias <= bound
        assert 0.99 * bound < weight <= bound


@pytest.mark.parametrize(
    ("activation", "factors"),
    [
        ("relu", (6, 6, 6)),
        ("tanh", (6, 6, 6)),
        ("sigmoid", (2, 2, 2)),
        (["sigmoid", "sigmoid"], (2, 2, 2)),
        (["sigmoid", "relu"], (2, 6, 6)),
        (["tanh", "sigmoid"], (6, 2, 6)),
    ],
)
def test_sklearn_has_the_bound_of_each_activation(
    activation: Any, factors: tuple[int, ...]
) -> None:
    net = net_of(60, 80, activation=activation, initializer="sklearn")
    layers = zip(net.weights, bounds(net), factors, strict=True)
    for weights, (weight, bias), factor in layers:
        bound = np.sqrt(factor / sum(weights.shape))
        assert 0.98 * bound < weight <= bound
        assert 0.8 * bound < bias <= bound


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("activation", ["logistic", "relu"])
def test_sklearn_fills_the_bounds_of_scikit_learn(kind: Any, activation: Any) -> None:
    """A step of a rate of nearly 0 leaves scikit-learn's numbers as they start."""
    model = kind(
        hidden_layer_sizes=(200,),
        activation=activation,
        max_iter=1,
        solver="sgd",
        learning_rate_init=1e-30,
        random_state=0,
    )
    x = np.random.default_rng(0).normal(size=(50, 40))
    y: Any = np.arange(50) % 20
    if kind is MLPRegressor:
        y = np.eye(20)[y]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    net = net_of(200, activation=activation, initializer="sklearn")
    theirs = zip(model.coefs_, model.intercepts_, strict=True)
    for (weights, biases), (weight, bias) in zip(theirs, bounds(net), strict=True):
        assert np.abs(weights).max() == pytest.approx(weight, rel=0.01)
        assert np.abs(biases).max() == pytest.approx(bias, rel=0.2)


def test_without_a_hidden_layer_the_factor_of_sklearn_is_6() -> None:
    net = net_of(output_activation="sigmoid", initializer="sklearn")
    largest = np.abs(net.weights[0]).max()
    assert np.sqrt(2 / 60) < largest <= np.sqrt(6 / 60)


each_shape = pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (1, 4), (4, 1)])


@each_shape
def test_orthogonal_weights_have_equal_singular_values(shape: tuple[int, int]) -> None:
    net = MLP(shape, initializer=Orthogonal(gain=1.5), dtype="float64", seed=0)
    values = np.linalg.svd(net.weights[0], compute_uv=False)
    np.testing.assert_allclose(values, 1.5, rtol=1e-14)


@each_shape
def test_biases_beside_orthogonal_weights_are_0(shape: tuple[int, int]) -> None:
    net = MLP(shape, initializer=Orthogonal(gain=1.5), dtype="float64", seed=0)
    assert not net.biases[0].any()


def test_orthogonal_weights_prefer_no_direction() -> None:
    """Without the signs of the triangle a diagonal of QR is of one sign."""
    generator = np.random.default_rng(0)
    drawn = [Orthogonal()(generator, (3, 3)) for _ in range(2000)]
    deviation_of_mean = 1 / np.sqrt(3 * 2000)
    np.testing.assert_allclose(np.mean(drawn, axis=0), 0, atol=5 * deviation_of_mean)


def test_a_pickled_setting_of_orthogonal_weights_is_equal() -> None:
    setting = Orthogonal(gain=2)
    assert pickle.loads(pickle.dumps(setting)) == setting
    assert setting == Orthogonal(2.0)


def test_a_repr_shows_the_gain_of_orthogonal_weights() -> None:
    assert repr(Orthogonal(gain=2)) == "Orthogonal(gain=2.0)"


def test_a_function_may_return_weights_alone() -> None:
    def twos(generator: np.random.Generator, shape: tuple[int, int]) -> Any:
        return np.full(shape, 2)

    net = net_of(3, initializer=twos)
    assert (net.weights[0] == 2).all()
    assert not net.biases[0].any()


def test_a_function_may_return_biases_beside_weights() -> None:
    def with_biases(generator: np.random.Generator, shape: tuple[int, int]) -> Any:
        return np.full(shape, 2), list(range(shape[1]))

    net = net_of(3, initializer=with_biases)
    assert (net.weights[0] == 2).all()
    assert net.biases[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("initializer", [None, "torch", "sklearn", Orthogonal()])
def test_a_start_does_not_depend_on_the_dtype(initializer: Any) -> None:
    narrow = MLP((3, 7, 2), initializer=initializer, dtype="float32", seed=1)
    wide = MLP((3, 7, 2), initializer=initializer, dtype="float64", seed=1)
    np.testing.assert_array_equal(narrow.parameters, wide.parameters.astype("f4"))


def cube(z: float) -> tuple[float, float]:
    return z * z * z, 3 * z * z


@pytest.mark.parametrize(
    ("activation", "first", "further"),
    [("relu", 1, 6), ("tanh", 1, 6), ("silu", 3, 6), ("selu", 3, 3), (cube, 3, 3)],
)
def test_default_weights_have_a_bound_for_each_place(
    activation: Any, first: float, further: float
) -> None:
    net = net_of(200, 300, activation=activation)
    squares = (first, further, 1 / 16)
    layers = zip(net.weights, bounds(net), squares, strict=True)
    for weights, (weight, _), square in layers:
        bound = np.sqrt(square / len(weights))
        assert 0.99 * bound < weight <= bound


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "selu", cube])
def test_default_biases_fill_their_bounds_in_hidden_layers_alone(
    activation: Any,
) -> None:
    net = net_of(200, 300, activation=activation)
    *hidden, (_, bias_of_outputs) = bounds(net)
    for weights, (_, bias) in zip(net.weights[:-1], hidden, strict=True):
        assert 0.95 < bias * np.sqrt(len(weights)) <= 1
    assert bias_of_outputs == 0


def test_hidden_layers_have_the_bound_of_their_own_activation() -> None:
    net = net_of(200, 300, activation=["silu", "identity"])
    hidden = zip(net.weights[:-1], bounds(net)[:-1], strict=True)
    for weights, (weight, _) in hidden:
        bound = np.sqrt(3 / len(weights))
        assert 0.99 * bound < weight <= bound


def test_a_net_without_hidden_layers_starts_with_small_weights() -> None:
    ((weight, bias),) = bounds(net_of())
    assert 0.99 / 4 < weight * np.sqrt(40) <= 1 / 4
    assert bias == 0


def test_the_default_start_knows_each_activation_but_two() -> None:
    assert {*SQUARES} == {*RULES} - {"identity", "selu"}


# The least deviations; a sigmoid's slope is at most a quarter.
DEEP = {"sigmoid": 1e-5, "softplus": 0.01, "silu": 0.03}


@pytest.mark.parametrize("activation", RULES)
def test_eight_layers_neither_lose_nor_blow_up_their_inputs(activation: Any) -> None:
    """The last hidden layer varies with standardized inputs, by a tenth to ten."""
    x = np.random.default_rng(0).normal(size=(500, 40))
    net = net_of(*[200] * 8, activation=activation)
    net.weights[-1][:] = np.eye(200, 20)
    deviation = np.median(net.predict(x).std(axis=0))
    assert DEEP.get(activation, 0.1) < deviation < 10
