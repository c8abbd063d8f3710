"""The arguments of the device functions, grouped in tuples, which stay in registers.

No field is called `index` or `count`: Numba would take it for the tuple's method.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import device_function, unsigned
from fastmlp.backends.cuda.plan.plan import (
    N_PARTIAL_SUMS,
    Layer,
    NetProgress,
    Plan,
)


class Samples(NamedTuple):
    """The data: features `x`, shape (n_rows, n_features), and targets `y`, (n_rows, n_targets)."""

    x: Any
    y: Any


class Net(NamedTuple):
    """One of `Nets`, whose fields are explained there.

    Each kernel makes it anew: no function can return a record.
    """

    memory: Any
    sums: Any
    progress: NetProgress
    plan: Plan
    layers: Sequence[Layer]
    orders: Any


class Batch(NamedTuple):
    """The rows of a step.

    Attributes
    ----------
    order : index of the first row's number in the net's orders, or -1: rows are in the data's order
    n_rows : int
    mass : the sum of the rows' weights
    coefficients : offset of the step's coefficients in memory
    """

    order: int
    n_rows: int
    mass: float
    coefficients: int


class Strip(NamedTuple):
    """Rows `first` to `first + n_rows - 1` of a batch."""

    first: int
    n_rows: int


class Operand(NamedTuple):
    """One factor of a matrix product, in an array of numbers.

    Element i at depth d is at ``start + i * stride + d * depth_stride``.
    """

    start: int
    stride: int
    depth_stride: int


class Extent(NamedTuple):
    """The size of a matrix product: rows and columns of the result, and the sums' length."""

    n_rows: int
    n_columns: int
    depth: int


class Product(NamedTuple):
    """The result of a matrix product.

    Element (r, c) is at ``start + r * stride + c``. The sum of column c begins with the
    number at ``initial + c``, or with 0 if `initial` is -1.
    """

    start: int
    stride: int
    initial: int


class OutputRow(NamedTuple):
    """The output layer at one row: offsets of outputs, derivatives and deltas, and their number."""

    outputs: int
    derivatives: int
    deltas: int
    width: int


@device_function
def steps_per_epoch(plan: Plan) -> int:
    """Return the number of steps of an epoch."""
    return (plan.n_rows + plan.batch - 1) // plan.batch


@device_function
def batch_of(plan: Plan, step: int) -> tuple[int, int]:
    """Return the first row of a step's batch in its epoch, and the number of its rows."""
    start = step % steps_per_epoch(plan) * plan.batch
    return start, min(plan.batch, plan.n_rows - start)


@device_function
def coefficients_at(plan: Plan, step: int) -> int:
    """Return the offset of a step's coefficients in memory."""
    return plan.coefficients + (step - plan.first) * plan.n_coefficients


@device_function
def sum_losses(net: Net, n: int, t: int, n_threads: int) -> None:
    """Make the partial sums of the losses of a batch's n rows."""
    for s in range(t, N_PARTIAL_SUMS, n_threads):
        part = 0.0
        for r in range(s, n, N_PARTIAL_SUMS):
            part += net.sums[unsigned(net.plan.row_losses + r)]
        net.sums[unsigned(s)] = part


@device_function
def end_batch(net: Net, mass: float) -> float:
    """Make a batch's loss from partial sums, and add it to the epoch's; called by one thread."""
    sums, plan, progress = net.sums, net.plan, net.progress
    loss = 0.0
    for s in range(N_PARTIAL_SUMS):
        loss += sums[unsigned(s)]
    loss /= mass
    if plan.last_chunk != 0:
        for s in range(plan.n_penalty_sums):
            loss += sums[unsigned(plan.penalty_sums + s)]
    progress.epoch_loss += loss * mass
    progress.epoch_mass += mass
    return loss
