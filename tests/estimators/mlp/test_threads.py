"""Threads that share one estimator, copies made while it is fitted, and the threads of BLAS."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import REAL, X
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_info, threadpool_limits

from fastmlp import Custom, MLPRegressor
from fastmlp._process.one_thread import OneThread, one_thread
from fastmlp.estimators import training

pytestmark = [unconverged, needs_compiler]
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
