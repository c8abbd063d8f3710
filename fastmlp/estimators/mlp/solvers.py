"""Solvers: scikit-learn's optimizer objects hold the attributes, the core's optimizers train."""

from copy import copy
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network._stochastic_optimizers import (
    AdamOptimizer,
    BaseOptimizer,
    SGDOptimizer,
)

from fastmlp.rules import updates
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Adam, Custom, Optimizer, is_averaged
from fastmlp.rules.optimizers.protocol import OptimizerSettings
from fastmlp.rules.schedules import rates_of

Rates = NDArray[np.float64]
SETTINGS = ("beta_1", "beta_2", "epsilon")
SOLVERS = {"lbfgs", *OPTIMIZERS}


class CoreOptimizer(BaseOptimizer):
    """A scikit-learn optimizer object for a core optimizer that scikit-learn does not have.

    Attributes
    ----------
    core : Optimizer
    t : int, steps so far
    """

    core: Optimizer
    t: int

    def __init__(self, core: Optimizer) -> None:
        rate = core.learning_rate
        super().__init__(np.nan if callable(rate) else rate)
        self.core, self.t = core, 0


def is_stochastic(solver: Any) -> bool:
    """Return True if a solver works by batches and epochs."""
    return bool(solver != "lbfgs")


def new_optimizer(estimator: Any) -> Any:
    """Return a new optimizer object for the estimator's solver."""
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


def core_of(optimizer: Any) -> Optimizer:
    """Return the core's optimizer of an optimizer object."""
    if isinstance(optimizer, CoreOptimizer):
        return optimizer.core
    if isinstance(optimizer, AdamOptimizer):
        settings = {name: getattr(optimizer, name) for name in SETTINGS}
        return Adam(**settings, epsilon_hat=True)
    if not optimizer.momentum:
        return Custom(updates.sgd)
    rule = updates.sgd_nesterov if optimizer.nesterov else updates.sgd_momentum
    return Custom(rule, constants=(optimizer.momentum,))


def averaged(estimator: Any) -> Optimizer:
    """Return the core's optimizer that trains an estimator, with its average."""
    return with_average(core_of(estimator._optimizer), estimator)


def with_average(core: Optimizer, estimator: Any) -> Optimizer:
    """Return an optimizer with the average of an estimator.

    Raises
    ------
    TypeError, ValueError
        If it is not one of fastmlp's, or averages already.
    """
    if estimator.average is None:
        return core
    who = type(estimator).__name__
    if not isinstance(core, OptimizerSettings):
        raise TypeError(
            f"{who}: average={estimator.average!r} needs an optimizer of fastmlp's as the solver, "
            f"got {core!r}"
        )
    if is_averaged(core):
        raise ValueError(
            f"{who}: give average={estimator.average!r} or an optimizer that averages, not both: "
            f"solver={core!r}"
        )
    its: Any = core
    return cast(Optimizer, replace(its, average=estimator.average))


def for_net(estimator: Any) -> Optimizer:
    """Return the optimizer of an `MLP` with an estimator's settings; "lbfgs" gives Adam."""
    return with_average(_for_net(estimator), estimator)


def _for_net(estimator: Any) -> Optimizer:
    if estimator.solver == "sgd":
        momentum = float(estimator.momentum)
        nesterov = momentum > 0 and bool(estimator.nesterovs_momentum)
        return SGD(float(estimator.learning_rate_init), momentum, nesterov)
    if estimator.solver in ("adam", "lbfgs"):
        settings: Any = {name: float(getattr(estimator, name)) for name in SETTINGS}
        return Adam(float(estimator.learning_rate_init), **settings, epsilon_hat=True)
    return core_of(new_optimizer(estimator))


class Rule:
    """The learning rates of the next epochs, as the optimizer object would set them.

    Parameters
    ----------
    optimizer : scikit-learn's optimizer object
    steps_per_epoch, n_rows : int
    last_step : int, when the fit ends at the latest
    """

    def __init__(self, optimizer: Any, steps_per_epoch: int, n_rows: int, last_step: int) -> None:
        self._optimizer, self._steps_per_epoch = optimizer, steps_per_epoch
        self._n_rows, self._last_step = n_rows, last_step

    def ahead(self, first_step: int, n_epochs: int, t: int) -> Any:
        """Return a function from step numbers to rates, for epochs from `first_step` on.

        `t` is the number of rows seen before them.
        """
        if isinstance(self._optimizer, CoreOptimizer):
            rate = self._optimizer.core.learning_rate
            return lambda steps: rates_of(rate, steps, self._last_step)
        by_epoch = self._by_epoch(n_epochs, t)
        # How many steps an epoch has may not be known: then there is one.
        last = n_epochs - 1
        return lambda steps: by_epoch[
            np.minimum((steps - first_step) // self._steps_per_epoch, last)
        ]

    def _by_epoch(self, n_epochs: int, t: int) -> Rates:
        if isinstance(self._optimizer, AdamOptimizer):
            # Its `learning_rate` is that of its last step, corrections included.
            return np.full(n_epochs, float(self._optimizer.learning_rate_init))
        optimizer, rates = copy(self._optimizer), np.empty(n_epochs)
        for i in range(n_epochs):
            rates[i] = optimizer.learning_rate
            optimizer.iteration_ends(t + (i + 1) * self._n_rows)
        return rates


def steps_of(optimizer: Any) -> int:
    """Return how many steps an optimizer object has counted; 0 for a new SGD of scikit-learn's."""
    return getattr(optimizer, "t", 0)


def note_steps(optimizer: Any, core: Optimizer, step: int) -> None:
    """Set an optimizer object's count of steps, and Adam's rate at the last step."""
    # scikit-learn's SGD has no such attribute.
    optimizer.t = step
    if isinstance(optimizer, AdamOptimizer) and step > 0:
        rate = np.array([float(optimizer.learning_rate_init)])
        optimizer.learning_rate = float(core.coefficients(step, rate)[0, 0])
