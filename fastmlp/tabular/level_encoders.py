"""Encoders of codes of levels: one-hot columns, and statistics of the targets."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from sklearn.utils import check_random_state

from fastmlp.extend import explained, scalars
from fastmlp.tabular.number_encoders import CodeEncoder, places_of
from fastmlp.typing import Array


class OneHotLevels(CodeEncoder):
    """Encode codes of levels, as from `Schema.read`:
    one column for each level, 1 in its rows.

    Rare levels are zeros. Missing values get a column if training had any that are not
    rare, else zeros; unknown levels are treated as missing. Two levels that are not
    rare become one column of -1 and 1, as in RealMLP.

    Parameters
    ----------
    max_levels : int
        The number of levels kept in a column, the most frequent first.
    min_rows : int
        Levels in fewer rows are rare; so are missing values.

    Attributes
    ----------
    starts_ : (n_features + 1,) array of int64
        First index of each column in the following tables:
        an index for -1, then one for each code.
    columns_ : (n_places,) array of int64
        The column that is not 0; -1 for no column.
    values_ : (n_places,) array of float32
        Its value, 1 or -1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import OneHotLevels
    >>> codes = np.array([[0, 0], [1, 1], [2, 1], [2, 0]])
    >>> OneHotLevels(min_rows=1).fit(codes).transform([[0, 0], [2, 1], [7, -1]])
    array([[ 1.,  0.,  0., -1.],
           [ 0.,  0.,  1.,  1.],
           [ 0.,  0.,  0.,  0.]], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "starts_": (np.int64, ("n_features + 1",)),
        "columns_": (np.int64, ("n_places",)),
        "values_": (np.float32, ("n_places",)),
    }
    columns_: Array
    values_: Array

    @explained
    def __init__(self, max_levels: int = 100, min_rows: int = 5) -> None:
        self.max_levels = max_levels
        self.min_rows = min_rows

    def learn(self, X: Array, y: Any = None) -> None:
        who = type(self).__name__
        most = scalars.positive_integer(who, "max_levels", self.max_levels)
        fewest = scalars.positive_integer(who, "min_rows", self.min_rows)
        starts = [0]
        columns = []
        values = []
        first = 0
        for codes in X.T:
            own, ones = _kept_levels(np.bincount(codes + 1, minlength=1), most, fewest)
            columns.append(np.where(own >= 0, own + first, -1))
            values.append(ones)
            first += int(own.max(initial=-1)) + 1
            starts.append(starts[-1] + len(own))
        self.starts_ = np.array(starts, np.int64)
        self.columns_ = np.concatenate([np.empty(0, np.int64), *columns])
        self.values_ = np.concatenate([np.empty(0, np.float32), *values])

    def write(self, X: Array, out: Array) -> None:
        out[:] = 0
        places = places_of(X, self.starts_)
        columns = self.columns_[places]
        rows, features = np.nonzero(columns >= 0)
        out[rows, columns[rows, features]] = self.values_[places[rows, features]]

    def write_short(self, X: Array, out: Array) -> None:
        """Write the index of the column that is 1 for each feature with columns;
        -1 for no column.

        The sign is lost: a feature of two levels in one column of -1 and 1 does not
        fit.
        """
        from fastmlp.tabular import compiled

        table = self._own_columns
        sizes = np.diff(self.starts_)
        kept = np.diff(self._ends, prepend=0) > 0
        codes = X if kept.all() else X[:, kept]
        compiled.write_levels(
            codes, out, self.starts_[:-1][kept], sizes[kept], table[:, None]
        )

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return int(self.columns_.max(initial=-1)) + 1

    @property
    def spans(self) -> tuple[int, ...]:
        """The number of columns of each feature that has some."""
        n = np.diff(self._ends, prepend=0)
        return tuple(n[n > 0].tolist())

    @property
    def _ends(self) -> Array:
        return (
            np.maximum.accumulate(np.maximum.reduceat(self.columns_, self.starts_[:-1]))
            + 1
        )

    @property
    def _own_columns(self) -> Array:
        """For each table index, the feature's column that is not 0;
        -1 for no column.
        """
        firsts = np.concatenate([[0], self._ends[:-1]])
        own = self.columns_ - np.repeat(firsts, np.diff(self.starts_))
        return np.where(self.columns_ < 0, -1, own)

    def _check_arrays(self) -> None:
        super()._check_arrays()
        if ((self.columns_ < -1) | (self.columns_ >= len(self.columns_))).any():
            raise ValueError("there are more columns than levels")
        if self._own_columns.min() < -1:
            raise ValueError("the columns of each level must be its feature's")

    def _names(self, names: list[str]) -> Sequence[str]:
        labels = [""] * self.n_outputs
        for name, start, end in zip(
            names, self.starts_, self.starts_[1:], strict=False
        ):
            for code, place in enumerate(range(start, end), -1):
                if self.columns_[place] >= 0:
                    labels[self.columns_[place]] = (
                        f"{name}_{'missing' if code < 0 else code}"
                    )
        return labels


