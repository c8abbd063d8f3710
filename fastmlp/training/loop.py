"""The training loop: windows of epochs, in calls of about 50 ms.

`fit` trains nets of `MLP`, of `fit_many` and of the estimators. A request has the order of the
rows, the learning rates, and the actions between windows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp.backends.protocol import Data, Engine, Order, Trainer
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import numbers_of
from fastmlp.rules.groups import ParameterGroup, groups_of
from fastmlp.rules.optimizers import coefficients_of

CALL_SECONDS = 0.05
# A guess for the first call, so low that the call is not longer on a slow core either.
FIRST_FLOPS_PER_SECOND = 1e9
# A measured speed counts up to so many times the guess: batches of weight 0 take no time.
MOST_TRUSTED = 32
MAX_ORDER_NUMBERS = 1 << 20
# From the numbers of steps to their learning rates.
Rates = Callable[[NDArray[np.int64]], NDArray[np.float64]]


class Request(Protocol):
    """The settings of a fit, and its actions between windows.

    A window is a number of epochs, planned at once: their order of rows and their learning rates.
    """

    @property
    def data(self) -> Data:
        """The rows to train on."""
        ...

    @property
    def batch_size(self) -> int: ...

    @property
    def options(self) -> Mapping[str, bool]:
        """Options of `Engine.trainer`."""
        ...

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Prepare; return a context in which the windows run."""
        ...

    def window(self, most: int) -> int:
        """Return the number of epochs of the next window; 0 ends the fit.

        A call of `CALL_SECONDS` does `most` epochs: a window of more takes several calls.
        """
        ...

    def order(self, n_epochs: int) -> Order:
        """Return the rows' order in each epoch of the next window, as `Trainer.run` takes it."""
        ...

    def rates(self, n_epochs: int) -> Rates:
        """Return the learning rates of the next window, as a function of step numbers."""
        ...

    @property
    def last_step(self) -> int:
        """The step at which the fit ends, as schedules take it; known after `begin`."""
        ...

    def end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        """Record the losses of completed epochs; `diverged` is the loss of the next epoch, if it
        has numbers that are not finite."""
        ...

    def cut_short(self, losses: NDArray[np.float64]) -> None:
        """Record the epochs of a window that Ctrl-C has ended."""
        ...

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Record that Ctrl-C has ended the fit, or raise the error again."""
        ...

    def close(self) -> None:
        """Conclude the fit, also after an error."""
        ...


def fit(engine: Engine[Any], state: NetState, request: Request) -> None:
    """Train a net as requested; `state` is brought up to date, also after Ctrl-C or an error."""
    try:
        with task_pool.turn():
            trainer = engine.trainer(
                state.parameters,
                engine.slots(state, request.data),
                state.optimizer,
                request.data,
                request.batch_size,
                **request.options,
            )
        groups = groups_of(state.optimizer, engine.network.factors).groups
        calls, dropout = Calls(trainer, state, groups), engine.network.dropout
        with request.begin(engine, trainer, state):
            if dropout is not None:
                key, total = state.kept_key(), request.last_step
                calls.drawn = partial(numbers_of, dropout, key, total=total)
            try:
                while n_epochs := request.window(calls.epochs_at_once()):
                    losses, rates = np.full(n_epochs, np.nan), request.rates(n_epochs)
                    first_step = state.n_steps
                    try:
                        n_done = calls.run(request.order(n_epochs), losses, rates)
                    except KeyboardInterrupt:
                        request.cut_short(losses[: calls.epochs_since(first_step)])
                        raise
                    diverged = None
                    if trainer.diverged:
                        # The backend has gone back to the epoch's first parameters, and the
                        # optimizer's state to zeros.
                        diverged = float(losses[n_done])
                        state.restart()
                    request.end_window(losses[:n_done], diverged)
            finally:
                trainer.store()
        trainer.end()
    except KeyboardInterrupt as error:
        request.interrupted(error)
    finally:
        request.close()


class Pace:
    """The number of units that a call does in about `CALL_SECONDS`.

    The seconds of a unit are kept for the next fit: nets that train for a few milliseconds each
    then take one call.
    """

    units: int

    def __init__(self, unit_flops: int) -> None:
        self._learnt = _learnt(unit_flops)
        slow = unit_flops / FIRST_FLOPS_PER_SECOND
        seconds = self._learnt.get("unit", slow)
        self.units = max(1, int(CALL_SECONDS / max(seconds, slow / MOST_TRUSTED)))

    def measure(self, units: int, seconds: float) -> None:
        """Adapt to a call's time, at most fourfold, for a short call measures overhead."""
        self._learnt["unit"] = seconds / units
        ideal = units * CALL_SECONDS / max(seconds, 1e-9)
        self.units = max(1, int(min(ideal, 4 * self.units)))


@lru_cache(maxsize=256)
def _learnt(unit_flops: int) -> dict[str, float]:
    """Return the seconds that a unit of so many operations took last, under "unit"."""
    return {}


class Calls:
    """Does windows of epochs in calls of about `CALL_SECONDS`, and counts the steps of a state.

    Attributes
    ----------
    drawn : from numbers of steps to what dropout draws with, or None
    """

    drawn: Rates | None = None

    def __init__(self, trainer: Trainer, state: NetState, groups: Sequence[ParameterGroup]) -> None:
        self._trainer, self._state, self._groups = trainer, state, groups
        self._pace = Pace(trainer.unit_flops)

    def epochs_at_once(self) -> int:
        """Return the number of epochs that one call does."""
        return max(1, self._pace.units // self._trainer.units_per_epoch)

    def epochs_since(self, first_step: int) -> int:
        """Return the number of epochs completed since the state had `first_step` steps."""
        trainer = self._trainer
        return (self._state.n_steps - first_step) // trainer.step_of(trainer.units_per_epoch)

    def run(self, order: Order, losses: NDArray[np.float64], rates: Rates) -> int:
        """Do an epoch for each of the losses to fill; return the number of epochs completed.

        `rates` returns the learning rates of step numbers; `order` is as `Trainer.run` takes it.
        """
        trainer, state, unit = self._trainer, self._state, 0
        first_step, total = state.n_steps, len(losses) * trainer.units_per_epoch
        trainer.begin()
        try:
            while unit < total and not trainer.diverged:
                last = min(unit + self._pace.units, total)
                step, end = trainer.step_of(unit), trainer.step_of(last - 1) + 1
                steps, of_step = first_step + np.arange(step, end), first_step + step + 1
                its = (state.optimizer, of_step, rates(steps), self._groups)
                coefficients = coefficients_of(*its, state.averaged_from)
                if self.drawn is not None:
                    coefficients = np.column_stack([coefficients, self.drawn(steps)])
                start = time.perf_counter()
                reached = trainer.run(order, coefficients, losses, unit, last)
                self._pace.measure(last - unit, time.perf_counter() - start)
                unit = reached
            return unit // trainer.units_per_epoch
        finally:
            # Also correct if an interrupt comes between a call and the assignment of its result.
            state.n_steps = first_step + trainer.step_of(trainer.reached)
