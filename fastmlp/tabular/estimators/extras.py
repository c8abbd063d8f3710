"""Further members of an ensemble: estimators of scikit-learn's, on the columns as numbers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from fastmlp.tabular.pack import TableRows
from fastmlp.tabular.pack.rows import Fold, validated
from fastmlp.tabular.schema import Values

Array = NDArray[Any]


class Extra(NamedTuple):
    """A fitted estimator, its name, its predictions of the rows to validate on, and the seconds
    of all that, of its fits to other folds too."""

    name: str
    estimator: Any
    predictions: Array
    seconds: float


def matrix(values: Values) -> Array:
    """Return a table as numbers, shape (n_rows, n_columns): NaN where a value is missing.

    The numbers come first, then the places of categories among their levels.
    """
    codes = np.where(values.codes < 0, np.nan, values.codes)
    return np.concatenate([values.numbers, codes], axis=1)


def named(
    members: Sequence[Any] | None, who: str, signs: Sequence[int] = (), values: Values | None = None
) -> list[tuple[str, Any]]:
    """Estimators with names: their own, or those of their classes.

    With constraints of the columns of numbers they are clones that have them.

    Raises
    ------
    TypeError
        If one is no estimator.
    ValueError
        If two have one name, or one does not take the constraints.
    """
    pairs = []
    for member in members or ():
        name, estimator = member if isinstance(member, tuple) else (type(member).__name__, member)
        if (
            not hasattr(estimator, "fit")
            or not isinstance(name, str)
            or isinstance(estimator, type)
        ):
            expected = "estimators, or pairs of a name and an estimator"
            raise TypeError(f"{who}: extra_members must be {expected}, got {member!r}")
        if signs and values is not None:
            if "monotonic_cst" not in estimator.get_params():
                raise ValueError(
                    f"{who}: monotonic_cst is for all members, and {name} does not take it; "
                    "scikit-learn's HistGradientBoosting does"
                )
            constraints = [*signs, *[0] * values.codes.shape[1]]
            estimator = clone(estimator).set_params(monotonic_cst=constraints)
        pairs.append((name, estimator))
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        listed = ", ".join(map(repr, names))
        raise ValueError(f"{who}: extra_members must have names that differ, got {listed}")
    return pairs


def fitted(
    members: Sequence[tuple[str, Any]],
    training: TableRows,
    validation: TableRows | None,
    *,
    n_classes: int,
    folds: Sequence[Fold] = (),
) -> list[Extra]:
    """Return fitted clones of estimators, and their predictions of the rows to validate on.

    Without such rows each is fitted once for each fold, for the predictions of the fold's rows,
    and then to all rows.
    """
    extras = []
    for name, estimator in members:
        start = time.perf_counter()
        model = fit(estimator, training)
        if validation is not None:
            predictions = answers(model, validation.values, n_classes)
        else:
            predictions = _out_of_folds(estimator, training, n_classes, folds)
        extras.append(Extra(name, model, predictions, time.perf_counter() - start))
    return extras


def begun(fit: Callable[[], list[Extra]], *, in_turn: bool) -> Callable[[], list[Extra]]:
    """Fit now, or begin to on a thread of its own; return a function that waits for the result."""
    if in_turn:
        result = fit()
        return lambda: result
    executor = ThreadPoolExecutor(1)
    future = executor.submit(fit)
    executor.shutdown(wait=False)
    return future.result


def answers(model: Any, values: Values, n_classes: int) -> Array:
    """Return numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes)."""
    X = matrix(values)
    if not n_classes:
        return np.asarray(model.predict(X), np.float64).reshape(len(X))
    probabilities = np.zeros((len(X), n_classes))
    if len(X):
        probabilities[:, model.classes_] = model.predict_proba(X)
    return probabilities


def fit(estimator: Any, part: TableRows) -> Any:
    """A clone of an estimator, fitted to rows."""
    more = {} if part.weight is None else {"sample_weight": part.weight}
    if more and not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(f"extra_members: {type(estimator).__name__} takes no sample_weight")
    return clone(estimator).fit(matrix(part.values), part.y, **more)


def _out_of_folds(estimator: Any, part: TableRows, n_classes: int, folds: Sequence[Fold]) -> Array:
    rows = validated(folds)
    predictions = np.empty((len(rows), n_classes) if n_classes else len(rows))
    for first, second in folds:
        model = fit(estimator, part.take(first))
        predictions[np.searchsorted(rows, second)] = answers(
            model, part.take(second).values, n_classes
        )
    return predictions
