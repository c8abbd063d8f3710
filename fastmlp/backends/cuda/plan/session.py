"""The plans of some nets, and the memory on the GPU that the plans describe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.memory import readable
from fastmlp.backends.cuda.device.arrays import packed, upload
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.plan import plan as places
from fastmlp.backends.cuda.plan.plan import LAST_CHUNK, ORDERS, STRENGTHS, Need, Sizes, make_plan
from fastmlp.network.spec import Network

Array = NDArray[Any]


class Session:
    """The memory of nets with the same layers, one plan for each net.

    Attributes
    ----------
    plans : int64, shape (n_nets, head), on the host, without the row orders
    memory, sums, device_plans : on the GPU, a row for each net
    sizes : Sizes
    """

    head: int
    plans: NDArray[np.int64]
    memory: Any
    sums: Any
    device_plans: Any

    def __init__(
        self, card: Card, networks: Sequence[Network], need: Need, *, shared: bool, who: str
    ) -> None:
        self.card = card
        made = [make_plan(network, need) for network in networks]
        self.sizes: Sizes = made[0][1]
        plans = np.stack([plan for plan, _ in made])
        plans[:, LAST_CHUNK] = 1
        self.head = int(plans[0, ORDERS])
        self.plans = plans[:, : self.head].copy()
        dtype = networks[0].dtype
        n_memory = self.sizes.memory + (0 if shared else self.sizes.space)
        n_nets = len(networks)
        other_bytes = plans.nbytes + 8 * n_nets * self.sizes.sums
        require(card, n_nets * n_memory * dtype.itemsize + other_bytes, who)
        with card.current():
            self.memory = card.copied(np.zeros((n_nets, n_memory), dtype))
            self.sums = card.copied(self._first_sums(networks))
            self.device_plans = card.copied(plans)

    def _first_sums(self, networks: Sequence[Network]) -> Array:
        sums = np.zeros((len(networks), self.sizes.sums))
        for net, network in enumerate(networks):
            start = int(self.plans[net, STRENGTHS])
            strengths = [strength for _, strength in network.penalties]
            sums[net, start : start + len(strengths)] = strengths
        return sums

    def set(self, net: int = 0, **words: int) -> None:
        """Set words of a plan on the host, by the names of their indices."""
        for name, value in words.items():
            self.plans[net, int(getattr(places, name))] = value

    def send_heads(self) -> None:
        """Copy the plans to the GPU, without the row orders."""
        self._send(self.plans, self.device_plans, 0)

    def send_orders(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """Copy the plans to the GPU, with the row orders, one array a net, behind the heads."""
        behind = packed(orders, np.int64)
        with self.card.current():
            self.reserve_orders(behind.shape[1])
            whole = np.zeros(self.device_plans.shape, np.int64)
            whole[:, : self.head], whole[:, self.head :][:, : behind.shape[1]] = self.plans, behind
            self.device_plans.copy_to_device(whole)

    def reserve_orders(self, n: int) -> None:
        """Make room for n numbers behind the head of each plan."""
        if self.device_plans.shape[1] < self.head + n:
            self.device_plans = None
            self.device_plans = self.card.empty((len(self.plans), self.head + n), np.int64)

    def put_all(self, place: int, values: Array) -> None:
        """Copy a host array's row for each net to memory, at the offset in ``plans[:, place]``."""
        self._send(values, self.memory, int(self.plans[0, place]))

    def set_sums(self, place: int, value: float) -> None:
        """Set one of the sums of each net."""
        self._send(np.full((len(self.plans), 1), value), self.sums, place)

    def _send(self, values: Array, target: Any, start: int) -> None:
        if len(values) == 1:
            target[0, start : start + values.shape[1]].copy_to_device(values[0])
        else:
            upload(self.card, values, target, start)

    def put(self, place: int, values: Any, net: int = 0) -> None:
        """Copy flat values, from host or GPU, to a net's memory, at the offset in its plan."""
        start = int(self.plans[net, place])
        target = self.memory[net, start : start + len(values)]
        target.copy_to_device(values)

    def get(self, place: int, n: int, net: int = 0) -> Any:
        """Return a view, on the GPU, of n numbers of memory from the offset in the plan on."""
        start = int(self.plans[net, place])
        return self.memory[net, start : start + n]

    def sum_at(self, place: int, net: int = 0) -> float:
        """Return one of the sums, after all launches have ended."""
        return float(self.sums[net, place : place + 1].copy_to_host()[0])

    def set_sum(self, place: int, value: float, net: int = 0) -> None:
        """Set one of the sums of a net."""
        self.sums[net, place : place + 1].copy_to_device(np.array([value]))


def bytes_of(network: Network, need: Need) -> int:
    """Return the GPU memory of one net in bytes, without the row orders."""
    sizes = make_plan(network, need)[1]
    return (sizes.memory + sizes.space) * network.dtype.itemsize + 8 * sizes.sums


def require(card: Card, n_bytes: int, who: str) -> None:
    """Check that so many bytes are free on the GPU.

    Raises
    ------
    MemoryError
        If not; the message states the bytes needed and the bytes free.
    """
    free = card.free_bytes()
    if n_bytes > free:
        card.reclaim()
        free = card.free_bytes()
    if n_bytes > free:
        raise MemoryError(
            f"{who}: this takes {readable(n_bytes)} of the memory of cuda:{card.index}, where "
            f"{readable(free)} are free; use a smaller batch_size or fewer rows, or free some there"
        )
