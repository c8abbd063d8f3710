"""Single steps inside the user's compiled code,
by the block `quick_step`; gradients of a batch.

Gradients are vector-Jacobian products.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable

from fastmlp.backends.cpu.kernels import step
from fastmlp.backends.cpu.kernels.epoch import DECLINED, TAKEN, PlainStep
from fastmlp.backends.cpu.plan.records import (
    Batch,
    BlockAddresses,
    Derivatives,
    Job,
    Layer,
    Net,
    address,
)
from fastmlp.backends.cpu.predict.embedded import COPY, HANDLE, require_floats, run
from fastmlp.backends.cpu.predict.jacobian import add_skip, deltas_to_inputs
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import block_of, call, flush_denormals, njit, restore_denormals
from fastmlp.compiler.memory import Record, record_at, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network, skip_weights
from fastmlp.rules.losses import range_of
from fastmlp.validation import Array

CLOSED = "jit: the handle does not train: `with fastmlp.jit.learner(net, batch_size=64) as handle:`"
BATCH = (
    "jit: X, y or a gradient has another shape than those of a batch of the learner's"
)
UNPREPARED = "jit: derivatives need a learner of derivative_weight=, such as 1.0"
JACOBIAN = (
    "jit: derivatives have another shape than (batch_size, n_outputs, n_features)"
)
LABELS_MESSAGE = "jit.train_on_batch: y must be labels, an array of integers"
DECLINED_ROWS = (
    "jit: a number of X or y is not finite, "
    "or a label or target is none that the loss takes"
)


class EmbeddedSteps(Record):
    """The training of a net in compiled code:
    steps of two kinds, and memory for their rows.
    """

    batch: int  # address of the `PlainStep` on rows and targets,
    gradient: int  # and on rows and slopes of the raw outputs
    x: int  # addresses of the rows, shape (batch_size, n_in), in the net's dtype,
    y: int  # of their targets in that dtype, or of their labels, int64,
    slopes: int  # and of their slopes
    has_labels: int
    n_taken: int  # steps since the learner was made
    last: int  # the last row of the table of coefficients
    vjp: int  # address of the `EmbeddedVjp`
    gaps: int  # address of the `GapRows`, or 0: NaN in targets is declined
    derivatives: int  # address of the `EmbeddedDerivatives`, or 0


class EmbeddedDerivatives(Record):
    """Steps with derivatives of the outputs by the inputs,
    and memory for their numbers.
    """

    batch: int  # address of the `PlainStep` on targets of the Jacobian,
    gradient: int  # and on the gradient by the raw Jacobian
    vjp: int  # address of the `EmbeddedVjp` of such a gradient
    values: (
        int  # addresses of the numbers, (n_rows, n_outputs, n_in), in the net's dtype,
    )
    known: int  # and of each row's known ones, times its weight, float64
    n_outputs: int


class GapRows(Record):
    """Targets of a batch that may be NaN,
    and room for what a step takes in their place.
    """

    block: int  # address of `fill_gaps`
    y: int  # addresses of targets or labels as given, (n_rows, n_targets),
    # of targets, with factors beside them if there are several, or labels, int64,
    targets: int
    weight: int  # and of weights of rows
    n_rows: int
    n_targets: int
    labels: int  # 1: labels
    lowest: float  # known target
    highest: float
    stand_in: float  # target that the loss takes
    n_known: int  # result


def fill_gaps(scalar: Scalar) -> Callable[[int], None]:
    """Writes stand-ins and weights for targets that are NaN,
    as `weighted_targets` does.
    """
    size = np.dtype(scalar).itemsize

    def fill(address: int) -> None:
        gaps = record_at(address, GapRows)
        n = gaps.n_targets
        width = 2 * n if n > 1 else 1
        gaps.n_known = 0
        for j in range(n):
            instead = scalar(gaps.stand_in)
            for r in range(gaps.n_rows - 1, -1, -1):
                y = row(gaps.y + (r * n + j) * size, 1, scalar)[0]
                instead = y if y == y else instead
            for r in range(gaps.n_rows):
                y = row(gaps.y + (r * n + j) * size, 1, scalar)[0]
                known = y == y
                # An infinite target is declined.
                bad = known and (y < scalar(gaps.lowest) or y > scalar(gaps.highest))
                value = scalar(np.inf) if bad else y if known else instead
                gaps.n_known += 1 if known else 0
                weight = row(gaps.weight + r * size, 1, scalar)
                before = weight[0] if j > 0 else scalar(0)
                weight[0] = before + scalar(1 if known else 0)
                if gaps.labels:
                    whole = float(int(value)) == value
                    row(gaps.targets + r * 8, 1, np.int64)[0] = (
                        int(value) if whole else -1
                    )
                else:
                    place = row(gaps.targets + r * width * size, width, scalar)
                    place[j] = value
                    if n > 1:
                        place[n + j] = scalar(1 if known else 0)
        if n > 1:
            for r in range(gaps.n_rows):
                place = row(gaps.targets + r * width * size, width, scalar)
                weight = row(gaps.weight + r * size, 1, scalar)
                share = float(n) / max(weight[0], scalar(1))
                weight[0] = scalar(float(weight[0]) / n)
                for j in range(n):
                    place[n + j] *= scalar(share)

    return fill


def gap_rows(network: Network, y: Array, targets: Array) -> tuple[Array, ...]:
    """A `GapRows` record for batches like y,
    and its arrays, the targets' among them.
    """
    dtype = network.dtype
    kind = network.loss.targets
    given = np.zeros(y.shape, dtype)
    weight = np.zeros(len(y), dtype)
    has_labels = kind == "classes"
    record = np.zeros(1, GapRows.dtype)
    place = y if has_labels else targets
    addresses = (
        block_of(fill_gaps, dtype).address,
        *map(address, (given, place, weight)),
    )
    limits = (*range_of(kind, dtype), float(kind == "positive"))
    record[0] = (*addresses, *y.shape, has_labels, *limits, 0)
    return record, given, place, weight


# Not inlined: a step takes microseconds.
JITTED: dict[str, Any] = {"error_model": "numpy"}


@register_jitable(**JITTED)
def _copy(numbers: Any, place: Any) -> None:
    """Copy a matrix, or a vector as one column."""
    if numbers.ndim == 1:
        for i in range(len(place)):
            place[i] = numbers[i]
    else:
        width = numbers.shape[1]
        for r in range(numbers.shape[0]):
            for k in range(width):
                place[r * width + k] = numbers[r, k]


@register_jitable(**JITTED)
def fill(handle: Any, X: Any, y: Any, by_gradient: bool, integers: bool) -> int:
    """Copy a batch; return the address of its step.
    `fill_gaps` follows, if there is one.
    """
    h = handle[0]
    if h.me != handle.ctypes.data:
        raise ValueError(COPY)
    if h.learner == 0:
        raise ValueError(CLOSED)
    learner = record_at(h.learner, EmbeddedSteps)
    place, target = learner.batch, learner.y
    labels = learner.has_labels
    if by_gradient:
        place = learner.gradient
        target = learner.slopes
        labels = 0
    step = record_at(place, PlainStep)
    n, n_targets = step.n_rows, step.n_targets
    has_gaps = learner.gaps != 0 and not by_gradient
    if has_gaps:
        target = record_at(learner.gaps, GapRows).y
        labels = 0
        n_targets = record_at(learner.gaps, GapRows).n_targets
    if (
        X.shape[0] != n
        or X.shape[1] != step.n_in
        or y.shape[0] != n
        or y.size != n * n_targets
    ):
        raise ValueError(BATCH)
    if labels and not integers:
        raise ValueError(LABELS_MESSAGE)
    if h.number_bytes == 4:
        _copy(X, row(learner.x, X.size, np.float32))
    else:
        _copy(X, row(learner.x, X.size, np.float64))
    if labels:
        _copy(y, row(target, y.size, np.int64))
    elif h.number_bytes == 4:
        _copy(y, row(target, y.size, np.float32))
    else:
        _copy(y, row(target, y.size, np.float64))
    step.x = learner.x
    step.y = target
    step.weight = 0
    step.label_bytes = 8 if labels else 0
    if has_gaps:
        gaps = record_at(learner.gaps, GapRows)
        step.y = gaps.targets
        step.weight = gaps.weight
        step.label_bytes = 8 if learner.has_labels else 0
    step.step = step.first_step + min(learner.n_taken, learner.last)
    step.status = DECLINED
    return int(place)


@register_jitable(**JITTED)
def _copy_jacobian(numbers: Any, place: Any) -> None:
    """Copy numbers of rows, or of rows and outputs."""
    if numbers.ndim == 2:
        _copy(numbers, place)
    else:
        n, width = numbers.shape[1], numbers.shape[2]
        for r in range(numbers.shape[0]):
            for j in range(n):
                for k in range(width):
                    place[(r * n + j) * width + k] = numbers[r, j, k]


@register_jitable(**JITTED)
def _count_known(values: Any, known: Any, unknown: bool) -> None:
    """Count each row's numbers; infinite ones, and NaN unless `unknown`, raise."""
    width = len(values) // len(known)
    for r in range(len(known)):
        known[r] = 0.0
        for k in range(width):
            value = values[r * width + k]
            if np.isfinite(value):
                known[r] += 1.0
            elif not (unknown and np.isnan(value)):
                raise ValueError(DECLINED_ROWS)


