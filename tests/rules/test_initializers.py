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
def test_initializers_have_the_papers_variance_and_no_mean(name: str) -> None:
    # The variance of 120,000 normal numbers is known to sqrt(2 / 120,000) = 0.4 %.
    assert draw(name).var() == pytest.approx(VARIANCES[name], rel=0.02, abs=0)
    assert abs(draw(name).mean()) <= 5 * np.sqrt(VARIANCES[name] / draw(name).size)
    generator = np.random.default_rng(0)
    first, second = (
        weights_of(INITIALIZERS[name](generator, (3, 2))) for _ in range(2)
    )
    assert np.array_equal(first, second) == (not first.any())


@pytest.mark.parametrize(
    "name", [*(n for n in INITIALIZERS if n.endswith("uniform")), "sklearn", "torch"]
)
def test_uniform_weights_fill_their_bounds_and_keep_within(name: str) -> None:
    bound = np.sqrt(3 * VARIANCES[name])
    assert 0.999 * bound < draw(name).max() <= bound
    assert -bound <= draw(name).min() < -0.999 * bound


@pytest.mark.parametrize(
    "name", [name for name in INITIALIZERS if name.endswith("normal")]
)
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
    assert not np.any(np.concatenate(net_of(30, initializer=name).biases))


def test_torch_is_the_start_of_a_linear_layer() -> None:
    for n_in, found in zip(
        (40, 300), bounds(net_of(300, initializer="torch")), strict=True
    ):
        bound = 1 / np.sqrt(n_in)
        assert 0.8 * bound < found[1] <= bound
        assert 0.99 * bound < found[0] <= bound


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
    for weights, found, factor in zip(net.weights, bounds(net), factors, strict=True):
        bound = np.sqrt(factor / sum(weights.shape))
        assert 0.98 * bound < found[0] <= bound
        assert 0.8 * bound < found[1] <= bound


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("activation", ["logistic", "relu"])
def test_sklearn_fills_the_bounds_of_scikit_learn(kind: Any, activation: Any) -> None:
    """Its numbers before the first step are those after a step of a rate of nearly
    0.
    """
    model = kind(
        hidden_layer_sizes=(200,),
        activation=activation,
        max_iter=1,
        solver="sgd",
        learning_rate_init=1e-30,
        random_state=0,
    )
    x = np.random.default_rng(0).normal(size=(50, 40))
    y = np.arange(50) % 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y if kind is MLPClassifier else np.eye(20)[y])
    net = net_of(200, activation=activation, initializer="sklearn")
    theirs = zip(model.coefs_, model.intercepts_, strict=True)
    for (weights, biases), found in zip(theirs, bounds(net), strict=True):
        assert np.abs(weights).max() == pytest.approx(found[0], rel=0.01)
        assert np.abs(biases).max() == pytest.approx(found[1], rel=0.2)


def test_without_a_hidden_layer_the_factor_of_sklearn_is_6() -> None:
    net = net_of(output_activation="sigmoid", initializer="sklearn")
    assert np.sqrt(2 / 60) < np.abs(net.weights[0]).max() <= np.sqrt(6 / 60)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (1, 4), (4, 1)])
def test_orthogonal_weights_have_equal_singular_values(shape: tuple[int, int]) -> None:
    net = MLP(shape, initializer=Orthogonal(gain=1.5), dtype="float64", seed=0)
    values = np.linalg.svd(net.weights[0], compute_uv=False)
    np.testing.assert_allclose(values, 1.5, rtol=1e-14)
    assert not net.biases[0].any()


def test_orthogonal_weights_prefer_no_direction() -> None:
    """Without the signs of the triangle a diagonal of QR is of one sign."""
    generator = np.random.default_rng(0)
    drawn = [Orthogonal()(generator, (3, 3)) for _ in range(2000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), 0, atol=5 / np.sqrt(3 * 2000))


def test_orthogonal_is_a_setting_that_copies_and_compares() -> None:
    setting = Orthogonal(gain=2)
    assert pickle.loads(pickle.dumps(setting)) == setting == Orthogonal(2.0)
    assert repr(setting) == "Orthogonal(gain=2.0)"


def test_a_function_returns_weights_or_weights_and_biases() -> None:
    def alone(generator: np.random.Generator, shape: tuple[int, int]) -> Any:
        return np.full(shape, 2)

    def both(generator: np.random.Generator, shape: tuple[int, int]) -> Any:
        return np.full(shape, 2), list(range(shape[1]))

    net = net_of(3, initializer=alone)
    assert (net.weights[0] == 2).all()
    assert not net.biases[0].any()
    net = net_of(3, initializer=both)
    assert (net.weights[0] == 2).all()
    assert net.biases[0].tolist() == [0, 1, 2]


def test_a_start_does_not_depend_on_the_dtype() -> None:
    for initializer in (None, "torch", "sklearn", Orthogonal()):
        first, second = (
            MLP((3, 7, 2), initializer=initializer, dtype=dtype, seed=1)
            for dtype in ("float32", "float64")
        )
        np.testing.assert_array_equal(first.parameters, second.parameters.astype("f4"))


def cube(z: float) -> tuple[float, float]:
    return z * z * z, 3 * z * z


@pytest.mark.parametrize(
    ("activation", "first", "further"),
    [("relu", 1, 6), ("tanh", 1, 6), ("silu", 3, 6), ("selu", 3, 3), (cube, 3, 3)],
)
def test_the_default_start_has_a_bound_for_each_place(
    activation: Any, first: float, further: float
) -> None:
    net = net_of(200, 300, activation=activation)
    squares = (first, further, 1 / 16)
    for weights, found, square in zip(net.weights, bounds(net), squares, strict=True):
        bound = np.sqrt(square / len(weights))
        assert 0.99 * bound < found[0] <= bound
    for weights, biases in zip(net.weights[:-1], net.biases, strict=False):
        assert 0.95 < np.abs(biases).max() * np.sqrt(len(weights)) <= 1
    assert not net.biases[-1].any()


def test_hidden_layers_have_the_bound_of_their_own_activation() -> None:
    net = net_of(200, 300, activation=["silu", "identity"])
    for weights, found, square in zip(net.weights, bounds(net), (3, 3), strict=False):
        assert 0.99 < found[0] * np.sqrt(len(weights) / square) <= 1


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
