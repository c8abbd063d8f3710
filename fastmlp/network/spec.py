"""The spec of a net: layer sizes, rules and dtype, without parameters."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.network.parameter_layout import Layout
from fastmlp.rules.activations import ActivationRule
from fastmlp.rules.links import Link
from fastmlp.rules.losses import Loss
from fastmlp.rules.penalties import PenaltyRule


class Network(NamedTuple):
    """The spec of a multi-layer perceptron, from which backends make plans.

    Attributes
    ----------
    activations : one rule per layer, the output layer's last
    link : from raw outputs to predictions; the identity if the loss owns none
    penalties : pairs of a rule and its strength
    """

    layout: Layout
    activations: tuple[ActivationRule, ...]
    loss: Loss
    link: Link
    penalties: tuple[tuple[PenaltyRule, float], ...]
    dtype: np.dtype[Any]