@register_jitable(**JITTED)
def fill_jacobian(handle: Any, place: int, numbers: Any, by_gradient: bool) -> int:
    """Copy derivatives, or a gradient by them, of the rows of a step without;
    return the address of the step with them.
    """
    learner = record_at(handle[0].learner, EmbeddedSteps)
    if learner.derivatives == 0:
        raise ValueError(UNPREPARED)
    own = record_at(learner.derivatives, EmbeddedDerivatives)
    step = record_at(place, PlainStep)
    n = step.n_rows
    width = own.n_outputs * step.n_in
    last = numbers.ndim - 1
    if (
        numbers.shape[0] != n
        or numbers.size != n * width
        or numbers.shape[last] != step.n_in
    ):
        raise ValueError(JACOBIAN)
    known = row(own.known, n, np.float64)
    if handle[0].number_bytes == 4:
        _copy_jacobian(numbers, row(own.values, n * width, np.float32))
        _count_known(row(own.values, n * width, np.float32), known, not by_gradient)
    else:
        _copy_jacobian(numbers, row(own.values, n * width, np.float64))
        _count_known(row(own.values, n * width, np.float64), known, not by_gradient)
    if step.weight:
        for r in range(n):
            if handle[0].number_bytes == 4:
                known[r] *= row(step.weight + r * 4, 1, np.float32)[0]
            else:
                known[r] *= row(step.weight + r * 8, 1, np.float64)[0]
    target = own.gradient if by_gradient else own.batch
    other = record_at(target, PlainStep)
    other.x = step.x
    other.y = step.y
    other.weight = step.weight
    other.label_bytes = step.label_bytes
    other.step = step.step
    other.status = DECLINED
    return int(target)


