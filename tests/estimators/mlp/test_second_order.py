"""`solver="lm"` of the estimators, and second-order optimizers as the solver."""

import pickle
from typing import Any

import numpy as np
import pytest
from fitting import unconverged
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning

from fastmlp import LBFGS, LevenbergMarquardt, MLPClassifier, MLPRegressor, load, save

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (80, 2))
Y = np.sin(3 * X[:, 0]) * X[:, 1]
CLASSES = np.digitize(Y, [-0.2, 0.2])
TARGETS: dict[str, Any] = {
    "one": Y,
    "two": np.column_stack([Y, Y**2]),
    "classes": CLASSES,
    "binary": CLASSES > 0,
    "labels": np.column_stack([CLASSES > 0, CLASSES > 1]),
}
SOLVERS: list[Any] = ["lm", LevenbergMarquardt(1e-2), LBFGS()]
pytestmark = unconverged


def model_of(targets: str, solver: Any = "lm", **settings: Any) -> Any:
    """An estimator for these targets."""
    kind = MLPRegressor if targets in ("one", "two") else MLPClassifier
    chosen = {"max_iter": 5, "tol": 0.0, "random_state": 0, "activation": "tanh", **settings}
    return kind(hidden_layer_sizes=(6,), solver=solver, **chosen)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("targets", TARGETS)
def test_it_is_the_fit_of_its_net(targets: str, solver: Any, tmp_path: Any) -> None:
    model = model_of(targets, solver, max_iter=1, alpha=0.1).fit(X, TARGETS[targets])
    net = model.net_
    start, _ = net.parameters.copy(), model.set_params(max_iter=6, warm_start=True)
    labels = TARGETS[targets].astype(float)
    history = net.fit(X, labels if targets != "classes" else CLASSES, epochs=4)
    assert len(history.loss) == 4
    assert history.loss == sorted(history.loss, reverse=True)
    assert (net.parameters != start).any()
    again = model_of(targets, solver, max_iter=5, alpha=0.1).fit(X, TARGETS[targets])
    assert again.n_iter_ == len(again.loss_curve_) == 5
    assert again.loss_ == again.loss_curve_[-1]
    if solver == "lm":
        assert (again.net_.parameters == net.parameters).all()
    save(again, tmp_path / "model.safetensors")
    for copy in (pickle.loads(pickle.dumps(again)), load(tmp_path / "model.safetensors")):
        assert (copy.predict(X) == again.predict(X)).all()


def test_it_reaches_more_digits_than_lbfgs() -> None:
    settings = {"max_iter": 200, "alpha": 0.0}
    lm, lbfgs = (model_of("one", solver, **settings).fit(X, Y) for solver in ("lm", "lbfgs"))
    assert lm.loss_ < lbfgs.loss_ / 3


def test_its_end_by_tol_and_by_iterations() -> None:
    assert model_of("one", tol=1e-2, max_iter=200).fit(X, Y).n_iter_ < 200
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        model_of("one", max_iter=2).fit(X, Y)


def test_callbacks_see_each_iteration() -> None:
    seen: list[float] = []

    def stop(report: Any) -> None:
        seen.append(report.loss)
        if len(seen) == 3:
            report.stop()

    model = model_of("one", max_iter=10).fit(X, Y, callbacks=stop)
    assert seen == model.loss_curve_
    assert model.n_iter_ == 3


def test_what_it_does_not_take() -> None:
    assert not hasattr(model_of("one"), "partial_fit")
    assert not hasattr(model_of("classes", LevenbergMarquardt()), "partial_fit")
    with pytest.raises(ValueError, match="dropout"):
        model_of("one", dropout=0.1).fit(X, Y)
    with pytest.raises(ValueError, match="dense"):
        model_of("one").fit(csr_matrix(X), Y)
    for solver in ("lm", "lbfgs"):
        with pytest.raises(ValueError, match=f'X_val needs a solver that works .*; "{solver}" '):
            model_of("one", solver).fit(X, Y, X_val=X, y_val=Y)
    with pytest.raises(ValueError, match=r'"adam"; LBFGS uses all rows at once'):
        model_of("one", LBFGS(), dropout=0.1).fit(X, Y)
    with pytest.raises(ValueError, match="the loss is inf before the first step"):
        model_of("one", activation="identity").fit(1e200 * X, Y)
    with pytest.raises(ValueError, match="curvature of the loss"):
        model_of("one", loss="quantile").fit(X, Y)
