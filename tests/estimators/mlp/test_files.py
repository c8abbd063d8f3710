"""Estimators in files, in the company of scikit-learn's tools and of skl2onnx."""

import json
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pytest
from fitting import unconverged
from loss_cases import cube
from pairs import LABELS, TASKS, X
from scipy.sparse import csr_array
from sklearn.base import TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import reloaded

import fastmlp
from fastmlp import (
    MLP,
    AdamW,
    Cosine,
    EarlyStopping,
    FileError,
    MLPClassifier,
    MLPRegressor,
)
from fastmlp.estimators.common import n_threads_of
from fastmlp.rules.activations import gelu
from fastmlp.serialization import files

pytestmark = unconverged

GOLDEN = Path(__file__).parents[2] / "golden"
SOLVERS = ("adam", "sgd", "lbfgs", "adamw", AdamW(Cosine(0.01), weight_decay=0.1))
# Left behind by a training, and made anew by the next.
BUFFERS = {"history_", "_random_state", "_best_coefs", "_best_intercepts"}
BUFFERS |= {"_engine", "_lock", "_seeded", "_checked_values"}


def fitted(task: str = "multiclass", **settings: Any) -> Any:
    name, y, values = TASKS[task]
    settings = {
        "hidden_layer_sizes": (5,),
        "random_state": 0,
        "max_iter": 4,
        **values,
        **settings,
    }
    return getattr(fastmlp, name)(**settings).fit(X, y)


def words(model: Any) -> str:
    """The parameters, without where objects lie in memory,
    and without breaks of lines.
    """
    return re.sub(r" at 0x[0-9A-Fa-f]+|\s+", "", repr(model))


def predictions(model: Any, rows: Any = X) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        several = model.predict(rows), model.transform(rows)
    probabilities = getattr(model, "predict_proba", model.predict)(rows)
    return b"".join(np.asarray(each).tobytes() for each in (*several, probabilities))


def assert_same(model: Any, other: Any) -> None:
    assert type(model) is type(other)
    assert words(model) == words(other)
    assert predictions(model) == predictions(other)
    assert predictions(model, X[:1]) == predictions(other, X[:1])
    names = {n for n in vars(model) if n.endswith("_") or n == "_no_improvement_count"}
    for name in names - {"coefs_", "intercepts_", "history_"}:
        mine = getattr(model, name)
        values = getattr(other, name)
        assert np.array_equal(mine, values), name
        assert np.asarray(mine).dtype == np.asarray(values).dtype, name


@pytest.mark.few(12)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_every_estimator_comes_back(task: str, solver: Any, path: Path) -> None:
    model = fitted(task, solver=solver)
    assert_same(model, reloaded(model, path))
    other = reloaded(model, path, training=True)
    assert_same(model, other)
    assert vars(model).keys() ^ vars(other).keys() <= BUFFERS


@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("early", [False, True])
def test_a_warm_start_goes_on_with_the_same_bits(
    early: bool, rate: str, path: Path
) -> None:
    settings = {
        "solver": "sgd",
        "learning_rate": rate,
        "n_iter_no_change": 1,
        "tol": 0.1,
    }
    model = fitted(
        "multiclass", warm_start=True, early_stopping=early, max_iter=9, **settings
    )
    other = reloaded(model, path, training=True)
    for each in (model, other):
        each.fit(X, TASKS["multiclass"].y)
    assert_same(model, other)


LABEL_TYPES = {
    "int": np.arange(53) % 3,
    "int8": (np.arange(53) % 3 - 1).astype(np.int8),
    "uint64": (np.arange(53) % 3).astype(np.uint64) + np.uint64(2**63),
    "float64": np.arange(53) % 4 - 2.0,
    "float32": np.arange(53, dtype=np.float32) % 2,
    "bool": np.arange(53) % 2 == 0,
    "text": np.array(["no", "ja", "нет"])[np.arange(53) % 3],
    "objects": np.array(["no", "ja"], object)[np.arange(53) % 2],
    "one class": np.zeros(53, int),
    "several": (X[:, :3] > 0).astype(int),
    "sparse": csr_array((X[:, :3] > 0).astype(int)),
}


