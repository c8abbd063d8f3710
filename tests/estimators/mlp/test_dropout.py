"""Dropout and noise as settings of the estimators."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import X
from sklearn.base import clone

import fastmlp
from fastmlp import (
    MLP,
    SGD,
    Cosine,
    MLPClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
)
from fastmlp.compiler.jit import INTERPRETED

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
]
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
LABELS, REAL = (X[:, 0] > 0).astype(int), X[:, 0] * X[:, 1]
DROPPED: dict[str, Any] = {"dropout": [0.5], "input_dropout": 0.2, "input_noise": 0.1}
SMALL = MLPClassifier((9,), max_iter=4, random_state=0)


def same(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_))


@needs_compiler
def test_it_trains_as_a_net_with_the_same_key_does() -> None:
    sgd: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "batch_size": 10}
    model = clone(SMALL).set_params(**sgd, **DROPPED, learning_rate_init=0.1, alpha=0.01)
    start = clone(model).set_params(learning_rate_init=1e-300).fit(X, LABELS)
    model.fit(X, LABELS)
    net = MLP((6, 9, 1), loss="binary_cross_entropy", optimizer=SGD(0.1), l2=0.01, dtype="float64",
              **DROPPED)  # fmt: skip
    net.parameters[:] = start.net_.parameters
    net._state.key = model._state.key
    net.fit(X, LABELS, epochs=4, batch_size=10, shuffle=False)
    np.testing.assert_allclose(model.net_.parameters, net.parameters, rtol=1e-12, atol=1e-15)


@needs_compiler
def test_one_random_state_gives_one_result_on_any_number_of_threads() -> None:
    model = clone(SMALL).set_params(**DROPPED, early_stopping=True, validation_fraction=0.3)
    fits = [clone(model).set_params(n_jobs=n).fit(X, LABELS) for n in (1, 2)]
    assert same(*fits)
    assert fits[0].validation_loss_curve_ == fits[1].validation_loss_curve_
    assert not same(fits[0], clone(model).set_params(random_state=1).fit(X, LABELS))
    assert not same(fits[0], clone(model).set_params(dropout=0.0).fit(X, LABELS))
    # Nothing is dropped in predictions.
    assert np.array_equal(fits[0].predict_proba(X), fits[0].predict_proba(X))


@needs_compiler
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_each_call_of_partial_fit_drops_others(solver: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors: pip install '.[test]'")
    settings: dict[str, Any] = {"solver": solver, "learning_rate_init": 1e-300, "shuffle": False}
    model = MLPRegressor(hidden_layer_sizes=(9,), dropout=Cosine(0.5), random_state=0, **settings)
    # The weights stay as they are: losses differ by what is dropped.
    losses = [model.partial_fit(X, REAL).loss_ for _ in range(3)]
    assert len(set(losses)) == 3
    fastmlp.save(model, tmp_path / "model.safetensors", include_training_state=True)
    again = fastmlp.load(tmp_path / "model.safetensors")
    assert again.dropout == model.dropout
    assert again.partial_fit(X, REAL).loss_ == model.partial_fit(X, REAL).loss_


@needs_compiler
def test_searches_and_ensembles_take_it() -> None:
    search = MLPSearchCV(SMALL, {"dropout": [0.0, 0.3, (0.6,)]}, cv=2).fit(X, LABELS)
    assert len(search.cv_results_["params"]) == 3
    ensemble = MLPEnsembleRegressor(
        hidden_layer_sizes=(9,), n_members=2, max_iter=2, dropout=0.3, random_state=0
    ).fit(X, REAL)
    assert not same(*ensemble.estimators_)
    assert [member.dropout for member in ensemble.estimators_] == [0.3, 0.3]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dropout": 1.0}, r"'dropout' parameter of MLPClassifier must be a float in the range \[0.0,"),
    ({"input_noise": -1}, "'input_noise' parameter of MLPClassifier must be a float in the range"),
    ({"dropout": [0.1, 0.2]}, "dropout has 2 rates, but layer_sizes has 1 hidden"),
    ({"dropout": [1.5]}, r"dropout\[0\] must be a number in \[0, 1\)"),
    (
        {"dropout": 0.1, "solver": "lbfgs"},
        r'^MLPClassifier: dropout=0.1 needs a solver that works by batches, such as solver="adam"',
    ),
    ({"input_noise": Cosine(0.1), "solver": "lbfgs"}, r"input_noise=Cosine\(.* needs a solver"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_cannot_be_is_told_before_anything_runs(
    settings: dict[str, Any], message: str
) -> None:
    model = clone(SMALL).set_params(**settings)
    with pytest.raises(ValueError, match=message):
        model.fit(X, LABELS)
    assert not hasattr(model, "coefs_")


@needs_compiler
def test_zeros_are_no_dropout() -> None:
    plain = clone(SMALL).set_params(solver="lbfgs").fit(X, LABELS)
    zeros = clone(SMALL).set_params(solver="lbfgs", dropout=[0.0], input_noise=0).fit(X, LABELS)
    assert same(plain, zeros)
