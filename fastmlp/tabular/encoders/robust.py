"""RobustSmoothClip: columns by their median and quartiles, with outliers drawn in smoothly."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fastmlp.tabular.encoders.base import Array, NumberEncoder, there

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
        What a distance from the median is multiplied by.

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
        learned = [_learned(there(column)) for column in X.T]
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


def _learned(values: Array) -> tuple[float, float]:
    """Return a column's median and factor, of the numbers that are there."""
    if not len(values):
        return 0.0, 0.0
    low, middle, high = np.quantile(values, QUARTILES)
    distance = high - low or (values.max() - values.min()) / 2
    with np.errstate(over="ignore", divide="ignore"):
        factor = 1 / distance if distance > 0 else 0.0
    return float(middle), float(min(factor, np.finfo(np.float64).max))
