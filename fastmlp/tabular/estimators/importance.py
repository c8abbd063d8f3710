"""Importances of columns: how much worse a model predicts rows in which one is shuffled."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.inspection import permutation_importance

from fastmlp.estimators.sklearn_bases import BaseEstimator
from fastmlp.tabular.pack import Part
from fastmlp.tabular.pack.scoring import Scorer
from fastmlp.tabular.schema import Values

Array = NDArray[Any]
# Rows that a model keeps, and numbers in them.
MOST_ROWS, MOST_NUMBERS = 2000, 1_000_000
N_REPEATS = 5


class Kept(NamedTuple):
    """Rows that a model keeps, and the seed of what is drawn about them."""

    part: Part
    seed: int


def kept_of(part: Part, generator: np.random.Generator) -> Kept:
    """Return some rows of those to validate on."""
    n_columns = part.values.numbers.shape[1] + part.values.codes.shape[1]
    most = min(MOST_ROWS, max(MOST_NUMBERS // n_columns, 10))
    rows = np.arange(len(part.y))
    if len(rows) > most:
        rows = np.sort(generator.choice(len(rows), most, replace=False))
    return Kept(part.take(rows), int(generator.integers(2**31)))


def importances(model: Any, kept: Kept) -> NDArray[np.float64]:
    """Return the importances of a model's columns, shape (n_features,)."""
    schema, part = model.schema_, kept.part
    scorer = Scorer(model.pack_.task, part.y, part.weight)

    def score(rows: "_Rows", X: Array, y: Array, sample_weight: Any = None) -> float:
        return scorer.score_of(rows.predict(X))

    names = schema.read_names
    # Places of rows, a column for each of the table: all parts of a date are shuffled as one.
    X = np.repeat(np.arange(len(part.y))[:, None], len(names), axis=1)
    found = permutation_importance(
        _Rows(model, part.values),
        X,
        part.y,
        scoring=score,
        n_repeats=N_REPEATS,
        random_state=kept.seed,
    )
    by_name = dict(zip(names, found.importances_mean.tolist(), strict=True))
    return np.array([by_name.get(name, 0.0) for name in schema.columns])


class _Rows(BaseEstimator):
    """A model as an estimator of places of rows, one for each column."""

    def __init__(self, model: Any, values: Values) -> None:
        self.model, self.values = model, values
        schema = model.schema_
        of_name = {name: j for j, name in enumerate(schema.read_names)}
        self._numbers = [of_name[name] for name in schema.number_names]
        self._codes = [of_name[name] for name in schema.categorical_names]

    def fit(self, X: Any, y: Any = None) -> "_Rows":
        """Learn nothing."""
        return self

    def predict(self, X: Array) -> Array:
        """Return numbers, or probabilities."""
        numbers = np.take_along_axis(self.values.numbers, X[:, self._numbers], axis=0)
        codes = np.take_along_axis(self.values.codes, X[:, self._codes], axis=0)
        found: Array = self.model._predicted(Values(numbers, codes))
        return found
