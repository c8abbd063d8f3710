"""Plain data take shortcuts, to the bits, the attributes and the errors of scikit-learn's code."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fitting import unconverged
from sklearn import neural_network
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import multiclass

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.estimators import base

pytestmark = unconverged

LABELS: list[Callable[[np.random.Generator, int], Any]] = [
    lambda rng, n: rng.integers(-3, 4, n),
    lambda rng, n: rng.integers(0, 2, n).astype(np.int8),
    lambda rng, n: rng.integers(0, 200, n).astype(np.uint8),
    lambda rng, n: np.full(n, 7, np.uint64),
    lambda rng, n: rng.choice(["no", "yes", "a longer text"], n).astype("U30"),
    lambda rng, n: rng.choice(["no", "yes", "ü"], n).astype(object),
    lambda rng, n: rng.integers(0, 2, n).astype(bool),
    lambda rng, n: rng.integers(0, 3, n).astype(float),
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: rng.integers(0, 3, n).tolist(),
    lambda rng, n: rng.integers(0, 2, (n, 3)),
    lambda rng, n: rng.integers(0, 3, (n, 1)),
    lambda rng, n: rng.integers(0, 3, n + 1),
    lambda rng, n: np.arange(n),
    lambda rng, n: rng.choice([b"no", b"yes"], n),
    lambda rng, n: rng.integers(0, 3, n).astype(">i4")[::-1],
]
ROWS: list[Callable[[Any], Any]] = [
    lambda X: X,
    lambda X: X,
    lambda X: X.astype(np.float32),
    np.asfortranarray,
    lambda X: X[:, ::-1],
    lambda X: X.astype(">f8"),
    lambda X: X.astype(np.float16),
    lambda X: X.tolist(),
    lambda X: np.rint(X).astype(int),
    lambda X: X[:, :-1],
    lambda X: X[0],
    lambda X: X[None],
    lambda X: X[:0],
    lambda X: np.where(X[0, 0] == X, np.nan, X),
    lambda X: np.where(X[0, 0] == X, -np.inf, X),
    lambda X: np.full_like(X, 1e308),
]


TARGETS: list[Callable[[np.random.Generator, int], Any]] = [
    lambda rng, n: rng.normal(size=n),
    lambda rng, n: rng.normal(size=(n, 2)),
    lambda rng, n: rng.normal(size=(n, 2)).astype(np.float32),
    lambda rng, n: rng.normal(size=(n, 1)),
    lambda rng, n: rng.normal(size=(n, 2, 2)),
    lambda rng, n: rng.normal(size=n + 1),
    lambda rng, n: rng.integers(0, 9, n),
    lambda rng, n: rng.normal(size=n).tolist(),
    lambda rng, n: np.full(n, np.nan),
]


def described(value: Any) -> Any:
    """A value that compares to the bit: arrays by their bytes, objects by their attributes."""
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype == object else value.tobytes()
        return value.dtype.str, value.shape, content
    if isinstance(value, dict):
        return {name: described(entry) for name, entry in value.items()}
    return described(vars(value)) if type(value).__module__.startswith("sklearn") else value


def outcome(kind: Any, estimator: Any, X: Any, y: Any, **options: bool) -> Any:
    """What a class's check of data returns, or its error; and the attributes that it sets."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = [
                described(array) for array in kind._validate_input(estimator, X, y, **options)
            ]
        except (TypeError, ValueError) as error:
            result = [type(error), str(error)]
    learnt = {n: v for n, v in vars(estimator).items() if n.endswith("_") or n.startswith("_l")}
    return result, described(learnt), [str(warning.message) for warning in caught]


@pytest.mark.parametrize("seed", range(200))
def test_data_are_checked_as_by_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, classifies = int(rng.choice([1, 2, 15, 21, 40])), rng.random() < 0.8
    ours: Any = MLPClassifier if classifies else MLPRegressor
    theirs: Any = getattr(neural_network, ours.__name__)
    kinds = LABELS if classifies else TARGETS
    warm, partial, same = (bool(draw) for draw in rng.integers(2, size=3))
    pair = ours(warm_start=warm), ours(warm_start=warm)
    target = kinds[rng.integers(len(kinds))]
    for first in (True, False):
        X = ROWS[rng.integers(len(ROWS))](rng.normal(size=(n, 3)))
        y = (target if same else kinds[rng.integers(len(kinds))])(rng, n)
        if not classifies:
            pair[0].out_activation_ = pair[1].out_activation_ = "identity"
            if np.asarray(y).dtype.kind == "O":
                continue
        options = {"incremental": partial, "reset": first or not (warm or partial)}
        assert outcome(ours, pair[0], X, y, **options) == outcome(theirs, pair[1], X, y, **options)


