"""A fit over buffers of rows: an epoch is a window for each buffer."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.protocol import Data, Engine, Order, Trainer
from fastmlp.data.arrow import is_table, paths_of
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Buffers, Feed, feed_of, tabled
from fastmlp.data.rows import Conversion, Reading, all_rows
from fastmlp.data.sources import SourceSlice, has_blocks, is_source, opened
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.averages import SWA
from fastmlp.rules.optimizers import average_of
from fastmlp.rules.schedules import rates_of
from fastmlp.training.history import History, Status
from fastmlp.training.loop import Rates, Request
from fastmlp.training.monitors import first_held_out, split
from fastmlp.training.request import FitRequest
from fastmlp.validation.suggestions import listed

# What depends on the number of steps has two values for these.
LENGTHS = (20_000, 30_000)


class GivenRows(NamedTuple):
    """The rows that a fit is given, unchecked.

    Attributes
    ----------
    rows : X, y and the weights, or a source, None and None
    validation_data : rows to validate on, or None
    names : those that the net knows, by which columns of frames are found, or None
    reading : Reading
    who : the function that errors name
    """

    rows: tuple[Any, Any, Any]
    validation_data: Any
    names: validation.Names
    reading: Reading
    who: str


class FitRows(NamedTuple):
    """The rows of a fit: of the first buffer, if there is a feed, and to validate on, if any."""

    feed: Feed | None
    data: Any
    held_out: Any
    names: validation.Names


def rows_of(engine: Engine[Any], given: GivenRows) -> FitRows:
    """Return the rows of a fit, checked.

    Raises
    ------
    TypeError, ValueError, ImportError
        If they are not what they must be.
    """
    as_given, validated, names, reading, who = given
    network, where, held_out = engine.network, f"{who}: validation_data", None
    rows = in_blocks(*as_given, who)
    if rows[0] is not as_given[0]:
        # The weights of its rows have those of their classes.
        if reading.class_weight is not None and reading.validation_split is not None:
            raise ValueError(
                f"{who}: class_weight with validation_split would weigh the rows to validate on: "
                "pass Blocks.from_memmap(X, y)"
            )
        reading = reading._replace(class_weight=None)
    # The columns of a table are read by the names that are known so far.
    X = tabled(*rows[:2], reading.target, who, names)
    if reading.validation_split is not None and has_blocks(X):
        n = sum(X.block_sizes)
        first = first_held_out(n, reading.validation_split, who)
        X, validated = SourceSlice(X, 0, first), SourceSlice(X, first, n)
        reading = reading._replace(validation_split=None)
    if validated is not None and (is_table(validated) or paths_of(validated) is not None):
        its = names or getattr(X, "feature_names", None)
        validated = tabled(validated, None, reading.target, where, its)
    # First: a database has one open result at a time.
    if validated is not None and is_source(validated):
        convert = Conversion(network, where, None, getattr(validated, "feature_names", None))
        held_out = engine.trusted(*all_rows(opened(validated, where), convert, where))
    if reading.target is not None:
        reading = reading._replace(target=None)
    feed = feed_of(X, *rows[1:], network, reading, who)
    if feed is None:
        if names is None:
            validation.warn_of_forgotten(X, who)
        X, names = validation.named(X, names, who)
        data = engine.data(X, rows[1], rows[2], who)
    else:
        data, names = engine.trusted(*feed.rows), _names_of(X, names, network, who)
        if is_source(validated):
            _names_of(validated, names, network, where)
    if held_out is None and validated is not None:
        X, y, sample_weight = validation.validation_pair(validated, who)
        held_out = engine.data(validation.named(X, names, where)[0], y, sample_weight, where)
    return FitRows(feed, data, held_out, names)


def _names_of(source: Any, names: validation.Names, network: Network, who: str) -> validation.Names:
    """Return the names of a source's columns, which must be those that are known, if any are."""
    given = getattr(source, "feature_names", None)
    its = validation.names_given(given, network.layout.sizes[0], f"{who}: feature_names")
    if its is not None and names is not None and its != names:
        raise ValueError(
            f"{who}: the source has the columns {listed([*its])}, but the net's feature_names are "
            f"{listed([*names])}: read those, in this order, as by features= of Blocks"
        )
    return names if its is None else its


def split_rows_of(engine: Engine[Any], given: GivenRows) -> FitRows:
    """Return what `rows_of` does, with the weights of classes, and the last rows to validate on.

    Raises
    ------
    TypeError, ValueError, ImportError
        If they are not what they must be.
    """
    (X, y, sample_weight), who, reading = given.rows, given.who, given.reading
    fraction, class_weight = reading.validation_split, reading.class_weight
    network, weight = engine.network, sample_weight
    if class_weight is not None and y is not None:
        how = (network.loss.targets, network.layout.sizes[-1], who)
        weight = validation.class_weights(class_weight, y, sample_weight, *how)
    found = rows_of(engine, given._replace(rows=(X, y, weight)))
    if fraction is None or found.feed is not None:
        return found
    data, held_out = split(found.data, fraction, who)
    if class_weight is not None:
        own = validation.weights(sample_weight, len(data.weight), network.dtype, who)
        held_out = held_out._replace(weight=own)
    return found._replace(data=data, held_out=held_out)


def by_buffers(fit: FitRequest, feed: Buffers, engine: Engine[Any], state: NetState) -> Request:
    """Return the request of a fit over all buffers of a feed, which may be one.

    Raises
    ------
    ValueError
        If a schedule needs the number of steps, and it is not known.
    """
    if feed.is_whole:
        return fit
    if feed.n_rows is None:
        check_length(engine, state)
    return StreamRequest(fit, feed, lambda rows: engine.trusted(*rows))


