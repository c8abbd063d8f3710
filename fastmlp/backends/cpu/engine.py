"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import Block, block_of
from fastmlp.backends.cpu import cost, drive, helpers, launch, rules
from fastmlp.backends.cpu.cost import Work
from fastmlp.backends.cpu.few import FEW_ROWS, FewRows
from fastmlp.backends.cpu.microkernel import ROW_BLOCK, lanes_of
from fastmlp.backends.cpu.panels import pack, transposes, unpack
from fastmlp.backends.cpu.pilot import pilot_for
from fastmlp.backends.cpu.plan import Addresses, address, make_plan
from fastmlp.backends.cpu.product import product
from fastmlp.backends.cpu.rows import rows as rows_phase
from fastmlp.backends.cpu.shuffle import shuffle
from fastmlp.backends.cpu.tiles import tile
from fastmlp.guard import Guard, publish
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.workspace import PAGE_ROWS, STRIP_ROWS, chunk_rows, make_workspace, round_up

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
    guard : Guard, optional
        Held while the parameters are read, or written, as a whole.
    """

    def __init__(
        self, network: Network, n_threads: int | None = None, guard: Guard | None = None
    ) -> None:
        self.network, self.guard = network, guard or Guard()
        limit = launch.thread_limit()
        self.n_threads = limit if n_threads is None else min(n_threads, limit)

    def predict(
        self, parameters: Array, x: Array, out: Array, *, raw: bool = False
    ) -> FewRows | None:
        """Write predictions, or with `raw` the outputs before activation or link, to `out`.

        Returns what predicts a few rows again, and sooner, where there are only few.
        """
        network = rules.without_output(self.network) if raw else self.network
        if len(x) <= FEW_ROWS:
            few = FewRows(network, parameters)
            with self.guard.whole:
                few.write(x, out)
            return few
        blocks = Addresses(*rules.activations(network), link=rules.link(network))
        rows = max(1, min(len(x), PREDICT_FLOPS // (2 * network.layout.n_weights)))
        session = Session(
            network, blocks, Data(x, x[:, :0], x[:0, 0]), rows=self.n_threads * ROW_BLOCK
        )
        self._load(session, parameters)
        net, work = session.plan.net[0], self.work(rows, forward=2)
        for first in range(0, len(x), rows):
            session.at(slice(first, min(first + rows, len(x))))
            net.index, net.out = 0, address(out, first * out.shape[1])
            self.run(drive.predict, session, work)
        return None

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        blocks = Addresses(*rules.activations(self.network), loss=rules.loss(self.network))
        session = Session(self.network, blocks, data)
        self._load(session, parameters)
        work, total = self.work(session.rows, forward=2), 0.0
        for rows in session.chunks():
            session.at(rows)
            total += self.run(drive.evaluate, session, work).loss
        return float(total / _mass(data))

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        network = self.network
        blocks = Addresses(
            *rules.activations(network),
            loss=rules.loss(network),
            penalties=rules.penalties(network),
        )
        session = Session(network, blocks, data, train=True)
        self._load(session, parameters)
        session.plan.net[0].gradient = address(session.workspace.gradient)
        work = self.work(session.rows, forward=4, tiles=2)
        total, mass = 0.0, _mass(data)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == len(data.x)}
            total += self.run(drive.gradient, session, work, mass=mass, **where).loss
        gradient = np.empty_like(parameters)
        session.block("unpack")(
            address(session.plan.net), address(gradient), address(session.workspace.gradient)
        )
        return float(total), gradient

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
        vectors = (parameters, gradient, moments[0], moments[1])
        # Whole vectors, as in `fit`: the last bit of a quotient may depend on it.
        whole = [np.resize(vector, round_up(len(vector), PAGE_ROWS)) for vector in vectors]
        block = rules.optimizer(self.network, optimizer)
        block(*map(address, whole), address(constants), len(whole[0]))
        moments[0], moments[1] = (changed[: len(parameters)] for changed in whole[2:])
        with self.guard.whole:
            publish(whole[0][: len(parameters)], parameters)

    def _load(self, session: "Session", parameters: Array) -> None:
        with self.guard.whole:
            session.load(parameters)

    def trainer(
        self, parameters: Array, moments: Array, optimizer: Optimizer, data: Data, batch_size: int
    ) -> "Trainer":
        """Allocate and compile what training on `data` needs."""
        return Trainer(self, parameters, moments, optimizer, data, batch_size)

    def work(self, rows: int, forward: int = 0, tiles: int = 0) -> Work:
        """Return the work of a chunk: operations a weight and row in each of the two phases.

        A single strip of rows has nothing to share in phase one.
        """
        several = rows > STRIP_ROWS
        shared = forward * several + tiles
        return Work(shared * self.network.layout.n_weights * rows, several + (tiles > 0))

    def run(self, driver: Any, session: "Session", work: Work, **fields: Any) -> Any:
        """Set fields of the session's job, do it with a team where that pays, and return it."""
        job = session.job[0]
        for name, value in fields.items():
            setattr(job, name, value)
        kind = (driver.__name__, self.network.layout.sizes, session.rows, self.n_threads)
        pilot = pilot_for(kind)
        team = cost.pays(work, self.n_threads) and pilot.wants_team()
        block, start = block_of(driver, self.network.dtype), time.perf_counter()
        helpers.run(block, session.job, self.n_threads if team else 1, work.flops / cost.RATE)
        pilot.record(team, work.flops, time.perf_counter() - start)
        return job


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
            *rules.activations(network),
            loss=rules.loss(network),
            optimizer=rules.optimizer(network, optimizer).address,
            penalties=rules.penalties(network),
        )
        self._engine, self._batch_size = engine, batch_size
        self._parameters, self._moments = parameters, moments
        self._session = Session(network, blocks, data, batch_size, train=True)
        if self._session.rows < batch_size:
            self._session.plan.net[0].gradient = address(self._session.workspace.gradient)
        self.load()
        self._session.at(slice(0, len(data.x)))
        rows = self._session.rows
        self.units_per_epoch = drive.units_per_epoch(len(data.x), batch_size, rows)
        self.unit_flops = 6 * network.layout.n_weights * rows
        # Compiles, so that the first timed call measures work.
        self.run(np.zeros((1, len(data.x)), np.int64), np.zeros((1, 1)), np.zeros(1), 0, 0)

    def orders(self, words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return an order of the rows for each row of random words, shape (n_orders, n_rows)."""
        words, result = np.ascontiguousarray(words), np.empty(words.shape, np.int64)
        n_orders, n = words.shape
        block_of(shuffle, np.int64)(address(words), address(result), n, n_orders)
        return result

    def load(self) -> None:
        """Take the parameters, and the optimizer's state, as they stand: before the first call of
        `run`, and after somebody may have changed them."""
        self._session.load(self._parameters, self._moments)

    def store(self) -> None:
        """Bring the parameters, and the optimizer's state, up to date with the calls so far.

        Other threads may be reading the parameters.
        """
        parameters = np.empty_like(self._parameters)
        self._session.store(parameters, self._moments)
        with self._engine.guard.whole:
            publish(parameters, self._parameters)

    def begin(self) -> None:
        """Begin a window of epochs: `reached` is 0."""
        self._session.job[0].reached = 0

    @property
    def reached(self) -> int:
        """The unit of the window that the calls of `run` have reached, interrupted or not."""
        return int(self._session.job[0].reached)

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
        constants = np.ascontiguousarray(coefficients, data.x.dtype)
        unit, n_units = self._engine.work(rows, forward=4, tiles=2), last - first
        self._engine.run(
            drive.run,
            self._session,
            Work(n_units * unit.flops, n_units * unit.n_spreads),
            n_rows=len(data.x),
            batch_size=self._batch_size,
            chunk_rows=rows,
            first=first,
            last=last,
            order=address(order),
            n_orders=len(order),
            coefficients=address(constants),
            n_coefficients=constants.shape[1],
            losses=address(losses),
        )
        return self.reached

    def step_of(self, unit: int) -> int:
        """Return how many steps of a window are complete before this unit."""
        epoch, within = divmod(unit, self.units_per_epoch)
        steps_per_epoch = -(-len(self._session.data.x) // self._batch_size)
        return epoch * steps_per_epoch + within // -(-self._batch_size // self._session.rows)

    @property
    def diverged(self) -> bool:
        """Whether the last call met a number that is not finite."""
        return bool(self._session.job[0].diverged)


class Session:
    """A plan for some rows, and all that it points to, kept alive.

    Attributes
    ----------
    plan : Plan
    job : record array of `drive.JOB`, shape (1,)
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

        self.job = np.zeros(1, drive.JOB).view(np.recarray)
        self.job[0].net = address(self.plan.net)

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

    def at(self, rows: slice) -> None:
        """Point the plan to these rows of the data."""
        net, data, n_targets = self.plan.net[0], self.data, self.data.y.shape[1]
        net.x = address(data.x, rows.start * data.x.shape[1])
        net.y = address(data.y, rows.start * n_targets)
        net.weight = address(data.weight, rows.start) if data.weight.size else 0
        net.index, net.n_rows = net.identity, rows.stop - rows.start


def _mass(data: Data) -> float:
    return float(data.weight.sum(dtype=np.float64)) if data.weight.size else float(len(data.x))
