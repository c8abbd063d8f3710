"""NoisyQuantile: columns by their quantiles to a normal distribution."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils import check_random_state

from fastmlp.tabular.encoders.base import Array, NumberEncoder, there
from fastmlp.validation.calls import explained

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
        how = {"n_quantiles": min(n, len(X)), "output_distribution": "normal", "subsample": None}
        filled = (X - self.center_) / self.scale_ + noise
        # A column without numbers has no quantiles: any are as good.
        filled[:, np.isnan(filled).all(axis=0)] = 0
        self.quantiles_ = QuantileTransformer(**how).fit(filled).quantiles_

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
            found = np.clip(ndtri(share), -END, END)
            found[np.isnan(z)] = 0
            out[:, j] = found

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
