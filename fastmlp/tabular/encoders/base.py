"""The base of encoders: checks, names of columns, and learned numbers as arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from fastmlp.estimators.sklearn_bases import BaseEstimator, TransformerMixin

Array = NDArray[Any]
# Numbers of a strip of rows, whose intermediate results stay in the cache.
STRIP = 1 << 15
# Tables of levels have a place for every code up to the largest.
LARGEST_CODE = 1 << 24


class LearnedArrays:
    """Learned numbers as arrays, for files.

    A subclass has `ARRAYS`, the arrays that it learns: by name the dtype, and the sizes, which have
    names in common. The size of "n_features" is known.
    """

    ARRAYS: ClassVar[Mapping[str, tuple[type[np.generic], tuple[str, ...]]]]
    n_features_in_: int

    @property
    def arrays(self) -> dict[str, Array]:
        """The learned arrays, by name."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def restore(self, arrays: dict[str, Array], n_features: int) -> Self:
        """Take over the learned arrays of an object with the same parameters.

        Raises
        ------
        ValueError, LookupError
            If arrays are missing, do not fit each other, or would be read beyond their ends.
        """
        sizes = {"n_features": n_features, "n_features + 1": n_features + 1}
        for name, (dtype, names) in self.ARRAYS.items():
            array = arrays[name]
            # An array of shape (2**40, 0) takes no byte of a file.
            known = array.ndim == len(names) and (array.size or array.ndim == 1)
            if not known or array.dtype != dtype:
                expected = f"{dtype.__name__} numbers of shape ({', '.join(names)})"
                raise ValueError(f"{name} must be {expected}, got {array.dtype}, {array.shape}")
            for size, size_name in zip(array.shape, names, strict=True):
                if sizes.setdefault(size_name, size) != size:
                    raise ValueError(
                        f"{name} has a size of {size}, {size_name} is {sizes[size_name]}"
                    )
            setattr(self, name, array)
        self.n_features_in_ = n_features
        self._check_arrays()
        return self

    def _check_arrays(self) -> None:
        """Raise ValueError if places in restored arrays are beyond the ends of others."""


class Encoder(LearnedArrays, TransformerMixin, BaseEstimator):
    """An encoder of columns.

    A subclass has `learn` and `write`, which check nothing, `n_outputs`, `_names` and `ARRAYS`.
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
            If X is not what it must be.
        """
        self.learn(self._checked(X, reset=True), y)
        return self

    def transform(self, X: Any) -> Array:
        """Return the encoded columns, shape (n_rows, n_outputs), float32.

        Raises
        ------
        TypeError, ValueError
            If X is not what it must be, or nothing was learned.
        """
        check_is_fitted(self)
        return self.encoded(self._checked(X, reset=False))

    def encoded(self, X: Array) -> Array:
        """Return the encoded columns of checked ones."""
        out = np.empty((len(X), self.n_outputs), np.float32)
        self.write(X, out)
        return out

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the encoded columns."""
        check_is_fitted(self, "n_features_in_")
        names = _check_feature_names_in(self, input_features)
        return np.array(self._names(list(names)), dtype=object)

    def learn(self, X: Array, y: Any = None) -> None:
        """Learn from checked rows."""
        raise NotImplementedError

    def write(self, X: Array, out: Array) -> None:
        """Write the encoded columns of checked rows to `out`, (n_rows, n_outputs) of float32."""
        raise NotImplementedError

    def write_short(self, X: Array, out: Array) -> None:
        """Write the numbers that stand for the columns of `write`, (n_rows, n_numbers)."""
        self.write(X, out)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        raise NotImplementedError

    @property
    def spans(self) -> tuple[int, ...]:
        """The number of encoded columns that each number of `write_short` stands for, in order."""
        return (1,) * self.n_outputs

    def _names(self, names: list[str]) -> Sequence[str]:
        raise NotImplementedError

    def _checked(self, X: Any, *, reset: bool) -> Array:
        raise NotImplementedError


class NumberEncoder(Encoder):
    """An encoder of columns of numbers, among them NaN."""

    def _checked(self, X: Any, *, reset: bool) -> Array:
        who = type(self).__name__
        try:
            numbers: Array = validate_data(
                self, X, dtype=np.float64, ensure_all_finite=False, reset=reset
            )
        except ValueError as error:
            if not str(error).startswith("could not convert"):
                raise
            advice = "texts go through Schema and OneHotLevels"
            raise ValueError(f"{who}: X must hold numbers: {error}; {advice}") from error
        infinite = np.isinf(numbers)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            names = getattr(self, "feature_names_in_", None)
            name = repr(names[column]) if names is not None else column
            place = f"the column {name} is infinite in row {row}"
            raise ValueError(f"{who}: {place}; make NaN of it, a missing value")
        return numbers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


class CodeEncoder(Encoder):
    """An encoder of columns of codes: places among levels, and -1 for none.

    Codes may be floats that are whole, as of scikit-learn's OrdinalEncoder, and NaN for none.

    Its first array is `starts_`, where each column begins in the others, which are tables.
    """

    starts_: Array

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_arrays(self) -> None:
        starts, table, *_ = self.arrays.values()
        # Differences of integers may overflow.
        if starts[0] != 0 or starts[-1] != len(table) or (starts[1:] <= starts[:-1]).any():
            raise ValueError("the tables of levels do not fit their starts")

    def _checked(self, X: Any, *, reset: bool) -> Array:
        codes: Array = validate_data(self, X, dtype=None, ensure_all_finite=False, reset=reset)
        who = type(self).__name__
        if codes.dtype.kind not in "iu":
            codes = _whole(codes, who)
        if codes.size and codes.min() < -1:
            raise ValueError(f"{who}: codes must be -1 or more, got {codes.min()}")
        if reset and codes.size and codes.max() > LARGEST_CODE:
            expected = f"places among levels, at most {LARGEST_CODE}, got {codes.max()}"
            raise ValueError(f"{who}: codes must be {expected}: make such of numbers by Schema")
        return codes


def _whole(codes: Array, who: str) -> Array:
    """Codes of another dtype as integers, shape (n_rows, n_features); -1 for NaN.

    Raises
    ------
    TypeError, ValueError
        If they are no whole numbers.
    """
    expected = "codes of levels, integers, as of Schema.read or of OrdinalEncoder"
    try:
        numbers = codes.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{who}: X must hold {expected}, got {codes.dtype}: {error}") from error
    numbers = np.where(np.isnan(numbers), -1.0, numbers)
    wrong = ~(np.abs(numbers) <= 2.0**53) | (np.floor(numbers) != numbers)
    if wrong.any():
        first = numbers[wrong][0]
        name = "Input X contains infinity" if np.isinf(first) else f"got {first}"
        raise ValueError(f"{who}: X must hold {expected}: {name}")
    return numbers.astype(np.int64)


def strips(n_rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows, of about `STRIP` numbers each."""
    step = max(1, STRIP // max(1, width))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def there(column: Array) -> Array:
    """Return the numbers of a column that are not missing."""
    return column[~np.isnan(column)]


def places_of(codes: Array, starts: Array) -> Array:
    """Return the places of codes in a table of all columns' levels.

    Parameters
    ----------
    codes : (n_rows, n_features) array of integers
    starts : (n_features + 1,) array
        Where each column's places begin: that of a missing or unknown level, and then of each.
    """
    known = codes < starts[1:] - starts[:-1] - 1
    return np.where(known, codes + 1, 0) + starts[:-1]