class Fit(Request, Protocol):
    """A request over one buffer of rows, such as `FitRequest`, whose rows can be changed."""

    data: Data
    n_rows: int

    @property
    def history(self) -> History:
        """The record of the fit."""
        ...


def _size_of(data: Data) -> tuple[int, float]:
    return data.n_rows, data.mass


@final
class StreamRequest:
    """The request of a fit to the training loop whose rows come in buffers.

    Parameters
    ----------
    fit : Fit, over the first buffer; it has what is done between epochs
    feed : Buffers
    data_of : from the rows of a buffer to the device's data
    size_of : from data to the number of rows in the buffers of all ranks, and their mass
    """

    data: Data
    batch_size: int
    options: Mapping[str, bool]

    _trainer: Trainer
    _state: NetState
    _rates: Rates
    _is_first: bool

    def __init__(
        self,
        fit: Fit,
        feed: Buffers,
        data_of: Callable[[Any], Data],
        size_of: Callable[[Data], tuple[int, float]] = _size_of,
    ) -> None:
        self.data, self.batch_size, self.options = fit.data, fit.batch_size, fit.options
        self._fit, self._feed, self._data_of, self._size_of = fit, feed, data_of, size_of
        # Of a stream whose length is not known, `end_window` counts the rows.
        fit.n_rows = feed.n_rows or fit.n_rows
        # Sums of the epoch so far: loss times mass, and mass.
        self._loss = self._mass = 0.0
        self._starts, self._n_rows = True, 0
        self._before: NDArray[Any] | None = None

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Prepare; return a context in which the windows run."""
        self._trainer, self._state = trainer, state
        # Of a fit that resumes.
        done = len(self._fit.history.loss)
        self._is_first = not done
        self._feed.start(done)
        return self._fit.begin(engine, trainer, state)

    def window(self, most: int) -> int:
        """Return 1, an epoch of the next buffer; 0 ends the fit."""
        if self._starts and not self._fit.window(1):
            return 0
        if self._starts:
            self._trainer.store()
            self._before = self._state.parameters.copy()
        if not self._is_first:
            self._next_buffer()
        self._is_first = False
        return 1

    def _next_buffer(self) -> None:
        try:
            self._feed.next()
        except Exception:
            self._fit.history.status = Status.INTERRUPTED
            raise
        self._fit.data = self._data_of(self._feed.rows)
        self._trainer.take(self._fit.data)

    def order(self, n_epochs: int) -> Order:
        """Return the rows' order in the buffer, drawn from the net's generator."""
        return self._fit.order(n_epochs)

    def rates(self, n_epochs: int) -> Rates:
        """Return the learning rates, as a function of step numbers."""
        if self._starts:
            self._rates = self._fit.rates(1)
        return self._rates

    @property
    def last_step(self) -> int:
        """The step at which the fit ends, as schedules take it."""
        return self._fit.last_step

    def end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        """Add the buffer to its epoch; at the epoch's end do what a fit does there."""
        self._starts = self._feed.ends or diverged is not None
        if diverged is not None:
            self._fit.end_window(losses[:0], diverged)
            return
        n_rows, mass = self._size_of(self._fit.data)
        self._n_rows += n_rows
        mass = n_rows if self.options.get("by_rows") else mass
        if mass:
            self._loss, self._mass = self._loss + float(losses[0]) * mass, self._mass + mass
        if self._starts:
            mean = self._loss / self._mass if self._mass else float("nan")
            self._fit.n_rows = self._n_rows
            self._loss, self._mass, self._n_rows = 0.0, 0.0, 0
            self._fit.end_window(np.array([mean]), None)

    def cut_short(self, losses: NDArray[np.float64]) -> None:
        """Record nothing: the history has whole epochs."""

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Record that Ctrl-C has ended the fit, and warn."""
        self._fit.interrupted(error)

    def close(self) -> None:
        """End the reading, and conclude the fit."""
        self._feed.close()
        if self._fit.history.status is Status.DIVERGED and self._before is not None:
            # The trainer has gone back to the start of a buffer.
            self._state.assign(self._before)
        self._fit.close()


def check_length(engine: Engine[Any], state: NetState) -> None:
    """Check that a fit needs no number of steps.

    Raises
    ------
    ValueError
        If it does.
    """
    dropout = engine.network.dropout
    drops = () if dropout is None else (*dropout.hidden, dropout.inputs, dropout.noise)
    for rate in (state.optimizer.learning_rate, *drops):
        _check_schedule(rate)
    average = average_of(state.optimizer)
    if isinstance(average, SWA):
        raise ValueError(
            f"MLP.fit: {average!r} needs the number of steps, and how long the stream is is "
            "known after its first pass: give steps_per_epoch= of fit, or use EMA"
        )


def _check_schedule(schedule: Any) -> None:
    """Check that a rate does not depend on the step at which the fit ends.

    Raises
    ------
    ValueError
        If it does.
    """
    if not callable(schedule):
        return
    steps = np.array([0, 1, 10, 100, 1000, 10_000], np.int64)
    one, other = (np.asarray(rates_of(schedule, steps, total)) for total in LENGTHS)
    if not np.array_equal(one, other):
        raise ValueError(_lacks_length(schedule))


def _lacks_length(what: object) -> str:
    return (
        f"{what!r} needs the number of steps, and how long the stream is is known after "
        "its first pass: give n_steps= of a schedule, or steps_per_epoch= of fit"
    )
