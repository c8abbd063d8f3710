"""Errors of predictions, row by row: metrics are their means."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def squared_errors(y: Array, predictions: Array) -> Array:
    """The squared error of each row, shape (n_rows,)."""
    errors: Array = (y - predictions) ** 2
    return errors


def absolute_errors(y: Array, predictions: Array) -> Array:
    """The absolute error of each row, shape (n_rows,)."""
    return np.abs(y - predictions)


def hits(codes: Array, probabilities: Array) -> Array:
    """True where the most probable class is the row's, shape (n_rows,)."""
    right: Array = probabilities.argmax(axis=1) == codes
    return right


def of_classes(codes: Array, probabilities: Array) -> Array:
    """The probability of each row's own class, shape (n_rows,)."""
    return probabilities[np.arange(len(codes)), codes]


def log_losses(own: Array, least: float) -> Array:
    """Minus the logarithm of the probabilities of the rows' own classes, of at least `least`."""
    return -np.log(np.clip(own, least, 1))
