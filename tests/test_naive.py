"""The oracle itself: its slopes against complex steps, its numbers against worked examples."""

from itertools import pairwise
from typing import Any

import naive
import numpy as np
import pytest


def make_net(rng: np.random.Generator, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    pairs = list(pairwise(sizes))
    weights = [rng.normal(size=pair) for pair in pairs]
    return weights, [rng.normal(size=n_out) for _, n_out in pairs]


def assert_slopes_agree(rng: np.random.Generator, **model: Any) -> None:
    """For a net with two hidden layers on seven rows: backpropagation = complex step."""
    # gaussian_nll has two outputs a target.
    pairs = model.get("loss") == "gaussian_nll"
    n_outputs = 4 if pairs else 3
    weights, biases = make_net(rng, (3, 5, 4, n_outputs))
    x, y = rng.normal(size=(7, 3)), rng.dirichlet(np.ones(3), size=7)
    y = y[:, :2] if pairs else y
    model = {"activations": ["tanh", "sigmoid"], **model}
    _, *slopes = naive.gradient(weights, biases, x, y, **model)
    expected = naive.complex_step_gradient(weights, biases, x, y, **model)
    difference = naive.flatten(*slopes) - naive.flatten(*expected)
    assert np.linalg.norm(difference) <= 1e-12 * np.linalg.norm(naive.flatten(*expected))


@pytest.mark.parametrize("name", naive.VALUES)
def test_slope_of_each_activation_is_that_of_its_complex_step(name: str) -> None:
    z = np.linspace(-6, 6, 50)  # an even number of points: no kink at 0
    expected = naive.VALUES[name](z + 1e-30j).imag / 1e-30
    np.testing.assert_allclose(naive.SLOPES[name](z), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", naive.VALUES)
def test_backpropagation_is_the_complex_step_for_each_activation(
    name: str, rng: np.random.Generator
) -> None:
    assert_slopes_agree(rng, activations=[name, name], output_activation=name)


@pytest.mark.parametrize("loss", naive.LOSS_VALUES)
def test_backpropagation_is_the_complex_step_for_each_loss(
    loss: str, rng: np.random.Generator
) -> None:
    assert_slopes_agree(rng, loss=loss)


@pytest.mark.parametrize("loss", naive.LOSS_VALUES)
def test_backpropagation_is_the_complex_step_with_weights_and_penalties(
    loss: str, rng: np.random.Generator
) -> None:
    assert_slopes_agree(rng, loss=loss, l2=0.7, l1=0.3, sample_weight=rng.uniform(0, 3, size=7))


def test_a_weight_of_two_is_a_row_given_twice(rng: np.random.Generator) -> None:
    weights, biases = make_net(rng, (2, 3, 1))
    x, y = rng.normal(size=(3, 2)), rng.normal(size=(3, 1))
    model: Any = {"activations": ["tanh"], "l2": 0.5, "l1": 0.25}
    twice = naive.objective(weights, biases, x[[0, 1, 1, 2]], y[[0, 1, 1, 2]], **model)
    once = naive.objective(weights, biases, x, y, sample_weight=np.array([1, 2, 1]), **model)
    assert once == pytest.approx(twice, rel=1e-14, abs=0)


# Hidden: 1*1 + 2*0.5 + 0 = 2 and 1*(-1) + 2*1 + 0.5 = 1.5, both above 0, so relu passes them on.
# Raw output: 2*1 + 1.5*(-2) + 0.5 = -0.5.
HAND_WEIGHTS = [np.array([[1.0, -1.0], [0.5, 1.0]]), np.array([[1.0], [-2.0]])]
HAND_BIASES = [np.array([0.0, 0.5]), np.array([0.5])]
HAND_X, HAND_Y = np.array([[1.0, 2.0]]), np.array([1.0])


def test_gradient_worked_by_hand() -> None:
    model = {"activations": ["relu"], "l2": 0.5}
    value, by_weights, by_biases = naive.gradient(
        HAND_WEIGHTS, HAND_BIASES, HAND_X, HAND_Y, **model
    )
    # (-0.5 - 1)^2 = 2.25, and 0.5 / 2 * (1 + 1 + 0.25 + 1 + 1 + 4) = 2.0625.
    assert value == 4.3125
    # Slope by the output: 2 * (-1.5) = -3. Times the hidden (2, 1.5), plus 0.5 * (1, -2).
    assert by_weights[1].tolist() == [[-5.5], [-5.5]]
    assert by_biases[1].tolist() == [-3.0]
    # Slope by the hidden: -3 * (1, -2) = (-3, 6). Times x = (1, 2), plus half the weights.
    assert by_weights[0].tolist() == [[-2.5, 5.5], [-5.75, 12.5]]
    assert by_biases[0].tolist() == [-3.0, 6.0]


def test_the_published_step_of_mazur() -> None:
    """Mazur (2015), "A step by step backpropagation example": sigmoid, rate 0.5, two outputs."""
    weights = [np.array([[0.15, 0.25], [0.20, 0.30]]), np.array([[0.40, 0.50], [0.45, 0.55]])]
    biases = [np.array([0.35, 0.35]), np.array([0.60, 0.60])]
    losses, after, _ = naive.train(
        weights,
        biases,
        np.array([[0.05, 0.10]]),
        np.array([[0.01, 0.99]]),
        [[[0]]],
        optimizer="sgd",
        settings={"learning_rate": 0.5},
        activations=["sigmoid"],
        output_activation="sigmoid",
    )
    assert losses == pytest.approx([0.298371109], abs=1e-9)
    first = [[0.149780716, 0.24975114], [0.19956143, 0.29950229]]
    second = [[0.35891648, 0.511301270], [0.408666186, 0.561370121]]
    np.testing.assert_allclose(after[0], first, atol=1e-8)
    np.testing.assert_allclose(after[1], second, atol=1e-8)


def test_epoch_loss_weights_batches_by_their_mass() -> None:
    # One input of 0 and no slope reach the weights: the bias alone predicts 0 for 1, 1 and 4.
    losses, *_ = naive.train(
        [np.zeros((1, 1))],
        [np.zeros(1)],
        np.zeros((3, 1)),
        np.array([1.0, 1.0, 4.0]),
        [[[0, 1], [2]]],
        optimizer="sgd",
        settings={"learning_rate": 0.0},
        activations=[],
    )
    assert losses == [(2 * 1 + 1 * 16) / 3]
