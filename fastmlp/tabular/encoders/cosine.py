"""CosineEncoder: each number with cosines of it at random frequencies."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state

from fastmlp.tabular.encoders.base import Array, NumberEncoder, strips
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

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
            each = out[part].reshape(len(x), n_features, n + 1)
            each[:, :, 0] = x
            each[:, :, 1:] = np.cos(x[:, :, None] * angles)

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return self.frequencies_.shape[0] * (self.frequencies_.shape[1] + 1)

    def _check_arrays(self) -> None:
        if (np.abs(self.frequencies_) > HIGHEST).any():
            raise ValueError(f"frequencies must be at most {HIGHEST}")

    def _names(self, names: list[str]) -> Sequence[str]:
        n = self.frequencies_.shape[1]
        return [one for name in names for one in (name, *(f"{name}_cos{i}" for i in range(n)))]
