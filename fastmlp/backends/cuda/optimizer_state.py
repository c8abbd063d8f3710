"""The optimizer's state of a net on the GPU: two numbers a parameter, flat."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.card import Card, card_of
from fastmlp.backends.cuda.device_arrays import to_host
from fastmlp.network.spec import Network

Array = NDArray[Any]


class Moments:
    """The state of an optimizer on the GPU, which keeps it between fits; zeros at first.

    Attributes
    ----------
    network : Network
    card : Card
    state : array on the GPU, shape (2 * n_parameters,), m before v
    """

    network: Network
    card: Card
    state: Any

    def __init__(self, network: Network, index: int, flat: Array | None = None) -> None:
        adapter.require(index)
        self.network, self.card = network, card_of(index)
        n = network.layout.n_parameters
        host = np.zeros(2 * n, network.dtype) if flat is None else np.ascontiguousarray(flat)
        with self.card.current():
            self.state = self.card.copied(host.reshape(-1).astype(network.dtype, copy=False))

    def flat(self) -> Array:
        """Return a copy in host memory, in the parameters' order, shape (2, n_parameters)."""
        with self.card.current():
            return to_host(self.state).reshape(2, -1).copy()

    def begin(self, parameters: Array, lag: float) -> bool:
        """Nothing: no average is trained here."""
        return False

    def __reduce__(self) -> Any:
        return Moments, (self.network, self.card.index, self.flat())
