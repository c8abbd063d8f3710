"""Gradients of a batch inside the user's compiled code: vector-Jacobian products."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import step
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Job, Layer, Net, address
from fastmlp.backends.cpu.predict.embedded_calls import require_floats, run
from fastmlp.backends.cpu.predict.embedded_steps import (
    BATCH,
    JITTED,
    EmbeddedSteps,
    fill,
    require_types,
)
from fastmlp.backends.cpu.predict.jacobian import deltas_to_inputs
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import block_of, call, flush_denormals, njit, restore_denormals
from fastmlp.compiler.memory import Record, record_at, records_at, row
from fastmlp.compiler.target import lanes_of

Array = NDArray[Any]


class EmbeddedVjp(Record):
    """An objective of given slopes, in buffers that are ready."""

    block: int  # address of the block of `plain_vjp`
    job: int  # address of the objective's `Job`,
    driver: int  # and of the block of its chunks
    packed: int  # address of the packed gradient
    parameters: int  # addresses of the net's parameters, live,
    x: int  # of the rows,
    slopes: int  # and of the slopes of their raw outputs
    n_rows: int
    chunk_rows: int
    gradient: int  # addresses of the results: by the parameters,
    n_parameters: int
    deltas: int  # by the first layer's sums, shape (n_rows, n_units), or 0: they are the slopes;
    inputs: int  # and by the inputs
    back: int  # address of the `FlatNet` that takes deltas back to the inputs


def plain_vjp(scalar: Scalar) -> Callable[[int, int], None]:
    """Differentiates the batch of an `EmbeddedVjp`, with 1 as the second argument by the inputs,
    too."""
    size, lanes = np.dtype(scalar).itemsize, lanes_of(scalar)

    @njit
    def copy_deltas(net: Net, first: int, n_rows: int, deltas: int) -> None:
        """Copy the first layer's deltas of a chunk from their panels to rows."""
        layer = records_at(net.layers, net.n_layers, Layer)[0]
        width = layer.n_out
        for panel in range(layer.n_panels):
            start = panel * lanes
            n = min(width - start, lanes)
            for r in range(n_rows):
                source = row(layer.deltas + panel * net.panel + r * lanes * size, n, scalar)
                target = row(deltas + ((first + r) * width + start) * size, n, scalar)
                for k in range(n):
                    target[k] = source[k]

    def differentiate(address: int, by_inputs: int) -> None:
        mode, vjp = flush_denormals(), record_at(address, EmbeddedVjp)
        job = record_at(vjp.job, Job)
        net = record_at(job.net, Net)
        batch, blocks = record_at(net.batch, Batch), record_at(net.blocks, BlockAddresses)
        call(blocks.pack, (job.net, vjp.parameters, net.parameters))
        call(blocks.transposes, (job.net,))
        job.mass, job.team, job.n_parts = 1.0, 0, 1
        first = 0
        while first < vjp.n_rows:
            n_rows = min(vjp.chunk_rows, vjp.n_rows - first)
            batch.x, batch.n_rows = vjp.x + first * net.n_in * size, n_rows
            batch.y = vjp.slopes + first * net.n_targets * size
            job.more, job.ends = 1 if first > 0 else 0, 1 if first + n_rows == vjp.n_rows else 0
            call(vjp.driver, (vjp.job,))
            if by_inputs and vjp.deltas:
                copy_deltas(net, first, n_rows, vjp.deltas)
            first += n_rows
        call(blocks.unpack, (job.net, vjp.gradient, vjp.packed))
        if by_inputs:
            back = record_at(vjp.back, FlatNet)
            back.x, back.out = vjp.deltas if vjp.deltas else vjp.slopes, vjp.inputs
            back.n_rows = vjp.n_rows
            call(back.rows_in_lanes, (0, vjp.back, 1))
        restore_denormals(mode)

    return differentiate


def vjp_record(objective: Any, parameters: Array, x: Array, slopes: Array) -> Any:
    """The record of an objective, shape (1,), and all that it points to.

    Parameters
    ----------
    objective : of the sum of given slopes, of as many rows
    parameters : (n_parameters,) array, live
    x, slopes : (n_rows, n_inputs) and (n_rows, n_outputs) arrays, live, of the net's dtype
    """
    session, dtype, widths = objective.session, parameters.dtype, objective.network.layout.sizes
    session.at(next(session.chunks()))
    flat = make_flat(objective.network, parameters)
    blocks = [block_of(make, dtype) for make in (plain_vjp, step.objective, deltas_to_inputs)]
    flat.net[0].rows_in_lanes = blocks[2].address
    gradient, inputs = np.empty_like(parameters), np.empty_like(x)
    deltas = np.empty((len(x), widths[1]), dtype)
    fields = {
        "block": blocks[0].address,
        "job": address(session.record),
        "driver": blocks[1].address,
        "packed": address(objective.packed),
        "parameters": address(parameters),
        "x": address(x),
        "slopes": address(slopes),
        "n_rows": len(x),
        "chunk_rows": session.rows,
        "gradient": address(gradient),
        "n_parameters": len(parameters),
        "deltas": address(deltas) if len(widths) > 2 else 0,
        "inputs": address(inputs),
        "back": address(flat.net),
    }
    record = np.zeros(1, EmbeddedVjp.dtype)
    record[0] = tuple(fields[name] for name in EmbeddedVjp.dtype.names or ())
    return record, [objective, flat, blocks, gradient, inputs, deltas]


