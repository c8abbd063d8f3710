"""The same weights, data and settings in scikit-learn's MLP and in ours: the same trajectory."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastmlp import MLP, SGD, Adam, Loss

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


LOSSES: dict[str, Any] = {
    "regression": Loss(half_squared_error),
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
}


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
        loss=LOSSES[task],
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
