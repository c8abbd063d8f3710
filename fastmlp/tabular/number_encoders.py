"""Encoders of columns of numbers: scaled, in pieces,
and marks of missing values; their base.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_is_fitted,
    validate_data,
)

from fastmlp.extend import explained, scalars
from fastmlp.typing import Array

# Numbers of a strip of rows, whose intermediate results stay in the cache.
STRIP_NUMBERS = 1 << 15
# The largest code: tables of levels have a row for every code.
LARGEST_CODE = 1 << 24
LARGEST_FLOAT64 = np.finfo(np.float64).max


class LearnedArrays:
    """Learned numbers as arrays, for files.

    `ARRAYS` of a subclass has the dtype and the sizes of each array, by name.
    Equal names of sizes are equal numbers; "n_features" is known.
    """

    ARRAYS: ClassVar[Mapping[str, tuple[type[np.generic], tuple[str, ...]]]]
    n_features_in_: int

    @property
    def arrays(self) -> dict[str, Array]:
        """Learned arrays by name."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def restore(self, arrays: dict[str, Array], n_features: int) -> Self:
        """Take over the learned arrays of an object with the same parameters.

        Arrays that do not fit each other,
        or would be read beyond their ends, are errors.
        """
        sizes = {"n_features": n_features, "n_features + 1": n_features + 1}
        for name, (dtype, names) in self.ARRAYS.items():
            array = arrays[name]
            # An array of shape (2**40, 0) needs no byte of a file.
            known = array.ndim == len(names) and (array.size or array.ndim == 1)
            if not known or array.dtype != dtype:
                expected = f"{dtype.__name__} numbers of shape ({', '.join(names)})"
                raise ValueError(
                    f"{name} must be {expected}, got {array.dtype}, {array.shape}"
                )
            for size, size_name in zip(array.shape, names, strict=True):
                if sizes.setdefault(size_name, size) != size:
                    raise ValueError(
                        f"{name} has a size of {size}, {size_name} is "
                        f"{sizes[size_name]}"
                    )
            setattr(self, name, array)
        self.n_features_in_ = n_features
        self._check_arrays()
        return self

    def _check_arrays(self) -> None:
        """Raise ValueError if indices in restored arrays are beyond the ends of
        others.
        """


