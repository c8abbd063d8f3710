"""The arguments of the device functions, grouped in tuples, which stay in registers.

No field is called `index` or `count`: Numba would take it for the tuple's method.
"""

from typing import Any, NamedTuple

from fastmlp.backends.cuda.plan.plan import BATCH, N_ROWS


class Rows(NamedTuple):
    """The data: features `x`, shape (n_rows, n_features), and targets `y`, (n_rows, n_targets)."""

    x: Any
    y: Any


class Net(NamedTuple):
    """The arrays of one net: `memory` (the net's dtype), `sums` (float64), `plan` (int64)."""

    memory: Any
    sums: Any
    plan: Any


class Space(NamedTuple):
    """The working memory of a block: `numbers` from index `base` on."""

    numbers: Any
    base: Any


class Batch(NamedTuple):
    """The rows of a step.

    Attributes
    ----------
    order : index of the first row's number in the plan, or -1: rows are in the data's order
    n_rows : int
    mass : the sum of the rows' weights
    coefficients : offset of the step's coefficients in memory
    """

    order: Any
    n_rows: Any
    mass: Any
    coefficients: Any


class Strip(NamedTuple):
    """Rows `first` to `first + n_rows - 1` of a batch."""

    first: Any
    n_rows: Any


class Operand(NamedTuple):
    """One factor of a matrix product, in an array of numbers.

    Element i at depth d is at ``start + i * stride + d * depth_stride``.
    """

    start: Any
    stride: Any
    depth_stride: Any


class Extent(NamedTuple):
    """The size of a matrix product: rows and columns of the result, and the sums' length."""

    n_rows: Any
    n_columns: Any
    depth: Any


class Product(NamedTuple):
    """The result of a matrix product.

    Element (r, c) is at ``start + r * stride + c``. The sum of column c begins with the
    number at ``initial + c``, or with 0 if `initial` is -1.
    """

    start: Any
    stride: Any
    initial: Any


class OutputRow(NamedTuple):
    """The output layer at one row: offsets of outputs, derivatives and deltas, and their number."""

    outputs: Any
    derivatives: Any
    deltas: Any
    width: Any


def batch_of(plan: Any, step: Any) -> Any:
    """Return the first row of a step's batch in its epoch, and the number of its rows."""
    per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
    start = step % per_epoch * plan[BATCH]
    return start, min(plan[BATCH], plan[N_ROWS] - start)
