"""scikit-learn's own search under joblib's backend dask: the same results, on one thread a task."""

import os
from typing import Any

import joblib
import numba
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from fastmlp import MLPClassifier
from fastmlp.backends.cpu.threads import limits

X = np.random.default_rng(0).normal(size=(80, 4))
LABELS = np.where(X[:, 0] + X[:, 1] > 0, "a", "b")


def test_a_search_has_the_same_results_there(client: Any) -> None:
    made = MLPClassifier((8,), solver="lbfgs", max_iter=200, alpha=0.1, random_state=0)
    search = GridSearchCV(made, {"activation": ["tanh", "relu"]}, cv=2, n_jobs=-1)
    here = GridSearchCV(made, search.param_grid, cv=2).fit(X, LABELS)
    with joblib.parallel_config("dask", client=client, wait_for_workers_timeout=60):
        search.fit(X, LABELS)
    for name in ("mean_test_score", "split0_test_score", "split1_test_score", "rank_test_score"):
        np.testing.assert_array_equal(search.cv_results_[name], here.cv_results_[name])
    np.testing.assert_array_equal(search.predict_proba(X), here.predict_proba(X))


def test_a_task_uses_one_thread_in_a_worker(client: Any) -> None:
    """Dask sets OMP_NUM_THREADS there: several workers share the machine."""
    assert client.submit(os.environ.get, "OMP_NUM_THREADS", pure=False).result() == "1"
    assert client.submit(limits.thread_limit, pure=False).result() == 1


def test_in_a_task_the_cores_are_divided_by_the_threads_of_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import distributed.worker as module

    class Worker:
        class state:
            nthreads = 3

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    monkeypatch.setattr(limits, "_cgroup_cpus", lambda: 12)
    assert limits.thread_limit() == 8
    monkeypatch.setattr(module.thread_state, "execution_state", {"worker": Worker}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert limits.thread_limit() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert limits.thread_limit() == 5
    Worker.state.nthreads = 100
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert limits.thread_limit() == 1
