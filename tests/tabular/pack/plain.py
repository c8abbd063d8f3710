"""An encoding for tests of packs: scaled numbers and one column a level."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Values(NamedTuple):
    """Rows of a table."""

    numbers: Array
    codes: Array


class Plain:
    """Scaled numbers, 0 where they are missing, and one column for each code."""

    def fit_transform(self, values: Values, y: Array, task: str, rng: np.random.Generator) -> Array:
        """Learn centers, scales and levels."""
        self.center, self.scale = (
            np.nanmean(values.numbers, axis=0),
            np.nanstd(values.numbers, axis=0),
        )
        self.n_levels = values.codes.max(axis=0, initial=-1) + 1
        return self.transform(values)

    def transform(self, values: Values) -> Array:
        """Return the inputs."""
        numbers = np.nan_to_num((values.numbers - self.center) / self.scale)
        levels = [
            codes[:, None] == np.arange(n)
            for codes, n in zip(values.codes.T, self.n_levels, strict=True)
        ]
        return np.ascontiguousarray(np.concatenate([numbers, *levels], axis=1), np.float32)


def table(n: int, seed: int = 0) -> tuple[Values, Array]:
    """Rows of three numbers and two categories, and a number that depends on them."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(n, 3))
    codes = generator.integers(-1, 3, (n, 2)).astype(np.int32)
    y = numbers[:, 0] * (codes[:, 0] == 1) + numbers[:, 1] + 0.3 * generator.normal(size=n)
    numbers[generator.random(n) < 0.05, 2] = np.nan
    return Values(numbers, codes), y
