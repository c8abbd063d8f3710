"""`net_`: the MLP that shares a fitted estimator's parameters."""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import LABELS, TASKS, X, both

import fastmlp
from fastmlp import MLP, SGD, MLPClassifier, MLPRegressor, Quantile, Tweedie

pytestmark = [unconverged, needs_compiler]
POSITIVE = np.exp(X[:, 0])


def fitted(**settings: Any) -> MLPClassifier:
    return MLPClassifier((5,), max_iter=3, random_state=0, **settings).fit(X, LABELS)


def outputs(model: Any) -> Any:
    return model.predict_proba(X)[:, 1]


@pytest.mark.parametrize("task", TASKS)
def test_it_has_the_estimators_predictions_and_gradient(task: str) -> None:
    name, y, settings = TASKS[task]
    _, model = both(name, hidden_layer_sizes=(5,), max_iter=3, alpha=0.3, **settings)
    model.fit(X, y)
    predicted = model.predict_proba(X) if name == "MLPClassifier" else model.predict(X)
    predicted = np.asarray(predicted).reshape(len(X), -1)
    if task == "binary":
        predicted = predicted[:, 1:]
    assert np.array_equal(model.net_.predict(X), predicted)
    # scikit-learn's own gradient, which is of a sum over outputs where the net has a mean.
    targets = np.asarray(y)
    if name == "MLPClassifier":
        targets = model._label_binarizer.transform(y).astype(float)
    flat = model.net_.parameters.copy()
    value, slopes = model._loss_grad_lbfgs(flat, X, targets.reshape(len(X), -1), None)
    for_net = targets.argmax(axis=1) if task == "multiclass" else targets
    its_value, its_slopes = model.net_.loss_and_gradient(X, for_net)
    share = its_slopes[0] / slopes[0]
    np.testing.assert_allclose(its_slopes, share * slopes, rtol=1e-9, atol=1e-12)
    if model.n_outputs_ == 1 or task == "multiclass":
        assert its_value == pytest.approx(share * value, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"loss": Quantile([0.1, 0.9])}, (53, 2)),
        ({"loss": "gaussian_nll"}, (53, 2)),
        ({"loss": "gamma"}, (53, 1)),
        ({"loss": Tweedie(1.7)}, (53, 1)),
    ],
)
def test_it_has_the_losses_that_scikit_learn_has_not(
    settings: dict[str, Any], shape: tuple[int, int]
) -> None:
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0, **settings)
    net = model.fit(X, POSITIVE).net_
    assert net.predict(X).shape == shape
    assert np.array_equal(net.predict(X)[:, 0], model.predict(X).reshape(len(X), -1)[:, 0])


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", SGD(0.1)])
def test_what_is_written_to_one_is_in_the_other(solver: Any) -> None:
    model = fitted(solver=solver)
    net = model.net_
    assert net is model.net_
    model.coefs_[0][:] = 0.5
    assert (net.weights[0] == 0.5).all()
    net.biases[1] = np.array([2.0])
    assert model.intercepts_[1] == [2.0]
    net.fit(X, (LABELS == "yes").astype(int), epochs=2)
    assert np.array_equal(net.predict(X)[:, 0], outputs(model))
    assert not (model.coefs_[0] == 0.5).all()


def test_a_net_of_its_own_state_leaves_the_estimators_training_as_it_was() -> None:
    def after(trains: bool) -> Any:
        model = fitted()
        if trains:
            before = model.net_.parameters.copy()
            model.net_.fit(X, (LABELS == "yes").astype(int), epochs=1)
            model.net_.parameters[:] = before
        return model.partial_fit(X, LABELS)

    one, other = after(True), after(False)
    assert all(map(np.array_equal, one.coefs_, other.coefs_))


def test_a_fit_that_begins_anew_has_another_net() -> None:
    model = fitted()
    old = model.net_
    parameters = old.parameters.copy()
    model.set_params(random_state=1).fit(X, LABELS)
    assert model.net_ is not old
    assert np.array_equal(old.parameters, parameters)
    assert np.array_equal(model.net_.weights[0], model.coefs_[0])
    # A fit that goes on keeps it.
    kept = model.net_
    model.partial_fit(X, LABELS)
    assert model.net_ is kept
    assert np.array_equal(kept.predict(X)[:, 0], outputs(model))
    # So does one of a warm start.
    model.set_params(warm_start=True).fit(X, LABELS)
    assert model.net_ is kept


def test_arrays_that_a_user_has_put_in_are_shared_from_then_on() -> None:
    model = fitted()
    model.coefs_[0] = np.ones((6, 5))
    model.intercepts_[0] = np.zeros(5)
    net = model.net_
    assert (net.weights[0] == 1).all()
    net.weights[0][:] = 2
    assert (model.coefs_[0] == 2).all()
    assert net is model.net_


def test_copies_and_files_have_nets_of_their_own(tmp_path: Path) -> None:
    model = fitted()
    model.net_.weights[0][:] = 0.25
    fastmlp.save(model, tmp_path / "model.safetensors")
    for other in (
        pickle.loads(pickle.dumps(model)),
        deepcopy(model),
        fastmlp.load(tmp_path / "model.safetensors"),
    ):
        assert np.array_equal(other.net_.predict(X), model.net_.predict(X))
        other.net_.weights[0][:] = 3.0
        assert (other.coefs_[0] == 3.0).all()
        assert (model.coefs_[0] == 0.25).all()
    # A net is saved by itself, and needs no functions to be loaded again.
    model.net_.save(tmp_path / "net.safetensors")
    again = MLP.load(tmp_path / "net.safetensors")
    assert np.array_equal(again.predict(X), model.net_.predict(X))


def test_a_saved_net_of_a_regressor_needs_no_functions(tmp_path: Path) -> None:
    each: list[dict[str, Any]] = [{}, {"loss": "poisson"}, {"solver": "sgd"}, {"solver": "lbfgs"}]
    for settings in each:
        model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, **settings).fit(X, POSITIVE)
        model.net_.save(tmp_path / "net.safetensors", include_training_state=True)
        again = MLP.load(tmp_path / "net.safetensors")
        assert np.array_equal(again.predict(X)[:, 0], model.predict(X))


def test_it_has_the_precision_threads_and_optimizer_of_the_estimator() -> None:
    model = MLPClassifier((5,), max_iter=2, n_jobs=1, learning_rate_init=0.02, solver="sgd")
    net = model.fit(X.astype(np.float32), LABELS).net_
    assert (net.dtype.name, net.n_threads) == ("float32", 1)
    assert net.optimizer == SGD(0.02, momentum=0.9, nesterov=True)
