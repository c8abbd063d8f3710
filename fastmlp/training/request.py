"""The request of a fit of `MLP` or `fit_many`: actions between its windows.

These are history, callbacks, validation, stopping and checkpoints.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import warn
from fastmlp._process.task_pool import Stopped
from fastmlp.backends.protocol import Data, Engine, Order, Trainer
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.optimizers import SecondOrder
from fastmlp.serialization.model_state import CheckpointFile
from fastmlp.training.advice import warn_of_fit
from fastmlp.training.checkpoints import FURTHER, Checkpoint, Progress, Settings
from fastmlp.training.communicator import digest
from fastmlp.training.history import (
    History,
    Status,
    interrupted,
    new_bar,
    record,
    record_divergence,
    shown,
)
from fastmlp.training.loop import MAX_ORDER_NUMBERS, Rates, rates_at
from fastmlp.training.metrics import Validation
from fastmlp.training.options import FitOptions
from fastmlp.training.ranks import ONE_PROCESS, OneProcess, Together
from fastmlp.training.stopping import EpochWatch
from fastmlp.validation import scalars


class OutOfTime(Stopped):
    """Ends a fit within an epoch."""


@final
class FitRequest:
    """The request of `MLP.fit` and `fit_many` to the training loop.

    Parameters
    ----------
    net : MLP, for reports to callbacks
    ranks : OneProcess or Together

    Attributes
    ----------
    n_rows : rows of an epoch: of `data`, of all buffers, or of all ranks
    steps_per_epoch : None where batches follow from the rows
    """

    last_step: int
    steps_per_epoch: int | None = None

    _engine: Engine[Any]
    _trainer: Trainer
    _state: NetState

    def __init__(
        self,
        data: Data,
        options: FitOptions,
        *,
        held_out: Data | None = None,
        net: Any = None,
        ranks: "OneProcess | Together" = ONE_PROCESS,
    ) -> None:
        self.data = data
        self._held_out = held_out
        self._net = net
        self._ranks = ranks
        self.n_rows, self.history = ranks.n_rows(data.n_rows), History()
        self.batch_size = min(options.batch_size, self.n_rows)
        self.epochs = options.epochs
        # In a batch of all rows, their order changes only the rounding.
        self.shuffle = options.shuffle and self.batch_size < self.n_rows
        self.trainer_options = ranks.trainer_options(options.average_every)
        self.who = options.who
        self._options = options
        self._is_done = False
        self._watch = EpochWatch(options.early_stopping, options.plateau)
        looking = held_out is not None or bool(options.callbacks)
        self._looks = looking or options.look_at_epochs
        self._bar: Any = None
        self._validation: Validation | None = None
        self._checkpoint: Checkpoint | None = None
        self._first_step: int | None = None
        self._random: Any = None
        self._warned_of_gaps = False
        self._start = time.perf_counter()

    def _digests(self) -> dict[str, str]:
        digests = {"data": _digest(self.data)}
        if self._options.look_at_epochs and self._held_out is not None:
            digests["validation_data"] = _digest(self._held_out)
        return digests

    def open_checkpoint(self, network: Network, state: NetState) -> None:
        options, ranks = self._options, self._ranks
        if options.checkpoint is None:
            return
        file = CheckpointFile(options.checkpoint, network, state)
        fit = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "n_rows": self.n_rows,
            **dict.fromkeys(FURTHER),
            **ranks.joined(self._digests()),
            **options.monitors(),
            **ranks.checkpoint_settings(options.average_every),
            **({} if self.data.derivatives is None else {"derivatives": True}),
        }
        so_far = ranks.resumed(partial(self._open, file, fit, state), state)
        if so_far is not None:
            self._go_on(so_far)

    def _open(
        self, file: CheckpointFile, fit: Settings, state: NetState
    ) -> Progress | None:
        """Return the progress so far, if the fit resumes."""
        options = self._options
        # The other ranks need not see the folder.
        scalars.path(options.who, "checkpoint", options.checkpoint, mode="w")
        keeper = Checkpoint(file, options.checkpoint_every, fit)
        validated = self._held_out is not None
        if options.resume:
            so_far = keeper.resume(validated=validated)
        else:
            so_far = None
        if so_far is None:
            keeper.capture(state.n_steps, History())
            keeper.write()
        self._checkpoint = keeper
        return so_far

    def _go_on(self, so_far: Progress) -> None:
        self.history = so_far.history
        self._first_step = so_far.first_step
        self._watch.repeat(self.history, so_far.best)
        self._start = time.perf_counter() - self.history.seconds

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Return a bar over the epochs, or nothing, for a with statement."""
        self._engine = engine
        self._trainer = trainer
        self._state = state
        if self._first_step is None:
            self._first_step = state.n_steps
        total = self.last_step = self._first_step + self.epochs * self._steps_per_epoch
        state.average_over(self._first_step, total)
        self._rates = self._watch.scaled(
            partial(rates_at, state.optimizer, total=total)
        )
        self._bar = progress = self._options.progress
        if isinstance(progress, bool):
            done = len(self.history.loss)
            if progress:
                self._bar = new_bar(self.epochs, done, self._options.who)
            else:
                self._bar = None
            if self._bar is not None:
                return self._bar
        return nullcontext()

    @property
    def _steps_per_epoch(self) -> int:
        return self.steps_per_epoch or -(-self.n_rows // self.batch_size)

    def _append(self, series: dict[str, list[float]], losses: NDArray[Any]) -> None:
        """Append losses of shape (n_epochs, n_heads) to the series of the heads."""
        names = self._engine.network.head_names
        for name, values in zip(names, losses.T, strict=True):
            series.setdefault(name, []).extend(values.tolist())

    def window(self, most: int) -> int:
        """Return one epoch if something looks at each,
        and at most up to the next checkpoint.
        """
        history = self.history
        left = self.epochs - len(history.loss)
        if history.status is not Status.COMPLETED or not left:
            self._is_done = history.status is not Status.DIVERGED
            return 0
        if self._ranks.of_first(self.is_late()):
            history.status = Status.OUT_OF_TIME
            return 0
        if self._looks:
            return 1
        most = min(most, max(1, MAX_ORDER_NUMBERS // self.data.n_rows))
        if self._checkpoint is not None:
            most = min(most, self._checkpoint.window(len(history.loss)) or most)
        return min(max(1, most), left)

    def is_late(self) -> bool:
        return bool(self.history.loss) and self._time_is_up()

    def _time_is_up(self) -> bool:
        limit = self._options.time_limit
        return limit is not None and time.perf_counter() - self._start >= limit

    def order(self, n_epochs: int) -> Order:
        """The rows' order in each epoch, drawn from the net's generator."""
        order = self._orders(n_epochs)
        if self._options.ignores_gaps and not self._warned_of_gaps:
            self._warn_of_gaps(order)
        return order

    def _orders(self, n_epochs: int) -> Order:
        if not self.shuffle:
            return self.data.plain_order
        generator = self._state.generator
        assert generator is not None
        self._random = generator.bit_generator.state
        return self.data.orders(self._ranks.draw(generator, n_epochs, self.data.n_rows))

    def _warn_of_gaps(self, order: Order) -> None:
        """Warn, once, of a batch without a known target, which takes no step."""
        weight = self.data.weight
        if not weight.size or weight.all():
            return
        starts = np.arange(0, order.shape[1], self.batch_size)
        masses = np.add.reduceat(weight[order], starts, axis=1)
        if not masses.all():
            self._warned_of_gaps = True
            warn(
                f"{self.who}: a batch has no known target, and takes no step; larger "
                "batches have one",
                UserWarning,
            )

    def rates(self, n_epochs: int) -> Rates:
        self._window_step = self._state.n_steps
        if self._options.within_epochs:
            return self._rates_in_time
        return self._rates

    def _rates_in_time(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        if steps[0] != self._first_step and self._time_is_up():
            raise OutOfTime
        return self._rates(steps)

    def end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        with self._ranks.warning():
            self._end_window(losses, diverged)

    def _end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        history = self.history
        n_done = len(losses)
        if diverged is None:
            # Ranks with buffers, and streams, know an epoch's steps after it.
            self.steps_per_epoch = (self._state.n_steps - self._window_step) // n_done
        record(history, losses, self._rates, self._window_step, self._steps_per_epoch)
        if self._engine.network.heads:
            of_heads = self._trainer.head_losses[:n_done]
            self._append(history.head_losses, of_heads)
        if self.data.derivatives is not None:
            squares = self._trainer.derivative_losses[:n_done]
            history.derivative_loss += squares.tolist()
        looks = self._looks and diverged is None
        if looks:
            self._trainer.store()
            if self._held_out is not None:
                self._validate(self._held_out)
        if self._bar is not None and n_done:
            self._bar.set_postfix(shown(history), refresh=False)
            self._bar.update(n_done)
        if diverged is not None:
            self._rewind(n_done)
            record_divergence(history, diverged, restores=self._watch.best is not None)
            return
        if looks:
            self._report()
        self._take_checkpoint()

    def _rewind(self, n_done: int) -> None:
        """Restore the generator to its state after the order of the diverged epoch."""
        if self.shuffle and self._state.generator is not None:
            self._state.generator.bit_generator.state = self._random
            self.order(n_done + 1)

    def cut_short(self, losses: NDArray[np.float64]) -> None:
        """Record nothing: the history has whole windows."""

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Record that Ctrl-C, or the time, has ended the fit,
        and warn, unless `fit_many` does.
        """
        self._ranks.interrupted(error)
        late = isinstance(error, OutOfTime)
        if late:
            self.history.status = Status.OUT_OF_TIME
        else:
            self.history.status = Status.INTERRUPTED
        if not isinstance(error, Stopped):
            interrupted(self.history, restores=self._watch.best is not None)

    def close(self) -> None:
        """Restore the best epoch, write the last checkpoint, and stop the clock."""
        best = self._watch.best
        if best is not None:
            self._state.assign(best)
            # A resumed fit goes on from its last epoch, which the checkpoint has.
            if self._is_done:
                self._capture()
        self._write_checkpoint()
        self.history.seconds = time.perf_counter() - self._start
        # A single step, of the fits of a loop, is not judged.
        if len(self.history.loss) * self._steps_per_epoch > 1:
            first_order = not isinstance(self._state.optimizer, SecondOrder)
            network = self._engine.network
            with self._ranks.warning():
                warn_of_fit(self.history, self.data, network, first_order=first_order)

    def _report(self) -> None:
        callbacks, state = self._options.callbacks, self._state
        try:
            self._watch.end_epoch(self.history, callbacks, self._net, state)
        finally:
            if callbacks:
                # Parameters that a callback wrote before it raised count, too.
                state.begin_average()
                self._trainer.load()

    def _validate(self, held_out: Data) -> None:
        """Append the epoch's validation loss, its parts by head, and metrics."""
        if self._validation is None:
            metrics = self._options.metrics
            self._validation = self._ranks.new_validation(
                self._engine, held_out, metrics
            )
        loss, values = self._validation(self._state.parameters)
        if not math.isfinite(loss):
            warn(
                f"the validation loss is {loss}: rows far outside of those trained on? "
                "Scale validation rows as X",
                RuntimeWarning,
            )
        self.history.validation_loss.append(loss)
        if held_out.derivatives is not None:
            validation: Any = self._validation
            squares = validation.derivative_loss
            self.history.validation_derivative_loss.append(squares)
        if self._engine.network.heads:
            of_heads = self._validation.head_losses[None]
            self._append(self.history.validation_head_losses, of_heads)
        for name, value in values.items():
            self.history.metrics.setdefault(name, []).append(value)

    def _take_checkpoint(self) -> None:
        if self._checkpoint is None:
            return
        self._trainer.store()
        if self._capture():
            self._write_checkpoint()

    def _capture(self) -> bool:
        if self._checkpoint is None or self._first_step is None:
            return False
        self.history.seconds = time.perf_counter() - self._start
        return self._checkpoint.capture(
            self._first_step, self.history, self._watch.best
        )

    def _write_checkpoint(self) -> None:
        """An OSError, as of a full disk, only warns."""
        if self._checkpoint is None:
            return
        try:
            self._checkpoint.write()
        except OSError as error:
            warn(f"no checkpoint was written: {error}", RuntimeWarning)


def _digest(data: Data) -> str:
    # Rows that are not an array, such as expanded ones, have their numbers in `values`.
    x = getattr(data.x, "values", data.x)
    rows = () if data.rows is None else (data.rows,)
    more = () if data.derivatives is None else data.derivatives
    numbers = (x, data.y, data.weight, *rows, *more)
    return digest(*map(np.ascontiguousarray, numbers))