@pytest.mark.parametrize("labels", LABEL_TYPES)
def test_labels_of_every_dtype(labels: str, path: Path) -> None:
    model = MLPClassifier((3,), random_state=0, max_iter=2).fit(X, LABEL_TYPES[labels])
    other = reloaded(model, path)
    mine: Any = model.predict(X)
    values: Any = other.predict(X)
    assert type(mine) is type(values)
    assert mine.dtype == values.dtype
    if labels == "sparse":
        mine = mine.toarray()
        values = values.toarray()
    assert np.array_equal(mine, values)
    assert np.array_equal(model.classes_, other.classes_)
    assert model.classes_.dtype == other.classes_.dtype
    other.partial_fit(X, LABEL_TYPES[labels])


def test_labels_that_no_file_has_are_refused(path: Path) -> None:
    model = fitted("binary")
    model.classes_ = np.array(["2020-01-01", "2021-01-01"], "datetime64[D]")
    words = r"labels cannot be written to a file: .*datetime64"
    with pytest.raises(ValueError, match=words):
        fastmlp.save(model, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"activation": lambda z: (z, 0 * z + 1)}, "'<lambda>' has no name"),
        ({"class_weight": {0: 1, 10: 1, 20: 1 + 0j}}, "cannot be written to a file"),
    ],
    ids=["a function without a name", "a complex number"],
)
def test_settings_that_no_file_has_are_refused(
    settings: dict[str, Any], words: str, path: Path
) -> None:
    model = fitted().set_params(**settings)
    with pytest.raises(ValueError, match=words):
        fastmlp.save(model, path)
    assert not path.exists()


def test_settings_that_are_too_long_are_refused(path: Path) -> None:
    model = fitted()
    model.set_params(scoring="x" * files.MAX_HEADER_BYTES)
    with pytest.raises(ValueError, match="names and settings would take"):
        fastmlp.save(model, path)


PARAMETERS: list[dict[str, Any]] = [
    {"hidden_layer_sizes": [4, 3], "activation": ["tanh", "gelu"]},
    {"hidden_layer_sizes": (4, 3), "activation": (gelu, "relu")},
    {
        "hidden_layer_sizes": 4,
        "batch_size": 7,
        "n_iter_no_change": np.inf,
        "alpha": 1 / 3,
    },
    {"class_weight": {0: 0.5, 10: 1, 20: 2.0}, "verbose": 0, "n_jobs": -1},
    {"class_weight": "balanced", "scoring": "accuracy", "early_stopping": True},
    {"solver": AdamW(Cosine(0.01), weight_decay=0.1), "random_state": None},
    {"activation": cube, "pickle_state": True, "learning_rate_init": 0.1},
    {
        "hidden_layer_sizes": (),
        "metrics": ["accuracy"],
        "early_stopping": EarlyStopping(),
    },
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids="-".join)
def test_parameters_of_every_kind(parameters: dict[str, Any], path: Path) -> None:
    model = fitted(**parameters)
    other = reloaded(model, path, rules={"cube": cube})
    assert other.get_params() == model.get_params()
    assert_same(model, other)
    copy = clone(other).fit(X, TASKS["multiclass"].y)
    assert copy.get_params() == model.get_params()


def test_a_random_state_comes_back(path: Path) -> None:
    model = fitted(random_state=np.random.RandomState(7))
    model.random_state.normal()
    other = reloaded(model, path)
    expected = model.random_state.normal(size=5)
    assert (other.random_state.normal(size=5) == expected).all()


def of_float32() -> MLPRegressor:
    model = MLPRegressor(hidden_layer_sizes=(4,), random_state=0, max_iter=3)
    return model.fit(np.float32(X), X[:, 0])


def test_weights_of_float32_come_back(path: Path) -> None:
    assert reloaded(of_float32(), path).coefs_[0].dtype == np.float32


