"""Plain data take shortcuts, kept trainers,
shared nets, nothing copied: the same bits.
"""

import copy
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import in_threads, needs_compiler, peak_of, unconverged
from pairs import LABELS, REAL, TASKS, X, both, text_of
from sklearn import neural_network
from sklearn.exceptions import NotFittedError
from sklearn.utils import multiclass
from sklearn.utils.validation import check_is_fitted
from small_models import reloaded
from threadpoolctl import threadpool_info, threadpool_limits

from fastmlp import EMA, MLP, SGD, Adam, Cosine, Custom, MLPClassifier, MLPRegressor
from fastmlp._process.task_pool import OneThread, one_thread
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.estimators import base, training

pytestmark = [unconverged, needs_compiler]

LABEL_KINDS: list[Callable[[np.random.Generator, int], Any]] = [
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
    """A value that compares to the bit:
    arrays by their bytes, objects by their attributes.
    """
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            content = value.tolist()
        else:
            content = value.tobytes()
        return value.dtype.str, value.shape, content
    if isinstance(value, dict):
        return {name: described(entry) for name, entry in value.items()}
    if type(value).__module__.startswith("sklearn"):
        return described(vars(value))
    return value


def outcome(kind: Any, estimator: Any, X: Any, y: Any, **options: bool) -> Any:
    """What a class's check of data returns,
    or its error; and the attributes that it sets.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = [
                described(array)
                for array in kind._validate_input(estimator, X, y, **options)
            ]
        except (TypeError, ValueError) as error:
            result = [type(error), text_of(error)]
    learnt = {
        n: v
        for n, v in vars(estimator).items()
        if n.endswith("_") or n.startswith("_l")
    }
    return result, described(learnt), [str(warning.message) for warning in caught]


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(200))
def test_data_are_checked_as_by_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 15, 21, 40]))
    classifies = rng.random() < 0.8
    ours: Any = MLPClassifier if classifies else MLPRegressor
    theirs: Any = getattr(neural_network, ours.__name__)
    kinds = LABEL_KINDS if classifies else TARGETS
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
        assert outcome(ours, pair[0], X, y, **options) == outcome(
            theirs, pair[1], X, y, **options
        )


def test_plain_data_are_not_given_to_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = np.eye(6)
    y = np.array([0, 1, 2, 2, 1, 0])
    with monkeypatch.context() as patch:
        for module, name in (
            (base, "validate_data"),
            (neural_network._multilayer_perceptron, "validate_data"),
            (neural_network._multilayer_perceptron, "type_of_target"),
            (neural_network._multilayer_perceptron, "unique_labels"),
        ):
            patch.setattr(module, name, None)
        for labels in (y, y % 2, y.astype(str)):
            MLPClassifier(max_iter=1).fit(X, labels).predict(X)
        MLPRegressor(max_iter=1).fit(X, X[:, 0]).partial_fit(X, X[:, 0])
    classifier = MLPClassifier().partial_fit(X, y, classes=[0, 1, 2])
    monkeypatch.setattr(multiclass, "unique_labels", None)
    classifier.partial_fit(X[:1], y[:1], classes=[0, 1, 2])


def test_a_seed_draws_the_same_numbers_in_each_fit() -> None:
    X = np.eye(6)
    y = np.arange(6) % 2
    model = MLPClassifier(random_state=3, max_iter=2)
    first = [coef.copy() for coef in model.fit(X, y).coefs_]
    own = np.random.RandomState(3)
    for copied in (
        copy.copy(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert "_seeded" not in vars(copied)
        assert all(map(np.array_equal, copied.fit(X, y).coefs_, first))
    model.set_params(random_state=own).fit(X, y)
    state = own.get_state(legacy=False)["state"]["key"].copy()
    assert all(
        map(np.array_equal, model.set_params(random_state=3).fit(X, y).coefs_, first)
    )
    np.testing.assert_array_equal(own.get_state(legacy=False)["state"]["key"], state)
    with pytest.raises(ValueError, match="'random_state' parameter"):
        model.set_params(random_state=-1).fit(X, y)


def test_a_parameter_is_checked_in_the_fit_after_it_was_set() -> None:
    X = np.eye(6)
    y = np.arange(6) % 2
    model = MLPClassifier(max_iter=1).fit(X, y).fit(X, y)
    with pytest.raises(ValueError, match="'tol' parameter"):
        model.set_params(tol=-1.0).fit(X, y)
    with pytest.raises(ValueError, match="'tol' parameter"):
        model.fit(X, y)
    model.set_params(tol=0.0).fit(X, y)


N_SEEDS, N_CALLS = (2, 5) if INTERPRETED else (20, 10)
SETTINGS: dict[str, list[Any]] = {
    "solver": [
        "adam",
        "adam",
        "sgd",
        "nadam",
        Adam(0.01),
        Adam(Cosine(0.05, n_steps=9)),
    ],
    "learning_rate": ["constant", "constant", "invscaling", "adaptive"],
    "learning_rate_init": [0.001, 0.02],
    "momentum": [0.0, 0.9],
    "nesterovs_momentum": [False, True],
    "alpha": [0.0, 1e-4, 0.5],
    "shuffle": [True, True, False],
    "batch_size": ["auto", "auto", 8],
    "dropout": [0.0, 0.0, 0.0, 0.2],
    "average": [None, None, None, EMA(0.9)],
    "hidden_layer_sizes": [(7,), (5, 6)],
    "n_iter_no_change": [2, 10],
}


def drawn_estimator(rng: np.random.Generator) -> Any:
    chosen = {
        name: values[rng.integers(len(values))] for name, values in SETTINGS.items()
    }
    if chosen["solver"] == "sgd":
        chosen["average"] = None
    seed = int(rng.integers(100))
    random = [seed, seed, np.random.RandomState(seed)][rng.integers(3)]
    kind = [MLPClassifier, MLPRegressor][rng.integers(2)]
    return kind(random_state=random, max_iter=3, pickle_state=True, **chosen)


def drawn_rows(estimator: Any, rng: np.random.Generator, form: Any) -> Any:
    n = int(rng.choice([1, 8, 8, 30, 30, 210]))
    (dtype, n_outputs) = form
    X = rng.normal(size=(n, 3)).astype(dtype)
    if isinstance(estimator, MLPClassifier):
        y: Any = rng.integers(n_outputs, size=n)
    else:
        if n_outputs > 1:
            y = rng.normal(size=(n, n_outputs))
        else:
            y = rng.normal(size=n)
    weight = rng.uniform(0.1, 2, n) if rng.random() < 0.3 else None
    return X, y, weight


def changed(estimators: list[Any], rng: np.random.Generator) -> None:
    """Do the same to both, as a user may between two calls."""
    kind = rng.integers(14)
    seed = int(rng.integers(1 << 30))
    for i, estimator in enumerate(estimators):
        again = np.random.default_rng(seed)
        if kind == 0:
            estimator.coefs_[0][0, 0] = 0.25
        elif kind == 1:
            estimator.intercepts_[0] = estimator.intercepts_[0] + 0.5
        elif kind == 2:
            estimator.set_params(alpha=0.3, shuffle=not estimator.shuffle)
        elif kind == 3:
            estimators[i] = copy.deepcopy(estimator)
        elif kind == 4:
            estimators[i] = pickle.loads(pickle.dumps(estimator))
        elif kind == 5 and not estimator.dropout:
            X = again.normal(size=(8, 3)).astype(estimator.coefs_[0].dtype)
            estimator.net_.fit(X, estimator.net_.predict(X), epochs=1, shuffle=False)
        elif kind == 6:
            estimator.n_jobs = 1


def state_of(estimator: Any) -> Any:
    slots = estimator._state.slots()
    random = estimator._random_state.get_state()
    return (
        [part.tobytes() for part in (*estimator.coefs_, *estimator.intercepts_)],
        None if slots is None or not slots.any() else slots.tobytes(),
        repr(
            (
                estimator.loss_curve_,
                estimator.t_,
                estimator.n_iter_,
                estimator.best_loss_,
            )
        ),
        repr((estimator._no_improvement_count, estimator._optimizer.t)),
        repr(estimator._optimizer.learning_rate),
        (random[1].tobytes(), random[2]),
    )


@pytest.mark.few(12)
@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
@unconverged
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_what_is_kept_from_call_to_call_has_the_bits_of_a_copy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimator = drawn_estimator(rng)
    form = rng.choice(["float32", "float64"]), int(rng.integers(2, 4))
    if isinstance(estimator, MLPClassifier):
        labels = {"classes": range(form[1])}
    else:
        labels = {}
    for _ in range(N_CALLS):
        X, y, weight = drawn_rows(estimator, rng, form)
        other = copy.deepcopy(estimator)
        for each in (estimator, other):
            each.partial_fit(X, y, sample_weight=weight, **labels)
        assert state_of(estimator) == state_of(other)
        estimators = [estimator]
        changed(estimators, rng)
        [estimator] = estimators


FIT = """
import warnings

import numpy as np
from fitting import bytes_of_process, peak_of_process
from scipy import sparse

from fastmlp import MLPClassifier

warnings.simplefilter("ignore")
# A RandomState would draw from all places, of 800 MB: no fit would raise the peak.
rng = np.random.default_rng(0)
X = sparse.random(800, 50_000, density=0.001, random_state=rng, format="csr")
y = np.asarray(X.sum(axis=1)).ravel() > 25


def fit(rows, units):
    model = MLPClassifier((units,), max_iter=1, batch_size=400, n_jobs=1)
    return model.fit(rows, y[: rows.shape[0]])


fit(X[:400], 2).predict(X[:400])  # compiles; a team, which n_jobs forbids, would take 40 MB
before = bytes_of_process()  # the peak is 10 MB more, of imports and compilations
model = fit(X, 100)
model.predict(X)
matrix = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
parameters = sum(part.nbytes for part in model.coefs_ + model.intercepts_)
print((peak_of_process() - before - 2 * matrix) / parameters)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_a_sparse_fit_takes_twice_the_matrix_and_5_parameters(
    python: Callable[..., str],
) -> None:
    # They are held flat, and in panels, 4 % wider, with Adam's two numbers each; at the
    # end they are laid out flat once more, to be copied to where predictions see all of
    # them or none: 205 MB, 5.1 times, and dense rows would be 800. Of arrays below 32
    # MB the allocator may keep freed ones.
    assert 4.9 < float(python(FIT)) < 5.5


MANY = np.random.default_rng(0).normal(size=(20_000, 64))
PRODUCTS = MANY[:, 0] * MANY[:, 1]
LITTLE: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 500}