def _kept_levels(counts: Array, most: int, fewest: int) -> tuple[Array, Array]:
    """Column (-1: no column) and its value for code -1 and each code."""
    levels = counts[1:]
    # The first of equally frequent levels is kept.
    order = np.argsort(-levels, kind="stable")[:most]
    kept = np.sort(order[levels[order] >= fewest])
    columns = np.full(len(counts), -1, np.int64)
    values = np.ones(len(counts), np.float32)
    if len(kept) == 2 and np.count_nonzero(levels) == 2:
        columns[1 + kept] = 0
        values[1 + kept[0]] = -1
    else:
        columns[1 + kept] = np.arange(len(kept))
    if counts[0] >= fewest:
        columns[0] = columns.max() + 1
    return columns, values


Task = Literal["auto", "classification", "regression"]


class TargetStatistics(CodeEncoder):
    """Encode codes of levels by the smoothed mean of their rows' targets,
    and the log of the count.

    A level in k rows, whose targets sum to s, has the mean ``(s + weight m) / (k +
    weight)`` and ``log(1 + k)``; m is the mean of all rows. Classes have the share of
    each class, two classes only the share of the second. All are standardized over the
    training rows. Unknown levels count as missing. Without missing values in training,
    missing has m and 0.

    `fit_transform` gives each training row means of other folds, as scikit-learn's
    TargetEncoder: a net would trust means with the row's target too much. `transform`
    uses means of all rows.

    Parameters
    ----------
    weight : float
        Number of rows with the overall mean that are mixed into each level's mean.
    n_folds : int
        Of `fit_transform`.
    task : "auto", "classification" or "regression"
        "auto": regression if y has floats.
    random_state : int, RandomState or None
        Draws the folds.

    Attributes
    ----------
    classes_ : (n_classes,) array, or None for a regression
    starts_ : (n_features + 1,) array of int64
        First row of each column in `table_`: a row for -1, then one for each code.
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
        """Learn from checked codes and targets;
        return the result of `fit_transform`.
        """
        targets, center, scale = self._learned(X, y)
        folds = self._folds(len(X), targets)
        n_places, n_statistics = self.table_.shape
        statistics = np.empty((*X.shape, n_statistics))
        places = places_of(X, self.starts_)
        for fold in range(int(folds.max(initial=-1)) + 1):
            own = folds == fold
            # Single rows do not have another fold.
            rest = own if own.all() else ~own
            statistics[own] = self._table(places[rest], targets[rest], n_places)[
                places[own]
            ]
        # Counts are of all rows, as in `transform`:
        # they do not depend on a row's target.
        statistics[:, :, -1] = np.log1p(
            np.bincount(places.ravel(), minlength=n_places)
        )[places]
        return ((statistics.reshape(len(X), -1) - center) / scale).astype(np.float32)

    def _learned(self, X: Array, y: Any) -> tuple[Array, Array, Array]:
        """Learn; return targets, means and deviations of the statistics."""
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
        center = of_rows.mean(axis=0)
        scale = of_rows.std(axis=0)
        scale = np.where(scale > 1e-12 * np.abs(center), scale, 1.0)
        for_each = (len(X.T), -1)
        of_features = np.repeat(np.arange(len(X.T)), n_levels)
        table -= center.reshape(for_each)[of_features]
        table /= scale.reshape(for_each)[of_features]
        self.table_ = table.astype(np.float32)
        return targets, center, scale

    def _targets(self, y: Any, n_rows: int, who: str) -> Array:
        """Targets, shape (n_rows, n_means): 0 and 1 for classes."""
        if y is None:
            raise ValueError(
                f"{who}: requires y to be passed, but the target y is None"
            )
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
        """Statistics of all columns' levels, shape (n_places, n_statistics)."""
        counts = np.bincount(places.ravel(), minlength=n_places)
        table = np.empty((n_places, targets.shape[1] + 1))
        for k, target in enumerate(targets.T):
            of_all = np.repeat(target, places.shape[1])
            sums = np.bincount(places.ravel(), of_all, minlength=n_places)
            table[:, k] = (sums + self.weight * target.mean()) / (counts + self.weight)
        table[:, -1] = np.log1p(counts)
        return table

    def _folds(self, n_rows: int, targets: Array) -> Array:
        """Fold of each row, with classes as equal as possible."""
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
        from fastmlp.tabular import compiled

        compiled.write_levels(
            X, out, self.starts_[:-1], np.diff(self.starts_), self.table_
        )

    def _names(self, names: list[str]) -> Sequence[str]:
        n = self.table_.shape[1] - 1
        return [
            f"{name}_{statistic}"
            for name in names
            for statistic in (*(f"mean{k}" for k in range(n)), "count")
        ]


def _numbers(y: Array, who: str) -> Array:
    try:
        numbers = y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who}: y must hold numbers, for a regression: {error}"
        ) from error
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(
            f"{who}: y must be finite, got {numbers[row]} in row {row}; leave it out"
        )
    return numbers
