"""The drivers of a single step, for which the user's own loop asks: one batch, in chunks.

They have the bits of a fit's epoch of one batch. A step is taken only where its loss is finite,
which is known before phase two.
"""

import numpy as np

from fastmlp.backends.cpu.kernels.epoch import end_batch, masses, nothing
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar
from fastmlp.backends.cpu.kernels.single_row import row_steps
from fastmlp.backends.cpu.kernels.step import set_mass, steps
from fastmlp.backends.cpu.plan.records import Batch, Job, Net
from fastmlp.compiler import njit, record_at, row


@njit
def _is_finite(job: Job, loss: float) -> bool:
    total = job.batch_loss + loss
    return total - total == 0


def batch_step(scalar: Scalar) -> Kernel:
    """Make the driver of a batch's step."""
    return _one_step(scalar, steps(scalar, _is_finite), nothing)


def row_step(scalar: Scalar) -> Kernel:
    """Make the driver of a step of plain descent on one row."""
    return _one_step(scalar, *row_steps(scalar))


def _one_step(scalar: Scalar, step: Kernel, settle: Kernel) -> Kernel:
    """Make the driver of chunks first to last of a batch; the last takes the step.

    Where the job has a `mass`, deltas are of the sum of the losses, and penalties of this mass.
    """
    mass_of = masses(scalar)

    def take_step(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = record_at(net.batch, Batch)
        batch.coefficients, batch.due = job.coefficients, 0
        for u in range(job.first, job.last):
            low = u * job.chunk_rows
            high = min(low + job.chunk_rows, job.n_rows)
            batch.index, batch.n_rows, batch.position = job.order + low * 8, high - low, low
            if u == 0:
                job.diverged = job.epoch_loss = job.epoch_mass = job.batch_loss = 0.0
                job.batch_mass = mass_of(batch, job.n_rows)
                set_mass(net, job.batch_mass)
                if job.mass:
                    batch.scale = 1.0
            more, ends = 1 if low > 0 else 0, 1 if high == job.n_rows else 0
            job.batch_loss += step(job, net, more, ends, ends) / job.batch_mass
            job.reached = u + 1
            if ends == 0:
                continue
            if job.batch_loss - job.batch_loss == 0:
                settle(net, job)
                end_batch(net, job, job.n_rows)
                loss = job.epoch_loss / job.epoch_mass
            else:
                loss, job.diverged = job.batch_loss, 1.0
            row(job.losses, 1, np.float64)[0] = loss

    return take_step