@pytest.mark.slow
@pytest.mark.few(3)
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "loss"},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
def test_a_fit_on_dense_rows_copies_none(kind: Any, settings: dict[str, Any]) -> None:
    y = PRODUCTS > 0 if kind is MLPClassifier else PRODUCTS
    model = kind(**LITTLE, **settings)
    model.fit(MANY, y)  # compiles: all rows, which a team may share and fewer not
    assert peak_of(lambda: model.fit(MANY, y)) < 0.3 * MANY.nbytes


POSITIVE = np.exp(X[:, 0])


def fitted(**settings: Any) -> MLPClassifier:
    return MLPClassifier((5,), max_iter=3, random_state=0, **settings).fit(X, LABELS)


def outputs(model: Any) -> Any:
    return model.predict_proba(X)[:, 1]


def penalized(task: str) -> Any:
    name, y, settings = TASKS[task]
    _, model = both(name, hidden_layer_sizes=(5,), max_iter=3, alpha=0.3, **settings)
    return model.fit(X, y)


@pytest.mark.parametrize("task", TASKS)
def test_it_has_the_estimators_predictions(task: str) -> None:
    model = penalized(task)
    predicted = getattr(model, "predict_proba", model.predict)(X).reshape(len(X), -1)
    if task == "binary":
        predicted = predicted[:, 1:]
    assert np.array_equal(model.net_.predict(X), predicted)


