"""The drivers of one rank of several: its share of each batch.

The ranks' gradients are summed between two calls. A call takes the step before with the sum, then
computes the gradient of this rank's rows of the next batch: a step is one call. If parameters are
averaged instead, a call does some steps by the rank's rows alone.
"""

import numpy as np

from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar
from fastmlp.backends.cpu.kernels.step import (
    scale_penalties,
    set_mass,
    steps,
    sum_of,
    take_stored_step,
)
from fastmlp.backends.cpu.plan.records import Batch, Job, Net
from fastmlp.compiler import njit, record_at, row


def _sharing(scalar: Scalar) -> Kernel:
    size, step = np.dtype(scalar).itemsize, steps(scalar)

    @njit
    def share(job: Job, net: Net, s: int, apply: int) -> float:
        batch, starts = record_at(net.batch, Batch), row(job.starts + s * 8, 2, np.int64)
        batch.coefficients = job.coefficients + s * job.n_coefficients * size
        batch.order_stop = job.order + job.n_rows * 8
        position = row(job.positions + s * 8, 1, np.int64)[0] - starts[0]
        low, total, more = starts[0], 0.0, 0
        while low < starts[1]:
            high = min(low + job.chunk_rows, starts[1])
            batch.index, batch.n_rows = job.order + low * 8, high - low
            batch.position = position + low
            ends = 1 if apply and high == starts[1] else 0
            total += step(job, net, more, ends, ends)
            low, more = high, 1
        batch.order_stop = 0
        return total

    return share


def exchange(scalar: Scalar) -> Kernel:
    """Make the driver that takes step `first` with the summed gradient, and writes its penalties to
    `losses`; then stores the gradient of step `last`, whose weighted loss is `loss`. -1: none."""
    size, share = np.dtype(scalar).itemsize, _sharing(scalar)

    def exchange_gradients(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        if job.first >= 0:
            record_at(net.batch, Batch).coefficients = (
                job.coefficients + job.first * job.n_coefficients * size
            )
            set_mass(net, row(job.wholes + job.first * 8, 1, np.float64)[0])
            take_stored_step(job, net, 1)
            penalties = sum_of(net.tile_penalties, net.n_tiles) if net.n_penalties > 0 else 0.0
            row(job.losses + job.first * 8, 1, np.float64)[0] = penalties
        if job.last >= 0:
            starts = row(job.starts + job.last * 8, 2, np.int64)
            if starts[0] == starts[1]:
                row(net.gradient, net.n_packed, scalar)[:] = 0
            set_mass(net, row(job.masses + job.last * 8, 1, np.float64)[0])
            job.loss = share(job, net, job.last, 0)

    return exchange_gradients


def train_alone(scalar: Scalar) -> Kernel:
    """Make the driver of steps `first` to `last` by this rank's rows alone; `losses` receives their
    weighted losses, penalties included."""
    share = _sharing(scalar)

    def train_steps(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        for s in range(job.first, job.last):
            mass = row(job.masses + s * 8, 1, np.float64)[0]
            if mass != 0:
                set_mass(net, mass)
                scale_penalties(net, row(job.wholes + s * 8, 1, np.float64)[0])
                total = share(job, net, s, 1)
                if net.n_penalties > 0:
                    total += mass * sum_of(net.tile_penalties, net.n_tiles)
                row(job.losses + s * 8, 1, np.float64)[0] = total

    return train_steps
