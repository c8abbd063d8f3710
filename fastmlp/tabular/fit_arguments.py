"""Checked arguments of a fit on a table: files, frames,
rows, targets and weights; held-out rows.

Held-out rows are equal shares of each class, or of each part of the numbers' range.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, StratifiedGroupKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from fastmlp.extend import arrays, form_of, messages, read_table, scalars
from fastmlp.tabular import dates
from fastmlp.tabular.in_memory import is_missing, is_rows, require, text_names
from fastmlp.tabular.pool import Fold, TableRows, drawn, validated
from fastmlp.tabular.schema import Schema
from fastmlp.typing import Array

# Bounds of targets, with their inverse: sums of squares are float64.
LARGEST_TARGET = 1e150


class FitArguments(NamedTuple):
    sample_weight: Any
    X_val: Any
    y_val: Any
    sample_weight_val: Any
    target: Any
    groups: Any
    callbacks: Any
    progress: Any
    checkpoint: Any = None
    checkpoint_every: Any = None
    resume: Any = False


def vector(y: Any, n_rows: int, who: str, name: str = "y") -> Array:
    """Targets as an array, shape (n_rows,)."""
    if y is None:
        door = "pass y, or the name of its column in X by target="
        raise ValueError(
            f"{who}: requires y to be passed, but the target y is None: {door}"
        )
    arrays.check_labels(y, who, name)
    values = array(y)
    if values.ndim == 2 and values.shape[1] > 1:
        several = "MultiOutput" + ("Classifier" if "Classifier" in who else "Regressor")
        advice = f"sklearn.multioutput.{several}(model) fits a model to each of them"
        raise ValueError(
            f"{who}: {name} has {values.shape[1]} columns, and a model predicts one: "
            f"{advice}"
        )
    targets = one_column(values, who, name)
    check_length(targets, n_rows, who, name)
    if (gaps := missing(targets)).any():
        without_them = "leave such rows out"
        if who.endswith(".fit"):
            without_them = "missing_targets='ignore' leaves such rows out"
        values_missing = messages.count(int(gaps.sum()), "missing value")
        raise ValueError(
            f"{who}: Input {name} contains NaN: {values_missing}, "
            f"the first in row {gaps.argmax()}; {without_them}"
        )
    _finite(targets, who, name)
    return targets


def known_targets(
    y: Any, who: str, name: str = "y"
) -> tuple[Any, NDArray[np.bool_] | None]:
    """y with a known target in each gap,
    and the mask of known targets; None: all are known.
    """
    if y is None:
        return y, None
    values = array(y)
    gaps = missing(values.ravel())
    if not gaps.any() or gaps.size != len(values):
        return y, None
    if gaps.all():
        raise ValueError(f"{who}: {name} has no known target")
    first = values.ravel()[gaps.argmin()]
    known: Array = np.array([first, *values.ravel()[~gaps]])[1:]
    filled = np.empty(len(values), known.dtype)
    filled[gaps] = first
    filled[~gaps] = known
    return filled, ~gaps


def of_known(weight: Any, known: NDArray[np.bool_] | None) -> Any:
    """Weights that are 0 where a target is not known; None stays None."""
    if known is None or weight is None or np.shape(weight) != known.shape:
        return weight
    return np.asarray(weight) * known


def one_column(values: Array, who: str, name: str) -> Array:
    """Values of one column as a vector; raises ValueError in scikit-learn's words."""
    if values.ndim != 1 and values.shape[1:] != (1,):
        shape = f"got an array of shape {values.shape} instead"
        raise ValueError(f"{who}: {name} should be a 1d array, {shape}")
    column: Array = column_or_1d(values, warn=name != "groups")
    return column


def check_length(values: Array, n_rows: int, who: str, name: str) -> None:
    if len(values) != n_rows:
        table = "X_val" if name == "y_val" else "X"
        lengths = f"[{n_rows}, {len(values)}], of {table} and {name}"
        raise ValueError(
            f"{who}: Found input variables with inconsistent numbers of samples: "
            f"{lengths}"
        )


def array(y: Any) -> Array:
    """Targets as an array of any shape, with missing values as None or NaN."""
    # NumPy reads a null of Arrow's dictionaries as their last value.
    if hasattr(getattr(y, "type", None), "index_type"):
        values = y.to_pylist()
    else:
        values = y
    targets = np.asarray(values)
    if targets.dtype.kind in "US" and not isinstance(values, np.ndarray):
        # NumPy turns NaN among texts of a list into the text "nan".
        objects = np.array(values, object)
        return objects if missing(objects.ravel()).any() else targets
    return targets