@register_jitable(**JITTED)
def _settle(handle: Any, place: int) -> float:
    """Count the step, if it was taken; return its loss."""
    step = record_at(place, PlainStep)
    learner = record_at(handle[0].learner, EmbeddedSteps)
    if step.status == DECLINED:
        raise ValueError(DECLINED_ROWS)
    if step.status == TAKEN:
        learner.n_taken += 1
    return float(step.loss)


def _in_python(
    handle: Any, X: Any, y: Any, numbers: Any, *, by_gradient: bool
) -> float:
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or y.ndim not in (1, 2):
        raise ValueError(BATCH)
    with np.errstate(over="ignore"):
        place = fill(handle, X, y, by_gradient, y.dtype.kind in "iu")
    if gaps := record_at(handle[0].learner, EmbeddedSteps).gaps:
        rows = record_at(gaps, GapRows)
        run(rows.block, (gaps,))
        if not by_gradient and rows.n_known == 0:
            return 0.0
    if numbers is not None:
        place = fill_jacobian(handle, place, _jacobian(numbers), by_gradient)
    run(record_at(place, PlainStep).block, (place,))
    return float(_settle(handle, place))


def _jacobian(numbers: Any) -> Array:
    array = np.asarray(numbers)
    if array.ndim not in (2, 3):
        raise ValueError(JACOBIAN)
    return array


