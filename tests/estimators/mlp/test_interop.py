"""In the company of scikit-learn's tools, of skl2onnx, and of streams as dask-ml's."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Self

import joblib
import numpy as np
import onnxruntime
import pytest
from fitting import needs_compiler, unconverged
from pairs import LABELS, TASKS, X
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Standardizer, fold
from fastmlp.estimators.common import n_threads_of

pytestmark = [unconverged, needs_compiler]
SMALL = MLPClassifier((5,), max_iter=20, random_state=0, learning_rate_init=0.05)


class Features(TransformerMixin, MLPClassifier): ...


FEATURES = Features((5,), max_iter=20, random_state=0, learning_rate_init=0.05)
TOOLS: dict[str, Callable[[], Any]] = {
    "pipeline": lambda: make_pipeline(StandardScaler(), SMALL).fit(X, LABELS).score(X, LABELS),
    "transformer": lambda: make_pipeline(FEATURES, SMALL).fit(X, LABELS).score(X, LABELS),
    "cross validation": lambda: cross_val_score(SMALL, X, LABELS, cv=3).mean(),
    "grid search": lambda: (
        GridSearchCV(SMALL, {"alpha": [0, 1], "activation": ["tanh", "gelu"]}, cv=2)
        .fit(X, LABELS)
        .best_score_
    ),
    "bagging": lambda: BaggingClassifier(SMALL, 3, random_state=0).fit(X, LABELS).score(X, LABELS),
    "boosting": lambda: AdaBoostClassifier(SMALL, n_estimators=3).fit(X, LABELS).score(X, LABELS),
    "calibration": lambda: CalibratedClassifierCV(SMALL, cv=3).fit(X, LABELS).score(X, LABELS),
    "voting": lambda: (
        VotingClassifier([("a", SMALL), ("b", clone(SMALL))], voting="soft")
        .fit(X, LABELS)
        .score(X, LABELS)
    ),
    "importance": lambda: (
        permutation_importance(
            clone(SMALL).fit(X, LABELS), X, LABELS, random_state=0
        ).importances_mean[0]
        + 0.5
    ),
    "learning curve": lambda: learning_curve(SMALL, X, LABELS, cv=3)[2].mean(),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_take_our_estimators(tool: str) -> None:
    assert TOOLS[tool]() > 0.6


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_a_worker_of_joblib_takes_one_thread(backend: str) -> None:
    assert n_threads_of(None) is None
    assert n_threads_of(1) == 1
    with joblib.parallel_backend(backend, n_jobs=2):
        assert joblib.Parallel()([joblib.delayed(n_threads_of)(None)] * 2) == [1, 1]
        search = GridSearchCV(SMALL, {"alpha": [0.01, 1.0, 10.0]}, cv=2).fit(X, LABELS)
    here = GridSearchCV(SMALL, search.param_grid, cv=2).fit(X, LABELS)
    for name in ("mean_test_score", "std_test_score"):
        assert np.array_equal(search.cv_results_[name], here.cv_results_[name])


def test_a_pickle_is_as_small_as_its_parameters() -> None:
    model = MLPClassifier((300,), max_iter=2).fit(X, LABELS)
    n_bytes = sum(part.nbytes for part in [*model.coefs_, *model.intercepts_])
    assert len(pickle.dumps(model)) < n_bytes + 5000
    assert len(pickle.dumps(model.set_params(pickle_state=True))) > 3 * n_bytes


def test_every_numpy_reads_a_pickle_with_the_state_of_training() -> None:
    """NumPy 1.26 does not read the generators of NumPy 2; a user's own are the user's."""
    model = clone(SMALL).set_params(pickle_state=True).fit(X, LABELS)
    assert b"numpy.random" not in pickle.dumps(model)
    model.set_params(random_state=np.random.RandomState(0)).fit(X, LABELS)
    back = pickle.loads(pickle.dumps(model))
    assert back._random_state is back.random_state


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_onnx_gives_the_same_predictions(task: str, scaled: bool) -> None:
    from skl2onnx import to_onnx

    problem, rows = TASKS[task], X.astype(np.float32)
    net = (
        getattr(fastmlp, problem.name)((6, 5), ["elu", "tanh"], max_iter=5, **problem.settings)
        if (problem.name == "MLPClassifier")
        else MLPRegressor(hidden_layer_sizes=(6,), max_iter=5, **problem.settings)
    )
    model: Any = make_pipeline(StandardScaler(), net) if scaled else net
    model.fit(rows, problem.y)
    options = {id(net): {"zipmap": False}} if problem.name == "MLPClassifier" else None
    graph = to_onnx(model, rows[:1], options=options).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"X": rows})
    for output, place in zip(outputs, session.get_outputs(), strict=True):
        assert place.shape[1:] == [*output.shape[1:]]
    if problem.name == "MLPClassifier":
        assert np.array_equal(outputs[0], model.predict(rows))
        np.testing.assert_allclose(outputs[1], model.predict_proba(rows), rtol=1e-5, atol=1e-6)
    else:
        expected = model.predict(rows).reshape(len(rows), -1)
        np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_onnx_is_registered_whichever_comes_first(python: Callable[..., str]) -> None:
    script = """
import warnings
warnings.simplefilter("ignore")
from fastmlp import MLPClassifier
import skl2onnx
from skl2onnx._supported_operators import sklearn_operator_name_map
print(sklearn_operator_name_map[MLPClassifier])
from fastmlp.export.onnx import when_imported
when_imported(lambda: print("at once"))
"""
    assert python(script) == "FastmlpMLPClassifier\nat once\n"


def test_onnx_says_which_activations_are_too_much() -> None:
    from skl2onnx import to_onnx

    def bump(z: float) -> tuple[float, float]:
        return np.sin(z), np.cos(z)

    model = MLPRegressor(activation=bump, max_iter=2).fit(X, X[:, 0])
    with warnings.catch_warnings(), pytest.raises(NotImplementedError, match="'bump' is more"):
        to_onnx(model, X[:1])


rng = np.random.default_rng(0)
N = 1200
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
