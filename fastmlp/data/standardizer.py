"""Standardizer: scaling of columns, learned in one pass over blocks of rows."""

from typing import Any, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.data.batches import blocks_of
from fastmlp.validation import Array, arrays, frames, scalars
from fastmlp.validation.calls import assignable, explained
from fastmlp.validation.messages import count


class Sample:
    """At most `size` rows of a stream, each with the same chance.

    Each row draws a number, and the rows with the smallest numbers are kept.
    The choice does not depend on blocks.
    """

    size: int

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size = size
        self._generator = generator
        self._keys = np.empty(0)
        self._parts: list[Array] = []

    def rows(self) -> Array:
        """The rows so far, shape (n, n_features), n up to `size`."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def add(self, block: Array) -> None:
        """Draw a number for each row of a block,
        shape (n_rows, n_features); keep the smallest.
        """
        keys = self._generator.random(len(block))
        free = self.size - len(self._keys)
        if free:
            self._keys = np.concatenate([self._keys, keys[:free]])
            self._parts.append(block[:free].copy())
            block = block[free:]
            keys = keys[free:]
        better = np.flatnonzero(keys < self._keys.max())
        if not len(better):
            return
        both = np.concatenate([self._keys, keys[better]])
        stay = np.zeros(len(both), bool)
        stay[np.argpartition(both, self.size - 1)[: self.size]] = True
        out = np.flatnonzero(~stay[: self.size])
        new = better[stay[self.size :]]
        self.rows()[out] = block[new]
        self._keys[out] = keys[new]


Numbers = NDArray[np.float64]
SAMPLE = 100_000
# Numbers of a strip of rows: 1 MB of float64.
STRIP_NUMBERS_OF_SCALING = 1 << 17
QUARTILES = (0.25, 0.5, 0.75)
FLOAT64_EPSILON = float(np.finfo(np.float64).eps)


@final
@assignable("feature_names")
class Standardizer:
    """Scales columns by subtracting the mean and dividing by the standard deviation.

    Rows are in memory, or in blocks that are read in one pass. Moments of blocks are
    merged in float64 (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979). A constant column keeps its scale.

    Parameters
    ----------
    robust : bool
        Scale by median and interquartile range, which outliers do not move.
        More than 100,000 rows are sampled at random.
    seed : int of 0 or more
        The seed of the sample, which depends on the order of rows, but not on blocks.

    Attributes
    ----------
    center : (n_features,) array of float64
        Means or medians.
    scale : (n_features,) array of float64
        Standard deviations or interquartile ranges; 1 for a constant column.
    n_rows : int
        Rows so far.
    feature_names : tuple of str, or None
        Names of the columns, from a frame as the first block,
        or from `Blocks` of tables.

    See Also
    --------
    fastmlp.fold : a net that takes unscaled columns.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Standardizer
    >>> X = np.array([[1.0, 10.0], [3.0, 10.0]])
    >>> scaler = Standardizer().fit(X)
    >>> scaler.center, scaler.scale
    (array([ 2., 10.]), array([1., 1.]))
    >>> scaler.transform(X)
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    robust: bool = False
    seed: int = 0
    n_rows: int = 0
    feature_names: tuple[str, ...] | None
    _sample: Sample | None

    @explained
    def __init__(self, *, robust: bool = False, seed: int = 0) -> None:
        scalars.boolean("Standardizer", "robust", robust)
        seed = scalars.non_negative_integer("Standardizer", "seed", seed)
        vars(self).update(robust=robust, seed=seed)
        self._clear()

    def _clear(self) -> None:
        vars(self).update(n_rows=0, feature_names=None)
        self._origin: Numbers = np.empty(0)  # means of the first rows
        self._mean: Numbers = np.empty(0)  # less the origin
        self._squares: Numbers = np.empty(
            0
        )  # the sums of squared distances from the mean
        if self.robust:
            self._sample = Sample(SAMPLE, np.random.default_rng(self.seed))
        else:
            self._sample = None
        self._learned: tuple[Numbers, Numbers] | None = None

    @classmethod
    def known(cls, center: ArrayLike, scale: ArrayLike) -> Self:
        """Return a scaler with these means and scales, such as a sensor's or a file's.

        Parameters
        ----------
        center : (n_features,) array of real numbers
            Subtracted from the columns.
        scale : (n_features,) array of positive numbers
            Divide the columns.

        Returns
        -------
        Standardizer
            It transforms and folds; `n_rows` is 0. `fit` learns anew.

        Raises
        ------
        TypeError, ValueError
            If center or scale has a wrong type, shape or value,
            or an element of scale is not positive.

        Examples
        --------
        >>> from fastmlp import Standardizer
        >>> Standardizer.known([20.0, 1013.0], [15.0, 10.0]).transform([[35.0, 1003.0]])
        array([[ 1., -1.]])
        """
        who = "Standardizer.known"
        n = np.size(center)
        kind = np.dtype(np.float64)
        centers = arrays.vector(center, n, kind, "center", who)
        scales = arrays.vector(scale, n, kind, "scale", who)
        if not (scales > 0).all():
            worst = int(np.argmin(scales))
            raise ValueError(
                f"{who}: scale must be positive, got {scales[worst]} for column "
                f"{worst}; 1 keeps a column's scale"
            )
        scaler = cls()
        scaler._mean = centers.copy()
        scaler._learned = scaler._mean, scales.copy()
        return scaler

    def fit(self, X: Any) -> Self:
        """Learn from rows in memory or from a source of blocks,
        and forget earlier rows.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, frame, or source
            A source is `Blocks`, another object with `block_sizes` and ``read(i)``, an
            iterable of blocks, or a function without arguments that begins one. A block
            is X, or a tuple that begins with X, such as ``(X, y)``. Empty blocks are
            skipped.

        Returns
        -------
        Standardizer
            The object itself.

        Raises
        ------
        TypeError, ValueError
            If a block has a wrong type or value, or all blocks are empty.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import Standardizer
        >>> X = np.arange(12.0).reshape(6, 2)
        >>> scaler = Standardizer().fit((X[i : i + 2], None) for i in (0, 2, 4))
        >>> scaler.n_rows, scaler.center
        (6, array([5., 6.]))
        """
        who = "Standardizer.fit"
        self._clear()
        for piece in blocks_of(X, who):
            if not _is_empty(piece.content):
                self._learn(
                    piece.content, f"{who}: {piece.name}" if piece.name else who
                )
        if not self.n_rows:
            raise ValueError(f"{who}: there are no rows")
        names = getattr(X, "feature_names", None)
        if self.feature_names is None and names is not None:
            self.feature_names = frames.names_given(
                names, len(self._mean), f"{who}: names"
            )
        return self

    def partial_fit(self, X: ArrayLike) -> Self:
        """Learn from further rows, in addition to earlier ones.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or frame

        Returns
        -------
        Standardizer
            The object itself.

        Raises
        ------
        TypeError, ValueError
            If X has a wrong type or value,
            or another number of columns than earlier rows.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import Standardizer
        >>> scaler = Standardizer()
        >>> for block in (np.array([[1.0], [2.0]]), np.array([[6.0]])):
        ...     _ = scaler.partial_fit(block)
        >>> scaler.n_rows, scaler.center
        (3, array([3.]))
        """
        who = "Standardizer.partial_fit"
        if self._is_known():
            raise ValueError(
                f"{who}: the center and scale are known, without rows to add to; fit "
                "learns anew"
            )
        self._learn(X, who)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Return the scaled columns.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or frame

        Returns
        -------
        (n_rows, n_features) array, C-contiguous
            float32 if X is an array of float32, else float64.

        Raises
        ------
        TypeError, ValueError
            If X has a wrong type or value, or nothing has been learned.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import Standardizer
        >>> Standardizer(robust=True).fit(np.arange(5.0)[:, None]).transform([[4.0], [2.0]])
        array([[1.],
               [0.]])
        """
        who = "Standardizer.transform"
        center, scale = self._fitted(who)
        rows, _ = self._rows(X, who)
        scaled = np.empty(rows.shape, rows.dtype)
        for part in _strips(rows):
            scaled[part] = (rows[part].astype(np.float64) - center) / scale
        return scaled

    def fit_transform(self, X: ArrayLike) -> Array:
        """Call `fit`, then `transform`, on rows in memory.

        Examples
        --------
        >>> from fastmlp import Standardizer
        >>> Standardizer().fit_transform([[1.0], [3.0]])
        array([[-1.],
               [ 1.]])
        """
        return self.fit(X).transform(X)

    def scale_derivatives(
        self, derivatives: ArrayLike, targets: "Standardizer | None" = None
    ) -> Array:
        """Return derivatives of scaled targets by the scaled columns.

        A derivative of y by x is multiplied by the column's scale over the target's.

        Parameters
        ----------
        derivatives : (n_rows, n_features) or (n_rows, n_outputs, n_features) array
            Of targets by unscaled columns; NaN is unknown.
        targets : Standardizer, optional
            Scaler of the targets, with a column for each output; None: y is not scaled.

        Returns
        -------
        array of the shape of `derivatives`
            float32 for an array of float32, else float64.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value,
            or nothing has been learned.

        See Also
        --------
        fastmlp.fold : a net of unscaled columns, whose Jacobian meets `derivatives`.

        Examples
        --------
        >>> from fastmlp import Standardizer
        >>> of_X = Standardizer.known([0.0, 0.0], [2.0, 10.0])
        >>> of_y = Standardizer.known([0.0], [4.0])
        >>> of_X.scale_derivatives([[1.0, 1.0]], of_y)
        array([[0.5, 2.5]])
        """
        who = "Standardizer.scale_derivatives"
        array, factors = self._factors(derivatives, targets, who)
        return np.asarray(array * factors, array.dtype)

    def unscale_derivatives(
        self, derivatives: ArrayLike, targets: "Standardizer | None" = None
    ) -> Array:
        """Return derivatives by unscaled columns: the inverse of `scale_derivatives`.

        Parameters
        ----------
        derivatives : (n_rows, n_features) or (n_rows, n_outputs, n_features) array
            Of scaled targets by the scaled columns,
            such as those of `fastmlp.jacobian`.
        targets : Standardizer, optional
            As of `scale_derivatives`.

        Returns
        -------
        array of the shape of `derivatives`

        Raises
        ------
        TypeError, ValueError
            As of `scale_derivatives`.

        Examples
        --------
        >>> from fastmlp import Standardizer
        >>> Standardizer.known([0.0, 0.0], [2.0, 10.0]).unscale_derivatives([[2.0, 5.0]])
        array([[1. , 0.5]])
        """
        who = "Standardizer.unscale_derivatives"
        array, factors = self._factors(derivatives, targets, who)
        return np.asarray(array / factors, array.dtype)

    def _factors(
        self, derivatives: ArrayLike, targets: Any, who: str
    ) -> tuple[Array, Array]:
        """Checked derivatives, and factors that scale them, which broadcast."""
        _, scale = self._fitted(who)
        if targets is not None and not isinstance(targets, Standardizer):
            raise TypeError(
                f"{who}: targets must be a Standardizer, got {type(targets).__name__}"
            )
        if targets is None:
            of_targets = np.ones(1)
        else:
            of_targets = targets._fitted(who)[1]
        array = arrays.real_array(derivatives, who, "derivatives")
        n, n_outputs = len(scale), len(of_targets)
        by_output = array.ndim == 3 and (targets is None or array.shape[1] == n_outputs)
        by_row = array.ndim == 2 and n_outputs == 1
        if array.shape[-1:] != (n,) or not (by_output or by_row):
            form = f"(n_rows, {n_outputs if targets else 'n_outputs'}, {n})"
            also = f", or (n_rows, {n})" if n_outputs == 1 else ""
            raise ValueError(
                f"{who}: derivatives must have shape {form}{also}, got {array.shape}"
            )
        if np.isinf(array).any():
            raise ValueError(f"{who}: derivatives must be finite, or NaN where unknown")
        kind = np.float32 if array.dtype == np.float32 else np.float64
        factors = scale / of_targets[:, None]
        return np.asarray(array, kind), factors if by_output else factors[0]

    @property
    def center(self) -> Numbers:
        """Means of the columns, or medians."""
        return self._fitted("Standardizer.center")[0]

    @property
    def scale(self) -> Numbers:
        """Standard deviations of the columns, or interquartile ranges."""
        return self._fitted("Standardizer.scale")[1]

    def _learn(self, X: Any, who: str) -> None:
        rows, names = self._rows(X, who)
        if not self.n_rows:
            self.feature_names = names
        for part in _strips(rows):
            self._merge(rows[part].astype(np.float64))
        if self._sample is not None:
            self._sample.add(rows)
        self._learned = None

    def _rows(self, X: Any, who: str) -> tuple[Array, frames.Names]:
        """Checked rows, shape (n_rows, n_features),
        of float32 or float64, and names.
        """
        X, names = frames.named(X, self.feature_names, who)
        return arrays.table(X, len(self._mean) or None, who), names

    def _merge(self, rows: Numbers) -> None:
        """Add the moments of some rows, which are overwritten."""
        n = len(rows)
        before = self.n_rows
        if not before:
            self._origin = rows.mean(axis=0)
        # Merging a column of mean 1e6 and deviation 1e-2 would lose 3e-8 of the
        # variance.
        rows -= self._origin
        mean = rows.mean(axis=0)
        rows -= mean
        squares = np.einsum("ij,ij->j", rows, rows)
        if not before:
            self._mean = mean
            self._squares = squares
        else:
            shift = mean - self._mean
            share = n / (before + n)
            self._mean = self._mean + shift * share
            self._squares = self._squares + (squares + shift**2 * (before * share))
        vars(self)["n_rows"] = before + n

    def _fitted(self, who: str) -> tuple[Numbers, Numbers]:
        if not self.n_rows and not self._is_known():
            raise ValueError(f"{who}: nothing has been learned; call fit")
        if self._learned is None:
            if self._sample is None:
                self._learned = self._moments()
            else:
                self._learned = _quartiles(self._sample)
        return self._learned

    def _is_known(self) -> bool:
        """True for center and scale that were not learned from rows."""
        return self._learned is not None and not self.n_rows

    def _moments(self) -> tuple[Numbers, Numbers]:
        n = self.n_rows
        mean = self._origin + self._mean
        variance = self._squares / self.n_rows
        # Rounding may leave this variance of n equal numbers.
        constant = (
            variance
            <= n * FLOAT64_EPSILON * variance + (n * mean * FLOAT64_EPSILON) ** 2
        )
        return mean, np.where(constant, 1.0, np.sqrt(variance))

    def __repr__(self) -> str:
        robust = "robust=True" if self.robust else ""
        if self._is_known():
            return f"<Standardizer.known: {count(len(self._mean), 'column')}>"
        if not self.n_rows:
            return f"Standardizer({robust})"
        sizes = f"{count(len(self._mean), 'column')}, {count(self.n_rows, 'row')}"
        return f"<Standardizer({robust}): {sizes}>"


def _quartiles(sample: Sample) -> tuple[Numbers, Numbers]:
    columns = [
        np.quantile(column.astype(np.float64), QUARTILES) for column in sample.rows().T
    ]
    low, middle, high = np.array(columns).T
    distance = high - low
    return middle, np.where(distance < 10 * FLOAT64_EPSILON, 1.0, distance)


def _is_empty(block: Any) -> bool:
    try:
        return len(block) == 0
    except TypeError:
        return False


def _strips(rows: Array) -> list[slice]:
    step = max(1, STRIP_NUMBERS_OF_SCALING // max(1, rows.shape[1]))
    return [slice(start, start + step) for start in range(0, len(rows), step)]
