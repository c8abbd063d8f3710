"""A fitted model of tables as what becomes of a row: steps that make nets' inputs, and nets."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.predict.trees import TableTrees
from fastmlp.model import MLP
from fastmlp.rules.columns import LevelStep, NumberStep

Array = NDArray[Any]
MISSING = -1


Step = NumberStep | LevelStep


class TableNet(NamedTuple):
    """A net of a model of tables: the place of its steps, and its weight in the mean."""

    net: MLP
    encoding: int
    weight: float


class TableParts(NamedTuple):
    """A model of tables whose predictions are the weighted mean of its nets' and its trees'.

    A row is of float64, in the order of the table's columns: a number, NaN where it is missing, or
    the code of a level, -1 where it is missing or unknown. A date has a number for each part.

    Attributes
    ----------
    feature_names : of the numbers of a row
    levels : of each number of a row; empty if it is no code
    numbers, codes : places in a row of what steps call numbers and codes
    encodings : the steps of each encoding, whose inputs follow each other
    members : in the order in which their predictions are summed up
    n_outputs : numbers that are predicted for a row
    classes : labels; None for a regression
    scale, center, low, high : of a regression: nets predict ``(y - center) / scale``, and y is
        between low and high
    trees : TableTrees, or None; they are added last
    """

    feature_names: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
    numbers: Array
    codes: Array
    encodings: tuple[tuple[Step, ...], ...]
    members: tuple[TableNet, ...]
    n_outputs: int
    classes: Array | None
    scale: float
    center: float
    low: float
    high: float
    trees: TableTrees | None

    @property
    def n_features(self) -> int:
        """The numbers of a row."""
        return len(self.feature_names)

    @property
    def nets(self) -> list[MLP]:
        """The nets."""
        return [member.net for member in self.members]

    @property
    def n_constants(self) -> int:
        """The numbers of all steps, and of trees."""
        sizes = [step.constants.size for steps in self.encodings for step in steps]
        nodes = self.trees.nodes if self.trees else ()
        return sum(sizes) + sum(array.size for array in nodes)

    @property
    def steps(self) -> list[list[Step]]:
        """The steps of each encoding, whose columns are places in a row."""
        return [[self._placed(step) for step in steps] for steps in self.encodings]

    def _placed(self, step: Step) -> Step:
        places = self.numbers if isinstance(step, NumberStep) else self.codes
        return step._replace(columns=places[step.columns])

    def drawn(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Rows of numbers as in training, of levels, and of missing ones."""
        generator = np.random.default_rng(seed)
        rows = np.full((n, self.n_features), np.nan)
        steps = (step for steps in self.encodings for step in steps if isinstance(step, NumberStep))
        scaled = next((step for step in steps if step.constants.shape[1] == 2), None)
        if scaled is not None:
            center, factor = scaled.constants.T
            spread = np.divide(1, factor, out=np.ones_like(factor), where=factor > 0)
            numbers = center + spread * generator.normal(size=(n, len(center)))
            rows[:, self.numbers[scaled.columns]] = np.where(
                generator.random(numbers.shape) < 0.1, np.nan, numbers
            )
        elif self.trees is not None:
            for j in self.numbers:
                limits = self.trees.nodes.numbers[self.trees.nodes.features == j]
                rows[:, j] = generator.choice([*limits, np.nan], n)
        for j in self.codes:
            rows[:, j] = generator.integers(MISSING, len(self.levels[j]), n)
        return rows
