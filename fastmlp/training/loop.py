"""The training loop: windows of epochs, in calls of about 50 ms.

A request has the order of the rows, the learning rates,
and the actions between windows.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp.backends.protocol import Data, Engine, Order, Span, Trainer
from fastmlp.data.feed import Buffers
from fastmlp.network.spec import Layout
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import numbers_of
from fastmlp.rules.optimizer_protocol import Optimizer, coefficients_of
from fastmlp.rules.optimizers import SecondOrder
from fastmlp.rules.schedules import rates_of
from fastmlp.rules.updates import ParameterGroup, groups_of
from fastmlp.training.history import History, Status

CALL_SECONDS = 0.05
# A guess for the first call, low enough that the call is short on a slow core.
FIRST_FLOPS_PER_SECOND = 1e9
# A measured speed counts up to this multiple of the guess:
# batches of weight 0 take no time.
MOST_TRUSTED = 32
MAX_ORDER_NUMBERS = 1 << 20
# Operations at full speed of a fit's start, of a step beside its arithmetic, of a
# layer's output, of a parameter's update. The estimates order the fits of a pool.
FIT_FLOPS = 50_000_000
STEP_FLOPS = 50_000
OUTPUT_FLOPS = 60
UPDATE_FLOPS = 40
# From the numbers of steps to their learning rates.
Rates = Callable[[NDArray[np.int64]], NDArray[np.float64]]
# A window's spans; the result is the number of completed epochs.
Spans = Generator[Span[Any], None, int]


class Request(Protocol):
    """The settings of a fit, and its actions between windows,
    which are epochs planned at once.

    Attributes
    ----------
    data : rows of the current buffer
    n_rows : rows of an epoch
    """

    data: Data
    n_rows: int

    @property
    def batch_size(self) -> int: ...

    @property
    def history(self) -> History: ...

    @property
    def trainer_options(self) -> Mapping[str, Any]: ...

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Return a context in which the windows run."""
        ...

    def window(self, most: int) -> int:
        """Return the epochs of the next window; 0 ends the fit.

        A call of `CALL_SECONDS` does `most` epochs;
        a longer window takes several calls.
        """
        ...

    def order(self, n_epochs: int) -> Order:
        """Return the rows' order in each epoch of the next window,
        as `Trainer.run` takes it.
        """
        ...

    def rates(self, n_epochs: int) -> Rates: ...

    @property
    def last_step(self) -> int:
        """The step at which the fit ends, as schedules take it; known after `begin`."""
        ...

    def end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        """`diverged` is the loss of the next epoch,
        if it has numbers that are not finite.
        """
        ...

    def cut_short(self, losses: NDArray[np.float64]) -> None: ...

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Record that Ctrl-C has ended the fit, or raise it again."""
        ...

    def close(self) -> None:
        """Conclude the fit, also after an error."""
        ...


def fit(
    engine: Engine[Any],
    state: NetState,
    request: Request,
    buffered: "ByBuffers | None" = None,
) -> None:
    """Train a net; `state` is brought up to date,
    also after Ctrl-C or an error. `buffered`: the rows come in buffers.
    """
    if isinstance(state.optimizer, SecondOrder):
        import_module("fastmlp.training.second_order").fit(
            engine, state, request, buffered
        )
        return
    spans = spans_of(engine, state, request, buffered)
    try:
        for span in spans:
            span.run()
    except BaseException as error:
        # Python turns a StopIteration in a generator into a RuntimeError.
        if isinstance(error, RuntimeError) and isinstance(
            error.__cause__, StopIteration
        ):
            raise error.__cause__ from None
        # An error of a span, or Ctrl-C between spans, ends the fit and is raised again.
        with suppress(StopIteration):
            spans.throw(error)


def spans_of(
    engine: Engine[Any],
    state: NetState,
    request: Request,
    buffered: "ByBuffers | None" = None,
) -> Generator[Span[Any], None, None]:
    """Yield the spans of a fit; each must be done,
    or its error thrown in, before the next.
    """
    state.bound(engine.network)
    try:
        with task_pool.turn():
            trainer = engine.trainer(
                state.parameters,
                engine.slots(state, request.data),
                state.optimizer,
                request.data,
                request.batch_size,
                **request.trainer_options,
            )
        groups = groups_of(state.optimizer, engine.network.factors).groups
        calls = Calls(trainer, state, groups)
        dropout = engine.network.dropout
        epochs = calls if buffered is None else buffered.begin(calls, trainer, state)
        with request.begin(engine, trainer, state):
            if dropout is not None:
                key = state.kept_key()
                total = request.last_step
                calls.drawn = partial(numbers_of, dropout, key, total=total)
            try:
                while n_epochs := epochs.window(request):
                    losses = np.empty(n_epochs)
                    rates = request.rates(n_epochs)
                    losses.fill(np.nan)
                    first_step = state.n_steps
                    try:
                        n_done = yield from epochs.run(request, losses, rates)
                    except KeyboardInterrupt:
                        request.cut_short(losses[: epochs.completed_since(first_step)])
                        raise
                    diverged = None
                    if trainer.diverged:
                        # The backend has restored the epoch's first parameters,
                        # and the optimizer's state to zeros.
                        diverged = float(losses[n_done])
                        state.restart()
                    request.end_window(losses[:n_done], diverged)
                trainer.store()
            except BaseException:
                # An interrupt may also have come within `store`.
                trainer.store()
                raise
        trainer.end()
    except KeyboardInterrupt as error:
        request.interrupted(error)
    finally:
        if buffered is not None:
            buffered.close()
        request.close()


class Pace:
    """Units that a call does in about `CALL_SECONDS`.

    A unit's seconds are kept for the next fit,
    so that a fit of milliseconds is one call.
    """

    units: int

    def __init__(self, unit_flops: int) -> None:
        self._learnt = _learnt(unit_flops)
        slow = unit_flops / FIRST_FLOPS_PER_SECOND
        seconds = self._learnt.get("unit", slow)
        self.units = max(1, int(CALL_SECONDS / max(seconds, slow / MOST_TRUSTED)))

    def measure(self, units: int, seconds: float) -> None:
        """Adapt to a call's time, at most fourfold,
        as a short call measures overhead.
        """
        self._learnt["unit"] = seconds / units
        ideal = units * CALL_SECONDS / max(seconds, 1e-9)
        self.units = max(1, int(min(ideal, 4 * self.units)))


@lru_cache(maxsize=256)
def _learnt(unit_flops: int) -> dict[str, float]:
    return {}


class Calls:
    """Epochs in calls of about `CALL_SECONDS`; the steps of a state are counted.

    Attributes
    ----------
    drawn : from step numbers to dropout's numbers, or None
    """

    drawn: Rates | None = None

    def __init__(
        self, trainer: Trainer, state: NetState, groups: Sequence[ParameterGroup]
    ) -> None:
        self._trainer = trainer
        self._state = state
        self._groups = groups
        self._pace = Pace(trainer.unit_flops)

    def window(self, request: Request) -> int:
        return request.window(max(1, self._pace.units // self._trainer.units_per_epoch))

    def completed_since(self, first_step: int) -> int:
        trainer = self._trainer
        return (self._state.n_steps - first_step) // trainer.step_of(
            trainer.units_per_epoch
        )

    def run(self, request: Request, losses: NDArray[np.float64], rates: Rates) -> Spans:
        """Yield the spans of an epoch for each of the losses to fill; return the epochs
        completed."""
        trainer = self._trainer
        state = self._state
        unit = 0
        order = request.order(len(losses))
        first_step = state.n_steps
        total = len(losses) * trainer.units_per_epoch
        trainer.begin()
        try:
            while unit < total and not trainer.diverged:
                last = min(unit + self._pace.units, total)
                step = first_step + trainer.step_of(unit)
                steps = np.arange(step, first_step + trainer.step_of(last - 1) + 1)
                coefficients = coefficients_of(
                    state.optimizer,
                    step + 1,
                    rates(steps),
                    self._groups,
                    state.averaged_from,
                )
                if self.drawn is not None:
                    coefficients = np.column_stack([coefficients, self.drawn(steps)])
                span = Span(trainer, order, coefficients, losses, unit, last)
                yield span
                self._pace.measure(last - unit, span.seconds)
                unit = span.reached
            self._count(first_step)
        except BaseException:
            # An interrupt may come between a call and the assignment of its result.
            self._count(first_step)
            raise
        return unit // trainer.units_per_epoch

    def _count(self, first_step: int) -> None:
        self._state.n_steps = first_step + self._trainer.step_of(self._trainer.reached)


def _size_of(data: Data) -> tuple[int, float]:
    return data.n_rows, data.mass


class ByBuffers:
    """Epochs over rows that come in buffers: one epoch a window.

    Parameters
    ----------
    data_of : from a buffer's rows to the device's data
    size_of : from data to the rows in the buffers of all ranks, and their mass
    """

    _calls: Calls
    _trainer: Trainer
    _state: NetState

    def __init__(
        self,
        request: Request,
        feed: Buffers,
        data_of: Callable[[Any], Data],
        size_of: Callable[[Data], tuple[int, float]] = _size_of,
    ) -> None:
        self._request = request
        self._feed = feed
        self._data_of = data_of
        self._size_of = size_of
        # A stream's length is not known before.
        request.n_rows = feed.n_rows or request.n_rows
        self._at_first_buffer = True
        self._before: NDArray[Any] | None = None

    def begin(self, calls: Calls, trainer: Trainer, state: NetState) -> Self:
        """Begin to read ahead, at the epoch at which the fit begins or resumes."""
        self._calls = calls
        self._trainer = trainer
        self._state = state
        n_done = len(self._request.history.loss)
        self._at_first_buffer = not n_done
        self._feed.start(n_done)
        return self

    def window(self, request: Request) -> int:
        return min(1, request.window(1))

    def completed_since(self, first_step: int) -> int:
        """Return 0: an epoch that is cut short is not complete."""
        return 0

    def run(self, request: Request, losses: NDArray[np.float64], rates: Rates) -> Spans:
        """Yield an epoch's spans, one or more for each buffer;
        return 1, or 0 if it diverged.
        """
        self._trainer.store()
        self._before = self._state.parameters.copy()
        by_rows = request.trainer_options.get("by_rows")
        loss = total_mass = 0.0
        of_heads: Any = 0.0
        total_rows = 0
        ends = False
        while not ends:
            if not self._at_first_buffer:
                self._next_buffer()
            self._at_first_buffer = False
            losses[0] = np.nan
            if not (yield from self._calls.run(request, losses, rates)):
                return 0
            n_rows, mass = self._size_of(request.data)
            mass = n_rows if by_rows else mass
            if mass:
                loss = loss + float(losses[0]) * mass
                total_mass = total_mass + mass
                of_heads = of_heads + self._trainer.head_losses * mass
            total_rows += n_rows
            ends = self._feed.ends
        request.n_rows = total_rows
        if total_mass:
            losses[0] = loss / total_mass
        else:
            losses[0] = float("nan")
        if self._trainer.head_losses.size:
            self._trainer.head_losses = of_heads / (total_mass or np.nan)
        return 1

    def _next_buffer(self) -> None:
        try:
            self._feed.next()
        except Exception:
            self._request.history.status = Status.INTERRUPTED
            raise
        self._request.data = self._data_of(self._feed.rows)
        self._trainer.take(self._request.data)

    def close(self) -> None:
        """End the reading; after a divergence, restore the epoch's first parameters."""
        self._feed.close()
        if self._request.history.status is Status.DIVERGED and self._before is not None:
            # The trainer has restored those at the start of a buffer.
            self._state.assign(self._before)


