"""The rows of a rank's fit: its own, of any number, in its own buffers."""

from collections import Counter
from dataclasses import replace
from typing import Any, final

import numpy as np

from fastmlp import validation
from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Feed, tabled
from fastmlp.data.sources import targets_of
from fastmlp.network.spec import Network
from fastmlp.training.options import FitOptions
from fastmlp.training.ranks.exchange import Exchange
from fastmlp.training.rows import FitRows, RawRows, split_rows_of

NONE = np.empty(0, np.int64)


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


def rows_of_rank(
    engine: Engine[Any], raw: RawRows, options: FitOptions, names: validation.Names
) -> FitRows:
    """The rows as of `split_rows_of`; a rank may have no rows, or none to validate on.

    Raises
    ------
    TypeError, ValueError, ImportError
        If the rows are not valid for the net or the options.
    """
    held_out = raw.validation_data
    has_rows = not is_empty(raw.X)
    pair = isinstance(held_out, tuple | list) and len(held_out) in (2, 3)
    held_out_is_empty = pair and is_empty(held_out[0])
    if held_out_is_empty or (not has_rows and options.validation_split is not None):
        held_out, held_out_is_empty = _stand_in(engine.network), True
    raw = raw._replace(validation_data=held_out)
    if not has_rows:
        raw = RawRows(*_stand_in(engine.network), None, held_out)
        options = replace(options, target=None, validation_split=None, class_weight=None)
        options = replace(options, buffer_rows=None, steps_per_epoch=None)
    rows = split_rows_of(engine, raw, options, names)
    if not has_rows:
        rows = rows._replace(data=rows.data._replace(rows=NONE))
    if held_out_is_empty:
        rows = rows._replace(held_out=rows.held_out._replace(rows=NONE))
    return rows


def _stand_in(network: Network) -> tuple[Any, Any]:
    """Return a row that is valid for the net, for a rank that has none."""
    sizes, loss = network.layout.sizes, network.loss
    if loss.targets == "classes":
        return np.zeros((1, sizes[0])), np.zeros(1, np.int64)
    # 1 is a target of every loss.
    return np.zeros((1, sizes[0])), np.ones((1, sizes[-1] // loss.per_target))


def class_counts(raw: RawRows, options: FitOptions, names: validation.Names) -> Counter[int]:
    """The number of this rank's rows of each class."""
    X, y, who = raw.X, raw.y, options.who
    if y is not None and len(y):
        return validation.class_counts([y], who)
    if y is None and not is_empty(X):
        source = tabled(*in_blocks(X, y, None, who)[:2], options.target, who, names)
        return validation.class_counts(targets_of(source, who), who)
    return Counter()


@final
class RanksFeed:
    """The buffers of this rank, one after the other, in step with those of the other ranks.

    An epoch ends where it has ended on all ranks; one that is done has no rows until then.

    Parameters
    ----------
    ranks : Exchange
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

    def __init__(self, ranks: Exchange, engine: Engine[Any], feed: Feed | None, data: Data) -> None:
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