def train_on_batch(handle: Any, X: Any, y: Any, derivatives: Any = None) -> float:
    """Take a step on a batch, in compiled code and outside of it; return its loss.

    Parameters and bits are as for `MLP.train_on_batch`.
    A step whose loss is not finite is not taken, and its loss returned.

    Parameters
    ----------
    handle : record array of `learner`, an argument of the compiled function
    X : (batch_size, n_in) array of real numbers
    y : (batch_size,) or (batch_size, n_targets) array of real numbers; labels are integers
        A net with heads takes a column for each target, of labels whole numbers.
    derivatives : (batch_size, n_outputs, n_in) or (batch_size, n_in) array, or None
        Derivatives of the targets by the inputs,
        NaN where unknown; the learner has their weight.

    Raises
    ------
    ValueError
        If a shape differs from the learner's batches, a number is not finite,
        the loss does not take a label or target, or the learner is closed.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastmlp import MLP, jit
    >>> @njit
    ... def learn(handle, n):
    ...     X, y = np.empty((8, 2)), np.empty(8)
    ...     for _ in range(n):
    ...         X[:] = np.random.random((8, 2))
    ...         y[:] = X[:, 0] * X[:, 1]
    ...         loss = jit.train_on_batch(handle, X, y)
    ...     return loss
    >>> net = MLP((2, 16, 1), seed=0)
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     learn(handle, 1000) < 0.01
    True
    """
    return _in_python(handle, X, y, derivatives, by_gradient=False)


def train_on_gradient(
    handle: Any, X: Any, output_gradient: Any, jacobian_gradient: Any = None
) -> None:
    """Take a step with the gradient of your objective by the raw outputs.

    Parameters
    ----------
    handle : record array of `learner`
    X : (batch_size, n_in) array of real numbers
    output_gradient : (batch_size, n_outputs) array of real numbers
    jacobian_gradient : (batch_size, n_outputs, n_in) or (batch_size, n_in) array, or None
        Gradient by the raw Jacobian;
        the learner has a `derivative_weight`, which is unused here.

    Raises
    ------
    ValueError
        As `train_on_batch` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, X = MLP((2, 4, 1), seed=0), np.ones((8, 2))
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     jit.train_on_gradient(handle, X, 2 / 8 * (net.predict_raw(X) - 1.0))
    """
    _in_python(handle, X, output_gradient, jacobian_gradient, by_gradient=True)


def is_absent(kind: Any) -> bool:
    """True for the type of an argument that is left out, or None."""
    return kind is None or isinstance(kind, types.NoneType | types.Omitted)


def require_jacobian(who: str, kind: Any) -> None:
    real = (types.Float, types.Integer, types.Boolean)
    if not (
        isinstance(kind, types.Array)
        and isinstance(kind.dtype, real)
        and kind.ndim in (2, 3)
    ):
        raise TypingError(f"{who}: derivatives must be an array of real numbers")


def require_types(who: str, handle: Any, X: Any, y: Any) -> bool:
    """True for integers as y; other types raise a TypingError."""
    real = (types.Float, types.Integer, types.Boolean)
    arrays = [isinstance(a, types.Array) and isinstance(a.dtype, real) for a in (X, y)]
    if not (isinstance(handle, types.Array) and handle.dtype == HANDLE.dtype):
        raise TypingError(
            f"{who}: the handle must be an array that jit.learner has made"
        )
    if not all(arrays) or X.ndim != 2 or y.ndim not in (1, 2):
        raise TypingError(f"{who}: X and y must be arrays of real numbers")
    return isinstance(y.dtype, types.Integer)


@register_jitable(**JITTED)
def _no_jacobian(handle: Any, place: int, numbers: Any, by_gradient: bool) -> int:
    """The address of a step without derivatives, as `fill_jacobian` of one with them."""
    return place


def _filler(who: str, kind: Any) -> Any:
    """The function that fills in a derivative, by the argument's type."""
    if is_absent(kind):
        return _no_jacobian
    require_jacobian(who, kind)
    return fill_jacobian


@overload(train_on_batch, jit_options=JITTED)
def _train_on_batch(handle: Any, X: Any, y: Any, derivatives: Any = None) -> Any:
    """Choose `jit.train_on_batch`'s body by its types: with derivatives, or without.
    Numba compiles one of them, so an absent argument costs nothing.
    """
    who = "jit.train_on_batch"
    integers = require_types(who, handle, X, y)
    add_derivatives = _filler(who, derivatives)

    def train(handle: Any, X: Any, y: Any, derivatives: Any = None) -> float:
        place = fill(handle, X, y, False, integers)
        gaps = record_at(handle[0].learner, EmbeddedSteps).gaps
        if gaps:
            rows = record_at(gaps, GapRows)
            call(rows.block, (gaps,))
            if rows.n_known == 0:
                return 0.0
        place = add_derivatives(handle, place, derivatives, False)
        call(record_at(place, PlainStep).block, (place,))
        return _settle(handle, place)

    return train


