"""Fits by `solver="lm"`, or a second-order optimizer as the solver, in the core."""

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmlp.estimators.mlp.fitting.epochs import Reports, print_loss
from fastmlp.estimators.mlp.fitting.net import loss_for_net, net_around, write_back
from fastmlp.estimators.mlp.fitting.rows import RowSubset
from fastmlp.model import core_of
from fastmlp.training.options import FitOptions
from fastmlp.training.second_order import check, solver_of


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
