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
from fastmlp.backends.cpu.moments import Moments, Panels
from fastmlp.backends.cpu.panels import pack, transposes, unpack
from fastmlp.backends.cpu.pilot import pilot_for
from fastmlp.backends.cpu.plan import Addresses, address, make_plan
from fastmlp.backends.cpu.product import product
from fastmlp.backends.cpu.rows import rows as rows_phase
from fastmlp.backends.cpu.shuffle import shuffle
from fastmlp.backends.cpu.sparse import (
    ColumnBuffers,
    SparseRows,
    sparse_columns,
    sparse_forward,
    sparse_gradient,
)
from fastmlp.backends.cpu.tiles import tile
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.workspace import STRIP_ROWS, aligned, chunk_rows, make_workspace

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
    x : shape (n_rows, n_features), or rows of a sparse matrix
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike
    """

    x: Array | SparseRows
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

    def predict(
        self, parameters: Array, x: Array | SparseRows, out: Array, *, raw: bool = False
    ) -> FewRows | None:
        """Write predictions, or with `raw` the outputs before activation or link, to `out`.

        Returns what predicts a few rows again, and sooner, where there are only few.
        """
        network = rules.without_output(self.network) if raw else self.network
        if len(x) <= FEW_ROWS and not isinstance(x, SparseRows):
            few = FewRows(network, parameters)
            few.write(x, out)
            return few
        Prediction(self, network, x)(parameters, out)
        return None

    def prediction(self, x: Array | SparseRows) -> "Prediction":
        """Return the predictions for these rows, as a function of the parameters."""
        return Prediction(self, self.network, x)

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        return self.evaluation(data)(parameters)

    def evaluation(self, data: Data) -> "Evaluation":
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self, data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        return self.objective(data)(parameters)

    def objective(self, data: Data) -> "Objective":
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self, data)

    def moments(self, *, sparse: bool = False) -> Moments:
        """Return the state of an optimizer that has taken no step, on dense or sparse rows."""
        return Moments(self.network, sparse=sparse)

    def update(
        self,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        constants = np.ascontiguousarray(coefficients, self.network.dtype)
        panels, block = Panels(self.network), rules.optimizer(self.network, optimizer)
        w, g = panels.packed(parameters), panels.packed(gradient)
        block(*map(address, (w, g, moments.m, moments.v, constants)), panels.size)
        panels.flat(w, out=parameters)

    def trainer(
        self,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: bool,
    ) -> "Trainer":
        """Allocate and compile what training on `data` needs; `options` are those of `Trainer`."""
        return Trainer(self, parameters, moments, optimizer, data, batch_size, **options)

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


class Prediction:
    """The predictions for some rows, plan and buffers made once."""

    def __init__(self, engine: Engine, network: Network, x: Array | SparseRows) -> None:
        blocks = Addresses(*rules.activations(network), link=rules.link(network))
        self._engine = engine
        self._rows = max(1, min(len(x), PREDICT_FLOPS // (2 * network.layout.n_weights)))
        data = Data(x, np.empty((len(x), 0), x.dtype), np.empty(0, x.dtype))
        self._session = Session(network, blocks, data, rows=engine.n_threads * ROW_BLOCK)
        self._work = engine.work(self._rows, forward=2)

    def __call__(self, parameters: Array, out: Array) -> None:
        """Write the predictions at these parameters to `out`, shape (n_rows, n_outputs)."""
        session, n_rows = self._session, len(out)
        session.load(parameters)
        net = session.plan.net[0]
        for first in range(0, n_rows, self._rows):
            session.at(slice(first, min(first + self._rows, n_rows)))
            net.index, net.out = 0, address(out, first * out.shape[1])
            self._engine.run(drive.predict, session, self._work)


class Evaluation:
    """The mean loss over some rows, weighted, without penalties; plan and buffers made once."""

    def __init__(self, engine: Engine, data: Data) -> None:
        network = engine.network
        blocks = Addresses(*rules.activations(network), loss=rules.loss(network))
        self._engine, self._mass = engine, _mass(data)
        self._session = Session(network, blocks, data)
        self._work = engine.work(self._session.rows, forward=2)

    def __call__(self, parameters: Array) -> float:
        """Return the loss at these parameters."""
        session, total = self._session, 0.0
        session.load(parameters)
        for rows in session.chunks():
            session.at(rows)
            total += self._engine.run(drive.evaluate, session, self._work).loss
        return float(total / self._mass)


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient.

    Plan and buffers are made once, for whom asks again and again.
    """

    def __init__(self, engine: Engine, data: Data) -> None:
        network = engine.network
        blocks = Addresses(
            *rules.activations(network),
            loss=rules.loss(network),
            penalties=rules.penalties(network),
        )
        self._engine, self._mass = engine, _mass(data)
        self._session = session = Session(network, blocks, data, train=True)
        self._packed = session.keep_gradient()
        self._work = engine.work(session.rows, forward=4, tiles=2)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Return the objective and its gradient, flat, at these parameters."""
        session, total = self._session, 0.0
        session.load(parameters)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == len(session.data.x)}
            job = self._engine.run(drive.gradient, session, self._work, mass=self._mass, **where)
            total += job.loss
        gradient = np.empty_like(parameters)
        net, packed = address(session.plan.net), address(self._packed)
        session.block("unpack")(net, address(gradient), packed)
        return float(total), gradient


class Trainer:
    """Runs units of training: whole epochs in compiled code, as many units a call as asked for.

    Parameters
    ----------
    guarded : bool
        Whether a number that is not finite ends the training, with the epoch's first parameters.
    by_rows : bool
        Whether an epoch's loss counts its batches by their rows, not by their rows' weights.

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
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        *,
        guarded: bool = True,
        by_rows: bool = False,
    ) -> None:
        network = engine.network
        blocks = Addresses(
            *rules.activations(network),
            loss=rules.loss(network),
            optimizer=rules.optimizer(network, optimizer).address,
            penalties=rules.penalties(network),
        )
        self._engine, self._batch_size = engine, batch_size
        self._parameters = parameters
        self._session = Session(network, blocks, data, batch_size, moments=moments)
        if self._session.rows < batch_size:
            self._session.keep_gradient()
        job = self._session.job[0]
        job.guarded, job.by_rows = guarded, by_rows
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
        """Take the parameters as they stand: before the first call of `run`, and after somebody
        may have changed them."""
        self._session.load(self._parameters)

    def store(self) -> None:
        """Bring the parameters up to date with the calls so far."""
        self._session.store(self._parameters)

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
        job = self._engine.run(
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
        return int(job.reached)

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
        moments: Moments | None = None,
        train: bool = False,
    ) -> None:
        train = train or moments is not None
        layout, n_targets = network.layout, data.y.shape[1]
        self.data, self._network = data, network
        sparse = isinstance(data.x, SparseRows)
        self.rows = rows or chunk_rows(
            layout, batch_size or len(data.x), train=train, sparse=sparse
        )
        lanes = lanes_of(network.dtype.type)
        self.workspace = make_workspace(
            layout, self.rows, n_targets, network.dtype, lanes, train=train, sparse=sparse
        )
        if moments is not None:
            self.workspace = self.workspace._replace(m=moments.m, v=moments.v)
        strengths = [strength for _, strength in network.penalties] if train else []
        self.plan = make_plan(layout, self.workspace, blocks, strengths, n_targets)
        net = self.plan.net[0]
        names = _phases(network) if train else FORWARD_BLOCKS
        for name in names:
            setattr(net, name, self.block(name).address)

        if isinstance(data.x, SparseRows):
            self._make_sparse(data.x, train=train)
        self.job = np.zeros(1, drive.JOB).view(np.recarray)
        self.job[0].net = address(self.plan.net)

    def _make_sparse(self, x: SparseRows, *, train: bool) -> None:
        """Point the plan to sparse rows, to the blocks for them, and to room to sort them."""
        net, dtype = self.plan.net[0], self._network.dtype
        net.x_columns, net.x_values = address(x.columns), address(x.values)
        net.sparse_forward = block_of(sparse_forward, dtype).address
        if not train:
            return
        self._columns = columns = ColumnBuffers(x, self.rows)
        net.column_starts, net.column_rows = address(columns.starts), address(columns.rows)
        net.column_values = address(columns.values)
        net.sparse_columns = block_of(sparse_columns, dtype).address
        net.sparse_gradient = block_of(sparse_gradient, dtype).address

    def block(self, name: str) -> Block:
        """Return one of the blocks of the phases."""
        block: Block = _phases(self._network)[name]()
        return block

    def keep_gradient(self) -> Array:
        """Allocate a packed gradient, for one that is summed over chunks or asked for."""
        self._gradient = aligned(len(self.workspace.parameters), self._network.dtype)
        self.plan.net[0].gradient = address(self._gradient)
        return self._gradient

    def load(self, parameters: Array) -> None:
        """Pack the parameters, and whatever is computed from them."""
        workspace, net = self.workspace, address(self.plan.net)
        if workspace.sparse and not workspace.m.size:
            self.plan.net[0].unpacked = address(parameters)
        self.block("pack")(net, address(parameters), address(workspace.parameters))
        if workspace.m.size:
            self.block("transposes")(net)

    def store(self, parameters: Array) -> None:
        """Unpack the parameters."""
        net, packed = address(self.plan.net), address(self.workspace.parameters)
        self.block("unpack")(net, address(parameters), packed)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the rows, one chunk after the other."""
        n = len(self.data.x)
        for first in range(0, n, self.rows):
            yield slice(first, min(first + self.rows, n))

    def at(self, rows: slice) -> None:
        """Point the plan to these rows of the data."""
        net, data, n_targets = self.plan.net[0], self.data, self.data.y.shape[1]
        if isinstance(data.x, SparseRows):
            net.x = address(data.x.starts, rows.start)
        else:
            net.x = address(data.x, rows.start * data.x.shape[1])
        net.y = address(data.y, rows.start * n_targets)
        net.weight = address(data.weight, rows.start) if data.weight.size else 0
        net.index, net.n_rows = net.identity, rows.stop - rows.start


def _mass(data: Data) -> float:
    return float(data.weight.sum(dtype=np.float64)) if data.weight.size else float(len(data.x))
