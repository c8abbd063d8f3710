"""Encoders of columns of numbers: scaled, quantiles, cosines, pieces, and marks of missing ones."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fastmlp.tabular.encoders.base import Array, NumberEncoder, strips, there
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

QUARTILES = (0.25, 0.5, 0.75)


class RobustSmoothClip(NumberEncoder):
    """Scale columns by their median and the distance of their quartiles, and draw outliers in.

    With ``z = (x - median) / (q75 - q25)`` the result is ``z / sqrt(1 + (z / 3)^2)``, which is
    about z where that is small, and between -3 and 3. Where the quartiles are equal, z is
    ``2 (x - median) / (max - min)``, and 0 in a column of one value. NaN becomes 0, the median.
    The method is that of RealMLP, in Holzmüller, Grinsztajn and Steinwart, "Better by default"
    (2024).

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
        """Learn from checked rows."""
        learned = [_quartiles(there(column)) for column in X.T]
        self.center_, self.factor_ = np.array(learned, np.float64).reshape(-1, 2).T.copy()

    def write(self, X: Array, out: Array) -> None:
        """Write the scaled columns of checked rows to `out`."""
        from fastmlp.tabular.encoders import compiled

        compiled.write_clipped(X, out, self.center_, self.factor_)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return len(self.center_)

    def _names(self, names: list[str]) -> Sequence[str]:
        return names


class RisingSmoothClip(RobustSmoothClip):
    """`RobustSmoothClip`, for nets that are monotone: it keeps the order of all numbers.

    That falls by one in the last place between some neighbours, as its quotient is rounded. Here
    the same function is computed as ``1 / sqrt(1 / z^2 + 1 / 9)`` with the sign of z.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import RisingSmoothClip
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [1000.0]])
    >>> RisingSmoothClip().fit_transform(X).round(2).ravel()
    array([-0.95, -0.49,  0.  ,  0.49,  3.  ], dtype=float32)
    """

    def write(self, X: Array, out: Array) -> None:
        """Write the scaled columns of checked rows to `out`."""
        from fastmlp.tabular.encoders import compiled

        compiled.write_rising(X, out, self.center_, self.factor_)


def _quartiles(values: Array) -> tuple[float, float]:
    """Return a column's median and factor, of the numbers that are there."""
    if not len(values):
        return 0.0, 0.0
    low, middle, high = np.quantile(values, QUARTILES)
    distance = high - low or (values.max() - values.min()) / 2
    with np.errstate(over="ignore", divide="ignore"):
        factor = 1 / distance if distance > 0 else 0.0
    return float(middle), float(min(factor, np.finfo(np.float64).max))


# Rows for a quantile, and the fewest and the most of them.
ROWS, FEWEST, MOST = 30, 10, 1000
# Beside a column's standard deviation.
NOISE = 1e-5
# As scikit-learn: numbers that close to the ends are the ends, which are +-5.2.
CLOSE = 1e-7
END = float(-ndtri(CLOSE - np.spacing(1)))


