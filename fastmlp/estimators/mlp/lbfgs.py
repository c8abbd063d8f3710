"""L-BFGS: SciPy's, on the core's objective; scikit-learn's call of it, or ours with reports."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.utils.optimize import _check_optimize_result

from fastmlp.estimators.mlp.blas import one_thread
from fastmlp.estimators.mlp.parameters import flat_of, write_back
from fastmlp.estimators.mlp.reports import Reports, print_loss
from fastmlp.estimators.mlp.row_subset import RowSubset
from fastmlp.estimators.mlp.to_core import engine_of, network_of
from fastmlp.network.state import NetState

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
