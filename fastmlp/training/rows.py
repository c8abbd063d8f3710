"""The rows of a fit: arrays, or a source in buffers; to train on, and to validate on."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.arrow import paths_of
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Buffers, Feed, feed_of, tabled
from fastmlp.data.sources import Conversion, SourceSlice, all_rows, has_blocks, is_source, opened
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import Dropout, Rate
from fastmlp.rules.optimizer_protocol import SWA, Optimizer, average_of
from fastmlp.rules.schedules import is_known, rates_of
from fastmlp.training.loop import ByBuffers, Request
from fastmlp.training.options import FitOptions
from fastmlp.validation import arrays, frames, scalars
from fastmlp.validation.frames import is_table
from fastmlp.validation.messages import listed

# A rate that depends on the number of steps has two values for these.
LENGTHS = (20_000, 30_000)


class RawRows(NamedTuple):
    """The rows of a fit as its caller passes them: arrays, or a source in the place of X."""

    X: Any
    y: Any
    sample_weight: Any
    validation_data: Any = None

    def are_arrays(self, options: FitOptions) -> bool:
        """Return True for arrays of a fit that reads no source: its checks take 15 us."""
        sizes = options.buffer_rows is options.steps_per_epoch is None
        plain = type(self.X) is np.ndarray and type(self.y) is np.ndarray
        return plain and sizes and self.validation_data is options.target is None


class FitRows(NamedTuple):
    """The rows of a fit: of the first buffer, if there is a feed, and to validate on, if any."""

    feed: Feed | None
    data: Any
    held_out: Any
    names: frames.Names


def rows_of(engine: Engine[Any], raw: RawRows, options: FitOptions, names: frames.Names) -> FitRows:
    """The rows of a fit, checked.

    Parameters
    ----------
    names : by which the net knows columns of frames, or None
    """
    network, who, held_out = engine.network, options.who, None
    if raw.are_arrays(options):
        return FitRows(None, engine.data(*raw[:3], who), None, names)
    where, validated = f"{who}: validation_data", raw.validation_data
    rows = in_blocks(*raw[:3], who)
    if rows[0] is not raw.X:
        # `sample_weight` contains the weights of classes.
        if options.class_weight is not None and options.validation_split is not None:
            raise ValueError(
                f"{who}: class_weight with validation_split would weigh the rows to validate on: "
                "pass Blocks.from_memmap(X, y)"
            )
        options = replace(options, class_weight=None)
    # The columns of a table are read by the names that are known so far.
    X = tabled(*rows[:2], options.target, who, names)
    if options.validation_split is not None and has_blocks(X):
        n = sum(X.block_sizes)
        first = first_held_out(n, options.validation_split, who)
        X, validated = SourceSlice(X, 0, first), SourceSlice(X, first, n)
        options = replace(options, validation_split=None)
    if validated is not None and (is_table(validated) or paths_of(validated) is not None):
        known = names or getattr(X, "feature_names", None)
        validated = tabled(validated, None, options.target, where, known)
    # First: a database has one open result at a time.
    if validated is not None and is_source(validated):
        convert = Conversion(network, where, None, getattr(validated, "feature_names", None))
        held_out = engine.trusted(*all_rows(opened(validated, where), convert, where))
    feed = feed_of(X, *rows[1:], network, options, who)
    if feed is None:
        X, names = frames.named(X, names, who, warns=True)
        data = engine.data(X, rows[1], rows[2], who)
    else:
        data, names = engine.trusted(*feed.rows), _names_of(X, names, network, who)
        if held_out is not None:
            _names_of(validated, names, network, where)
    if held_out is None and validated is not None:
        X, y, sample_weight = _validation_pair(validated, who)
        held_out = engine.data(frames.selected(X, names, where), y, sample_weight, where)
    return FitRows(feed, data, held_out, names)


def _validation_pair(argument: object, who: str) -> tuple[Any, Any, Any]:
    if not isinstance(argument, tuple | list) or len(argument) not in (2, 3):
        hint = f"; use validation_split={argument!r}" if isinstance(argument, float) else ""
        raise TypeError(
            f"{who}: validation_data must be (X, y) or (X, y, sample_weight), "
            f"got {type(argument).__name__}{hint}"
        )
    return (*argument, None)[:3]


def _names_of(source: Any, names: frames.Names, network: Network, who: str) -> frames.Names:
    """Return the names of a source's columns, which must be those that are known, if any are."""
    of_source = getattr(source, "feature_names", None)
    own = frames.names_given(of_source, network.layout.sizes[0], f"{who}: feature_names")
    if own is not None and names is not None and own != names:
        raise ValueError(
            f"{who}: the source has the columns {listed([*own])}, but the net's feature_names are "
            f"{listed([*names])}: read those, in this order, as by features= of Blocks"
        )
    return names if own is None else own