def test_plain_data_are_not_given_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = np.eye(6), np.array([0, 1, 2, 2, 1, 0])
    with monkeypatch.context() as patch:
        for module, name in (
            (base, "validate_data"), (neural_network._multilayer_perceptron, "validate_data"),
            (neural_network._multilayer_perceptron, "type_of_target"),
            (neural_network._multilayer_perceptron, "unique_labels"),
        ):  # fmt: skip
            patch.setattr(module, name, None)
        for labels in (y, y % 2, y.astype(str)):
            MLPClassifier(max_iter=1).fit(X, labels).predict(X)
        MLPRegressor(max_iter=1).fit(X, X[:, 0]).partial_fit(X, X[:, 0])
    classifier = MLPClassifier().partial_fit(X, y, classes=[0, 1, 2])
    monkeypatch.setattr(multiclass, "unique_labels", None)
    classifier.partial_fit(X[:1], y[:1], classes=[0, 1, 2])


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 3], ["0", "1", "2"], [2, 1, 0], [], [[0], 1]])
def test_classes_of_a_later_call(classes: Any) -> None:
    X, y = np.eye(3), np.arange(3)
    errors = []
    for kind in (MLPClassifier, neural_network.MLPClassifier):
        model = kind().partial_fit(X, y, classes=[0, 1, 2])
        try:
            errors.append(str(model.partial_fit(X, y, classes=classes) is model))
        except (TypeError, ValueError) as error:
            errors.append(f"{type(error)} {error}")
    assert errors[0] == errors[1]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, width = rng.integers(2, 20), int(rng.integers(1, 4))
    outputs, truth = rng.uniform(size=(n, width)), rng.random((n, width)) < 0.5
    weight = rng.uniform(0.1, 1, n) if seed % 2 else None
    ours = base.accuracy(outputs, truth, weight, one_hot=False)
    assert ours == pytest.approx(accuracy_score(truth, outputs > 0.5, sample_weight=weight))
    ours = base.r2(outputs, truth * 1.0, weight)
    assert ours == pytest.approx(r2_score(truth * 1.0, outputs, sample_weight=weight))
    labels = rng.integers(width, size=n)
    ours = base.accuracy(outputs, np.eye(width)[labels], weight, one_hot=True)
    expected = accuracy_score(labels, outputs.argmax(axis=1), sample_weight=weight)
    assert ours == pytest.approx(expected)


def test_a_seed_draws_the_same_numbers_in_each_fit() -> None:
    X, y = np.eye(6), np.arange(6) % 2
    model = MLPClassifier(random_state=3, max_iter=2)
    first = [coef.copy() for coef in model.fit(X, y).coefs_]
    own = np.random.RandomState(3)
    for copied in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert "_seeded" not in vars(copied)
        assert all(map(np.array_equal, copied.fit(X, y).coefs_, first))
    model.set_params(random_state=own).fit(X, y)
    state = own.get_state(legacy=False)["state"]["key"].copy()
    assert all(map(np.array_equal, model.set_params(random_state=3).fit(X, y).coefs_, first))
    np.testing.assert_array_equal(own.get_state(legacy=False)["state"]["key"], state)
    with pytest.raises(ValueError, match="'random_state' parameter"):
        model.set_params(random_state=-1).fit(X, y)


def test_a_parameter_is_checked_in_the_fit_after_it_was_set() -> None:
    X, y = np.eye(6), np.arange(6) % 2
    model = MLPClassifier(max_iter=1).fit(X, y).fit(X, y)
    with pytest.raises(ValueError, match="'tol' parameter"):
        model.set_params(tol=-1.0).fit(X, y)
    with pytest.raises(ValueError, match="'tol' parameter"):
        model.fit(X, y)
    model.set_params(tol=0.0).fit(X, y)