class NoisyQuantile(NumberEncoder):
    """Map each column's quantiles to those of the normal distribution.

    scikit-learn's QuantileTransformer learns max(min(n_rows / 30, 1000), 10) quantiles of the
    standardized columns, to which noise of deviation 1e-5 is added, so that equal numbers, such as
    zeros, take the middle of their ranks. What is transformed has no noise. NaN becomes 0. The
    method is that of Gorishniy and others, "Revisiting deep learning models for tabular data"
    (2021).

    Parameters
    ----------
    random_state : int, RandomState or None
        Of the noise.

    Attributes
    ----------
    center_, scale_ : (n_features,) arrays of float64
        Means and standard deviations.
    quantiles_ : (n_quantiles, n_features) array of float64
        Of the standardized columns.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import NoisyQuantile
    >>> X = np.exp(np.linspace(0, 2, 3001))[:, None]
    >>> encoder = NoisyQuantile(random_state=0).fit(X)
    >>> encoder.transform(X[[300, 1600, 2700]]).round(1).ravel()
    array([-1.3,  0.1,  1.3], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "center_": (np.float64, ("n_features",)),
        "scale_": (np.float64, ("n_features",)),
        "quantiles_": (np.float64, ("n_quantiles", "n_features")),
    }
    center_: Array
    scale_: Array
    quantiles_: Array

    @explained
    def __init__(self, random_state: Any = None) -> None:
        self.random_state = random_state

    def learn(self, X: Array, y: Any = None) -> None:
        """Learn from checked rows."""
        moments = [_moments(there(column)) for column in X.T]
        self.center_, self.scale_ = np.array(moments, np.float64).reshape(-1, 2).T.copy()
        noise = check_random_state(self.random_state).normal(0, NOISE, X.shape)
        n = max(min(len(X) // ROWS, MOST), FEWEST)
        transformer = QuantileTransformer(
            n_quantiles=min(n, len(X)), output_distribution="normal", subsample=None
        )
        filled = (X - self.center_) / self.scale_ + noise
        # A column without numbers has no quantiles: any are as good.
        filled[:, np.isnan(filled).all(axis=0)] = 0
        self.quantiles_ = transformer.fit(filled).quantiles_

    def write(self, X: Array, out: Array) -> None:
        """Write the mapped columns of checked rows to `out`."""
        references = np.linspace(0, 1, len(self.quantiles_))
        for j, quantiles in enumerate(np.ascontiguousarray(self.quantiles_.T)):
            z = (X[:, j] - self.center_[j]) / self.scale_[j]
            share = np.interp(z, quantiles, references)
            if (quantiles[1:] <= quantiles[:-1]).any():
                # Of equal quantiles the middle.
                down = np.interp(-z, -quantiles[::-1], -references[::-1])
                share = (share - down) / 2
            share[z + CLOSE > quantiles[-1]] = 1
            share[z - CLOSE < quantiles[0]] = 0
            mapped = np.clip(ndtri(share), -END, END)
            mapped[np.isnan(z)] = 0
            out[:, j] = mapped

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return len(self.center_)

    def _names(self, names: list[str]) -> Sequence[str]:
        return names


def _moments(values: Array) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    return float(values.mean()), float(values.std()) or 1.0


# In standard deviations: frequencies beyond are drawn anew.
LARGEST = 3.0
# Angles of scaled numbers beyond float32's range have no cosine.
HIGHEST = 1e30


class CosineEncoder(NumberEncoder):
    """Encode each number x as x and ``cos(2 pi w x)`` for random frequencies w, which stay fixed.

    The frequencies are normal, truncated at 3 deviations, of deviation `scale`. Columns should be
    scaled before; NaN is taken as 0. The cosines are those of Gorishniy, Rubachev and Babenko, "On
    embeddings for numerical features in tabular deep learning" (2022), where w is trained.

    Parameters
    ----------
    n_frequencies : int
        For each column.
    scale : float
        Above 0.
    random_state : int, RandomState or None
        Of the frequencies.

    Attributes
    ----------
    frequencies_ : (n_features, n_frequencies) array of float32

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import CosineEncoder
    >>> encoder = CosineEncoder(n_frequencies=2, random_state=0).fit(np.zeros((5, 1)))
    >>> encoder.transform([[0.0], [0.5]]).shape
    (2, 3)
    >>> encoder.transform([[0.0]])
    array([[0., 1., 1.]], dtype=float32)
    """

    ARRAYS: ClassVar = {"frequencies_": (np.float32, ("n_features", "n_frequencies"))}
    frequencies_: Array

    @explained
    def __init__(
        self, n_frequencies: int = 8, scale: float = 0.3, random_state: Any = None
    ) -> None:
        self.n_frequencies = n_frequencies
        self.scale = scale
        self.random_state = random_state

    def learn(self, X: Array, y: Any = None) -> None:
        """Draw the frequencies for checked rows."""
        who = type(self).__name__
        n = scalars.positive_integer(who, "n_frequencies", self.n_frequencies)
        scale, random = (
            scalars.positive(who, "scale", self.scale),
            check_random_state(self.random_state),
        )
        drawn = random.normal(size=(X.shape[1], n))
        while (beyond := np.abs(drawn) > LARGEST).any():
            drawn[beyond] = random.normal(size=int(beyond.sum()))
        self.frequencies_ = (scale * drawn).astype(np.float32)

    def write(self, X: Array, out: Array) -> None:
        """Write the numbers and cosines of checked rows to `out`."""
        n_features, n = self.frequencies_.shape
        angles = np.float32(2 * np.pi) * self.frequencies_
        for part in strips(len(X), out.shape[1]):
            with np.errstate(over="ignore"):
                x = X[part].astype(np.float32)
            x[~np.isfinite(x)] = 0
            features = out[part].reshape(len(x), n_features, n + 1)
            features[:, :, 0] = x
            features[:, :, 1:] = np.cos(x[:, :, None] * angles)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return self.frequencies_.shape[0] * (self.frequencies_.shape[1] + 1)

    def _check_arrays(self) -> None:
        if (np.abs(self.frequencies_) > HIGHEST).any():
            raise ValueError(f"frequencies must be at most {HIGHEST}")

    def _names(self, names: list[str]) -> Sequence[str]:
        n = self.frequencies_.shape[1]
        return [label for name in names for label in (name, *(f"{name}_cos{i}" for i in range(n)))]


class MissingMarks(NumberEncoder):
    """Mark missing numbers by 1, and others by 0, in the columns where one is missing in training.

    Attributes
    ----------
    columns_ : (n_outputs,) array of int64
        The places of those columns.

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
        """Learn from checked rows."""
        self.columns_ = np.flatnonzero(np.isnan(X).any(axis=0)).astype(np.int64)

    def write(self, X: Array, out: Array) -> None:
        """Write the marks of checked rows to `out`."""
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


