"""The trainer of one net on the device."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import Guard, publish
from fastmlp.backends.cuda import adapter, arrays
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.arrays import Rows
from fastmlp.backends.cuda.design import design_for
from fastmlp.backends.cuda.launch import launch
from fastmlp.backends.cuda.moments import DeviceMoments
from fastmlp.backends.cuda.orders import orders_of
from fastmlp.backends.cuda.plan import (
    COEFFICIENTS,
    DIVERGED,
    LOSSES,
    PARAMETERS,
    REACHED,
    WEIGHTS,
    M,
    Need,
)
from fastmlp.backends.cuda.rules import rules_of
from fastmlp.backends.cuda.session import Session, require
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]
# The most steps of a launch: the room for their coefficients and losses.
MOST_STEPS = 1 << 14


class Trainer:
    """Runs training steps on the device, many in a launch; a unit is a step.

    Parameters
    ----------
    parameters : flat, on the host; `load` reads them, `store` writes them
    kind : str, optional
        The design, see `design.Design`; None: chosen by net and batch.

    Attributes
    ----------
    units_per_epoch : int
    unit_flops : int
    """

    def __init__(
        self,
        card: Card,
        network: Network,
        guard: Guard,
        parameters: Array,
        moments: DeviceMoments,
        optimizer: Optimizer,
        data: Rows,
        batch_size: int,
        *,
        kind: str | None = None,
    ) -> None:
        self._card, self._guard = card, guard
        self._parameters, self._moments = parameters, moments
        self._rows, self._n_rows = data.rows, data.n_rows
        self._batch = min(batch_size, self._n_rows)
        self._rules = rules_of(network, optimizer)
        self.design = design = design_for(network, self._batch, card, kind)
        self.units_per_epoch = -(-self._n_rows // self._batch)
        self.unit_flops = 6 * network.layout.n_weights * self._batch
        small = design.kind == "small"
        shape = design.wide.weights
        need = Need(
            self._batch,
            self._n_rows,
            n_weights=len(data.weight),
            n_coefficients=self._rules.n_coefficients,
            n_steps=MOST_STEPS,
            n_epochs=MOST_STEPS + 1,
            n_orders=1,
            train=True,
            block=small,
            n_parts=_n_parts(network, design.small.threads if small else 1 << 13),
            tile=(shape.tile_rows, shape.tile_columns),
        )
        who = "MLP.fit"
        require(card, _bytes_to_move(data), who)
        self._session = session = Session(
            card, [network], need, shared=small and design.small.shared, who=who
        )
        with card.current():
            self._x, self._y = arrays.to_device(card, data.x), arrays.to_device(card, data.y)
            if data.weight.size:
                session.put(WEIGHTS, np.ascontiguousarray(data.weight))
        self._losses = int(session.plans[0, LOSSES])
        self._order: Any = None
        self._reached = 0
        self.load()
        self._load_moments()

    def orders(self, words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return an order of the rows for each row of random words, shape (n_orders, n_rows): those
        of the CPU."""
        orders = orders_of(words)
        return orders if self._rows is None else self._rows[orders]

    def reshuffled(
        self, random: np.random.RandomState, order: NDArray[np.int64], n_orders: int
    ) -> NDArray[np.int64]:
        """Return orders, each the one before it as ``random.shuffle`` would leave it."""
        orders = np.empty((n_orders, len(order)), np.int64)
        for each in orders:
            each[:] = order
            random.shuffle(each)
            order = each
        return orders

    def plain_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the data, shape (1, n_rows)."""
        rows = self._rows
        return (np.arange(self._n_rows, dtype=np.int64) if rows is None else rows)[None]

    def load(self) -> None:
        """Copy the parameters to the device."""
        with self._card.current():
            self._session.put(PARAMETERS, np.ascontiguousarray(self._parameters))

    def _load_moments(self) -> None:
        with self._card.current():
            self._session.put(M, self._moments.state)

    def store(self) -> None:
        """Copy the parameters and the optimizer's state from the device."""
        n = len(self._parameters)
        with self._card.current():
            values = np.ascontiguousarray(arrays.to_host(self._session.get(PARAMETERS, n)))
            self._moments.state.copy_to_device(self._session.get(M, 2 * n))
        with self._guard.whole:
            publish(values, self._parameters)

    def end(self) -> None:
        """Do nothing: the memory on the device is freed with this object."""

    def begin(self) -> None:
        """Begin a window of epochs: `reached` is 0."""
        with self._card.current():
            self._session.set_sum(REACHED, 0.0)

    @property
    def reached(self) -> int:
        """The unit of the window that the launches have reached, interrupted or not."""
        with self._card.current():
            return int(self._session.sum_at(REACHED))

    @property
    def diverged(self) -> bool:
        """True if the last call met a number that is not finite."""
        with self._card.current():
            return bool(self._session.sum_at(DIVERGED))

    def step_of(self, unit: int) -> int:
        """Return how many steps of a window are complete before this unit."""
        return unit

    def run(
        self, order: NDArray[np.int64], coefficients: Rates, losses: Array, first: int, last: int
    ) -> int:
        """Do units first to last of a window of epochs; return where it stopped.

        Takes what the trainer of the CPU takes.
        """
        constants = np.ascontiguousarray(coefficients, self._parameters.dtype)
        with self._card.current():
            self._send_order(order)
            for start in range(first, last, MOST_STEPS):
                task_pool.check()
                stop = min(start + MOST_STEPS, last)
                self._launch(constants[start - first : stop - first], start, stop)
                reached = self.reached
                self._fetch(losses, start, stop, reached)
                if reached < stop:
                    return reached
        return last

    def _send_order(self, order: NDArray[np.int64]) -> None:
        """Once for a window, whose calls are all given the same array."""
        if order is self._order:
            return
        self._session.set(N_ORDERS=len(order))
        self._session.send_orders([order])
        self._order = order

    def _launch(self, constants: Array, first: int, last: int) -> None:
        session = self._session
        session.put(COEFFICIENTS, np.ascontiguousarray(constants).reshape(-1))
        # Losses of epochs from this call's first on.
        session.set(FIRST=first, LAST=last, LOSSES=self._losses - first // self.units_per_epoch)
        session.send_heads()
        launch(self.design, self._rules, session, self._x, self._y, first, last)
        adapter.synchronize()

    def _fetch(self, losses: Array, first: int, last: int, reached: int) -> None:
        """Copy the losses of the epochs that have ended, or diverged."""
        per_epoch = self.units_per_epoch
        low = first // per_epoch
        high = reached // per_epoch if reached == last else reached // per_epoch + 1
        if high > low:
            start = self._losses
            told = self._session.sums[0, start : start + high - low].copy_to_host()
            losses[low:high] = told


def _n_parts(network: Network, n: int) -> int:
    return n if network.penalties else 0


def _bytes_to_move(data: Rows) -> int:
    return sum(a.nbytes for a in (data.x, data.y) if isinstance(a, np.ndarray))
