"""A step of training on a chunk of rows: phase one, then phase two with the update.

The job has the team's address and the number of parts of phase one.
Blocks are called by address: only the forms that nets need are compiled.

A rank's drivers take its share of each batch. The ranks' gradients are summed between
two calls. A call takes the step before with the sum, then computes the gradient of this
rank's next rows. If parameters are averaged instead, a call does some steps by the
rank's rows alone.

Microbatches are pieces of a chunk that one thread takes through both phases, in
separate buffers. A team that shares each phase of a small net on many rows moves most
outputs and deltas from core to core; by microbatches only gradients travel: 603 -> 415
us (4-32-16-4@10000, 2 threads; 1 thread: 715 us). Each gradient is summed from zero,
and all are added in order, so threads do not change the bits.

Layers shared among a team's threads:
by panels of their outputs, or by halves of their inputs.

By panels, for wide layers, each thread reads only its part of the weights, which is in
its cache. By rows every thread reads all weights, half of them just written by another
core: 0.4 of 2.1 ms (784-512-512-10@128, 2 threads).

Split-K is for one layer, the first or the second. Each half of its inputs, its weight
rows and their gradient stay on one thread; only partial sums cross cores. By rows half
of W would cross, by panels half of X. One thread computes the same two sums, for the
same bits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import (
    Kernel,
    Scalar,
    Span,
    n_strips_of,
    part_of,
    rows_of_part,
)
from fastmlp.backends.cpu.kernels.derivatives import add_squares, gradient_rows
from fastmlp.backends.cpu.kernels.forward_backward import (
    TRAIN,
    inputs_of,
    layer_kernels,
    output_layer,
    packed_of,
    product_of,
)
from fastmlp.backends.cpu.kernels.gradient_update import take_norms
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.packing import row_offset
from fastmlp.backends.cpu.plan.plan import Plan, Workspace, aligned
from fastmlp.backends.cpu.plan.records import (
    Job,
    Net,
    address,
    batch_of,
    blocks_of,
    layers_of,
)
from fastmlp.backends.cpu.simd.gemm import Shape, groups_of_panels
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import LARGEST_TILE, ROW_BLOCK, STRIP_ROWS
from fastmlp.compiler import call, hinted, njit, prange, thread_number
from fastmlp.compiler.memory import record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of


@njit
def sum_of(address: int, n: int) -> float:
    """The sum of n float64, in their order."""
    values = row(address, n, np.float64)
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


@njit
def add_head_losses(net: Net, n_rows: int, factor: float, place: int) -> None:
    """Add the weighted losses of a chunk's heads,
    times a factor, to n_heads float64.
    """
    sums = row(place, net.n_heads, np.float64)
    for h in range(net.n_heads):
        strips = net.strip_losses + (h + 1) * net.head_strips
        sums[h] += factor * sum_of(strips, n_strips_of(n_rows))


@njit
def update_again(job: Job, net: Net, ends: int, apply: int) -> None:
    shared = job.team != 0 and net.microbatch_rows == 0
    team, n_parts = (job.team, job.n_parts) if shared else (0, 1)
    split = net.split_layer if shared else 0
    call(
        blocks_of(net).update,
        (team, job.net, n_parts, 0, 1, ends, apply, split),
    )


@njit
def take_stored_step(job: Job, net: Net, ends: int) -> None:
    """Take the optimizer's step with the stored gradient, clipped by norm if the
    optimizer asks; a gradient that `ends` its batch gets penalties first.
    """
    if net.factors:
        if ends:
            update_again(job, net, ends, 0)
        take_norms(net)
    update_again(job, net, 0 if net.factors else ends, 1)


@njit
def always(job: Job, loss: float) -> bool:
    """Return True: a loss that is not finite is found after its step."""
    return True


@njit
def _wants_gradient(job: Job, loss: float) -> bool:
    return job.deltas_alone == 0


@njit
def phase_two(job: Job, net: Net, more: int, ends: int, apply: int) -> None:
    """Compute the gradient and, with `apply`, take the step.

    Microbatches have their gradient already: one thread takes their step, which is
    little work.
    """
    blocks = blocks_of(net)
    n_rows = gradient_rows(net, batch_of(net).n_rows)
    if net.microbatch_rows > 0:
        if ends:
            call(blocks.update, (0, job.net, 1, 0, 1, 1, apply, 0))
        return
    if blocks.sparse_columns and net.lowest == 0:
        call(blocks.sparse_columns, (job.net,))
    split = net.split_layer if job.team != 0 else 0
    share = (job.team, job.net, job.n_parts)
    call(blocks.update, (*share, n_rows, more, ends, apply, split))


def steps(scalar: Scalar, may_step: Any = always) -> Kernel:
    """Makes the function that takes a chunk through both phases, and returns its
    weighted loss; phase two is left out if ``may_step(job, loss)`` is False.
    """
    size = np.dtype(scalar).itemsize
    add = moves(scalar, lanes_of(scalar)).add
    clear = moves(scalar, lanes_of(scalar)).clear

    @njit
    def add_partials(net: Net, n: int, more: int) -> None:
        if not more:
            clear(net.gradient, net.n_packed)
        for i in range(n):
            add(net.partials + i * net.n_packed * size, net.gradient, net.n_packed)

    @njit
    def phase_one(job: Job, net: Net, more: int) -> float:
        """Phase one in the form of the net's partition;
        return the weighted loss. Microbatches compute the gradient too.
        """
        blocks = blocks_of(net)
        n_rows = batch_of(net).n_rows
        if net.microbatch_rows > 0:
            call(blocks.microbatches, (job.team, job.net))
            add_partials(
                net, (n_rows + net.microbatch_rows - 1) // net.microbatch_rows, more
            )
            return sum_of(net.strip_losses, n_strips_of(n_rows))
        split = net.split_layer if job.team != 0 else 0
        share = (job.team, job.net, job.n_parts)
        if split > 0:
            call(blocks.split_k, share)
        if net.by_panels and job.team != 0:
            call(blocks.by_panels, (*share, TRAIN, split))
        else:
            call(blocks.forward_backward, (*share, TRAIN, split))
            if split - 1 > net.lowest:
                call(blocks.split_k_backward, share)
        if net.derivatives:
            add_squares(net, n_rows)
        return sum_of(net.strip_losses, n_strips_of(n_rows))

    @njit
    def step(job: Job, net: Net, more: int, ends: int, apply: int) -> float:
        """If the chunk `ends` its batch, penalties are added;
        with `apply` the optimizer's step is taken, after clipping by norm.
        """
        loss = phase_one(job, net, more)
        if may_step(job, loss):
            phase_two(job, net, more, ends, 0 if net.factors else apply)
            if apply and net.factors:
                take_stored_step(job, net, 0)
        return loss

    return step


def objective(scalar: Scalar) -> Any:
    """Makes the driver of an objective: it adds the gradient of the chunk's rows, and
    sets `loss` to their objective.
    """
    step = steps(scalar, _wants_gradient)

    def differentiate(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        set_mass(net, job.mass)
        job.loss = step(job, net, job.more, job.ends, 0) / job.mass
        if job.ends and net.n_penalties > 0:
            job.loss += sum_of(net.tile_penalties, net.n_tiles)

    return differentiate


@njit
def set_mass(net: Net, mass: float) -> None:
    """Set the factors of deltas, 1 / mass, and of penalties, strength / mass."""
    batch = batch_of(net)
    scale = 1.0 / mass
    # Written only on change: else workers fetch its line once more.
    if batch.scale != scale:
        batch.scale = scale
    scale_penalties(net, mass)


@njit
def scale_penalties(net: Net, mass: float) -> None:
    strengths = row(net.strengths, net.n_penalties, np.float64)
    scales = row(net.scales, net.n_penalties, np.float64)
    for p in range(net.n_penalties):
        scales[p] = strengths[p] / mass


def _sharing(scalar: Scalar) -> Kernel:
    """Make the function that takes one rank's share of a batch, in chunks of
    `chunk_rows`, and returns its weighted loss.
    """
    size = np.dtype(scalar).itemsize
    step = steps(scalar)

    @njit
    def share(job: Job, net: Net, s: int, apply: int) -> float:
        """`position` counts from the batch's first row, of whatever rank: dropout draws
        by it, so the ranks' number does not change the bits.
        """
        batch = batch_of(net)
        starts = row(job.starts + s * 8, 2, np.int64)
        batch.coefficients = job.coefficients + s * job.n_coefficients * size
        batch.order_stop = job.order + job.n_rows * 8
        position = row(job.positions + s * 8, 1, np.int64)[0] - starts[0]
        low = starts[0]
        total = 0.0
        more = 0
        while low < starts[1]:
            high = min(low + job.chunk_rows, starts[1])
            batch.index = job.order + low * 8
            batch.n_rows = high - low
            batch.position = position + low
            ends = 1 if apply and high == starts[1] else 0
            total += step(job, net, more, ends, ends)
            if net.n_heads:
                add_head_losses(net, batch.n_rows, 1.0, job.head_losses)
            low, more = high, 1
        batch.order_stop = 0
        return total

    return share


def exchange(scalar: Scalar) -> Kernel:
    """Takes step `first` with the summed gradient, and writes its penalties to
    `losses`; then stores the gradient of step `last`, whose weighted loss is `loss`.
    -1: no step.
    """
    size = np.dtype(scalar).itemsize
    share = _sharing(scalar)

    def exchange_gradients(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        if job.first >= 0:
            batch_of(net).coefficients = (
                job.coefficients + job.first * job.n_coefficients * size
            )
            set_mass(net, row(job.wholes + job.first * 8, 1, np.float64)[0])
            take_stored_step(job, net, 1)
            penalties = (
                sum_of(net.tile_penalties, net.n_tiles) if net.n_penalties > 0 else 0.0
            )
            row(job.losses + job.first * 8, 1, np.float64)[0] = penalties
        if job.last >= 0:
            starts = row(job.starts + job.last * 8, 2, np.int64)
            if starts[0] == starts[1]:
                row(net.gradient, net.n_packed, scalar)[:] = 0
            set_mass(net, row(job.masses + job.last * 8, 1, np.float64)[0])
            job.loss = share(job, net, job.last, 0)

    return exchange_gradients


def train_alone(scalar: Scalar) -> Kernel:
    """Steps `first` to `last` by this rank's rows alone;
    `losses` receives their weighted losses, penalties included.
    """
    share = _sharing(scalar)

    def train_steps(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, Net)
        for s in range(job.first, job.last):
            mass = row(job.masses + s * 8, 1, np.float64)[0]
            if mass != 0:
                set_mass(net, mass)
                scale_penalties(net, row(job.wholes + s * 8, 1, np.float64)[0])
                total = share(job, net, s, 1)
                if net.n_penalties > 0:
                    total += mass * sum_of(net.tile_penalties, net.n_tiles)
                row(job.losses + s * 8, 1, np.float64)[0] = total

    return train_steps


# Buffers of each thread; all others are shared.
THREAD_BUFFERS = (
    "inputs",
    "outputs",
    "deltas",
    "raw",
    "value",
    "slope",
    "loss_slope",
    "targets",
    "row_losses",
    "row_copy",
    "stages",
)


def microbatches(scalar: Scalar) -> Kernel:
    """Takes microbatches through both phases, without the update.

    The gradient of microbatch i is number i of the `partials`,
    as long as the packed parameters.
    """
    size = np.dtype(scalar).itemsize

    @njit
    def differentiate(net: Net, i: Any, thread: int) -> None:
        """The gradient of microbatch i with the thread's replica of the net."""
        replica = row(net.replicas, thread + 1, np.int64)[thread]
        copy = record_at(replica, Net)
        batch = batch_of(net)
        rows, blocks = batch_of(copy), blocks_of(net)
        begin = i * net.microbatch_rows
        rows.x = batch.x
        rows.y = batch.y
        rows.weight = batch.weight
        rows.scale = batch.scale
        rows.coefficients = batch.coefficients
        rows.position = batch.position + begin
        rows.index = batch.index + begin * 8
        rows.n_rows = min(net.microbatch_rows, batch.n_rows - begin)
        copy.strip_losses = net.strip_losses + begin // STRIP_ROWS * 8
        copy.gradient = net.partials + i * net.n_packed * size
        call(blocks.forward_backward, (0, replica, 1, TRAIN, 0))
        call(blocks.update, (0, replica, 1, rows.n_rows, 0, 0, 0, 0))

    @njit(parallel=True)
    def differentiate_all(team: int, nets: Sequence[Net], n: int) -> None:
        for i in prange(n):
            differentiate(nets[0], np.int64(i), thread_number())

    def enter(team: int, net: int) -> None:
        nets = records_at(net, 1, Net)
        rows = nets[0].microbatch_rows
        n_rows = record_at(nets[0].batch, records.Batch).n_rows
        differentiate_all(team, nets, (n_rows + rows - 1) // rows)

    return enter


def with_own_buffers(workspace: Workspace, buffers: Workspace) -> Workspace:
    return workspace._replace(
        **{name: getattr(buffers, name) for name in THREAD_BUFFERS}
    )


class Replicas:
    """The replicas of a net for microbatches,
    one per thread of a team, with partial gradients and losses.

    Parameters
    ----------
    new_plan, new_workspace : functions that make a plan for a workspace, and one for a microbatch
    workspace : of the first thread, with the net's parameters
    rows, n_microbatches : the most of a chunk

    Attributes
    ----------
    identity : int64 (rows,): 0, 1, 2, ...
    """

    n_bytes: int

    def __init__(
        self,
        new_plan: Callable[[Workspace], Plan],
        new_workspace: Callable[[], Workspace],
        workspace: Workspace,
        n_threads: int,
        rows: int,
        n_microbatches: int,
    ) -> None:
        """The first thread works in the net's workspace; each other thread has buffers
        of `THREAD_BUFFERS`, and shares the rest.
        """
        parameters = workspace.parameters
        others = [
            with_own_buffers(workspace, new_workspace()) for _ in range(1, n_threads)
        ]
        self._workspaces = [workspace, *others]
        self._plans = [new_plan(workspace) for workspace in self._workspaces]
        self._addresses = np.array(
            [address(plan.net) for plan in self._plans], np.int64
        )
        self._partials: NDArray[Any] = aligned(
            n_microbatches * parameters.size, parameters.dtype
        )
        n_heads = int(self._plans[0].net["n_heads"][0])
        n_strips = -(-rows // STRIP_ROWS)
        self._losses = aligned((1 + n_heads) * n_strips, np.float64)
        self._head_strips = n_strips * 8 if n_heads else 0
        self.identity: NDArray[np.int64] = np.arange(rows, dtype=np.int64)
        n_bytes = sum(
            getattr(it, name).nbytes for it in others for name in THREAD_BUFFERS
        )
        self.n_bytes = (
            n_bytes + self._partials.nbytes + self._losses.nbytes + self.identity.nbytes
        )

    def point_to_draws(self, n_bytes: int) -> None:
        for plan in self._plans:
            plan.net["draws"] = n_bytes

    def attach(self, net: Any, blocks: Any) -> None:
        net["replicas"] = address(self._addresses)
        net["partials"], net["strip_losses"] = (
            address(self._partials),
            address(self._losses),
        )
        net["head_strips"] = self._head_strips
        for plan in self._plans:
            plan.blocks[:] = blocks
            plan.net["head_strips"] = self._head_strips


_groups_of_panels = njit(groups_of_panels)


@njit
def panels_of_part(part: int, n_parts: int, n_panels: int) -> Span:
    first, last = part_of(part, n_parts, _groups_of_panels(n_panels))
    return first * LARGEST_TILE[1], (last - first) * LARGEST_TILE[1]


def backward_by_panels(scalar: Scalar) -> Kernel:
    """One layer's deltas, shared by panels of the layer below."""
    backward_layer = layer_kernels(scalar).backward

    @njit(parallel=True)
    def backward_by_panels(
        team: int, nets: Sequence[Net], n_parts: int, i: int
    ) -> None:
        for part in prange(n_parts):
            net = nets[0]
            below = layers_of(net)[i - 1]
            panels = panels_of_part(part, n_parts, below.n_panels)
            n_rows = batch_of(net).n_rows if panels[1] > 0 else 0
            for at in range(0, n_rows, ROW_BLOCK):
                packed = packed_of(net, thread_number())
                backward_layer(
                    net, i, panels, (at, min(ROW_BLOCK, n_rows - at)), packed
                )

    return backward_by_panels


def _forward_by_panels(scalar: Scalar) -> Kernel:
    """Make the function that computes layer i by panels of its outputs: each part reads
    all rows and its panels' weights alone.
    """
    layer_functions = layer_kernels(scalar)
    forward_layer = layer_functions.forward
    add_partial_sums = layer_functions.add_partial_sums
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * lanes_of(scalar) * np.dtype(scalar).itemsize

    @njit(parallel=True)
    def forward_by_panels(
        team: int, nets: Sequence[Net], n_parts: int, i: int, split: int
    ) -> None:
        for part in prange(n_parts):
            z = stack(z_bytes)
            net = nets[0]
            layers = layers_of(net)
            panels = panels_of_part(part, n_parts, layers[i].n_panels)
            n_rows = batch_of(net).n_rows if panels[1] > 0 else 0
            inputs = inputs_of(net, i)
            middle = net.middle if i + 1 == net.split_layer else 0
            for at in range(0, n_rows, ROW_BLOCK):
                rows = (at, min(ROW_BLOCK, n_rows - at))
                if i + 1 == split:
                    add_partial_sums(net, layers[i], panels, rows, z)
                else:
                    scratch = (z, packed_of(net, thread_number()))
                    forward_layer(net, layers[i], inputs, middle, panels, rows, scratch)

    return forward_by_panels


def forward_backward_by_panels(scalar: Scalar) -> Kernel:
    """Phase one by panels of each layer."""
    gather = layer_kernels(scalar).gather
    finish = output_layer(scalar)
    forward_by_panels = _forward_by_panels(scalar)
    backward = backward_by_panels(scalar)

    @njit(parallel=True)
    def gather_rows(team: int, nets: Sequence[Net], n_parts: int) -> None:
        for part in prange(n_parts):
            net = nets[0]
            begin, stop = rows_of_part(net, part, n_parts)
            for start in range(begin, stop, ROW_BLOCK):
                n = min(ROW_BLOCK, stop - start)
                gather(net, net.inputs, (start, n), start, (0, net.n_in))

    @njit(parallel=True)
    def finish_rows(team: int, nets: Sequence[Net], n_parts: int, mode: int) -> None:
        for part in prange(n_parts):
            net = nets[0]
            begin, stop = rows_of_part(net, part, n_parts)
            for start in range(begin, stop, ROW_BLOCK):
                finish(
                    net,
                    (start, min(ROW_BLOCK, stop - start)),
                    start,
                    mode,
                    thread_number(),
                )

    @njit
    def forward_backward_by_panels(
        team: int, nets: Sequence[Net], n_parts: int, mode: int, split: int
    ) -> None:
        """The team joins after each layer.

        Layers up to `split` (from 1, or 0),
        which is computed by split-K, are done already.
        """
        net = nets[0]
        outer = layers_of(net)[net.n_layers - 1]
        if split == 0:
            gather_rows(team, nets, n_parts)
        for i in range(max(split - 1, 0), net.n_layers - outer.is_transposed):
            forward_by_panels(team, nets, n_parts, i, split)
        finish_rows(team, nets, n_parts, mode)
        for i in range(net.n_layers - 1 if mode == TRAIN else 0, net.lowest, -1):
            backward(team, nets, n_parts, i)

    @hinted(control=True)
    def enter(team: int, net: int, n_parts: int, mode: int, split: int) -> None:
        forward_backward_by_panels(team, records_at(net, 1, Net), n_parts, mode, split)

    return enter


def split_k(scalar: Scalar) -> Kernel:
    """The split layer's products, and the layer or rows below it."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    layer_functions = layer_kernels(scalar)
    gather = layer_functions.gather
    forward_layer = layer_functions.forward
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * vector

    @njit
    def multiply(
        net: Net, inputs: int, half: int, features: Span, rows: Span, packed: int
    ) -> None:
        """The partial sums of n rows over one half of the inputs: the first half's,
        with biases, to the layer's outputs; the second half's to its deltas, which are
        free till then.
        """
        layer = layers_of(net)[net.split_layer - 1]
        low, high = features
        at, n = rows
        sums = layer.outputs
        start = Start(layer.biases, 0, layer.packed_panel)
        if half:
            sums = layer.deltas
            start = Start(net.zeros, 0, 0)
        down = at * vector
        depth = high - low
        weights = layer.weights + row_offset(layer, low, vector)
        left = inputs + low // lanes * net.panel + down
        factors = Operands(weights, layer.weight_panel, left, net.panel, depth)
        c = Panels(sums + down, net.panel)
        shape = Shape(layer.n_out, n)
        product = product_of(blocks_of(net), 0, depth, shape)
        call(product, (c, start, factors, Epilogue(STORE, 0), shape, packed))

    @njit
    def multiply_half(
        net: Net, half: int, apart: int, rows: Span, scratch: Span
    ) -> None:
        """Gather one half of the inputs,
        or compute it from the layer below; then multiply it.
        """
        layers = layers_of(net)
        low = half * net.middle
        high = layers[net.split_layer - 1].n_in if half else net.middle
        inputs = net.inputs + half * apart
        if net.split_layer == 1:
            gather(net, inputs, rows, rows[0], (low, high))
            multiply(net, inputs, half, (low, high), rows, scratch[1])
        else:
            if half == 0 or apart > 0:
                gather(net, inputs, rows, rows[0], (0, net.n_in))
            below = layers[net.split_layer - 2]
            panels = (low // lanes, (high - low + lanes - 1) // lanes)
            forward_layer(net, below, inputs, 0, panels, rows, scratch)
            multiply(net, below.outputs, half, (low, high), rows, scratch[1])

    @njit(parallel=True)
    def multiply_split(team: int, nets: Sequence[Net], n_parts: int) -> None:
        """Parts are strips of rows of the first half,
        then strips of the second half.
        """
        for part in prange(n_parts):
            z = stack(z_bytes)
            net = nets[0]
            n_rows = batch_of(net).n_rows
            n_strips = n_strips_of(n_rows)
            first, last = part_of(part, n_parts, 2 * n_strips)
            for half in range(2):
                begin = max(first - half * n_strips, 0) * STRIP_ROWS
                end = min(min(last - half * n_strips, n_strips) * STRIP_ROWS, n_rows)
                for at in range(begin, end, ROW_BLOCK):
                    rows = (at, min(ROW_BLOCK, end - at))
                    scratch = (z, packed_of(net, thread_number()))
                    multiply_half(net, half, net.inputs_apart, rows, scratch)

    def enter(team: int, net: int, n_parts: int) -> None:
        multiply_split(team, records_at(net, 1, Net), n_parts)

    return enter


def split_k_backward(scalar: Scalar) -> Kernel:
    """The deltas below the split layer, by panels."""
    backward = backward_by_panels(scalar)

    def enter(team: int, net: int, n_parts: int) -> None:
        nets = records_at(net, 1, Net)
        backward(team, nets, n_parts, nets[0].split_layer - 1)

    return enter
