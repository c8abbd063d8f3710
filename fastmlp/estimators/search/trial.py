"""Trials: scikit-learn's `_fit_and_score`, with work that all trials share done once.

Its checks of X and y, its copies of the fold's rows, its encoding of labels and its score took 5 of
the 21 ms of a fit of 64-64-10 on digits, all of it under the GIL.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Number
from traceback import format_exc
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.metrics._scorer import _PassthroughScorer
from sklearn.model_selection._validation import _fit_and_score, _score
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import validate_data

from fastmlp._process.memory import FreeList
from fastmlp._process.task_pool import check
from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor
from fastmlp.estimators.mlp.fitting.rows import derive_form

Array = NDArray[Any]
Key = tuple[Any, ...]
# Calls: functions, their arguments, and those that have names.
Items = Sequence[tuple[Any, Any, dict[str, Any]]]
PLAIN = (MLPClassifier, MLPRegressor)
# The most rows that are copied at a time for scoring.
AT_ONCE = 4096
# The arguments of `_fit_and_score` that a trial implements; scikit-learn runs calls with others.
KNOWN = {
    "scorer", "train", "test", "verbose", "parameters", "fit_params", "score_params",
    "return_train_score", "return_parameters", "return_n_test_samples", "return_times",
    "return_estimator", "split_progress", "candidate_progress", "error_score", "caller",
    "callback_ctx",
}  # fmt: skip


class Fold(NamedTuple):
    """Rows to train on and rows to score on, of data that all trials share.

    Attributes
    ----------
    X : (n_samples, n_features) array, checked
    y : (n_samples, n_outputs) array, binarized; valid in the rows of `train`
    train, test : int64, row indices
    form : the attributes that the data define in an estimator
    targets : the binarized targets of the rows of `test`; None if they have unknown labels
    """

    X: Array
    y: Array
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    form: dict[str, Any]
    targets: Array | None


class Trials:
    """The shared state of a search's trials: checked data, folds, checked candidates, buffers."""

    def __init__(self) -> None:
        self._lock, self._made = threading.Lock(), dict[Any, Any]()
        self._idle = FreeList()

    def of(self, calls: Any) -> Callable[[], list[Any]]:
        """Return a function that runs a batch of joblib's calls, as trials where possible."""
        items = getattr(calls, "items", ())
        return self.task(items) if are_fits(items) else calls

    def task(self, items: Items) -> Callable[[], list[Any]]:
        """Return a function that runs calls of `_fit_and_score`, as trials where possible."""
        return partial(self._do_all, items)

    def __reduce__(self) -> Any:
        """A copy in another process shares nothing yet."""
        return Trials, ()

    def _do_all(self, items: Items) -> list[Any]:
        return [self._do(*item) for item in items]

    def _do(self, call: Any, arguments: Any, named: dict[str, Any]) -> Any:
        estimator, X, y = arguments
        if is_plain(estimator, X, y, named):
            with config_context(**getattr(call, "config", {})):
                fold = self._fold(estimator, X, y, named["train"], named["test"])
                if fold is not None:
                    return self._try(fold, estimator, X, y, **named)
        return call(*arguments, **named)

    def _try(
        self, fold: Fold, estimator: Any, X: Any, y: Any, parameters: Any, **named: Any
    ) -> dict[str, Any]:
        """Return the result that `_fit_and_score` would return."""
        check()
        estimator.set_params(**clone(parameters or {}, safe=False))
        begin = time.perf_counter()
        try:
            if not get_config()["skip_parameter_validation"]:
                self._once(("sound", id(parameters)), parameters, estimator._validate_params)
            estimator._fit_part(fold.X, fold.y, fold.train, fold.form)
        except Exception:
            if named["error_score"] == "raise":
                raise
            result = failed(named, format_exc())
            middle = end = time.perf_counter()
        else:
            middle = time.perf_counter()
            estimator._cache.buffers = self._idle
            result = {"fit_error": None, "test_scores": scores(fold, estimator, X, y, **named)}
            end = time.perf_counter()
            if named.get("return_train_score"):
                others = fold._replace(test=fold.train, targets=fold.y[fold.train])
                named["test"] = named["train"]
                result["train_scores"] = scores(others, estimator, X, y, **named)
        optional = {
            "n_test_samples": len(fold.test),
            "parameters": parameters,
            "estimator": estimator,
        }
        result |= {name: v for name, v in optional.items() if named.get(f"return_{name}")}
        if named.get("return_times"):
            result |= {"fit_time": middle - begin, "score_time": end - middle}
        return result

    def _fold(self, estimator: Any, X: Any, y: Any, train: Any, test: Any) -> Fold | None:
        """Return the fold, made once; None if `fit` itself should report an error in the data."""
        with self._lock:
            checked_key: Key = ("data", id(X), id(y))
            data = self._once(checked_key, (X, y), lambda: checked(estimator, X, y))
            if data is None:
                return None
            key: Key = ("fold", id(data), id(train), id(test))
            make = lambda: make_fold(estimator, data, (X, y), train, test)  # noqa: E731
            fold: Fold | None = self._once(key, (data, train, test), make)
            return fold

    def _once(self, key: Key, alive: Any, make: Callable[[], Any]) -> Any:
        """Return the object made once for this key; `alive` keeps objects whose ids are the key."""
        if key not in self._made:
            self._made[key] = (make(), alive)
        return self._made[key][0]


