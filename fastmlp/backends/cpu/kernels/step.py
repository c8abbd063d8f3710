"""A step of training on a chunk of rows: phase one, then phase two with the update.

The job has the team's address and the number of parts of phase one. Blocks are called by address,
so that a program compiles only the forms that its nets need.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.gradient_norm import take_norms
from fastmlp.backends.cpu.kernels.output_layer import TRAIN
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar, n_strips_of
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Job, Net
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import call, njit, record_at, row
from fastmlp.compiler.target import lanes_of


@njit
def sum_of(address: int, n: int) -> float:
    """Return the sum of n numbers of float64, in their order."""
    values = row(address, n, np.float64)
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


@njit
def update_again(job: Job, net: Net, ends: int, apply: int) -> None:
    shared = job.team != 0 and net.microbatch_rows == 0
    team, n_parts = (job.team, job.n_parts) if shared else (0, 1)
    split = net.split_layer if shared else 0
    call(
        record_at(net.blocks, BlockAddresses).update,
        (team, job.net, n_parts, 0, 1, ends, apply, split),
    )


@njit
def take_stored_step(job: Job, net: Net, ends: int) -> None:
    """Take the optimizer's step with the stored gradient, clipped by norm if the optimizer asks; a
    gradient that `ends` its batch gets penalties first."""
    if net.factors:
        if ends:
            update_again(job, net, ends, 0)
        take_norms(net)
    update_again(job, net, 0 if net.factors else ends, 1)


@njit
def always(job: Job, loss: float) -> bool:
    """Return True: a loss that is not finite is found after its step."""
    return True


@njit
def _wants_gradient(job: Job, loss: float) -> bool:
    return job.deltas_alone == 0


@njit
def phase_two(job: Job, net: Net, more: int, ends: int, apply: int) -> None:
    """Do phase two; one thread takes the step of microbatches, which is little work."""
    blocks, n_rows = record_at(net.blocks, BlockAddresses), record_at(net.batch, Batch).n_rows
    if net.microbatch_rows > 0:
        if ends:
            call(blocks.update, (0, job.net, 1, 0, 1, 1, apply, 0))
        return
    if blocks.sparse_columns and net.lowest == 0:
        call(blocks.sparse_columns, (job.net,))
    split = net.split_layer if job.team != 0 else 0
    share = (job.team, job.net, job.n_parts)
    call(blocks.update, (*share, n_rows, more, ends, apply, split))


def steps(scalar: Scalar, may_step: Any = always) -> Kernel:
    """Make the function that does both phases of a chunk and returns the weighted loss.

    Phase two is left out if ``may_step(job, loss)`` is False.
    """
    size = np.dtype(scalar).itemsize
    add, clear = moves(scalar, lanes_of(scalar)).add, moves(scalar, lanes_of(scalar)).clear

    @njit
    def add_partials(net: Net, n: int, more: int) -> None:
        if not more:
            clear(net.gradient, net.n_packed)
        for i in range(n):
            add(net.partials + i * net.n_packed * size, net.gradient, net.n_packed)

    @njit
    def phase_one(job: Job, net: Net, more: int) -> float:
        """Do phase one in the form of the net's partition; return the weighted loss. Microbatches
        compute the gradient too."""
        blocks, n_rows = record_at(net.blocks, BlockAddresses), record_at(net.batch, Batch).n_rows
        if net.microbatch_rows > 0:
            call(blocks.microbatches, (job.team, job.net))
            add_partials(net, (n_rows + net.microbatch_rows - 1) // net.microbatch_rows, more)
            return sum_of(net.strip_losses, n_strips_of(n_rows))
        split = net.split_layer if job.team != 0 else 0
        share = (job.team, job.net, job.n_parts)
        if split > 0:
            call(blocks.split_k, share)
        if net.by_panels and job.team != 0:
            call(blocks.by_panels, (*share, TRAIN, split))
        else:
            call(blocks.forward_backward, (*share, TRAIN, split))
            if split - 1 > net.lowest:
                call(blocks.split_k_backward, share)
        return sum_of(net.strip_losses, n_strips_of(n_rows))

    @njit
    def step(job: Job, net: Net, more: int, ends: int, apply: int) -> float:
        """Do both phases; return the weighted loss. If the chunk `ends` its batch, penalties are
        added; with `apply` the optimizer's step is taken, after clipping by norm."""
        loss = phase_one(job, net, more)
        if may_step(job, loss):
            phase_two(job, net, more, ends, 0 if net.factors else apply)
            if apply and net.factors:
                take_stored_step(job, net, 0)
        return loss

    return step


def objective(scalar: Scalar) -> Any:
    """Make the driver that adds the gradient of the chunk's rows; `loss` is their objective."""
    step = steps(scalar, _wants_gradient)

    def differentiate(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        set_mass(net, job.mass)
        job.loss = step(job, net, job.more, job.ends, 0) / job.mass
        if job.ends and net.n_penalties > 0:
            job.loss += sum_of(net.tile_penalties, net.n_tiles)

    return differentiate


@njit
def set_mass(net: Net, mass: float) -> None:
    """Set the batch's factor of deltas, 1 / mass, and of penalties, strength / mass."""
    batch, scale = record_at(net.batch, Batch), 1.0 / mass
    # Written only on change: else workers fetch its line once more.
    if batch.scale != scale:
        batch.scale = scale
    scale_penalties(net, mass)


@njit
def scale_penalties(net: Net, mass: float) -> None:
    strengths = row(net.strengths, net.n_penalties, np.float64)
    scales = row(net.scales, net.n_penalties, np.float64)
    for p in range(net.n_penalties):
        scales[p] = strengths[p] / mass
