"""One fit on the CPU: its buffers, and the calls that run its units."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.memory import BufferPool
from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.kernels import epoch, rule_blocks
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.quick_step import QuickStep, is_quick
from fastmlp.backends.cpu.session import Moments, Session
from fastmlp.backends.cpu.tuning import KEPT_TRAINING_BYTES
from fastmlp.backends.protocol import Data
from fastmlp.compiler import block_of
from fastmlp.network.spec import Network
from fastmlp.rules import optimizer_protocol
from fastmlp.rules.optimizer_protocol import (
    Optimizer,
    Rates,
    n_coefficients_of,
    norm_limit_of,
)
from fastmlp.rules.updates import N_MOMENTS, groups_of
from fastmlp.validation import Array

# Sessions of ended fits, for the next fit of a net with the same layers,
# rules and batch size.
TRAININGS = BufferPool(KEPT_TRAINING_BYTES)


def check_rows(network: Network, data: Data) -> None:
    """Check that rows of this kind can have the noise that a network adds to its
    inputs.
    """
    dropout = network.dropout
    if (
        dropout is not None
        and dropout.draws_at_inputs
        and not isinstance(data.x, np.ndarray)
    ):
        raise ValueError(
            "input_dropout and input_noise need dense rows, and X is sparse or "
            "expanded: pass X.toarray(), or use dropout, of the hidden layers"
        )


class Rules(NamedTuple):
    """The blocks of a net's rules and of its optimizer.

    Attributes
    ----------
    width : of the targets
    limit : of the gradient's norms, or None
    key : shared by sessions that serve each other
    """

    optimizer: Optimizer
    width: int
    blocks: Addresses
    limit: optimizer_protocol.NormLimit | None
    key: Any


def _rules_of(engine: Runner, optimizer: Optimizer, width: int) -> Rules:
    """The rules of an engine's net and of targets of a width,
    from the last trainer if it had both.
    """
    kept: Rules | None = engine.rules
    if kept is not None and kept.optimizer is optimizer and kept.width == width:
        return kept
    network = engine.network
    groups = groups_of(optimizer, network.factors)
    n = n_coefficients_of(optimizer) if len(groups.groups) > 1 else 0
    drawing = rule_blocks.drawing(network)
    blocks = Addresses(
        *rule_blocks.trained_activations(network, drawing.get("dropped", ())),
        loss=rule_blocks.loss(network, width),
        optimizer=rule_blocks.optimizer(network, optimizer).address,
        penalised=rule_blocks.penalised_optimizer(network, optimizer),
        n_moments=N_MOMENTS.get(optimizer.rule, 2),
        penalties=rule_blocks.penalties(network),
        coefficients=groups.places(n * network.dtype.itemsize),
        lowest=groups.lowest,
        n_heads=len(network.heads),
        **drawing,
    )
    # Strengths of penalties and the optimizer are not in the key:
    # `Session.serve` sets them.
    rules_of_rows = blocks._replace(optimizer=0, penalised=0, n_moments=0)
    shape = (network.layout, network.dtype, network.compute_dtype, engine.n_threads)
    limit = norm_limit_of(optimizer)
    form = (network.derivatives, network.link if network.derivatives else None)
    key = (*rules_of_rows, *shape, *form)
    engine.rules = Rules(optimizer, width, blocks, limit, key)
    return engine.rules


class Trainer:
    """Runs units of training in compiled code, as many per call as asked for.

    Parameters
    ----------
    guarded : True: a number that is not finite ends the training
        The parameters of the epoch's start, of which it keeps a copy, are restored.
    by_rows : True: an epoch's loss weighs its batches by their rows, not by their rows' weights
    driver : factory of the driver that all calls run
    stepping : True: rows are one batch of at most `batch_size`
        `Runner.serves` knows the other sizes.
        A step whose loss is not finite is not taken.
    summed : True: steps of the sum of the rows' losses, not of their mean

    Attributes
    ----------
    unit_flops : operations of a unit, from which the length of the first call is guessed
    is_current : False from a step's beginning until it is stored
    derivative_losses : each epoch's mean square of a window, of the derivatives' residuals
    head_losses : of the epochs of the last window, shape (n_epochs, n_heads)
    """

    units_per_epoch: int
    unit_flops: int
    made_for: object = None
    is_current = False
    derivative_losses: Array = np.empty(0)
    head_losses: Array = np.empty((0, 0))
    # The coefficients of a group of parameters,
    # once asked for; the groups of its layers.
    _n = 0
    _numbers: object = None

    def __init__(
        self,
        engine: Runner,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        *,
        guarded: bool = True,
        by_rows: bool = False,
        driver: Callable[..., Any] = epoch.train,
        stepping: bool = False,
        summed: bool = False,
    ) -> None:
        network = engine.network
        check_rows(network, data)
        self._n_drawn = network.dropout.n_numbers if network.dropout else 0
        rules = _rules_of(engine, optimizer, data.y.shape[1])
        blocks = rules.blocks
        self._engine: Any = engine
        self._network = network
        self._batch_size = batch_size
        self._optimizer = optimizer
        self._quick: QuickStep | None = None
        dense = isinstance(data.x, np.ndarray)
        self._roomy = stepping and dense
        self._parameters = parameters
        self._key: Any = (rules.key, batch_size, self._roomy, data.y.shape[1])
        kept = TRAININGS.take(self._key) if dense else None
        self._session = kept or self._new_session(blocks, data, moments)
        self._session.user = self._token = object()
        if kept:
            kept.serve(network, blocks, data, moments)
        self._session.clip_by_norm(rules.limit)
        self._driver = epoch.batch_step if stepping else driver
        job = self._session.job
        job["mass"] = float(summed)
        job["guarded"] = guarded
        job["by_rows"] = by_rows
        job["diverged"] = 0
        self.load()
        self._unit = self.work_of(self._session.partition)
        self._point_to(data)
        products = 6 * network.passes
        self.unit_flops = products * network.layout.n_weights * self._session.rows
        if not kept and driver is epoch.train and not stepping:
            # Compile, so that the first timed call measures work alone.
            self.run(
                np.zeros((1, data.n_rows), np.int64),
                np.zeros((1, 1)),
                np.zeros(1),
                0,
                0,
            )

    def _new_session(self, blocks: Addresses, data: Data, moments: Moments) -> Session:
        engine = self._engine
        batch_size = self._batch_size
        options: Any = {
            "moments": moments,
            "roomy": self._roomy,
            "n_threads": engine.n_threads,
        }
        session = Session(engine.network, blocks, data, batch_size, **options)
        if session.rows < batch_size:
            session.keep_gradient()
        return session

    def take(self, data: Data) -> None:
        """Train on these rows: of the kind and width of those before."""
        self._session.take(data)
        self._point_to(data)

    def regroup(self, optimizer: Optimizer) -> bool:
        session = self._session
        network = self._engine.network
        fixed = (
            network.penalties
            or session.net["factors"]
            or session.partition.microbatch_rows
        )
        if fixed or self._batch_size == 1:
            return False
        # The trainer's rules are other than the key's from here on.
        self._key, self._n = None, self._n or n_coefficients_of(optimizer)
        groups = groups_of(optimizer, network.factors)
        if len(groups.groups) > 1:
            n_bytes = self._n * network.dtype.itemsize
        else:
            n_bytes = 0
        numbers = n_bytes, groups.weights, groups.biases
        if numbers != self._numbers:
            session.regroup(groups.places(n_bytes), groups.lowest)
            # Steps by one call go past `constants`.
            if self._n_drawn:
                session.point_to_draws(
                    len(groups.groups) * self._n * network.dtype.itemsize
                )
            self._numbers = numbers
        return True

    def resume(self, moments: Moments, data: Data) -> None:
        self._session.adopt(moments)
        self.take(data)
        if not self.is_current or moments.trained is not None or self._are_changed():
            self.load()

    def _are_changed(self) -> bool:
        """True if a bit of the parameters differs from the packed ones."""
        kind = np.int32 if self._parameters.itemsize == 4 else np.int64
        return not np.array_equal(self._parameters.view(kind), self._seen.view(kind))

    def pause(self) -> QuickStep | None:
        session = self._session
        network = self._engine.network
        quick = self._quick
        n_rows = session.data.n_rows
        if quick is None and self._roomy and is_quick(network, session):
            driver = block_of(self._driver, network.dtype)
            quick = QuickStep(
                self, self._engine, driver, self._parameters, self._batch_size
            )
            self._quick = quick
        nothing = np.empty(0, network.dtype)
        session.data = Data(nothing, nothing, nothing)
        if quick is None:
            return None
        return quick if quick.prepare(n_rows) else None

    def _point_to(self, data: Data) -> None:
        session, n_rows = self._session, data.n_rows
        if self._roomy:
            self.divide(self._engine.partition(n_rows), n_rows)
            self._unit = self.work_of(session.partition)
        session.at(slice(0, n_rows))
        self.units_per_epoch = epoch.units_per_epoch(
            n_rows, self._batch_size, session.rows
        )

    def divide(self, partition: Partition, n_rows: int) -> None:
        self._session.divide(partition)
        if partition.rows < n_rows:
            self._session.keep_gradient()

    def end(self) -> None:
        """Leave the buffers, without rows and state, to the next training, and this
        trainer to the engine: the next fit goes on with it, if nobody has taken the
        buffers.
        """
        session, engine = self._session, self._engine
        del self._session, self._engine
        if isinstance(session.data.x, np.ndarray) and self._key is not None:
            session.rest()
            TRAININGS.give(self._key, session, session.n_bytes)
            self._rested = weakref.ref(session)
            # The engine may have other factors of learning rates by now.
            engine.last = self if engine.network is self._network else None

    def goes_on(
        self,
        engine: Runner,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
    ) -> bool:
        """Begin another fit after `end`;
        return False if this net's optimizer or the width of its rows has changed.
        """
        width = self._key[-1]
        session = self._rested()
        alike = parameters is self._parameters and optimizer is self._optimizer
        if session is None or not alike or type(data.x) is not np.ndarray:
            return False
        if data.y.shape[1] != width or session.user is not self._token:
            return False
        if not TRAININGS.drop(session):
            return False
        self._session = session
        self._engine = engine
        session.adopt(moments)
        session.job["diverged"] = 0
        self.take(data)
        # To see if they are changed would take as long.
        self.load()
        return True

    def load(self) -> None:
        """Pack the parameters: before the first `run`,
        and after a callback may have changed them.
        """
        seen = self._seen
        seen[:] = self._parameters
        self._session.load(seen)

    def store(self) -> None:
        """Write the parameters as trained so far;
        other threads see all old or all new ones.
        """
        seen = self._seen
        self._session.store(seen)
        self._engine.lock.publish(seen, self._parameters)
        self.is_current = True

    @property
    def _seen(self) -> Array:
        """The packed parameters, flat, of a trainer of single steps;
        an epoch has its backup there.
        """
        return self._session.workspace.backup[: len(self._parameters)]

    def begin(self) -> None:
        self._session.job["reached"] = 0
        self.is_current = False
        self.derivative_losses = np.empty(0)

    @property
    def reached(self) -> int:
        return int(self._session.job["reached"])

    def run(
        self,
        order: NDArray[np.int64],
        coefficients: Rates,
        losses: Array,
        first: int,
        last: int,
    ) -> int:
        """Run units first to last of a window of epochs;
        return the unit it stopped at.
        """
        constants = self.constants(coefficients)
        derivatives = self._session.derivatives
        if derivatives:
            if not self.derivative_losses.size:
                self.derivative_losses = np.full(len(losses), np.nan)
            derivatives.fields["losses"] = address(self.derivative_losses)
        n_heads = len(self._network.heads)
        if first == 0 and n_heads:
            self.head_losses = np.zeros((len(losses), n_heads))
        self.do(
            last - first,
            n_rows=self._session.data.n_rows,
            batch_size=self._batch_size,
            chunk_rows=self._session.rows,
            first=first,
            last=last,
            order=address(order),
            n_orders=len(order),
            coefficients=address(constants),
            n_coefficients=constants.shape[1],
            losses=address(losses),
            head_losses=address(self.head_losses) if n_heads else 0,
        )
        return self.reached

    def constants(self, coefficients: Rates) -> Array:
        """Coefficients of steps, and numbers of their dropout, in the net's dtype."""
        constants = np.ascontiguousarray(coefficients, self._engine.network.dtype)
        if self._n_drawn:
            n_bytes = (constants.shape[1] - self._n_drawn) * constants.itemsize
            self._session.point_to_draws(n_bytes)
        return constants

    def work_of(self, partition: Partition) -> Work:
        small = partition.microbatch_rows > 0
        cost = partition.cost
        passes = partition.passes
        unit = self._engine.work(
            partition.rows, forward=4 * passes, tiles=2 * passes, by_microbatches=small
        )
        if cost:
            unit = Work(unit.flops, cost.joins, cost.fetched)
        return unit

    def do(self, n_units: int, **fields: Any) -> Any:
        """Set fields of the job, run the driver on it, and return the job."""
        plain = self._driver is epoch.train and self._session.plain
        work = self._unit if n_units == 1 else self._unit.times(n_units)
        return self._engine.run(
            self._driver, self._session, work, plain=plain, **fields
        )

    @property
    def n_bytes(self) -> int:
        return self._session.n_bytes

    @property
    def session(self) -> Session:
        return self._session

    def step_of(self, unit: int) -> int:
        epoch, within = divmod(unit, self.units_per_epoch)
        steps_per_epoch = -(-self._session.data.n_rows // self._batch_size)
        return epoch * steps_per_epoch + within // -(
            -self._batch_size // self._session.rows
        )

    @property
    def diverged(self) -> bool:
        return bool(self._session.job["diverged"])