@pytest.mark.parametrize("task", TASKS)
def test_it_has_the_estimators_gradient(task: str) -> None:
    name, y, _ = TASKS[task]
    model = penalized(task)
    # scikit-learn's own gradient,
    # which is of a sum over outputs where the net has a mean.
    targets = np.asarray(y)
    if name == "MLPClassifier":
        targets = model._label_binarizer.transform(y).astype(float)
    flat = model.net_.parameters.copy()
    value, slopes = model._loss_grad_lbfgs(flat, X, targets.reshape(len(X), -1), None)
    for_net = targets
    if task == "multiclass":
        for_net = targets.argmax(axis=1)
    its_value, its_slopes = model.net_.loss_and_gradient(X, for_net)
    share = its_slopes[0] / slopes[0]
    np.testing.assert_allclose(its_slopes, share * slopes, rtol=1e-9, atol=1e-12)
    if model.n_outputs_ == 1 or task == "multiclass":
        assert its_value == pytest.approx(share * value, rel=1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", SGD(0.1)])
def test_what_is_written_to_one_is_in_the_other(solver: Any) -> None:
    model = fitted(solver=solver)
    net = model.net_
    assert net is model.net_
    model.coefs_[0][:] = 0.5
    assert (net.weights[0] == 0.5).all()
    net.biases[1] = np.array([2.0])
    assert model.intercepts_[1] == [2.0]
    net.fit(X, (LABELS == "yes").astype(int), epochs=2)
    assert np.array_equal(net.predict(X)[:, 0], outputs(model))
    assert not (model.coefs_[0] == 0.5).all()


def test_a_net_of_its_own_state_leaves_the_estimators_training_as_it_was() -> None:
    def after(trains: bool) -> Any:
        model = fitted()
        if trains:
            before = model.net_.parameters.copy()
            model.net_.fit(X, (LABELS == "yes").astype(int), epochs=1)
            model.net_.parameters[:] = before
        return model.partial_fit(X, LABELS)

    one = after(True)
    other = after(False)
    assert all(map(np.array_equal, one.coefs_, other.coefs_))


def test_a_fit_that_begins_anew_has_another_net() -> None:
    model = fitted()
    old = model.net_
    parameters = old.parameters.copy()
    model.set_params(random_state=1).fit(X, LABELS)
    assert model.net_ is not old
    assert np.array_equal(old.parameters, parameters)
    assert np.array_equal(model.net_.weights[0], model.coefs_[0])


def test_a_fit_that_goes_on_keeps_the_net() -> None:
    model = fitted()
    kept = model.net_
    model.partial_fit(X, LABELS)
    assert model.net_ is kept
    assert np.array_equal(kept.predict(X)[:, 0], outputs(model))


def test_a_warm_start_keeps_the_net() -> None:
    model = fitted()
    kept = model.net_
    model.set_params(warm_start=True).fit(X, LABELS)
    assert model.net_ is kept


def test_arrays_that_a_user_has_put_in_are_shared_from_then_on() -> None:
    model = fitted()
    model.coefs_[0] = np.ones((6, 5))
    model.intercepts_[0] = np.zeros(5)
    net = model.net_
    assert (net.weights[0] == 1).all()
    net.weights[0][:] = 2
    assert (model.coefs_[0] == 2).all()
    assert net is model.net_


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, path: deepcopy(model),
    "file": reloaded,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_has_a_net_of_its_own(kind: str, tmp_path: Path) -> None:
    model = fitted()
    model.net_.weights[0][:] = 0.25
    other = COPIES[kind](model, tmp_path / "model.safetensors")
    assert np.array_equal(other.net_.predict(X), model.net_.predict(X))
    other.net_.weights[0][:] = 3.0
    assert (other.coefs_[0] == 3.0).all()
    assert (model.coefs_[0] == 0.25).all()


def test_a_saved_net_of_a_classifier_needs_no_functions(tmp_path: Path) -> None:
    model = fitted()
    model.net_.save(tmp_path / "net.safetensors")
    again = MLP.load(tmp_path / "net.safetensors")
    assert np.array_equal(again.predict(X), model.net_.predict(X))


@pytest.mark.parametrize(
    "settings",
    [{}, {"loss": "poisson"}, {"solver": "sgd"}, {"solver": "lbfgs"}],
    ids=str,
)
def test_a_saved_net_of_a_regressor_needs_no_functions(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, **settings)
    model.fit(X, POSITIVE)
    model.net_.save(tmp_path / "net.safetensors", include_training_state=True)
    again = MLP.load(tmp_path / "net.safetensors")
    assert np.array_equal(again.predict(X)[:, 0], model.predict(X))


SMALL: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
WIDE = 100_000


@pytest.mark.slow
def test_threads_that_train_one_estimator_take_turns() -> None:
    # Batches of one row, of a few and of many lay out the optimizer's state in
    # different ways.
    sizes = (1, 7, 64, 200, 2000)
    times = 60
    rows = MANY[:2000, :20]
    model: Any = MLPRegressor(hidden_layer_sizes=(64, 64), random_state=0)
    model.partial_fit(rows, PRODUCTS[:2000])

    def train(i: int) -> None:
        for _ in range(times):
            model.partial_fit(rows[: sizes[i]], PRODUCTS[: sizes[i]])

    in_threads(train, len(sizes))
    assert model.t_ == len(rows) + times * sum(sizes)
    assert len(model.loss_curve_) == 1 + times * len(sizes)


@pytest.mark.parametrize(
    "as_it_comes", [lambda it: it, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_writes_to_a_wide_estimator_show_in_its_next_predictions(
    as_it_comes: Any,
) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 90)).astype(np.float32)
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (500, 20),
        "max_iter": 1,
        "random_state": 0,
    }
    model: Any = as_it_comes(MLPRegressor(**settings).fit(rows, rows[:, 0]))
    net = model.net_
    before = model.predict(rows)
    lock = vars(model)["_state"].lock
    assert hasattr(model, "transform")
    assert model.score(rows, before) == 1
    assert not lock.is_lent
    assert not vars(model)["coefs_"][0].flags.writeable
    if lock.packed is not None:  # Rows in tiles, with AVX2.
        assert [model.predict(rows), lock.packed.n_packed][1] == 1
    writes: list[Callable[[], Any]] = [
        lambda: model.coefs_[0].__imul__(1.01),
        lambda: net.biases[-1].__iadd__(0.1),
        lambda: model.partial_fit(rows, rows[:, 0]),
        lambda: net.train_on_batch(rows, rows[:, 0]),
    ]
    for write in writes:
        write()
        expected = pickle.loads(pickle.dumps(model)).predict(rows)
        assert not np.array_equal(expected, before)
        for n in (3, 3, 3, 20):
            assert np.array_equal(model.predict(rows[:n]), expected[:n])
            assert np.array_equal(net.predict(rows[:n])[:, 0], expected[:n])
        before = expected


