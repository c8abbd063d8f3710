"""The rule of columns: whether each becomes a number, levels or parts of dates, or is left out."""

import re
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from fastmlp.tabular.schema import dates
from fastmlp.tabular.schema.dates import Parts
from fastmlp.validation.suggestions import count

Task = Literal["classification", "regression"]
Kind = Literal["numbers", "levels", "texts", "others", "nothing"] | dates.Kind
# A text column with more levels, and in more than this share of the rows another, is like an id.
ID_LEVELS, ID_SHARE = 20, 0.5
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
ONE_VALUE, EMPTY = "has one value only", "is empty"


class LeftOut(NamedTuple):
    """A column that is not learned from, and why."""

    why: str


class Facts(NamedTuple):
    """A column of a table to learn from.

    Attributes
    ----------
    kind : by its type; of texts that are all ISO dates or times, the kind of those
    asked : True if it is to be categories
    n, n_rows : rows with a value, and all
    lows, highs : (n_parts,) arrays, of numbers and of the parts of dates
    levels : texts of the levels, each once
    type : the name of the type, where it is of others
    """

    kind: Kind
    asked: bool
    n: int
    n_rows: int
    lows: NDArray[Any] | None = None
    highs: NDArray[Any] | None = None
    levels: Collection[str] = ()
    type: str = ""


def decided(facts: Facts) -> Literal["number", "levels"] | Parts | LeftOut:
    """The outcome of the rule for a column.

    Examples
    --------
    >>> from fastmlp.tabular.schema.rule import Facts, decided
    >>> decided(Facts("texts", False, 9, 9, levels=["a", "b"]))
    'levels'
    >>> decided(Facts("texts", False, 9, 9, levels=["a"]))
    LeftOut(why='has one value only')
    """
    kind, asked, n, n_rows = facts[:4]
    if kind == "others":
        encoding = " in UTF-8" if "binary" in facts.type else ""
        cure = ": make dates of it by .dt.to_timestamp()" if facts.type[:6] == "period" else ""
        return LeftOut(f"holds {facts.type}, neither numbers, dates nor texts{encoding}{cure}")
    if asked or kind in ("levels", "texts"):
        why = _no_levels(facts.levels, n, n_rows, asked=asked)
        return "levels" if why is None else LeftOut(why)
    if not n or facts.lows is None or facts.highs is None or kind == "nothing":
        return LeftOut(EMPTY)
    if facts.lows[-1] == facts.highs[-1] and n == n_rows:
        far = " in float64: subtract the least one" if abs(facts.lows[-1]) >= 2**53 else ""
        return LeftOut(ONE_VALUE + far)
    return dates.learned(kind, facts.lows, facts.highs) if dates.is_kind(kind) else "number"


def _no_levels(levels: Collection[str], n: int, n_rows: int, *, asked: bool) -> str | None:
    """Return why a column of texts is left out, or None; all but asked ones may be like ids."""
    if not asked and levels and all(map(DECIMAL_COMMA.fullmatch, levels)):
        return "holds numbers with a decimal comma: write them with a point"
    if not asked and len(levels) > max(ID_LEVELS, ID_SHARE * n):
        numbers = "; all are numbers: make floats of them" if all(map(_is_number, levels)) else ""
        return f"has {len(levels)} texts in {count(n, 'row')}, free text or ids{numbers}"
    if not levels:
        return EMPTY
    return ONE_VALUE if len(levels) == 1 and n == n_rows else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