@overload(train_on_gradient, jit_options=JITTED)
def _train_on_gradient(
    handle: Any, X: Any, output_gradient: Any, jacobian_gradient: Any = None
) -> Any:
    """Choose `jit.train_on_gradient`'s body by its types: with a gradient by the
    Jacobian, or without.
    """
    who = "jit.train_on_gradient"
    require_types(who, handle, X, output_gradient)
    add_derivatives = _filler(who, jacobian_gradient)

    def train(
        handle: Any, X: Any, output_gradient: Any, jacobian_gradient: Any = None
    ) -> None:
        place = fill(handle, X, output_gradient, True, False)
        place = add_derivatives(handle, place, jacobian_gradient, True)
        call(record_at(place, PlainStep).block, (place,))
        _settle(handle, place)

    return train


class EmbeddedVjp(Record):
    """An objective of given slopes, in buffers that are ready."""

    block: int  # address of the block of `plain_vjp`
    job: int  # address of the objective's `Job`,
    driver: int  # and of the block of its chunks
    packed: int  # address of the packed gradient
    parameters: int  # addresses of the net's parameters, live,
    x: int  # of the rows,
    slopes: int  # of the slopes of their raw outputs,
    values: int  # and of the slopes of their raw Jacobian, or 0
    n_rows: int
    chunk_rows: int
    gradient: int  # addresses of the results: by the parameters,
    n_parameters: int
    # by the first layer's sums, shape (n_rows, n_units), or 0: they are the slopes;
    deltas: int
    inputs: int  # and by the inputs
    back: int  # address of the `FlatNet` that takes deltas back to the inputs
    add_skip: int  # address of the block of `jacobian.add_skip`, or 0
    skip: int  # bytes from the first parameter to the weights that it reads


def plain_vjp(scalar: Scalar) -> Callable[[int, int], None]:
    """Differentiates the batch of an `EmbeddedVjp`,
    with 1 as the second argument by the inputs, too.
    """
    size = np.dtype(scalar).itemsize
    lanes = lanes_of(scalar)

    @njit
    def copy_deltas(net: Net, first: int, n_rows: int, deltas: int) -> None:
        """Copy the first layer's deltas of a chunk from their panels to rows."""
        layer = records_at(net.layers, net.n_layers, Layer)[0]
        width = layer.n_out
        for panel in range(layer.n_panels):
            start = panel * lanes
            n = min(width - start, lanes)
            for r in range(n_rows):
                source = row(
                    layer.deltas + panel * net.panel + r * lanes * size, n, scalar
                )
                target = row(deltas + ((first + r) * width + start) * size, n, scalar)
                for k in range(n):
                    target[k] = source[k]

    def differentiate(address: int, by_inputs: int) -> None:
        """Chunk by chunk, each gradient added to the one before; the mass is 1, as the
        slopes that are given are not means.
        """
        mode = flush_denormals()
        vjp = record_at(address, EmbeddedVjp)
        job = record_at(vjp.job, Job)
        net = record_at(job.net, Net)
        batch = record_at(net.batch, Batch)
        blocks = record_at(net.blocks, BlockAddresses)
        call(blocks.pack, (job.net, vjp.parameters, net.parameters))
        call(blocks.transposes, (job.net,))
        job.mass = 1.0
        job.team = 0
        job.n_parts = 1
        first = 0
        while first < vjp.n_rows:
            n_rows = min(vjp.chunk_rows, vjp.n_rows - first)
            batch.x = vjp.x + first * net.n_in * size
            batch.n_rows = n_rows
            batch.y = vjp.slopes + first * net.n_targets * size
            if net.derivatives:
                own = record_at(net.derivatives, Derivatives)
                own.values = vjp.values + first * net.n_out * net.n_in * size
            job.more = 1 if first > 0 else 0
            job.ends = 1 if first + n_rows == vjp.n_rows else 0
            call(vjp.driver, (vjp.job,))
            if by_inputs and vjp.deltas:
                copy_deltas(net, first, n_rows, vjp.deltas)
            first += n_rows
        call(blocks.unpack, (job.net, vjp.gradient, vjp.packed))
        if by_inputs:
            back = record_at(vjp.back, FlatNet)
            back.x = vjp.deltas if vjp.deltas else vjp.slopes
            back.out = vjp.inputs
            back.n_rows = vjp.n_rows
            call(back.rows_in_lanes, (0, vjp.back, 1))
        if by_inputs and vjp.add_skip:
            where = (vjp.parameters + vjp.skip, net.n_in, net.n_out)
            call(vjp.add_skip, (*where, vjp.slopes, vjp.inputs, vjp.n_rows))
        restore_denormals(mode)

    return differentiate


