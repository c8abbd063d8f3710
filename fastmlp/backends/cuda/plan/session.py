"""The plans of some nets, and the memory on the GPU that the plans describe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device.arrays import packed, upload
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

    def __init__(
        self, card: Card, networks: Sequence[Network], need: Need, *, shared: bool, who: str
    ) -> None:
        self.card, n_nets, dtype = card, len(networks), networks[0].dtype
        plan, layers, self.sizes = make_plan(networks[0], need)
        self.plans = np.repeat(plan, n_nets)
        n_memory = self.sizes.memory + (0 if shared else self.sizes.space)
        n_orders = max(1, need.n_orders * need.n_rows)
        numbers = n_memory * dtype.itemsize + 8 * (self.sizes.sums + n_orders)
        card.require_bytes(n_nets * numbers + self.plans.nbytes + layers.nbytes, who)
        with card.current():
            self.nets = Nets(
                card.copied(np.zeros((n_nets, n_memory), dtype)),
                card.copied(self._first_sums(networks)),
                card.copied(np.zeros(n_nets, dtype_of(NetProgress))),
                card.copied(self.plans),
                card.copied(layers),
                card.empty((n_nets, n_orders), np.int64),
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

    def send_orders(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """Copy the row orders to the GPU, one array a net."""
        table = packed(orders, np.int64)
        with self.card.current():
            self.reserve_orders(table.shape[1])
            width = self.nets.orders.shape[1] - table.shape[1]
            self.nets.orders.copy_to_device(np.pad(table, ((0, 0), (0, width))))

    def reserve_orders(self, n: int) -> None:
        """Make room for n numbers of each net's row orders."""
        if self.nets.orders.shape[1] < n:
            self.nets = self.nets._replace(orders=None)
            orders = self.card.empty((len(self.plans), n), np.int64)
            self.nets = self.nets._replace(orders=orders)

    def put_all(self, field: str, values: Array) -> None:
        """Copy a host array's row for each net to memory, at the offset in this field."""
        if len(values) == 1:
            self.put(field, values[0])
        else:
            upload(self.card, values, self.nets.memory, int(self.plans[field][0]))

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

    def set_progress(self, **fields: float) -> None:
        """Set fields of the progress of each net."""
        progress = self.progress()
        for name, value in fields.items():
            progress[name] = value
        self.nets.progress.copy_to_device(progress)


def bytes_of(network: Network, need: Need) -> int:
    """Return the GPU memory of one net in bytes, without the row orders."""
    sizes = make_plan(network, need).sizes
    return (sizes.memory + sizes.space) * network.dtype.itemsize + 8 * sizes.sums
