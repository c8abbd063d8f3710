"""TargetStatistics: codes of levels as the means of their targets, and their counts."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from sklearn.utils import check_random_state

from fastmlp.tabular.encoders.base import Array, CodeEncoder, places_of
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Task = Literal["auto", "classification", "regression"]


class TargetStatistics(CodeEncoder):
    """Encode codes of levels by the smoothed mean of their rows' targets, and the log of the count.

    Of a level in k rows, whose targets sum to s, the mean is ``(s + weight m) / (k + weight)``,
    with the mean m of all rows; of classes it is the share of each, and for two classes that of
    the second. Beside it is ``log(1 + k)``. Each is standardized over the training rows. An
    unknown level is taken as missing, and that, where none was missing in training, has m and 0.

    `fit_transform` gives each training row the means of the other folds' rows, as scikit-learn's
    TargetEncoder does: with those of its own target a net would learn to trust them too much.
    `transform` uses the means of all rows.

    Parameters
    ----------
    weight : float
        How many rows of the mean of all each level's mean is mixed with.
    n_folds : int
        Of `fit_transform`.
    task : "auto", "classification" or "regression"
        "auto": a regression where y is of floats.
    random_state : int, RandomState or None
        Of the folds.

    Attributes
    ----------
    classes_ : (n_classes,) array, or None for a regression
    starts_ : (n_features + 1,) array of int64
        Where the rows of each column begin in `table_`: that of -1, then of each code.
    table_ : (n_places, n_statistics) array of float32

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import TargetStatistics
    >>> codes, y = np.array([[0], [0], [1], [1]] * 10), np.array([1.0, 3, 5, 7] * 10)
    >>> encoder = TargetStatistics(weight=0.001).fit(codes, y)
    >>> encoder.transform([[0], [1], [-1]])[:, 0].round(2)
    array([-1.,  1.,  0.], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "starts_": (np.int64, ("n_features + 1",)),
        "table_": (np.float32, ("n_places", "n_statistics")),
    }
    table_: Array
    classes_: Array | None

    @explained
    def __init__(
        self,
        weight: float = 10.0,
        n_folds: int = 5,
        task: Task = "auto",
        random_state: Any = None,
    ) -> None:
        self.weight = weight
        self.n_folds = n_folds
        self.task = task
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def learn(self, X: Array, y: Any = None) -> None:
        """Learn from checked codes, and targets."""
        self._learned(X, y)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Array:
        """Learn from training rows, and return their statistics out of folds, float32.

        Parameters
        ----------
        X : (n_rows, n_features) array of integers
        y : (n_rows,) array
        """
        return self.learn_out_of_folds(self._checked(X, reset=True), y)

    def learn_out_of_folds(self, X: Array, y: Any) -> Array:
        """Learn from checked codes, and targets; return what `fit_transform` does."""
        targets, center, scale = self._learned(X, y)
        folds = self._folds(len(X), targets)
        n_places, found = len(self.table_), np.empty((len(X), X.shape[1], self.table_.shape[1]))
        places = places_of(X, self.starts_)
        for fold in range(int(folds.max(initial=-1)) + 1):
            own = folds == fold
            # Of one row there is no other fold.
            rest = own if own.all() else ~own
            found[own] = self._table(places[rest], targets[rest], n_places)[places[own]]
        # Counts of all rows, as in `transform`: they tell nothing of a row's own target.
        found[:, :, -1] = np.log1p(np.bincount(places.ravel(), minlength=n_places))[places]
        return ((found.reshape(len(X), -1) - center) / scale).astype(np.float32)

    def _learned(self, X: Array, y: Any) -> tuple[Array, Array, Array]:
        """Learn; return the targets, and the means and deviations of the statistics."""
        who = type(self).__name__
        scalars.known(who, "task", self.task, get_args(Task))
        scalars.positive(who, "weight", self.weight)
        scalars.positive_integer(who, "n_folds", self.n_folds)
        targets = self._targets(y, len(X), who)
        n_levels = X.max(axis=0, initial=-1) + 2
        self.starts_ = np.concatenate([[0], np.cumsum(n_levels)]).astype(np.int64)
        places = places_of(X, self.starts_)
        table = self._table(places, targets, int(self.starts_[-1]))
        of_rows = table[places].reshape(len(X), -1)
        center, scale = of_rows.mean(axis=0), of_rows.std(axis=0)
        scale = np.where(scale > 1e-12 * np.abs(center), scale, 1.0)
        for_each = (len(X.T), -1)
        of_features = np.repeat(np.arange(len(X.T)), n_levels)
        table -= center.reshape(for_each)[of_features]
        table /= scale.reshape(for_each)[of_features]
        self.table_ = table.astype(np.float32)
        return targets, center, scale

    def _targets(self, y: Any, n_rows: int, who: str) -> Array:
        """Return the targets, shape (n_rows, n_means): 0 and 1 for classes."""
        if y is None:
            raise ValueError(f"{who}: requires y to be passed, but the target y is None")
        y = np.asarray(y)
        if y.shape != (n_rows,):
            raise ValueError(f"{who}: y must have shape {(n_rows,)}, got {y.shape}")
        task = self.task
        if task == "auto":
            task = "regression" if y.dtype.kind == "f" else "classification"
        if task == "regression":
            self.classes_ = None
            return _numbers(y, who)[:, None]
        if y.dtype.kind == "f":
            _numbers(y, who)
        self.classes_, codes = np.unique(y, return_inverse=True)
        one_hot = np.eye(len(self.classes_))[codes]
        return one_hot[:, 1:] if len(self.classes_) == 2 else one_hot

    def _table(self, places: Array, targets: Array, n_places: int) -> Array:
        """Return the statistics of all columns' levels, shape (n_places, n_statistics)."""
        counts = np.bincount(places.ravel(), minlength=n_places)
        table = np.empty((n_places, targets.shape[1] + 1))
        for k, target in enumerate(targets.T):
            of_all = np.repeat(target, places.shape[1])
            sums = np.bincount(places.ravel(), of_all, minlength=n_places)
            table[:, k] = (sums + self.weight * target.mean()) / (counts + self.weight)
        table[:, -1] = np.log1p(counts)
        return table

    def _folds(self, n_rows: int, targets: Array) -> Array:
        """Return the fold of each row: of each class as many, as far as that goes."""
        order = check_random_state(self.random_state).permutation(n_rows)
        if self.classes_ is not None:
            order = order[np.lexsort(targets[order].T)]
        folds = np.empty(n_rows, np.int64)
        folds[order] = np.arange(n_rows) % min(self.n_folds, max(1, n_rows))
        return folds

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return (len(self.starts_) - 1) * self.table_.shape[1]

    def write(self, X: Array, out: Array) -> None:
        """Write the statistics of checked codes to `out`."""
        from fastmlp.tabular.encoders import compiled

        compiled.write_levels(X, out, self.starts_[:-1], np.diff(self.starts_), self.table_)

    def _names(self, names: list[str]) -> Sequence[str]:
        n = self.table_.shape[1] - 1
        return [
            f"{name}_{one}" for name in names for one in (*(f"mean{k}" for k in range(n)), "count")
        ]


def _numbers(y: Array, who: str) -> Array:
    """Return targets as numbers that are finite."""
    try:
        found = y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: y must hold numbers, for a regression: {error}") from error
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise ValueError(f"{who}: y must be finite, got {found[row]} in row {row}; leave it out")
    return found