def single_step(engine: Engine[Any], state: NetState, gradient: NDArray[Any]) -> None:
    step = state.n_steps
    slots = engine.slots(state)
    # A fit that ended early may have ended before its average.
    state.averaged_from = min(state.averaged_from, step)
    rates = rates_at(state.optimizer, np.array([step]), step + 1)
    groups = groups_of(state.optimizer, engine.network.factors).groups
    coefficients = coefficients_of(
        state.optimizer, step + 1, rates, groups, state.averaged_from
    )
    engine.update(state.parameters, slots, state.optimizer, gradient, coefficients)
    state.n_steps += 1


def rates_at(
    optimizer: Optimizer, steps: NDArray[np.int64], total: int
) -> NDArray[np.float64]:
    """The fit ends at step `total`."""
    rate = optimizer.learning_rate
    if not callable(rate):
        rates = np.empty(len(steps))
        rates.fill(rate)
        return rates
    return checked_rates(rate, rates_of(rate, steps, total), len(steps))


def checked_rates(schedule: Any, returned: Any, n: int) -> NDArray[np.float64]:
    """The rates that a schedule has returned for n steps, shape (n,), checked."""
    try:
        rates = np.asarray(returned, np.float64)
        good = rates.shape == (n,) and np.isfinite(rates).all() and (rates >= 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"learning-rate schedule {schedule!r} must return {n} finite rates of 0 or "
            f"more, got {returned!r}"
        )
    return rates


def cost_of(layout: Layout, n_rows: int, epochs: int, batch_size: int) -> float:
    """Return a fit's estimated time, in operations at full speed."""
    steps = epochs * -(-n_rows // batch_size)
    by_row = 6 * layout.n_weights + OUTPUT_FLOPS * sum(layout.sizes[1:])
    by_step = STEP_FLOPS + UPDATE_FLOPS * layout.n_parameters
    return float(FIT_FLOPS + epochs * n_rows * by_row + steps * by_step)
