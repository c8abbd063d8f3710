"""Shortcuts on plain arrays, to the results of scikit-learn's checks and metrics.

Those ask about ten times what an array is: that takes longer than an epoch of a small net.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

Array = NDArray[Any]
FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
# Of more rows some versions of scikit-learn warn, where most labels are there once.
FEW_ROWS = 20


def checked_rows(estimator: Any, X: Any, *, reset: bool, dtype: Any = FLOATS) -> Any:
    """X as `fit` and `predict` take it: an array, of float32 or float64 for `fit`, or a sparse
    matrix.

    With `reset` names and number of the features are set on the estimator, else compared.
    """
    if is_checked(estimator, X, reset=reset):
        return X
    return validate_data(estimator, X, accept_sparse=["csr", "csc"], dtype=dtype, reset=reset)


def is_checked(estimator: Any, X: Any, *, reset: bool) -> bool:
    """Return True if `validate_data` would return X as it is; it is not asked then."""
    if not are_floats(X) or X.ndim != 2:
        return False
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != getattr(estimator, "n_features_in_", None):
        return False
    return not hasattr(estimator, "feature_names_in_")


def are_floats(array: Any) -> bool:
    """Return True for a NumPy array of finite float32 or float64, with one of them at least."""
    if type(array) is not np.ndarray or array.dtype not in FLOATS or not array.size:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))


def are_plain_targets(y: Any, X: Any) -> bool:
    """Return True for a vector of finite floats, or a table of several columns, as long as X."""
    return are_floats(y) and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1)) and _as_long(y, X)


def are_plain_labels(y: Any, X: Any) -> bool:
    """Return True for a vector of integers or texts, in native order of bytes, as long as X."""
    if type(y) is not np.ndarray or y.ndim != 1 or y.dtype.kind not in "iuU":
        return False
    return y.dtype.isnative and _as_long(y, X)


def _as_long(y: Array, X: Any) -> bool:
    return y.size > 0 and getattr(X, "shape", ())[:1] == y.shape[:1]


def classes_of(y: Array) -> Array:
    """The labels in a vector, sorted, shape (n_classes,); texts as wide as the longest."""
    classes = np.unique(y)
    return np.array(classes.tolist()) if y.dtype.kind == "U" else classes


def binarizer_of(classes: Array) -> LabelBinarizer:
    """A binarizer that was fitted to labels, which are sorted, shape (n_classes,)."""
    binarizer = LabelBinarizer()
    binarizer.y_type_ = "binary" if len(classes) <= 2 else "multiclass"
    binarizer.sparse_input_, binarizer.classes_ = False, classes
    return binarizer


def binarized(y: Array, classes: Array, *, all_present: bool) -> Array | None:
    """Boolean targets of plain labels, shape (n_samples, n_classes), or one column of two classes.

    None where scikit-learn raises or may warn: if a label is none of `classes`, which are sorted,
    if one of these must be in y and is not, or if there are about as many as rows.
    """
    n_samples, n_classes = len(y), len(classes)
    if y.dtype.kind != classes.dtype.kind or (n_samples > FEW_ROWS and 2 * n_classes > n_samples):
        return None
    codes = np.searchsorted(classes, y)
    if not (classes.take(codes, mode="clip") == y).all():
        return None
    if all_present and not np.bincount(codes, minlength=n_classes).all():
        return None
    return (codes == 1)[:, None] if n_classes <= 2 else codes[:, None] == np.arange(n_classes)


def seeded(estimator: Any) -> np.random.RandomState:
    """The generator of a fit: one that an earlier fit has made with a seed is seeded again.

    That takes 2 us, and a new one 55. It is the estimator's own: copies and pickles have none.
    """
    seed, own = estimator.random_state, estimator.__dict__.get("_seeded")
    if type(seed) is not int:
        return check_random_state(seed)
    if own is None:
        own = estimator._seeded = check_random_state(seed)
    else:
        own.seed(seed)
    return own


def accuracy(outputs: Array, targets: Array, weight: Any, *, one_hot: bool) -> float:
    """The share of rows with the right class, or with all labels right.

    `sklearn.metrics.accuracy_score` of the labels takes 600 us.
    """
    if one_hot:
        right = outputs.argmax(axis=1) == targets.argmax(axis=1)
    else:
        right = ((outputs > 0.5) == targets).all(axis=1)
    return float(np.average(right, weights=weight))


def r2(outputs: Array, targets: Array, weight: Any) -> float:
    """The coefficient of determination, the mean over outputs; NaN for a net that diverged.

    `sklearn.metrics.r2_score` takes 400 us.
    """
    if not np.isfinite(outputs).all():
        return np.nan
    weights = np.float64(1) if weight is None else weight[:, None]
    mean = np.average(targets, axis=0, weights=weight)
    residual = (weights * (targets - outputs) ** 2).sum(axis=0, dtype=np.float64)
    total = (weights * (targets - mean) ** 2).sum(axis=0, dtype=np.float64)
    scores = np.where(residual == 0, 1.0, 0.0)
    np.divide(residual, total, out=residual, where=total != 0)
    return float(np.mean(np.where(total != 0, 1 - residual, scores)))
