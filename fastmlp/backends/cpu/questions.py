"""Questions that are asked again and again: predictions, loss and gradient of the same rows.

Each is a function of the parameters; its plan and buffers are made once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu import drive, rules
from fastmlp.backends.cpu.microkernel import ROW_BLOCK
from fastmlp.backends.cpu.plan import Addresses, address
from fastmlp.backends.cpu.runner import Runner
from fastmlp.backends.cpu.session import Data, Session
from fastmlp.backends.cpu.sparse import SparseRows
from fastmlp.network import Network

Array = NDArray[Any]
# What one call of predictions may take of one core: 0.1 s, so that Ctrl-C is heard.
PREDICT_FLOPS = 5_000_000_000


class Prediction:
    """The predictions for some rows, plan and buffers made once."""

    def __init__(self, runner: Runner, network: Network, x: Array | SparseRows) -> None:
        blocks = Addresses(*rules.activations(network), link=rules.link(network))
        self._runner = runner
        self._rows = max(1, min(len(x), PREDICT_FLOPS // (2 * network.layout.n_weights)))
        data = Data(x, np.empty((len(x), 0), x.dtype), np.empty(0, x.dtype))
        self._session = Session(network, blocks, data, rows=runner.n_threads * ROW_BLOCK)
        self._work = runner.work(self._rows, forward=2)

    def __call__(self, parameters: Array, out: Array) -> None:
        """Write the predictions at these parameters to `out`, shape (n_rows, n_outputs)."""
        session, n_rows = self._session, len(out)
        self._runner.load(session, parameters)
        net = session.plan.net[0]
        for first in range(0, n_rows, self._rows):
            session.at(slice(first, min(first + self._rows, n_rows)))
            net.index, net.out = 0, address(out, first * out.shape[1])
            self._runner.run(drive.predict, session, self._work)


class Evaluation:
    """The mean loss over some rows, weighted, without penalties; plan and buffers made once."""

    def __init__(self, runner: Runner, data: Data) -> None:
        network = runner.network
        blocks = Addresses(*rules.activations(network), loss=rules.loss(network))
        self._runner, self._mass = runner, data.mass
        self._session = Session(network, blocks, data)
        self._work = runner.work(self._session.rows, forward=2)

    def __call__(self, parameters: Array) -> float:
        """Return the loss at these parameters."""
        session, total = self._session, 0.0
        self._runner.load(session, parameters)
        for rows in session.chunks():
            session.at(rows)
            total += self._runner.run(drive.evaluate, session, self._work).loss
        return float(total / self._mass)


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient.

    Plan and buffers are made once, for whom asks again and again.
    """

    def __init__(self, runner: Runner, data: Data) -> None:
        network = runner.network
        blocks = Addresses(
            *rules.activations(network),
            loss=rules.loss(network),
            penalties=rules.penalties(network),
        )
        self._runner, self._mass = runner, data.mass
        self._session = session = Session(network, blocks, data, train=True)
        self._packed = session.keep_gradient()
        self._work = runner.work(session.rows, forward=4, tiles=2)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Return the objective and its gradient, flat, at these parameters."""
        session, total = self._session, 0.0
        self._runner.load(session, parameters)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == session.data.n_rows}
            job = self._runner.run(drive.gradient, session, self._work, mass=self._mass, **where)
            total += job.loss
        gradient = np.empty_like(parameters)
        net, packed = address(session.plan.net), address(self._packed)
        session.block("unpack")(net, address(gradient), packed)
        return float(total), gradient
