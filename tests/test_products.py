"""Products of settings follow the naive net,
and the naive net complex steps and published ones.
"""

from dataclasses import asdict
from itertools import pairwise, product
from typing import Any

import naive
import numpy as np
import pytest
from pairwise import all_pairs

from fastmlp import MLP, SGD
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.activations import RULES
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS

FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(0.01, momentum=0.9),
    SGD(0.01, momentum=0.9, nesterov=True),
]
PENALTIES: list[dict[str, Any]] = [
    {},
    {"l2": 0.5},
    {"l1": 0.5},
    {"l2": 0.5, "l1": 0.25},
]
# In float32, an optimizer that divides by the size of the gradient turns its rounding
# into a share of a step; six steps of 0.01 at most then differ by less than this.
TOLERANCE = {"float64": 1e-10, "float32": 3e-4}


def targets(loss: str, rng: np.random.Generator) -> Any:
    if LOSSES[loss].targets == "classes":
        return rng.integers(0, 2, 9)
    return rng.uniform(0.1, 0.9, (9, 2 // LOSSES[loss].per_target))


def cases() -> dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]]:
    """Optimizers and penalties with which each activation,
    loss and dtype is trained.
    """
    if not INTERPRETED:
        return {
            (activation, loss, dtype): [
                (o, PENALTIES[(i + j + k) % 4]) for k, o in enumerate(FORMS)
            ]
            for (i, activation), (j, loss) in product(
                enumerate(RULES), enumerate(LOSSES)
            )
            for dtype in TOLERANCE
        }
    rules = {"activation": [*RULES], "loss": [*LOSSES], "dtype": [*TOLERANCE]}
    results: dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]] = {}
    for case in all_pairs(**rules, optimizer=FORMS, penalty=PENALTIES):
        *key, optimizer, penalty = (
            case[name] for name in (*rules, "optimizer", "penalty")
        )
        results.setdefault((key[0], key[1], key[2]), []).append((optimizer, penalty))
    return results


CASES = cases()


