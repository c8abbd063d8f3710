"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._compile import block_of
from fastmlp.backends.cpu import drive, online, rules
from fastmlp.backends.cpu.cost import Work
from fastmlp.backends.cpu.few import FewRows, are_few
from fastmlp.backends.cpu.moments import Moments, Panels
from fastmlp.backends.cpu.plan import Addresses, address
from fastmlp.backends.cpu.questions import Evaluation, Objective, Prediction
from fastmlp.backends.cpu.runner import Runner
from fastmlp.backends.cpu.session import Data, Session
from fastmlp.backends.cpu.shuffle import shuffle
from fastmlp.backends.cpu.sparse import SparseRows
from fastmlp.backends.cpu.streamed import Streamed, place_for, streams
from fastmlp.guard import Guard, publish
from fastmlp.idle import Idle, Kept
from fastmlp.network import Network
from fastmlp.once import Once, each_time
from fastmlp.optimizers import Optimizer, Rates
from fastmlp.updates import N_MOMENTS

Array = NDArray[Any]


# So many packed parameters, 4 MB of float32, are kept for the next prediction.
KEPT = 1 << 20
# The buffers of the process's last fits, for the next of such nets: making them takes 0.15 ms, and
# the system up to 2.4 ms a megabyte to find the memory. 134 MB hold those of 8 million parameters.
TRAININGS = Kept(1 << 27)


class Engine(Runner):
    """Forward, gradient and update of one network on the CPU.

    Parameters
    ----------
    network, n_threads, guard : as for a `Runner`
    idle : Idle, optional
        Where predictions leave what the next ones may use.
    """

    def __init__(
        self,
        network: Network,
        n_threads: int | None = None,
        guard: Guard | None = None,
        idle: Idle | None = None,
    ) -> None:
        super().__init__(network, n_threads, guard)
        self._idle = idle or Idle()

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, once: Once = each_time) -> Data:
        """Return rows, validated; `once` keeps what several nets share."""
        sizes, dtype, loss = self.network.layout.sizes, self.network.dtype, self.network.loss
        x = once(("x", sizes[0], dtype), lambda: validation.features(X, sizes[0], dtype, who))
        table = once(
            ("y", sizes[-1], dtype, loss.targets),
            lambda: validation.targets(y, len(x), sizes[-1], loss, dtype, who),
        )
        weight = once(
            ("weight", id(sample_weight), dtype),
            lambda: validation.weights(sample_weight, len(x), dtype, who),
        )
        return Data(x, table, weight)

    def predict(
        self, parameters: Array, x: Array | SparseRows, out: Array, *, raw: bool = False
    ) -> FewRows | None:
        """Write predictions, or with `raw` the outputs before activation or link, to `out`.

        Returns what predicts a few rows again, and sooner, where there are only few.
        """
        network = rules.without_output(self.network) if raw else self.network
        if are_few(len(x), network.layout) and not isinstance(x, SparseRows):
            few = FewRows(network, parameters, len(x))
            with self.guard.whole:
                few.write(x, out)
            return few
        sparse = x if isinstance(x, SparseRows) else None
        if sparse is None and streams(network):
            self._stream(network, parameters, x, out)
            return None
        key = (network, self.n_threads, sparse is None)
        prediction = self._idle.take(key) or Prediction(self, network, sparse)
        prediction(parameters, x, out)
        if prediction.size <= KEPT:
            self._idle.give(key, prediction)
        return None

    def _stream(self, network: Network, parameters: Array, x: Any, out: Array) -> bool:
        key = (network, self.n_threads)
        streamed = self._idle.take(key) or Streamed(self, network)
        finite = streamed(parameters, x, out)
        self._idle.give(key, streamed)
        return finite

    def predict_plain(self, parameters: Array, x: object, out: object) -> Array | None:
        """Return predictions of many rows, without a check or a copy beforehand; None where this is
        not the way, or a number is not finite: then `out` may have been written."""
        network = self.network
        if not streams(network) or not isinstance(x, np.ndarray) or are_few(len(x), network.layout):
            return None
        result = place_for(x, out, network)
        if result is not None and self._stream(network, parameters, x, result):
            return result
        return None

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        return self.evaluation(data)(parameters)

    def evaluation(self, data: Data) -> Evaluation:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self, data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        return self.objective(data)(parameters)

    def objective(self, data: Data) -> Objective:
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self, data)

    def moments(self, flat: Array | None = None, *, sparse: bool = False) -> Moments:
        """Return this state of an optimizer, or that of one which has taken no step; for training
        on dense or sparse rows."""
        return Moments(self.network, flat, sparse=sparse)

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
        panels = Panels(self.network, spacing=moments.spacing)
        block = rules.optimizer(self.network, optimizer)
        w, g = panels.packed(parameters), panels.packed(gradient)
        block(*map(address, (w, g, moments.m, moments.v, constants)), panels.size)
        with self.guard.whole:
            publish(panels.flat(w), parameters)

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


# What no team shares.
ALONE = Work(0, 0)


