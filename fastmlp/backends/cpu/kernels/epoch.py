"""The compiled drivers: blocks that do a whole job, alone or with a team.

Training is counted in units. A unit is one chunk of rows of one batch, as a rule the whole batch:
phase one on its rows, then phase two, fused with the update where the chunk completes the batch; or
both by lots, and the update after them.
Whole epochs of units run in one call, which Python keeps to about 50 ms.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.forward_backward import BACK, FORTH, GATHER, SCORE, WHOLE
from fastmlp.backends.cpu.kernels.gradient_update import copy
from fastmlp.backends.cpu.kernels.output_layer import EVALUATE, FORWARD, TRAIN, n_strips_of
from fastmlp.backends.cpu.plan.records import LAYER, NET
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.backends.cpu.threads.team import spread
from fastmlp.compiler import call, njit, row

Scalar = type[np.floating[Any]]

# What a driver is to do, and what came of it. `net` and `team` are addresses of their records; no
# team is 0. Then which units of a window of epochs, and how its rows are cut; the addresses of
# order (n_orders, n_rows), coefficients (n_steps, n_coefficients) and losses (n_epochs,);
# `reached` is where it stopped. Then what a gradient wants: does it go on from a chunk before, and
# is this the last? Then whether a number that is not finite ends the training (`guarded`), and
# whether an epoch's loss counts its batches by their rows rather than by their weights (`by_rows`).
_WORDS = (
    "net", "team",
    "n_rows", "batch_size", "chunk_rows", "first", "last", "reached",
    "order", "n_orders", "coefficients", "n_coefficients", "losses",
    "more", "ends", "guarded", "by_rows",
)  # fmt: skip
_FLOATS = ("mass", "loss", "batch_mass", "batch_loss", "epoch_mass", "epoch_loss", "diverged")
JOB = np.dtype((np.record, [(n, np.int64) for n in _WORDS] + [(n, np.float64) for n in _FLOATS]))


def units_per_epoch(n_rows: int, batch_size: int, chunk_rows: int) -> int:
    """Return the number of units of an epoch; the last batch may be shorter."""
    full, tail = n_rows // batch_size, n_rows % batch_size
    chunks = (batch_size + chunk_rows - 1) // chunk_rows
    return full * chunks + (tail + chunk_rows - 1) // chunk_rows


_units_per_epoch = njit(units_per_epoch)
_groups_of_panels = njit(groups_of_panels)


@njit
def _mass(net: Any, n_rows: Any, like: Any) -> Any:
    """The rows of a batch, or the sum of their weights."""
    if net.weight == 0:
        return float(n_rows)
    index = row(net.index, n_rows, np.int64)
    total = 0.0
    for r in range(n_rows):
        total += row(net.weight + index[r] * like.itemsize, 1, like.dtype)[0]
    return total


@njit
def _sum(address: Any, n: Any) -> Any:
    values = row(address, n, np.float64)
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


@njit
def _all_finite(address: Any, n: Any, like: Any) -> Any:
    """Whether n numbers are finite: x - x is 0, or NaN. Counted to the end, which vectorises."""
    values, n_others = row(address, n, like.dtype), 0
    for i in range(n):
        n_others += 0 if values[i] - values[i] == 0 else 1
    return n_others == 0


@njit
def _finite_parameters(net: Any, lanes: Any, like: Any) -> Any:
    """Whether all parameters are finite; padding, which nothing reads, may be anything: a rule of
    the user's may have a slope or a step of 0 / 0 where everything is 0."""
    layers, vector = row(net.layers, net.n_layers, LAYER), lanes * like.itemsize
    for i in range(net.n_layers):
        layer = layers[i]
        # Biases are one row more, or after the panels of a turned layer. Gaps are zeros.
        n_rows = layer.master_rows + layer.gap // vector + (0 if layer.turned else 1)
        across = layer.n_in if layer.turned else layer.n_out
        for p in range(layer.master_panels):
            panel, width = layer.master + p * layer.master_panel, across - p * lanes
            if width >= lanes:
                if not _all_finite(panel, n_rows * lanes, like):
                    return False
                continue
            for k in range(n_rows):
                if not _all_finite(panel + k * vector, width, like):
                    return False
        if layer.turned and not _all_finite(layer.biases, layer.n_out, like):
            return False
    return True


@njit
def _set_mass(net: Any, mass: Any) -> None:
    scale = 1.0 / mass
    # Not written again: helpers would fetch its line anew.
    if net.scale != scale:
        net.scale = scale
    strengths = row(net.strengths, net.n_penalties, np.float64)
    scales = row(net.scales, net.n_penalties, np.float64)
    for p in range(net.n_penalties):
        scales[p] = strengths[p] / mass


