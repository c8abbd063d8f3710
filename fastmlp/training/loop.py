"""The training loop: epochs, calls of about 50 ms, callbacks, stopping."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process import task_pool
from fastmlp._process.random_state import shuffling_words
from fastmlp._process.task_pool import Stopped
from fastmlp._process.warnings import warn
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import rates_of
from fastmlp.training.checkpoint import Checkpoint, Progress
from fastmlp.training.history import Callback, History, Report, Status

CALL_SECONDS = 0.05
# A guess for the first call, low enough that it lasts no longer on a slow core.
FIRST_FLOPS_PER_SECOND = 1e9
# How many times as fast a first call may be taken to be: batches of weight 0 take no time at all.
MOST_TRUSTED = 32
MAX_ORDER_NUMBERS = 1 << 20
# From the numbers of steps to their learning rates.
Rates = Callable[[NDArray[np.int64]], NDArray[np.float64]]


class Trainer(Protocol):
    """What the loop needs of a backend's trainer."""

    units_per_epoch: int
    unit_flops: int

    @property
    def diverged(self) -> bool: ...

    @property
    def reached(self) -> int: ...

    def begin(self) -> None: ...

    def run(
        self, order: NDArray[np.int64], coefficients: Any, losses: Any, first: int, last: int
    ) -> int: ...

    def step_of(self, unit: int) -> int: ...

    def orders(self, words: NDArray[np.uint32]) -> NDArray[np.int64]: ...

    def plain_order(self) -> NDArray[np.int64]: ...

    def load(self) -> None: ...

    def store(self) -> None: ...

    def end(self) -> None: ...


class Request(NamedTuple):
    """What a fit is asked to do, checked.

    Attributes
    ----------
    validate : function that returns the validation loss, or None
    progress : whether to show a bar, or one that others show
    net : what callbacks are given
    so_far : where a fit that is resumed stood
    """

    n_rows: int
    epochs: int
    shuffle: bool
    validate: Callable[[], float] | None
    callbacks: Sequence[Callback]
    progress: Any
    net: Any
    checkpoint: Checkpoint | None = None
    so_far: Progress | None = None


class Pace:
    """How many units a call should do to last about `CALL_SECONDS`.

    What one fit has learnt of a unit's time serves the next: of nets that train for a few
    milliseconds each, one call then does it all.
    """

    def __init__(self, unit_flops: int) -> None:
        self._learnt = _learnt(unit_flops)
        slow = unit_flops / FIRST_FLOPS_PER_SECOND
        seconds = self._learnt.get("unit", slow)
        self.units = max(1, int(CALL_SECONDS / max(seconds, slow / MOST_TRUSTED)))

    def measure(self, units: int, seconds: float) -> None:
        """Learn from a call; at most fourfold at a time, for a short call measures overhead."""
        self._learnt["unit"] = seconds / units
        ideal = units * CALL_SECONDS / max(seconds, 1e-9)
        self.units = max(1, int(min(ideal, 4 * self.units)))


@lru_cache(maxsize=256)
def _learnt(unit_flops: int) -> dict[str, float]:
    """Return the seconds that a unit of so many operations took last, under "unit"."""
    return {}


