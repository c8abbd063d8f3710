"""The drivers of a single step, for which the user's own loop asks: one batch, in chunks.

They have the bits of a fit's epoch of one batch. A step is taken only where its loss is finite,
which is known before phase two.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.epoch import end_batch, masses, nothing
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar
from fastmlp.backends.cpu.kernels.single_row import row_steps
from fastmlp.backends.cpu.kernels.step import set_mass, steps
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Job, Net
from fastmlp.compiler import (
    Record,
    call,
    flush_denormals,
    kernel,
    njit,
    record_at,
    restore_denormals,
    row,
)

Array = NDArray[Any]


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


# The status of a quick step: the rows need other checks or a copy; its loss is not finite; taken.
DECLINED, NOT_FINITE, TAKEN = range(3)


class PlainStep(Record):
    """A step on plain rows, in buffers that are ready, without a call of Python's in between."""

    job: int  # address of its `Job`
    block: int  # addresses of the blocks of `quick_step`,
    driver: int  # and of `batch_step` or `row_step`
    flat: int  # addresses of the net's parameters, live,
    seen: int  # and of a copy of them, as the last step left them
    n_parameters: int
    n_rows: int
    n_in: int
    n_targets: int
    table: int  # address of the coefficients of steps from
    first_step: int  # this one on,
    row_bytes: int  # so many bytes each
    label_rows: int  # address of the rows' labels in the net's dtype
    n_labels: int  # a label is below it; 0: targets are numbers
    lowest: float  # of a target,
    highest: float
    x: int  # addresses of the rows,
    y: int  # targets or labels,
    weight: int  # and weights, or 0
    label_bytes: int  # of a label; 0: y has targets
    step: int  # its number
    status: int  # DECLINED, NOT_FINITE or TAKEN
    loss: float


def _row_checks(scalar: Scalar) -> Kernel:
    """Make the function that checks a step's rows, targets and weights, and writes its labels."""
    largest = float(np.finfo(scalar).max)

    @njit
    def are_within(address: int, n: int, low: float, high: float) -> bool:
        """Return True if n numbers are in the range; NaN is not. A loop without an exit."""
        numbers, least, most, n_others = row(address, n, scalar), scalar(low), scalar(high), 0
        for i in range(n):
            n_others += 0 if numbers[i] >= least and numbers[i] <= most else 1
        return n_others == 0

    @njit
    def take_labels(step: PlainStep) -> bool:
        """Write labels as numbers; return True if all are in the range."""
        n, n_others, numbers = step.n_rows, 0, row(step.label_rows, step.n_rows, scalar)
        for r in range(n):
            if step.label_bytes == 8:
                label = row(step.y + r * 8, 1, np.int64)[0]
            else:
                label = int(row(step.y + r * 4, 1, np.int32)[0])
            n_others += 0 if label >= 0 and label < step.n_labels else 1
            numbers[r] = scalar(label)
        return n_others == 0

    @njit
    def are_weights(address: int, n: int) -> bool:
        """Return True if weights are 0 or more, and not all 0; or there are none."""
        total = 0.0
        if address != 0:
            weights = row(address, n, scalar)
            for r in range(n):
                total += weights[r]
        return address == 0 or (total > 0 and are_within(address, n, 0.0, largest))

    @njit
    def are_sound(step: PlainStep) -> bool:
        if not are_within(step.x, step.n_rows * step.n_in, -largest, largest):
            return False
        if not are_weights(step.weight, step.n_rows):
            return False
        if step.label_bytes:
            return take_labels(step)
        return are_within(step.y, step.n_rows * step.n_targets, step.lowest, step.highest)

    return are_sound


def _parameter_copies(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Make the function that compares parameters with a copy, and the one that copies them."""
    size = np.dtype(scalar).itemsize

    @njit
    def are_alike(address: int, other: int, n: int) -> bool:
        """Return True if n numbers have the same bits: words of them, and perhaps half a word."""
        n_words = n * size // 8
        words, others, faults = row(address, n_words, np.int64), row(other, n_words, np.int64), 0
        for i in range(n_words):
            faults |= words[i] ^ others[i]
        if n_words * 8 < n * size:
            last = n_words * 8
            half, other_half = row(address + last, 1, np.int32), row(other + last, 1, np.int32)
            faults += 0 if half[0] == other_half[0] else 1
        return faults == 0

    @njit
    def copy(address: int, other: int, n: int) -> None:
        numbers, others = row(address, n, scalar), row(other, n, scalar)
        for i in range(n):
            others[i] = numbers[i]

    return are_alike, copy


def quick_step(scalar: Scalar) -> Kernel:
    """Make the block of a `PlainStep`: checks of the rows, parameters that have changed in between,
    the step, and the parameters in their order.

    Only shapes have been checked before. All happens on the calling thread, and holds the GIL.
    """
    are_sound, (are_alike, copy) = _row_checks(scalar), _parameter_copies(scalar)

    def take_step(address: int) -> None:
        mode = flush_denormals()
        step = record_at(address, PlainStep)
        job = record_at(step.job, Job)
        net = record_at(job.net, Net)
        batch, blocks = record_at(net.batch, Batch), record_at(net.blocks, BlockAddresses)
        if are_sound(step):
            if not are_alike(step.flat, step.seen, step.n_parameters):
                call(blocks.pack, (job.net, step.flat, net.parameters))
                call(blocks.transposes, (job.net,))
            batch.x, batch.weight = step.x, step.weight
            batch.y = step.label_rows if step.label_bytes else step.y
            job.coefficients = step.table + (step.step - step.first_step) * step.row_bytes
            call(step.driver, (step.job,))
            step.loss = row(job.losses, 1, np.float64)[0]
            step.status = NOT_FINITE
            if job.diverged == 0:
                call(blocks.unpack, (job.net, step.flat, net.parameters))
                copy(step.flat, step.seen, step.n_parameters)
                step.status = TAKEN
        restore_denormals(mode)

    return take_step


@kernel("cpu.quick_step", nogil=False)
def take_quick_step(
    address: int, step: int, label_bytes: int, x: Array, y: Array, weight: Array
) -> float:
    """Take a step on rows; return the loss. The record's status says if it was taken."""
    quick, n = record_at(address, PlainStep), x.shape[0]
    quick.status, quick.loss = DECLINED, np.nan
    if x.shape[1] != quick.n_in or y.shape[0] != n or y.size != n * quick.n_targets:
        return quick.loss
    if weight.size > 0 and weight.size != n:
        return quick.loss
    quick.x, quick.y, quick.step = x.ctypes.data, y.ctypes.data, step
    quick.weight = weight.ctypes.data if weight.size > 0 else 0
    quick.label_bytes = label_bytes
    call(quick.block, (address,))
    return quick.loss