@njit
def _restore(net: Any, job: Any, like: Any) -> None:
    """Go back to the parameters of the start of the epoch, and forget the optimizer's state."""
    n = net.n_packed
    copy(net.backup, net.parameters, n, like)
    row(net.m, n, like.dtype)[:] = 0
    row(net.v, n, like.dtype)[:] = 0
    call(net.transposes, (job.net,))
    job.diverged = 1.0


@njit
def _start_batch(net: Any, job: Any, n_rows: Any, new_epoch: Any, like: Any) -> None:
    if new_epoch:
        if job.guarded:
            copy(net.parameters, net.backup, net.n_packed, like)
        job.epoch_loss = 0.0
        job.epoch_mass = 0.0
    job.batch_mass = _mass(net, n_rows, like)
    job.batch_loss = 0.0
    if job.batch_mass != 0:
        _set_mass(net, job.batch_mass)


@njit
def _end_batch(net: Any, job: Any, n_rows: Any) -> None:
    if job.batch_mass != 0:
        if net.n_penalties > 0:
            job.batch_loss += _sum(net.tile_penalties, net.n_tiles)
        share = float(n_rows) if job.by_rows else job.batch_mass
        job.epoch_loss += job.batch_loss * share
        job.epoch_mass += share


@njit
def _may_go_on(net: Any, job: Any, epoch_ends: Any, lanes: Any, like: Any) -> Any:
    """Whether everything is finite, or nobody minds."""
    if not job.guarded:
        return True
    if not job.batch_loss - job.batch_loss == 0:
        return False
    return not epoch_ends or _finite_parameters(net, lanes, like)


@njit
def _spread_stage(net: Any, job: Any, stage: Any, layer: Any, n_panels: Any) -> None:
    """Do a stage of phase one, shared by strips of rows or by groups of panels."""
    net.stage, net.layer = stage, layer
    n = n_strips_of(net.n_rows)
    if n_panels > 0:
        n = _groups_of_panels(n_panels)
    spread(job.team, net.rows, n, job.net)
    net.stage = WHOLE


@njit
def _spread_layers(net: Any, job: Any) -> None:
    """Do phase one a layer at a time.

    Each of the team then reads its own weights only, which lie in its cache. By rows everybody
    reads all, half of which another core has just written: 0.4 of the 2.1 ms of 784-512-512-10.
    """
    layers, last = row(net.layers, net.n_layers, LAYER), net.n_layers - 1
    if net.divided == 0:
        _spread_stage(net, job, GATHER, 0, 0)
    # A last layer that is turned goes forth with its scores.
    for i in range(max(net.divided - 1, 0), net.n_layers - layers[last].turned):
        _spread_stage(net, job, FORTH, i, layers[i].n_panels)
    _spread_stage(net, job, SCORE, 0, 0)
    for i in range(last if net.mode == TRAIN else 0, 0, -1):
        _spread_stage(net, job, BACK, i, layers[i - 1].n_panels)


@njit
def _spread_rows(net: Any, job: Any, mode: Any) -> Any:
    """Do phase one; return the loss of the chunk's rows, weighted."""
    net.mode = mode
    n_strips = n_strips_of(net.n_rows)
    net.divided = net.halved if job.team != 0 else 0
    if net.divided > 0:
        spread(job.team, net.halves, 2 * n_strips, job.net)
    if net.by_layers and job.team != 0 and mode != FORWARD:
        _spread_layers(net, job)
    else:
        spread(job.team, net.rows, n_strips, job.net)
        if net.divided > 1:
            below = row(net.layers, net.n_layers, LAYER)[net.divided - 2]
            _spread_stage(net, job, BACK, net.divided - 1, below.n_panels)
    return 0.0 if mode == FORWARD else _sum(net.strip_losses, n_strips)


@njit
def _spread_tiles(net: Any, job: Any, more: Any, ends: Any, update: Any) -> None:
    """Do phase two; where the chunk `ends` a batch, with its penalties."""
    # Not written again: helpers would fetch their line anew.
    if net.more != more or net.penalise != ends or net.update != update:
        net.more, net.penalise, net.update = more, ends, update
    if net.sparse_columns:
        call(net.sparse_columns, (job.net,))
    call(net.tile, (job.team, job.net))


@njit
def _add_partials(net: Any, n_lots: Any, more: Any, like: Any) -> None:
    """Sum the lots' gradients in their order, after those of the chunks before with `more`."""
    total = row(net.gradient, net.n_packed, like.dtype)
    if not more:
        total[:] = 0
    for lot in range(n_lots):
        skip = lot * net.n_packed * like.itemsize
        partial = row(net.partials + skip, net.n_packed, like.dtype)
        for i in range(net.n_packed):
            total[i] += partial[i]