class Calls:
    """Does windows of epochs in calls of about `CALL_SECONDS`, and counts the steps.

    Attributes
    ----------
    step : int
        Steps done so far.
    """

    def __init__(self, trainer: Trainer, optimizer: Optimizer, first_step: int) -> None:
        self.step = first_step
        self._trainer, self._optimizer = trainer, optimizer
        self._pace = Pace(trainer.unit_flops)

    def epochs_at_once(self) -> int:
        """Return how many epochs a call may do."""
        return max(1, self._pace.units // self._trainer.units_per_epoch)

    def run(
        self,
        order: NDArray[np.int64],
        losses: NDArray[np.float64],
        rates: Rates,
    ) -> int:
        """Do as many epochs as there are losses to fill; return how many were completed.

        `rates` returns the learning rates of step numbers; `order` is as `Trainer.run` takes it.
        """
        trainer, first_step = self._trainer, self.step
        trainer.begin()
        try:
            return self._run(order, losses, rates) // trainer.units_per_epoch
        finally:
            # What has been done, also where an interrupt came between a call and its bookkeeping.
            self.step = first_step + trainer.step_of(trainer.reached)

    def _run(self, order: NDArray[np.int64], losses: NDArray[np.float64], rates: Rates) -> int:
        """Return how many units were done."""
        trainer, first_step, unit = self._trainer, self.step, 0
        total = len(losses) * trainer.units_per_epoch
        while unit < total and not trainer.diverged:
            last = min(unit + self._pace.units, total)
            step, end = trainer.step_of(unit), trainer.step_of(last - 1) + 1
            of_steps = rates(first_step + np.arange(step, end))
            coefficients = self._optimizer.coefficients(first_step + step + 1, of_steps)
            start = time.perf_counter()
            reached = trainer.run(order, coefficients, losses, unit, last)
            self._pace.measure(last - unit, time.perf_counter() - start)
            unit = reached
        return unit


class Loop:
    """One fit: holds the counters while it runs.

    `make_trainer` compiles and allocates; it runs inside `run`, so that Ctrl-C is caught there too.
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        optimizer: Optimizer,
        first_step: int,
        generator: np.random.Generator,
        request: Request,
    ) -> None:
        so_far = request.so_far
        self.step, self._first_step = first_step, so_far.first_step if so_far else first_step
        self.history = so_far.history if so_far else History()
        self._optimizer, self._request, self._generator = optimizer, request, generator
        self._make_trainer = make_trainer
        self._trainer: Trainer
        self._calls: Calls
        self._total = 0
        self._start = 0.0

    def run(self) -> History:
        """Train; on Ctrl-C, keep what the calls so far did."""
        self._start = time.perf_counter() - self.history.seconds
        try:
            self._prepare()
            with _bar(self._request) as bar:
                try:
                    self._epochs(bar)
                finally:
                    self._trainer.store()
            self._trainer.end()
        except Stopped:
            self.history.status = Status.INTERRUPTED
        except KeyboardInterrupt:
            interrupted(self.history)
        finally:
            # Whatever ends the fit: SIGTERM's handler may have raised SystemExit.
            self._write_checkpoint()
        self.history.seconds = time.perf_counter() - self._start
        return self.history

    def _prepare(self) -> None:
        with task_pool.turn():
            self._trainer = trainer = self._make_trainer()
        self._calls = Calls(trainer, self._optimizer, self.step)
        n_steps = self._request.epochs * trainer.step_of(trainer.units_per_epoch)
        self._total = self._first_step + n_steps

    def _epochs(self, bar: Any) -> None:
        history, epochs = self.history, self._request.epochs
        while len(history.loss) < epochs and history.status is Status.COMPLETED:
            n_epochs = min(self._window(), epochs - len(history.loss))
            losses = np.full(n_epochs, np.nan)
            before, random = self.step, self._generator.bit_generator.state
            try:
                n_done = self._calls.run(self._order(n_epochs), losses, self._rates)
            finally:
                self.step = self._calls.step
            self._record(losses[:n_done], before)
            if bar is not None and n_done:
                bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                bar.update(n_done)
            if self._trainer.diverged:
                # As if the epochs that were planned after this one had not been.
                self._generator.bit_generator.state = random
                self._order(n_done + 1)
                self._diverge(losses[n_done])
                return
            if self._request.validate or self._request.callbacks:
                self._report()
            self._checkpoint()

    def _window(self) -> int:
        """Return how many epochs to plan at once: one where somebody looks after each, and no more
        than end with the next checkpoint."""
        request = self._request
        if request.callbacks or request.validate:
            return 1
        most = max(1, MAX_ORDER_NUMBERS // request.n_rows)
        if request.checkpoint is not None:
            most = min(most, request.checkpoint.window(len(self.history.loss)) or most)
        return max(1, min(most, self._calls.epochs_at_once()))

    def _order(self, n_epochs: int) -> NDArray[np.int64]:
        n_rows = self._request.n_rows
        if not self._request.shuffle:
            return self._trainer.plain_order()
        return self._trainer.orders(shuffling_words(self._generator, n_epochs, n_rows))

    def _rates(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        return rates_at(self._optimizer, steps, self._total)

    def _record(self, losses: NDArray[np.float64], first_step: int) -> None:
        steps_per_epoch = self._trainer.step_of(self._trainer.units_per_epoch)
        record(self.history, losses, self._rates, first_step, steps_per_epoch)

    def _report(self) -> None:
        """Validate, and tell the callbacks."""
        history, request = self.history, self._request
        self._trainer.store()
        if request.validate:
            history.validation_loss.append(self._validation_loss(request.validate))
        report = Report(
            epoch=len(history.loss) - 1,
            loss=history.loss[-1],
            validation_loss=history.validation_loss[-1] if request.validate else None,
            learning_rate=history.learning_rate[-1],
            net=request.net,
            history=history,
        )
        if request.callbacks:
            request.net.n_steps = self.step
            try:
                with request.net._guard.calling_back():
                    for callback in request.callbacks:
                        callback(report)
            finally:
                # What a callback wrote before it raised counts, too.
                self._trainer.load()
        if report.stopping:
            history.status = Status.STOPPED

    def _validation_loss(self, validate: Callable[[], float]) -> float:
        loss = validate()
        if not math.isfinite(loss):
            warn(
                f"the validation loss is {loss}: rows far outside of those trained on? Scale "
                "validation rows as X",
                RuntimeWarning,
            )
        return loss

    def _checkpoint(self) -> None:
        """Remember the end of this epoch, and write it where it is time to."""
        checkpoint = self._request.checkpoint
        if checkpoint is None:
            return
        self._trainer.store()
        self.history.seconds = time.perf_counter() - self._start
        if checkpoint.take(self._first_step, self.step, self.history):
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        """Write the last end of an epoch, unless that is done; a full disk does not end a fit."""
        if self._request.checkpoint is None:
            return
        try:
            self._request.checkpoint.write()
        except OSError as error:
            warn(f"no checkpoint was written: {error}", RuntimeWarning)

    def _diverge(self, loss: float) -> None:
        """Say so; the backend has gone back to the epoch's first parameters, without momentum."""
        self.step = 0
        record_divergence(self.history, loss)


def interrupted(history: History) -> History:
    """Add that Ctrl-C ended the fit, and warn."""
    history.status = Status.INTERRUPTED
    epoch = len(history.loss)
    warn(f"fit interrupted in epoch {epoch}; the net keeps what it has learnt", UserWarning)
    return history


def rates_at(optimizer: Optimizer, steps: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """Return the learning rates of step numbers; `total` is the one at which the fit ends."""
    rate = optimizer.learning_rate
    if not callable(rate):
        return np.full(len(steps), float(rate))
    return validation.rates(rates_of(rate, steps, total), len(steps), rate)


def record(
    history: History,
    losses: NDArray[np.float64],
    rates: Rates,
    first_step: int,
    steps_per_epoch: int,
) -> None:
    """Add epochs that are done: their losses, and the learning rates of their last steps."""
    last_steps = first_step + steps_per_epoch * np.arange(1, len(losses) + 1) - 1
    history.loss += losses.tolist()
    history.learning_rate += rates(last_steps).tolist()


def record_divergence(history: History, loss: float) -> None:
    """Add that the next epoch diverged, and warn."""
    history.status = Status.DIVERGED
    warn(
        f"fit diverged in epoch {len(history.loss)} (loss {loss:.3g}): the net keeps its "
        "parameters from before that epoch; try a smaller learning rate, or standardise X",
        RuntimeWarning,
    )


def _bar(request: Request) -> AbstractContextManager[Any]:
    """Return a tqdm bar over the epochs, or nothing, to be used in a with statement."""
    if not isinstance(request.progress, bool):
        return nullcontext(request.progress)
    if not request.progress:
        return nullcontext()
    done = len(request.so_far.history.loss) if request.so_far else 0
    bar: AbstractContextManager[Any] = new_bar(request.epochs, done, "fit")
    return bar


def new_bar(epochs: int, done: int, who: str) -> Any:
    """Return a tqdm bar over so many epochs.

    Raises
    ------
    ImportError
        Where tqdm is missing.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            f"{who}: progress=True needs tqdm: pip install 'fastmlp[progress]'"
        ) from error
    return tqdm(total=epochs, initial=done, unit="epoch")
