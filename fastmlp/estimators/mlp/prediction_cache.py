"""Buffers and predictors that one prediction of an estimator leaves to the next."""

from typing import Any, NamedTuple, final

from fastmlp._process.buffer_pool import FreeList
from fastmlp.backends.protocol import Predictor
from fastmlp.network.state import NetState


class Quick(NamedTuple):
    """The predictor of the last small batch, with the net and settings that it is valid for."""

    state: NetState
    predictor: Predictor
    activation: Any
    out_activation: str


@final
class PredictionCache:
    """A mutable cache: `predict` must not change the attributes of an estimator.

    Attributes
    ----------
    buffers : FreeList of buffers for predictions of many rows
    quick : Quick, or None before the first small batch
    """

    buffers: FreeList
    quick: Quick | None

    def __init__(self) -> None:
        self.buffers = FreeList()
        self.quick = None