def missing(values: Array) -> NDArray[np.bool_]:
    """Mask of missing values, shape (n_rows,)."""
    if values.dtype.kind in "fmM":
        return values != values
    if values.dtype.kind != "O":
        return np.zeros(len(values), np.bool_)
    return np.array([is_missing(value) for value in values], np.bool_)


def numbers(y: Any, n_rows: int, who: str, name: str = "y") -> NDArray[np.float64]:
    """Targets as numbers; raises as `vector` does."""
    targets = vector(y, n_rows, who, name)
    moments = (*dates.DATES, dates.TIMES, *dates.DURATIONS)
    of_objects = targets.dtype.kind == "O" and any(
        isinstance(one, moments) for one in targets
    )
    if of_objects or targets.dtype.kind in "mM":
        kind = f"got {targets.dtype}{messages.of_kind(y, targets, name)}"
        raise TypeError(f"{who}: {name} must hold real numbers, {kind}")
    try:
        as_numbers = targets.astype(np.float64)
    except (TypeError, ValueError) as error:
        labels = "TabularMLPClassifier learns labels"
        raise ValueError(
            f"{who}: {name} must hold numbers: {error}; {labels}"
        ) from error
    _finite(as_numbers, who, name)
    most = float(np.abs(as_numbers).max(initial=0.0))
    if most > LARGEST_TARGET or 0 < most < 1 / LARGEST_TARGET:
        unit = f"divide them by {most:.0e}, and multiply predictions"
        raise ValueError(
            f"{who}: {name} has numbers up to {most:.2g}, too far for squares: {unit}"
        )
    return as_numbers


def classes_in(y: Any, n_rows: int, who: str) -> tuple[Array, NDArray[np.int64]]:
    """Sorted labels, and the index of each row's label, shape (n_rows,)."""
    labels = vector(y, n_rows, who)
    try:
        classes, places = np.unique(labels, return_inverse=True)
        check_classification_targets(labels)
    except TypeError as error:
        raise TypeError(
            f"{who}: labels of y must be of one type, to be sorted: {error}"
        ) from error
    except ValueError as error:
        hint = ""
        if "continuous" in str(error):
            hint = " TabularMLPRegressor learns numbers"
        raise ValueError(f"{who}: {error}{hint}") from error
    if len(classes) < 2:
        message = f"y holds one class only, {classes.tolist()[0]!r}"
        raise ValueError(f"{who}: {message}; a classifier needs two or more")
    return classes, places.astype(np.int64)


def places_of(
    y: Any, classes: Array, n_rows: int, who: str, name: str = "y_val"
) -> NDArray[np.int64]:
    """The index of each row's label among known labels, shape (n_rows,)."""
    labels = vector(y, n_rows, who, name)
    unknown = [
        repr(label) for label in np.unique(labels).tolist() if label not in classes
    ]
    if unknown:
        known = messages.listed(list(map(repr, classes.tolist())))
        of_fit = "y" if name == "y_val" else "the fit"
        lacks = f"{name} has labels that {of_fit} has not: {messages.listed(unknown)}"
        raise ValueError(f"{who}: {lacks}; {of_fit}: {known}")
    return np.searchsorted(classes, labels).astype(np.int64)


def weights(
    sample_weight: Any, n_rows: int, who: str, name: str = "sample_weight"
) -> Array | None:
    """Weights of rows, or None; the mean of those that are not 0 is 1."""
    if sample_weight is None:
        return None
    weight = _checked_weights(sample_weight, n_rows, who, name)
    if not weight.any():
        # scikit-learn 1.7 accepts weights of zeros.
        raise ValueError(f"{who}: {name} must have at least one non-zero number")
    return np.asarray(weight * (np.count_nonzero(weight) / weight.sum()))


