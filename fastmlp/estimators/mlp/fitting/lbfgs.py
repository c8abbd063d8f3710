"""L-BFGS: SciPy's, on the core's objective, with one thread for BLAS."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.utils.optimize import _check_optimize_result

from fastmlp._process.one_thread import one_thread
from fastmlp.estimators.mlp.fitting.epochs import Reports, print_loss
from fastmlp.estimators.mlp.fitting.net import flat_of, write_back
from fastmlp.estimators.mlp.fitting.rows import RowSubset
from fastmlp.estimators.mlp.fitting.to_core import engine_of, network_of, signs_of_estimator
from fastmlp.network import monotone

Array = NDArray[Any]


class StopIterations(Exception):
    """A callback has asked to stop: raised through SciPy, whose own way is new in version 1.11."""


def minimize_loss(
    estimator: Any, part: RowSubset, units: list[Any], reports: Reports | None
) -> None:
    """Run SciPy's L-BFGS-B on an estimator, as scikit-learn does, in float64 for any data."""
    # scikit-learn packs the arrays of the lists, which may have one number for a layer.
    write_back(estimator._live_state(), estimator.coefs_, estimator.intercepts_)
    estimator._objective = objective_on(estimator, part)
    try:
        with one_thread:
            if reports is None and estimator.monotonic_cst is None:
                estimator._fit_lbfgs(part.X, part.y, part.weight, None, None, None, None, units)
            else:
                _fit_reporting(estimator, reports or Reports(estimator, (), False))
    finally:
        del estimator._objective
    estimator.loss_ = np.float64(estimator.loss_)


def objective_on(estimator: Any, part: RowSubset) -> Any:
    """The function from parameters, shape (n_parameters,), to the objective and its gradient."""
    sizes = estimator._live_state().layout.sizes
    engine = engine_of(estimator, network_of(estimator, sizes, np.dtype(np.float64)))
    return engine.objective(part.data(engine))


def _fit_reporting(estimator: Any, reports: Reports) -> None:
    """Do the work of scikit-learn's `_fit_lbfgs`, with a report of each iteration and bounds."""
    last, state = [np.nan], estimator._live_state()
    estimator.n_iter_ = 0

    def objective(flat: Array) -> Any:
        last[0], slopes = estimator._objective(np.ascontiguousarray(flat, np.float64))
        return last[0], slopes

    def iteration_ends(flat: Array) -> None:
        estimator.n_iter_, estimator.loss_ = estimator.n_iter_ + 1, last[0]
        estimator._unpack(flat)
        print_loss(estimator)
        if reports.epoch_ends(np.nan, state):
            raise StopIterations

    start = flat_of(estimator.coefs_, estimator.intercepts_)
    limits = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
    options: dict[str, Any] = {"method": "L-BFGS-B", "jac": True, "options": limits}
    network = network_of(estimator, state.layout.sizes, np.dtype(np.float64))
    if signs := signs_of_estimator(estimator, network):
        options["bounds"] = monotone.bounds_of(network._replace(signs=signs))
    with reports.begin(state):
        try:
            result = minimize(objective, start, callback=iteration_ends, **options)
        except StopIterations:
            return
    estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    estimator.loss_ = result.fun
    estimator._unpack(result.x)
