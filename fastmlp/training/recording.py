"""What a fit records in its history, and the warnings that go with it."""

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.warnings import warn
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import rates_of
from fastmlp.training.history import History, Status
from fastmlp.training.loop import Rates


def interrupted(history: History, *, restores: bool = False) -> History:
    """Record that Ctrl-C has ended the fit, and warn; `restores`: the best epoch is restored."""
    history.status = Status.INTERRUPTED
    epoch = len(history.loss)
    kept = f"has the parameters of epoch {history.best_epoch}, the best"
    its = kept if restores else "keeps what it has learnt"
    warn(f"fit interrupted in epoch {epoch}; the net {its}", UserWarning)
    return history


def rates_at(optimizer: Optimizer, steps: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """Return the learning rates of step numbers; the fit ends at step `total`."""
    rate = optimizer.learning_rate
    if not callable(rate):
        return np.full(len(steps), float(rate))
    return validation.rates(rates_of(rate, steps, total), len(steps), rate)


def record(
    history: History,
    losses: NDArray[np.float64],
    rates: Rates,
    first_step: int,
    steps_per_epoch: int,
) -> None:
    """Add completed epochs: their losses, and the learning rates of their last steps."""
    last_steps = first_step + steps_per_epoch * np.arange(1, len(losses) + 1) - 1
    history.loss += losses.tolist()
    history.learning_rate += rates(last_steps).tolist()


def record_divergence(history: History, loss: float, *, restores: bool = False) -> None:
    """Record that the next epoch diverged, and warn; `restores`: the best epoch is restored."""
    history.status = Status.DIVERGED
    before = "keeps its parameters from before that epoch"
    kept = f"has the parameters of epoch {history.best_epoch}, the best" if restores else before
    warn(
        f"fit diverged in epoch {len(history.loss)} (loss {loss:.3g}): the net {kept}; "
        "try a smaller learning rate, or standardise X",
        RuntimeWarning,
    )
