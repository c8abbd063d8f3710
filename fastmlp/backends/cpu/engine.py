"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import block_of
from fastmlp.activations import identity
from fastmlp.backends.cpu import drive, launch, loops
from fastmlp.backends.cpu.plan import Addresses, Plan, make_plan
from fastmlp.backends.cpu.rows import ROW_BLOCK
from fastmlp.links import LINKS
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.workspace import Workspace, chunk_rows, make_workspace

Array = NDArray[Any]


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
        """Write predictions, or the output layer's pre-activations, to `out` (n_rows, n_outputs)."""
        network = _without_output(self.network) if raw else self.network
        blocks = Addresses(_activations(network), link=_link(network))
        session = _open(network, blocks, parameters, Data(x, x[:, :0], out[:0, 0]))
        drivers, launching = self.launch(2 * network.layout.n_weights * session.rows)
        with launching:
            for rows, index in session.chunks():
                target = out[rows].reshape(-1)
                drivers.predict(session.plan, _flat(x[rows]), index, target, session.like)

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        blocks = Addresses(_activations(self.network), loss=_loss(self.network))
        session = _open(self.network, blocks, parameters, data)
        drivers, launching = self.launch(2 * self.network.layout.n_weights * session.rows)
        with launching:
            losses = [
                drivers.evaluate(session.plan, *session.part(rows), index, session.like)
                for rows, index in session.chunks()
            ]
        return float(sum(losses)) / _mass(data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        network = self.network
        blocks = Addresses(
            _activations(network), loss=_loss(network), penalties=_penalties(network)
        )
        session = _open(network, blocks, parameters, data, train=True)
        drivers, launching = self.launch(6 * network.layout.n_weights * session.rows)
        total, mass = 0.0, _mass(data)
        with launching:
            for rows, index in session.chunks():
                more, ends = rows.start > 0, rows.stop >= len(data.x)
                part = session.part(rows)
                total += drivers.gradient(
                    session.plan, *part, index, mass, more, ends, session.like
                )
        return total, session.workspace.gradient

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
            _activations(network),
            loss=_loss(network),
            update=_update(network, optimizer),
            penalties=_penalties(network),
        )
        self._engine, self._data, self._batch_size = engine, data, batch_size
        self._moments = moments
        self._session = _open(network, blocks, parameters, data, moments, batch_size, train=True)
        self._arrays = (_flat(data.x), _flat(data.y), _read_only(data.weight))
        self._progress = np.zeros(1, drive.PROGRESS).view(np.recarray)
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
        job = drive.Job(len(self._data.x), self._batch_size, self._session.rows, first, last)
        constants = np.ascontiguousarray(coefficients, self._data.x.dtype)
        drivers, launching = self._engine.launch(self.unit_flops)
        with launching:
            return drivers.run(
                self._session.plan, *self._arrays, order, constants, losses, self._progress, job
            )

    def steps(self, first: int, last: int) -> int:
        """Return how many steps the units first to last of a window belong to."""
        return self._step_of(last - 1) - self._step_of(first) + 1

    def steps_before(self, unit: int) -> int:
        """Return how many steps of a window end before this unit."""
        return self._step_of(unit)

    @property
    def diverged(self) -> bool:
        """Whether the last call met a number that is not finite."""
        return bool(self._progress[0].diverged)

    def _step_of(self, unit: int) -> int:
        epoch, within = divmod(unit, self.units_per_epoch)
        steps_per_epoch = -(-len(self._data.x) // self._batch_size)
        return epoch * steps_per_epoch + within // -(-self._batch_size // self._session.rows)


class _Session(NamedTuple):
    """A plan, the buffers it points into, and the rows it works on."""

    plan: Plan
    workspace: Workspace
    parameters: Array
    data: Data
    like: Array

    @property
    def rows(self) -> int:
        """Rows of a chunk."""
        return self.workspace.chunk_rows

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Yield slices of the rows and 0, 1, 2, ... for each."""
        n = len(self.data.x)
        for first in range(0, n, self.rows):
            last = min(first + self.rows, n)
            yield slice(first, last), self.plan.identity[: last - first]

    def part(self, rows: slice) -> tuple[Array, Array, Array]:
        """Return these rows of X and y, flat, and their weights."""
        data = self.data
        return _flat(data.x[rows]), _flat(data.y[rows]), _read_only(data.weight[rows])


def _open(
    network: Network,
    blocks: Addresses,
    parameters: Array,
    data: Data,
    moments: Array | None = None,
    batch_size: int | None = None,
    *,
    train: bool = False,
) -> _Session:
    layout, n_targets = network.layout, data.y.shape[1]
    rows = chunk_rows(layout, batch_size or len(data.x))
    workspace = make_workspace(layout, rows, n_targets, network.dtype, train=train)
    strengths = [strength for _, strength in network.penalties] if train else []
    plan = make_plan(
        layout, workspace, blocks, parameters, moments, strengths, n_targets, ROW_BLOCK
    )
    return _Session(plan, workspace, parameters, data, np.zeros(0, network.dtype))


def _without_output(network: Network) -> Network:
    return network._replace(
        activations=(*network.activations[:-1], identity), link=LINKS["identity"]
    )


def _activations(network: Network) -> list[int]:
    return [
        block_of(loops.activation_loop, rule, network.dtype).address
        for rule in network.activations
    ]


def _link(network: Network) -> int:
    link = network.link
    return block_of(loops.link_loop, link.rule, network.dtype, by_row=link.by_row).address


def _loss(network: Network) -> int:
    loss = network.loss
    mean = loss.over_outputs == "mean"
    return block_of(
        loops.loss_loop, loss.rule, network.dtype, by_row=loss.by_row, mean=mean
    ).address


def _penalties(network: Network) -> list[int]:
    return [block_of(loops.penalty_loop, r, network.dtype).address for r, _ in network.penalties]


def _update(network: Network, optimizer: Optimizer) -> int:
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    return block_of(
        loops.update_loop, optimizer.rule, network.dtype, n_coefficients=n
    ).address


def _mass(data: Data) -> float:
    return float(data.weight.sum(dtype=np.float64)) if data.weight.size else float(len(data.x))


def _flat(array: Array) -> Array:
    return _read_only(array.reshape(-1))


def _read_only(array: Array) -> Array:
    """Return a view typed read-only, so that one compilation serves writable arrays and others."""
    view = array.view()
    view.flags.writeable = False
    return view
