"""The estimators' fit over a source: the bits of arrays in one buffer, and several buffers."""

import pickle
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from fitting import unconverged
from pairs import same
from sklearn.base import BaseEstimator, clone

from fastmlp import Adam, Blocks, Cosine, MLPClassifier, MLPRegressor, Standardizer, fold

rng = np.random.default_rng(0)
N = 1200
X = rng.normal(size=(N, 4))
Y = X[:, 0] * X[:, 1]
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [-0.3, 0.3])]
WEIGHT = rng.uniform(0.5, 2, N)
pytestmark = unconverged


def stream() -> Iterator[Any]:
    for first in range(0, N, 170):
        yield X[first : first + 170], LABELS[first : first + 170]


def stream_of_numbers() -> Iterator[Any]:
    yield X[:700], Y[:700]
    yield X[700:], Y[700:]


@pytest.mark.parametrize(("solver", "early"), [("adam", False), ("adam", True), ("lbfgs", False)])
def test_in_one_buffer_the_bits_are_those_of_arrays(solver: Any, early: bool) -> None:
    options: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    options |= {"solver": solver, "early_stopping": early}
    regressors = [MLPRegressor(**options) for _ in range(2)]
    regressors[0].fit(X, Y, WEIGHT)
    regressors[1].fit(Blocks.from_arrays(X, Y, WEIGHT, rows=170))
    classifiers = [MLPClassifier(**options) for _ in range(2)]
    classifiers[0].fit(X, LABELS)
    classifiers[1].fit(stream)
    assert same(*regressors)
    assert same(*classifiers)
    assert classifiers[1].classes_.tolist() == ["high", "low", "middle"]
    assert (classifiers[1].predict(X) == classifiers[0].predict(X)).all()
    assert classifiers[1].n_features_in_ == 4


def test_frames_by_target_and_class_weight() -> None:
    frame = pd.DataFrame(X.astype(np.float32), columns=list("abcd")).assign(y=(Y > 0).astype(int))
    options: dict[str, Any] = {"max_iter": 3, "random_state": 0, "class_weight": {0: 1.0, 1: 2.0}}
    one = MLPClassifier((8,), **options).fit(frame[list("abcd")].to_numpy(), frame["y"])
    other = MLPClassifier((8,), **options).fit(frame, target="y")
    assert same(one, other)
    assert other.coefs_[0].dtype == np.float32
    assert other.feature_names_in_.tolist() == list("abcd")
    assert (other.predict(frame[list("abcd")]) == one.predict(X.astype(np.float32))).all()
    other.set_params(warm_start=True).fit(frame[["y", *"dcba"]], target="y")
    again = one.set_params(warm_start=True).fit(X.astype(np.float32), frame["y"])
    assert same(again, other)


@pytest.mark.parametrize("solver", ["adam", "sgd", Adam(0.01)])
def test_several_buffers(solver: Any) -> None:
    """Without shuffling they are the batches of arrays."""
    options: dict[str, Any] = {"random_state": 0, "solver": solver, "batch_size": 10, "max_iter": 3}
    source = Blocks.from_arrays(X, LABELS, rows=100)
    plain = [MLPClassifier((8,), shuffle=False, **options) for _ in range(3)]
    plain[0].fit(X, LABELS)
    plain[1].fit(source, buffer_rows=170, classes=["high", "low", "middle"])
    plain[2].fit(stream, buffer_rows=170)
    for each in plain[1:]:
        assert same(plain[0], each)
        np.testing.assert_allclose(each.loss_curve_, plain[0].loss_curve_, rtol=1e-12)
        assert each.t_ == plain[0].t_ == 3 * N
    mixed = [MLPClassifier((8,), **options).fit(source, buffer_rows=170) for _ in range(2)]
    assert same(*mixed)
    assert not same(mixed[0], plain[0])
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


def test_early_stopping_and_callbacks_over_buffers() -> None:
    model = MLPRegressor(early_stopping=True, random_state=0, max_iter=6, batch_size=20)
    source, seen = Blocks.from_arrays(X, Y, rows=100), list[Any]()
    options: dict[str, Any] = {"buffer_rows": 400, "X_val": X[:200], "y_val": Y[:200]}
    model.fit(source, callbacks=seen.append, **options)
    assert len(seen) == len(model.loss_curve_) == model.n_iter_
    assert len(model.validation_scores_ or []) == model.n_iter_
    model.set_params(warm_start=True).fit(source, **options)


