"""The spec of a net: layer sizes, rules and dtype, without parameters.

The types are those of what users give for them: names, and functions of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from fastmlp.network.parameter_layout import Layout
from fastmlp.network.precision import Computed
from fastmlp.rules.activations import ActivationName, ActivationRule
from fastmlp.rules.dropout import Dropout, Rate
from fastmlp.rules.groups import Factors
from fastmlp.rules.initializers import Initializer, InitializerName
from fastmlp.rules.links import Link, LinkName
from fastmlp.rules.loss_settings import BinaryFocal, Focal, Quantile, Tweedie
from fastmlp.rules.losses import Loss, LossName
from fastmlp.rules.optimizers import Optimizer, OptimizerName
from fastmlp.rules.penalties import PenaltyName, PenaltyRule

OfOneNumber = Callable[[Any], tuple[Any, Any]]
Activation = ActivationName | Literal["logistic"] | OfOneNumber
OutputActivation = Activation | LinkName
LossWithSettings = Quantile | Tweedie | Focal | BinaryFocal
LossLike = LossName | Loss | LossWithSettings | Callable[[Any, Any], tuple[Any, Any]]
Update = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]
OptimizerLike = OptimizerName | Optimizer | Update
Penalties = Mapping[PenaltyName | OfOneNumber, float]
DropoutLike = Rate | Sequence[Rate]
InitializerLike = InitializerName | Initializer
DTypeName = Literal["float32", "float64"]
# Of NumPy 1.26, np.float64 is no float to type checkers.
DType = DTypeName | type[float | np.float32 | np.float64] | np.dtype[np.floating[Any]]
Seed = int | np.integer[Any] | np.random.SeedSequence | np.random.Generator


class Rates(TypedDict, total=False):
    """Factors of the learning rate of a layer; a name that is not there has the factor 1."""

    weights: float
    biases: float


LayerRates = Sequence[float | Rates] | Rates


class Network(NamedTuple):
    """The spec of a multi-layer perceptron, from which backends make plans.

    Attributes
    ----------
    activations : one rule per layer, the output layer's last
    link : from raw outputs to predictions; the identity if the loss owns none
    penalties : pairs of a rule and its strength
    layer_rates : factors of the learning rate, one of each layer; empty: all are 1
    trainable : False for a frozen layer; empty: all are trained
    dropout : what training drops and adds, or None
    compute_dtype : "bfloat16" if training rounds the operands of wide layers' products; of which
        layers, if it is told; or None
    """

    layout: Layout
    activations: tuple[ActivationRule, ...]
    loss: Loss
    link: Link
    penalties: tuple[tuple[PenaltyRule, float], ...]
    dtype: np.dtype[Any]
    layer_rates: tuple[Factors, ...] = ()
    trainable: tuple[bool, ...] = ()
    dropout: Dropout | None = None
    compute_dtype: Computed = None

    @property
    def factors(self) -> tuple[Factors, ...]:
        """The factors of the learning rate of each layer; 0 for what is frozen."""
        return _factors(self.layer_rates, self.trainable, self.layout.n_layers)


@lru_cache(maxsize=256)
def _factors(
    layer_rates: tuple[Factors, ...], trainable: tuple[bool, ...], n: int
) -> tuple[Factors, ...]:
    pairs = zip(layer_rates or (Factors(),) * n, trainable or (True,) * n, strict=True)
    return tuple(its if trains else Factors(0.0, 0.0) for its, trains in pairs)
