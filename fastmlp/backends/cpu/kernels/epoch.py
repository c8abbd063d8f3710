"""The drivers: blocks that run a whole job on one thread or a team.

Training is counted in units: one chunk of rows of one batch, as a rule the whole batch. The update
follows a batch's last chunk. Python keeps a call to about 50 ms.
"""

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, layers_of, n_strips_of
from fastmlp.backends.cpu.kernels.forward_backward import EVALUATE, FORWARD
from fastmlp.backends.cpu.kernels.step import set_mass, steps, sum_of
from fastmlp.backends.cpu.plan.records import FEATURES, Batch, BlockAddresses, Job, Net
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import call, hinted, njit
from fastmlp.compiler.memory import record_at, row, stack
from fastmlp.compiler.target import lanes_of


def units_per_epoch(n_rows: int, batch_size: int, chunk_rows: int) -> int:
    full, tail = n_rows // batch_size, n_rows % batch_size
    chunks = (batch_size + chunk_rows - 1) // chunk_rows
    return full * chunks + (tail + chunk_rows - 1) // chunk_rows


_units_per_epoch = njit(units_per_epoch)


def _finiteness(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    vector, vector_moves = lanes * np.dtype(scalar).itemsize, moves(scalar, lanes)
    clear, add_differences = vector_moves.clear, vector_moves.add_differences

    @njit
    def look_at(address: int, n: int, sums: int) -> None:
        add_differences(address, n, sums)

    @njit
    def finite_parameters(net: Net) -> bool:
        """True if all parameters are finite, without padding: a user's rule may make NaN of
        zeros there, and kernels do not use it."""
        layers, place = layers_of(net), stack(vector)
        clear(place, lanes)
        for i in range(net.n_layers):
            layer = layers[i]
            # The biases are a panel's last row; in a transposed layer they follow its panels. Gaps
            # are zeros.
            n_rows = layer.packed_rows + layer.gap // vector + (0 if layer.is_transposed else 1)
            across = layer.n_in if layer.is_transposed else layer.n_out
            for p in range(layer.packed_panels):
                panel, width = layer.packed + p * layer.packed_panel, across - p * lanes
                n_parts, n = (1, n_rows * lanes) if width >= lanes else (n_rows, width)
                for k in range(n_parts):
                    look_at(panel + k * vector, n, place)
            if layer.is_transposed:
                look_at(layer.biases, layer.n_out, place)
        sums, finite = row(place, lanes, scalar), True
        for i in range(lanes):
            finite = finite and sums[i] == 0
        return finite

    return finite_parameters


def masses(scalar: Scalar) -> Kernel:
    size = np.dtype(scalar).itemsize

    @njit
    def mass_of(batch: Batch, n_rows: int) -> float:
        if batch.weight == 0:
            return float(n_rows)
        index = row(batch.index, n_rows, np.int64)
        total = 0.0
        for r in range(n_rows):
            total += row(batch.weight + index[r] * size, 1, scalar)[0]
        return total

    return mass_of


@njit
def end_batch(net: Net, job: Job, n_rows: int) -> None:
    if job.batch_mass != 0:
        if net.n_penalties > 0:
            job.batch_loss += sum_of(net.tile_penalties, net.n_tiles)
        share = float(n_rows) if job.by_rows else job.batch_mass
        job.epoch_loss += job.batch_loss * share
        job.epoch_mass += share


def _batches(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Functions that begin a batch, check it, and go back to the epoch's start."""
    copy, clear = moves(scalar, lanes_of(scalar)).copy, moves(scalar, lanes_of(scalar)).clear
    mass_of, finite_parameters = masses(scalar), _finiteness(scalar)

    @njit
    def start_batch(net: Net, job: Job, n_rows: int, new_epoch: bool) -> None:
        if new_epoch:
            if job.guarded:
                copy(net.parameters, net.backup, net.n_packed)
                if net.average != 0:
                    copy(net.average, net.average_backup, net.n_packed)
            job.epoch_loss = 0.0
            job.epoch_mass = 0.0
        job.batch_mass = mass_of(record_at(net.batch, Batch), n_rows)
        job.batch_loss = 0.0
        if job.batch_mass != 0:
            set_mass(net, job.batch_mass)

    @njit
    def may_go_on(net: Net, job: Job, epoch_ends: bool) -> bool:
        """True if loss and parameters are finite, or if the divergence check is off."""
        if not job.guarded:
            return True
        if not job.batch_loss - job.batch_loss == 0:
            return False
        return not epoch_ends or finite_parameters(net)

    @njit
    def restore(net: Net, job: Job) -> None:
        """Go back to the parameters of the epoch's start, and clear the optimizer's state."""
        n = net.n_packed
        copy(net.backup, net.parameters, n)
        clear(net.m, n)
        clear(net.v, n)
        if net.average != 0:
            copy(net.average_backup, net.average, n)
        call(record_at(net.blocks, BlockAddresses).transposes, (job.net,))
        job.diverged = 1.0

    return start_batch, may_go_on, restore


def train(scalar: Scalar, plain: bool = False) -> Kernel:
    """The driver of training; with `plain` for nets without `FEATURES`.

    Units first to last of a window of epochs are done, or up to a divergence. `order` has the rows
    of each epoch, `coefficients` the optimizer's for each step of the call; `losses` receives the
    mean objective of each completed epoch.
    """
    size, step = np.dtype(scalar).itemsize, steps(scalar)
    start_batch, may_go_on, restore = _batches(scalar)

    def epochs(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = record_at(net.batch, Batch)
        per_epoch = _units_per_epoch(job.n_rows, job.batch_size, job.chunk_rows)
        chunks = (job.batch_size + job.chunk_rows - 1) // job.chunk_rows
        batch.coefficients = job.coefficients
        job.diverged = 0.0
        # Positions are counted up from here: divisions took a tenth of a tiny net's step.
        epoch, within = job.first // per_epoch, job.first % per_epoch
        start = within // chunks * job.batch_size
        low = start + within % chunks * job.chunk_rows
        order = job.order + epoch % job.n_orders * job.n_rows * 8
        last_order = job.order + (job.n_orders - 1) * job.n_rows * 8
        batch.order_stop = order + job.n_rows * 8
        for u in range(job.first, job.last):
            stop = min(start + job.batch_size, job.n_rows)
            high = min(low + job.chunk_rows, stop)
            batch.index = order + low * 8
            batch.n_rows = high - low
            # Written only on change, as is `scale` of `set_mass`.
            if batch.position != low - start:
                batch.position = low - start
            if low == start:
                start_batch(net, job, stop - start, start == 0)
            if job.batch_mass != 0:
                more, ends = 1 if low > start else 0, 1 if high == stop else 0
                job.batch_loss += step(job, net, more, ends, ends) / job.batch_mass
            low = high
            if high < stop:
                continue
            end_batch(net, job, stop - start)
            start = stop
            batch.coefficients += job.n_coefficients * size
            epoch_ends = stop == job.n_rows
            sound = may_go_on(net, job, epoch_ends)
            if epoch_ends or not sound:
                row(job.losses + epoch * 8, 1, np.float64)[0] = job.epoch_loss / job.epoch_mass
            if not sound:
                restore(net, job)
                job.reached, batch.order_stop = u, 0
                return
            if epoch_ends:
                epoch, start, low = epoch + 1, 0, 0
                order = job.order if order == last_order else order + job.n_rows * 8
                batch.order_stop = order + job.n_rows * 8
        job.reached, batch.order_stop = job.last, 0

    return hinted(control=True, zeros=FEATURES if plain else {})(epochs)


@njit
def _forward(job: Job, net: Net, mode: int) -> None:
    block = record_at(net.blocks, BlockAddresses).forward_backward
    call(block, (job.team, job.net, job.n_parts, mode, 0))


def evaluate(scalar: Scalar) -> Kernel:
    """The weighted losses of the chunk's rows, summed."""

    def evaluate_rows(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = record_at(net.batch, Batch)
        batch.scale = 1.0
        _forward(job, net, EVALUATE)
        job.loss = sum_of(net.strip_losses, n_strips_of(batch.n_rows))

    return evaluate_rows


def predict(scalar: Scalar) -> Kernel:
    """The predictions of rows, to the batch's `out`."""

    def predict_rows(address: int) -> None:
        job = record_at(address, Job)
        _forward(job, record_at(job.net, Net), FORWARD)

    return predict_rows
