"""L-BFGS: SciPy's, on the core's objective, with one thread for BLAS.

It calls BLAS for vectors of a few thousand numbers, where threads of BLAS only wait for each other.
2 -> 1 threads: 3.2 -> 0.04 ms a step (1,201 parameters).
"""

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.utils.optimize import _check_optimize_result
from threadpoolctl import ThreadpoolController

from fastmlp.estimators.mlp.fitting.epochs import Reports, print_loss
from fastmlp.estimators.mlp.fitting.net import flat_of, write_back
from fastmlp.estimators.mlp.fitting.rows import RowSubset
from fastmlp.estimators.mlp.fitting.to_core import engine_of, network_of
from fastmlp.network.state import NetState


class OneThread:
    """A context in which BLAS has one thread; the last thread to leave restores the number.

    The number belongs to the process: if each of two concurrent fits restored the number that it
    found, it would stay at one.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limit = _libraries().limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limit.restore_original_limits()

    def renew(self) -> None:
        """Forget the users in a forked child, where their threads do not exist."""
        self._lock, self._users = threading.Lock(), 0


@cache
def _libraries() -> ThreadpoolController:
    """Return the controller of the loaded libraries; the search takes 20 ms."""
    return ThreadpoolController()


one_thread: OneThread = OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.renew)


Array = NDArray[Any]


class StopIterations(Exception):
    """A callback has asked to stop: raised through SciPy, whose own way is new in version 1.11."""


class LBFGS:
    """An estimator whose objective SciPy can minimise, in float64 for data of any precision."""

    coefs_: list[Array]
    intercepts_: list[Array]
    loss_: float
    n_iter_: int
    max_iter: int
    max_fun: int
    tol: float
    verbose: Any
    _fit_lbfgs: Callable[..., None]
    _live_state: Callable[[], NetState]

    def _minimize(self, part: RowSubset, units: list[Any], reports: Reports | None) -> None:
        """Run SciPy's L-BFGS-B, as scikit-learn does."""
        # scikit-learn packs the arrays of the lists, which may have one number for a layer.
        write_back(self._live_state(), self.coefs_, self.intercepts_)
        self._objective = self._objective_on(part)
        try:
            with one_thread:
                if reports is None:
                    self._fit_lbfgs(part.X, part.y, part.weight, None, None, None, None, units)
                else:
                    self._fit_reporting(reports)
        finally:
            del self._objective
        self.loss_ = np.float64(self.loss_)

    def _fit_reporting(self, reports: Reports) -> None:
        """Do what scikit-learn's `_fit_lbfgs` does, with a report of each iteration."""
        last, state = [np.nan], self._live_state()
        self.n_iter_ = 0

        def objective(flat: Array) -> Any:
            value, slopes = self._objective(np.ascontiguousarray(flat, np.float64))
            last[0] = value
            return value, slopes

        def iteration_ends(flat: Array) -> None:
            self.n_iter_, self.loss_ = self.n_iter_ + 1, last[0]
            self._unpack(flat)
            print_loss(self)
            if reports.epoch_ends(np.nan, state):
                raise StopIterations

        start = flat_of(self.coefs_, self.intercepts_)
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        told: dict[str, Any] = {"method": "L-BFGS-B", "jac": True, "options": options}
        with reports.begin(state):
            try:
                result = minimize(objective, start, callback=iteration_ends, **told)
            except StopIterations:
                return
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        self.loss_ = result.fun
        self._unpack(result.x)

    def _objective_on(self, part: RowSubset) -> Any:
        sizes = self._live_state().layout.sizes
        engine = engine_of(self, network_of(self, sizes, np.dtype(np.float64)))
        return engine.objective(part.data(engine))

    def _loss_grad_lbfgs(
        self, packed_coef_inter: Array, X: Any, y: Array, sample_weight: Any, *buffers: Any
    ) -> tuple[float, Array]:
        """Return the objective and its gradient at these parameters, shape (n_parameters,)."""
        objective = getattr(self, "_objective", None)
        objective = objective or self._objective_on(RowSubset(X, y, sample_weight))
        value, slopes = objective(np.ascontiguousarray(packed_coef_inter, np.float64))
        return value, slopes

    def _unpack(self, packed_parameters: Array) -> None:
        """Assign these parameters, in the dtype of the net."""
        state = self._live_state()
        state.assign(packed_parameters)
        write_back(state, self.coefs_, self.intercepts_)