def count_up(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w + type(w)(1), m, v


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [1, 20])
def test_predictions_beside_partial_fit_are_those_of_whole_parameters(
    n_rows: int,
) -> None:
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (),
        "solver": Custom(count_up),
        "alpha": 0,
    }
    model = MLPRegressor(**settings)
    row = np.ones((1, WIDE))
    model.partial_fit(row, [0.0])
    model.coefs_[0][:] = model.intercepts_[0][:] = 0
    rows = np.ones((n_rows, WIDE))
    seen = set[float]()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(model.predict(rows).tolist())

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    for _ in range(60):
        model.partial_fit(row, [0.0])
    done.set()
    for watcher in watchers:
        watcher.join()
    # At step t every parameter is t.
    assert seen <= {float(t * (WIDE + 1)) for t in range(61)}


def test_checking_that_it_is_fitted_iterates_over_no_attributes() -> None:
    class Growing(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    model = MLPRegressor(**SMALL)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    model.fit(X, REAL)
    model.__dict__ = Growing(model.__dict__)
    check_is_fitted(model)


def test_a_fit_within_its_own_fit_is_refused() -> None:
    def scorer(model: Any, rows: Any, targets: Any) -> float:
        return float(model.partial_fit(rows, targets).loss_)

    model = MLPRegressor(**SMALL, early_stopping=True, scoring=scorer)
    with pytest.raises(
        RuntimeError, match="MLPRegressor: a fit of this net is running"
    ):
        model.fit(X, REAL)
    assert (
        model.set_params(early_stopping=False, scoring=None).fit(X, REAL).n_iter_ == 5
    )


class Carrying:
    """A scorer that carries the estimator elsewhere;
    carried along, it is another one's name.
    """

    def __init__(self, carry: Callable[[Any], Any]) -> None:
        self.carry, self.carried = carry, list[tuple[Any, Any]]()

    def __call__(self, model: Any, rows: Any, targets: Any) -> float:
        self.carried.append((self.carry(model), model.predict(X)))
        return float(len(self.carried))

    def __reduce__(self) -> Any:
        return str, ("r2",)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    "carry", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_scorer_may_copy_the_estimator(
    carry: Callable[[Any], Any], state: bool
) -> None:
    scorer = Carrying(carry)
    MLPRegressor(**SMALL, early_stopping=True, scoring=scorer, pickle_state=state).fit(
        X, REAL
    )
    assert len(scorer.carried) == 5
    for other, predictions in scorer.carried:
        np.testing.assert_array_equal(other.predict(X), predictions)


def test_nets_have_the_estimators_settings() -> None:
    classifier = MLPClassifier(
        (5,), max_iter=2, n_jobs=1, learning_rate_init=0.02, solver="sgd"
    )
    net = classifier.fit(X.astype(np.float32), LABELS).net_
    assert (net.dtype.name, net.n_threads) == ("float32", 1)
    assert net.optimizer == SGD(0.02, momentum=0.9, nesterov=True)


# --- L-BFGS keeps BLAS to one thread while it runs, and gives the others back ---


def blas_threads() -> list[int]:
    return [
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
    ]


@pytest.fixture
def three_threads() -> Iterator[None]:
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.mark.usefixtures("three_threads")
def test_a_fit_by_lbfgs_has_one_thread_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    make = training.objective_on

    def watched(*arguments: Any) -> Any:
        evaluate = make(*arguments)

        def seeing(flat: Any) -> Any:
            seen.extend(blas_threads())
            return evaluate(flat)

        return seeing

    monkeypatch.setattr(training, "objective_on", watched)
    model = MLPRegressor(
        hidden_layer_sizes=(4,), solver="lbfgs", tol=0.1, random_state=0
    )
    model.fit(X[:20, :3], X[:20, 0])
    assert set(seen) == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_threads_come_back_from_the_last() -> None:
    with one_thread:
        with one_thread:
            pass
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_threads_come_back_after_errors() -> None:
    with pytest.raises(KeyError), one_thread:
        raise KeyError
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_a_forked_child_starts_from_none() -> None:
    ours = OneThread()
    ours.__enter__()
    ours._lock.acquire()
    ours.renew()
    with ours:
        assert set(blas_threads()) == {1}