def vjp_record(
    objective: Any, parameters: Array, x: Array, slopes: Array, values: Any = None
) -> Any:
    """The record of an objective, shape (1,), and all that it points to.

    Parameters
    ----------
    objective : of the sum of given slopes, of as many rows
    parameters : (n_parameters,) array, live
    x, slopes : (n_rows, n_inputs) and (n_rows, n_outputs) arrays, live, of the net's dtype
    values : (n_rows, n_outputs, n_inputs) array, or None: without slopes of the Jacobian
    """
    session = objective.session
    dtype = parameters.dtype
    widths = objective.network.layout.sizes
    session.at(next(session.chunks()))
    flat = make_flat(objective.network, parameters)
    blocks = [
        block_of(make, dtype) for make in (plain_vjp, step.objective, deltas_to_inputs)
    ]
    flat.net[0].rows_in_lanes = blocks[2].address
    gradient = np.empty_like(parameters)
    inputs = np.empty_like(x)
    deltas = np.empty((len(x), widths[1]), dtype)
    fields = {
        "block": blocks[0].address,
        "job": address(session.record),
        "driver": blocks[1].address,
        "packed": address(objective.packed),
        "parameters": address(parameters),
        "x": address(x),
        "slopes": address(slopes),
        "values": 0 if values is None else address(values),
        "n_rows": len(x),
        "chunk_rows": session.rows,
        "gradient": address(gradient),
        "n_parameters": len(parameters),
        "deltas": address(deltas) if len(widths) > 2 else 0,
        "inputs": address(inputs),
        "back": address(flat.net),
        "add_skip": 0,
        "skip": skip_weights(objective.network.layout) * dtype.itemsize,
    }
    if objective.skips:
        blocks.append(block_of(add_skip, dtype))
        fields["add_skip"] = blocks[-1].address
    record = np.zeros(1, EmbeddedVjp.dtype)
    record[0] = tuple(fields[name] for name in EmbeddedVjp.dtype.names or ())
    return record, [objective, flat, blocks, gradient, inputs, deltas]


@register_jitable(**JITTED)
def _begin(handle: Any, X: Any, output_gradient: Any, gradient: Any) -> int:
    """Copy a batch; return the address of the record."""
    fill(handle, X, output_gradient, True, False)
    return _checked(handle, record_at(handle[0].learner, EmbeddedSteps).vjp, gradient)


@register_jitable(**JITTED)
def _begin_alone(
    handle: Any, X: Any, output_gradient: Any, gradient: Any, numbers: Any
) -> int:
    return _begin(handle, X, output_gradient, gradient)


@register_jitable(**JITTED)
def _begin_both(
    handle: Any, X: Any, output_gradient: Any, gradient: Any, numbers: Any
) -> int:
    """Copy a batch with the gradient by its Jacobian;
    return the address of the record.
    """
    place = fill(handle, X, output_gradient, True, False)
    fill_jacobian(handle, place, numbers, True)
    learner = record_at(handle[0].learner, EmbeddedSteps)
    own = record_at(learner.derivatives, EmbeddedDerivatives)
    return _checked(handle, own.vjp, gradient)


@register_jitable(**JITTED)
def _checked(handle: Any, vjp: int, gradient: Any) -> int:
    if len(gradient) != record_at(vjp, EmbeddedVjp).n_parameters:
        raise ValueError(BATCH)
    return int(vjp)


@register_jitable(**JITTED)
def _write(handle: Any, address: int, gradient: Any) -> None:
    vjp = record_at(address, EmbeddedVjp)
    n = len(gradient)
    if handle[0].number_bytes == 4:
        gradient[:] = row(vjp.gradient, n, np.float32)
    else:
        gradient[:] = row(vjp.gradient, n, np.float64)


@register_jitable(**JITTED)
def _write_inputs(handle: Any, address: int, input_gradient: Any) -> None:
    vjp = record_at(address, EmbeddedVjp)
    (n, width) = input_gradient.shape
    for r in range(n):
        if handle[0].number_bytes == 4:
            input_gradient[r] = row(vjp.inputs + r * width * 4, width, np.float32)
        else:
            input_gradient[r] = row(vjp.inputs + r * width * 8, width, np.float64)


