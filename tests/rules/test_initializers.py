"""Initializers: the variance and the bounds that their papers ask for, and the same every time."""

from typing import Any

import numpy as np
import pytest

from fastmlp.rules import activations
from fastmlp.rules.weight_rules import DEFAULT, DEFAULTS, INITIALIZERS

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
}
each_rule = pytest.mark.parametrize("name", INITIALIZERS)


def draw(name: str, seed: int = 0, shape: tuple[int, int] = SHAPE) -> Any:
    return INITIALIZERS[name](np.random.default_rng(seed), shape)


def test_a_name_in_the_table_is_that_of_its_function() -> None:
    assert [rule.__name__ for rule in INITIALIZERS.values()] == list(INITIALIZERS)


@each_rule
def test_weights_are_a_float64_matrix_of_the_shape(name: str) -> None:
    weights = draw(name)
    assert weights.shape == SHAPE
    assert weights.dtype == np.float64
    assert weights.flags.c_contiguous


@each_rule
def test_variance_is_that_of_the_paper(name: str) -> None:
    # The variance of 120,000 normal numbers is known to sqrt(2 / 120,000) = 0.4 %.
    assert draw(name).var() == pytest.approx(VARIANCES[name], rel=0.02, abs=0)


@each_rule
def test_mean_is_zero(name: str) -> None:
    assert abs(draw(name).mean()) <= 5 * np.sqrt(VARIANCES[name] / draw(name).size)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name.endswith("uniform")])
def test_uniform_weights_fill_their_bounds_and_keep_within(name: str) -> None:
    bound = np.sqrt(3 * VARIANCES[name])
    assert 0.999 * bound < draw(name).max() <= bound
    assert -bound <= draw(name).min() < -0.999 * bound


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name.endswith("normal")])
def test_normal_weights_have_the_tails_of_the_normal_distribution(name: str) -> None:
    # 4.55 % lie beyond two standard deviations; a uniform distribution has none there.
    beyond = np.abs(draw(name)) > 2 * np.sqrt(VARIANCES[name])
    assert beyond.mean() == pytest.approx(0.0455, abs=0.003)


@each_rule
def test_the_same_generator_draws_the_same_weights(name: str) -> None:
    assert np.array_equal(draw(name), draw(name))


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if VARIANCES[name] > 0])
def test_another_generator_draws_other_weights(name: str) -> None:
    assert not np.array_equal(draw(name), draw(name, seed=1))


@each_rule
def test_the_weights_of_two_layers_differ_where_any_are_drawn(name: str) -> None:
    generator = np.random.default_rng(0)
    first, second = (np.asarray(INITIALIZERS[name](generator, (3, 2))) for _ in range(2))
    assert np.array_equal(first, second) == (not first.any())


@pytest.mark.parametrize("activation", activations.RULES)
def test_the_default_of_an_activation_is_a_known_initializer(activation: str) -> None:
    assert DEFAULTS.get(activation, DEFAULT) in INITIALIZERS


def test_defaults_are_of_known_activations() -> None:
    assert set(DEFAULTS) <= set(activations.RULES)