@register_jitable(**JITTED)
def _begin(handle: Any, X: Any, output_gradient: Any, gradient: Any) -> int:
    """Copy a batch; return the address of the record."""
    fill(handle, X, output_gradient, True, False)
    vjp = record_at(handle[0].learner, EmbeddedSteps).vjp
    if len(gradient) != record_at(vjp, EmbeddedVjp).n_parameters:
        raise ValueError(BATCH)
    return int(vjp)


@register_jitable(**JITTED)
def _write(handle: Any, address: int, gradient: Any) -> None:
    vjp, n = record_at(address, EmbeddedVjp), len(gradient)
    if handle[0].number_bytes == 4:
        gradient[:] = row(vjp.gradient, n, np.float32)
    else:
        gradient[:] = row(vjp.gradient, n, np.float64)


@register_jitable(**JITTED)
def _write_inputs(handle: Any, address: int, input_gradient: Any) -> None:
    vjp, (n, width) = record_at(address, EmbeddedVjp), input_gradient.shape
    for r in range(n):
        if handle[0].number_bytes == 4:
            input_gradient[r] = row(vjp.inputs + r * width * 4, width, np.float32)
        else:
            input_gradient[r] = row(vjp.inputs + r * width * 8, width, np.float64)


def vjp(
    handle: Any, X: Any, output_gradient: Any, gradient: Any, input_gradient: Any = None
) -> None:
    """Write the gradient by the parameters and by the inputs, from that by the raw outputs.

    No step is taken. The bits equal `MLP.vjp`. Numbers that are not finite give results that are
    not finite.

    Parameters
    ----------
    handle : record array of `learner`
    X : (batch_size, n_in) array of real numbers
    output_gradient : (batch_size, n_outputs) array of real numbers
    gradient : (n_parameters,) array of floats, in the order of `MLP.parameters`
    input_gradient : (batch_size, n_in) array of floats, or None: it is not computed

    Raises
    ------
    TypeError, ValueError
        If a result is not an array of floats, a shape differs from the learner's batches, or the
        learner is closed.

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
    require_floats("jit.vjp", gradient, *() if input_gradient is None else (input_gradient,))
    X, output_gradient = np.asarray(X), np.asarray(output_gradient)
    if X.ndim != 2 or output_gradient.ndim != 2 or gradient.ndim != 1:
        raise ValueError(BATCH)
    if input_gradient is not None and input_gradient.shape != X.shape:
        raise ValueError(BATCH)
    with np.errstate(over="ignore"):
        place = _begin(handle, X, output_gradient, gradient)
    run(record_at(place, EmbeddedVjp).block, (place, int(input_gradient is not None)))
    _write(handle, place, gradient)
    if input_gradient is not None:
        _write_inputs(handle, place, input_gradient)


@overload(vjp, jit_options=JITTED)
def _vjp(
    handle: Any, X: Any, output_gradient: Any, gradient: Any, input_gradient: Any = None
) -> Any:
    require_types("jit.vjp", handle, X, output_gradient)
    alone = input_gradient is None or isinstance(input_gradient, types.NoneType | types.Omitted)
    for array, n_dim in ((gradient, 1), (input_gradient, 2))[: 1 if alone else 2]:
        kind = getattr(array, "dtype", None)
        if not (isinstance(array, types.Array) and isinstance(kind, types.Float)):
            raise TypingError("jit.vjp: gradient and input_gradient must be arrays of floats")
        if array.ndim != n_dim:
            raise TypingError("jit.vjp: gradient is a vector, input_gradient a matrix as X")

    def by_parameters(
        handle: Any, X: Any, output_gradient: Any, gradient: Any, input_gradient: Any = None
    ) -> None:
        place = _begin(handle, X, output_gradient, gradient)
        call(record_at(place, EmbeddedVjp).block, (place, 0))
        _write(handle, place, gradient)

    def by_both(
        handle: Any, X: Any, output_gradient: Any, gradient: Any, input_gradient: Any = None
    ) -> None:
        if input_gradient.shape != X.shape:
            raise ValueError(BATCH)
        place = _begin(handle, X, output_gradient, gradient)
        call(record_at(place, EmbeddedVjp).block, (place, 1))
        _write(handle, place, gradient)
        _write_inputs(handle, place, input_gradient)

    return by_parameters if alone else by_both
