"""Fits of one batch: after some in a row they are single steps of a kept trainer."""

import time
from collections.abc import Callable
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np

from fastmlp.backends.protocol import Data
from fastmlp.network.state import NetState
from fastmlp.rules.optimizers import is_averaged
from fastmlp.training.checkpoint import EVERY
from fastmlp.training.history import History, Status, interrupted, record_divergence
from fastmlp.training.loop import rates_at
from fastmlp.training.steps import Steps

# Fits in a row after which a trainer is made ready, which compiles where the cache is empty.
IN_A_ROW = 8
# Trainers in a row that were made ready in vain, as the fit took the loop: no more are made then.
MOST_VAIN = 3
# `MLP.fit` without a batch size.
BATCH_SIZE = 32
# The defaults of its other arguments.
NOTHING = (*(None,) * 13, False, False, False, (), EVERY)


def is_plain(X: Any, y: Any, epochs: Any, batch_size: Any, shuffle: Any, others: Any) -> bool:
    """Return True if a fit is one batch of arrays, and no argument needs a check; `NOTHING` are the
    defaults of `others`."""
    if type(epochs) is not int or epochs != 1 or not all(map(is_, others, NOTHING)):
        return False
    if type(X) is not np.ndarray or type(y) is not np.ndarray or X.ndim != 2:
        return False
    most = batch_size if type(batch_size) is int else BATCH_SIZE if batch_size is None else 0
    return 0 < len(X) <= most and type(shuffle) is bool


class OneBatch:
    """The plain fits of one batch of a net.

    Such a fit is a step: with a trainer that is ready it takes a tenth of its time in the loop. The
    last of `IN_A_ROW` fits on rows of one shape makes the trainer ready.
    """

    def __init__(self, state: NetState) -> None:
        self._state, self._n_vain = state, 0
        # Of the last fits by the loop: the shape of their rows, the lock's count of owners at the
        # last one, and how many fits there were.
        self._last: tuple[Any, int, int] = (), 0, 0

    def fit(self, steps: Steps | None, X: Any, y: Any, who: str) -> History | None:
        """The history of a fit by one step; None if it needs the loop: the net is as it was."""
        start, state = time.perf_counter(), self._state
        if steps is None or not steps.is_ready(X) or is_averaged(state.optimizer):
            return None
        step, before, history = state.n_steps, state.parameters.copy(), History()
        try:
            loss = steps.on_plain(X, y, who)
            if loss is None:
                return None
            self._n_vain = 0
            if np.isfinite(state.parameters).all():
                history.loss.append(loss)
                rate: Any = state.optimizer.learning_rate
                if callable(rate):
                    rate = rates_at(state.optimizer, np.array([step]), step + 1)[0]
                history.learning_rate.append(float(rate))
            else:
                with state.lock.training(who):
                    state.assign(before)
                    state.restart()
                record_divergence(history, loss)
        except KeyboardInterrupt:
            interrupted(history)
        history.seconds = time.perf_counter() - start
        return history

    def note(self, steps_of: Callable[[], Steps], data: Data, history: History, who: str) -> None:
        """Count a fit by the loop, and make a trainer ready after `IN_A_ROW` of them; the caller
        owns the optimizer's state."""
        shape, n, (last_shape, last_n, n_fits) = data.x.shape, self._state.lock.n_owners, self._last
        n_fits = n_fits + 1 if (last_shape, last_n) == (shape, n - 1) else 1
        self._last = shape, n, n_fits if history.status is Status.COMPLETED else 0
        if self._last[2] < IN_A_ROW or self._n_vain >= MOST_VAIN:
            return
        self._n_vain += 1
        try:
            # Where there is no memory for it, the next fit takes the loop.
            with suppress(MemoryError):
                steps_of().prepare(data, who)
        except KeyboardInterrupt:
            interrupted(history)
