"""Warnings, with the remedy, of fits that ended but hardly learn."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import warn
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Network
from fastmlp.rules.losses import mse
from fastmlp.training.history import History, Status

# Distance of targets from 0 in standard deviations. In float32 two digits are left.
FAR_TARGETS = 1e5
# Size of targets that steps of a first-order optimizer do not reach.
LARGE_TARGETS = 1e6
# Growth of a loss beyond noise and spikes: a smaller rate would do.
EXPLODED = 1e3
# Rows of targets that are looked at.
MOST_JUDGED_ROWS = 4096


def warn_of_fit(
    history: History, data: Data, network: Network, *, first_order: bool
) -> None:
    """Warn of targets that are far from 0 or large,
    of one-hot rows with "mse", and of a loss that exploded.

    First looks spare nearly all fits the rest: 4 us. Two rows of far targets are alike,
    and the first loss of large ones is large.
    """
    # Factors of targets may follow.
    loss = network.loss
    y = data.y[:, : network.targets.n_targets]
    if type(y) is np.ndarray and loss.link is None and loss.targets == "real":
        first = y[0]
        is_large = first_order and history.loss[0] > LARGE_TARGETS / 10
        if (
            is_large
            or (abs(first - y[len(y) // 2]) < 10 / FAR_TARGETS * abs(first)).any()
        ):
            _warn_of_size(y[:: -(-len(y) // MOST_JUDGED_ROWS)], first_order=first_order)
        if len(first) > 1 and loss.rule is mse and first.max() == 1:
            _warn_of_classes(y[:: -(-len(y) // MOST_JUDGED_ROWS)])
    _warn_of_explosion(history)


def _warn_of_size(y: NDArray[Any], *, first_order: bool) -> None:
    mean = y.mean(axis=0, dtype=np.float64)
    deviation = y.std(axis=0, dtype=np.float64)
    wrong = (np.abs(mean) > FAR_TARGETS * deviation) & (deviation > 0)
    if first_order:
        wrong |= np.hypot(mean, deviation) > LARGE_TARGETS
    if wrong.any():
        j = int(wrong.argmax())
        column = "y" if y.shape[1] == 1 else f"column {j} of y"
        warn(
            f"{column} has mean {mean[j]:.3g} and standard deviation "
            f"{deviation[j]:.3g}, which a net hardly learns: standardise it, (y - "
            "y.mean(axis=0)) / y.std(axis=0)",
            UserWarning,
        )


def _warn_of_classes(y: NDArray[Any]) -> None:
    """Warn of one-hot rows of which each class has one or more."""
    is_code = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
    if is_code and y.any(axis=0).all() and len(y) > y.shape[1]:
        warn(
            "rows of y are one-hot, and the loss is 'mse': classes have "
            "loss='cross_entropy', which predicts probabilities",
            UserWarning,
        )


def _warn_of_explosion(history: History) -> None:
    """Warn if the last loss is far above the first and above 1,
    unless a better epoch was restored.
    """
    first, last = history.loss[0], history.loss[-1]
    kept = history.best_epoch is None and history.status is not Status.DIVERGED
    if kept and last > EXPLODED * max(abs(first), 1.0):
        warn(
            f"the loss rose from {first:.3g} to {last:.3g}: try a smaller learning "
            "rate, or standardise X",
            RuntimeWarning,
        )
