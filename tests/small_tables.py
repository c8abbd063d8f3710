"""A small table of mixed columns, and models of it."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from fastmlp import TabularMLPClassifier, TabularMLPRegressor

FEW: dict[str, Any] = {"n_members": 2, "max_iter": 8, "random_state": 0}
TOWNS = np.array(["Bern", "Chur", "Genf", "Zug"])


@cache
def drawn(n: int = 120, seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """Numbers, some of them missing, texts and booleans; and a number that depends on them."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 90, n),
            "town": generator.choice(TOWNS, n),
            "income": generator.lognormal(1, 1, n),
            "member": generator.random(n) < 0.4,
        }
    )
    y = frame["age"] / 20 + (frame["town"] == "Chur") * 2 + frame["member"]
    frame.loc[generator.random(n) < 0.1, "income"] = np.nan
    frame.loc[generator.random(n) < 0.1, "town"] = None
    return frame, y.to_numpy() + 0.2 * generator.normal(size=n)


def labels(n: int = 120) -> Any:
    """Three classes as texts."""
    y = drawn(n)[1]
    return np.array(["low", "middle", "top"])[np.searchsorted(np.quantile(y, [0.3, 0.7]), y)]


@cache
def classifier() -> TabularMLPClassifier:
    """A model of the three classes, with rows of its own to validate on."""
    X, _ = drawn()
    return TabularMLPClassifier(**FEW).fit(X, labels(), X_val=X[::3], y_val=labels()[::3])


@cache
def regressor() -> TabularMLPRegressor:
    """A model of the number, of folds."""
    return TabularMLPRegressor(**FEW, cv=2).fit(*drawn())
