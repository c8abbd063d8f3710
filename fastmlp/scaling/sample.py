"""A random sample of the rows of a stream, of bounded size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Sample:
    """At most `size` rows of a stream, every row with the same chance.

    Each row draws a number, and the rows of the smallest numbers stay: which they are does not
    depend on how the stream is cut into blocks.

    Parameters
    ----------
    size : int
    generator : numpy.random.Generator
    """

    size: int

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size, self._generator = size, generator
        self._keys = np.empty(0)
        self._parts: list[Array] = []

    def rows(self) -> Array:
        """Return the rows so far, shape (n, n_features), n up to `size`."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def add(self, block: Array) -> None:
        """Draw for the rows of a block, shape (n_rows, n_features)."""
        keys = self._generator.random(len(block))
        free = self.size - len(self._keys)
        if free:
            self._keys = np.concatenate([self._keys, keys[:free]])
            self._parts.append(block[:free].copy())
            block, keys = block[free:], keys[free:]
        better = np.flatnonzero(keys < self._keys.max())
        if not len(better):
            return
        both = np.concatenate([self._keys, keys[better]])
        stay = np.zeros(len(both), bool)
        stay[np.argpartition(both, self.size - 1)[: self.size]] = True
        out, new = np.flatnonzero(~stay[: self.size]), better[stay[self.size :]]
        self.rows()[out] = block[new]
        self._keys[out] = keys[new]
