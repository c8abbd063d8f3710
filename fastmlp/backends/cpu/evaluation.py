"""Predictions, loss and gradient of rows as functions of the parameters.

Each object makes its plan and its buffers once, for any number of calls.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import epoch, rule_blocks, step
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.tuning import PREDICT_FLOPS, ROW_BLOCK, SUMMED_ROWS
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Network, weight_views
from fastmlp.rules.loss_settings import unsmoothed
from fastmlp.validation.expanded import Expanded

Array = NDArray[Any]


class Prediction:
    """The predictions of a network for rows, dense, sparse or expanded, by packed panels.

    Products are those of the network's `compute_dtype`.

    Parameters
    ----------
    like : SparseRows or Expanded, optional
        Some rows, if all rows are to be of their kind.

    Attributes
    ----------
    size : int, the numbers of the packed parameters, and of weights in pairs; sparse rows read the
        first layer unpacked
    """

    size: int

    def __init__(
        self, runner: Runner, network: Network, like: SparseRows | Expanded | None = None
    ) -> None:
        blocks = Addresses(*rule_blocks.activations(network), link=rule_blocks.link(network))
        nothing = np.empty((0, network.layout.sizes[0]), network.dtype)
        self._no_rows = Data(nothing, np.empty((0, 0), network.dtype), nothing.ravel())
        data = self._no_rows if like is None else self._no_rows._replace(x=like)
        self._runner = runner
        self._session = Session(
            network, blocks, data, rows=runner.n_threads * ROW_BLOCK, n_threads=runner.n_threads
        )
        workspace = self._session.workspace
        self.size = len(workspace.parameters) + len(workspace.copies)
        self._most = max(1, PREDICT_FLOPS // (2 * network.layout.n_weights))

    def __call__(self, parameters: Array, x: Array | SparseRows | Expanded, out: Array) -> None:
        """Write the predictions for x at these parameters to `out`, shape (n_rows, n_outputs)."""
        runner, session, n_rows = self._runner, self._session, len(out)
        runner.load(session, parameters)
        session.take(self._no_rows._replace(x=x))
        work, batch = runner.work(min(n_rows, self._most), forward=2), session.batch
        for first in range(0, n_rows, self._most):
            session.at(slice(first, min(first + self._most, n_rows)))
            batch["index"], batch["out"] = 0, address(out, first * out.shape[1])
            runner.run(epoch.predict, session, work)
        # A free list keeps the buffers, not the rows.
        session.data = self._no_rows


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
        """Return the loss at these parameters; write the predictions to `out`, if given."""
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

    Parameters
    ----------
    summed : bool
        True: the objective has the sum of the rows' losses in place of their mean, and may be
        differentiated by the inputs.
    """

    def __init__(self, runner: Runner, data: Data, *, summed: bool = False) -> None:
        network = runner.network._replace(compute_dtype=None)
        blocks = Addresses(
            *rule_blocks.activations(network),
            loss=rule_blocks.loss(network),
            penalties=rule_blocks.penalties(network),
        )
        self._runner, self._summed, self._mass = runner, summed, 1.0 if summed else data.mass
        # The deltas of microbatches are not kept.
        rows = min(data.n_rows, SUMMED_ROWS) if summed else None
        self._session = session = Session(
            network, blocks, data, rows=rows, train=True, n_threads=runner.n_threads
        )
        self._packed = session.keep_gradient()
        small = session.partition.microbatch_rows > 0
        self._work = runner.work(session.rows, forward=4, tiles=2, by_microbatches=small)

    def take(self, data: Data) -> None:
        """Be that of these rows from now on, dense ones, and as many as those before."""
        self._session.take(data)
        self._mass = 1.0 if self._summed else data.mass

    @property
    def n_bytes(self) -> int:
        """The bytes of its buffers."""
        return self._session.n_bytes

    def __call__(self, parameters: Array, inputs: Array | None = None) -> tuple[float, Array]:
        """Return the objective and its gradient, flat, at these parameters; write the gradient by
        the inputs to `inputs`, if there is such an array."""
        session, total = self._session, 0.0
        self._runner.load(session, parameters)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == session.data.n_rows}
            job = self._runner.run(step.objective, session, self._work, mass=self._mass, **where)
            total += job["loss"]
            if inputs is not None:
                weights = weight_views(self._runner.network.layout, parameters)[0]
                np.matmul(session.first_deltas(rows), weights.T, out=inputs[rows])
        gradient = np.empty_like(parameters)
        session.unpack(self._packed, gradient)
        return float(total), gradient