class Trainer:
    """Runs units of training: whole epochs in compiled code, as many units a call as asked for.

    Parameters
    ----------
    guarded : bool
        Whether a number that is not finite ends the training, with the epoch's first parameters. It
        takes a copy of them.
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
            penalised=rules.penalised_optimizer(network, optimizer),
            n_moments=N_MOMENTS.get(optimizer.rule, 2),
            penalties=rules.penalties(network),
        )
        self._engine, self._batch_size = engine, batch_size
        by_rows_of_x = batch_size == 1 and not isinstance(data.x, SparseRows)
        self._online = by_rows_of_x and online.is_plain(network, optimizer)
        self._parameters = parameters
        # Made alike: of other strengths of penalties, and another optimizer, there is one number.
        rules_of_rows = blocks._replace(optimizer=0, penalised=0, n_moments=0)
        shape = (network.layout, network.dtype, batch_size, data.y.shape[1], engine.n_threads)
        self._key = (*rules_of_rows, *shape)
        found = None if isinstance(data.x, SparseRows) else TRAININGS.take(self._key)
        self._session = found or self._new_session(blocks, data, moments)
        if found:
            found.serve(network, blocks, data, moments)
        job = self._session.job
        job["guarded"], job["by_rows"], job["diverged"] = guarded, by_rows, 0
        self.load()
        self._session.at(slice(0, data.n_rows))
        rows = self._session.rows
        self.units_per_epoch = drive.units_per_epoch(data.n_rows, batch_size, rows)
        self.unit_flops = 6 * network.layout.n_weights * rows
        if not found:
            # Compiles, so that the first timed call measures work.
            self.run(np.zeros((1, data.n_rows), np.int64), np.zeros((1, 1)), np.zeros(1), 0, 0)

    def _new_session(self, blocks: Addresses, data: Data, moments: Moments) -> Session:
        engine, batch_size = self._engine, self._batch_size
        session = Session(
            engine.network, blocks, data, batch_size, moments=moments, members=engine.n_threads
        )
        if session.rows < batch_size:
            session.keep_gradient()
        return session

    def end(self) -> None:
        """Leave the buffers, without rows and state, to the next training; this one is over."""
        session = self._session
        del self._session
        if not isinstance(session.data.x, SparseRows):
            session.rest()
            TRAININGS.give(self._key, session, session.n_bytes)

    def orders(self, words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return an order of the rows for each row of random words, shape (n_orders, n_rows)."""
        words, result = np.ascontiguousarray(words), np.empty(words.shape, np.int64)
        n_orders, n = words.shape
        block_of(shuffle, np.int64)(address(words), address(result), n, n_orders)
        rows = self._session.data.rows
        return result if rows is None else rows[result]

    def plain_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the data, shape (1, n_rows)."""
        data = self._session.data
        return (np.arange(data.n_rows, dtype=np.int64) if data.rows is None else data.rows)[None]

    def load(self) -> None:
        """Take the parameters as they stand: before the first call of `run`, and after somebody
        may have changed them."""
        self._session.load(self._parameters)

    def store(self) -> None:
        """Bring the parameters, which other threads may be reading, up to date with the calls so
        far."""
        # The backup is free between epochs, and after the last call.
        parameters = self._session.workspace.backup[: len(self._parameters)]
        self._session.store(parameters)
        with self._engine.guard.whole:
            publish(parameters, self._parameters)

    def begin(self) -> None:
        """Begin a window of epochs: `reached` is 0."""
        self._session.job["reached"] = 0

    @property
    def reached(self) -> int:
        """The unit of the window that the calls of `run` have reached, interrupted or not."""
        return int(self._session.job["reached"])

    def run(
        self, order: NDArray[np.int64], coefficients: Rates, losses: Array, first: int, last: int
    ) -> int:
        """Do units first to last of a window of epochs; return where it stopped.

        Parameters
        ----------
        order : int64, shape (n_epochs or 1, n_rows), C-contiguous: where the rows lie in the data
        coefficients : shape (n_steps, n_coefficients), for the steps of this call
        losses : float64, shape (n_epochs,), receives each epoch's mean objective
        """
        data, rows = self._session.data, self._session.rows
        constants = np.ascontiguousarray(coefficients, data.x.dtype)
        by_lots = self._session.has_lots
        unit = self._engine.work(rows, forward=4, tiles=2, by_lots=by_lots)
        if self._online:
            unit = ALONE
        elif self._session.effort:
            unit = Work(unit.flops, self._session.effort.joins, self._session.effort.fetched)
        self._engine.run(
            online.descend if self._online else drive.run,
            self._session,
            unit.times(last - first),
            n_rows=data.n_rows,
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
        steps_per_epoch = -(-self._session.data.n_rows // self._batch_size)
        return epoch * steps_per_epoch + within // -(-self._batch_size // self._session.rows)

    @property
    def diverged(self) -> bool:
        """Whether the last call met a number that is not finite."""
        return bool(self._session.job["diverged"])
