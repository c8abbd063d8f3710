"""L-BFGS keeps BLAS to one thread while it runs, and gives the others back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fastmlp import MLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.estimators.mlp.fitting.lbfgs import OneThread, one_thread


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_fit_by_lbfgs_has_one_thread_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    evaluate = MLPRegressor._loss_grad_lbfgs

    def watched(*arguments: Any) -> Any:
        seen.extend(blas_threads())
        return evaluate(*arguments)

    monkeypatch.setattr(MLPRegressor, "_loss_grad_lbfgs", watched)
    X = np.random.default_rng(0).normal(size=(20, 3))
    model = MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", tol=0.1, random_state=0)
    model.fit(X, X[:, 0])
    assert set(seen) == {1}
    assert set(blas_threads()) == {3}


def test_who_leaves_last_gives_the_threads_back() -> None:
    with one_thread:
        with one_thread:
            pass
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {3}


def test_an_error_gives_them_back() -> None:
    with pytest.raises(KeyError), one_thread:
        raise KeyError
    assert set(blas_threads()) == {3}


def test_a_forked_child_starts_from_none() -> None:
    ours = OneThread()
    ours.__enter__()
    ours._lock.acquire()
    ours.renew()
    with ours:
        assert set(blas_threads()) == {1}
