"""The rows of a fit on several ranks: each has its own, of any number, in its own buffers."""

from collections import Counter
from collections.abc import Callable
from typing import Any, final

import numpy as np

from fastmlp import validation
from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Feed, tabled
from fastmlp.data.sources import targets_of
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.training.loop import Request
from fastmlp.training.monitors import Monitors
from fastmlp.training.ranks.ranks import Ranks
from fastmlp.training.ranks.request import RanksRequest
from fastmlp.training.request import FitRequest
from fastmlp.training.stream import (
    FitRows,
    GivenRows,
    StreamRequest,
    by_buffers,
    check_length,
    split_rows_of,
)

NONE = np.empty(0, np.int64)


def share_of(ranks: Ranks, batch_size: int) -> int:
    """Return how many rows of a batch a rank has, if all have as many rows."""
    whole, rest = divmod(batch_size, ranks.size)
    return max(1, whole + (ranks.rank < rest))


def is_empty(X: Any) -> bool:
    """Return True for an array, a table, or a list of files, without rows."""
    if isinstance(X, str):
        return False
    if hasattr(X, "get_fragments"):
        return next(iter(X.get_fragments()), None) is None
    shape = getattr(X, "shape", None)
    if shape:
        return bool(shape[0] == 0)
    return hasattr(X, "__len__") and len(X) == 0


def rows_on(
    ranks: Ranks, engine_of: Callable[[], Engine[Any]], given: GivenRows, monitors: Monitors
) -> tuple[Engine[Any], FitRows]:
    """Return the engine and this rank's rows of a fit, checked.

    Raises
    ------
    TypeError, ValueError, ImportError
        If they are not what they must be; RuntimeError on the other ranks.
    """
    if ranks.size > 1 and given.reading.class_weight == validation.BALANCED:
        weights = _balanced_on(ranks, given)
        given = given._replace(reading=given.reading._replace(class_weight=weights))
    with ranks.agreeing():
        engine = engine_of()
        found = split_rows_of(engine, given) if ranks.size == 1 else _own_rows(engine, given)
        if found.held_out is None or found.held_out.n_rows:
            monitors.check(engine.network, found.held_out, given.who)
    if ranks.size > 1:
        found = found._replace(names=next(filter(None, ranks.allgather_objects(found.names)), None))
    return engine, found


def _own_rows(engine: Engine[Any], given: GivenRows) -> FitRows:
    """Return what `split_rows_of` does; a rank may have no rows, or none to validate on."""
    rows, held_out, _, reading, _ = given
    has_rows = not is_empty(rows[0])
    pair = isinstance(held_out, tuple | list) and len(held_out) in (2, 3)
    held_out_is_empty = pair and is_empty(held_out[0])
    if held_out_is_empty or (not has_rows and reading.validation_split is not None):
        held_out, held_out_is_empty = _stand_in(engine.network), True
    if not has_rows:
        rows = (*_stand_in(engine.network), None)
        reading = reading._replace(target=None, validation_split=None, class_weight=None)
        reading = reading._replace(buffer_rows=None, steps_per_epoch=None)
    given = given._replace(rows=rows, validation_data=held_out, reading=reading)
    found = split_rows_of(engine, given)
    if not has_rows:
        found = found._replace(data=found.data._replace(rows=NONE))
    if held_out_is_empty:
        found = found._replace(held_out=found.held_out._replace(rows=NONE))
    return found


