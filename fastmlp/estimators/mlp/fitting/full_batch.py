"""Fits on all rows at once: SciPy's L-BFGS on the core's objective, or a solver of the core."""

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.optimize import _check_optimize_result

from fastmlp._process.one_thread import one_thread
from fastmlp.estimators.mlp.fitting.epochs import Reports, print_loss
from fastmlp.estimators.mlp.fitting.net import flat_of, loss_for_net, net_around, write_back
from fastmlp.estimators.mlp.fitting.rows import RowSubset
from fastmlp.estimators.mlp.fitting.to_core import engine_of, network_of, signs_of_estimator
from fastmlp.model import core_of
from fastmlp.network import monotone
from fastmlp.training.options import FitOptions
from fastmlp.training.second_order import check, solver_of

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
                _fit_reporting(estimator, reports or Reports(estimator, FitOptions()))
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


def fit_by_core(estimator: Any, part: RowSubset, reports: Reports | None) -> None:
    """Train an estimator on all rows for `max_iter` iterations, or until no number of the gradient
    is above `tol`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        If the solver cannot train this estimator, or these rows.
    """
    state, who = estimator._live_state(), type(estimator).__name__
    engine, own = core_of(net_around(estimator, state))
    check(engine.network, own.optimizer, FitOptions(), "cpu", None, who)
    _, share = loss_for_net(estimator, state.layout.sizes[-1])
    estimator.n_iter_, estimator.loss_curve_, slope = 0, [], np.inf

    def goes_on(loss: float) -> bool:
        nonlocal slope
        solver.store()
        slope = solver.slope / share
        estimator.n_iter_, estimator.loss_ = estimator.n_iter_ + 1, loss / share
        estimator.loss_curve_.append(estimator.loss_)
        print_loss(estimator)
        if reports is not None and reports.epoch_ends(np.nan, state):
            return False
        return bool(estimator.n_iter_ < estimator.max_iter and slope > estimator.tol)

    solver = solver_of(engine, own, part.data(engine), who)
    estimator.loss_ = solver.loss / share
    if not np.isfinite(estimator.loss_):
        raise ValueError(
            f"{who}: the loss is {estimator.loss_} before the first step. The input data may "
            "contain large values and need to be preprocessed."
        )
    with nullcontext() if reports is None else reports.begin(state):
        solver.run(goes_on)
    write_back(state, estimator.coefs_, estimator.intercepts_)
    if estimator.n_iter_ == estimator.max_iter and slope > estimator.tol:
        warnings.warn(
            f"{type(own.optimizer).__name__}: Maximum iterations ({estimator.max_iter}) reached "
            "and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
