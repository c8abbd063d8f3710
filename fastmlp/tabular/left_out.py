"""Why a column of texts is left out of what is learned from."""

import re
from collections.abc import Collection

from fastmlp.validation.suggestions import count

# A text column with more levels, and in more than this share of the rows another, is like an id.
ID_LEVELS, ID_SHARE = 20, 0.5
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
ONE_VALUE, EMPTY = "has one value only", "is empty"


def reason(levels: Collection[str], n: int, n_rows: int, *, asked: bool) -> str | None:
    """Return why a column of texts is left out, or None.

    Parameters
    ----------
    levels : the texts, each once
    n : rows that have one
    n_rows : all rows
    asked : True if the column is to be categories, however many levels it has

    Examples
    --------
    >>> reason(["a"], 9, 9, asked=False)
    'has one value only'
    """
    if not asked and levels and all(map(DECIMAL_COMMA.fullmatch, levels)):
        return "holds numbers with a decimal comma: write them with a point"
    if not asked and len(levels) > max(ID_LEVELS, ID_SHARE * n):
        numbers = "; all are numbers: make floats of them" if all(map(_is_number, levels)) else ""
        return f"has {len(levels)} texts in {count(n, 'row')}, as an id has{numbers}"
    if not levels:
        return EMPTY
    return ONE_VALUE if len(levels) == 1 and n == n_rows else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
