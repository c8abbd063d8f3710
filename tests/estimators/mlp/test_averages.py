"""Averages of the parameters as a setting of the estimators."""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import X
from sklearn.base import clone

import fastmlp
from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    AdamW,
    MLPClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
    ScheduleFreeAdamW,
)
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules import updates

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
LABELS, REAL = (X[:, 0] > 0).astype(int), X[:, 0] * X[:, 1]
SMALL = MLPClassifier((5,), max_iter=4, random_state=0, batch_size=10, shuffle=False, alpha=0.01)
STILL = 1e-300
SOLVERS: list[tuple[str, Any]] = [
    ("sgd", SGD(0.1, momentum=0.9, nesterov=True)),
    ("adam", Adam(0.1, epsilon_hat=True)),
]


def same(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_))


def net_from(start: Any, optimizer: Any) -> MLP:
    """A net in `MLP`'s words, with the weights that an estimator's fit begins with."""
    net = MLP((6, 5, 1), loss="binary_cross_entropy", optimizer=optimizer, l2=0.01, dtype="float64")
    net.parameters[:] = start.net_.parameters
    return net


@needs_compiler
@pytest.mark.parametrize(("solver", "optimizer"), SOLVERS)
@pytest.mark.parametrize("average", [EMA(0.9), SWA(0.5)])
def test_it_has_the_average_that_a_net_has(solver: str, optimizer: Any, average: Any) -> None:
    model = clone(SMALL).set_params(solver=solver, learning_rate_init=0.1, average=average)
    start = clone(model).set_params(learning_rate_init=STILL).fit(X, LABELS)
    model.fit(X, LABELS)
    changed = type(optimizer)(**optimizer.settings(), average=average)
    net = net_from(start, changed)
    net.fit(X, LABELS, epochs=4, batch_size=10, shuffle=False)
    np.testing.assert_allclose(model.net_.parameters, net.parameters, rtol=1e-9, atol=1e-12)
    assert model.net_.optimizer == changed
    assert not same(model, clone(model).set_params(average=None).fit(X, LABELS))


@needs_compiler
@pytest.mark.parametrize(("solver", "optimizer"), SOLVERS)
def test_partial_fit_goes_on_with_the_average(solver: str, optimizer: Any) -> None:
    model = clone(SMALL).set_params(solver=solver, learning_rate_init=0.1, average=EMA(0.9))
    start = clone(model).set_params(learning_rate_init=STILL).fit(X, LABELS)
    net = net_from(start, type(optimizer)(**optimizer.settings(), average=EMA(0.9)))
    for _ in range(3):
        model.partial_fit(X, LABELS, classes=[0, 1])
        net.fit(X, LABELS, epochs=1, batch_size=10, shuffle=False)
        np.testing.assert_allclose(model.net_.parameters, net.parameters, rtol=1e-9, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("solver", ["sgd", "adam", AdamW(0.1)])
@pytest.mark.parametrize("average", [EMA(0.9), SWA(0.5)])
def test_copies_pickles_and_files_go_on_with_it(solver: Any, average: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors: pip install '.[test]'")
    model = clone(SMALL).set_params(solver=solver, average=average, pickle_state=True)
    model.fit(X, LABELS)
    fastmlp.save(model, tmp_path / "model.safetensors", include_training_state=True)
    others = [
        deepcopy(model),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
        fastmlp.load(tmp_path / "model.safetensors"),
    ]
    model.partial_fit(X, LABELS)
    for other in others:
        assert other.average == average
        assert same(model, other.partial_fit(X, LABELS))


@needs_compiler
def test_validation_callbacks_and_early_stopping_see_it() -> None:
    model = clone(SMALL).set_params(average=EMA(0.9), learning_rate_init=0.05, max_iter=9)
    seen: list[float] = []
    model.fit(X, LABELS, X_val=X[:9], y_val=LABELS[:9],
              callbacks=lambda report: seen.append(report.net.predict(X[:1]).item()))  # fmt: skip
    p = model.predict_proba(X[:9])[np.arange(9), LABELS[:9]]
    assert model.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())
    assert seen[-1] == model.predict_proba(X[:1])[0, 1]
    # Looking at it changes nothing.
    assert same(model, clone(model).fit(X, LABELS))
    early = clone(model).set_params(early_stopping=True, validation_fraction=0.3).fit(X, LABELS)
    assert early.score(X, LABELS) > 0.5


@needs_compiler
def test_searches_and_ensembles_take_it() -> None:
    search = MLPSearchCV(SMALL, {"average": [None, EMA(0.9), SWA()]}, cv=2).fit(X, LABELS)
    assert len(search.cv_results_["params"]) == 3
    ensemble = MLPEnsembleRegressor(
        hidden_layer_sizes=(5,), n_members=2, max_iter=2, average=EMA(0.9), random_state=0
    ).fit(X, REAL)
    assert [member.average for member in ensemble.estimators_] == [EMA(0.9)] * 2


class Mine:
    learning_rate, rule = 0.1, staticmethod(updates.sgd)

    def coefficients(self, first_step: int, rates: Any) -> Any:
        return rates[:, None]


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"average": True}, ValueError, r"'average' parameter of .* Did you mean EMA\(0.99\)\?"),
    (
        {"average": EMA(), "solver": "lbfgs"},
        ValueError,
        r"^MLPRegressor: average=EMA\(momentum=0.99\) needs a solver that works by batches",
    ),
    ({"average": EMA(), "solver": SGD(0.1, average=SWA())}, ValueError, "averages, not both"),
    ({"average": EMA(), "solver": ScheduleFreeAdamW()}, ValueError, "averages, not both"),
    ({"average": EMA(), "solver": Mine()}, TypeError, "needs an optimizer of fastmlp's as the sol"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG)
def test_what_cannot_be_is_told_before_anything_runs(
    settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = MLPRegressor(**settings)
    with pytest.raises(kind, match=message):
        model.fit(X, REAL)
    assert not hasattr(model, "coefs_")