def test_weights_that_a_user_has_put_in_come_back(path: Path) -> None:
    model = of_float32()
    model.coefs_[0] = np.ones_like(model.coefs_[0])
    other = reloaded(model, path)
    assert (other.coefs_[0] == 1).all()
    assert predictions(other, np.float32(X)) == predictions(model, np.float32(X))


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_a_training_that_overflowed_beside_its_best_weights_is_kept(path: Path) -> None:
    rows = np.full((1, 1), 125.7, np.float32)
    target = np.full(1, 0.6)
    model = MLPRegressor(
        "poisson", 3, early_stopping=True, max_iter=1, alpha=1, random_state=0
    )
    model.fit(rows, target, X_val=rows, y_val=target)
    slots = model._state.slots()
    assert slots is not None
    assert not np.isfinite(slots).all()
    other = reloaded(model, path, training=True)
    assert predictions(model, rows) == predictions(other, rows)


def of_frame() -> tuple[MLPClassifier, Any]:
    """A model of a data frame, and the frame."""
    pandas = pytest.importorskip("pandas", reason="of data frames")
    frame = pandas.DataFrame(X, columns=[f"größe {i}" for i in range(6)])
    model = MLPClassifier((3,), random_state=0, max_iter=2)
    return model.fit(frame, TASKS["binary"].y), frame


def test_the_output_that_was_set_comes_back(path: Path) -> None:
    model, frame = of_frame()
    model.set_output(transform="pandas")
    other = reloaded(model, path)
    assert other.transform(frame).equals(model.transform(frame))


def test_names_of_features_come_back(path: Path) -> None:
    model, frame = of_frame()
    other = reloaded(model, path)
    assert list(other.feature_names_in_) == list(frame)
    assert other.feature_names_in_.dtype == object
    with pytest.raises(ValueError, match="feature names"):
        other.predict(frame[frame.columns[::-1]])


def test_weights_that_are_not_finite_are_refused(path: Path) -> None:
    model = fitted()
    model.coefs_[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="a parameter is not finite"):
        fastmlp.save(model, path)
    assert not path.exists()


def test_a_file_of_an_estimator_is_no_net(path: Path) -> None:
    fastmlp.save(fitted(), path)
    with pytest.raises(FileError, match=r"kind 'MLPClassifier', not 'MLP': load it by"):
        MLP.load(path)


@pytest.mark.slow
def test_nets_need_no_scikit_learn(python: Any, path: Path) -> None:
    MLP((3, 1), seed=0).save(path)
    script = "import sys, fastmlp; fastmlp.save(fastmlp.load(sys.argv[1]), sys.argv[1])"
    assert python(script + "; print('sklearn' in sys.modules)", path) == "False\n"