Bins = Literal["greedy", "quantile", "tree"]
# Of a leaf of the tree, by the method's authors.
LEAF_ROWS, LEAF_GAIN = 64, 1e-4


class Pieces(NamedTuple):
    """Numbers as the pieces that they lie in.

    Attributes
    ----------
    piece : (n_rows, n_features) array of int32
        The place of the piece among its column's; 0 in a column without pieces.
    fraction : (n_rows, n_features) array of float32
        The share of that piece that lies below the number, from 0 to 1.
    """

    piece: NDArray[np.int32]
    fraction: NDArray[np.float32]


class PiecewiseLinear(NumberEncoder):
    """Encode each number by the pieces of its column: 1 for a piece below it, 0 for one above.

    Of the piece from edge a to edge b it is ``clip((x - a) / (b - a), 0, 1)``. NaN is encoded as
    the column's median. The method is that of Gorishniy, Rubachev and Babenko, "On embeddings for
    numerical features in tabular deep learning" (2022); below the first edge and above the last
    one theirs goes on linearly.

    Parameters
    ----------
    n_bins : int
        The most pieces of a column.
    bins : "greedy", "quantile" or "tree"
        The edges. "quantile": quantiles, each once. "greedy": a number that more rows share than a
        piece would hold gets an edge of its own, for at most half of the pieces; the others
        share the rest by quantiles; a column of few numbers has all of them as edges, and a
        column of two, or one, has no pieces. "tree": the thresholds of a decision tree of the
        column, which needs `y`: a regression if it is of floats, else classes.

    Attributes
    ----------
    edges_ : (n_edges,) array of float64
        Of all columns, one after the other.
    n_pieces_ : (n_features,) array of int64
        A column with pieces has one edge more; one without has none.
    medians_ : (n_features,) array of float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import PiecewiseLinear
    >>> encoder = PiecewiseLinear(n_bins=3, bins="quantile").fit(np.arange(10.0)[:, None])
    >>> encoder.edges_
    array([0., 3., 6., 9.])
    >>> encoder.transform([[4.5], [0], [20]])
    array([[1. , 0.5, 0. ],
           [0. , 0. , 0. ],
           [1. , 1. , 1. ]], dtype=float32)
    >>> encoder.pieces([[4.5]])
    Pieces(piece=array([[1]], dtype=int32), fraction=array([[0.5]], dtype=float32))
    """

    ARRAYS: ClassVar = {
        "edges_": (np.float64, ("n_edges",)),
        "n_pieces_": (np.int64, ("n_features",)),
        "medians_": (np.float64, ("n_features",)),
    }
    edges_: Array
    n_pieces_: Array
    medians_: Array
    _table: tuple[Array, Array]

    @explained
    def __init__(self, n_bins: int = 16, bins: Bins = "greedy") -> None:
        self.n_bins = n_bins
        self.bins = bins

    def learn(self, X: Array, y: Any = None) -> None:
        """Learn from checked rows."""
        who = type(self).__name__
        scalars.positive_integer(who, "n_bins", self.n_bins)
        scalars.known(who, "bins", self.bins, get_args(Bins))
        if self.bins == "tree" and np.shape(y) != (len(X),):
            got = "" if y is None else f", got shape {np.shape(y)}"
            raise ValueError(f"{who}: bins='tree' needs y, targets of shape {(len(X),)}{got}")
        edges = [self._edges(column, y) for column in X.T]
        self.edges_ = np.concatenate([np.empty(0), *edges])
        self.n_pieces_ = np.array([max(0, len(column) - 1) for column in edges], np.int64)
        numbers = [there(column) for column in X.T]
        self.medians_ = np.array([np.median(column) if len(column) else 0.0 for column in numbers])
        self._table = self._made_table()

    def _edges(self, column: Array, y: Any) -> Array:
        values = there(column)
        if not len(values):
            return values
        if self.bins == "greedy":
            edges = greedy_edges(values, self.n_bins)
        elif self.bins == "quantile":
            edges = quantile_edges(values, self.n_bins)
        else:
            edges = tree_edges(values, np.asarray(y)[~np.isnan(column)], self.n_bins)
        return edges if len(edges) > 1 else edges[:0]

    def write(self, X: Array, out: Array) -> None:
        """Write the pieces of checked rows to `out`."""
        lows, factors = self.table
        filled = self._filled(X)
        for part in strips(len(X), len(lows)):
            # For 10,000 x 20 x 16: 6 ms, and 17 by broadcasting, column by column.
            shares = np.repeat(filled[part], self.n_pieces_, axis=1)
            with np.errstate(over="ignore"):
                shares -= lows
                shares *= factors
                np.clip(shares.astype(np.float32), 0, 1, out=out[part])

    def pieces(self, X: Any) -> Pieces:
        """Return the pieces that numbers lie in, and how far: what `transform` says, in short.

        A piece of an encoded row is 1 before `piece`, `fraction` at it, and 0 after it.
        """
        check_is_fitted(self)
        return self.pieces_of(self._checked(X, reset=False))

    @np.errstate(over="ignore", invalid="ignore")
    def pieces_of(self, X: Array) -> Pieces:
        """Return the pieces of checked rows."""
        filled, first = self._filled(X), 0
        piece, fraction = np.zeros(X.shape, np.int32), np.zeros(X.shape, np.float32)
        for j, n in enumerate(self.n_pieces_):
            if n:
                edges = self.edges_[first : first + n + 1]
                place = np.searchsorted(edges[1:-1], filled[:, j], side="right")
                low, high = edges[place], edges[place + 1]
                piece[:, j] = place
                shares = (np.clip(filled[:, j], low, high) - low) / (high - low)
                fraction[:, j] = np.clip(np.nan_to_num(shares), 0, 1)
                first += n + 1
        return Pieces(piece, fraction)

    def write_short(self, X: Array, out: Array) -> None:
        """Write the piece of each number and its fraction, as their sum."""
        from fastmlp.tabular.encoders import compiled

        compiled.write_pieces(X, out, self.edges_, self.n_pieces_, self.medians_)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return int(self.n_pieces_.sum())

    @property
    def spans(self) -> tuple[int, ...]:
        """The pieces of each column that has some."""
        return tuple(self.n_pieces_[self.n_pieces_ > 0].tolist())

    def _check_arrays(self) -> None:
        n = self.n_pieces_
        if ((n < 0) | (n > self.n_bins)).any():
            raise ValueError(f"a column must have 0 pieces or more, and at most {self.n_bins}")
        if int(n.sum()) + np.count_nonzero(n) != len(self.edges_):
            raise ValueError("the edges are not as many as the pieces need")
        self._table = self._made_table()

    def _filled(self, X: Array) -> Array:
        missing = np.isnan(X)
        return np.where(missing, self.medians_, X) if missing.any() else X

    @property
    def table(self) -> tuple[Array, Array]:
        """The low edge of each piece, and 1 / its width, shape (n_outputs,)."""
        return self._table

    def _made_table(self) -> tuple[Array, Array]:
        """The table; made for each row to predict it would take half of the encoding's time."""
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


def quantile_edges(values: Array, n_bins: int) -> Array:
    """Return the quantiles of numbers that are not missing, each once, sorted."""
    return np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))


def greedy_edges(values: Array, n_bins: int) -> Array:
    """Return edges, sorted: frequent numbers, and the quantiles of the others."""
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
    edges = [distinct[~others], quantile_edges(rest, n_bins - len(frequent))]
    return np.unique(np.concatenate(edges))


def tree_edges(values: Array, y: Array, n_bins: int) -> Array:
    """Return edges, sorted: the ends, and the thresholds of a decision tree."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind: Callable[..., Any] = (
        DecisionTreeRegressor if y.dtype.kind == "f" else DecisionTreeClassifier
    )
    ends = [values.min(), values.max()]
    if n_bins < 2:
        return np.unique(ends)
    leaves = {"max_leaf_nodes": n_bins, "min_samples_leaf": min(LEAF_ROWS, max(1, len(y) // 2))}
    tree = kind(**leaves, min_impurity_decrease=LEAF_GAIN, random_state=0).fit(values[:, None], y)
    inner = tree.tree_.threshold[tree.tree_.feature >= 0]
    inside = inner[(inner > ends[0]) & (inner < ends[1])]
    return np.unique([*ends, *inside])