def are_fits(items: Items) -> bool:
    """Return True for calls of joblib's, at least one, that all fit and score candidates."""
    return bool(items) and all(getattr(item[0], "function", 0) is _fit_and_score for item in items)


def is_plain(estimator: Any, X: Any, y: Any, named: dict[str, Any]) -> bool:
    """Return True if `Trials` can run a call: a fastmlp estimator, dense data, known arguments."""
    context = named.get("callback_ctx")
    return (
        type(estimator) in PLAIN
        and y is not None
        # scikit-learn's metrics do not score sparse targets.
        and not (hasattr(X, "tocsr") or hasattr(y, "tocsr"))
        and not named.get("fit_params")
        and not named.get("score_params")
        and named["verbose"] <= 1
        and (context is None or not getattr(context, "_callbacks", True))
        and named.keys() <= KNOWN
    )


def checked(estimator: Any, X: Any, y: Any) -> tuple[Array, Array] | None:
    """Return X and y as `fit` converts them; None if `fit` or `predict` would refuse them."""
    if getattr(getattr(X, "dtype", None), "kind", "f") in "US":
        return None  # `fit` converts text to numbers.
    if np.ma.isMaskedArray(X) or np.ma.isMaskedArray(y):
        return None
    options: dict[str, Any] = {"multi_output": True, "dtype": (np.float64, np.float32)}
    try:
        X, y = validate_data(clone(estimator), X, y, **options)
    except (TypeError, ValueError):
        return None
    if type(estimator) is MLPRegressor and y.dtype.kind not in "biuf":
        return None  # `fit` converts objects to numbers, and refuses text.
    return np.ascontiguousarray(X), y


def make_fold(
    estimator: Any, data: tuple[Array, Array], originals: tuple[Any, Any], train: Any, test: Any
) -> Fold | None:
    """Return a fold, with the attributes that an unfitted estimator takes from its rows, or None.

    `originals` are the user's X and y, which may be data frames.
    """
    estimator, (X, y) = clone(estimator), data
    before = dict(vars(estimator))
    rows = np.arange(len(X), dtype=np.int64)[train]
    try:
        dtype, table = derive_form(estimator, *originals, rows)
    except (KeyError, TypeError, ValueError):  # KeyError: of a loss that is not known
        return None
    if dtype != X.dtype:
        return None
    form = {name: value for name, value in vars(estimator).items() if name not in before}
    try:
        held_out = estimator._binarized(y[test])
    except ValueError:
        held_out = None
    return Fold(X, table, rows, np.arange(len(X), dtype=np.int64)[test], form, held_out)


def scores(
    fold: Fold, estimator: Any, X: Any, y: Any, *, scorer: Any, test: Any, **named: Any
) -> Any:
    """Return the score, or a dict of scores, of the rows to score on."""
    targets = fold.targets
    # scikit-learn decides the precision of other targets.
    exact = targets is not None and targets.dtype in (np.bool_, np.float64)
    if exact and isinstance(scorer, _PassthroughScorer):
        outputs = outputs_of(estimator, fold.X, fold.test)
        # For other outputs the metrics raise an error.
        if len(outputs) > 1 and np.isfinite(outputs).all():
            return estimator._metric(outputs, targets, None)
    part = _safe_split(estimator, X, y, test, named["train"])
    return _score(estimator, *part, scorer, {}, named["error_score"])


def outputs_of(estimator: Any, X: Array, rows: NDArray[np.int64]) -> Array:
    """Return an estimator's predictions for some rows, copying `AT_ONCE` rows at a time."""
    parts = np.array_split(rows, -(-len(rows) // AT_ONCE) or 1)
    outputs = [estimator._outputs(X[part]) for part in parts]
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def failed(named: dict[str, Any], error: str) -> dict[str, Any]:
    """Return the result of a fit that raised an error."""
    score, several = named["error_score"], getattr(named["scorer"], "_scorers", None)
    assert isinstance(score, Number)
    result: dict[str, Any] = {"fit_error": error}
    for name in ("test_scores", "train_scores")[: 1 + bool(named.get("return_train_score"))]:
        result[name] = score if several is None else dict.fromkeys(several, score)
    return result