@pytest.mark.few(40)
@pytest.mark.parametrize(("activation", "loss", "dtype"), CASES)
def test_training_follows_the_naive_net(activation: Any, loss: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((9, 3))
    y = targets(loss, rng)
    order = np.arange(9)
    batches = [[order[:4], order[4:8], order[8:]]] * 2
    for optimizer, penalty in CASES[activation, loss, dtype]:
        net = MLP(
            (3, 4, 2),
            activation=activation,
            loss=loss,
            optimizer=optimizer,
            dtype=dtype,
            seed=7,
            **penalty,
        )
        start = (
            [w.astype(float) for w in net.weights],
            [b.astype(float) for b in net.biases],
        )
        history = net.fit(x, y, epochs=2, batch_size=4, shuffle=False)
        losses, weights, biases = naive.train(
            *start,
            x,
            y,
            batches,
            optimizer=optimizer.rule.__name__.removeprefix("sgd_"),
            settings=asdict(optimizer),
            activations=[activation],
            loss=loss,
            **penalty,
        )
        bound = TOLERANCE[dtype]
        expected = naive.flatten(weights, biases)
        np.testing.assert_allclose(history.loss, losses, rtol=bound)
        error = np.abs(net.parameters - expected).max()
        assert error <= bound * np.abs(expected).max(), (optimizer, penalty, error)


def make_net(rng: np.random.Generator, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    pairs = list(pairwise(sizes))
    weights = [rng.normal(size=pair) for pair in pairs]
    return weights, [rng.normal(size=n_out) for _, n_out in pairs]


def assert_slopes_agree(rng: np.random.Generator, **model: Any) -> None:
    """For a net with two hidden layers on seven rows:
    backpropagation = complex step.
    """
    # gaussian_nll has two outputs a target.
    pairs = model.get("loss") == "gaussian_nll"
    n_outputs = 4 if pairs else 3
    weights, biases = make_net(rng, (3, 5, 4, n_outputs))
    x = rng.normal(size=(7, 3))
    y = rng.dirichlet(np.ones(3), size=7)
    y = y[:, :2] if pairs else y
    model = {"activations": ["tanh", "sigmoid"], **model}
    _, *slopes = naive.gradient(weights, biases, x, y, **model)
    expected = naive.complex_step_gradient(weights, biases, x, y, **model)
    difference = naive.flatten(*slopes) - naive.flatten(*expected)
    assert np.linalg.norm(difference) <= 1e-12 * np.linalg.norm(
        naive.flatten(*expected)
    )


@pytest.mark.parametrize("name", naive.VALUES)
def test_slopes_of_activations_are_complex_steps(
    name: str, rng: np.random.Generator
) -> None:
    assert_slopes_agree(rng, activations=[name, name], output_activation=name)


@pytest.mark.parametrize("loss", naive.LOSS_VALUES)
def test_slopes_of_losses_are_complex_steps(
    loss: str, rng: np.random.Generator
) -> None:
    assert_slopes_agree(rng, loss=loss)
    assert_slopes_agree(
        rng, loss=loss, l2=0.7, l1=0.3, sample_weight=rng.uniform(0, 3, size=7)
    )


def test_a_weight_of_two_is_a_row_given_twice(rng: np.random.Generator) -> None:
    weights, biases = make_net(rng, (2, 3, 1))
    x, y = rng.normal(size=(3, 2)), rng.normal(size=(3, 1))
    model: Any = {"activations": ["tanh"], "l2": 0.5, "l1": 0.25}
    twice = naive.objective(weights, biases, x[[0, 1, 1, 2]], y[[0, 1, 1, 2]], **model)
    once = naive.objective(
        weights, biases, x, y, sample_weight=np.array([1, 2, 1]), **model
    )
    assert once == pytest.approx(twice, rel=1e-14, abs=0)


# Hidden: 1*1 + 2*0.5 + 0 = 2 and 1*(-1) + 2*1 + 0.5 = 1.5, both above 0,
# so relu passes them on. Raw output: 2*1 + 1.5*(-2) + 0.5 = -0.5.
HAND_WEIGHTS = [np.array([[1.0, -1.0], [0.5, 1.0]]), np.array([[1.0], [-2.0]])]
HAND_BIASES = [np.array([0.0, 0.5]), np.array([0.5])]
HAND_X = np.array([[1.0, 2.0]])
HAND_Y = np.array([1.0])


def test_gradient_worked_by_hand() -> None:
    model = {"activations": ["relu"], "l2": 0.5}
    value, by_weights, by_biases = naive.gradient(
        HAND_WEIGHTS, HAND_BIASES, HAND_X, HAND_Y, **model
    )
    # (-0.5 - 1)^2 = 2.25, and 0.5 / 2 * (1 + 1 + 0.25 + 1 + 1 + 4) = 2.0625.
    assert value == 4.3125
    # Slope by the output: 2 * (-1.5) = -3.
    # Times the hidden (2, 1.5), plus 0.5 * (1, -2).
    assert by_weights[1].tolist() == [[-5.5], [-5.5]]
    assert by_biases[1].tolist() == [-3.0]
    # Slope by the hidden: -3 * (1, -2) = (-3, 6).
    # Times x = (1, 2), plus half the weights.
    assert by_weights[0].tolist() == [[-2.5, 5.5], [-5.75, 12.5]]
    assert by_biases[0].tolist() == [-3.0, 6.0]


def test_the_published_step_of_mazur() -> None:
    """Mazur (2015), "A step by step backpropagation example":
    sigmoid, rate 0.5, two outputs.
    """
    weights = [
        np.array([[0.15, 0.25], [0.20, 0.30]]),
        np.array([[0.40, 0.50], [0.45, 0.55]]),
    ]
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