def vjp(
    handle: Any,
    X: Any,
    output_gradient: Any,
    gradient: Any,
    input_gradient: Any = None,
    jacobian_gradient: Any = None,
) -> None:
    """Write the gradient by the parameters and by the inputs,
    from that by the raw outputs.

    No step is taken. The bits equal `MLP.vjp`.
    Numbers that are not finite give results that are not finite.

    Parameters
    ----------
    handle : record array of `learner`
    X : (batch_size, n_in) array of real numbers
    output_gradient : (batch_size, n_outputs) array of real numbers
    gradient : (n_parameters,) array of floats, in the order of `MLP.parameters`
    input_gradient : (batch_size, n_in) array of floats, or None: it is not computed
    jacobian_gradient : (batch_size, n_outputs, n_in) or (batch_size, n_in) array, or None
        Gradient by the raw Jacobian;
        the learner has a `derivative_weight`, which is unused here.

    Raises
    ------
    TypeError, ValueError
        If a result is not an array of floats,
        a shape differs from the learner's batches, or the learner is closed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, X = MLP((2, 1), seed=0), np.ones((8, 2))
    >>> gradient, by_inputs = np.empty(3), np.empty((8, 2))
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     jit.vjp(handle, X, np.ones((8, 1)), gradient, by_inputs)
    >>> gradient
    array([8., 8., 8.])
    >>> bool((by_inputs == net.weights[0][:, 0]).all())
    True
    """
    require_floats(
        "jit.vjp", gradient, *() if input_gradient is None else (input_gradient,)
    )
    X = np.asarray(X)
    output_gradient = np.asarray(output_gradient)
    if X.ndim != 2 or output_gradient.ndim != 2 or gradient.ndim != 1:
        raise ValueError(BATCH)
    if input_gradient is not None and input_gradient.shape != X.shape:
        raise ValueError(BATCH)
    with np.errstate(over="ignore"):
        if jacobian_gradient is None:
            place = _begin(handle, X, output_gradient, gradient)
        else:
            numbers = _jacobian(jacobian_gradient)
            place = _begin_both(handle, X, output_gradient, gradient, numbers)
    run(record_at(place, EmbeddedVjp).block, (place, int(input_gradient is not None)))
    _write(handle, place, gradient)
    if input_gradient is not None:
        _write_inputs(handle, place, input_gradient)


@overload(vjp, jit_options=JITTED)
def _vjp(
    handle: Any,
    X: Any,
    output_gradient: Any,
    gradient: Any,
    input_gradient: Any = None,
    jacobian_gradient: Any = None,
) -> Any:
    """Check the types of `jit.vjp`, and choose its body: the gradient by the parameters
    alone, or by the inputs too.
    """
    require_types("jit.vjp", handle, X, output_gradient)
    alone = is_absent(input_gradient)
    for array, n_dim in ((gradient, 1), (input_gradient, 2))[: 1 if alone else 2]:
        kind = getattr(array, "dtype", None)
        if not (isinstance(array, types.Array) and isinstance(kind, types.Float)):
            raise TypingError(
                "jit.vjp: gradient and input_gradient must be arrays of floats"
            )
        if array.ndim != n_dim:
            raise TypingError(
                "jit.vjp: gradient is a vector, input_gradient a matrix as X"
            )

    begin: Any = _begin_alone
    if not is_absent(jacobian_gradient):
        require_jacobian("jit.vjp", jacobian_gradient)
        begin = _begin_both

    def by_parameters(
        handle: Any,
        X: Any,
        output_gradient: Any,
        gradient: Any,
        input_gradient: Any = None,
        jacobian_gradient: Any = None,
    ) -> None:
        place = begin(handle, X, output_gradient, gradient, jacobian_gradient)
        call(record_at(place, EmbeddedVjp).block, (place, 0))
        _write(handle, place, gradient)

    def by_both(
        handle: Any,
        X: Any,
        output_gradient: Any,
        gradient: Any,
        input_gradient: Any = None,
        jacobian_gradient: Any = None,
    ) -> None:
        if input_gradient.shape != X.shape:
            raise ValueError(BATCH)
        place = begin(handle, X, output_gradient, gradient, jacobian_gradient)
        call(record_at(place, EmbeddedVjp).block, (place, 1))
        _write(handle, place, gradient)
        _write_inputs(handle, place, input_gradient)

    return by_parameters if alone else by_both
