"""Models of every class but those of tables, and targets for each."""

from typing import Any

import numpy as np
from sklearn.model_selection import PredefinedSplit

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
FEW: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "tol": 0}
TARGETS: dict[str, Any] = {
    "number": X[:, 0] + 1,
    "numbers": X[:, :2],
    "two": X[:, 0] > 0,
    "three": np.array([*"abc"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "labels": (X[:, :2] > 0).astype(int),
    "one": np.zeros(60, int),
}


def net_of(target: str, loss: Any) -> Any:
    sizes = {"numbers": (3, 4, 2), "labels": (3, 4, 2), "three": (3, 4, 3)}.get(target, (3, 4, 1))
    return MLP(sizes, loss=loss).as_estimator(random_state=0, epochs=2)


MODELS: dict[str, Any] = {
    "regressor": lambda target: MLPRegressor(**FEW),
    "classifier": lambda target: MLPClassifier(**FEW),
    "net": lambda target: net_of(target, "mse"),
    "net_classifier": lambda target: net_of(target, "binary_cross_entropy"),
    "net_softmax": lambda target: net_of(target, "cross_entropy"),
    "search": lambda target: MLPSearchCV(
        MLPRegressor(**FEW), {"alpha": [0.1, 1.0]}, cv=PredefinedSplit(np.arange(60) % 2)
    ),
}
CASES = [
    *[
        (name, target)
        for name in ("regressor", "net", "search")
        for target in ("number", "numbers")
    ],
    *[("classifier", target) for target in ("two", "three", "labels", "one")],
    *[("net_classifier", target) for target in ("two", "three", "labels")],
    ("net_softmax", "three"),
]
