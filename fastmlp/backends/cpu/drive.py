"""The compiled drivers: what Python calls. Serial and parallel twins of one source.

Training is counted in units. A unit is one chunk of rows of one batch, as a rule the whole batch:
phase one on its rows, then phase two, fused with the update where the chunk completes the batch.
Whole epochs of units run in one call, which Python keeps to about 50 ms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange

from fastmlp._compile import call, kernel, leaf, row
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.rows import EVALUATE, FORWARD, TRAIN
from fastmlp.workspace import STRIP_ROWS

PROGRESS = np.dtype(
    (
        np.record,
        [
            (name, np.float64)
            for name in ("batch_mass", "batch_loss", "epoch_mass", "epoch_loss", "diverged")
        ],
    )
)


class Job(NamedTuple):
    """Which units of a window of epochs a call is to do, and how the rows are cut."""

    n_rows: int
    batch_size: int
    chunk_rows: int
    first: int
    last: int


class Drivers(NamedTuple):
    """The compiled entry points of one way to launch."""

    run: Any
    evaluate: Any
    predict: Any
    gradient: Any


def units_per_epoch(n_rows: int, batch_size: int, chunk_rows: int) -> int:
    """Return the number of units of an epoch; the last batch may be shorter."""
    full, tail = n_rows // batch_size, n_rows % batch_size
    chunks = (batch_size + chunk_rows - 1) // chunk_rows
    return full * chunks + (tail + chunk_rows - 1) // chunk_rows


_units_per_epoch = leaf(units_per_epoch)


@leaf
def _mass(net: Any, n_rows: Any, like: Any) -> Any:
    """The rows of a batch, or the sum of their weights."""
    if net.weight == 0:
        return float(n_rows)
    index = row(net.index, n_rows, np.int64)
    total = 0.0
    for r in range(n_rows):
        total += row(net.weight + index[r] * like.itemsize, 1, like.dtype)[0]
    return total


@leaf
def _sum(address: Any, n: Any) -> Any:
    values = row(address, n, np.float64)
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


@leaf
def _n_strips(n_rows: Any) -> Any:
    return (n_rows + STRIP_ROWS - 1) // STRIP_ROWS


@leaf
def _copy(source: Any, target: Any, n: Any, like: Any) -> None:
    a, b = row(source, n, like.dtype), row(target, n, like.dtype)
    for i in range(n):
        b[i] = a[i]


@leaf
def _all_finite(address: Any, n: Any, like: Any) -> Any:
    """Whether n numbers are finite: x - x is 0, or NaN."""
    values = row(address, n, like.dtype)
    for i in range(n):
        if not values[i] - values[i] == 0:
            return False
    return True


@leaf
def _finite_parameters(net: Any, like: Any) -> Any:
    """Whether all parameters are finite; padding, which nothing reads, may be anything: a rule of
    the user's may have a slope or a step of 0 / 0 where everything is 0."""
    layers = row(net.layers, net.n_layers, LAYER)
    for i in range(net.n_layers):
        layer = layers[i]
        vector = layer.weight_panel // (layer.n_in + 1)
        lanes = vector // like.itemsize
        for p in range(layer.n_panels):
            panel, width = layer.weights + p * layer.weight_panel, layer.n_out - p * lanes
            if width >= lanes:
                if not _all_finite(panel, (layer.n_in + 1) * lanes, like):
                    return False
                continue
            for k in range(layer.n_in + 1):
                if not _all_finite(panel + k * vector, width, like):
                    return False
    return True


@leaf
def _set_mass(net: Any, mass: Any) -> None:
    net.scale = 1.0 / mass
    strengths = row(net.strengths, net.n_penalties, np.float64)
    scales = row(net.scales, net.n_penalties, np.float64)
    for p in range(net.n_penalties):
        scales[p] = strengths[p] / mass


@leaf
def _restore(net: Any, state: Any, like: Any) -> None:
    """Go back to the parameters of the start of the epoch, and forget the optimizer's state."""
    n = net.n_packed
    _copy(net.backup, net.parameters, n, like)
    row(net.m, n, like.dtype)[:] = 0
    row(net.v, n, like.dtype)[:] = 0
    state.diverged = 1.0


@leaf
def _start_batch(net: Any, state: Any, n_rows: Any, new_epoch: Any, like: Any) -> None:
    if new_epoch:
        _copy(net.parameters, net.backup, net.n_packed, like)
        state.epoch_loss = 0.0
        state.epoch_mass = 0.0
    state.batch_mass = _mass(net, n_rows, like)
    state.batch_loss = 0.0
    if state.batch_mass > 0:
        _set_mass(net, state.batch_mass)


@leaf
def _end_batch(net: Any, state: Any) -> None:
    if state.batch_mass > 0:
        if net.n_penalties > 0:
            state.batch_loss += _sum(net.tile_penalties, net.n_tiles)
        state.epoch_loss += state.batch_loss * state.batch_mass
        state.epoch_mass += state.batch_mass