class Encoder(LearnedArrays, TransformerMixin, BaseEstimator):
    """An encoder of columns.

    A subclass has `n_outputs`, `_names`, `ARRAYS`,
    and `learn` and `write`, which check nothing.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from training rows.

        Parameters
        ----------
        X : (n_rows, n_features) array or frame
        y : (n_rows,) array
            Targets; most encoders do not need them.

        Raises
        ------
        TypeError, ValueError
            If X is invalid.
        """
        self.learn(self._checked(X, reset=True), y)
        return self

    def transform(self, X: Any) -> Array:
        """Return the encoded columns, shape (n_rows, n_outputs), float32.

        Raises
        ------
        TypeError, ValueError
            If X is invalid, or nothing was learned.
        """
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        out = np.empty((len(X), self.n_outputs), np.float32)
        self.write(X, out)
        return out

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the encoded columns."""
        check_is_fitted(self, "n_features_in_")
        names = _check_feature_names_in(self, input_features)
        return np.array(self._names(list(names)), dtype=object)

    def learn(self, X: Array, y: Any = None) -> None:
        raise NotImplementedError

    def write(self, X: Array, out: Array) -> None:
        """Write the encoded columns of checked rows to `out`,
        (n_rows, n_outputs) of float32.
        """
        raise NotImplementedError

    def write_short(self, X: Array, out: Array) -> None:
        """Write the short form of `write`, shape (n_rows, n_numbers)."""
        self.write(X, out)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        raise NotImplementedError

    @property
    def spans(self) -> tuple[int, ...]:
        """The number of encoded columns behind each number of `write_short`, in
        order.
        """
        return (1,) * self.n_outputs

    def _names(self, names: list[str]) -> Sequence[str]:
        raise NotImplementedError

    def _checked(self, X: Any, *, reset: bool) -> Array:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


class NumberEncoder(Encoder):
    """An encoder of columns of numbers, which may be NaN."""

    def _checked(self, X: Any, *, reset: bool) -> Array:
        """X as float64, with NaN for missing values; infinite numbers are an error."""
        who = type(self).__name__
        try:
            numbers: Array = validate_data(
                self, X, dtype=np.float64, ensure_all_finite=False, reset=reset
            )
        except ValueError as error:
            if not str(error).startswith("could not convert"):
                raise
            advice = "texts go through Schema and OneHotLevels"
            raise ValueError(
                f"{who}: X must hold numbers: {error}; {advice}"
            ) from error
        infinite = np.isinf(numbers)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            names = getattr(self, "feature_names_in_", None)
            name = repr(names[column]) if names is not None else column
            place = f"the column {name} is infinite in row {row}"
            raise ValueError(f"{who}: {place}; make NaN of it, a missing value")
        return numbers


class CodeEncoder(Encoder):
    """An encoder of columns of codes: indices of levels, and -1 for a missing value.

    Codes may be whole floats, such as scikit-learn's OrdinalEncoder returns, with NaN
    for missing. The first array is `starts_`, the first row of each column in the other
    arrays.
    """

    starts_: Array

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        return tags

    def _check_arrays(self) -> None:
        starts, table, *_ = self.arrays.values()
        # Differences of integers may overflow.
        if (
            starts[0] != 0
            or starts[-1] != len(table)
            or (starts[1:] <= starts[:-1]).any()
        ):
            raise ValueError("the tables of levels do not fit their starts")

    def _checked(self, X: Any, *, reset: bool) -> Array:
        codes: Array = validate_data(
            self, X, dtype=None, ensure_all_finite=False, reset=reset
        )
        who = type(self).__name__
        if codes.dtype.kind not in "iu":
            codes = _whole(codes, who)
        if codes.size and codes.min() < -1:
            raise ValueError(f"{who}: codes must be -1 or more, got {codes.min()}")
        if reset and codes.size and codes.max() > LARGEST_CODE:
            expected = f"places among levels, at most {LARGEST_CODE}, got {codes.max()}"
            raise ValueError(
                f"{who}: codes must be {expected}: make such of numbers by Schema"
            )
        return codes


def _whole(codes: Array, who: str) -> Array:
    """Codes of another dtype as integers, shape (n_rows, n_features); -1 for NaN."""
    expected = "codes of levels, integers, as of Schema.read or of OrdinalEncoder"
    try:
        numbers = codes.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{who}: X must hold {expected}, got {codes.dtype}: {error}"
        ) from error
    numbers = np.where(np.isnan(numbers), -1.0, numbers)
    wrong = ~(np.abs(numbers) <= 2.0**53) | (np.floor(numbers) != numbers)
    if wrong.any():
        first = numbers[wrong][0]
        if np.isinf(first):
            name = "Input X contains infinity"
        else:
            name = f"got {first}"
        raise ValueError(f"{who}: X must hold {expected}: {name}")
    return numbers.astype(np.int64)


def there(column: Array) -> Array:
    return column[~np.isnan(column)]


def places_of(codes: Array, starts: Array) -> Array:
    """Indices of codes in a table of all columns' levels.

    `codes` are integers, shape (n_rows, n_features). `starts`, shape (n_features + 1,),
    has the first index of each column: a missing or unknown level, then each level.
    """
    known = codes < starts[1:] - starts[:-1] - 1
    return np.where(known, codes + 1, 0) + starts[:-1]


class RobustSmoothClip(NumberEncoder):
    """Scale columns by median and interquartile range, and draw outliers in.

    With ``z = (x - median) / (q75 - q25)`` the result is ``z / sqrt(1 + (z / 3)^2)``,
    about z for small z, and between -3 and 3. With equal quartiles z is ``2 (x -
    median) / (max - min)``, and 0 in a column of one value. NaN becomes 0. The method
    is from RealMLP: Holzmüller, Grinsztajn and Steinwart, "Better by default" (2024).

    Attributes
    ----------
    center_ : (n_features,) array of float64
        The medians.
    factor_ : (n_features,) array of float64
        Factors of distances from the median.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import RobustSmoothClip
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [1000.0]])
    >>> RobustSmoothClip().fit_transform(X).round(2).ravel()
    array([-0.95, -0.49,  0.  ,  0.49,  3.  ], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "center_": (np.float64, ("n_features",)),
        "factor_": (np.float64, ("n_features",)),
    }
    center_: Array
    factor_: Array

    def learn(self, X: Array, y: Any = None) -> None:
        learned = [_quartiles(there(column)) for column in X.T]
        self.center_, self.factor_ = (
            np.array(learned, np.float64).reshape(-1, 2).T.copy()
        )

    def write(self, X: Array, out: Array) -> None:
        from fastmlp.tabular import compiled

        compiled.write_clipped(X, out, self.center_, self.factor_)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return len(self.center_)

    def _names(self, names: list[str]) -> Sequence[str]:
        return names


class RisingSmoothClip(RobustSmoothClip):
    """`RobustSmoothClip` for monotone nets: the order of all numbers is kept.

    Rounding makes the published quotient fall by one last digit between some
    neighbours. The same function is computed as ``1 / sqrt(1 / z^2 + 1 / 9)`` with the
    sign of z.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import RisingSmoothClip
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [1000.0]])
    >>> RisingSmoothClip().fit_transform(X).round(2).ravel()
    array([-0.95, -0.49,  0.  ,  0.49,  3.  ], dtype=float32)
    """

    def write(self, X: Array, out: Array) -> None:
        from fastmlp.tabular import compiled

        compiled.write_rising(X, out, self.center_, self.factor_)