def lie(key: str, value: Any, *way: str) -> Any:
    def change(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        for each in way:
            header = header[each]
        header[key] = value

    return change


LIES: dict[str, tuple[Any, str]] = {
    "unknown kind": (None, "unknown kind 'FOREST'"),
    "a parameter too many": (lie("speed", 1, "parameters"), "unexpected keyword"),
    "a parameter out of range": (lie("alpha", -1, "parameters"), "'alpha' parameter"),
    "an unknown form": (lie("alpha", {"eval": "1"}, "parameters"), "KeyError"),
    "code": (
        lie("activation", {"rule": {"own": "os.system"}}, "parameters"),
        "custom rule",
    ),
    "an unknown activation": (
        lie("activation", ["slu"], "parameters"),
        "unknown activation",
    ),
    "too many activations": (
        lie("activation", ["relu"] * 3, "parameters"),
        "names 3 layers",
    ),
    "no threads": (lie("n_jobs", 0, "parameters"), "n_jobs"),
    "a number that is none": (
        lie("tol", {"float": "1"}, "parameters"),
        "is not one of",
    ),
    "more parameters": (lie("layer_sizes", [1 << 40, 5, 3]), "claims"),
    "other sizes": (lie("layer_sizes", [5, 6, 3]), "weights.0 must be"),
    "another dtype": (lie("dtype", "float32"), "must be float32"),
    "another output": (lie("out_activation", "identity"), "out_activation must be"),
    "labels too many": (
        lie("values", [0, 10, 20, 30], "labels"),
        "4 labels of a net with 3",
    ),
    "labels twice": (lie("values", [0, 10, 10], "labels"), "labels must be sorted"),
    "labels out of order": (
        lie("values", [10, 0, 20], "labels"),
        "labels must be sorted",
    ),
    "labels too large": (
        lie("values", [0, 1, 1 << 70], "labels"),
        "OverflowError|cannot hold",
    ),
    "labels of another type": (
        lie("values", [0, 1, "2"], "labels"),
        "must be a list of int",
    ),
    "labels in labels": (
        lie("values", [[0], [1], [2]], "labels"),
        "must be a list of int",
    ),
    "labels of an unknown dtype": (
        lie("dtype", "O8", "labels"),
        "labels of dtype 'O8'",
    ),
    "perhaps several": (lie("several", 1, "labels"), "must be true or false"),
    "several": (lie("several", True, "labels"), "labels must be sorted"),
    "too few names": (lie("feature_names", ["a"]), "1 names of 6 features"),
    "names of numbers": (lie("feature_names", [1] * 6), "feature_names.0 must be str"),
    "an unknown container": (
        lie("transform_output", "dask"),
        "output must be .* got 'dask'",
    ),
    "an unknown field": (lie("speed", 1), "must have .*, got .*, speed"),
    "an unknown attribute": (
        lie("fit", 1, "attributes"),
        "attributes must have n_iter_, .*, got",
    ),
    "attributes in a list": (
        lie("attributes", []),
        r"attributes must have parts, got \[\]",
    ),
    "half an epoch": (lie("n_iter_", 0.5, "attributes"), "n_iter_ must be"),
    "rows before the first": (lie("t_", -1, "attributes"), "t_ must be"),
    "a loss of text": (
        lie("loss_", "low", "attributes"),
        "attributes.loss_ must be float",
    ),
    "unknown books": (lie("kind", "zeus", "books"), "unknown kind of optimizer"),
    "a rate below zero": (lie("learning_rate", -1, "books"), "learning_rate must be"),
    "a setting out of range": (lie("beta_1", 2, "books"), "beta_1 must be"),
    "steps before the first": (lie("t", -1, "books"), "t must be"),
    "no biases": (lambda header, arrays: arrays.pop("biases.1"), "biases.1"),
    "a curve in a plane": (
        lambda header, arrays: arrays.update(
            {"attributes.loss_curve_": np.zeros((2, 2))}
        ),
        "loss_curve_ must be",
    ),
    "moments too few": (
        lambda header, arrays: arrays.update(moments=arrays["moments"][:1]),
        "moments must be",
    ),
    "the best of another net": (
        lambda header, arrays: arrays.update(best=np.zeros(3)),
        "best must be",
    ),
}


@pytest.mark.few(12)
@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_refused(name: str, path: Path) -> None:
    fastmlp.save(fitted(), path, include_training_state=True)
    kind, header, arrays = files.read(path)
    change, words = LIES[name]
    if change is None:
        kind = "FOREST"
    else:
        change(header, arrays)
    files.write(path, files.Content(kind, header, arrays))
    with pytest.raises(FileError, match=words) as caught:
        fastmlp.load(path)
    assert str(caught.value).startswith(str(path))


def test_one_long_label_does_not_make_all_of_them_long(path: Path) -> None:
    fastmlp.save(fitted(), path)
    content = files.read(path)
    values = ["a", "b", "c" * (2 << 20)]
    content.header["labels"].update(dtype="str", values=values)
    files.write(path, content)
    with pytest.raises(FileError, match="bytes as an array of text"):
        fastmlp.load(path)


# Golden files: written once by the format in their name, and anew for another format.
EXPECTED = json.loads((GOLDEN / "estimators.json").read_text())


def golden_data() -> Any:
    return np.arange(60.0).reshape(20, 3) % 7 / 7


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", EXPECTED)
def test_an_estimator_of_this_format_loads(name: str) -> None:
    model = fastmlp.load(GOLDEN / name)
    expected = EXPECTED[name]
    x = golden_data()
    assert words(model) == re.sub(r"\s+", "", expected["repr"])
    outputs = getattr(model, "predict_proba", model.predict)(x)
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-10)
    if not isinstance(model, MLPRegressor):
        assert model.predict(x).tolist() == expected["predictions"]
    y = np.array(expected["targets"])
    model.partial_fit(x, y)
    np.testing.assert_allclose(model.loss_curve_, expected["losses"], rtol=1e-8)


