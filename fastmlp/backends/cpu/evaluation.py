"""Loss and gradient of rows as functions of the parameters; plan and buffers are made once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import epoch, rule_blocks, step
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.jacobian import DeltaBlocks
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.tuning import SUMMED_ROWS
from fastmlp.backends.protocol import Data
from fastmlp.rules.loss_settings import unsmoothed
from fastmlp.rules.losses import LINKS

Array = NDArray[Any]


class Evaluation:
    """The weighted mean loss over rows, without penalties, and their predictions if asked for."""

    def __init__(self, runner: Runner, data: Data) -> None:
        loss = unsmoothed(runner.network.loss)
        network = runner.network._replace(loss=loss, compute_dtype=None)
        blocks = Addresses(
            *rule_blocks.activations(network),
            loss=rule_blocks.loss(network),
            link=rule_blocks.link(network),
        )
        self._runner, self._mass = runner, data.mass
        self._session = Session(network, blocks, data, n_threads=runner.n_threads)
        self._work = runner.work(self._session.rows, forward=2)

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        session, total = self._session, 0.0
        self._runner.load(session, parameters)
        for rows in session.chunks():
            session.at(rows)
            if out is not None:
                session.batch["out"] = address(out, rows.start * out.shape[1])
            total += self._runner.run(epoch.evaluate, session, self._work)["loss"]
        return float(total / self._mass)


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient.

    Attributes
    ----------
    packed : the packed gradient

    Parameters
    ----------
    summed : True: losses are summed, and the objective may be differentiated by the inputs
    room : the most rows of `take`, optional; each number of rows has the bits of a new objective
    """

    def __init__(
        self, runner: Runner, data: Data, *, summed: bool = False, room: int | None = None
    ) -> None:
        network = runner.network._replace(compute_dtype=None)
        blocks = Addresses(
            *rule_blocks.activations(network),
            loss=rule_blocks.loss(network),
            penalties=rule_blocks.penalties(network),
        )
        self._runner, self._summed, self._roomy = runner, summed, room is not None
        # The deltas of microbatches are not kept.
        most = room or data.n_rows
        rows = min(most, SUMMED_ROWS) if summed else None
        options: Any = {"train": True, "roomy": self._roomy, "n_threads": runner.n_threads}
        session = Session(network, blocks, data, most, rows=rows, **options)
        self.session, self.packed = session, session.keep_gradient()
        self.network = network._replace(link=LINKS["identity"])
        self._back: DeltaBlocks | None = None
        self.take(data)

    def take(self, data: Data) -> None:
        """Take other dense rows, as many as before, or at most `room`."""
        session, n_rows = self.session, data.n_rows
        session.take(data)
        self._mass = 1.0 if self._summed else data.mass
        if self._roomy:
            summed = Partition(min(n_rows, SUMMED_ROWS)) if self._summed else None
            session.divide(summed or self._runner.partition(n_rows))
        small = session.partition.microbatch_rows > 0
        self._work = self._runner.work(session.rows, forward=4, tiles=2, by_microbatches=small)

    @property
    def n_bytes(self) -> int:
        return self.session.n_bytes

    def __call__(
        self, parameters: Array, inputs: Array | None = None, *, by_parameters: bool = True
    ) -> tuple[float, Array]:
        """Return the objective and its flat gradient; write the gradient by the inputs to
        `inputs`. Without `by_parameters` the flat gradient has no meaning."""
        session, total = self.session, 0.0
        session.job["deltas_alone"] = not by_parameters
        self._runner.load(session, parameters)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == session.data.n_rows}
            job = self._runner.run(step.objective, session, self._work, mass=self._mass, **where)
            total += job["loss"]
            if inputs is not None:
                deltas = np.ascontiguousarray(session.first_deltas(rows))
                self._back = self._back or DeltaBlocks(self._runner, self.network)
                self._back(parameters, deltas, inputs[rows])
        gradient = np.empty_like(parameters)
        if by_parameters:
            session.unpack(self.packed, gradient)
        return float(total), gradient
