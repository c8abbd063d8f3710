"""The optimizer's state of a net on the device: two slots a parameter, flat."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda import adapter, arrays
from fastmlp.network.spec import Network

Array = NDArray[Any]


class DeviceMoments:
    """An optimizer's state, kept on the device between fits; it starts at zeros.

    Attributes
    ----------
    network : Network
    card : Card
    state : array on the device, shape (2 * n_parameters,), m before v
    """

    def __init__(self, network: Network, index: int, flat: Array | None = None) -> None:
        adapter.require(index)
        self.network, self.card = network, adapter.card_of(index)
        n = network.layout.n_parameters
        host = np.zeros(2 * n, network.dtype) if flat is None else np.ascontiguousarray(flat)
        with self.card.current():
            self.state = self.card.copied(host.reshape(-1).astype(network.dtype, copy=False))

    def flat(self) -> Array:
        """Return a copy on the host, in the order of the parameters, shape (2, n_parameters)."""
        with self.card.current():
            return arrays.to_host(self.state).reshape(2, -1).copy()

    def __reduce__(self) -> Any:
        return DeviceMoments, (self.network, self.card.index, self.flat())
