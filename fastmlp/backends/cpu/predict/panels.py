"""Predictions by packed panels, of rows of any kind, as a function of the parameters."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import epoch, rule_blocks
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.tuning import PREDICT_FLOPS, ROW_BLOCK
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Network
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