SMALL = MLPClassifier((5,), max_iter=20, random_state=0, learning_rate_init=0.05)


class Features(TransformerMixin, MLPClassifier): ...


FEATURES = Features((5,), max_iter=20, random_state=0, learning_rate_init=0.05)
TOOLS: dict[str, Callable[[], Any]] = {
    "pipeline": lambda: (
        make_pipeline(StandardScaler(), SMALL).fit(X, LABELS).score(X, LABELS)
    ),
    "transformer": lambda: (
        make_pipeline(FEATURES, SMALL).fit(X, LABELS).score(X, LABELS)
    ),
    "cross validation": lambda: cross_val_score(SMALL, X, LABELS, cv=3).mean(),
    "grid search": lambda: (
        GridSearchCV(SMALL, {"alpha": [0, 1], "activation": ["tanh", "gelu"]}, cv=2)
        .fit(X, LABELS)
        .best_score_
    ),
    "bagging": lambda: (
        BaggingClassifier(SMALL, 3, random_state=0).fit(X, LABELS).score(X, LABELS)
    ),
    "boosting": lambda: (
        AdaBoostClassifier(SMALL, n_estimators=3).fit(X, LABELS).score(X, LABELS)
    ),
    "calibration": lambda: (
        CalibratedClassifierCV(SMALL, cv=3).fit(X, LABELS).score(X, LABELS)
    ),
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


@pytest.mark.parametrize(
    "backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_a_worker_of_joblib_takes_one_thread(backend: str) -> None:
    assert n_threads_of(None) is None
    assert n_threads_of(1) == 1
    with joblib.parallel_backend(backend, n_jobs=2):
        assert joblib.Parallel()([joblib.delayed(n_threads_of)(None)] * 2) == [1, 1]
        search = GridSearchCV(SMALL, {"alpha": [0.01, 1.0, 10.0]}, cv=2).fit(X, LABELS)
    here = GridSearchCV(SMALL, search.param_grid, cv=2).fit(X, LABELS)
    for name in ("mean_test_score", "std_test_score"):
        assert np.array_equal(search.cv_results_[name], here.cv_results_[name])


def test_pickles_are_read_by_every_numpy() -> None:
    """NumPy 1.26 does not read the generators of NumPy 2;
    a user's own are the user's.
    """
    model = clone(SMALL).set_params(pickle_state=True).fit(X, LABELS)
    assert b"numpy.random" not in pickle.dumps(model)
    model.set_params(random_state=np.random.RandomState(0)).fit(X, LABELS)
    back = pickle.loads(pickle.dumps(model))
    assert back._random_state is back.random_state


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_onnx_gives_the_same_predictions(task: str, scaled: bool) -> None:
    from skl2onnx import to_onnx

    problem = TASKS[task]
    rows = X.astype(np.float32)
    settings = {"max_iter": 5, **problem.settings}
    options = None
    if problem.name == "MLPClassifier":
        net: Any = MLPClassifier((6, 5), ["elu", "tanh"], **settings)
        options = {id(net): {"zipmap": False}}
    else:
        net = MLPRegressor(hidden_layer_sizes=(6,), **settings)
    model = net
    if scaled:
        model = make_pipeline(StandardScaler(), net)
    model.fit(rows, problem.y)
    graph = to_onnx(model, rows[:1], options=options).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"X": rows})
    for output, place in zip(outputs, session.get_outputs(), strict=True):
        assert place.shape[1:] == [*output.shape[1:]]
    if problem.name == "MLPClassifier":
        assert np.array_equal(outputs[0], model.predict(rows))
        expected = model.predict_proba(rows)
        np.testing.assert_allclose(outputs[1], expected, rtol=1e-5, atol=1e-6)
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
    with (
        warnings.catch_warnings(),
        pytest.raises(NotImplementedError, match="'bump' is more"),
    ):
        to_onnx(model, X[:1])
