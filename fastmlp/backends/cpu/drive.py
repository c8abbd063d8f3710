"""The compiled drivers: what Python calls. Serial and parallel twins of one source.

Training is counted in units. A unit is one chunk of rows of one batch, as a rule the whole batch:
phase one on its rows, then phase two, fused with the update where the chunk completes the batch.
Whole epochs of units run in one call, which Python keeps to about 50 ms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from fastmlp._compile import call, kernel, leaf, row
from fastmlp.backends.cpu.rows import EVALUATE, FORWARD, ROW_BLOCK, TRAIN, Rows, work_on_rows
from fastmlp.backends.cpu.tiles import Work, transpose_all, work_on_tiles

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

    run: Callable[..., int]
    evaluate: Callable[..., float]
    predict: Callable[..., None]
    gradient: Callable[..., float]
    update: Callable[..., None]


def units_per_epoch(n_rows: int, batch_size: int, chunk_rows: int) -> int:
    """Return the number of units of an epoch; the last batch may be shorter."""
    full, tail = n_rows // batch_size, n_rows % batch_size
    chunks = (batch_size + chunk_rows - 1) // chunk_rows
    return full * chunks + (tail + chunk_rows - 1) // chunk_rows


_units_per_epoch = leaf(units_per_epoch)


@leaf
def _mass(weight: Any, index: Any) -> Any:
    """The rows of a batch, or the sum of their weights."""
    if weight.size == 0:
        return float(index.size)
    total = 0.0
    for r in range(index.size):
        total += weight[index[r]]
    return total


@leaf
def _sum(values: Any, n: Any) -> Any:
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


@leaf
def _block_loss(plan: Any, n_rows: Any) -> Any:
    return _sum(plan.block_losses, (n_rows + ROW_BLOCK - 1) // ROW_BLOCK)


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
def _set_penalty_scales(plan: Any, mass: Any) -> None:
    for p in range(plan.strengths.size):
        plan.penalty_scales[p] = plan.strengths[p] / mass


@leaf
def _restore(plan: Any, progress: Any, like: Any) -> None:
    """Go back to the parameters of the start of the epoch, and forget the optimizer's state."""
    net = plan.net[0]
    n = net.n_parameters
    _copy(net.backup, net.parameters, n, like)
    row(net.m, n, like.dtype)[:] = 0
    row(net.v, n, like.dtype)[:] = 0
    progress[0].diverged = 1.0


@leaf
def _start_batch(plan: Any, progress: Any, weight: Any, batch: Any, new_epoch: Any, like: Any) -> None:
    state, net = progress[0], plan.net[0]
    if new_epoch:
        _copy(net.parameters, net.backup, net.n_parameters, like)
        state.epoch_loss = 0.0
        state.epoch_mass = 0.0
    state.batch_mass = _mass(weight, batch)
    state.batch_loss = 0.0
    if state.batch_mass > 0:
        _set_penalty_scales(plan, state.batch_mass)


