"""From records to numbers for people: quartiles,
ratios of turns of the same round, peaks.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]


class Quartiles(NamedTuple):
    """A median and the quartiles beside it."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> str:
        """The quartiles of a ratio as text; a dash without a ratio."""
        if np.isnan(self.low):
            return "-"
        return f"{self.low:.2f} to {self.high:.2f}"

    @property
    def cell(self) -> str:
        """A ratio as a cell of a table: the median in bold,
        and quartiles in brackets.
        """
        text = f"**{self.median:.2f}x**"
        if self.low < self.high:
            text += f" ({self.spread})"
        return text


def quartiles(values: Any) -> Quartiles:
    """Quartiles of some numbers; NaN without any."""
    if not len(values):
        return Quartiles(np.nan, np.nan, np.nan)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Quartiles(float(low), float(median), float(high))


def over(theirs: Sequence[float], ours: Sequence[float] | None) -> Quartiles:
    """Quartiles of their time over ours,
    of turns of the same round; NaN without such turns.
    """
    if ours is None:
        return quartiles([])
    return quartiles([a / b for a, b in zip(theirs, ours, strict=False)])


def geometric(values: Iterable[Any], axis: int | None = None) -> Any:
    """The geometric mean of numbers, of all or along an axis; NaN is left out."""
    logs = np.log(np.asarray([*values]))
    return np.exp(np.nanmean(logs, axis=axis))


def change_cells(change: NDArray[Any]) -> list[str]:
    """Changes in per cent as cells: the geometric mean, the median."""
    # Of ratios: a table whose losses are near 0 has some of many times another's.
    mean = 100 * (geometric(1 + change / 100) - 1)
    return [f"{mean:+.1f} %", f"{np.median(change):+.1f} %"]


def counted(n_threads: int) -> str:
    """The number of threads in words: "1 thread", "2 threads"."""
    if n_threads == 1:
        return "1 thread"
    return f"{n_threads} threads"


def digits(number: float) -> str:
    """A number in three digits, without an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def grouped(records: Iterable[Record], *names: str) -> dict[Any, list[Record]]:
    """Records by their value of a name, or by tuples of their values of several."""
    key_of = itemgetter(*names)
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    return groups


def failed(record: Record) -> bool:
    """Return True if a record or a reply is that of a failure."""
    return bool(record.keys() & {"unsupported", "error"})


def bold_if(text: str, bold: bool) -> str:
    """The text, in bold where it is to be."""
    if bold:
        return f"**{text}**"
    return text


def ranks_of(losses: NDArray[Any]) -> NDArray[Any]:
    """Ranks by row, 1 for the least loss; ties share theirs, and NaN is last.

    Parameters
    ----------
    losses : (tables, models)
    """
    filled = np.where(np.isnan(losses), np.inf, losses)
    others = filled[:, None, :]
    each = filled[:, :, None]
    below = (others < each).sum(axis=2)
    same = (others == each).sum(axis=2)
    return np.asarray(1 + below + 0.5 * (same - 1))
