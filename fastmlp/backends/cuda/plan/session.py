"""The plans of some nets, and the memory on the GPU that the plans describe."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.plan.plan import Need, NetProgress, Nets, Sizes, dtype_of, make_plan
from fastmlp.network.spec import Network

Array = NDArray[Any]


class Session:
    """The memory of nets with the same layers, one plan for each net.

    Attributes
    ----------
    plans : `Plan`, shape (n_nets,), on the host
    nets : the arrays on the GPU
    sizes : Sizes
    """

    plans: NDArray[Any]
    nets: Nets
    sizes: Sizes

    def __init__(self, card: Card, networks: Sequence[Network], need: Need, *, who: str) -> None:
        self.card, n_nets, dtype = card, len(networks), networks[0].dtype
        plan, layers, self.sizes = make_plan(networks[0], need)
        self.plans = np.repeat(plan, n_nets)
        numbers = bytes_of(networks[0], need) + 8 * need.n_rows
        card.require_bytes(n_nets * numbers + self.plans.nbytes + layers.nbytes, who)
        with card.current():
            self.nets = Nets(
                card.copied(np.zeros((n_nets, self.sizes.memory), dtype)),
                card.copied(self._first_sums(networks)),
                card.copied(np.zeros(n_nets, dtype_of(NetProgress))),
                card.copied(self.plans),
                card.copied(layers),
                card.empty((n_nets, need.n_rows), np.int64),
            )

    def _first_sums(self, networks: Sequence[Network]) -> Array:
        sums, start = np.zeros((len(networks), self.sizes.sums)), int(self.plans["strengths"][0])
        for net, network in enumerate(networks):
            strengths = [strength for _, strength in network.penalties]
            sums[net, start : start + len(strengths)] = strengths
        return sums

    def set(self, net: int = 0, **fields: int) -> None:
        """Set fields of a plan on the host."""
        for name, value in fields.items():
            self.plans[name][net] = value

    def send_plans(self) -> None:
        """Copy the plans to the GPU."""
        self.nets.plans.copy_to_device(self.plans)

    def send_orders(self, orders: Mapping[int, NDArray[np.int64]], changed: Iterable[int]) -> None:
        """Copy the row orders of nets, by their numbers, to the GPU; all where they need more room
        there than before."""
        n = max(order.size for order in orders.values())
        if self.nets.orders.shape[1] < n:
            self.nets, changed = self.nets._replace(orders=None), [*orders]
            table = self.card.empty((len(self.plans), n), np.int64)
            self.nets = self.nets._replace(orders=table)
        for net in changed:
            flat = np.ascontiguousarray(orders[net]).reshape(-1)
            self.nets.orders[net, : flat.size].copy_to_device(flat)

    def put(self, field: str, values: Any, net: int = 0) -> None:
        """Copy flat values, from host or GPU, to a net's memory, at the offset in this field."""
        self.get(field, len(values), net).copy_to_device(values)

    def get(self, field: str, n: int, net: int = 0) -> Any:
        """Return a view, on the GPU, of n numbers of memory from the offset in this field on."""
        start = int(self.plans[field][net])
        return self.nets.memory[net, start : start + n]

    @property
    def n_bytes(self) -> int:
        """The bytes of the nets' numbers on the GPU."""
        return int(self.nets.memory.size * self.nets.memory.dtype.itemsize)

    def progress(self) -> Any:
        """Return a copy of each net's `NetProgress`, after all launches have ended."""
        return self.nets.progress.copy_to_host()

    def set_progress(self, net: int = 0, **fields: float) -> None:
        """Set fields of a net's progress."""
        progress = self.progress()
        for name, value in fields.items():
            progress[name][net] = value
        self.nets.progress.copy_to_device(progress)


def bytes_of(network: Network, need: Need) -> int:
    """Return the GPU memory of one net in bytes, without the row orders."""
    sizes = make_plan(network, need).sizes
    return sizes.memory * network.dtype.itemsize + 8 * sizes.sums
