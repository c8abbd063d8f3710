"""Every activation, loss and optimizer: trajectories of the naive net, and of scikit-learn's."""

import warnings
from dataclasses import asdict
from itertools import product
from typing import Any

import naive
import numpy as np
import pytest
from pairwise import all_pairs
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastmlp import MLP, SGD, Adam, Loss
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.activations import RULES
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS

FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(0.01, momentum=0.9),
    SGD(0.01, momentum=0.9, nesterov=True),
]
PENALTIES: list[dict[str, Any]] = [{}, {"l2": 0.5}, {"l1": 0.5}, {"l2": 0.5, "l1": 0.25}]
# In float32, an optimizer that divides by the size of the gradient turns its rounding into a share
# of a step; six steps of 0.01 at most then differ by less than this.
TOLERANCE = {"float64": 1e-10, "float32": 3e-4}


def targets(loss: str, rng: np.random.Generator) -> Any:
    if LOSSES[loss].targets == "classes":
        return rng.integers(0, 2, 9)
    return rng.uniform(0.1, 0.9, (9, 2 // LOSSES[loss].per_target))


def cases() -> dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]]:
    """Optimizers and penalties with which each activation, loss and dtype is trained."""
    if not INTERPRETED:
        return {
            (activation, loss, dtype): [
                (o, PENALTIES[(i + j + k) % 4]) for k, o in enumerate(FORMS)
            ]
            for (i, activation), (j, loss) in product(enumerate(RULES), enumerate(LOSSES))
            for dtype in TOLERANCE
        }
    rules = {"activation": [*RULES], "loss": [*LOSSES], "dtype": [*TOLERANCE]}
    results: dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]] = {}
    for case in all_pairs(**rules, optimizer=FORMS, penalty=PENALTIES):
        *key, optimizer, penalty = (case[name] for name in (*rules, "optimizer", "penalty"))
        results.setdefault((key[0], key[1], key[2]), []).append((optimizer, penalty))
    return results


CASES = cases()


@pytest.mark.few(40)
@pytest.mark.parametrize(("activation", "loss", "dtype"), CASES)
def test_training_follows_the_naive_net(activation: Any, loss: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x, y, order = rng.standard_normal((9, 3)), targets(loss, rng), np.arange(9)
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
        start = [w.astype(float) for w in net.weights], [b.astype(float) for b in net.biases]
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
        bound, expected = TOLERANCE[dtype], naive.flatten(weights, biases)
        np.testing.assert_allclose(history.loss, losses, rtol=bound)
        error = np.abs(net.parameters - expected).max()
        assert error <= bound * np.abs(expected).max(), (optimizer, penalty, error)


X = np.random.default_rng(0).standard_normal((53, 6))
TARGETS = {
    "regression": np.sin(X[:, 0]) + X[:, 1],
    "binary": (X[:, 0] > 0).astype(int),
    "multiclass": np.digitize(X[:, 0], [-0.5, 0.5]),
}
# An epsilon that never counts: scikit-learn adds it to another root than the paper.
SOLVERS: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"solver": "sgd", "momentum": 0.0}, SGD(0.05)),
    "momentum": (
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False},
        SGD(0.05, momentum=0.9),
    ),
    "nesterov": ({"solver": "sgd", "momentum": 0.9}, SGD(0.05, momentum=0.9, nesterov=True)),
    "adam": ({"solver": "adam", "epsilon": 1e-30}, Adam(0.05, epsilon=1e-30)),
}


def half_squared_error(prediction: Any, target: Any) -> Any:
    error = prediction - target
    return type(error)(0.5) * error * error, error


LOSS_OF: dict[str, Any] = {
    "regression": Loss(half_squared_error),
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
}


@pytest.mark.few(12)
@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_weights_and_losses_follow_scikit_learn(activation: Any, solver: str, task: str) -> None:
    y, (settings, optimizer) = TARGETS[task], SOLVERS[solver]
    kind = MLPRegressor if task == "regression" else MLPClassifier
    theirs = kind(
        hidden_layer_sizes=(7, 5),
        activation=activation,
        alpha=0.3,
        batch_size=16,
        learning_rate_init=0.05,
        shuffle=False,
        tol=0,
        n_iter_no_change=100,
        random_state=1,
        warm_start=True,
        **settings,
    )
    ours = MLP(
        (6, 7, 5, 3 if task == "multiclass" else 1),
        activation=activation,
        loss=LOSS_OF[task],
        optimizer=optimizer,
        l2=0.3,
        dtype="float64",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A first epoch for weights to start from; warm_start then begins with a new optimizer.
        theirs.set_params(max_iter=1).fit(X, y)
        for mine, other in zip(ours.weights + ours.biases, parameters_of(theirs), strict=True):
            mine[:] = other
        theirs.set_params(max_iter=5).fit(X, y)
    history = ours.fit(X, y, epochs=5, batch_size=16, shuffle=False)
    np.testing.assert_allclose(history.loss, theirs.loss_curve_[1:], rtol=1e-9)
    for mine, other in zip(ours.weights + ours.biases, parameters_of(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-11)


def parameters_of(model: Any) -> list[Any]:
    return [*model.coefs_, *model.intercepts_]
