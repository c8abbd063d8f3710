"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import block_of
from fastmlp.activations import identity
from fastmlp.backends.cpu import cost, drive, helpers, launch, loops
from fastmlp.backends.cpu.cost import Work
from fastmlp.backends.cpu.plan import ROW_BLOCK, Addresses, address, make_plan
from fastmlp.backends.cpu.product import product
from fastmlp.backends.cpu.rows import rows as rows_phase
from fastmlp.backends.cpu.tiles import tile, transpose
from fastmlp.links import LINKS
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.workspace import chunk_rows, make_workspace

Array = NDArray[Any]
PHASES = {"product": product, "rows": rows_phase, "tile": tile, "transposes": transpose}


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
        blocks = Addresses(_activations(network), link=_link(network))
        session = Session(network, blocks, parameters, Data(x, x[:, :0], x[:0, 0]))
        work = self.work(session.rows, forward=2)
        raws = int(session.plan.layers[-1].outputs)
        for rows in session.chunks():
            target = address(out, rows.start * out.shape[1])
            session.at(rows)
            self.run(drive.predict, session, work, raw=raws, out=target)

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        blocks = Addresses(_activations(self.network), loss=_loss(self.network))
        session = Session(self.network, blocks, parameters, data)
        work, total = self.work(session.rows, forward=2), 0.0
        for rows in session.chunks():
            session.at(rows)
            total += self.run(drive.evaluate, session, work).loss
        return float(total / _mass(data))

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        network = self.network
        blocks = Addresses(
            _activations(network), loss=_loss(network), penalties=_penalties(network)
        )
        session = Session(network, blocks, parameters, data, train=True)
        work = self.work(session.rows, forward=4, tiles=2)
        total, mass = 0.0, _mass(data)
        for rows in session.chunks():
            session.at(rows)
            where = {"more": rows.start > 0, "ends": rows.stop == len(data.x)}
            total += self.run(drive.gradient, session, work, mass=mass, **where).loss
        return float(total), session.workspace.gradient

    def update(
        self,
        parameters: Array,
        moments: Array,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        network = self.network
        blocks = Addresses(_activations(network), optimizer=_optimizer(network, optimizer))
        nothing = np.zeros((1, network.layout.sizes[0]), network.dtype)
        data = Data(nothing, nothing[:, :0], nothing[0, :0])
        session = Session(network, blocks, parameters, data, moments, train=True)
        session.plan.net[0].gradient = address(gradient)
        constants = np.ascontiguousarray(coefficients, network.dtype)
        session.at(slice(0, 1))
        work = Work(10 * network.layout.n_parameters, 1)
        self.run(drive.update, session, work, coefficients=address(constants))

    def trainer(
        self, parameters: Array, moments: Array, optimizer: Optimizer, data: Data, batch_size: int
    ) -> "Trainer":
        """Allocate and compile what training on `data` needs."""
        return Trainer(self, parameters, moments, optimizer, data, batch_size)

    def work(self, rows: int, forward: int = 0, tiles: int = 0) -> Work:
        """Return the work of a chunk: operations a weight and row in each of the two phases.

        A single block of rows has nothing to share in phase one.
        """
        several = rows > ROW_BLOCK
        shared = forward * several + tiles
        return Work(shared * self.network.layout.n_weights * rows, several + (tiles > 0))

    def run(self, driver: Any, session: "Session", work: Work, **fields: Any) -> Any:
        """Set fields of the session's job, do it with a team where that pays, and return it."""
        job = session.job[0]
        for name, value in fields.items():
            setattr(job, name, value)
        n_threads = self.n_threads if cost.pays(work, self.n_threads) else 1
        block, seconds = block_of(driver, self.network.dtype), work.flops / cost.RATE
        helpers.run(block, session.job, n_threads, seconds)
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
            _activations(network),
            loss=_loss(network),
            optimizer=_optimizer(network, optimizer),
            penalties=_penalties(network),
        )
        self._engine, self._batch_size = engine, batch_size
        self._session = Session(network, blocks, parameters, data, moments, batch_size, train=True)
        self._session.at(slice(0, len(data.x)))
        rows = self._session.rows
        self.units_per_epoch = drive.units_per_epoch(len(data.x), batch_size, rows)
        self.unit_flops = 6 * network.layout.n_weights * rows
        # Compiles, so that the first timed call measures work.
        self.run(np.zeros((1, len(data.x)), np.int64), np.zeros((1, 1)), np.zeros(1), 0, 0)

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
    workspace : Workspace
    rows : int, the rows of a chunk
    job : record array of `drive.JOB`, shape (1,)
    """

    def __init__(
        self,
        network: Network,
        blocks: Addresses,
        parameters: Array,
        data: Data,
        moments: Array | None = None,
        batch_size: int | None = None,
        *,
        train: bool = False,
    ) -> None:
        layout, n_targets = network.layout, data.y.shape[1]
        self.data, self._parameters, self._moments = data, parameters, moments
        self.rows = chunk_rows(layout, batch_size or len(data.x))
        self.workspace = make_workspace(layout, self.rows, n_targets, network.dtype, train=train)
        strengths = [strength for _, strength in network.penalties] if train else []
        self.plan = make_plan(
            layout, self.workspace, blocks, parameters, moments, strengths, n_targets
        )
        net = self.plan.net[0]
        for name, factory in PHASES.items():
            setattr(net, name, block_of(factory, network.dtype).address)
        self.job = np.zeros(1, drive.JOB).view(np.recarray)
        self.job[0].net = address(self.plan.net)

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


def _without_output(network: Network) -> Network:
    return network._replace(
        activations=(*network.activations[:-1], identity), link=LINKS["identity"]
    )


def _activations(network: Network) -> list[int]:
    rules = network.activations
    return [block_of(loops.activation_loop, network.dtype, rule).address for rule in rules]


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


def _optimizer(network: Network, optimizer: Optimizer) -> int:
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    options = {"n_coefficients": n}
    return block_of(loops.update_loop, network.dtype, optimizer.rule, **options).address


def _mass(data: Data) -> float:
    return float(data.weight.sum(dtype=np.float64)) if data.weight.size else float(len(data.x))
