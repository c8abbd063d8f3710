"""Rules of the columns of a table: from a number,
which may be missing, to a float32 input of a net.

Compiled loops over columns, calls row by row, and C files are made of these rules.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from numpy import float32, sqrt

from fastmlp.validation import Array

# Scaled numbers are between -3 and 3.
BOUND = 3.0
# Beyond float32's range a scaled number would be inf, and the result NaN.
LARGEST_SCALED = 1e18


def clipped(x: float, center: float, factor: float) -> float32:
    """``z / sqrt(1 + (z / 3)^2)`` of ``z = (x - center)
    * factor``, and 0 for a missing x.
    """
    z = (x - center) * factor
    z = z if z == z else 0.0
    z = -LARGEST_SCALED if z < -LARGEST_SCALED else z
    z32 = float32(LARGEST_SCALED if z > LARGEST_SCALED else z)
    part = z32 * float32(1 / BOUND)
    return z32 / sqrt(float32(1) + part * part)


def rising(x: float, center: float, factor: float) -> float32:
    """`clipped` as ``1 / sqrt(1 / z^2 + 1 / 9)``: each operation is monotone,
    so the result rises after rounding, too.
    """
    z = (x - center) * factor
    z = z if z == z else 0.0
    z = min(max(z, -LARGEST_SCALED), LARGEST_SCALED)
    # The summand is for 0.
    size = 1.0 / sqrt(1.0 / (z * z + 1e-300) + 1.0 / (BOUND * BOUND))
    return float32(-size if z < 0.0 else size)


def missing(x: float) -> float32:
    """1 for a missing number, else 0."""
    return float32(1.0 if x != x else 0.0)


def share_below(x: float, median: float, low: float, factor: float) -> float32:
    """The share of a bin from `low` on, ``1 / factor`` wide, that lies below a number,
    from 0 to 1; a missing number counts as the median.
    """
    x = median if x != x else x
    share = float32((x - low) * factor)
    share = float32(0) if share < float32(0) else share
    return float32(1) if share > float32(1) else share


def within(x: float, median: float, low: float, high: float) -> float32:
    """1 for a number from `low` to below `high`, else 0;
    a missing number counts as the median.
    """
    x = median if x != x else x
    above = float32(1.0 if x >= low else 0.0)
    return float32(0) if x >= high else above


ColumnRuleName = Literal["clipped", "rising", "missing", "share_below", "within"]
# Compiled code numbers the rules in this order.
COLUMN_RULES: dict[ColumnRuleName, Callable[..., Any]] = {
    "clipped": clipped,
    "rising": rising,
    "missing": missing,
    "share_below": share_below,
    "within": within,
}


class NumberStep(NamedTuple):
    """Inputs of a net, each by a rule from one number.

    Attributes
    ----------
    rule : name in `COLUMN_RULES`
    columns : (n_inputs,) array, places among the numbers of a row
    constants : (n_inputs, n_constants) array of float64
    """

    rule: ColumnRuleName
    columns: Array
    constants: Array

    @property
    def n_inputs(self) -> int:
        return len(self.columns)

    @property
    def function(self) -> Callable[..., Any]:
        """The rule, of a number and its constants."""
        return COLUMN_RULES[self.rule]


class LevelStep(NamedTuple):
    """Inputs of a net from categories:
    a level writes a row of a table, the others stay 0.

    Attributes
    ----------
    columns : (n_columns,) array, places among the codes of a row
    starts : (n_columns + 1,) array
        First place of each column in `inputs` and `constants`:
        missing or unknown, then the codes.
    inputs : (n_places,) array, the first input that is written; -1: nothing is written
    constants : (n_places, width) array of float32, what is written
    """

    columns: Array
    starts: Array
    inputs: Array
    constants: Array
    n_inputs: int