@njit
def _spread_lots(net: Any, job: Any, more: Any, ends: Any, update: Any, like: Any) -> Any:
    """Do both phases by lots, and where the batch `ends` what its gradient is for, which is little
    beside them; return the loss of the chunk's rows, weighted."""
    n_rows = net.n_rows
    n_lots = (n_rows + net.lot_rows - 1) // net.lot_rows
    spread(job.team, net.lots, n_lots, job.net)
    _add_partials(net, n_lots, more, like)
    if ends:
        net.n_rows, net.more, net.penalise, net.update = 0, 1, 1, update
        call(net.tile, (0, job.net))
        net.n_rows = n_rows
    return _sum(net.strip_losses, n_strips_of(n_rows))


@njit
def _differentiate(net: Any, job: Any, more: Any, ends: Any, update: Any, like: Any) -> Any:
    """Do both phases of a chunk of a batch; return the loss of its rows, weighted."""
    if net.lot_rows > 0:
        return _spread_lots(net, job, more, ends, update, like)
    loss = _spread_rows(net, job, TRAIN)
    _spread_tiles(net, job, more, ends, update)
    return loss


@njit
def _unit(net: Any, job: Any, more: Any, ends: Any, like: Any) -> None:
    """One chunk of a batch: both phases, with the update where the batch `ends`."""
    if job.batch_mass != 0:
        job.batch_loss += _differentiate(net, job, more, ends, ends, like) / job.batch_mass


@njit
def _nothing(net: Any, job: Any) -> None:
    """All parameters are up to date."""


def run(scalar: Scalar) -> Any:
    """Make the driver of training by batches."""
    return training(scalar, _unit, _nothing)


def training(scalar: Scalar, unit: Any, settle: Any) -> Any:
    """Make the driver of training whose units are done so.

    It does the units from first to last of a window of epochs, or up to a divergence. `order` says
    in which order each epoch takes the rows, `coefficients` holds the optimizer's for each step of
    this call, `losses` receives the mean objective of each epoch that ends. What a unit leaves to
    do to the parameters is done by `settle`, before anybody looks at them.
    """
    lanes = lanes_of(scalar)

    def run_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        net, like = row(job.net, 1, NET)[0], row(address, 0, scalar)
        per_epoch = _units_per_epoch(job.n_rows, job.batch_size, job.chunk_rows)
        chunks = (job.batch_size + job.chunk_rows - 1) // job.chunk_rows
        net.coefficients, net.due = job.coefficients, 0
        job.diverged = 0.0
        # Counted on from here: divisions took a tenth of the step of a tiny net.
        epoch, within = job.first // per_epoch, job.first % per_epoch
        start = within // chunks * job.batch_size
        low = start + within % chunks * job.chunk_rows
        order = job.order + epoch % job.n_orders * job.n_rows * 8
        last_order = job.order + (job.n_orders - 1) * job.n_rows * 8
        net.order_stop = order + job.n_rows * 8
        for u in range(job.first, job.last):
            stop = min(start + job.batch_size, job.n_rows)
            high = min(low + job.chunk_rows, stop)
            net.index = order + low * 8
            net.n_rows = high - low
            if low == start:
                _start_batch(net, job, stop - start, start == 0, like)
            unit(net, job, low > start, high == stop, like)
            low = high
            if high < stop:
                continue
            _end_batch(net, job, stop - start)
            start = stop
            net.coefficients += job.n_coefficients * like.itemsize
            epoch_ends = stop == job.n_rows
            if epoch_ends and job.guarded:
                settle(net, job)
            sound = _may_go_on(net, job, epoch_ends, lanes, like)
            if epoch_ends or not sound:
                row(job.losses + epoch * 8, 1, np.float64)[0] = job.epoch_loss / job.epoch_mass
            if not sound:
                _restore(net, job, like)
                job.reached, net.order_stop = u, 0
                return
            if epoch_ends:
                epoch, start, low = epoch + 1, 0, 0
                order = job.order if order == last_order else order + job.n_rows * 8
                net.order_stop = order + job.n_rows * 8
        settle(net, job)
        job.reached, net.order_stop = job.last, 0

    return run_job


def evaluate(scalar: Scalar) -> Any:
    """Make the driver that sums the losses of the chunk's rows, weighted."""

    def evaluate_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        net = row(job.net, 1, NET)[0]
        net.scale = 1.0
        job.loss = _spread_rows(net, job, EVALUATE)

    return evaluate_job


def predict(scalar: Scalar) -> Any:
    """Make the driver that writes the predictions of rows to where the net's record says."""

    def predict_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        _spread_rows(row(job.net, 1, NET)[0], job, FORWARD)

    return predict_job


def gradient(scalar: Scalar) -> Any:
    """Make the driver that adds the gradient of the chunk's rows; `loss` is their objective."""

    def gradient_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        net, like = row(job.net, 1, NET)[0], row(address, 0, scalar)
        _set_mass(net, job.mass)
        job.loss = _differentiate(net, job, job.more, job.ends, 0, like) / job.mass
        if job.ends and net.n_penalties > 0:
            job.loss += _sum(net.tile_penalties, net.n_tiles)

    return gradient_job
