"""The net of an estimator shares its numbers, and estimators among threads."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import LABELS, REAL, TASKS, X, both
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_info, threadpool_limits

import fastmlp
from fastmlp import MLP, SGD, Custom, MLPClassifier, MLPRegressor, Quantile, Tweedie
from fastmlp._process.task_pool import OneThread, one_thread
from fastmlp.estimators import training

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


SMALL: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
WIDE = 100_000
# Batches of one row, of a few and of many lay out the optimizer's state in different ways.
TURNS = """
import threading
import numpy as np
from fastmlp import MLPRegressor

X = np.random.default_rng(0).normal(size=(2000, 20))
y = X[:, 0] * X[:, 1]
model = MLPRegressor(hidden_layer_sizes=(64, 64), random_state=0).partial_fit(X, y)
sizes, times, failed = (1, 7, 64, 200, 2000), 60, []

def train(n):
    try:
        for _ in range(times):
            model.partial_fit(X[:n], y[:n])
    except Exception as error:
        failed.append(error)

threads = [threading.Thread(target=train, args=(n,)) for n in sizes]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
print(model.t_ == len(X) + times * sum(sizes), len(model.loss_curve_) == 1 + times * len(sizes))
"""


@pytest.mark.slow
def test_threads_that_train_one_estimator_take_turns(python: Callable[..., str]) -> None:
    assert python(TURNS, timeout=300) == "True True\n"


def count_up(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w + type(w)(1), m, v


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [1, 20])
def test_predictions_beside_partial_fit_are_those_of_whole_parameters(n_rows: int) -> None:
    settings: dict[str, Any] = {"hidden_layer_sizes": (), "solver": Custom(count_up), "alpha": 0}
    model, row = MLPRegressor(**settings), np.ones((1, WIDE))
    model.partial_fit(row, [0.0])
    model.coefs_[0][:] = model.intercepts_[0][:] = 0
    rows, seen, done = np.ones((n_rows, WIDE)), set[float](), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(model.predict(rows).tolist())

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    for _ in range(60):
        model.partial_fit(row, [0.0])
    done.set()
    for watcher in watchers:
        watcher.join()
    # At step t every parameter is t.
    assert seen <= {float(t * (WIDE + 1)) for t in range(61)}


def test_checking_that_it_is_fitted_iterates_over_no_attributes() -> None:
    class Growing(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    model = MLPRegressor(**SMALL)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    model.fit(X, REAL)
    model.__dict__ = Growing(model.__dict__)
    check_is_fitted(model)


def test_a_fit_within_its_own_fit_is_refused() -> None:
    def scorer(model: Any, rows: Any, targets: Any) -> float:
        return float(model.partial_fit(rows, targets).loss_)

    model = MLPRegressor(**SMALL, early_stopping=True, scoring=scorer)
    with pytest.raises(RuntimeError, match="MLPRegressor: a fit of this net is running"):
        model.fit(X, REAL)
    assert model.set_params(early_stopping=False, scoring=None).fit(X, REAL).n_iter_ == 5


class Carrying:
    """A scorer that carries the estimator elsewhere; carried along, it is another one's name."""

    def __init__(self, carry: Callable[[Any], Any]) -> None:
        self.carry, self.carried = carry, list[tuple[Any, Any]]()

    def __call__(self, model: Any, rows: Any, targets: Any) -> float:
        self.carried.append((self.carry(model), model.predict(X)))
        return float(len(self.carried))

    def __reduce__(self) -> Any:
        return str, ("r2",)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    "carry", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_scorer_may_copy_the_estimator(carry: Callable[[Any], Any], state: bool) -> None:
    scorer = Carrying(carry)
    MLPRegressor(**SMALL, early_stopping=True, scoring=scorer, pickle_state=state).fit(X, REAL)
    assert len(scorer.carried) == 5
    for other, predictions in scorer.carried:
        np.testing.assert_array_equal(other.predict(X), predictions)


def test_a_copy_in_memory_trains_on_as_the_original() -> None:
    model = MLPRegressor(**SMALL).fit(X, REAL)
    other = copy.deepcopy(model)
    losses = [[each.partial_fit(X, REAL).loss_ for _ in range(3)] for each in (other, model)]
    assert losses[0] == losses[1]
    assert not hasattr(pickle.loads(pickle.dumps(other)), "_optimizer")


# --- L-BFGS keeps BLAS to one thread while it runs, and gives the others back ---


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def three_threads() -> Iterator[None]:
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.mark.usefixtures("three_threads")
def test_a_fit_by_lbfgs_has_one_thread_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    make = training.objective_on

    def watched(*arguments: Any) -> Any:
        evaluate = make(*arguments)

        def seeing(flat: Any) -> Any:
            seen.extend(blas_threads())
            return evaluate(flat)

        return seeing

    monkeypatch.setattr(training, "objective_on", watched)
    model = MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", tol=0.1, random_state=0)
    model.fit(X[:20, :3], X[:20, 0])
    assert set(seen) == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_who_leaves_last_gives_the_threads_back() -> None:
    with one_thread:
        with one_thread:
            pass
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_an_error_gives_them_back() -> None:
    with pytest.raises(KeyError), one_thread:
        raise KeyError
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_a_forked_child_starts_from_none() -> None:
    ours = OneThread()
    ours.__enter__()
    ours._lock.acquire()
    ours.renew()
    with ours:
        assert set(blas_threads()) == {1}
