"""partial_fit over a stream: a loop, a wrapper as dask-ml's, and a scaler in front."""

import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

import numpy as np
import pytest
from fitting import unconverged
from sklearn.base import BaseEstimator, clone

from fastmlp import MLPClassifier, Standardizer, fold

rng = np.random.default_rng(0)
N = 1200
pytestmark = unconverged
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
