"""The parts of a model predict what the model predicts."""

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
)
from fastmlp.export.models import Parts, parts_of

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
FEW: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "tol": 0}
TARGETS: dict[str, Any] = {
    "number": X[:, 0] + 1,
    "numbers": X[:, :2],
    "two": X[:, 0] > 0,
    "three": np.array([*"abc"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "labels": (X[:, :2] > 0).astype(int),
    "rare": np.array(["a"] * 57 + ["b"] * 2 + ["c"]),
    "one": np.zeros(60, int),
}


def net_of(target: str, loss: Any) -> Any:
    sizes = {"numbers": (3, 4, 2), "labels": (3, 4, 2), "three": (3, 4, 3)}.get(target, (3, 4, 1))
    return MLP(sizes, loss=loss).as_estimator(random_state=0, epochs=2)


MODELS: dict[str, Any] = {
    "regressor": lambda target: MLPRegressor(**FEW),
    "classifier": lambda target: MLPClassifier(**FEW),
    "mean_of_regressors": lambda target: MLPEnsembleRegressor(**FEW, n_members=3),
    "mean_of_classifiers": lambda t: MLPEnsembleClassifier(**FEW, n_members=5, bootstrap=True),
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
    ("mean_of_regressors", "number"),
    *[("classifier", target) for target in ("two", "three", "labels", "one")],
    *[("mean_of_classifiers", target) for target in ("two", "three", "labels", "rare", "one")],
    *[("net_classifier", target) for target in ("two", "three", "labels")],
    ("net_softmax", "three"),
]


def by_parts(parts: Parts, rows: Any) -> Any:
    total = np.zeros((len(parts.members), len(rows), parts.n_outputs))
    for (net, columns), of_member in zip(parts.members, total, strict=True):
        if net is None:
            of_member[:, columns] = 1
            continue
        values = net.predict(rows)
        if parts.completion == "complement" and values.shape[1] == 1:
            values = np.hstack([1 - values, values])
        elif parts.completion == "sum":
            values /= values.sum(axis=1, keepdims=True)
        of_member[:, columns] = values
    return total.mean(axis=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("name", "target"), CASES)
def test_parts_predict_as_the_model(name: str, target: str) -> None:
    model = MODELS[name](target).fit(X, TARGETS[target])
    parts = parts_of(model, "export")
    expected = model.predict_proba(X) if hasattr(model, "classes_") else model.predict(X)
    np.testing.assert_array_equal(by_parts(parts, X), expected.reshape(len(X), -1))
    assert (parts.n_features, parts.n_outputs) == (3, expected.size // len(X))
    assert parts.is_net == (
        len(parts.members) == 1
        and np.array_equal(parts.members[0].net.predict(X), expected.reshape(len(X), -1))  # type: ignore[union-attr]
    )


def test_parts_of_a_net() -> None:
    net = MLP((3, 4, 2), seed=0)
    net.feature_names = [*"abc"]
    parts = parts_of(net, "export")
    assert parts.members[0].net is net
    assert parts.feature_names == ("a", "b", "c")
    assert parts.is_net


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (make_pipeline(StandardScaler(), MLPRegressor()), TypeError, "to_c: .* fastmlp.fold"),
        (MLPRegressor(), ValueError, "to_c: the MLPRegressor is not fitted"),
        (StandardScaler(), TypeError, "to_c: model must be an MLP, .*, got StandardScaler"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_what_has_no_parts(model: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        parts_of(model, "to_c")