def _quartiles(values: Array) -> tuple[float, float]:
    """Median and factor of a column's numbers that are not missing."""
    if not len(values):
        return 0.0, 0.0
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    distance = high - low or (values.max() - values.min()) / 2
    with np.errstate(over="ignore", divide="ignore"):
        factor = 1 / distance if distance > 0 else 0.0
    return float(middle), float(min(factor, LARGEST_FLOAT64))


class MissingMarks(NumberEncoder):
    """Mark missing numbers by 1, and others by 0,
    in columns with missing numbers in training.

    Attributes
    ----------
    columns_ : (n_outputs,) array of int64
        Indices of those columns.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import MissingMarks
    >>> encoder = MissingMarks().fit([[1.0, np.nan], [2.0, 3.0]])
    >>> encoder.transform([[np.nan, np.nan], [np.nan, 4.0]])
    array([[1.],
           [0.]], dtype=float32)
    """

    ARRAYS: ClassVar = {"columns_": (np.int64, ("n_outputs",))}
    columns_: Array

    def learn(self, X: Array, y: Any = None) -> None:
        self.columns_ = np.flatnonzero(np.isnan(X).any(axis=0)).astype(np.int64)

    def write(self, X: Array, out: Array) -> None:
        out[:] = np.isnan(X[:, self.columns_])

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return len(self.columns_)

    def _check_arrays(self) -> None:
        if ((self.columns_ < 0) | (self.columns_ >= self.n_features_in_)).any():
            raise ValueError("columns_ must be places of features")

    def _names(self, names: list[str]) -> Sequence[str]:
        return [f"{names[column]}_missing" for column in self.columns_]