def test_a_generator_is_read_once_from_its_first_block() -> None:
    models = [MLPRegressor(max_iter=1, random_state=0) for _ in range(2)]
    models[0].fit(X, Y)
    models[1].fit(stream_of_numbers())
    assert same(*models)
    labels = MLPClassifier((8,), max_iter=1).fit(stream(), classes=["high", "low", "middle"])
    assert labels.t_ == N


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_balanced_classes_and_labels_of_a_table(dtype: Any) -> None:
    """Texts in a column; a pass over them alone finds the classes and how many rows they have."""
    frame = pd.DataFrame(X.astype(dtype), columns=list("abcd")).assign(y=LABELS)
    options: dict[str, Any] = {"max_iter": 3, "random_state": 0, "class_weight": "balanced"}
    models = [MLPClassifier((8,), **options) for _ in range(4)]
    models[0].fit(X.astype(dtype), LABELS, WEIGHT)
    models[1].fit(Blocks.from_arrays(X.astype(dtype), LABELS, WEIGHT, rows=170))
    assert same(*models[:2])
    models[2].fit(X.astype(dtype), LABELS)
    models[3].fit(frame, target="y")
    assert same(*models[2:])
    assert models[3].classes_.tolist() == ["high", "low", "middle"]
    assert (models[3].predict(frame[list("abcd")]) == models[2].predict(X)).all()


@pytest.mark.parametrize("classifies", [True, False])
def test_rows_to_validate_on_are_a_source(classifies: bool) -> None:
    """Beside arrays, and beside a source; of a table by the column of y."""
    make, y = (MLPClassifier, LABELS) if classifies else (MLPRegressor, Y)
    options: dict[str, Any] = {"max_iter": 4, "random_state": 0, "early_stopping": True}
    frame = pd.DataFrame(X, columns=list("abcd")).assign(y=y)
    models = [make(hidden_layer_sizes=(8,), **options) for _ in range(5)]
    models[0].fit(X, y, X_val=X[:300], y_val=y[:300], sample_weight_val=WEIGHT[:300])
    held = Blocks.from_arrays(X[:300], y[:300], WEIGHT[:300], rows=70)
    models[1].fit(X, y, X_val=held)
    assert same(*models[:2])
    assert models[0].validation_loss_curve_ == models[1].validation_loss_curve_
    assert models[0].validation_scores_ == models[1].validation_scores_
    models[2].fit(X, y, X_val=X[:300], y_val=y[:300])
    models[3].fit(frame, target="y", X_val=frame.iloc[:300])
    assert same(*models[2:4])
    assert models[2].validation_loss_curve_ == models[3].validation_loss_curve_
    models[4].fit(frame, target="y", X_val=frame.iloc[:300, :4], y_val=y[:300])
    assert models[2].validation_loss_curve_ == models[4].validation_loss_curve_


