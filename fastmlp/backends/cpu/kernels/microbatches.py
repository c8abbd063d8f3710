"""Lots: pieces of a chunk that one thread takes through both phases, in buffers of its own.

Where a small net meets many rows, a team that shares each phase sends most of what phase one wrote
from core to core: 4-32-16-4 at 10,000 rows took 715 us a step on one thread, and 603 on two. By
lots only gradients travel. Each lot's is summed from zero, and the lots' in their order, so the
bits do not depend on who did which.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.output_layer import TRAIN, n_strips_of
from fastmlp.backends.cpu.plan.records import NET, Plan, address, fields_of
from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS, Workspace, aligned
from fastmlp.compiler import call, row

# What is each thread's own; the others are the net's.
OWN = (
    "inputs", "outputs", "deltas", "raw", "value", "slope", "loss_slope", "targets", "row_losses",
)  # fmt: skip


def lots(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that takes lots first to last through both phases, without the update.

    The gradient of lot i is number i of the `partials`, as long as the packed parameters.
    """
    size = np.dtype(scalar).itemsize

    def work_on_lots(address: Any, first: Any, last: Any, part: Any) -> None:
        net = row(address, 1, NET)[0]
        mine = row(net.parts, part + 1, np.int64)[part]
        own = row(mine, 1, NET)[0]
        own.mode, own.scale = TRAIN, net.scale
        own.x, own.y, own.weight = net.x, net.y, net.weight
        for lot in range(first, last):
            begin = lot * net.lot_rows
            own.index = net.index + begin * 8
            own.n_rows = min(net.lot_rows, net.n_rows - begin)
            own.strip_losses = net.strip_losses + begin // STRIP_ROWS * 8
            own.gradient = net.partials + lot * net.n_packed * size
            call(net.rows, (mine, 0, n_strips_of(own.n_rows), 0))
            call(net.tile, (0, mine))

    return work_on_lots


def with_own_buffers(workspace: Workspace, buffers: Workspace) -> Workspace:
    """Return a workspace with the net of the first, and the second's buffers for rows."""
    return workspace._replace(**{name: getattr(buffers, name) for name in OWN})


class Parts:
    """What lots need beside a plan: a plan for each of a team, partial gradients, losses.

    Parameters
    ----------
    new_plan, new_workspace : functions that make a plan for a workspace, and one for a lot
    workspace : Workspace, of the first thread, with the net's parameters
    members : int, of the team
    rows, lot_rows : int, of a chunk and of a lot

    Attributes
    ----------
    n_bytes : int, of the buffers
    """

    def __init__(
        self,
        new_plan: Callable[[Workspace], Plan],
        new_workspace: Callable[[], Workspace],
        workspace: Workspace,
        members: int,
        rows: int,
        lot_rows: int,
    ) -> None:
        parameters = workspace.parameters
        others = [with_own_buffers(workspace, new_workspace()) for _ in range(1, members)]
        self._workspaces = [workspace, *others]
        self._plans = [new_plan(each) for each in self._workspaces]
        self._addresses = np.array([address(plan.net) for plan in self._plans], np.int64)
        n_lots = -(-rows // lot_rows)
        self._partials: NDArray[Any] = aligned(n_lots * parameters.size, parameters.dtype)
        self._losses = aligned(-(-rows // STRIP_ROWS), np.float64)
        self._identity = np.arange(rows, dtype=np.int64)
        self._lot_rows = lot_rows
        own = sum(getattr(it, name).nbytes for it in others for name in OWN)
        self.n_bytes = own + self._partials.nbytes + self._losses.nbytes + self._identity.nbytes

    def tell(self, net: Any, blocks: dict[str, Any]) -> None:
        """Write it to a net's record; and the blocks to those of the threads."""
        net["parts"], net["lot_rows"] = address(self._addresses), self._lot_rows
        net["partials"], net["strip_losses"] = address(self._partials), address(self._losses)
        net["identity"] = address(self._identity)
        for plan in self._plans:
            own = fields_of(plan.net)
            for name, block in blocks.items():
                own[name] = block.address
