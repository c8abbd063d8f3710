"""Microbatches: pieces of a chunk that one thread takes through both phases, in separate buffers.

A team that shares each phase of a small net on many rows moves most outputs and deltas from core to
core; by microbatches only gradients travel: 603 -> 415 us (4-32-16-4@10000, 2 threads; 1 thread:
715 us). Each gradient is summed from zero, and all are added in order, so threads do not change the
bits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.output_layer import TRAIN
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar
from fastmlp.backends.cpu.plan.plan import Plan
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Net, address
from fastmlp.backends.cpu.plan.workspace import Workspace, aligned
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.compiler import (
    call,
    flushed,
    njit,
    prange,
    record_at,
    records_at,
    restored,
    row,
    thread_number,
)

# The buffers of each thread; all others are shared.
OWN = (
    "inputs", "outputs", "deltas", "raw", "value", "slope", "loss_slope", "targets", "row_losses",
    "row_copy",
)  # fmt: skip


def microbatches(scalar: Scalar) -> Kernel:
    """Make the block that takes microbatches through both phases, without the update.

    The gradient of microbatch i is number i of the `partials`, as long as the packed parameters.
    """
    size = np.dtype(scalar).itemsize

    @njit
    def differentiate(net: Net, i: Any, thread: int) -> None:
        """Compute the gradient of microbatch i with the thread's replica of the net."""
        replica = row(net.replicas, thread + 1, np.int64)[thread]
        copy, batch = record_at(replica, Net), record_at(net.batch, Batch)
        rows, blocks = record_at(copy.batch, Batch), record_at(net.blocks, BlockAddresses)
        begin = i * net.microbatch_rows
        rows.x, rows.y, rows.weight, rows.scale = batch.x, batch.y, batch.weight, batch.scale
        rows.coefficients, rows.position = batch.coefficients, batch.position + begin
        rows.index = batch.index + begin * 8
        rows.n_rows = min(net.microbatch_rows, batch.n_rows - begin)
        copy.strip_losses = net.strip_losses + begin // STRIP_ROWS * 8
        copy.gradient = net.partials + i * net.n_packed * size
        call(blocks.forward_backward, (0, replica, 1, TRAIN, 0))
        call(blocks.update, (0, replica, 1, rows.n_rows, 0, 0, 0, 0))

    @njit(parallel=True)
    def differentiate_all(team: int, nets: Sequence[Net], n: int) -> None:
        for i in prange(n):
            flush = flushed()
            differentiate(nets[0], np.int64(i), thread_number())
            restored(flush)

    def enter(team: int, net: int) -> None:
        nets = records_at(net, 1, Net)
        rows, n_rows = nets[0].microbatch_rows, record_at(nets[0].batch, Batch).n_rows
        differentiate_all(team, nets, (n_rows + rows - 1) // rows)

    return enter


def with_own_buffers(workspace: Workspace, buffers: Workspace) -> Workspace:
    """Return `workspace` with the buffers for rows of `buffers`."""
    return workspace._replace(**{name: getattr(buffers, name) for name in OWN})


class Replicas:
    """The replicas of a net for microbatches, one per thread of a team, with partial gradients and
    losses.

    Parameters
    ----------
    new_plan, new_workspace : functions that make a plan for a workspace, and one for a microbatch
    workspace : Workspace, of the first thread, with the net's parameters
    n_threads : int, of the team
    rows, n_microbatches : int, the most of a chunk

    Attributes
    ----------
    n_bytes : int, of the buffers
    identity : int64 (rows,): 0, 1, 2, ...
    """

    n_bytes: int

    def __init__(
        self,
        new_plan: Callable[[Workspace], Plan],
        new_workspace: Callable[[], Workspace],
        workspace: Workspace,
        n_threads: int,
        rows: int,
        n_microbatches: int,
    ) -> None:
        parameters = workspace.parameters
        others = [with_own_buffers(workspace, new_workspace()) for _ in range(1, n_threads)]
        self._workspaces = [workspace, *others]
        self._plans = [new_plan(workspace) for workspace in self._workspaces]
        self._addresses = np.array([address(plan.net) for plan in self._plans], np.int64)
        self._partials: NDArray[Any] = aligned(n_microbatches * parameters.size, parameters.dtype)
        self._losses = aligned(-(-rows // STRIP_ROWS), np.float64)
        self.identity: NDArray[np.int64] = np.arange(rows, dtype=np.int64)
        n_bytes = sum(getattr(it, name).nbytes for it in others for name in OWN)
        self.n_bytes = n_bytes + self._partials.nbytes + self._losses.nbytes + self.identity.nbytes

    def point_to_draws(self, n_bytes: int) -> None:
        """Set the byte offset of dropout's numbers in a step's coefficients."""
        for plan in self._plans:
            plan.net["draws"] = n_bytes

    def attach(self, net: Any, blocks: Any) -> None:
        """Write the replicas' addresses to a net's record, and copy the net's blocks to them."""
        net["replicas"] = address(self._addresses)
        net["partials"], net["strip_losses"] = address(self._partials), address(self._losses)
        for plan in self._plans:
            plan.blocks[:] = blocks
