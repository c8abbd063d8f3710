"""MissingMarks: 1 where a number is missing."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fastmlp.tabular.encoders.base import Array, NumberEncoder


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
