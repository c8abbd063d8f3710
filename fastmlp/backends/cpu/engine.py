"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import Block, block_of
from fastmlp.activations import identity, relu
from fastmlp.backends.cpu import drive, launch, loops
from fastmlp.backends.cpu.microkernel import ROW_BLOCK, lanes_of
from fastmlp.backends.cpu.panels import pack, transposes, unpack
from fastmlp.backends.cpu.plan import BLOCK, LINEAR, RELU, Addresses, address, make_plan
from fastmlp.backends.cpu.product import product
from fastmlp.backends.cpu.rows import rows as rows_phase
from fastmlp.backends.cpu.tiles import tile
from fastmlp.links import LINKS
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.workspace import chunk_rows, make_workspace

Array = NDArray[Any]
# What one call of predictions may take of one core: 0.1 s, so that Ctrl-C is heard.
PREDICT_FLOPS = 5_000_000_000
FORWARD_BLOCKS = ("product", "pack", "rows")


def _phases(network: Network) -> dict[str, Any]:
    dtype = network.dtype
    return {
        "product": partial(block_of, product, dtype, by_column=False),
        "gradient_product": partial(block_of, product, dtype, by_column=True),
        "pack": partial(block_of, pack, dtype),
        "unpack": partial(block_of, unpack, dtype),
        "transposes": partial(block_of, transposes, dtype),
        "rows": partial(block_of, rows_phase, dtype),
        "tile": partial(block_of, tile, dtype),
    }


class Data(NamedTuple):
    """Rows to work on, validated: C-contiguous, of the network's dtype.

    Attributes
    ----------
    x : shape (n_rows, n_features)
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike
    """

    x: Array
    y: Array
    weight: Array