@leaf
def _finite_epoch(net: Any, state: Any, epoch_ends: Any, like: Any) -> Any:
    if not state.batch_loss - state.batch_loss == 0:
        return False
    return not epoch_ends or _finite_parameters(net, like)


def _spread_serially(block: Any, n: Any, address: Any) -> None:
    call(block, (address, 0, n, 0))


def _spread(block: Any, n: Any, address: Any) -> None:
    """Call a block for 0 to n - 1, a range for each thread."""
    size = get_num_threads()
    for t in prange(size):
        call(block, (address, t * n // size, (t + 1) * n // size, t))


def _make_run(spread: Callable[..., None]) -> Any:
    @leaf
    def unit(net: Any, address: Any, state: Any, more: Any, ends: Any) -> None:
        """One chunk of a batch: both phases, with the update where the batch `ends`."""
        if state.batch_mass <= 0:
            return
        net.mode = TRAIN
        spread(net.rows, _n_strips(net.n_rows), address)
        net.more, net.penalise, net.update = more, ends, ends
        spread(net.tile, net.n_tiles, address)
        state.batch_loss += _sum(net.strip_losses, _n_strips(net.n_rows)) / state.batch_mass

    def run(
        address: Any, order: Any, coefficients: Any, losses: Any, progress: Any, job: Any
    ) -> Any:
        """Do the units from job.first to job.last of a window of epochs, or up to a divergence.

        `order` (n_epochs or 1, n_rows) says in which order each epoch takes the rows,
        `coefficients` (n_steps, n) holds the optimizer's for each step of this call, `losses`
        (n_epochs,) receives the mean objective of each epoch that ends.
        """
        net, state, like = row(address, 1, NET)[0], progress[0], coefficients
        per_epoch = _units_per_epoch(job.n_rows, job.batch_size, job.chunk_rows)
        chunks = (job.batch_size + job.chunk_rows - 1) // job.chunk_rows
        net.coefficients = coefficients.ctypes.data
        state.diverged = 0.0
        for u in range(job.first, job.last):
            epoch, within = u // per_epoch, u % per_epoch
            start = within // chunks * job.batch_size
            stop = min(start + job.batch_size, job.n_rows)
            low = start + within % chunks * job.chunk_rows
            high = min(low + job.chunk_rows, stop)
            net.index = order.ctypes.data + (epoch % order.shape[0] * job.n_rows + low) * 8
            net.n_rows = high - low
            if low == start:
                _start_batch(net, state, stop - start, start == 0, like)
            unit(net, address, state, low > start, high == stop)
            if high < stop:
                continue
            _end_batch(net, state)
            net.coefficients += coefficients.shape[1] * coefficients.itemsize
            epoch_ends = stop == job.n_rows
            finite = _finite_epoch(net, state, epoch_ends, like)
            if epoch_ends or not finite:
                losses[epoch] = state.epoch_loss / state.epoch_mass
            if not finite:
                _restore(net, state, like)
                call(net.transposes, (address,))
                return u
        return job.last

    return run


def _make_drivers(parallel: bool) -> Drivers:
    spread = leaf(_spread, parallel=True) if parallel else leaf(_spread_serially)

    def evaluate(address: Any) -> Any:
        """Return the sum of the losses of the chunk's rows, weighted."""
        net = row(address, 1, NET)[0]
        net.scale = 1.0
        net.mode = EVALUATE
        spread(net.rows, _n_strips(net.n_rows), address)
        return _sum(net.strip_losses, _n_strips(net.n_rows))

    def predict(address: Any) -> None:
        """Write the predictions of the rows to the address `out` of the record."""
        net = row(address, 1, NET)[0]
        net.mode = FORWARD
        spread(net.rows, _n_strips(net.n_rows), address)

    def gradient(address: Any, mass: Any, more: Any, ends: Any) -> Any:
        """Add the gradient of the chunk's rows; return their share of the objective."""
        net = row(address, 1, NET)[0]
        _set_mass(net, mass)
        net.mode = TRAIN
        spread(net.rows, _n_strips(net.n_rows), address)
        net.more, net.penalise, net.update = more, ends, 0
        spread(net.tile, net.n_tiles, address)
        loss = _sum(net.strip_losses, _n_strips(net.n_rows)) / mass
        if ends and net.n_penalties > 0:
            loss += _sum(net.tile_penalties, net.n_tiles)
        return loss

    twin = "parallel" if parallel else "serial"
    drivers: tuple[Any, ...] = (_make_run(spread), evaluate, predict, gradient)
    return Drivers(*[kernel(f"cpu.{d.__name__}.{twin}")(d) for d in drivers])


SERIAL = _make_drivers(parallel=False)
PARALLEL = _make_drivers(parallel=True)
