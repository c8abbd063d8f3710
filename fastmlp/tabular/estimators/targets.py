"""Rows, targets and weights as they are given, checked: numbers, or places of classes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d

from fastmlp import validation
from fastmlp.tabular.pack import Part
from fastmlp.tabular.schema import Schema, dates
from fastmlp.validation import hints, scalars
from fastmlp.validation.frames import MISSING_TYPES
from fastmlp.validation.suggestions import count, listed

Array = NDArray[Any]


class Given(NamedTuple):
    """What a fit is given beside X, y and the parameters."""

    sample_weight: Any
    X_val: Any
    y_val: Any
    sample_weight_val: Any
    target: Any
    groups: Any
    callbacks: Any
    progress: Any


def vector(y: Any, n_rows: int, who: str, name: str = "y") -> Array:
    """Return targets as an array, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        If they are no vector of so many, or some are missing or not finite.
    """
    if y is None:
        raise ValueError(f"{who}: requires y to be passed, but the target y is None")
    validation.unmasked(y, who, name)
    found: Array = column_or_1d(array(y), warn=True)
    if len(found) != n_rows:
        check_consistent_length(np.empty(n_rows), found)
    _no_nan(missing(found), who, name)
    if found.dtype.kind == "f":
        assert_all_finite(found, input_name=name)
    return found


def array(y: Any) -> Array:
    """Return targets as an array of any shape, in which missing values are seen as such."""
    # NumPy takes a null of Arrow's dictionaries for their last value.
    values = y.to_pylist() if hasattr(getattr(y, "type", None), "index_type") else y
    found = np.asarray(values)
    if found.dtype.kind in "US" and not isinstance(values, np.ndarray):
        # Of a list of texts and NaN it makes the text "nan".
        each = np.array(values, object)
        return each if missing(each.ravel()).any() else found
    return found


def missing(values: Array) -> NDArray[np.bool_]:
    """Return True for each missing value, shape (n_rows,)."""
    if values.dtype.kind in "fmM":
        return values != values
    if values.dtype.kind != "O":
        return np.zeros(len(values), np.bool_)
    return np.array([_is_missing(value) for value in values], np.bool_)


def numbers(y: Any, n_rows: int, who: str, name: str = "y") -> NDArray[np.float64]:
    """Return targets as numbers; raises as `vector` does."""
    found = vector(y, n_rows, who, name)
    if found.dtype.kind in "mM" or (found.dtype.kind == "O" and _are_dates(found)):
        told = f"got {found.dtype}{hints.of_kind(y, found, name)}"
        raise TypeError(f"{who}: {name} must hold real numbers, {told}")
    try:
        as_numbers = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: {name} must hold numbers: {error}") from error
    assert_all_finite(as_numbers, input_name=name)
    return as_numbers


def _are_dates(values: Array) -> bool:
    return any(isinstance(value, (*dates.DATES, dates.TIMES, *dates.DURATIONS)) for value in values)


def classes_in(y: Any, n_rows: int, who: str) -> tuple[Array, NDArray[np.int64]]:
    """Return the labels, sorted, and the place of each row's, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        As `vector` does, or if the targets are no labels, or of one class only.
    """
    found = vector(y, n_rows, who)
    try:
        classes, places = np.unique(found, return_inverse=True)
        check_classification_targets(found)
    except TypeError as error:
        raise TypeError(f"{who}: labels of y must be of one type, to be sorted: {error}") from error
    if len(classes) < 2:
        told = f"y holds one class only, {classes.tolist()[0]!r}"
        raise ValueError(f"{who}: {told}; a classifier needs two or more")
    return classes, places.astype(np.int64)


def places_of(y: Any, classes: Array, n_rows: int, who: str) -> NDArray[np.int64]:
    """Return the place of each row's label among known ones, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        As `vector` does, or if a label is unknown.
    """
    found = vector(y, n_rows, who, "y_val")
    unknown = [repr(one) for one in np.unique(found).tolist() if one not in classes]
    if unknown:
        known = listed(list(map(repr, classes.tolist())))
        raise ValueError(f"{who}: y_val has labels that y has not: {listed(unknown)}; y: {known}")
    return np.searchsorted(classes, found).astype(np.int64)


def weights(given: Any, n_rows: int, who: str) -> Array | None:
    """Return weights of rows, or None; the mean of those that are not 0 is 1.

    Raises
    ------
    TypeError, ValueError
        If they are not numbers of 0 or more, one for each row, or all are 0.
    """
    if given is None:
        return None
    rows = np.empty((n_rows, 1))
    found = _check_sample_weight(given, rows, dtype=np.float64, ensure_non_negative=True)
    if not found.any():
        # scikit-learn 1.7 says nothing of zeros.
        raise ValueError(f"{who}: sample_weight must have at least one non-zero number")
    return np.asarray(found * (np.count_nonzero(found) / found.sum()))


def class_weights(given: Any, places: Array, classes: Array, sample_weight: Any, who: str) -> Array:
    """Return the weight of each class, shape (n_classes,); see scikit-learn's `class_weight`.

    Parameters
    ----------
    given : "balanced", or mapping of labels to numbers
    places : (n_rows,) array, each row's place among the classes
    sample_weight : (n_rows,) array, or None; rows of weight 0 are not counted

    Raises
    ------
    TypeError, ValueError
        If a key is no label, or a number is below 0.
    """
    labels = classes.tolist()
    if not isinstance(given, str):
        if unknown := [repr(key) for key in given if key not in labels]:
            known = listed(list(map(repr, labels)))
            told = f"class_weight has keys that are no labels of y: {listed(unknown)}"
            raise ValueError(f"{who}: {told}; y: {known}")
        for key, value in given.items():
            scalars.non_negative(who, f"class_weight[{key!r}]", value)
        return np.array([given.get(label, 1.0) for label in labels], np.float64)
    weight = weights(sample_weight, len(places), who)
    there = places if weight is None else places[weight != 0]
    counts = np.bincount(there, minlength=len(labels))
    shares = np.maximum(counts, 1) * max(np.count_nonzero(counts), 1)
    return np.asarray(len(there) / shares)


def weighted(
    part: Part, sample_weight: Any, who: str, of_class: Array | None = None
) -> tuple[Part, NDArray[np.bool_]]:
    """Return rows with weights, as `weights` has them, and which rows they are, a mask: those whose
    weight is 0 are left out.

    `of_class` has the weight of each class, shape (n_classes,), which those of its rows multiply.
    """
    if of_class is not None:
        rows = np.empty((len(part.y), 1))
        of_rows = _check_sample_weight(sample_weight, rows, dtype=np.float64)
        sample_weight = of_class[part.y] * of_rows
    weight = weights(sample_weight, len(part.y), who)
    if weight is None:
        return part, np.ones(len(part.y), np.bool_)
    found, kept = part._replace(weight=weight), weight != 0
    return found if kept.all() else found.take(np.flatnonzero(kept)), kept


def to_validate(
    given: Given,
    schema: Schema,
    classes: Array | None,
    cv: Any,
    who: str,
    of_class: Array | None = None,
) -> Part | None:
    """Return the rows that a fit is given to validate on, or None; `of_class` as for `weighted`.

    Raises
    ------
    TypeError, ValueError
        As `vector` and `weights` do, if there are no rows, only one of `X_val` and `y_val` is
        given, or there are folds to validate on.
    """
    if given.X_val is None and given.y_val is None:
        return None
    if given.X_val is None or given.y_val is None:
        has, lacks = ("y_val", "X_val") if given.X_val is None else ("X_val", "y_val")
        raise ValueError(f"{who}: {has} is given, and {lacks} is not")
    if cv is not None:
        raise ValueError(f"{who}: cv={cv} needs no X_val: leave one of both out")
    if given.groups is not None:
        raise ValueError(f"{who}: groups are of rows held out of X, and X_val is given")
    values = schema.read(given.X_val, f"{who}: X_val")
    n = len(values.codes)
    if not n:
        raise ValueError(f"{who}: X_val has no rows")
    y: Array
    if classes is None:
        y = numbers(given.y_val, n, who, "y_val")
    else:
        y = places_of(given.y_val, classes, n, who)
    return weighted(Part(values, y), given.sample_weight_val, who, of_class)[0]


def _no_nan(missing: NDArray[np.bool_], who: str, name: str) -> None:
    if missing.any():
        told = f"{count(int(missing.sum()), 'missing value')}, the first in row {missing.argmax()}"
        raise ValueError(f"{who}: Input {name} contains NaN: {told}; leave such rows out")


def _is_missing(value: Any) -> bool:
    named = value is None or type(value).__name__ in MISSING_TYPES
    return named or (isinstance(value, float) and value != value)


def check_rows(X: Any, *, training: bool = False) -> None:
    """Raise for arrays that are no tables of real numbers, in scikit-learn's words.

    Raises
    ------
    ValueError
        If X is a vector, complex or without columns or, in training, has one row.
    """
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "c":
            raise ValueError("Complex data not supported")
        if X.ndim == 1:
            raise ValueError(
                "Expected 2D array, got 1D array instead. Reshape your data either using "
                "X.reshape(-1, 1) if it is one column, or X.reshape(1, -1) if it is one row."
            )
        if X.ndim == 2 and not X.shape[1]:
            told = f"Found array with 0 feature(s) (shape={X.shape})"
            raise ValueError(f"{told} while a minimum of 1 is required.")
    if training and (getattr(X, "shape", None) or (0,))[0] == 1:
        raise ValueError("n_samples=1 is too few: a fit needs 2 rows or more")