def split_rows_of(
    engine: Engine[Any], raw: RawRows, options: FitOptions, names: frames.Names
) -> FitRows:
    """The rows as of `rows_of`, with the weights of classes, and the last rows to validate on."""
    who, fraction, class_weight = options.who, options.validation_split, options.class_weight
    network, weighted = engine.network, raw
    if class_weight is not None and raw.y is not None:
        form = (network.loss.targets, network.layout.sizes[-1], who)
        weight = arrays.class_weights(class_weight, raw.y, raw.sample_weight, *form)
        weighted = raw._replace(sample_weight=weight)
    rows = rows_of(engine, weighted, options, names)
    if fraction is None or rows.feed is not None:
        return rows
    data, held_out = split(rows.data, fraction, who)
    if class_weight is not None:
        own = arrays.weights(raw.sample_weight, len(data.weight), network.dtype, who)
        held_out = held_out._replace(weight=own)
    return rows._replace(data=data, held_out=held_out)


def first_held_out(n: int, fraction: Any, who: str) -> int:
    """Return the place of the first of n rows to validate on, the last ones, a fraction of all."""
    valid = scalars.is_positive(fraction) and fraction < 1
    share = scalars.real(who, "validation_split", fraction, "a number in (0, 1)", valid)
    first = int(n * (1 - share))
    if not 0 < first < n:
        raise ValueError(
            f"{who}: validation_split={fraction!r} of {n} rows leaves {first} to train on and "
            f"{n - first} to validate on"
        )
    return first


def split(data: Data, fraction: Any, who: str) -> tuple[Data, Data]:
    """Return the first rows, to train on, and the last ones, a fraction of all, to validate on."""
    n = data.n_rows
    first = first_held_out(n, fraction, who)
    rows = np.arange(n) if data.rows is None else data.rows
    parts = data._replace(rows=rows[:first]), data._replace(rows=rows[first:])
    if any(part.mass == 0 for part in parts):
        raise ValueError(f"{who}: sample_weight must not be 0 in all rows of a part of the split")
    return parts


def by_buffers(
    request: Request, feed: Buffers | None, engine: Engine[Any], state: NetState
) -> ByBuffers | None:
    """The way of a fit over all buffers of a feed; None if its rows are in memory."""
    if feed is None or feed.is_whole:
        return None
    if feed.n_rows is None:
        check_length(engine, state)
    return ByBuffers(request, feed, lambda rows: engine.trusted(*rows))


def check_length(engine: Engine[Any], state: NetState) -> None:
    """Check that a fit needs no number of steps."""
    setting = setting_of_length(engine.network, state.optimizer)
    if isinstance(setting, SWA):
        raise ValueError(
            f"MLP.fit: {setting!r} needs the number of steps, and how long the stream is is "
            "known after its first pass: give steps_per_epoch= of fit, or use EMA"
        )
    if setting is not None:
        raise ValueError(
            f"{setting!r} needs the number of steps, and how long the stream is is known after "
            "its first pass: give n_steps= of a schedule, or steps_per_epoch= of fit"
        )


def rates_in_use(dropout: Dropout | None, optimizer: Optimizer) -> tuple[Rate, ...]:
    drops = () if dropout is None else (*dropout.hidden, dropout.inputs, dropout.noise)
    return optimizer.learning_rate, *drops


def setting_of_length(network: Network, optimizer: Optimizer, *, known: bool = False) -> object:
    """The first schedule, or the average, that depends on a fit's last step; or None. With `known`
    users' functions are not asked."""
    steps = np.array([0, 1, 10, 100, 1000, 10_000], np.int64)
    for rate in rates_in_use(network.dropout, optimizer):
        if callable(rate) and not (known and not is_known(rate)):
            short, long = (np.asarray(rates_of(rate, steps, total)) for total in LENGTHS)
            if not np.array_equal(short, long):
                return rate
    average = average_of(optimizer)
    return average if isinstance(average, SWA) else None
