"""A session: rows, a net, its buffers and its optimizer's slots,
laid out for the kernels.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels import rule_blocks, step
from fastmlp.backends.cpu.kernels.derivatives import (
    DerivativeBuffers,
    derivative_pass,
)
from fastmlp.backends.cpu.kernels.first_layer import (
    ColumnBuffers,
    ExpansionBuffers,
    SparseRows,
    expanded_columns,
    expanded_forward,
    expanded_gradient,
    sparse_columns,
    sparse_forward,
    sparse_gradient,
)
from fastmlp.backends.cpu.kernels.forward_backward import row_backward
from fastmlp.backends.cpu.kernels.gradient_update import Norms
from fastmlp.backends.cpu.kernels.memory_traffic import prefetches_rows_of
from fastmlp.backends.cpu.kernels.rule_blocks import WITH_PLAIN_FORM, names_of, phase
from fastmlp.backends.cpu.kernels.stages import stages_backward, stages_forward
from fastmlp.backends.cpu.plan import packing
from fastmlp.backends.cpu.plan.packing import (
    Spacing,
    few_outputs,
    pack,
    packed_layers,
    round_up,
    unpack,
)
from fastmlp.backends.cpu.plan.partition import (
    Partition,
    microbatches_of,
    paired_of,
    partition_of,
    room_of,
)
from fastmlp.backends.cpu.plan.plan import (
    Addresses,
    Plan,
    Workspace,
    aligned,
    make_plan,
    make_workspace,
)
from fastmlp.backends.cpu.plan.records import (
    STORE_NO_COPY_PAST,
    BlockAddresses,
    Job,
    Layer,
    Net,
    Watch,
    address,
    fields_of,
    fields_of_each,
)
from fastmlp.backends.cpu.simd.gemm import packed_product
from fastmlp.backends.cpu.tuning import PAGE_ROWS
from fastmlp.backends.protocol import Data
from fastmlp.compiler import COMPILER, Block, block_of
from fastmlp.compiler.target import lanes_of
from fastmlp.network import layer_settings
from fastmlp.network.spec import Network
from fastmlp.network.state import N_SLOTS
from fastmlp.rules.optimizer_protocol import NormLimit
from fastmlp.validation import Array
from fastmlp.validation.expanded import Expanded


def packed_numbers(
    network: Network, *, sparse: bool, spacing: Spacing = packing.CLOSE
) -> int:
    lanes = lanes_of(network.dtype.type)
    layers = packed_layers(
        network.layout, lanes, 1, train=True, sparse=sparse, spacing=spacing
    )
    return round_up(packing.numbers_packed(layers, lanes), PAGE_ROWS)


class PanelPacking:
    """Moves flat vectors of a net's parameters into the panels of training, and back.

    Attributes
    ----------
    size : numbers of a packed vector, padding included
    """

    size: int

    def __init__(
        self,
        network: Network,
        *,
        sparse: bool = False,
        spacing: Spacing = packing.CLOSE,
    ) -> None:
        layout = network.layout
        self._dtype = network.dtype
        lanes = lanes_of(network.dtype.type)
        self._n_parameters = layout.n_parameters
        self._workspace = make_workspace(
            layout,
            1,
            0,
            network.dtype,
            lanes,
            train=True,
            sparse=sparse,
            spacing=spacing,
        )
        nothing = (0,) * layout.n_layers
        self._plan = make_plan(layout, self._workspace, Addresses(nothing, nothing))
        self.size = round_up(len(self._workspace.parameters), PAGE_ROWS)

    def packed(self, flat: Array) -> Array:
        result = aligned(self.size, self._dtype)
        net = address(self._plan.net)
        block_of(pack, self._dtype)(net, address(flat), address(result))
        return result

    def flat(self, packed: Array, out: Array | None = None) -> Array:
        if out is None:
            result = np.empty(self._n_parameters, self._dtype)
        else:
            result = out
        net = address(self._plan.net)
        block_of(unpack, self._dtype)(net, address(result), address(packed))
        return result


class Moments:
    """An optimizer's state, zeros at first; training writes to it in place.

    The state is never flat: a copy for 8 million parameters at the end of a fit took
    0.2 s.

    Attributes
    ----------
    n_slots : 2: m and v. 4: also the trained parameters, and the shown ones, an average
    lag : of a rule that averages by itself
    sparse : True for training on sparse rows
    spacing : of the panels
    """

    network: Network
    n_slots: int
    lag: float
    sparse: bool
    spacing: Spacing

    def __init__(
        self,
        network: Network,
        flat: Array | None = None,
        *,
        sparse: bool = False,
        n_slots: int = N_SLOTS,
    ) -> None:
        self.network = network
        self.sparse = sparse
        self.spacing = packing.CLOSE
        self.n_slots = n_slots if flat is None else len(flat)
        self.lag = 0.0
        # Steps on few and on many rows, of other spacings, may take turns.
        self._packings: dict[Spacing, PanelPacking] = {}
        self._signs: Array | None = None
        self._packed = None if flat is None else self._pack(flat)

    @property
    def m(self) -> Array:
        return self._arrays()[0]

    @property
    def v(self) -> Array:
        return self._arrays()[1]

    @property
    def trained(self) -> Array | None:
        """The trained parameters, packed; None: the shown ones."""
        return self._arrays()[2] if self.n_slots > N_SLOTS else None

    @property
    def average(self) -> Array | None:
        """The packed vector from which the shown parameters are computed:
        the average, or m of a rule that averages by itself; None: no average.
        """
        if self.n_slots == N_SLOTS:
            return None
        return self._arrays()[0 if self.lag else 3]

    @property
    def signs(self) -> Array:
        """Codes of the parameters' signs, packed, in the net's dtype."""
        if self._signs is None:
            codes = layer_settings.codes_of(self.network).astype(self.network.dtype)
            self._signs = self.panels.packed(codes)
        return self._signs

    @property
    def has_features(self) -> bool:
        """True if steps average or bound parameters: phases have no plain form then."""
        return self.n_slots > N_SLOTS or bool(self.network.signs)

    def begin(self, parameters: Array, lag: float) -> bool:
        self.lag = lag
        panels = self.panels
        m, _, trained, shown = self._arrays()
        if panels.flat(shown).tobytes() == parameters.tobytes():
            return False
        trained[:] = shown[:] = panels.packed(parameters)
        if lag:
            m[:] = 0
        return True

    def shown(self, trained: Array) -> Array:
        """Keep the packed parameters trained so far; return the ones that are shown."""
        if self.n_slots == N_SLOTS:
            return trained
        m, _, kept, shown = self._arrays()
        n = len(trained)
        kept[:n] = trained
        if self.lag:
            with np.errstate(all="ignore"):
                shown[:n] = trained - self.lag * m[:n]
        return shown

    def arrange(self, spacing: Spacing) -> None:
        if spacing == self.spacing:
            return
        flat = None if self._packed is None else self.flat()
        self.spacing = spacing
        self._signs = None
        self._packed = None if flat is None else self._pack(flat)

    def flat(self) -> Array:
        """A copy in the parameters' order, of shape (n_slots, n_parameters)."""
        panels = self.panels
        return np.stack([panels.flat(packed) for packed in self._arrays()])

    def _arrays(self) -> tuple[Array, ...]:
        """All packed vectors, allocated on first use with the current spacing."""
        if self._packed is None:
            n = packed_numbers(self.network, sparse=self.sparse, spacing=self.spacing)
            dtype = self.network.dtype
            self._packed = tuple(aligned(n, dtype) for _ in range(self.n_slots))
        return self._packed

    def _pack(self, flat: Array) -> tuple[Array, ...]:
        panels = self.panels
        return tuple(panels.packed(np.ascontiguousarray(row)) for row in flat)

    @property
    def panels(self) -> PanelPacking:
        """The packing for the current spacing, kept: a plan takes 0.1 ms."""
        if self.spacing not in self._packings:
            made = PanelPacking(self.network, sparse=self.sparse, spacing=self.spacing)
            self._packings[self.spacing] = made
        return self._packings[self.spacing]

    def __reduce__(self) -> Any:
        """A copy is flat: it may move to a machine with other registers."""
        return Moments, (self.network, self.flat())


