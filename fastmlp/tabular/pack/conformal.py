"""Scores of validation rows as a promise about new rows: intervals, quantiles, sets of classes.

If new rows are drawn as validation rows were, the rank of a new row's score among theirs is any
with the same probability: the conformal step. Errors of numbers are divided by a size of each row's
own, which a small pack learns on folds of the validation rows.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tabular.pack.outputs import scores_of
from fastmlp.tabular.pack.pack import NONE, Pack, train_pack
from fastmlp.tabular.pack.pool import TableRows
from fastmlp.tabular.pack.rows import Fold
from fastmlp.tabular.pack.settings import PackSettings
from fastmlp.tabular.schema import Values
from fastmlp.validation import scalars

Array = NDArray[Any]
# Of fewer rows no sizes are learned: all are 1, and intervals have one width.
FEWEST_ROWS = 100
# The part of the mean absolute error below which errors are alike: their logarithms say little.
FLOOR = 0.1
# What interval scores of 12 tables are below those of one width, and the share of a pack's time:
# one net for each of two folds 11.2 % and 3.5 %, of five folds 12.3 % and 9 %, two nets 11.4 % and
# 11 %. Half of the rows to learn and half to calibrate on gains 2 points less; the members'
# standard deviation in the place of sizes gains 2.0 %.
SETTINGS = PackSettings(n_members=1, max_members=1, epochs=100, cv=3)


def learn_sizes(
    pack: Pack,
    rows: TableRows,
    *,
    seed: int,
    n_threads: int | None,
    folds: Sequence[Fold] | None = None,
) -> None:
    """Learn the size of each row's error from the rows that a pack of numbers was validated on.

    A row's size in the conformal step is learned from other folds; there is none of no folds.
    """
    errors = scores_of("regression", rows.y, pack.validated)
    if len(errors) < FEWEST_ROWS or not errors.any() or (folds is not None and not folds):
        return
    logarithms = np.log(np.hypot(errors, FLOOR * np.abs(errors).mean()))
    options: dict[str, Any] = {"task": "regression", "n_classes": 0, "settings": SETTINGS}
    options |= {"seed": seed, "n_threads": n_threads, "folds": folds}
    sizes = train_pack(rows._replace(y=logarithms), None, **options)
    pack.take_scores(errors / np.exp(sizes.validated), rows.weight)
    # Nobody asks for intervals of sizes.
    sizes.validated = sizes.residuals = sizes.row_weights = NONE
    pack.sizes = sizes


def calibrate(pack: Pack, rows: TableRows, predictions: Array) -> None:
    """Give a pack the scores of rows that it was not trained on, divided by its sizes."""
    scores = scores_of(pack.task, rows.y, predictions)
    if pack.sizes is not None:
        scores = scores / np.exp(pack.sizes.predict(rows.values))
    pack.take_scores(scores, rows.weight)


def bands(pack: Pack, values: Values, predictions: Array, scores: Array) -> NDArray[np.float64]:
    """The targets of rows at these scores, shape (n_rows, n_scores), within the targets' range.

    Parameters
    ----------
    predictions : (n_rows,) array
    scores : (n_scores,) array
    """
    sizes = np.ones(len(predictions))
    if pack.sizes is not None and len(sizes):
        sizes = np.exp(pack.sizes.predict(values))
    return np.clip(predictions[:, None] + sizes[:, None] * scores, *pack.outputs.bounds)


def ends(pack: Pack, coverage: float, who: str) -> Array:
    """The two scores between which that of a new row is with the probability `coverage`.

    As many rows are below the first as above the second. Where there are too few rows for that,
    the first is minus the second.

    Raises
    ------
    ValueError
        If coverage is not in (0, 1), or there are too few rows for it.
    """
    _check(coverage, f"{who}: coverage")
    level = (1 + coverage) / 2
    pair = np.array([pack.lower_score(1 - level), pack.upper_score(level)])
    if pack.signed and np.isfinite(pair).all():
        return pair
    half = _known(pack, pack.half_width, coverage, f"{who}: coverage")
    return np.array([-half, half])


def quantiles(pack: Pack, levels: Any, who: str) -> Array:
    """The scores below which that of a new row is with the probabilities `levels`.

    Raises
    ------
    ValueError
        If a level is not in (0, 1), there are too few rows for it, or scores have no signs.
    """
    if np.ndim(levels) != 1 or not len(levels):
        raise ValueError(f"{who}: quantiles must be a list of numbers in (0, 1), got {levels!r}")
    _check_file(pack, who)
    scores = []
    for level in levels:
        _check(level, f"{who}: each of quantiles")
        score = pack.lower_score if level < 0.5 else pack.upper_score
        scores.append(_known(pack, score, level, f"{who}: quantile"))
    return np.array(scores)


def least_probability(pack: Pack, coverage: float, who: str) -> float:
    """The least probability of a class in a set that has the true one with `coverage`.

    Raises
    ------
    ValueError
        If coverage is not in (0, 1), or there are too few rows for it.
    """
    _check(coverage, f"{who}: coverage")
    _check_file(pack, who)
    return 1 - _known(pack, pack.upper_score, coverage, f"{who}: coverage")


def _check_file(pack: Pack, who: str) -> None:
    if not pack.signed:
        raise ValueError(f"{who}: the model is from a file without scores of rows: fit it again")


def _check(value: Any, asked: str) -> None:
    if not scalars.is_positive(value) or value >= 1:
        raise ValueError(f"{asked} must be a number in (0, 1), got {value!r}")


def _known(pack: Pack, score: Callable[[float], float], level: float, asked: str) -> float:
    """A score at a level, or an error where there are too few rows for it."""
    if math.isfinite(result := score(level)):
        return result
    far, n = max(level, 1 - level), len(pack.residuals)
    needed = f"needs {math.ceil(far / (1 - far))} rows to validate on, there were {n}"
    advice = f"use cv=5, or a {asked.split()[-1]} nearer to 0.5"
    raise ValueError(f"{asked}={level} {needed}; {advice}")