@pytest.mark.parametrize(
    ("model", "source", "settings", "message"),
    [
        (MLPRegressor(early_stopping=True, batch_size=10), Blocks.from_arrays(X, Y),
         {"buffer_rows": 200}, "early_stopping=True needs all rows .* give X_val and y_val"),
        (MLPRegressor(solver="lbfgs", batch_size=10), stream_of_numbers, {"buffer_rows": 200},
         "solver='lbfgs' needs all rows of a source in one buffer: give another solver"),
        (MLPClassifier(class_weight="balanced"), lambda: iter([(X, np.eye(N, 3, dtype=int) | 1)]),
         {}, "class_weight='balanced' needs one label a row in a source: give weights of rows"),
        (MLPClassifier(max_iter=1), stream(), {}, "a generator can be read once, and"),
        (MLPRegressor(), stream_of_numbers, {"X_val": X}, "X_val is provided, but y_val was not"),
        (MLPClassifier(), stream, {"classes": ["low", "high"]}, "classes that are not in classes"),
        (MLPClassifier(), stream(), {}, "a generator can be read once, but epochs=200"),
        (MLPClassifier(), stream_of_numbers, {},
         r"^MLPClassifier.fit: .* with fractions, such as -?\d.*no classes; .* MLPRegressor$"),
        (MLPRegressor(solver=Adam(Cosine(0.01)), batch_size=10), stream_of_numbers,
         {"buffer_rows": 200}, r"Cosine\(.*needs the number of steps"),
        (MLPRegressor(), X, {}, "requires y to be passed, but the target y is None"),
        (MLPRegressor(), X, {"y": Y, "buffer_rows": 500}, "buffer_rows is for a source"),
        (MLPRegressor(), Blocks.from_arrays(np.where(X > 3, np.nan, X), Y), {}, "contains NaN"),
        (MLPRegressor(), lambda: iter(()), {}, "MLPRegressor.fit: the source has no rows"),
    ],
)  # fmt: skip
def test_what_is_refused(model: Any, source: Any, settings: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(source, **settings)


# --- partial_fit over a stream: a loop, a wrapper as dask-ml's, and a scaler in front ---

UNSCALED = rng.normal([50, -3, 0.1], [20, 1, 0.01], (N, 3))
HOT = np.where((UNSCALED[:, 0] - 50) / 20 + UNSCALED[:, 1] + 3 > 0, "hot", "cold")
BLOCKS = [slice(first, first + 100) for first in range(0, N, 100)]
CLASSES = ["cold", "hot"]


class Incremental(BaseEstimator):
    """As dask-ml's: one `partial_fit` a block, blocks in a random order, each in a process."""

    def __init__(self, estimator: Any, shuffle_blocks: bool = True, random_state: int = 0) -> None:
        self.estimator = estimator
        self.shuffle_blocks, self.random_state = shuffle_blocks, random_state

    def fit(self, blocks: Any, y: None = None, **settings: Any) -> Self:
        return self._learn(clone(self.estimator), blocks, settings)

    def partial_fit(self, blocks: Any, y: None = None, **settings: Any) -> Self:
        return self._learn(getattr(self, "estimator_", self.estimator), blocks, settings)

    def _learn(self, model: Any, blocks: Any, settings: dict[str, Any]) -> Self:
        n = len(blocks)
        random = np.random.RandomState(self.random_state)
        for i in random.permutation(n) if self.shuffle_blocks else range(n):
            model = pickle.loads(pickle.dumps(model)).partial_fit(*blocks[i], **settings)
        self.estimator_ = model
        return self

    def predict(self, blocks: Any) -> Any:
        return np.concatenate([self.estimator_.predict(rows) for rows, _ in blocks])


def model(**settings: Any) -> MLPClassifier:
    return MLPClassifier((8,), random_state=0, **settings)


def rows(scaler: Standardizer) -> list[tuple[Any, Any]]:
    return [(scaler.transform(UNSCALED[part]), HOT[part]) for part in BLOCKS]


def test_as_in_dask_ml() -> None:
    blocks = rows(Standardizer().fit(UNSCALED))
    wrapped = Incremental(model(pickle_state=True))
    wrapped = clone(wrapped).set_params(estimator__learning_rate_init=0.05, shuffle_blocks=False)
    wrapped.fit(blocks, classes=CLASSES)
    own = model(learning_rate_init=0.05)
    for _ in range(2):
        for part, labels in blocks:
            own.partial_fit(part, labels, classes=CLASSES)
    wrapped.partial_fit(blocks)
    assert wrapped.estimator_.t_ == own.t_ == 2 * N
    for one, other in zip(wrapped.estimator_.coefs_, own.coefs_, strict=True):
        assert one.tobytes() == other.tobytes()
    assert np.mean(wrapped.predict(blocks) == HOT) > 0.9
    assert not hasattr(wrapped.estimator, "coefs_")


def test_classes_that_the_first_block_lacks() -> None:
    part = HOT == "hot"
    learner = model().partial_fit(UNSCALED[part][:50], HOT[part][:50], classes=CLASSES)
    learner.partial_fit(UNSCALED[~part][:50], HOT[~part][:50])
    assert learner.classes_.tolist() == CLASSES
    with pytest.raises(ValueError, match="classes"):
        model().partial_fit(UNSCALED[part][:50], HOT[part][:50]).partial_fit(UNSCALED, HOT)


def test_a_scaler_in_front_goes_into_the_net() -> None:
    """The scaling is that of the first blocks; later ones are scaled alike."""

    def stream() -> Iterator[tuple[Any, Any]]:
        for part in BLOCKS * 3:
            yield UNSCALED[part], HOT[part]

    scaler, learner = Standardizer(), model(learning_rate_init=0.05)
    for part, _ in islice(stream(), 3):
        scaler.partial_fit(part)
    for part, labels in stream():
        learner.partial_fit(scaler.transform(part), labels, classes=CLASSES)
    whole = fold(learner, scaler)
    assert np.mean(whole.predict(UNSCALED) == HOT) > 0.9
    parts = list(whole.predict_batches(stream, method="predict_proba", batch_rows=64))
    expected = learner.predict_proba(scaler.transform(UNSCALED))
    assert np.allclose(np.concatenate(parts)[:N], expected, atol=1e-6)