class Session:
    """A plan for some rows, and the arrays that it points to, kept alive.

    Attributes
    ----------
    record : record array of `Job`, shape (1,)
    job, net : fields of the job's record, and of the plan's, by their names
    blocks : blocks of the phases by their names
    moments : the optimizer's state, or None without training
    plain : True while phases run in their plain form: no field of `FEATURES` is set
    rows : of a chunk: the `rows` given, else the partition's
    kind : calls of one kind share an autotuner
    user : the trainer that has taken it last

    Parameters
    ----------
    n_threads : the most threads of a call
    roomy : True: `divide` takes the partition of any number of rows up to `batch_size`, of one form
    """

    partition: Partition
    plain: bool
    user: object = None
    rows: int
    kind: tuple[Any, ...]
    workspace: Workspace
    plan: Plan
    net: Any
    batch: Any
    record: Array
    job: Any
    blocks: dict[str, Block]
    data: Data
    _at: slice | None
    _gradient: Array
    _average_backup: Array | None
    _replicas: step.Replicas | None
    _norms: Norms | None

    def __init__(
        self,
        network: Network,
        blocks: Addresses,
        data: Data,
        batch_size: int | None = None,
        *,
        rows: int | None = None,
        moments: Moments | None = None,
        train: bool = False,
        roomy: bool = False,
        n_threads: int = 1,
    ) -> None:
        train = train or moments is not None
        layout = network.layout
        n_targets = data.y.shape[1]
        self._network = network
        most = batch_size or data.n_rows
        expanded = isinstance(data.x, Expanded)
        # Predictions on expanded rows pack the first layer's weights.
        sparse = isinstance(data.x, SparseRows) or (expanded and train)
        if rows:
            partition = Partition(rows)
        else:
            partition = partition_of(
                network, most, n_threads, train=train, sparse=sparse
            )
        if isinstance(data.x, Expanded):
            partition = partition._replace(cuts=data.x.starts)
        partition = partition._replace(passes=network.passes)
        self.partition = partition
        self.rows = partition.rows
        self.kind = (layout.sizes, network.dtype, network.compute_dtype, self.rows)
        lanes = lanes_of(network.dtype.type)
        if roomy and not rows:
            room = room_of(layout, partition, most)
        else:
            room = partition
        size = (layout, room.buffer_rows, n_targets, network.dtype, lanes)
        new_workspace = partial(
            make_workspace,
            *size,
            n_heads=blocks.n_heads,
            train=train,
            sparse=sparse,
            gathered=data.x.plain if isinstance(data.x, Expanded) else None,
            spacing=partition.spacing,
            parts=1 if partition.microbatch_rows else n_threads,
            paired=paired_of(
                network, partition, sparse=not isinstance(data.x, np.ndarray)
            ),
            to_inputs=network.passes > 1,
        )
        # Tiles are the partition's.
        self.workspace = new_workspace()._replace(chunk_rows=partition.buffer_rows)
        arrays = [it for it in self.workspace if isinstance(it, np.ndarray)]
        self._workspace_bytes = sum(it.nbytes for it in arrays)
        new_plan = partial(
            make_plan,
            layout,
            blocks=blocks,
            strengths=[strength for _, strength in network.penalties] if train else [],
            n_targets=n_targets,
            partition=partition,
        )
        self.plan = new_plan(self.workspace)
        self.net, self._address = fields_of(self.plan.net), address(self.plan.net)
        self._layers = fields_of_each(self.plan.layers)
        self.batch, self._blocks = (
            fields_of(self.plan.batch),
            fields_of(self.plan.blocks),
        )
        self._identity = np.arange(self.workspace.panel_rows, dtype=np.int64)
        self._derivatives = self._derivative_buffers(n_threads)
        self._point_to_blocks(train=train, n_threads=n_threads)
        self.adopt(moments)
        self._packed = address(self.workspace.parameters)
        self._make_first_layer(data.x, train=train)
        self._gradient = np.empty(0, network.dtype)
        self._norms = None
        self._replicas = None
        if partition.microbatch_rows:
            makers = (new_plan, new_workspace, self.workspace)
            most = -(-partition.rows // partition.microbatch_rows)
            if roomy:
                most = max(most, microbatches_of(layout, room.rows))
            else:
                most = most
            self._make_replicas(step.Replicas(*makers, n_threads, room.rows, most))
        self.take(data)
        self.record = aligned(1, Job.dtype)
        self.job = fields_of(self.record)
        self.job["net"] = self._address

    def _point_to_blocks(self, *, train: bool, n_threads: int) -> None:
        """Compile the blocks that this net's partition needs, and no others, and write
        their addresses. Phases that have a plain form wait for `_choose_form`.
        """
        dtype = self._network.dtype
        partition = self.partition
        names = names_of(train=train, paired=any(self.workspace.paired))
        tables = (
            (self.plan.net, Net),
            (self.plan.layers, Layer),
            (self.plan.blocks, BlockAddresses),
        )
        self._watches = [Watch(*table) for table in tables]
        self._form: tuple[bool, bool] | None = None
        self._formed = [name for name in names if name in WITH_PLAIN_FORM]
        self.blocks = {
            name: phase(name, dtype) for name in names if name not in self._formed
        }
        for name, block in self.blocks.items():
            self._blocks[name] = block.address
        if self.workspace.row_copy_bytes:
            self._blocks["packed_product"] = block_of(packed_product, dtype).address
        if not self._network.layout.is_plain:
            forward = block_of(stages_forward, dtype).address
            self._blocks["stages_forward"] = forward
            if train:
                backward = block_of(stages_backward, dtype).address
                self._blocks["stages_backward"] = backward
        if train and partition.single_row:
            self._blocks["row_backward"] = block_of(row_backward, dtype).address
        if n_threads > 1 and partition.split_layer:
            self._blocks["split_k"] = block_of(step.split_k, dtype).address
        if n_threads > 1 and partition.by_panels:
            by_panels = block_of(step.forward_backward_by_panels, dtype)
            self._blocks["by_panels"] = by_panels.address
        elif n_threads > 1 and partition.split_layer > 1:
            self._blocks["split_k_backward"] = block_of(
                step.split_k_backward, dtype
            ).address

    def _derivative_buffers(self, n_threads: int) -> DerivativeBuffers | None:
        network = self._network
        if network.derivatives is None:
            return None
        link = rule_blocks.link_slopes(network)
        rows = self.workspace.panel_rows
        buffers = DerivativeBuffers(network, rows, n_threads, link)
        self.net["derivatives"] = address(buffers.record)
        return buffers

    def _make_replicas(self, replicas: step.Replicas) -> None:
        self._replicas = replicas
        self._identity = replicas.identity
        self._blocks["microbatches"] = block_of(
            step.microbatches, self._network.dtype
        ).address
        self.net["microbatch_rows"] = self.partition.microbatch_rows
        self._choose_form()
        replicas.attach(self.net, self.plan.blocks)
        self.keep_gradient()

    @property
    def derivatives(self) -> DerivativeBuffers | None:
        """None without derivatives by the inputs."""
        return self._derivatives

    @property
    def n_bytes(self) -> int:
        replicas = self._replicas.n_bytes if self._replicas else 0
        derivatives = self._derivatives.n_bytes if self._derivatives else 0
        return self._workspace_bytes + self._gradient.nbytes + replicas + derivatives

    def _make_first_layer(self, x: Any, *, train: bool) -> None:
        """Compile the first layer's blocks for rows that are not a matrix.

        Training sorts a chunk's numbers by column, in buffers that are made here;
        expanded rows have buffers for the places of their pieces.
        """
        if isinstance(x, SparseRows):
            n_numbers = x.most_numbers(self.rows) if train else 0
            factories = (sparse_forward, sparse_columns, sparse_gradient)
        elif isinstance(x, Expanded):
            self._expansion = ExpansionBuffers(x, self.workspace.panel_rows)
            self.net["expansion"] = address(self._expansion.record)
            n_numbers = self.rows * (x.values.shape[1] - x.plain)
            factories = (expanded_forward, expanded_columns, expanded_gradient)
        else:
            return
        if train:
            self._sort_by_column(x.shape[1], n_numbers)
        names = ("sparse_forward", "sparse_columns", "sparse_gradient")
        for name, factory in list(zip(names, factories, strict=True))[
            : None if train else 1
        ]:
            self._blocks[name] = block_of(factory, self._network.dtype).address

    def _sort_by_column(self, n_features: int, n_numbers: int) -> None:
        net, dtype = self.net, self._network.dtype
        self._columns = columns = ColumnBuffers(n_features, n_numbers, dtype)
        net["column_starts"], net["column_rows"] = (
            address(columns.starts),
            address(columns.rows),
        )
        net["column_values"] = address(columns.values)

    def adopt(self, moments: Moments | None) -> None:
        """Train with this optimizer's state from now on; None: without a state."""
        self.moments = moments
        self._average_backup = None
        if (
            self.net["average"]
            or self.net["signs"]
            or (moments and moments.has_features)
        ):
            self._form = None
        self.net["average"] = self.net["average_backup"] = self.net["signs"] = 0
        if moments is None:
            self.net["m"] = self.net["v"] = 0
            return
        moments.arrange(self.partition.spacing)
        self.net["m"], self.net["v"] = address(moments.m), address(moments.v)
        if moments.network.signs:
            self.net["signs"] = address(moments.signs)
        average = moments.average
        if average is not None:
            self._average_backup = np.empty_like(average)
            self.net["average"] = address(average)
            self.net["average_backup"] = address(self._average_backup)

    def serve(
        self, network: Network, blocks: Addresses, data: Data, moments: Moments
    ) -> None:
        """Train another net of the same layers and rules,
        with an optimizer's blocks.
        """
        self.plan.strengths[:] = [strength for _, strength in network.penalties]
        self.net["n_moments"] = blocks.n_moments
        self._blocks["optimizer"] = blocks.optimizer
        self._blocks["penalised"] = blocks.penalised
        self.adopt(moments)
        self.take(data)

    def rest(self) -> None:
        """Drop the rows and the optimizer's state; `serve` takes others later."""
        del self.data
        self._at = self.moments = self._average_backup = None

    def take(self, data: Data) -> None:
        """Work on these rows; kind, width and dtype are as before."""
        self.data = data
        self._at = None
        before = self.net["prefetches_rows"]
        self.net["prefetches_rows"] = now = prefetches_rows_of(data.x, self.rows)
        if self._derivatives:
            self._derivatives.take(data.derivatives)
        if isinstance(data.x, SparseRows):
            self.net["x_columns"] = address(data.x.columns)
            self.net["x_values"] = address(data.x.values)
        # Predictions prefetch no rows: their form does not depend on them.
        if self._form is None or (self.workspace.train and now != before):
            self._choose_form()

    def regroup(self, places: Sequence[tuple[int, int]], lowest: int) -> None:
        """Take other coefficients for each layer's weights and biases, where FROZEN
        means that they are not trained, and train the layers from `lowest` on. Sessions
        with microbatches cannot.
        """
        for layer, (weights, biases) in zip(self._layers, places, strict=True):
            layer["weight_coefficients"] = weights
            layer["bias_coefficients"] = biases
            together = weights == biases and not layer["is_transposed"]
            layer["steps_biases_with_weights"] = together
        self.net["lowest"] = lowest
        self._choose_form()

    def divide(self, partition: Partition) -> None:
        """Divide steps as this partition does; team and split layer stay."""
        rows = partition.rows
        small = partition.microbatch_rows
        cost = partition.cost
        self.partition = self.partition._replace(
            rows=rows, microbatch_rows=small, cost=cost
        )
        self.rows = rows
        # About as many rows: one autotuner for all would compare calls of a few and of
        # many.
        self.kind = (*self.kind[:3], 1 << (rows - 1).bit_length())
        if small:
            self.net["microbatch_rows"] = small

    def _choose_form(self) -> None:
        # Numba's code does not depend on fields that are 0.
        self.plain = COMPILER == "translator" and not any(
            watch.sees() for watch in self._watches
        )
        form = (self.plain, self.net["factors"] != 0)
        if form == self._form:
            return
        self._form = form
        dtype = self._network.dtype
        for name in self._formed:
            if name == "update" and form[1]:
                options = {"by_norm": True}
            else:
                options = {}
            if name == "forward_backward" and self._derivatives:
                self.blocks[name] = block_of(derivative_pass, dtype)
            else:
                self.blocks[name] = phase(name, dtype, plain=self.plain, **options)
            self._blocks[name] = self.blocks[name].address

    def point_to_draws(self, n_bytes: int) -> None:
        """Set the byte offset of dropout's numbers in a step's coefficients."""
        self.net["draws"] = n_bytes
        if self._replicas:
            self._replicas.point_to_draws(n_bytes)

    def keep_gradient(self, n_slices: int = 1) -> Array:
        """The buffer of the packed gradient, allocated on the first call."""
        size = -(-len(self.workspace.parameters) // n_slices) * n_slices
        if len(self._gradient) < size:
            self._gradient = aligned(size, self._network.dtype)
            self.net["gradient"] = address(self._gradient)
        return self._gradient[:size]

    def clip_by_norm(self, limit: NormLimit | None) -> None:
        """Clip gradients by their norm from now on; None ends it."""
        if limit is None and not self.net["factors"]:
            return
        self.net["factors"] = 0
        if limit is not None:
            self.keep_gradient()
            self._norms = self._norms or Norms(self.plan, self._network.dtype)
            self._norms.attach(self.net, self._blocks, limit)
        self._choose_form()

    def load(self, parameters: Array) -> None:
        """Pack the parameters, and write the transposed copies of the weights."""
        flat = address(parameters)
        workspace = self.workspace
        if workspace.sparse and not workspace.train:
            self.net["unpacked"] = flat
        moments = self.moments
        trained = None if moments is None else moments.trained
        if moments is None or trained is None:
            self.blocks["pack"](self._address, flat, self._packed)
        else:
            moments.begin(parameters, moments.lag)
            workspace.parameters[:] = trained[: len(workspace.parameters)]
        if workspace.train:
            self.blocks["transposes"](self._address)
        if any(workspace.paired) and workspace.train:
            self.blocks["pair_tiles"](
                self._address, 0, len(self.plan.tiles), STORE_NO_COPY_PAST
            )
        elif any(workspace.paired):
            self.blocks["pair_weights"](self._address, flat)

    def store(self, parameters: Array) -> None:
        """Unpack the parameters that the net shows."""
        trained = self.workspace.parameters
        moments = self.moments
        self.unpack(trained if moments is None else moments.shown(trained), parameters)

    def unpack(self, packed: Array, flat: Array) -> None:
        self.blocks["unpack"](self._address, address(flat), address(packed))

    def first_deltas(self, rows: slice) -> Array:
        """The first layer's deltas of the chunk of these rows, shape (n, n_units)."""
        n = rows.stop - rows.start
        width = self._network.layout.sizes[1]
        if self._network.layout.n_layers == 1:
            # Deltas lie by columns; for the sum of given slopes, they are the targets.
            deltas: Array = self.data.y[rows]
            return deltas
        workspace = self.workspace
        n_panels = -(-width // workspace.lanes)
        shape = (n_panels, workspace.panel_rows, workspace.lanes)
        panels = workspace.deltas[: np.prod(shape)].reshape(shape)[:, :n]
        return panels.swapaxes(0, 1).reshape(n, -1)[:, :width]

    def output_deltas(self, rows: slice) -> Array:
        """The output layer's deltas of the chunk of these rows,
        shape (n, n_outputs).
        """
        n = rows.stop - rows.start
        layout = self._network.layout
        workspace = self.workspace
        lanes = workspace.lanes
        n_out = layout.sizes[-1]
        before = sum(round_up(width, lanes) for width in layout.sizes[1:-1])
        deltas = workspace.deltas[before * workspace.panel_rows :]
        if workspace.packed[-1].is_transposed:
            n_squares = -(-n // lanes)
            height = few_outputs(lanes)
            shape = (n_squares, height, lanes)
            squares = deltas[: np.prod(shape)].reshape(shape)[:, :n_out]
            transposed: Array = squares.swapaxes(1, 2).reshape(-1, n_out)[:n]
            return transposed
        shape = (-(-n_out // lanes), workspace.panel_rows, lanes)
        panels = deltas[: np.prod(shape)].reshape(shape)[:, :n]
        return panels.swapaxes(0, 1).reshape(n, -1)[:, :n_out]

    def chunks(self) -> Iterator[slice]:
        n = self.data.n_rows
        for first in range(0, n, self.rows):
            yield slice(first, min(first + self.rows, n))

    def at(self, rows: slice) -> None:
        """Point the plan to these rows of the data;
        takes 7 us, unless it points there already.
        """
        if rows == self._at:
            return
        self._at = rows
        batch = self.batch
        data = self.data
        n_targets = self.data.y.shape[1]
        start = rows.start if data.rows is None else 0
        if isinstance(data.x, SparseRows):
            batch["x"] = address(data.x.starts, start)
        elif isinstance(data.x, Expanded):
            values = data.x.values
            batch["x"] = address(values, start * values.shape[1])
        else:
            batch["x"] = address(data.x, start * data.x.shape[1])
        if self._derivatives and data.derivatives:
            self._derivatives.at(data.derivatives.values, start)
        batch["y"] = address(data.y, start * n_targets)
        if data.weight.size:
            batch["weight"] = address(data.weight, start)
        else:
            batch["weight"] = 0
        index, start = (
            (self._identity, 0) if data.rows is None else (data.rows, rows.start)
        )
        batch["index"] = address(index, start)
        batch["n_rows"] = rows.stop - rows.start