def quantile_edges(values: Array, n_bins: int) -> Array:
    """Sorted edges: frequent numbers, and the quantiles of the others."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 2:
        return distinct[:0]
    if len(distinct) <= n_bins + 1:
        return distinct
    order = np.argsort(-counts, kind="stable")[: n_bins // 2]
    frequent = order[counts[order] > len(values) / n_bins]
    others = np.ones(len(distinct), bool)
    others[frequent] = False
    rest = np.repeat(distinct[others], counts[others])
    quantiles = np.quantile(rest, np.linspace(0, 1, n_bins - len(frequent) + 1))
    return np.unique(np.concatenate([distinct[~others], quantiles]))


# Levels in fewer rows are rare.
FEWEST_LEVEL_ROWS = 5


def level_edges(values: Array, most: int) -> Array:
    """Edges in the middle between integers;
    empty for other numbers, and for two or over `most`.
    """
    if (values % 1).any():
        return values[:0]
    distinct, counts = np.unique(values, return_counts=True)
    levels = distinct[counts >= FEWEST_LEVEL_ROWS]
    if len(distinct) > most or len(levels) <= 2:
        return values[:0]
    return np.concatenate(
        [[-LARGEST_FLOAT64], (levels[1:] + levels[:-1]) / 2, [LARGEST_FLOAT64]]
    )


class PiecewiseLinear(NumberEncoder):
    """Encode each number by the pieces of its column:
    1 for a piece below it, 0 for one above.

    The piece from edge a to edge b has ``clip((x - a) / (b - a), 0, 1)``. NaN is
    encoded as the column's median. The method is from Gorishniy, Rubachev and Babenko,
    "On embeddings for numerical features in tabular deep learning" (2022), without
    their linear ends.

    Parameters
    ----------
    n_bins : int
        Maximum number of pieces of a column. A number in more rows than a piece would
        hold becomes an edge, for at most half of the pieces; other edges are quantiles.
        All distinct numbers are edges if they are few; one or two do not make pieces.

    Attributes
    ----------
    edges_ : (n_edges,) array of float64
        Edges of all columns, column by column.
    n_pieces_ : (n_features,) array of int64
        A column with pieces has one more edge;
        a column without pieces does not have edges.
    medians_ : (n_features,) array of float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import PiecewiseLinear
    >>> encoder = PiecewiseLinear(n_bins=3).fit(np.arange(10.0)[:, None])
    >>> encoder.edges_
    array([0., 3., 6., 9.])
    >>> encoder.transform([[4.5], [0], [20]])
    array([[1. , 0.5, 0. ],
           [0. , 0. , 0. ],
           [1. , 1. , 1. ]], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "edges_": (np.float64, ("n_edges",)),
        "n_pieces_": (np.int64, ("n_features",)),
        "medians_": (np.float64, ("n_features",)),
    }
    edges_: Array
    n_pieces_: Array
    medians_: Array
    edges_of: ClassVar[Any] = staticmethod(quantile_edges)
    # The low edge of each piece, and 1 / its width, shape (n_outputs,).
    table_: tuple[Array, Array]

    @explained
    def __init__(self, n_bins: int = 16) -> None:
        self.n_bins = n_bins

    def learn(self, X: Array, y: Any = None) -> None:
        scalars.positive_integer(type(self).__name__, "n_bins", self.n_bins)
        numbers = [there(column) for column in X.T]
        edges = [self.edges_of(column, self.n_bins) for column in numbers]
        self.edges_ = np.concatenate([np.empty(0), *edges])
        self.n_pieces_ = np.array(
            [max(0, len(column) - 1) for column in edges], np.int64
        )
        self.medians_ = np.array(
            [np.median(column) if len(column) else 0.0 for column in numbers]
        )
        self.table_ = self._made_table()

    def write(self, X: Array, out: Array) -> None:
        lows, factors = self.table_
        filled = self._filled(X)
        step = max(1, STRIP_NUMBERS // max(1, len(lows)))
        for part in (slice(start, start + step) for start in range(0, len(X), step)):
            # 10,000 x 20 x 16 take 6 ms, and 17 ms by broadcasting, column by column.
            shares = np.repeat(filled[part], self.n_pieces_, axis=1)
            with np.errstate(over="ignore"):
                shares -= lows
                shares *= factors
                np.clip(shares.astype(np.float32), 0, 1, out=out[part])

    def write_short(self, X: Array, out: Array) -> None:
        """Write piece plus fraction of each number."""
        from fastmlp.tabular import compiled

        compiled.write_pieces(X, out, self.edges_, self.n_pieces_, self.medians_)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return int(self.n_pieces_.sum())

    @property
    def spans(self) -> tuple[int, ...]:
        """The number of pieces of each column that has some."""
        return tuple(self.n_pieces_[self.n_pieces_ > 0].tolist())

    def _check_arrays(self) -> None:
        n = self.n_pieces_
        if ((n < 0) | (n > self.n_bins)).any():
            raise ValueError(
                f"a column must have 0 pieces or more, and at most {self.n_bins}"
            )
        if int(n.sum()) + np.count_nonzero(n) != len(self.edges_):
            raise ValueError("the edges are not as many as the pieces need")
        self.table_ = self._made_table()

    def _filled(self, X: Array) -> Array:
        missing = np.isnan(X)
        return np.where(missing, self.medians_, X) if missing.any() else X

    def _made_table(self) -> tuple[Array, Array]:
        """The table, kept: making it for each row to predict would take half of the
        encoding's time.
        """
        has_pieces = self.n_pieces_ > 0
        # The last edge of each column begins no piece.
        lasts = np.cumsum(self.n_pieces_[has_pieces] + 1) - 1
        with np.errstate(over="ignore"):
            widths = np.delete(np.diff(self.edges_, append=np.inf), lasts)
            factors = np.minimum(1 / widths, np.finfo(np.float64).max)
        return np.delete(self.edges_, lasts), factors

    def _names(self, names: list[str]) -> Sequence[str]:
        pairs = zip(names, self.n_pieces_, strict=True)
        return [f"{name}_piece{i}" for name, n in pairs for i in range(n)]


class IntegerLevels(PiecewiseLinear):
    """One-hot inputs of columns of integers, at most `n_bins` distinct ones.

    Other numbers, also levels in few rows, count as the nearest level. Columns of other
    numbers have no inputs. `table_` has the lows and the highs of the levels.
    """

    edges_of: ClassVar[Any] = staticmethod(level_edges)

    def _made_table(self) -> tuple[Array, Array]:
        lows = super()._made_table()[0]
        highs = np.append(lows, LARGEST_FLOAT64)[1:]
        return lows, np.where(highs == -LARGEST_FLOAT64, LARGEST_FLOAT64, highs)

    def write(self, X: Array, out: Array) -> None:
        lows, highs = self.table_
        numbers = np.repeat(self._filled(X), self.n_pieces_, axis=1)
        out[:] = (lows <= numbers) & (numbers < highs)

    def write_short(self, X: Array, out: Array) -> None:
        """Write the index of the level of each column with levels."""
        n = self.n_pieces_[self.n_pieces_ > 0]
        columns = self._filled(X).T[self.n_pieces_ > 0]
        of_columns = np.split(self.table_[0], np.cumsum(n)[:-1])
        for j, (column, lows) in enumerate(zip(columns, of_columns, strict=False)):
            out[:, j] = np.searchsorted(lows, column, side="right") - 1