class Engine:
    """Forward, gradient and update of one network on the CPU.

    Parameters
    ----------
    network : Network
    n_threads : int or None
        At most so many threads; None: as many as the process may use.
    """

    def __init__(self, network: Network, n_threads: int | None = None) -> None:
        self.network = network
        limit = launch.thread_limit()
        self.n_threads = limit if n_threads is None else min(n_threads, limit)

    def predict(self, parameters: Array, x: Array, out: Array, *, raw: bool = False) -> None:
        """Write predictions, or with `raw` the outputs before activation or link, to `out`."""
        network = _without_output(self.network) if raw else self.network
        blocks = Addresses(*_activations(network), link=_link(network))
        rows = max(1, min(len(x), PREDICT_FLOPS // (2 * network.layout.n_weights)))
        drivers, launching = self.launch(2 * network.layout.n_weights * rows)
        data = Data(x, x[:, :0], x[:0, 0])
        session = Session(network, blocks, data, rows=self.n_threads * ROW_BLOCK)
        session.load(parameters)
        net = session.plan.net[0]
        with launching:
            for first in range(0, len(x), rows):
                place = session.at(slice(first, min(first + rows, len(x))))
                net.index, net.out = 0, address(out, first * out.shape[1])
                drivers.predict(place)

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        blocks = Addresses(*_activations(self.network), loss=_loss(self.network))
        session = Session(self.network, blocks, data)
        session.load(parameters)
        drivers, launching = self.launch(2 * self.network.layout.n_weights * session.rows)
        with launching:
            losses = [drivers.evaluate(session.at(rows)) for rows in session.chunks()]
        return sum(losses) / _mass(data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        network = self.network
        blocks = Addresses(
            *_activations(network), loss=_loss(network), penalties=_penalties(network)
        )
        session = Session(network, blocks, data, train=True)
        session.load(parameters)
        session.plan.net[0].gradient = address(session.workspace.gradient)
        drivers, launching = self.launch(6 * network.layout.n_weights * session.rows)
        total, mass = 0.0, _mass(data)
        with launching:
            for rows in session.chunks():
                more, ends = rows.start > 0, rows.stop == len(data.x)
                total += drivers.gradient(session.at(rows), mass, more, ends)
        gradient = np.empty_like(parameters)
        session.block("unpack")(
            address(session.plan.net), address(gradient), address(session.workspace.gradient)
        )
        return total, gradient

    def update(
        self,
        parameters: Array,
        moments: Array,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        constants = np.ascontiguousarray(coefficients, self.network.dtype)
        vectors = (parameters, gradient, moments[0], moments[1], constants)
        _optimizer(self.network, optimizer)(*map(address, vectors), len(parameters))

    def trainer(
        self, parameters: Array, moments: Array, optimizer: Optimizer, data: Data, batch_size: int
    ) -> "Trainer":
        """Allocate and compile what training on `data` needs."""
        return Trainer(self, parameters, moments, optimizer, data, batch_size)

    def launch(self, flops: int) -> tuple[drive.Drivers, AbstractContextManager[None]]:
        """Return the drivers for calls of so much work at a time, and a context to call them in."""
        if self.n_threads > 1 and flops > launch.PARALLEL_FLOPS and launch.parallel_is_safe():
            return drive.PARALLEL, launch.threads(self.n_threads)
        return drive.SERIAL, nullcontext()


class Trainer:
    """Runs units of training: whole epochs in compiled code, as many units a call as asked for.

    Attributes
    ----------
    units_per_epoch : int
    unit_flops : int
        Floating-point operations of a unit, to guess how many make a call.
    """

    def __init__(
        self,
        engine: Engine,
        parameters: Array,
        moments: Array,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
    ) -> None:
        network = engine.network
        blocks = Addresses(
            *_activations(network),
            loss=_loss(network),
            optimizer=_optimizer(network, optimizer).address,
            penalties=_penalties(network),
        )
        self._engine, self._batch_size = engine, batch_size
        self._parameters, self._moments = parameters, moments
        self._session = Session(network, blocks, data, batch_size, train=True)
        if self._session.rows < batch_size:
            self._session.plan.net[0].gradient = address(self._session.workspace.gradient)
        self.load()
        self._address = self._session.at(slice(0, len(data.x)))
        self._progress = np.zeros(1, drive.PROGRESS).view(np.recarray)
        rows = self._session.rows
        self.units_per_epoch = drive.units_per_epoch(len(data.x), batch_size, rows)
        self.unit_flops = 6 * network.layout.n_weights * rows
        # Compiles, so that the first timed call measures work.
        self.run(np.zeros((1, len(data.x)), np.int64), np.zeros((1, 1)), np.zeros(1), 0, 0)

    def load(self) -> None:
        """Take the parameters, and the optimizer's state, as they stand: before the first call of
        `run`, and after somebody may have changed them."""
        self._session.load(self._parameters, self._moments)

    def store(self) -> None:
        """Bring the parameters, and the optimizer's state, up to date with the calls so far."""
        self._session.store(self._parameters, self._moments)

    def run(
        self, order: NDArray[np.int64], coefficients: Rates, losses: Array, first: int, last: int
    ) -> int:
        """Do units first to last of a window of epochs; return where it stopped.

        Parameters
        ----------
        order : int64, shape (n_epochs or 1, n_rows)
        coefficients : shape (n_steps, n_coefficients), for the steps of this call
        losses : float64, shape (n_epochs,), receives each epoch's mean objective
        """
        data, rows = self._session.data, self._session.rows
        job = drive.Job(len(data.x), self._batch_size, rows, first, last)
        constants = np.ascontiguousarray(coefficients, data.x.dtype)
        drivers, launching = self._engine.launch(self.unit_flops)
        with launching:
            return drivers.run(self._address, order, constants, losses, self._progress, job)

    def step_of(self, unit: int) -> int:
        """Return how many steps of a window are complete before this unit."""
        epoch, within = divmod(unit, self.units_per_epoch)
        steps_per_epoch = -(-len(self._session.data.x) // self._batch_size)
        return epoch * steps_per_epoch + within // -(-self._batch_size // self._session.rows)

    @property
    def diverged(self) -> bool:
        """Whether the last call met a number that is not finite."""
        return bool(self._progress[0].diverged)


class Session:
    """A plan for some rows, and all that it points to, kept alive.

    Attributes
    ----------
    plan : Plan
    workspace : Workspace
    rows : int, the rows of a chunk: as many as asked for, else what suits the net
    """

    def __init__(
        self,
        network: Network,
        blocks: Addresses,
        data: Data,
        batch_size: int | None = None,
        *,
        rows: int | None = None,
        train: bool = False,
    ) -> None:
        layout, n_targets = network.layout, data.y.shape[1]
        self.data, self._network = data, network
        self.rows = rows or chunk_rows(layout, batch_size or len(data.x), train=train)
        lanes = lanes_of(network.dtype.type)
        self.workspace = make_workspace(
            layout, self.rows, n_targets, network.dtype, lanes, train=train
        )
        strengths = [strength for _, strength in network.penalties] if train else []
        self.plan = make_plan(layout, self.workspace, blocks, strengths, n_targets)
        net = self.plan.net[0]
        names = _phases(network) if train else FORWARD_BLOCKS
        for name in names:
            setattr(net, name, self.block(name).address)

    def block(self, name: str) -> Block:
        """Return one of the blocks of the phases."""
        block: Block = _phases(self._network)[name]()
        return block

    def load(self, parameters: Array, moments: Array | None = None) -> None:
        """Pack the parameters, and the optimizer's state, and whatever is computed from them."""
        pack, workspace, net = self.block("pack"), self.workspace, address(self.plan.net)
        pack(net, address(parameters), address(workspace.parameters))
        if workspace.m.size:
            self.block("transposes")(net)
        if moments is not None:
            pack(net, address(moments), address(workspace.m))
            pack(net, address(moments, len(parameters)), address(workspace.v))

    def store(self, parameters: Array, moments: Array) -> None:
        """Unpack the parameters and the optimizer's state."""
        unpack, workspace, net = self.block("unpack"), self.workspace, address(self.plan.net)
        unpack(net, address(parameters), address(workspace.parameters))
        unpack(net, address(moments), address(workspace.m))
        unpack(net, address(moments, len(parameters)), address(workspace.v))

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the rows, one chunk after the other."""
        n = len(self.data.x)
        for first in range(0, n, self.rows):
            yield slice(first, min(first + self.rows, n))

    def at(self, rows: slice) -> int:
        """Point the plan to these rows of the data; return the address of its record."""
        net, data, n_targets = self.plan.net[0], self.data, self.data.y.shape[1]
        net.x = address(data.x, rows.start * data.x.shape[1])
        net.y = address(data.y, rows.start * n_targets)
        net.weight = address(data.weight, rows.start) if data.weight.size else 0
        net.index, net.n_rows = net.identity, rows.stop - rows.start
        return address(self.plan.net)


def _without_output(network: Network) -> Network:
    return network._replace(
        activations=(*network.activations[:-1], identity), link=LINKS["identity"]
    )


def _activations(network: Network) -> tuple[list[int], list[int]]:
    """Return the addresses of the activations' blocks, and the form of each layer.

    The output layer is linear here: its activation comes later, row by row, as its loss does.
    """
    addresses, forms = [], []
    last = len(network.activations) - 1
    for i, rule in enumerate(network.activations):
        form = LINEAR if rule is identity or i == last else RELU if rule is relu else BLOCK
        needed = form == BLOCK or (i == last and rule is not identity)
        block = block_of(loops.activation_loop, network.dtype, rule) if needed else None
        addresses.append(block.address if block else 0)
        forms.append(form)
    return addresses, forms


def _link(network: Network) -> int:
    link = network.link
    return block_of(loops.link_loop, network.dtype, link.rule, by_row=link.by_row).address


def _loss(network: Network) -> int:
    loss = network.loss
    options = {"by_row": loss.by_row, "mean": loss.over_outputs == "mean"}
    return block_of(loops.loss_loop, network.dtype, loss.rule, **options).address


def _penalties(network: Network) -> list[int]:
    rules = [rule for rule, _ in network.penalties]
    return [block_of(loops.penalty_loop, network.dtype, rule).address for rule in rules]


def _optimizer(network: Network, optimizer: Optimizer) -> Block:
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    options = {"n_coefficients": n}
    return block_of(loops.update_loop, network.dtype, optimizer.rule, **options)


def _mass(data: Data) -> float:
    return float(data.weight.sum(dtype=np.float64)) if data.weight.size else float(len(data.x))
