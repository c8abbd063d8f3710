"""The training of one net on the GPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import NetLock, publish
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import host_bytes, to_device, to_host
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.launch import launch_steps
from fastmlp.backends.cuda.plan.design import Design, Kind, design_for, rules_of, training_need
from fastmlp.backends.cuda.plan.session import Session
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]
# The steps of one launch, at most; memory has their coefficients, sums their losses.
MOST_STEPS = 1 << 14


class Trainer:
    """The training of one net on the GPU, many steps a launch; a unit is a step.

    Parameters
    ----------
    parameters : flat, on the host; `load` reads them, `store` writes them
    kind : optional
        The kind of a `design.Design`; None: chosen by net and batch.
    stepping : bool
        True: a single batch a time, as of a user's own loop.
    summed : bool
        True: steps are of the sum of the rows' losses, which is linear in y, not of their mean.

    Attributes
    ----------
    design : Design
    units_per_epoch : int
    unit_flops : int
    """

    design: Design
    units_per_epoch: int
    unit_flops: int

    def __init__(
        self,
        card: Card,
        network: Network,
        lock: NetLock,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        *,
        kind: Kind | None = None,
        stepping: bool = False,
        summed: bool = False,
    ) -> None:
        self._summed = summed
        self._card, self._lock = card, lock
        self._parameters, self._moments = parameters, moments
        self._n_rows = data.n_rows
        self._batch = batch = min(batch_size, self._n_rows)
        self._rules = rules_of(network, optimizer)
        self.design = design = design_for(network, batch, card, kind)
        self.units_per_epoch = -(-self._n_rows // batch)
        self.unit_flops = 6 * network.layout.n_weights * batch
        sizes = (batch, self._n_rows, len(data.weight), MOST_STEPS)
        need = training_need(design, network, optimizer, *sizes)
        card.require_bytes(host_bytes(data), "MLP.fit")
        shared = need.block and design.block.shared
        self._session = session = Session(card, [network], need, shared=shared, who="MLP.fit")
        self._send(data)
        self._losses = int(session.plans["losses"][0])
        self._order: Any = None
        self.load()

    def take(self, data: Data) -> None:
        """Train on these rows from the next window on: as wide as those before, and not more."""
        self._n_rows, self._order = data.n_rows, None
        self.units_per_epoch = -(-self._n_rows // self._batch)
        self._session.set(n_rows=self._n_rows)
        self._send(data)

    def resume(self, moments: Moments, data: Data) -> None:
        """Go on from the parameters, and with the optimizer's state, as they are now."""
        self._moments = moments
        self.take(data)
        self.load()

    def pause(self) -> None:
        """Let go of the rows, until `resume`."""
        self._rows = Samples(None, None)

    def _send(self, data: Data) -> None:
        """Copy the rows to the GPU."""
        with self._card.current():
            y = (
                to_host(data.y) * self._parameters.dtype.type(data.n_rows)
                if self._summed
                else data.y
            )
            self._rows = Samples(to_device(self._card, data.x), to_device(self._card, y))
            if data.weight.size:
                self._session.put("weights", np.ascontiguousarray(data.weight))

    def load(self) -> None:
        """Copy the parameters to the GPU, and the optimizer's state."""
        with self._card.current():
            self._moments.load(self._session, self._parameters)

    def store(self) -> None:
        """Copy the parameters to the host, and the optimizer's state to `moments`."""
        with self._card.current():
            values = self._moments.store(self._session)
        with self._lock.parameters:
            publish(values, self._parameters)

    def end(self) -> None:
        """End the training; the GPU's memory is freed with this object."""

    @property
    def n_bytes(self) -> int:
        """The bytes of its numbers on the GPU."""
        return self._session.n_bytes

    def begin(self) -> None:
        """Begin a window of epochs: `reached` is 0."""
        with self._card.current():
            self._session.set_progress(reached=0, diverged=0, non_finite=0)

    @property
    def reached(self) -> int:
        """The unit of the window that the launches have reached, interrupted or not."""
        with self._card.current():
            return int(self._session.progress()["reached"][0])

    @property
    def diverged(self) -> bool:
        """True if the last call met a number that is not finite."""
        with self._card.current():
            return bool(self._session.progress()["diverged"][0])

    def step_of(self, unit: int) -> int:
        """Return the number of steps of a window that are complete before this unit."""
        return unit

    def run(
        self, order: NDArray[np.int64], coefficients: Rates, losses: Array, first: int, last: int
    ) -> int:
        """Do the units first to last of a window of epochs; return the unit where it stopped.

        Parameters
        ----------
        order : int64, shape (n_epochs or 1, n_rows)
        coefficients : shape (n_steps, n_coefficients), of the steps of this call
        losses : float64, shape (n_epochs,), receives each epoch's mean objective
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
        """Copy the order to the GPU, once per window: the calls of a window pass the same array."""
        if order is self._order:
            return
        self._session.set(n_orders=len(order))
        self._session.send_orders([order])
        self._order = order

    def _launch(self, constants: Array, first: int, last: int) -> None:
        session = self._session
        session.put("coefficients", np.ascontiguousarray(constants).reshape(-1))
        # The losses begin with the epoch of the first step.
        session.set(first=first, last=last, losses=self._losses - first // self.units_per_epoch)
        session.send_plans()
        launch_steps(self.design, self._rules, session, self._rows, first, last)
        synchronize()

    def _fetch(self, losses: Array, first: int, last: int, reached: int) -> None:
        """Copy the losses of the epochs that have ended, or diverged."""
        per_epoch = self.units_per_epoch
        low = first // per_epoch
        high = reached // per_epoch if reached == last else reached // per_epoch + 1
        if high > low:
            start = self._losses
            losses[low:high] = self._session.nets.sums[0, start : start + high - low].copy_to_host()
