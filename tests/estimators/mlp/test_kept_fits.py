"""Trainers that are kept from one `partial_fit` to the next, whatever happens between."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from fitting import unconverged

from fastmlp import EMA, Adam, Cosine, MLPClassifier, MLPRegressor
from fastmlp.compiler.jit import INTERPRETED

N_SEEDS, N_CALLS = (2, 5) if INTERPRETED else (20, 10)
SETTINGS: dict[str, list[Any]] = {
    "solver": ["adam", "adam", "sgd", "nadam", Adam(0.01), Adam(Cosine(0.05, n_steps=9))],
    "learning_rate": ["constant", "constant", "invscaling", "adaptive"],
    "learning_rate_init": [0.001, 0.02],
    "momentum": [0.0, 0.9],
    "nesterovs_momentum": [False, True],
    "alpha": [0.0, 1e-4, 0.5],
    "shuffle": [True, True, False],
    "batch_size": ["auto", "auto", 8],
    "dropout": [0.0, 0.0, 0.0, 0.2],
    "average": [None, None, None, EMA(0.9)],
    "hidden_layer_sizes": [(7,), (5, 6)],
    "n_iter_no_change": [2, 10],
}


def drawn_estimator(rng: np.random.Generator) -> Any:
    chosen = {name: values[rng.integers(len(values))] for name, values in SETTINGS.items()}
    if chosen["solver"] == "sgd":
        chosen["average"] = None
    seed = int(rng.integers(100))
    random = [seed, seed, np.random.RandomState(seed)][rng.integers(3)]
    kind = [MLPClassifier, MLPRegressor][rng.integers(2)]
    return kind(random_state=random, max_iter=3, pickle_state=True, **chosen)


def drawn_rows(estimator: Any, rng: np.random.Generator, form: Any) -> Any:
    n, (dtype, n_outputs) = int(rng.choice([1, 8, 8, 30, 30, 210])), form
    X = rng.normal(size=(n, 3)).astype(dtype)
    if isinstance(estimator, MLPClassifier):
        y: Any = rng.integers(n_outputs, size=n)
    else:
        y = rng.normal(size=(n, n_outputs)) if n_outputs > 1 else rng.normal(size=n)
    weight = rng.uniform(0.1, 2, n) if rng.random() < 0.3 else None
    return X, y, weight


def changed(estimators: list[Any], rng: np.random.Generator) -> None:
    """Do the same to both, as a user may between two calls."""
    kind, seed = rng.integers(14), int(rng.integers(1 << 30))
    for i, estimator in enumerate(estimators):
        again = np.random.default_rng(seed)
        if kind == 0:
            estimator.coefs_[0][0, 0] = 0.25
        elif kind == 1:
            estimator.intercepts_[0] = estimator.intercepts_[0] + 0.5
        elif kind == 2:
            estimator.set_params(alpha=0.3, shuffle=not estimator.shuffle)
        elif kind == 3:
            estimators[i] = copy.deepcopy(estimator)
        elif kind == 4:
            estimators[i] = pickle.loads(pickle.dumps(estimator))
        elif kind == 5 and not estimator.dropout:
            X = again.normal(size=(8, 3)).astype(estimator.coefs_[0].dtype)
            estimator.net_.fit(X, estimator.net_.predict(X), epochs=1, shuffle=False)
        elif kind == 6:
            estimator.n_jobs = 1


def state_of(estimator: Any) -> Any:
    slots, random = estimator._state.slots(), estimator._random_state.get_state()
    return (
        [part.tobytes() for part in (*estimator.coefs_, *estimator.intercepts_)],
        None if slots is None or not slots.any() else slots.tobytes(),
        repr((estimator.loss_curve_, estimator.t_, estimator.n_iter_, estimator.best_loss_)),
        repr((estimator._no_improvement_count, estimator._optimizer.t)),
        repr(estimator._optimizer.learning_rate),
        (random[1].tobytes(), random[2]),
    )


@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
@unconverged
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_what_is_kept_from_call_to_call_has_the_bits_of_a_copy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimator = drawn_estimator(rng)
    form = rng.choice(["float32", "float64"]), int(rng.integers(2, 4))
    labels = {"classes": range(form[1])} if isinstance(estimator, MLPClassifier) else {}
    for _ in range(N_CALLS):
        X, y, weight = drawn_rows(estimator, rng, form)
        other = copy.deepcopy(estimator)
        for each in (estimator, other):
            each.partial_fit(X, y, sample_weight=weight, **labels)
        assert state_of(estimator) == state_of(other)
        estimators = [estimator]
        changed(estimators, rng)
        [estimator] = estimators
