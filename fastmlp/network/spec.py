"""A net without its parameters: sizes and rules, names already resolved."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.network.parameter_layout import Layout
from fastmlp.rules.activations import ActivationRule
from fastmlp.rules.links import Link
from fastmlp.rules.losses import Loss
from fastmlp.rules.penalties import PenaltyRule


class Network(NamedTuple):
    """A multi-layer perceptron as a backend needs to know it.

    Attributes
    ----------
    activations : one rule per layer, the output layer's last
    link : from raw outputs to predictions; where the loss has none, that of identity
    penalties : pairs of a rule and its strength
    """

    layout: Layout
    activations: tuple[ActivationRule, ...]
    loss: Loss
    link: Link
    penalties: tuple[tuple[PenaltyRule, float], ...]
    dtype: np.dtype[Any]