def _checked_weights(sample_weight: Any, n_rows: int, who: str, name: str) -> Array:
    """Numbers of 0 or more, one for each row; 1 for None."""
    rows = np.empty((n_rows, 1))
    try:
        weight: Array = _check_sample_weight(sample_weight, rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{who}: {name}: {error}") from error
    negative = weight < 0
    if negative.any():
        row = int(negative.argmax())
        got = f"got {weight[row]:.4g} in row {row}"
        raise ValueError(f"{who}: {name} must be 0 or more, {got}")
    return weight


def class_weights(
    class_weight: Any,
    places: Array,
    classes: Array | None,
    sample_weight: Any,
    who: str,
    known: NDArray[np.bool_] | None = None,
) -> Array | None:
    """Weights of the classes, shape (n_classes,),
    for scikit-learn's `class_weight`, or None.

    `places` are the rows' class indices, shape (n_rows,).
    Rows of weight 0, or without a `known` target, are not counted.
    """
    if class_weight is None or classes is None:
        return None
    labels = classes.tolist()
    if not isinstance(class_weight, str):
        if unknown := [repr(key) for key in class_weight if key not in labels]:
            of_y = messages.listed(list(map(repr, labels)))
            message = f"class_weight has keys that are no labels of y: {messages.listed(unknown)}"
            raise ValueError(f"{who}: {message}; y: {of_y}")
        for key, value in class_weight.items():
            scalars.non_negative(who, f"class_weight[{key!r}]", value)
        return np.array([class_weight.get(label, 1.0) for label in labels], np.float64)
    weight = weights(sample_weight, len(places), who)
    counted = np.ones(len(places), np.bool_) if known is None else known
    there = places[counted if weight is None else counted & (weight != 0)]
    counts = np.bincount(there, minlength=len(labels))
    shares = np.maximum(counts, 1) * max(np.count_nonzero(counts), 1)
    return np.asarray(len(there) / shares)


def weighted(
    part: TableRows,
    sample_weight: Any,
    of_class: Any,
    who: str,
    name: str = "sample_weight",
    known: NDArray[np.bool_] | None = None,
) -> tuple[TableRows, NDArray[np.bool_]]:
    """Rows of `known` targets whose weight is not 0,
    with weights of `weights`, and their mask.

    `of_class`, shape (n_classes,), are factors for the rows of each class.
    """
    if of_class is not None:
        of_rows = _checked_weights(sample_weight, len(part.y), who, name)
        sample_weight = of_known(of_class[part.y] * of_rows, known)
    weight = weights(sample_weight, len(part.y), who, name)
    if weight is None:
        if known is not None:
            return part.take(np.flatnonzero(known)), known
        return part, np.ones(len(part.y), np.bool_)
    rows_with_weight = part._replace(weight=weight)
    kept = weight != 0
    return rows_with_weight if kept.all() else rows_with_weight.take(
        np.flatnonzero(kept)
    ), kept


def to_validate(
    arguments: FitArguments,
    schema: Schema,
    classes: Any,
    model: Any,
    of_class: Array | None,
    who: str,
) -> TableRows | None:
    """Rows that a fit is given to validate on,
    or None; `of_class` as for `weighted`.
    """
    cv = model.cv
    if arguments.X_val is None and arguments.y_val is None:
        return None
    if arguments.X_val is None or arguments.y_val is None:
        has, lacks = (
            ("y_val", "X_val") if arguments.X_val is None else ("X_val", "y_val")
        )
        raise ValueError(f"{who}: {has} is given, and {lacks} is not")
    if cv is not None:
        raise ValueError(f"{who}: cv={cv} needs no X_val: leave one of both out")
    if arguments.groups is not None:
        raise ValueError(f"{who}: groups are of rows held out of X, and X_val is given")
    values = schema.read(arguments.X_val, f"{who}: X_val")
    n = len(values.codes)
    if not n:
        raise ValueError(f"{who}: X_val has no rows")
    y, known = arguments.y_val, None
    if model.missing_targets == "ignore":
        y, known = known_targets(y, who, "y_val")
    of_kind = partial(places_of, classes=classes) if classes is not None else numbers
    y = of_kind(y, n_rows=n, who=who, name="y_val")
    weight = of_known(arguments.sample_weight_val, known)
    name = "sample_weight_val"
    return weighted(TableRows(values, y), weight, of_class, who, name, known)[0]


def _finite(targets: Array, who: str, name: str) -> None:
    """Raise ValueError in scikit-learn's words,
    with the first row, if a target is infinite.
    """
    if targets.dtype.kind == "f":
        infinite = np.isinf(targets)
    else:
        infinite = np.zeros(1, np.bool_)
    if infinite.any():
        n = messages.count(int(infinite.sum()), "infinite value")
        message = f"{n}, the first in row {infinite.argmax()}; leave such rows out"
        raise ValueError(f"{who}: Input {name} contains infinity: {message}")


def check_rows(X: Any, who: str, *, training: bool = False) -> None:
    """Raise in scikit-learn's words for arrays that are not tables of real numbers."""
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "c":
            raise ValueError(f"{who}: Complex data not supported")
        if X.ndim == 1:
            raise ValueError(
                f"{who}: Expected 2D array, got 1D array instead. Reshape your data "
                "either using X.reshape(-1, 1) if it is one column, or X.reshape(1, "
                "-1) if it is one row."
            )
        if X.ndim == 2 and not X.shape[1]:
            message = f"{who}: Found array with 0 feature(s) (shape={X.shape})"
            raise ValueError(f"{message} while a minimum of 1 is required.")
    if training and (getattr(X, "shape", None) or (0,))[0] == 1:
        raise ValueError(f"{who}: n_samples=1 is too few: a fit needs 2 rows or more")


def opened(
    X: Any,
    y: Any,
    arguments: FitArguments,
    who: str,
    seed: int,
    *,
    ignores_gaps: bool = False,
) -> tuple[Any, Any, FitArguments]:
    """Return a table in memory without the columns named in other arguments,
    y, and the arguments.

    With `arguments.target` X is a table that has it, or files; so is X_val without
    y_val. A sample of files that do not fit into memory is drawn by the seed.
    """
    target = arguments.target
    if isinstance(y, str):
        raise ValueError(
            f"{who}: y is a text: name the target's column by target={y!r}"
        )
    if target is not None:
        if not isinstance(target, str):
            raise TypeError(f"{who}: target must be a column's name, got {target!r}")
        if y is not None:
            raise ValueError(f"{who}: give y or target={target!r}, not both")
    named = {
        "y": target,
        "sample_weight": arguments.sample_weight,
        "groups": arguments.groups,
    }
    read: Any = partial(read_table, target=None) if ignores_gaps else read_table
    reading = partial(read, who=who, seed=seed, arrays=_arrays({**named, "y": y}))
    X, columns = _taken(X, named, reading)
    validated = {"sample_weight_val": arguments.sample_weight_val}
    if arguments.y_val is None:
        validated["y_val"] = target
    texts = text_names(X, who) if form_of(arguments.X_val) == "files" else ()
    arrays = _arrays({**validated, "y_val": arguments.y_val})
    reading = partial(
        read, who=f"{who}: X_val", seed=seed, verb="validated on", arrays=arrays
    )
    X_val, columns_val = _taken(arguments.X_val, validated, reading, texts)
    y = columns.pop("y", y)
    return X, y, arguments._replace(**columns, **columns_val, X_val=X_val)


def require_targets(y: Any, target: str | None, who: str) -> None:
    """Raise ValueError if a target of a named column is missing."""
    if target is None:
        values = np.empty(0)
    else:
        values = array(y)
    if values.ndim == 1 and (gaps := missing(values)).any():
        first = f"row {int(gaps.argmax())}"
        n = int(gaps.sum())
        lacking = messages.lacking(str(target), n, first, fits=True)
        raise ValueError(f"{who}: {lacking}")


def _arrays(values: dict[str, Any]) -> list[str]:
    """Names of the arguments that are arrays; texts are names of columns."""
    return [
        word
        for word, each in values.items()
        if each is not None and not isinstance(each, str)
    ]


def in_training_order(X: Any, columns: Sequence[str]) -> Any:
    """Rows that are mappings, each with all training columns;
    other tables are unchanged.

    A key that no row has is a missing value, like a key that some rows lack.
    """
    if is_rows(X) and any(name in row for row in X for name in columns):
        return [{**dict.fromkeys(columns), **X[0]}, *X[1:]]
    return X


def check_no_path(X: Any, who: str) -> None:
    if form_of(X) == "files":
        name = who.partition(".")[0]
        raise TypeError(
            f"{who}: X is a path: {name}.predict_batches reads files, and "
            "fastmlp.predict_parquet writes predictions beside columns of them"
        )


def _taken(
    X: Any, named: dict[str, Any], reading: partial[Any], texts: Sequence[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """A table without some columns, and these columns under the keys of `named`.

    Texts in `named` are names of columns; other values are ignored. `reading` is
    `read_table` with the caller's name and seed. `texts` are columns read as texts from
    CSV.
    """
    who = reading.keywords["who"]
    names = {word: name for word, name in named.items() if isinstance(name, str)}
    form = form_of(X)
    if X is None or not names:
        if form == "files":
            more = "" if "y" in named else ", and leave y_val out"
            raise ValueError(
                f"{who}: X is a path: name the target's column by target={more}"
            )
        return X, {}
    chosen = list(names.values())
    if is_rows(X):
        require(chosen, list(dict.fromkeys(key for row in X for key in row)), who)
        columns = {word: [row.get(name) for row in X] for word, name in names.items()}
        return [{k: v for k, v in row.items() if k not in chosen} for row in X], columns
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        require(chosen, list(map(str, X.columns)), who)
        return X.drop(columns=chosen), {word: X[name] for word, name in names.items()}
    arrow = messages.imported("pyarrow", who)
    if isinstance(X, arrow.Table):
        table = X
    elif type(X).__module__.startswith("polars") and form != "lazy":
        table = arrow.table(X)
    elif form in ("series", "other"):
        raise TypeError(
            f"{who}: target= goes with files and tables; got {type(X).__name__}"
        )
    else:
        of_targets: dict[str, Any] = {"target": names.get("y", names.get("y_val"))}
        # `reading` has None already for targets that may be missing.
        of_targets |= reading.keywords
        table = partial(reading.func, others=chosen, texts=texts)(X, **of_targets)
    require(chosen, table.column_names, who)
    columns = {word: table.column(name) for word, name in names.items()}
    return table.drop_columns(chosen), columns


# Tables with fewer rows use folds, this many.
ROWS_FOR_FOLDS, FOLDS_OF_FEW = 1000, 5


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
    whole: TableRows, rows: RowsToSplit, cv: Any, fraction: float, seed: int, who: str
) -> Divided:
    """Divide rows into folds or, without folds, hold a fraction of the rows out."""
    n_folds = FOLDS_OF_FEW if len(whole.y) < ROWS_FOR_FOLDS else None
    pairs = folds(cv, n_folds, rows, seed, who)
    if pairs is not None:
        tested = validated(pairs)
        if len(tested) == len(whole.y):
            held_rows = whole
        else:
            held_rows = whole.take(tested)
        groups = None if rows.groups is None else rows.groups[tested]
        return Divided(whole, held_rows, pairs, groups)
    if rows.groups is None:
        generator = np.random.default_rng(seed)
        mask = held_out(whole.y, fraction, generator, classes=rows.classes)
    else:
        mask = held_out_groups(rows.groups, fraction, seed)
    groups = None if rows.groups is None else rows.groups[mask]
    training = whole.take(np.flatnonzero(~mask))
    held_rows = whole.take(np.flatnonzero(mask))
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
        raise TypeError(
            f"{who}: groups must be of one type, to be sorted: {error}"
        ) from error
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
        if rows.groups is None:
            groups = np.arange(len(rows.y))
        else:
            groups = rows.groups
        if any(np.isin(groups[first], groups[second]).any() for first, second in pairs):
            raise ValueError(
                f"{who}: cv has a fold that trains and validates on rows of one of "
                "groups: use sklearn.model_selection.GroupKFold, or leave groups out"
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
        raise ValueError(
            f"{who}: cv={n_folds} folds of {n_groups} groups: there are too few"
        )
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
        raise ValueError(
            f"{who}: cv must have rows to train on and to validate on in each fold"
        )
    if any(np.isin(first, second).any() for first, second in checked):
        raise ValueError(
            f"{who}: cv has a fold that trains and validates on the same row"
        )
    if np.bincount(np.concatenate([second for _, second in checked])).max() > 1:
        raise ValueError(
            f"{who}: cv validates on a row in two folds; each row counts once"
        )
    return checked


def _kept(places: Array, part: Any, who: str) -> Array:
    """Indices of rows among the kept rows."""
    if len(part):
        part = np.asarray(part)
    else:
        part = np.empty(0, np.int64)
    if part.dtype == np.bool_ and part.shape == places.shape:
        part = np.flatnonzero(part)
    if part.dtype.kind not in "iu" or part.ndim != 1:
        raise TypeError(
            f"{who}: cv must be a number, a splitter or pairs of places of rows"
        )
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

    Rows sorted by target, equal ones at random, are cut into groups of about equal
    size, and each group gives one row. A class with one row keeps it in training.

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
