"""Held-out rows of a table: equal shares of each class, or of each part of the numbers' range."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, StratifiedGroupKFold

from fastmlp.tabular.fit_arguments import check_length, missing, one_column
from fastmlp.tabular.pool import Fold, TableRows, drawn, validated

Array = NDArray[Any]


class RowsToSplit(NamedTuple):
    """Rows of a table to divide.

    Attributes
    ----------
    y : (n_rows,) array, numbers or class indices
    classes : bool, True for class indices
    groups : (n_rows,) array, or None
    kept : (n_given,) array of bool, mask of these rows in the table
    """

    y: Array
    classes: bool
    groups: Array | None
    kept: Array


class Divided(NamedTuple):
    """Training and validation rows, and groups of the latter as integers, or None.

    With folds the training rows include the validation rows.
    """

    training: TableRows
    held_out: TableRows
    folds: list[Fold] | None
    groups: Array | None = None


def divided(
    whole: TableRows,
    rows: RowsToSplit,
    cv: Any,
    n_folds: int | None,
    fraction: float,
    seed: int,
    who: str,
) -> Divided:
    """Divide rows into folds or, without folds, hold a fraction of the rows out."""
    pairs = folds(cv, n_folds, rows, seed, who)
    if pairs is not None:
        tested = validated(pairs)
        held_rows = whole if len(tested) == len(whole.y) else whole.take(tested)
        groups = None if rows.groups is None else rows.groups[tested]
        return Divided(whole, held_rows, pairs, groups)
    if rows.groups is None:
        generator = np.random.default_rng(seed)
        mask = held_out(whole.y, fraction, generator, classes=rows.classes)
    else:
        mask = held_out_groups(rows.groups, fraction, seed)
    groups = None if rows.groups is None else rows.groups[mask]
    training, held_rows = whole.take(np.flatnonzero(~mask)), whole.take(np.flatnonzero(mask))
    return Divided(training, held_rows, None, groups)


def groups_of(groups: Any, kept: NDArray[np.bool_], who: str) -> Array | None:
    """Groups of the rows of a mask as integers, shape (n_kept,), or None."""
    if groups is None:
        return None
    labels = one_column(np.asarray(groups), who, "groups")
    check_length(labels, len(kept), who, "groups")
    if (gaps := missing(labels)).any():
        raise ValueError(f"{who}: groups has a missing value in row {gaps.argmax()}")
    try:
        numbers = np.unique(labels[kept], return_inverse=True)[1]
    except TypeError as error:
        raise TypeError(f"{who}: groups must be of one type, to be sorted: {error}") from error
    if not numbers.any():
        raise ValueError(f"{who}: groups holds one group only; two or more are needed")
    return numbers


def folds(
    cv: Any, n_folds: int | None, rows: RowsToSplit, seed: int, who: str
) -> list[Fold] | None:
    """Row indices to train on and to validate on in each fold, or None.

    Parameters
    ----------
    cv : int, splitter, iterable of pairs or None, as of the estimators
    n_folds : int, the number of folds where `cv` is None; None: no folds
    """
    if cv is not None and not isinstance(cv, int | np.integer):
        pairs = _given(cv, rows, who)
        groups = np.arange(len(rows.y)) if rows.groups is None else rows.groups
        if any(np.isin(groups[first], groups[second]).any() for first, second in pairs):
            raise ValueError(
                f"{who}: cv has a fold that trains and validates on rows of one of groups: use "
                "sklearn.model_selection.GroupKFold, or leave groups out"
            )
        return pairs
    n_folds = n_folds if cv is None else int(cv)
    if n_folds is None:
        return None
    if rows.groups is None:
        return drawn(rows.y, n_folds, seed)
    n_groups = int(rows.groups.max()) + 1
    if cv is None:
        n_folds = min(n_folds, n_groups)
    # With fewer rows of a class than folds scikit-learn warns or raises.
    stratified = rows.classes and np.bincount(rows.y).min() >= n_folds
    kind = StratifiedGroupKFold if stratified else GroupKFold
    if n_folds > n_groups:
        raise ValueError(f"{who}: cv={n_folds} folds of {n_groups} groups: there are too few")
    return list(kind(n_folds).split(rows.y, rows.y, rows.groups))


def folds_apart(groups: Array | None, n_folds: int) -> list[Fold] | None:
    """At most n folds with each group in one; [] for one group, None without groups."""
    if groups is None:
        return None
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        return []
    return list(GroupKFold(min(n_folds, n_groups)).split(groups, groups=groups))


def _given(cv: Any, rows: RowsToSplit, who: str) -> list[Fold]:
    """Checked folds of a splitter, or of pairs; no row is validated on twice."""
    if hasattr(cv, "split"):
        pairs = list(cv.split(np.empty((len(rows.y), 1)), rows.y, rows.groups))
    else:
        places = np.where(rows.kept, np.cumsum(rows.kept) - 1, -1)
        pairs = [[_kept(places, part, who) for part in pair] for pair in cv]
    checked = [(np.asarray(first), np.asarray(second)) for first, second in pairs]
    if not checked or any(not len(part) for fold in checked for part in fold):
        raise ValueError(f"{who}: cv must have rows to train on and to validate on in each fold")
    if any(np.isin(first, second).any() for first, second in checked):
        raise ValueError(f"{who}: cv has a fold that trains and validates on the same row")
    if np.bincount(np.concatenate([second for _, second in checked])).max() > 1:
        raise ValueError(f"{who}: cv validates on a row in two folds; each row counts once")
    return checked


def _kept(places: Array, part: Any, who: str) -> Array:
    """Indices of rows among the kept rows."""
    part = np.asarray(part) if len(part) else np.empty(0, np.int64)
    if part.dtype == np.bool_ and part.shape == places.shape:
        part = np.flatnonzero(part)
    if part.dtype.kind not in "iu" or part.ndim != 1:
        raise TypeError(f"{who}: cv must be a number, a splitter or pairs of places of rows")
    if part.size and not (-len(places) <= part.min() and part.max() < len(places)):
        raise ValueError(f"{who}: cv has places beyond the {len(places)} rows")
    places_kept = places[part]
    return places_kept[places_kept >= 0]


def held_out_groups(groups: Array, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mask of the held-out rows, shape (n_rows,): a fraction of the groups."""
    split = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
    mask = np.zeros(len(groups), np.bool_)
    mask[next(split.split(groups, groups=groups))[1]] = True
    return mask


def held_out(
    y: Array, fraction: float, generator: np.random.Generator, *, classes: bool
) -> NDArray[np.bool_]:
    """Mask of the held-out rows, shape (n_rows,): at least one, and not all.

    Rows sorted by target, equal ones at random, are cut into groups of about equal size, and each
    group gives one row. A class with one row keeps it in training.

    Examples
    --------
    >>> y = np.array([0] * 8 + [1] * 4 + [2])
    >>> mask = held_out(y, 0.25, np.random.default_rng(0), classes=True)
    >>> np.bincount(y[mask]).tolist()
    [2, 1]
    """
    n = len(y)
    shuffled = generator.permutation(n)
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    n_out = min(max(round(n * fraction), 1), n - 1)
    edges = np.arange(n_out + 1) * n // n_out
    mask = np.zeros(n, np.bool_)
    mask[order[generator.integers(edges[:-1], edges[1:])]] = True
    if classes:
        mask &= np.bincount(y)[y] > 1
    if not mask.any():
        mask[order[n // 2]] = True
    return mask
