"""Further members of an ensemble: estimators on the columns as numbers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from fastmlp.tabular.boosted_trees import RATE, BoostedTrees
from fastmlp.tabular.pool import Fold, TableRows, validated
from fastmlp.tabular.schema import Values
from fastmlp.typing import Array


class Extra(NamedTuple):
    """Name, fitted estimator, predictions of validation rows,
    and seconds including folds.
    """

    name: str
    estimator: Any
    predictions: Array
    seconds: float


def matrix(values: Values) -> Array:
    """A table as numbers, shape (n_rows, n_columns): NaN where a value is missing.

    Numbers come first, then the level indices of categories.
    """
    codes = np.where(values.codes < 0, np.nan, values.codes)
    return np.concatenate([values.numbers, codes], axis=1)


def named(
    members: Sequence[Any], who: str, signs: Sequence[int] = (), n_categories: int = 0
) -> list[tuple[str, Any]]:
    """Estimators with given names, or names of their classes.

    With constraints of the columns of numbers they are constrained clones.
    """
    pairs = []
    for member in members:
        name, estimator = (
            member if isinstance(member, tuple) else (type(member).__name__, member)
        )
        is_estimator = hasattr(estimator, "fit") and not isinstance(estimator, type)
        if not is_estimator or not isinstance(name, str):
            expected = "estimators, or pairs of a name and an estimator"
            raise TypeError(f"{who}: extra_members must be {expected}, got {member!r}")
        if signs:
            if "monotonic_cst" not in estimator.get_params():
                raise ValueError(
                    f"{who}: monotonic_cst is for all members, and {name} does not "
                    "take it; scikit-learn's HistGradientBoosting does"
                )
            constraints = [*signs, *[0] * n_categories]
            estimator = clone(estimator).set_params(monotonic_cst=constraints)
        pairs.append((name, estimator))
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        listed = ", ".join(map(repr, names))
        raise ValueError(
            f"{who}: extra_members must have names that differ, got {listed}"
        )
    return pairs


def fitted(
    members: Sequence[tuple[str, Any]],
    training: TableRows,
    validation: TableRows | None,
    *,
    n_classes: int,
    folds: Sequence[Fold] = (),
) -> list[Extra]:
    """Fit clones of estimators, and predict the validation rows with each.

    Without validation rows, a fit for each fold leaves out the fold's rows and predicts
    them; the last fit takes all rows.
    """
    extras = []
    for name, estimator in members:
        start = time.perf_counter()
        if validation is not None:
            model = fit(estimator, training, validation)
            predictions = answers(model, validation.values, n_classes)
        else:
            for_all_rows, predictions = _out_of_folds(
                estimator, training, n_classes, folds
            )
            model = fit(for_all_rows, training)
        extras.append(Extra(name, model, predictions, time.perf_counter() - start))
    return extras


def start(
    fit: Callable[[], list[Extra]], *, in_turn: bool
) -> Callable[[], list[Extra]]:
    """Fit now, or begin on another thread;
    return a function that waits for the result.
    """
    if not in_turn:
        executor = ThreadPoolExecutor(1)
        with suppress(RuntimeError):  # out of threads, or at the interpreter's end
            future = executor.submit(fit)
            executor.shutdown(wait=False)
            return future.result
    result = fit()
    return lambda: result


def answers(model: Any, values: Values, n_classes: int) -> Array:
    """Numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes)."""
    X = matrix(values)
    if not n_classes:
        return np.asarray(model.predict(X), np.float64).reshape(len(X))
    probabilities = np.zeros((len(X), n_classes))
    if len(X):
        probabilities[:, model.classes_] = model.predict_proba(X)
    return probabilities


def fit(estimator: Any, part: TableRows, validation: TableRows | None = None) -> Any:
    """A clone of an estimator, fitted to rows;
    validation rows end the growth of trees.
    """
    if part.weight is None:
        more = {}
    else:
        more = {"sample_weight": part.weight}
    if more and not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(
            f"extra_members: {type(estimator).__name__} takes no sample_weight"
        )
    # scikit-learn rejects classes that training lacks.
    if (
        isinstance(estimator, BoostedTrees)
        and validation is not None
        and (not estimator.classes or np.isin(validation.y, part.y).all())
    ):
        more |= {"X_val": matrix(validation.values), "y_val": validation.y}
        if part.weight is not None:
            n = len(validation.y)
            if validation.weight is None:
                weight = np.ones(n)
            else:
                weight = validation.weight
            more["sample_weight_val"] = weight
    return clone(estimator).fit(matrix(part.values), part.y, **more)


def _out_of_folds(
    estimator: Any, part: TableRows, n_classes: int, folds: Sequence[Fold]
) -> tuple[Any, Array]:
    """The estimator for all rows, and predictions of the rows that folds validate on.

    Trees go on with the last fold's rate, the least. Their number of rounds is the
    folds' mean, where rounds of another rate count by their rate.
    """
    rows = validated(folds)
    growth = list[float]()
    predictions = np.empty((len(rows), n_classes) if n_classes else len(rows))
    for first, second in folds:
        held_out = part.take(second)
        model = fit(estimator, part.take(first), held_out)
        predictions[np.searchsorted(rows, second)] = answers(
            model, held_out.values, n_classes
        )
        if isinstance(model, BoostedTrees):
            growth.append((model.rounds or 1) * (model.rate or RATE))
            estimator = clone(estimator).set_params(rate=model.rate)
    if isinstance(estimator, BoostedTrees):
        rounds = max(round(float(np.mean(growth)) / (estimator.rate or RATE)), 1)
        estimator = clone(estimator).set_params(rounds=rounds)
    return estimator, predictions
