"""The same random state: weights, losses and scores follow scikit-learn's, epoch by epoch."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import TASKS, WEIGHTS, Task, X, assert_same_books, both, distance, numbers_of, outcome
from sklearn import neural_network

pytestmark = [unconverged, needs_compiler]
EPOCHS = 20
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {"solver": "adam", "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    "plain": {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3},
    # A tolerance that nothing meets: the rate falls every third epoch.
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 10, "n_iter_no_change": 2},
    "lbfgs": {"solver": "lbfgs"},
}
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
# Descent by other steps and rates, which know nothing of the activation: one of them each, in turn;
# else two of them, which meet every task.
VARIANTS = {"momentum", "plain", "invscaling", "adaptive"}
# A batch of 16 leaves a tail of 5 rows of 53.
WAYS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.2},
    "warm start": {"warm_start": True, "max_iter": EPOCHS // 2},
    "partial fit": {},
    "weighted": {},
    "weighted, early stopping": {"early_stopping": True, "validation_fraction": 0.2},
    "one batch": {"batch_size": "auto"},
    "a tail of 3": {"batch_size": 50},
}
EPOCHAL = {"in order", "early stopping", "partial fit", "weighted, early stopping", "a tail of 3"}


def activations_of(solver: str, way: str) -> list[str]:
    turn = [*SOLVERS].index(solver) + [*WAYS].index(way)
    return [ACTIVATIONS[turn % 4]] if solver in VARIANTS else ACTIVATIONS[turn % 2 :: 2]


def settings_of(solver: str, activation: str, way: str, task: Task) -> dict[str, Any]:
    base = {
        "hidden_layer_sizes": (7, 5),
        "alpha": 0.1,
        "batch_size": 16,
        "max_iter": EPOCHS,
        "random_state": 3,
    }
    return {**base, "activation": activation, **task.settings, **SOLVERS[solver], **WAYS[way]}


def train(model: Any, way: str, y: Any, rows: Any = X) -> Any:
    if way == "partial fit":
        classes = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
        options = {"classes": classes} if hasattr(model, "predict_proba") else {}
        for _ in range(EPOCHS // 4):
            model.partial_fit(rows, y, **options)
        return model
    weight = {"sample_weight": WEIGHTS} if "weighted" in way else {}
    for _ in range(2 if way == "warm start" else 1):
        model.fit(rows, y, **weight)
    return model


def nudged(name: str) -> Any:
    """scikit-learn's class, with every initial weight one ulp larger."""

    class Nudged(getattr(neural_network, name)):  # type: ignore[misc]
        def _init_coef(self, *arguments: Any) -> Any:
            return tuple(np.nextafter(w, 9) for w in super()._init_coef(*arguments))

    return Nudged


def sensitivity(task: Task, settings: dict[str, Any], way: str, expected: Any) -> float:
    """How far scikit-learn's numbers move with its initial weights' last bit."""
    other = train(nudged(task.name)(**settings), way, task.y)
    return distance(expected, numbers_of(other))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_trajectory_is_that_of_scikit_learn(task: str, solver: str, way: str) -> None:
    if solver == "lbfgs" and way in EPOCHAL:
        pytest.skip("lbfgs knows no epochs")
    problem = TASKS[task]
    for activation in activations_of(solver, way):
        settings = settings_of(solver, activation, way, problem)
        models = both(problem.name, **settings)
        (theirs, warned, error), (ours, warned_too, error_too) = (
            outcome(partial(train, model, way, problem.y)) for model in models
        )
        assert error == error_too
        assert warned == warned_too
        assert error is None
        assert_same_books(theirs, ours)
        expected = numbers_of(theirs)
        gap = distance(expected, numbers_of(ours))
        if gap > 1e-9:
            assert gap <= 10 * sensitivity(problem, settings, way, expected), activation
        if problem.name == "MLPClassifier":
            assert np.array_equal(ours.predict(X), theirs.predict(X))
        else:
            np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
        if solver != "lbfgs":
            rates = [model._optimizer.learning_rate for model in models]
            assert rates[1] == pytest.approx(rates[0], rel=1e-12)


@pytest.mark.parametrize("solver", ["adam", "nesterov", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_float32_stays_near_and_narrow(task: str, solver: str) -> None:
    problem = TASKS[task]
    settings = settings_of(solver, "tanh", "shuffled", problem) | {"max_iter": 5}
    y = problem.y.astype(np.float32) if problem.name == "MLPRegressor" else problem.y
    rows = X.astype(np.float32)
    models = both(problem.name, **settings)
    theirs, ours = (train(model, "shuffled", y, rows) for model in models)
    assert distance(numbers_of(theirs), numbers_of(ours)) < 1e-3
    assert {part.dtype for part in [*ours.coefs_, *ours.intercepts_]} == {np.dtype(np.float32)}
    outputs = ours.predict_proba(rows) if hasattr(ours, "predict_proba") else ours.predict(rows)
    assert outputs.dtype == np.float32
    assert ours._forward_pass_fast(X).dtype == np.float64
