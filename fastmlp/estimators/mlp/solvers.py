"""Solvers: scikit-learn's optimizer objects keep the books, the core's optimizers do the work."""

from copy import copy
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network._stochastic_optimizers import (
    AdamOptimizer,
    BaseOptimizer,
    SGDOptimizer,
)

from fastmlp.rules import updates
from fastmlp.rules.optimizers import OPTIMIZERS, Adam, Custom, Optimizer
from fastmlp.rules.schedules import rates_of

Rates = NDArray[np.float64]
SETTINGS = ("beta_1", "beta_2", "epsilon")
SOLVERS = {"lbfgs", *OPTIMIZERS}


class CoreOptimizer(BaseOptimizer):
    """The books of an optimizer that scikit-learn does not have.

    Attributes
    ----------
    core : Optimizer
    t : int, steps so far
    """

    def __init__(self, core: Optimizer) -> None:
        rate = core.learning_rate
        super().__init__(np.nan if callable(rate) else rate)
        self.core, self.t = core, 0


def is_stochastic(solver: Any) -> bool:
    """Return True if a solver works by batches and epochs."""
    return bool(solver != "lbfgs")


def books_of(estimator: Any) -> Any:
    """Return new books for the estimator's solver."""
    rate = estimator.learning_rate_init
    # Not by `Optimizer`, a protocol: to look for its members takes 25 us.
    if isinstance(estimator.solver, type):
        wanted = f"{estimator.solver.__name__}(...)"
        raise TypeError(
            f"{type(estimator).__name__}: solver must be an optimizer, not its class: {wanted}"
        )
    if not isinstance(estimator.solver, str):
        return CoreOptimizer(estimator.solver)
    if estimator.solver == "sgd":
        schedule, power = estimator.learning_rate, estimator.power_t
        momentum = (estimator.momentum, estimator.nesterovs_momentum)
        return SGDOptimizer([], rate, schedule, *momentum, power)
    if estimator.solver == "adam":
        return AdamOptimizer([], rate, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    kind = OPTIMIZERS[estimator.solver]
    names = {field.name for field in fields(kind)} & set(SETTINGS)
    return CoreOptimizer(kind(float(rate), **{name: getattr(estimator, name) for name in names}))


def core_of(books: Any) -> Optimizer:
    """Return the core's optimizer for these books."""
    if isinstance(books, CoreOptimizer):
        return books.core
    if isinstance(books, AdamOptimizer):
        settings = {name: getattr(books, name) for name in SETTINGS}
        return Adam(**settings, epsilon_hat=True)
    if not books.momentum:
        return Custom(updates.sgd)
    rule = updates.sgd_nesterov if books.nesterov else updates.sgd_momentum
    return Custom(rule, constants=(books.momentum,))


class Rule:
    """The learning rates of the epochs to come, as the books would have them.

    Parameters
    ----------
    books : scikit-learn's optimizer object
    steps_per_epoch, n_rows : int
    last_step : int, when the fit ends at the latest
    """

    def __init__(self, books: Any, steps_per_epoch: int, n_rows: int, last_step: int) -> None:
        self._books, self._steps_per_epoch = books, steps_per_epoch
        self._n_rows, self._last_step = n_rows, last_step

    def ahead(self, first_step: int, n_epochs: int, t: int) -> Any:
        """Return a function from step numbers to rates, for epochs from `first_step` on.

        `t` is the number of rows seen before them.
        """
        if isinstance(self._books, CoreOptimizer):
            rate = self._books.core.learning_rate
            return lambda steps: rates_of(rate, steps, self._last_step)
        by_epoch = self._by_epoch(n_epochs, t)
        return lambda steps: by_epoch[(steps - first_step) // self._steps_per_epoch]

    def _by_epoch(self, n_epochs: int, t: int) -> Rates:
        if isinstance(self._books, AdamOptimizer):
            # Its `learning_rate` is that of its last step, corrections included.
            return np.full(n_epochs, float(self._books.learning_rate_init))
        books, rates = copy(self._books), np.empty(n_epochs)
        for i in range(n_epochs):
            rates[i] = books.learning_rate
            books.iteration_ends(t + (i + 1) * self._n_rows)
        return rates


def steps_of(books: Any) -> int:
    """Return how many steps the books have seen; descent does not count them."""
    return getattr(books, "t", 0)


def note_steps(books: Any, core: Optimizer, step: int) -> None:
    """Enter the steps done so far, and Adam's rate at the last of them."""
    if isinstance(books, SGDOptimizer):
        return
    books.t = step
    if isinstance(books, AdamOptimizer) and step > 0:
        rate = np.array([float(books.learning_rate_init)])
        books.learning_rate = float(core.coefficients(step, rate)[0, 0])