def _stand_in(network: Network) -> tuple[Any, Any]:
    """Return a row that is valid for the net, for a rank that has none."""
    sizes, loss = network.layout.sizes, network.loss
    if loss.targets == "classes":
        return np.zeros((1, sizes[0])), np.zeros(1, np.int64)
    # 1 is a target of every loss.
    return np.zeros((1, sizes[0])), np.ones((1, sizes[-1] // loss.per_target))


def _balanced_on(ranks: Ranks, given: GivenRows) -> dict[int, float]:
    """Return the weights of classes that are "balanced" over the rows of all ranks."""
    (X, y, _), _, names, reading, who = given
    own = Counter[int]()
    with ranks.agreeing():
        if y is not None and len(y):
            own = validation.class_counts([y], who)
        elif y is None and not is_empty(X):
            source = tabled(*in_blocks(X, y, None, who)[:2], reading.target, who, names)
            own = validation.class_counts(targets_of(source, who), who)
    return validation.balanced(sum(ranks.allgather_objects(own), Counter[int]()))


@final
class RanksFeed:
    """The buffers of this rank, one after the other, in step with those of the other ranks.

    An epoch ends where it has ended on all ranks; one that is done has no rows until then.

    Parameters
    ----------
    ranks : Ranks
    engine : Engine
    feed : Feed, or None for a rank whose rows are an array
    data : Data, the rows of the first buffer

    Attributes
    ----------
    rows : Data, of the current buffer
    ends : bool, True if an epoch of all ranks ends with it
    n_rows : int or None, of an epoch of all ranks, if it is known
    """

    is_whole = False
    rows: Any
    ends: bool
    n_rows: int | None

    def __init__(self, ranks: Ranks, engine: Engine[Any], feed: Feed | None, data: Data) -> None:
        self._ranks, self._engine, self._whole = ranks, engine, data
        self._feed = None if feed is None or feed.is_whole else feed
        self.rows, self._is_done = data, self._feed is None or self._feed.ends
        self._agree()
        own = (data.n_rows, data.n_rows) if self._feed is None else self._feed.sizes
        self._sizes = ranks.allgather_objects(own)
        known = [n for n, _ in self._sizes if n is not None]
        self.n_rows = sum(known) if len(known) == ranks.size else None

    def steps(self, batch_size: int) -> int:
        """Return the steps of an epoch, if `n_rows` is known."""
        total = 0
        left = [n or 0 for n, _ in self._sizes]
        while any(left):
            of_buffer = [min(n, most) for n, (_, most) in zip(left, self._sizes, strict=True)]
            total -= -sum(of_buffer) // batch_size
            left = [n - taken for n, taken in zip(left, of_buffer, strict=True)]
        return total

    def _agree(self) -> None:
        self.ends = bool(self._ranks.flags(self._is_done).all())

    def start(self, epoch: int) -> None:
        """Begin to read ahead, at this epoch."""
        if self._feed is not None:
            self._feed.start(epoch)
        self.ends = self.ends or epoch > 0

    def next(self) -> None:
        """Go on to the next buffer."""
        if self._is_done and not self.ends:
            self.rows = self._whole._replace(rows=NONE)
        elif self._feed is None:
            self.rows = self._whole
        else:
            self._feed.next()
            self.rows, self._is_done = self._engine.trusted(*self._feed.rows), self._feed.ends
        self._agree()

    def close(self) -> None:
        """End the reading."""
        if self._feed is not None:
            self._feed.close()


def by_buffers_on(
    ranks: Ranks,
    fit: FitRequest | RanksRequest,
    feed: Feed | None,
    engine: Engine[Any],
    state: NetState,
) -> Request:
    """Return the request of a fit over all buffers of a rank's feed; None: its rows are an array.

    Raises
    ------
    ValueError
        If a schedule needs the number of steps, and it is not known.
    """
    if isinstance(fit, FitRequest):
        return fit if feed is None else by_buffers(fit, feed, engine, state)
    if all(ranks.allgather_objects(feed is None or feed.is_whole)):
        return fit
    buffers = RanksFeed(ranks, engine, feed, fit.data)
    if buffers.n_rows is None:
        with ranks.agreeing():
            check_length(engine, state)
    else:
        fit.plan(buffers.steps(fit.batch_size))

    def size_of(data: Data) -> tuple[int, float]:
        n_rows, mass = ranks.allgather(np.array([data.n_rows, data.mass], np.float64)).sum(axis=0)
        return int(n_rows), float(mass)

    return StreamRequest(fit, buffers, lambda data: data, size_of)
