"""Second derivatives of rules and of links, beside complex steps and at the ends."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from fastmlp import MLP
from fastmlp.backends.cpu.kernels import elementwise, rule_blocks
from fastmlp.compiler import block_of
from fastmlp.compiler.curvature import check_curvatures
from fastmlp.model import core_of
from fastmlp.rules.activations import RULES
from fastmlp.rules.elementary import exp
from fastmlp.rules.elementary import logistic as logistic_rule
from fastmlp.rules.losses import LINKS, deviation

STEP = 1e-30
POINTS = np.concatenate([np.linspace(-8, 8, 60), [-20.0, -12.0, 12.0]])
ROOT = np.sqrt(8 / np.pi)
CUBIC = 0.044715


def logistic(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def gelu_tanh(z: Any) -> Any:
    inner = logistic(ROOT * (z + CUBIC * z**3))
    return inner + z * inner * (1 - inner) * ROOT * (1 + 3 * CUBIC * z * z)


def gelu(z: Any) -> Any:
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return (1 + special.erf(z / np.sqrt(2))) / 2 + z * density


def mish(z: Any) -> Any:
    t = np.tanh(np.log1p(np.exp(z)))
    return t + z * (1 - t * t) * logistic(z)


# Slopes as functions of complex numbers.
SLOPES: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda z: logistic(z) * (1 - logistic(z)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda z: logistic(z) * (1 + z * (1 - logistic(z))),
    "mish": mish,
    "softplus": logistic,
    "elu": lambda z: np.where(z.real > 0, 1, np.exp(z)),
}
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def evaluated(rule: Any, points: Any) -> tuple[Any, Any, Any]:
    value, slope, curvature = (np.empty_like(points) for _ in range(3))
    block = block_of(elementwise.curvature_loop, points.dtype, rule)
    addresses = [a.ctypes.data for a in (points, value, slope, curvature)]
    block(*addresses, points.size)
    return value, slope, curvature


@pytest.mark.parametrize("name", SLOPES)
@each_dtype
def test_curvature_is_that_of_the_complex_step(name: str, dtype: Any) -> None:
    points = POINTS.astype(dtype)
    with np.errstate(over="ignore"):
        expected = SLOPES[name](points.astype(complex) + STEP * 1j).imag / STEP
    found = evaluated(RULES[name], points)[2]
    # s (1 - s) of gelu_tanh cancels, times squares of about 100.
    bound = 500 * np.finfo(dtype).eps
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", SLOPES)
@each_dtype
def test_values_and_slopes_have_the_bits_of_training(name: str, dtype: Any) -> None:
    points = POINTS.astype(dtype)
    pair = np.empty_like(points), np.empty_like(points)
    block = block_of(elementwise.activation_loop, dtype, RULES[name])
    block(*(a.ctypes.data for a in (points, *pair)), points.size)
    np.testing.assert_array_equal(pair, evaluated(RULES[name], points)[:2])


@pytest.mark.parametrize("name", SLOPES)
@each_dtype
def test_curvature_is_0_or_small_at_the_ends(name: str, dtype: Any) -> None:
    points = np.array([-1e4, -200, -100, 100, 200, 1e4], dtype)
    far = evaluated(RULES[name], points)
    assert np.isfinite(far).all()
    assert np.abs(far[2]).max() < 1e-38


def test_curvature_keeps_its_digits_in_the_left_tail() -> None:
    points = np.array([-100.0, -40.0])
    for name in ("sigmoid", "softplus", "elu"):
        found = evaluated(RULES[name], points)[2]
        np.testing.assert_allclose(found, np.exp(points), rtol=1e-13)


@pytest.mark.parametrize(
    ("rule", "options", "expected"),
    [
        (logistic_rule, {}, lambda z: SLOPES["sigmoid"](z + STEP * 1j).imag / STEP),
        (exp, {}, np.exp),
        (deviation, {"apart": 2}, lambda z: np.exp(z / 2) / 4),
    ],
)
def test_links_of_numbers_are_derived_twice(
    rule: Any, options: dict[str, int], expected: Any
) -> None:
    raw = np.asfortranarray(np.linspace(-8, 8, 20).reshape(10, 2))
    slopes = np.empty_like(raw)
    curvatures = np.empty_like(raw)
    block = block_of(elementwise.link_slopes_loop, raw.dtype, rule, **options)
    block(*(a.ctypes.data for a in (raw, slopes, curvatures)), *raw.shape)
    np.testing.assert_allclose(
        curvatures[:, 1], expected(raw[:, 1]), rtol=1e-12, atol=1e-15
    )


def bump(z: Any) -> Any:
    value = exp(-z * z)
    return value, type(z)(-2) * z * value


def by_numpy(z: Any) -> Any:
    root = np.sqrt(z * z + 1)
    return root + abs(z) / np.log(3.0), z / root + (1 if z > 0 else -1) / np.log(3.0)


def with_curvature(z: Any) -> Any:
    return z * z, z + z, type(z)(2)


def line(z: Any) -> Any:
    return z * type(z)(2), type(z)(2)


def powers(z: Any) -> Any:
    return z**3 + (z + 3) ** -2, 3 * z**2 - 2 * (z + 3) ** -3


def root(z: Any) -> Any:
    return (z + 3) ** 0.5, 0.5 / (z + 3) ** 0.5


def of_numpy(z: Any) -> Any:
    return np.sin(z), np.cos(z)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (bump, lambda z: (4 * z * z - 2) * np.exp(-z * z)),
        (by_numpy, lambda z: (z * z + 1) ** -1.5),
        (with_curvature, lambda z: np.full_like(z, 2.0)),
        (powers, lambda z: 6 * z + 6 * (z + 3) ** -4.0),
    ],
)
def test_own_rules_are_derived_or_taken(rule: Any, expected: Any) -> None:
    points = np.linspace(-2, 2, 8)
    found = evaluated(rule, points)[2]
    np.testing.assert_allclose(found, expected(points), rtol=1e-13, atol=1e-15)


def test_a_net_trains_with_a_rule_of_three_results() -> None:
    X = np.linspace(-1, 1, 20)[:, None]
    net = MLP((1, 4, 1), activation=with_curvature, seed=0)
    history = net.fit(X, X[:, 0] ** 2, epochs=100)
    assert history.loss[-1] < history.loss[0] / 4


def network_of(activation: Any, **options: Any) -> Any:
    return core_of(MLP((2, 3, 2), activation=activation, **options)).engine.network


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("relu", "the slope of 'relu' jumps: use tanh"),
        ("leaky_relu", "the slope of 'leaky_relu' jumps"),
        ("selu", "the slope of 'selu' jumps"),
        (line, "'line' is 0 everywhere"),
        (of_numpy, "a call of NumPy's sin, in the line"),
        (root, r"\*\* by 0.5, .*in the line .*; for derivatives return"),
    ],
)
def test_rules_without_a_curvature_are_refused(rule: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_curvatures(network_of(rule), "MLP.fit")


def test_linear_nets_and_smooth_ones_pass() -> None:
    for rule in ("identity", *SLOPES, bump, with_curvature):
        check_curvatures(network_of(rule), "MLP.fit")
    network = network_of("identity")._replace(derivatives="targets")
    assert rule_blocks.trained_activations(network)[0] == [0, 0]


def test_a_link_of_sorted_outputs_is_refused() -> None:
    network = network_of("tanh")._replace(link=LINKS["sorted"])
    with pytest.raises(ValueError, match="sorted predictions"):
        check_curvatures(network, "MLP.fit")