def _make_run(rows_phase: Callable[..., None], tiles_phase: Callable[..., None]) -> Any:
    @leaf
    def unit(plan: Any, progress: Any, rows: Any, more: Any, ends: Any, c: Any, like: Any) -> None:
        """One chunk of a batch: both phases, and with `ends` the update."""
        state = progress[0]
        if state.batch_mass <= 0:
            return
        scale = like.dtype.type(1.0 / state.batch_mass)
        rows_phase(plan, rows, TRAIN, scale, like)
        tiles_phase(plan, rows, Work(True, more, ends, ends), c, like)
        state.batch_loss += _block_loss(plan, rows.index.size) / state.batch_mass
        if ends:
            state.batch_loss += _sum(plan.tile_penalties, plan.tiles.size)
            state.epoch_loss += state.batch_loss * state.batch_mass
            state.epoch_mass += state.batch_mass

    def run(
        plan: Any,
        x: Any,
        y: Any,
        weight: Any,
        order: Any,
        coefficients: Any,
        losses: Any,
        progress: Any,
        job: Any,
    ) -> Any:
        """Do the units from job.first to job.last of a window of epochs, or up to a divergence.

        `order` (n_epochs or 1, n_rows) says in which order each epoch takes the rows,
        `coefficients` (n_steps, n) holds the optimizer's for each step of this call, `losses`
        (n_epochs,) receives the mean objective of each epoch that ends.
        """
        like = coefficients
        per_epoch = _units_per_epoch(job.n_rows, job.batch_size, job.chunk_rows)
        chunks = (job.batch_size + job.chunk_rows - 1) // job.chunk_rows
        state, net = progress[0], plan.net[0]
        transpose_all(plan, like)
        step = 0
        for u in range(job.first, job.last):
            epoch, within = u // per_epoch, u % per_epoch
            e = epoch % order.shape[0]
            start = within // chunks * job.batch_size
            stop = min(start + job.batch_size, job.n_rows)
            low = start + within % chunks * job.chunk_rows
            high = min(low + job.chunk_rows, stop)
            if low == start:
                _start_batch(plan, progress, weight, order[e, start:stop], start == 0, like)
            rows = Rows(x, y, weight, order[e, low:high])
            ends = high == stop
            unit(plan, progress, rows, low > start, ends, coefficients[step], like)
            step += ends
            if ends and not state.batch_loss - state.batch_loss == 0:
                losses[epoch] = state.batch_loss
                _restore(plan, progress, like)
                return u
            if ends and stop == job.n_rows:
                losses[epoch] = state.epoch_loss / state.epoch_mass
                if not _all_finite(net.parameters, net.n_parameters, like):
                    _restore(plan, progress, like)
                    return u
        return job.last

    return run


def _make_drivers(parallel: bool) -> Drivers:
    def phase(function: Callable[..., None]) -> Any:
        if not parallel:
            return leaf(function)
        return numba.njit(nogil=True, error_model="numpy", parallel=True)(function)

    rows_phase, tiles_phase = phase(work_on_rows), phase(work_on_tiles)

    def evaluate(plan: Any, x: Any, y: Any, weight: Any, index: Any, like: Any) -> Any:
        """Return the sum of the losses of the rows `index`, weighted."""
        rows_phase(plan, Rows(x, y, weight, index), EVALUATE, like.dtype.type(1.0), like)
        return _block_loss(plan, index.size)

    def predict(plan: Any, x: Any, index: Any, out: Any, like: Any) -> None:
        """Write the predictions of the rows `index` to `out`, flat."""
        net = plan.net[0]
        rows_phase(plan, Rows(x, x, like, index), FORWARD, like.dtype.type(1.0), like)
        outer = plan.layers[net.n_layers - 1]
        call(net.link, (outer.outputs, out.ctypes.data, index.size, net.n_out))

    def gradient(
        plan: Any, x: Any, y: Any, weight: Any, index: Any, mass: Any, more: Any, ends: Any, like: Any
    ) -> Any:
        """Add the gradient of the rows `index`; return their share of the objective."""
        transpose_all(plan, like)
        rows = Rows(x, y, weight, index)
        _set_penalty_scales(plan, mass)
        rows_phase(plan, rows, TRAIN, like.dtype.type(1.0 / mass), like)
        tiles_phase(plan, rows, Work(True, more, ends, False), like, like)
        loss = _block_loss(plan, index.size) / mass
        return loss + _sum(plan.tile_penalties, plan.tiles.size)

    def update(plan: Any, x: Any, y: Any, weight: Any, index: Any, coefficients: Any) -> None:
        """Apply the optimizer to the gradient as it stands."""
        rows = Rows(x, y, weight, index)
        tiles_phase(plan, rows, Work(False, False, False, True), coefficients, coefficients)

    twin = "parallel" if parallel else "serial"
    drivers = (_make_run(rows_phase, tiles_phase), evaluate, predict, gradient, update)
    return Drivers(*[kernel(f"cpu.{d.__name__}.{twin}")(d) for d in drivers])


SERIAL = _make_drivers(parallel=False)
PARALLEL = _make_drivers(parallel=True)
