"""Checks of everything that comes from outside, before anything is compiled.

Errors say who, what was expected, what was got and what is known.
"""

from fastmlp.validation.arrays import (
    features,
    out_array,
    row_index,
    targets,
    vector,
    warn_if_not_finite,
    weights,
)
from fastmlp.validation.fits import callbacks, checkpoint, rates, validation_pair

__all__ = [
    "callbacks",
    "checkpoint",
    "features",
    "out_array",
    "rates",
    "row_index",
    "targets",
    "validation_pair",
    "vector",
    "warn_if_not_finite",
    "weights",
]
