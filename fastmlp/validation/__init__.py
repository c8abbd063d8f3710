"""Checks of everything that comes from outside, before anything is compiled.

Errors say who, what was expected, what was got and what is known.
"""

from fastmlp.validation.arrays import features, out_array, row_index, targets, vector, weights
from fastmlp.validation.fits import callbacks, checkpoint, rates, validation_pair
from fastmlp.validation.settings import (
    activation,
    device,
    dtype,
    generator,
    hidden_activations,
    initial_weights,
    initializer,
    layer_sizes,
    loss,
    optimizer,
    output_activation,
    own_rules,
    penalty_terms,
    room_for_parameters,
)

__all__ = [
    "activation",
    "callbacks",
    "checkpoint",
    "device",
    "dtype",
    "features",
    "generator",
    "hidden_activations",
    "initial_weights",
    "initializer",
    "layer_sizes",
    "loss",
    "optimizer",
    "out_array",
    "output_activation",
    "own_rules",
    "penalty_terms",
    "rates",
    "room_for_parameters",
    "row_index",
    "targets",
    "validation_pair",
    "vector",
    "weights",
]
