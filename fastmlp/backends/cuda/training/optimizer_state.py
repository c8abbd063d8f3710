"""The optimizer's state of a net on the GPU: its slots, flat."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device.arrays import to_host
from fastmlp.backends.cuda.device.card import Card, card_of, require
from fastmlp.backends.cuda.plan.session import Session
from fastmlp.network.spec import Network
from fastmlp.network.state import N_SLOTS

Array = NDArray[Any]


class Moments:
    """The state of an optimizer on the GPU, which keeps it between fits; zeros at first.

    Attributes
    ----------
    network : Network
    card : Card
    n_slots : int
        2: m and v. 4: also the parameters that are trained, and those that the net shows, which are
        the optimizer's average.
    state : array on the GPU, shape (n_slots * n_parameters,), one slot after the other
    """

    network: Network
    card: Card
    n_slots: int
    state: Any

    def __init__(
        self, network: Network, index: int, flat: Array | None = None, n_slots: int = N_SLOTS
    ) -> None:
        require(index)
        self.network, self.card, self._lag = network, card_of(index), 0.0
        self.n_slots, n = n_slots if flat is None else len(flat), network.layout.n_parameters
        zeros = np.zeros(self.n_slots * n, network.dtype)
        host = zeros if flat is None else np.ascontiguousarray(flat)
        with self.card.current():
            self.state = self.card.copied(host.reshape(-1).astype(network.dtype, copy=False))

    def begin(self, parameters: Array, lag: float) -> bool:
        """Prepare to train with an average; see `PackedSlots`."""
        self._lag, host = lag, np.ascontiguousarray(parameters)
        with self.card.current():
            shown = self._slot(3)
            if to_host(shown).tobytes() == host.tobytes():
                return False
            shown.copy_to_device(host)
            self._slot(2).copy_to_device(host)
            if lag:
                self._slot(0).copy_to_device(np.zeros_like(host))
        return True

    def load(self, session: Session, parameters: Array | None, net: int = 0) -> None:
        """Copy the state to a net's memory, and the parameters that are trained.

        They are `parameters` of the host, without an average; None: they are there already.
        """
        n = self.network.layout.n_parameters
        if self.n_slots > N_SLOTS and parameters is not None:
            self.begin(parameters, self._lag)
        session.put("m", self.state[: N_SLOTS * n], net)
        if self.n_slots > N_SLOTS:
            session.put("parameters", self._slot(2), net)
            if not self._lag:
                session.put("average", self._slot(3), net)
        elif parameters is not None:
            session.put("parameters", np.ascontiguousarray(parameters), net)

    def store(self, session: Session, net: int = 0) -> Array:
        """Copy the state from a net's memory; return the parameters that the net shows."""
        n = self.network.layout.n_parameters
        self.state[: N_SLOTS * n].copy_to_device(session.get("m", N_SLOTS * n, net))
        trained = session.get("parameters", n, net)
        if self.n_slots == N_SLOTS:
            return np.ascontiguousarray(to_host(trained))
        self._slot(2).copy_to_device(trained)
        if self._lag:
            m, shown = to_host(session.get("m", n, net)), to_host(trained)
            with np.errstate(all="ignore"):
                shown = np.ascontiguousarray(shown - self._lag * m)
        else:
            shown = np.ascontiguousarray(to_host(session.get("average", n, net)))
        self._slot(3).copy_to_device(shown)
        return shown

    def flat(self) -> Array:
        """Return a copy in host memory, in the parameters' order, shape (n_slots, n_parameters)."""
        with self.card.current():
            return to_host(self.state).reshape(self.n_slots, -1).copy()

    def _slot(self, i: int) -> Any:
        n = self.network.layout.n_parameters
        return self.state[i * n : (i + 1) * n]

    def __reduce__(self) -> Any:
        return Moments, (self.network, self.card.index, self.flat())
