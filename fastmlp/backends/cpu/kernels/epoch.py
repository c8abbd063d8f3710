"""The drivers: blocks that run a whole job on one thread or a team.

Training is counted in units: one chunk of rows of one batch, as a rule the whole batch.
The update follows a batch's last chunk. Python keeps a call to about 50 ms.

Drivers of a single step, for a user's loop, take one batch, in chunks. A step has the
bits of a fit's epoch of one batch. A loss that is not finite, known before phase two,
takes no step.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, n_strips_of, part_of
from fastmlp.backends.cpu.kernels.derivatives import (
    add_squares,
    end_squares,
    take_known,
)
from fastmlp.backends.cpu.kernels.forward_backward import EVALUATE, FORWARD
from fastmlp.backends.cpu.kernels.step import (
    add_head_losses,
    set_mass,
    steps,
    sum_of,
)
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.packing import unpacking
from fastmlp.backends.cpu.plan.records import (
    Batch,
    Job,
    Net,
    batch_of,
    blocks_of,
    layers_of,
)
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import (
    call,
    flush_denormals,
    hinted,
    njit,
    prange,
    restore_denormals,
)
from fastmlp.compiler.memory import Record, record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.validation import Array


def units_per_epoch(n_rows: int, batch_size: int, chunk_rows: int) -> int:
    full = n_rows // batch_size
    tail = n_rows % batch_size
    chunks = (batch_size + chunk_rows - 1) // chunk_rows
    return full * chunks + (tail + chunk_rows - 1) // chunk_rows


_units_per_epoch = njit(units_per_epoch)


def _finiteness(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    vector_moves = moves(scalar, lanes)
    clear = vector_moves.clear
    add_differences = vector_moves.add_differences

    @njit
    def look_at(address: int, n: int, sums: int) -> None:
        add_differences(address, n, sums)

    @njit
    def finite_parameters(net: Net) -> bool:
        """True if all parameters are finite, without padding:
        a user's rule may make NaN of zeros there, and kernels do not use it.
        """
        layers, place = layers_of(net), stack(vector)
        clear(place, lanes)
        for i in range(net.n_layers):
            layer = layers[i]
            # The biases are a panel's last row;
            # in a transposed layer they follow its panels. Gaps are zeros.
            n_rows = (
                layer.packed_rows
                + layer.gap // vector
                + (0 if layer.is_transposed else 1)
            )
            across = layer.n_in if layer.is_transposed else layer.n_out
            for p in range(layer.packed_panels):
                panel = layer.packed + p * layer.packed_panel
                width = across - p * lanes
                n_parts, n = (1, n_rows * lanes) if width >= lanes else (n_rows, width)
                for k in range(n_parts):
                    look_at(panel + k * vector, n, place)
            if layer.is_transposed:
                look_at(layer.biases, layer.n_out, place)
        sums = row(place, lanes, scalar)
        finite = True
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
    copy = moves(scalar, lanes_of(scalar)).copy
    clear = moves(scalar, lanes_of(scalar)).clear
    mass_of = masses(scalar)
    finite_parameters = _finiteness(scalar)

    @njit
    def start_batch(net: Net, job: Job, n_rows: int, new_epoch: bool) -> None:
        if new_epoch:
            if job.guarded:
                copy(net.parameters, net.backup, net.n_packed)
                if net.average != 0:
                    copy(net.average, net.average_backup, net.n_packed)
            job.epoch_loss = 0.0
            job.epoch_mass = 0.0
        job.batch_mass = mass_of(batch_of(net), n_rows)
        job.batch_loss = 0.0
        if job.batch_mass != 0:
            set_mass(net, job.batch_mass)
            if net.derivatives:
                take_known(net, n_rows, job.batch_mass)

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
        """Go back to the parameters of the epoch's start,
        and clear the optimizer's state.
        """
        n = net.n_packed
        copy(net.backup, net.parameters, n)
        clear(net.m, n)
        clear(net.v, n)
        if net.average != 0:
            copy(net.average_backup, net.average, n)
        call(blocks_of(net).transposes, (job.net,))
        job.diverged = 1.0

    return start_batch, may_go_on, restore


def train(scalar: Scalar, plain: bool = False) -> Kernel:
    """The driver of training; with `plain` for nets without `FEATURES`.

    Units first to last of a window of epochs are done, or up to a divergence. `order`
    has the rows of each epoch, `coefficients` the optimizer's for each step of the
    call; `losses` receives the mean objective of each completed epoch, `head_losses`,
    zeros at first, the heads' mean losses.
    """
    size = np.dtype(scalar).itemsize
    step = steps(scalar)
    start_batch, may_go_on, restore = _batches(scalar)

    def epochs(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = batch_of(net)
        per_epoch = _units_per_epoch(job.n_rows, job.batch_size, job.chunk_rows)
        chunks = (job.batch_size + job.chunk_rows - 1) // job.chunk_rows
        batch.coefficients = job.coefficients
        job.diverged = 0.0
        # Positions are counted up from here:
        # divisions took a tenth of a tiny net's step.
        epoch = job.first // per_epoch
        within = job.first % per_epoch
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
                more = 1 if low > start else 0
                ends = 1 if high == stop else 0
                job.batch_loss += step(job, net, more, ends, ends) / job.batch_mass
                if net.n_heads:
                    share = float(stop - start) / job.batch_mass if job.by_rows else 1.0
                    place = job.head_losses + epoch * net.n_heads * 8
                    add_head_losses(net, batch.n_rows, share, place)
            low = high
            if high < stop:
                continue
            end_batch(net, job, stop - start)
            start = stop
            batch.coefficients += job.n_coefficients * size
            epoch_ends = stop == job.n_rows
            sound = may_go_on(net, job, epoch_ends)
            if epoch_ends or not sound:
                row(job.losses + epoch * 8, 1, np.float64)[0] = (
                    job.epoch_loss / job.epoch_mass
                )
                if net.n_heads:
                    place = job.head_losses + epoch * net.n_heads * 8
                    means = row(place, net.n_heads, np.float64)
                    for h in range(net.n_heads):
                        means[h] /= job.epoch_mass
            if not sound:
                restore(net, job)
                job.reached = u
                batch.order_stop = 0
                return
            if epoch_ends:
                if net.derivatives:
                    end_squares(net, epoch)
                epoch = epoch + 1
                start = 0
                low = 0
                order = job.order if order == last_order else order + job.n_rows * 8
                batch.order_stop = order + job.n_rows * 8
        job.reached = job.last
        batch.order_stop = 0

    return hinted(control=True, zeros=records.FEATURES if plain else {})(epochs)


@njit
def _forward(job: Job, net: Net, mode: int) -> None:
    block = blocks_of(net).forward_backward
    call(block, (job.team, job.net, job.n_parts, mode, 0))


def evaluate(scalar: Scalar) -> Kernel:
    """The weighted losses of the chunk's rows, summed."""

    def evaluate_rows(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = batch_of(net)
        batch.scale = 1.0
        _forward(job, net, EVALUATE)
        if net.derivatives:
            add_squares(net, batch.n_rows)
        job.loss = sum_of(net.strip_losses, n_strips_of(batch.n_rows))
        if net.n_heads:
            add_head_losses(net, batch.n_rows, 1.0, job.head_losses)

    return evaluate_rows


def predict(scalar: Scalar) -> Kernel:
    """The predictions of rows, to the batch's `out`."""

    def predict_rows(address: int) -> None:
        job = record_at(address, Job)
        _forward(job, record_at(job.net, Net), FORWARD)

    return predict_rows


@njit
def _is_finite(job: Job, loss: float) -> bool:
    total = job.batch_loss + loss
    return total - total == 0


def batch_step(scalar: Scalar) -> Kernel:
    """Chunks first to last of a batch; the last takes the step.

    The argument is the address of a `Job`, whose fields from `net` to `losses` are set,
    except `reached`; `reached`, `diverged` and the loss at `losses` are the answer. A
    job with a `mass` has deltas of the summed losses, and penalties of this mass.
    """
    mass_of = masses(scalar)
    step = steps(scalar, _is_finite)

    def take_step(address: int) -> None:
        """An interrupted call goes on at the chunk `first`: sums of the chunks before
        are in the job's record. A loss that is not finite is reported without a step.
        """
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        batch = batch_of(net)
        batch.coefficients = job.coefficients
        for u in range(job.first, job.last):
            low = u * job.chunk_rows
            high = min(low + job.chunk_rows, job.n_rows)
            batch.index = job.order + low * 8
            batch.n_rows = high - low
            batch.position = low
            if u == 0:
                job.diverged = job.epoch_loss = job.epoch_mass = job.batch_loss = 0.0
                job.batch_mass = mass_of(batch, job.n_rows)
                set_mass(net, job.batch_mass)
                if net.derivatives:
                    take_known(net, job.n_rows, job.batch_mass)
                if job.mass:
                    batch.scale = 1.0
            more = 1 if low > 0 else 0
            ends = 1 if high == job.n_rows else 0
            job.batch_loss += step(job, net, more, ends, ends) / job.batch_mass
            job.reached = u + 1
            if ends == 0:
                continue
            if job.batch_loss - job.batch_loss == 0:
                end_batch(net, job, job.n_rows)
                loss = job.epoch_loss / job.epoch_mass
            else:
                loss = job.batch_loss
                job.diverged = 1.0
            row(job.losses, 1, np.float64)[0] = loss

    return take_step


# The rows need other checks or a copy; the loss is not finite; taken.
DECLINED, NOT_FINITE, TAKEN = range(3)


class PlainStep(Record):
    """A step on plain rows in prepared buffers, in one call without Python."""

    job: int  # address of a `Job`
    team: int  # address; 0: the calling thread alone
    n_parts: int  # of a loop that a team shares
    block: int  # addresses of the blocks of `quick_step`
    driver: int  # and of `batch_step`
    parameters: int  # address of the net's parameters, live
    seen: int  # address of the packed parameters, flat
    trained: int  # address of packed parameters where the net shows an average, or 0
    publishes: int  # 1: the step copies them to `parameters`; 0: its caller does
    n_parameters: int
    n_rows: int
    n_in: int
    n_targets: int
    table: int  # address of the coefficients of steps
    first_step: int  # of the table
    row_bytes: int  # of the table
    label_rows: int  # address of labels in the net's dtype
    n_labels: int  # a label is below; 0: targets are numbers
    lowest: float  # target
    highest: float  # target
    ranges: int  # of heads: address of the numbers of `Network.target_ranges`, or 0
    x: int  # addresses of rows
    y: int  # targets or labels
    weight: int  # or 0
    label_bytes: int  # of a label; 0: y has targets
    step: int  # number
    n_unsound: int  # above 0: a number of the rows or targets is out of range
    n_changed: int  # above 0: `parameters` are not as `seen`
    status: int  # DECLINED, NOT_FINITE or TAKEN
    is_lost: int  # 1: parameters are not finite after it
    loss: float


def ranges(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: True if n numbers are in a range, and True if they are finite."""
    largest = float(np.finfo(scalar).max)
    lanes = lanes_of(scalar)
    sum_rows = moves(scalar, lanes).sum_rows
    vector = lanes * np.dtype(scalar).itemsize

    @njit
    def are_within(address: int, n: int, low: float, high: float) -> bool:
        """True if n numbers are in the range; NaN is not. A loop without an exit."""
        numbers = row(address, n, scalar)
        least = scalar(low)
        most = scalar(high)
        n_others = 0
        for i in range(n):
            n_others += 0 if numbers[i] >= least and numbers[i] <= most else 1
        return n_others == 0

    @njit
    def are_finite(address: int, n: int, sums: int) -> bool:
        """True if n numbers are finite, by sums,
        in which a nonfinite number stays. 22 -> 13 us (100,000 numbers).
        """
        n_vectors = n // lanes
        zeros = row(sums, lanes, scalar)
        zeros[:] = 0
        sum_rows(address, sums, sums, n_vectors)
        rest = address + n_vectors * vector
        return are_within(sums, lanes, -largest, largest) and are_within(
            rest, n - n_vectors * lanes, -largest, largest
        )

    return are_within, are_finite


def row_checks(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: one checks rows and their targets;
    the other checks weights and labels, and writes labels as numbers.
    """
    largest = float(np.finfo(scalar).max)
    size = np.dtype(scalar).itemsize
    are_within, are_finite = ranges(scalar)

    @njit
    def are_of_heads(step: PlainStep, first: int, last: int) -> bool:
        """True if each column of heads' targets is in its range,
        and labels are whole.
        """
        n_others, n = 0, step.n_targets
        limits = row(step.ranges, 3 * n, np.float64)
        for r in range(first, last):
            numbers = row(step.y + r * n * size, n, scalar)
            for j in range(n):
                value = float(numbers[j])
                inside = value >= limits[3 * j] and value <= limits[3 * j + 1]
                whole = limits[3 * j + 2] == 0.0 or float(int(value)) == value
                n_others += 0 if inside and whole else 1
        return n_others == 0

    @njit
    def are_sound(step: PlainStep, first: int, last: int, sums: int) -> bool:
        n = last - first
        n_in = step.n_in
        n_targets = step.n_targets
        if not are_finite(step.x + first * n_in * size, n * n_in, sums):
            return False
        if step.label_bytes:
            return True
        if step.ranges:
            return are_of_heads(step, first, last)
        targets = step.y + first * n_targets * size
        return are_within(targets, n * n_targets, step.lowest, step.highest)

    @njit
    def take_labels(step: PlainStep) -> bool:
        n = step.n_rows
        n_others = 0
        numbers = row(step.label_rows, step.n_rows, scalar)
        for r in range(n):
            if step.label_bytes == 8:
                label = row(step.y + r * 8, 1, np.int64)[0]
            else:
                label = int(row(step.y + r * 4, 1, np.int32)[0])
            n_others += 0 if label >= 0 and label < step.n_labels else 1
            numbers[r] = scalar(label)
        return n_others == 0

    @njit
    def take_weights(step: PlainStep) -> bool:
        """True if weights are absent, or nonnegative and not all 0,
        and labels are in their range.
        """
        total, n = 0.0, step.n_rows
        if step.weight != 0:
            weights = row(step.weight, n, scalar)
            for r in range(n):
                total += weights[r]
            if not (total > 0 and are_within(step.weight, n, 0.0, largest)):
                return False
        return step.label_bytes == 0 or take_labels(step)

    return are_sound, take_weights


def _comparison(scalar: Scalar) -> Kernel:
    size = np.dtype(scalar).itemsize

    @njit
    def are_alike(step: PlainStep, part: int, n_parts: int) -> bool:
        """True if the bits are the same, compared as words,
        the last perhaps half a word.
        """
        n_words = step.n_parameters * size // 8
        faults = 0
        first, last = part_of(part, n_parts, n_words)
        words = row(step.parameters + first * 8, last - first, np.int64)
        others = row(step.seen + first * 8, last - first, np.int64)
        for i in range(last - first):
            faults |= words[i] ^ others[i]
        if part == n_parts - 1 and n_words * 8 < step.n_parameters * size:
            half = row(step.parameters + n_words * 8, 1, np.int32)
            other_half = row(step.seen + n_words * 8, 1, np.int32)
            # Not a sum: words that differ may be -1.
            faults |= 0 if half[0] == other_half[0] else 1
        return faults == 0

    return are_alike


def quick_step(scalar: Scalar) -> Kernel:
    """The block of a `PlainStep`: checks of the rows, parameters changed in between,
    the step, and the parameters in their order.

    The argument is the record's address. The caller has checked shapes and set the
    fields from `x` to `step`; `status` and `loss` are the answer. With a `team`,
    threads share all passes over rows and parameters. A block that `publishes` needs a
    caller that holds the GIL, or is alone: nobody may read the parameters meanwhile.
    """
    (are_sound, take_weights), are_alike = row_checks(scalar), _comparison(scalar)
    are_finite = ranges(scalar)[1]
    lanes = lanes_of(scalar)
    unpack_some = unpacking(scalar)
    copy = moves(scalar, lanes).copy
    vector = lanes * np.dtype(scalar).itemsize
    square = lanes * vector

    @njit(parallel=True)
    def look(team: int, steps: Sequence[PlainStep], n_parts: int) -> None:
        """Check the rows, and compare the parameters with the last step's."""
        for part in prange(n_parts):
            step = steps[0]
            sums = stack(vector)
            first, last = part_of(part, n_parts, step.n_rows)
            if not are_sound(step, first, last, sums):
                step.n_unsound = 1
            if not are_alike(step, part, n_parts):
                step.n_changed = 1

    @njit(parallel=True)
    def unpack_all(
        team: int, nets: Sequence[Net], n_parts: int, flat: int, there: int
    ) -> None:
        for part in prange(n_parts):
            block = stack(square)
            net = nets[0]
            layers = layers_of(net)
            for i in range(net.n_layers):
                n_in = layers[i].n_in
                first, last = part_of(part, n_parts, (n_in + lanes - 1) // lanes)
                rows = (first * lanes, min(last * lanes, n_in))
                unpack_some(layers[i], flat, there, rows, block)

    def take_step(address: int) -> None:
        mode = flush_denormals()
        steps = records_at(address, 1, PlainStep)
        step = steps[0]
        job = record_at(step.job, Job)
        nets = records_at(record_at(step.job, Job).net, 1, Net)
        net = nets[0]
        batch, blocks = batch_of(net), blocks_of(net)
        team, n_parts = step.team, step.n_parts
        job.team = team
        job.n_parts = n_parts
        step.n_unsound = step.n_changed = step.is_lost = 0
        look(team, steps, n_parts)
        # After a user's write the average begins anew,
        # and weights with signs are bounded.
        written = step.n_changed if step.trained != 0 or net.signs != 0 else 0
        again = step.n_unsound + written
        if again == 0 and take_weights(step):
            if step.n_changed:
                # First: a step may be declined,
                # and the next one compares with what is packed.
                copy(step.parameters, step.seen, step.n_parameters)
                call(blocks.pack, (job.net, step.seen, net.parameters))
                call(blocks.transposes, (job.net,))
            batch.x = step.x
            batch.weight = step.weight
            batch.y = step.label_rows if step.label_bytes else step.y
            job.coefficients = (
                step.table + (step.step - step.first_step) * step.row_bytes
            )
            call(step.driver, (step.job,))
            step.loss = row(job.losses, 1, np.float64)[0]
            step.status = NOT_FINITE
            if job.diverged == 0:
                there = 0
                if step.trained != 0:
                    copy(net.parameters, step.trained, net.n_packed)
                    there = net.average - net.parameters
                unpack_all(team, nets, n_parts, step.seen, there)
                step.is_lost = (
                    0 if are_finite(step.seen, step.n_parameters, stack(vector)) else 1
                )
                if step.publishes:
                    copy(step.seen, step.parameters, step.n_parameters)
                step.status = TAKEN
        restore_denormals(mode)

    return take_step


def take_quick_step(scalar: Scalar) -> Callable[..., float]:
    """Python takes a step, of any dtype, by this function."""

    def take(
        address: int, step: int, label_bytes: int, x: Array, y: Array, weight: int
    ) -> float:
        """Take a step on rows, of weights at an address, or 0; return the loss, or NaN
        if the parameters are not finite after it. The record's status tells if it was
        taken.
        """
        quick = record_at(address, PlainStep)
        n = x.shape[0]
        quick.status = DECLINED
        quick.loss = np.nan
        quick.is_lost = 0
        if x.shape[1] != quick.n_in or y.shape[0] != n or y.size != n * quick.n_targets:
            return float(quick.loss)
        quick.x = x.ctypes.data
        quick.y = y.ctypes.data
        quick.weight = weight
        quick.label_bytes = label_bytes
        quick.step = step
        call(quick.block, (address,))
        return np.nan if quick.is_lost else float(quick.loss)

    return take
