"""Rows, a net and its buffers, laid out for the kernels: what every verb of the engine works in."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import Block, block_of
from fastmlp.backends.cpu import drive
from fastmlp.backends.cpu.microkernel import lanes_of
from fastmlp.backends.cpu.moments import Moments
from fastmlp.backends.cpu.panels import pack, transposes, unpack
from fastmlp.backends.cpu.plan import Addresses, address, make_plan
from fastmlp.backends.cpu.product import product
from fastmlp.backends.cpu.rows import rows as rows_phase
from fastmlp.backends.cpu.sparse import (
    ColumnBuffers,
    SparseRows,
    sparse_columns,
    sparse_forward,
    sparse_gradient,
)
from fastmlp.backends.cpu.tiles import tile
from fastmlp.network import Network
from fastmlp.workspace import aligned, chunk_rows, make_workspace

Array = NDArray[Any]
FORWARD_BLOCKS = ("product", "pack", "rows")


PHASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "product": (product, {"by_column": False}),
    "gradient_product": (product, {"by_column": True}),
    "pack": (pack, {}),
    "unpack": (unpack, {}),
    "transposes": (transposes, {}),
    "rows": (rows_phase, {}),
    "tile": (tile, {}),
}


@cache
def _phase(name: str, dtype: np.dtype[Any]) -> Block:
    factory, options = PHASES[name]
    return block_of(factory, dtype, **options)


class Data(NamedTuple):
    """Rows to work on, validated: C-contiguous, of the network's dtype.

    Attributes
    ----------
    x : shape (n_rows, n_features), or rows of a sparse matrix
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike
    rows : int64, which of the rows to work on, and in which order; None: all of them
    """

    x: Array | SparseRows
    y: Array
    weight: Array
    rows: NDArray[np.int64] | None = None

    @property
    def n_rows(self) -> int:
        """How many rows to work on."""
        return len(self.x if self.rows is None else self.rows)

    @property
    def mass(self) -> float:
        """The number of rows to work on, or the sum of their weights."""
        if not self.weight.size:
            return float(self.n_rows)
        weight = self.weight if self.rows is None else self.weight[self.rows]
        return float(weight.sum(dtype=np.float64))


class Session:
    """A plan for some rows, and all that it points to, kept alive.

    Attributes
    ----------
    plan : Plan
    job : record array of `drive.JOB`, shape (1,)
    workspace : Workspace
    rows : int, the rows of a chunk: as many as asked for, else what suits the net
    """

    def __init__(
        self,
        network: Network,
        blocks: Addresses,
        data: Data,
        batch_size: int | None = None,
        *,
        rows: int | None = None,
        moments: Moments | None = None,
        train: bool = False,
    ) -> None:
        train = train or moments is not None
        layout, n_targets = network.layout, data.y.shape[1]
        self.data, self._network = data, network
        sparse = isinstance(data.x, SparseRows)
        self.rows = rows or chunk_rows(
            layout, batch_size or data.n_rows, train=train, sparse=sparse
        )
        lanes = lanes_of(network.dtype.type)
        self.workspace = make_workspace(
            layout, self.rows, n_targets, network.dtype, lanes, train=train, sparse=sparse
        )
        if moments is not None:
            self.workspace = self.workspace._replace(m=moments.m, v=moments.v)
        strengths = [strength for _, strength in network.penalties] if train else []
        self.plan = make_plan(layout, self.workspace, blocks, strengths, n_targets)
        net = self.plan.net[0]
        names = PHASES if train else FORWARD_BLOCKS
        for name in names:
            net[name] = self.block(name).address

        if isinstance(data.x, SparseRows):
            self._make_sparse(data.x, train=train)
        self._at: slice | None = None
        self.job = aligned(1, drive.JOB).view(np.recarray)
        self.job[0].net = address(self.plan.net)

    def _make_sparse(self, x: SparseRows, *, train: bool) -> None:
        """Point the plan to sparse rows, to the blocks for them, and to room to sort them."""
        net, dtype = self.plan.net[0], self._network.dtype
        net.x_columns, net.x_values = address(x.columns), address(x.values)
        net.sparse_forward = block_of(sparse_forward, dtype).address
        if not train:
            return
        self._columns = columns = ColumnBuffers(x, self.rows)
        net.column_starts, net.column_rows = address(columns.starts), address(columns.rows)
        net.column_values = address(columns.values)
        net.sparse_columns = block_of(sparse_columns, dtype).address
        net.sparse_gradient = block_of(sparse_gradient, dtype).address

    def block(self, name: str) -> Block:
        """Return one of the blocks of the phases."""
        return _phase(name, self._network.dtype)

    def keep_gradient(self) -> Array:
        """Allocate a packed gradient, for one that is summed over chunks or asked for."""
        self._gradient = aligned(len(self.workspace.parameters), self._network.dtype)
        self.plan.net[0].gradient = address(self._gradient)
        return self._gradient

    def load(self, parameters: Array) -> None:
        """Pack the parameters, and whatever is computed from them."""
        workspace, net = self.workspace, address(self.plan.net)
        if workspace.sparse and not workspace.m.size:
            self.plan.net[0].unpacked = address(parameters)
        self.block("pack")(net, address(parameters), address(workspace.parameters))
        if workspace.m.size:
            self.block("transposes")(net)

    def store(self, parameters: Array) -> None:
        """Unpack the parameters."""
        net, packed = address(self.plan.net), address(self.workspace.parameters)
        self.block("unpack")(net, address(parameters), packed)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the rows, one chunk after the other."""
        n = self.data.n_rows
        for first in range(0, n, self.rows):
            yield slice(first, min(first + self.rows, n))

    def at(self, rows: slice) -> None:
        """Point the plan to these rows of the data: 10 us, but where it points there already."""
        if rows == self._at:
            return
        self._at = rows
        net, data, n_targets = self.plan.net[0], self.data, self.data.y.shape[1]
        start = rows.start if data.rows is None else 0
        if isinstance(data.x, SparseRows):
            net["x"] = address(data.x.starts, start)
        else:
            net["x"] = address(data.x, start * data.x.shape[1])
        net["y"] = address(data.y, start * n_targets)
        net["weight"] = address(data.weight, start) if data.weight.size else 0
        net["index"] = net.identity if data.rows is None else address(data.rows, rows.start)
        net["n_rows"] = rows.stop - rows.start
