"""Scores of validation rows as a promise about new rows:
intervals, quantiles, sets of classes.

If new rows are drawn as validation rows were, a new row's score has each rank among
theirs with the same probability. Errors of numbers are divided by a size for each row,
which a small pack learns on folds of the validation rows.
"""

import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tabular.export import row_predictions
from fastmlp.tabular.outputs import scores_of
from fastmlp.tabular.pack import NO_NUMBERS, Caller, Pack, train_pack
from fastmlp.tabular.pool import Checkpoints, Fold, TableRows
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import PackSettings
from fastmlp.typing import Array

# With fewer rows all sizes are 1, and intervals have one width.
FEWEST_SIZED_ROWS = 100
# Errors below this part of the mean absolute error count as equal:
# their logarithms are noise.
FLOOR = 0.1
# Gain of the interval scores of 9 tables over one width, and share of the nets' time,
# with one net per fold: 2 folds 13.7 % and 2.5 %, 3 folds 14.7 % and 4.3 %, 5 folds
# 13.9 % and 7 %. In 12 tables two nets of 2 folds gained 0.2 points more than one, in
# three times the time. Half of the rows to learn and half to calibrate on gained 2
# points less. The members' standard deviation in place of sizes gained 2.0 %.
SIZE_SETTINGS = PackSettings(n_members=1, max_members=1, epochs=100, cv=3)


def learn_sizes(
    pack: Pack,
    rows: TableRows,
    *,
    seed: int,
    n_threads: int | None,
    folds: Sequence[Fold] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Array:
    """Learn the size of each row's error on the validation rows of a pack of numbers.

    Each row's size is learned from other folds;
    sizes are 1 for too few rows or without folds.
    """
    errors = scores_of("regression", rows.y, pack.validated)
    if (
        len(errors) < FEWEST_SIZED_ROWS
        or not errors.any()
        or (folds is not None and not folds)
    ):
        return np.ones(len(errors))
    logarithms = np.log(np.hypot(errors, FLOOR * np.abs(errors).mean()))
    options: dict[str, Any] = {
        "task": "regression",
        "n_classes": 0,
        "settings": SIZE_SETTINGS,
    }
    options |= {"seed": seed, "n_threads": n_threads, "folds": folds}
    options["caller"] = Caller(checkpoints=checkpoints)
    sizes = train_pack(rows._replace(y=logarithms), None, **options)
    sizes_of_rows = np.exp(sizes.validated)
    pack.take_scores(errors / sizes_of_rows, rows.weight)
    # The pack of sizes does not have intervals.
    sizes.validated = sizes.residuals = sizes.row_weights = NO_NUMBERS
    pack.sizes = sizes
    return sizes_of_rows


def sizes_of(pack: Pack, values: Values) -> Array:
    """Sizes of the rows' errors, shape (n_rows,)."""
    if pack.sizes is None or not len(values.codes):
        return np.ones(len(values.codes))
    if len(values.codes) == 1:
        return np.exp(row_predictions(pack.sizes, values)[0])
    return np.exp(pack.sizes.predict(values))


def bands(
    pack: Pack, values: Values, predictions: Array, scores: Array
) -> NDArray[np.float64]:
    """Targets at `n_scores` scores,
    shape (n_rows, n_scores), clipped to the targets' range.
    """
    of_rows = sizes_of(pack, values)[:, None] * scores
    return np.clip(predictions[:, None] + of_rows, *pack.outputs.bounds)


def ends(pack: Pack, coverage: float, who: str, n_rows: int) -> Array:
    """Return the two scores that a new row's score lies between with probability
    `coverage`.

    Equal shares of rows are below the first and above the second. With too few rows for
    that, the first is minus the second. Errors name `n_rows`, the number of rows that
    folds would validate on.
    """
    _check(coverage, f"{who}: coverage")
    if (kept := _kept(pack, "ends", coverage)) is not None:
        return kept
    level = (1 + coverage) / 2
    pair = np.array([pack.lower_score(1 - level), pack.upper_score(level)])
    if not np.isfinite(pair).all():
        half = _known(pack, pack.half_width, coverage, f"{who}: coverage", n_rows)
        pair = np.array([-half, half])
    return _keep(pack, "ends", coverage, pair)


def quantiles(pack: Pack, levels: Any, who: str, n_rows: int) -> Array:
    """Return the scores that a new row's score is below with probabilities `levels`."""
    if np.ndim(levels) != 1 or not len(levels):
        raise ValueError(
            f"{who}: quantiles must be a list of numbers in (0, 1), got {levels!r}"
        )
    for level in levels:
        _check(level, f"{who}: each of quantiles")
    levels = tuple(levels)
    if (kept := _kept(pack, "quantiles", levels)) is not None:
        return kept
    scores = []
    for level in levels:
        score = pack.lower_score if level < 0.5 else pack.upper_score
        scores.append(_known(pack, score, level, f"{who}: quantile", n_rows))
    return _keep(pack, "quantiles", levels, np.array(scores))


def _kept(pack: Pack, name: str, asked: Any) -> Array | None:
    """The scores that were asked for last, if they are of the same residuals."""
    residuals, last, scores = pack.asked.get(name, (None, None, None))
    return scores if residuals is pack.residuals and last == asked else None


def _keep(pack: Pack, name: str, asked: Any, scores: Array) -> Array:
    # Copies of a pack share the old dictionary.
    pack.asked = {**pack.asked, name: (pack.residuals, asked, scores)}
    return scores


def least_probability(pack: Pack, coverage: float, who: str, n_rows: int) -> float:
    """Return the least probability of a class in a set with this coverage."""
    _check(coverage, f"{who}: coverage")
    return 1 - _known(pack, pack.upper_score, coverage, f"{who}: coverage", n_rows)


def _check(value: Any, asked: str) -> None:
    number: Any = value if isinstance(value, Real) else math.nan
    if not 0 < number < 1:
        if 1 < number <= sys.float_info.max:
            share = f": {value} percent is {value / 100:g}"
        else:
            share = ""
        raise ValueError(f"{asked} must be a number in (0, 1), got {value!r}{share}")


def _known(
    pack: Pack, score: Callable[[float], float], level: float, asked: str, n_rows: int
) -> float:
    """The score at a level, or an error if there are too few rows for it."""
    if math.isfinite(result := score(level)):
        return result
    near = max(min(level, 1 - level), 1e-18)
    n = len(pack.residuals)
    least = math.ceil((1 - near) / near)
    needed = f"needs {least} rows to validate on, there were {n}"
    if least <= n_rows:
        more = "use cv=5, or"
    else:
        more = "train on more rows, or use"
    raise ValueError(
        f"{asked}={level} {needed}; {more} a {asked.split()[-1]} nearer to 0.5"
    )
