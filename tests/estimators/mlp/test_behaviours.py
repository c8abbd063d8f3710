"""Odd input and odd states: ours do the same as scikit-learn's estimators."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from fitting import needs_compiler, unconverged
from pairs import BEFORE_1_9, LABELS, REAL, WEIGHTS, X, both, numbers_of, outcome
from pairs import same as same_weights

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.training.loop import Calls, Spans

pytestmark = [unconverged, needs_compiler]
SMALL: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0}
NAMES = ("MLPClassifier", "MLPRegressor")
FRAME = pd.DataFrame(X, columns=list("abcdef"))


def target_of(name: str) -> Any:
    return LABELS if name == "MLPClassifier" else REAL


def assert_equal(mine: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert_equal(mine[key], theirs[key], tolerance)
    elif isinstance(theirs, np.ndarray) and theirs.dtype.kind == "f":
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    elif isinstance(theirs, np.ndarray):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
    elif scipy.sparse.issparse(theirs):
        assert_equal(mine.toarray(), theirs.toarray(), tolerance)
    else:
        assert mine == theirs or (mine != mine and theirs != theirs)


def same(
    name: str, call: Callable[[Any], Any], *, tolerance: float = 1e-9, **settings: Any
) -> Any:
    """Do the same with both; results,
    warnings and errors are the same. Return them, ours.
    """
    theirs, ours = (
        outcome(partial(call, model)) for model in both(name, **{**SMALL, **settings})
    )
    assert ours[1] == theirs[1]
    assert ours[2] == theirs[2]
    assert_equal(ours[0], theirs[0], tolerance)
    return ours


def fitted(model: Any, rows: Any = X, **options: Any) -> Any:
    y = LABELS if hasattr(model, "predict_proba") else REAL
    model.fit(rows, y, **options)
    names = [*getattr(model, "feature_names_in_", [])]
    return {**numbers_of(model), "predictions": model.predict(rows), "names": names}


FORMS: dict[str, Any] = {
    "list": X.tolist(),
    "pandas": FRAME,
    "polars": pl.DataFrame({name: X[:, i] for i, name in enumerate("abcdef")}),
    "arrow": pa.table({name: X[:, i] for i, name in enumerate("abcdef")}),
    "integers": (X * 3).astype(int),
    "float16": X.astype(np.float16),
    "float32": X.astype(np.float32),
    "fortran": np.asfortranarray(X),
    "every other row of more": np.repeat(X, 2, axis=0)[::2],
    "csr": scipy.sparse.csr_array(X),
    "csc": scipy.sparse.csc_matrix(X),
    "coo": scipy.sparse.coo_matrix(X),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_1_rows_in_any_form(form: str, name: str) -> None:
    tolerance = 1e-5 if form == "float32" else 1e-9
    _, _, error = same(
        name, lambda model: fitted(model, FORMS[form]), tolerance=tolerance
    )
    assert error is None


TARGETS: dict[str, tuple[str, Any]] = {
    "column of labels": ("MLPClassifier", LABELS[:, None]),
    "column of numbers": ("MLPRegressor", REAL[:, None]),
    "indicators": ("MLPClassifier", (X[:, :3] > 0).astype(int)),
    "sparse indicators": (
        "MLPClassifier",
        scipy.sparse.csr_matrix((X[:, :3] > 0).astype(int)),
    ),
    "multiclass, several outputs": (
        "MLPClassifier",
        np.digitize(X[:, :2], [-0.5, 0.5]),
    ),
    "continuous": ("MLPClassifier", REAL),
    "too short": ("MLPRegressor", REAL[:-1]),
    "nan": ("MLPRegressor", np.where(REAL > 0, REAL, np.nan)),
    "one class": ("MLPClassifier", np.zeros(len(X), int)),
    "booleans": ("MLPClassifier", X[:, 0] > 0),
    "objects": ("MLPClassifier", LABELS.astype(object)),
    "floats": ("MLPClassifier", np.where(X[:, 0] > 0, 2.0, -1.0)),
    "list": ("MLPClassifier", LABELS.tolist()),
    "series": ("MLPClassifier", pd.Series(LABELS)),
}


@pytest.mark.parametrize("target", TARGETS)
def test_4_targets(target: str) -> None:
    name, y = TARGETS[target]

    def call(model: Any) -> Any:
        model.fit(X, y)
        results = numbers_of(model)
        results["predictions"] = model.predict(X)
        results["one"] = model.predict(X[:1])
        results["again"] = model.predict(X[:1])
        if name == "MLPClassifier":
            results["probabilities"] = model.predict_proba(X)
            results["few"] = model.predict_proba(X[:2])
        return results

    same(name, call)


SAMPLE_WEIGHTS: dict[str, Any] = {
    "array": WEIGHTS,
    "list": WEIGHTS.tolist(),
    "a number": 2.0,
    "ones": np.ones(len(X)),
    "too short": WEIGHTS[:-1],
    "nan": np.where(WEIGHTS > 1, np.nan, WEIGHTS),
    "negative": np.where(WEIGHTS > 2.8, -WEIGHTS, WEIGHTS),
    "float32": WEIGHTS.astype(np.float32),
}


@pytest.mark.few(12)
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", SAMPLE_WEIGHTS)
def test_5_sample_weights(weight: str, name: str, early: bool) -> None:
    given = SAMPLE_WEIGHTS[weight]
    same(
        name,
        lambda m: fitted(m, sample_weight=given),
        early_stopping=early,
        batch_size=20,
    )


@pytest.mark.parametrize("name", NAMES)
def test_5_lbfgs_leaves_rows_of_no_weight_out(name: str) -> None:
    keep = np.arange(len(X)) % 3 > 0
    same(name, lambda m: fitted(m, sample_weight=keep * 1.0), solver="lbfgs")


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_9_divergence(name: str, early: bool) -> None:
    def call(model: Any) -> Any:
        # Whether a number is inf or NaN depends on the order of the sums.
        model.fit(X, target_of(name))
        return {"finite": np.isfinite(model.loss_curve_), "epochs": model.n_iter_}

    settings: dict[str, Any] = {
        "solver": "sgd",
        "learning_rate_init": 1e200,
        "max_iter": 30,
    }
    result, _, error = same(
        name, call, early_stopping=early, activation="identity", **settings
    )
    if not early:
        assert result is None
        assert "non-finite parameter weights" in error[1]


@pytest.mark.parametrize("early", [False, True])
def test_10_ctrl_c_keeps_what_is_learnt(
    early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Calls.run
    calls = list[None]()

    def interrupted(self: Calls, *arguments: Any) -> Spans:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(Calls, "run", interrupted)
    settings = {**SMALL, "max_iter": 50, "early_stopping": early}
    model = MLPClassifier(**settings)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, LABELS)
    assert model.n_iter_ == len(model.loss_curve_) == (1 if early else 11)
    assert set(model.predict(X)) <= {"yes", "no"}
    monkeypatch.undo()
    whole = MLPClassifier(**{**settings, "max_iter": model.n_iter_}).fit(X, LABELS)
    assert_equal(numbers_of(model), numbers_of(whole))


def fitted_on(model: Any, n: int, y: Any = LABELS) -> Any:
    return numbers_of(model.fit(X[:n], y[:n]))


def in_parts(model: Any, *rows: Any) -> Any:
    for each in rows:
        model.partial_fit(each, REAL)
    return numbers_of(model)


def kinds_of(model: Any, *kinds: Any) -> Any:
    for kind in kinds:
        model.fit(X.astype(kind), LABELS)
    return [part.dtype for part in model.coefs_]


def goes_on_in_float32(model: Any) -> Any:
    in_float32(model.fit(X, REAL))
    return model.partial_fit(X, REAL).coefs_[0].astype(np.float64)


def of_zeros(model: Any) -> Any:
    model.fit(X, LABELS)
    for part in model.coefs_ + model.intercepts_:
        part[...] = 0
    assert model.predict(X[:1]) == ["no"]
    assert model.predict(X[:1]) == ["no"]
    assert model.predict(X)[0] == "no"


C, R = NAMES
OTHERS = np.where(LABELS == "no", "maybe", LABELS)
RARE = np.where(np.arange(53) == 7, "yes", "no")
EARLY: dict[str, Any] = {"early_stopping": True}
BOTH = {"classes": ["no", "yes"]}
ONE_WEIGHT = np.eye(len(X))[3]  # Of a row to train on.
ALL_ZERO = np.zeros(len(X))
NEGATIVE = np.where(np.arange(len(X)) == 4, -2.5, 1.0)
SPARSE = [
    getattr(scipy.sparse, f"{k}_array")(np.maximum(X[:, :2], 0))
    for k in ("csr", "csc", "coo")
]
# A call, its settings, and words of its error, or of its warning.
CALLS: list[tuple[str, Callable[[Any], Any], dict[str, Any], str]] = [
    (C, lambda m: m.fit(X, LABELS).predict(X[:1, :3]), {}, "X has 3 features"),
    (R, lambda m: m.fit(X, REAL).predict(X[:1, :3]), {}, "X has 3 features"),
    (C, lambda m: m.predict(X), {}, "not fitted yet"),
    (R, lambda m: m.predict(X), {}, "not fitted yet"),
    *(
        (R, lambda m, y=y: numbers_of(m.fit(X, y).partial_fit(X, y)), {}, "")
        for y in SPARSE
    ),
    (R, lambda m: type(m.fit(X, REAL).loss_), {"solver": "lbfgs"}, ""),
    (R, lambda m: type(m.fit(X, REAL).loss_), {}, ""),
    (C, of_zeros, {}, ""),
    (R, fitted, {"loss": "poisson", "learning_rate_init": 0.01}, ""),
    (R, fitted, {"loss": "poisson", "learning_rate_init": 0.01, "solver": "sgd"}, ""),
    (C, fitted, {"batch_size": 1000}, "Got `batch_size`"),
    (R, fitted, {"batch_size": 1000}, "Got `batch_size`"),
    (C, lambda m: fitted_on(m, 5), EARLY, "least populated class"),
    (C, lambda m: fitted_on(m, 53, RARE), EARLY, "least populated class"),
    (C, lambda m: fitted_on(m, 12), EARLY, ""),
    (R, lambda m: fitted_on(m, 5, REAL), EARLY, "set is too small"),
    (R, lambda m: fitted_on(m, 12, REAL), EARLY, ""),
    (C, fitted, {**EARLY, "validation_fraction": 0.0}, "test_size=0.0 should"),
    (C, lambda m: m.partial_fit(X, LABELS), {}, "classes must be passed"),
    (
        C,
        lambda m: m.partial_fit(X, LABELS, **BOTH).partial_fit(X, OTHERS),
        {},
        "not in `self.",
    ),
    (C, lambda m: m.partial_fit(X, LABELS, **BOTH), EARLY, "not support early_stop"),
    (R, lambda m: m.partial_fit(X, REAL), EARLY, "does not support early_stopping"),
    (
        C,
        lambda m: m.fit(X, LABELS).fit(X, OTHERS),
        {"warm_start": True},
        "warm_start can only",
    ),
    (R, lambda m: in_parts(m, X, scipy.sparse.csr_array(X), X), {}, ""),
    (C, lambda m: kinds_of(m, np.float32, np.float64), {"warm_start": True}, ""),
    (C, lambda m: kinds_of(m, np.float64, np.float32), {"warm_start": True}, ""),
    (R, goes_on_in_float32, {"tolerance": 1e-6}, ""),
]
CALLS += [
    (each, lambda m: fitted(m, sample_weight=NEGATIVE), {"solver": solver}, "")
    for each in NAMES
    for solver in ("adam", "sgd", "lbfgs")
]
if not BEFORE_1_9:
    no_weight = "at least one non-zero number"
    CALLS += [
        (each, lambda m: fitted(m, sample_weight=ONE_WEIGHT), EARLY, no_weight)
        for each in NAMES
    ]
    CALLS += [
        (each, lambda m: fitted(m, sample_weight=ALL_ZERO), {}, no_weight)
        for each in NAMES
    ]


@pytest.mark.parametrize(("name", "call", "settings", "words"), CALLS)
def test_2_to_15_calls(
    name: str, call: Any, settings: dict[str, Any], words: str
) -> None:
    _, warned, error = same(name, call, **settings)
    assert words in str(error or warned)
    assert words or error is None


@pytest.mark.parametrize(
    "classes", [[0, 1], [0, 1, 3], ["0", "1", "2"], [2, 1, 0], [], [[0], 1]]
)
def test_4_classes_of_a_later_call(classes: Any) -> None:
    y = np.arange(len(X)) % 3

    def call(model: Any) -> Any:
        return (
            model.partial_fit(X, y, classes=[0, 1, 2])
            .partial_fit(X, y, classes=classes)
            .t_
        )

    same("MLPClassifier", call)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", NAMES)
def test_12_partial_fit_goes_on_after_a_fit(name: str, solver: str) -> None:
    def call(model: Any) -> Any:
        model.fit(X, target_of(name))
        for _ in range(3):
            model.partial_fit(X[:20], target_of(name)[:20])
        return {**numbers_of(model), "counts": np.array([model.n_iter_, model.t_])}

    same(name, call, solver=solver, learning_rate="invscaling")


def test_12_partial_fit_does_not_warn_of_max_iter() -> None:
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(X, REAL)


def of_two_fits(model: Any) -> Any:
    def call() -> Any:
        return [fitted(model)["parameter 0"].sum() for _ in range(2)]

    return outcome(call)[0]


def test_14_no_random_state_draws_from_numpys_own() -> None:
    results = []
    for model in both("MLPClassifier", **{**SMALL, "random_state": None}):
        np.random.seed(7)  # noqa: NPY002
        results.append(of_two_fits(model))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9)


def test_14_a_random_state_advances() -> None:
    results = []
    for model in both("MLPClassifier", **SMALL):
        model.set_params(random_state=np.random.RandomState(5))
        results.append(of_two_fits(model))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9)
    first, second = results[0]
    assert first != second


def change_in_place(model: Any) -> None:
    for part in model.coefs_ + model.intercepts_:
        part *= 0.5


def change_elements(model: Any) -> None:
    model.coefs_[0] = model.coefs_[0] * 0.5
    model.intercepts_[1] = model.intercepts_[1] + 1


def change_lists(model: Any) -> None:
    model.coefs_ = [part * 0.5 for part in model.coefs_]
    model.intercepts_ = [part + 1 for part in model.intercepts_]


@pytest.mark.parametrize("change", [change_in_place, change_elements, change_lists])
@pytest.mark.parametrize("name", NAMES)
def test_15_what_is_written_to_the_weights_counts(
    name: str, change: Callable[..., Any]
) -> None:
    def call(model: Any) -> Any:
        y = target_of(name)
        model.fit(X, y).predict(X[:1])
        change(model)
        held = [*model.coefs_, *model.intercepts_]
        results = {"one": model.predict(X[:1]), "all": model.predict(X)}
        model.partial_fit(X, y)
        results["partly"] = model.predict(X)
        results["held"] = np.concatenate([part.ravel() for part in held])
        model.fit(X, y)
        return {**results, **numbers_of(model)}

    same(name, call, warm_start=True)


def in_float32(model: Any) -> None:
    model.coefs_ = [part.astype(np.float32) for part in model.coefs_]
    model.intercepts_ = [part.astype(np.float32) for part in model.intercepts_]


def first_in_integers(model: Any) -> None:
    model.coefs_[0] = np.rint(model.coefs_[0] * 3).astype(int)


def one_bias_for_a_layer(model: Any) -> None:
    model.intercepts_[0] = np.array([0.5])


def flat_biases(model: Any) -> None:
    model.intercepts_[0] = model.intercepts_[0][None]


def fewer_units(model: Any) -> None:
    model.coefs_[0] = model.coefs_[0][:, :2]
    model.coefs_[1] = model.coefs_[1][:2]
    model.intercepts_[0] = model.intercepts_[0][:2]


@pytest.mark.parametrize(
    "change",
    [in_float32, first_in_integers, one_bias_for_a_layer, flat_biases, fewer_units],
)
@pytest.mark.parametrize("name", NAMES)
def test_15_weights_of_other_kinds_count(name: str, change: Any) -> None:
    def outputs(model: Any) -> Any:
        return getattr(model, "predict_proba", model.predict)(X)

    def call(model: Any) -> Any:
        model.fit(X, target_of(name)).predict(X[:1])
        change(model)
        return {
            "own": outputs(model),
            "copy": outputs(copy.copy(model)),
            "deepcopy": outputs(copy.deepcopy(model)),
            "pickle": outputs(pickle.loads(pickle.dumps(model))),
        }

    *_, error = same(name, call)
    assert error is None


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_15_one_bias_for_a_layer_is_trained_as_that_of_each_unit(solver: Any) -> None:
    def trained_from(bias: Any) -> Any:
        model = MLPRegressor(**SMALL, warm_start=True, solver=solver)
        model.fit(X, REAL)
        model.intercepts_[0] = bias
        model.fit(X, REAL)
        return model

    assert same_weights(trained_from(np.array([0.5])), trained_from(np.full(4, 0.5)))


# Values in the place of a model's weights and biases.
MISFITS: dict[str, Callable[[Any, Any], Any]] = {
    "columns too many": lambda w, b: w.__setitem__(0, np.hstack([w[0]] * 2)),
    "rows too many": lambda w, b: w.__setitem__(1, np.vstack([w[1]] * 2)),
    "rows too few": lambda w, b: w.__setitem__(0, w[0][:3]),
    "biases too many": lambda w, b: b.__setitem__(0, np.r_[b[0], 0.0]),
    "upright biases": lambda w, b: b.__setitem__(0, b[0][:, None]),
    "flat weights": lambda w, b: w.__setitem__(0, w[0].ravel()),
    "a layer too few": lambda w, b: w.pop(),
}


@pytest.mark.parametrize("change", MISFITS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", NAMES)
def test_15_weights_that_do_not_fit_together(
    name: str, solver: str, change: str
) -> None:
    """A kernel would read and write past their end."""
    _, model = both(name, **SMALL, solver=solver, warm_start=True)
    model.fit(X, target_of(name))
    model.predict(X[:1])
    MISFITS[change](model.coefs_, model.intercepts_)
    for rows in (X, X[:1]):
        with pytest.raises(ValueError, match=r"coefs_|intercepts_"):
            model.predict(rows)
        with pytest.raises(ValueError, match=r"coefs_|intercepts_"):
            pickle.loads(pickle.dumps(model)).predict(rows)
    with pytest.raises(ValueError, match=r"coefs_|intercepts_|layers of"):
        model.fit(X, target_of(name))


VERBOSE: dict[str, dict[str, Any]] = {
    "to the end": {},
    "no progress": {"tol": 10, "n_iter_no_change": 2, "max_iter": 20},
    "early stopping": {
        "early_stopping": True,
        "tol": 1,
        "n_iter_no_change": 2,
        "max_iter": 20,
    },
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 1e-5,
        "tol": 10,
        "n_iter_no_change": 1,
        "max_iter": 30,
    },
}


@pytest.mark.parametrize("way", VERBOSE)
@pytest.mark.parametrize("name", NAMES)
def test_16_verbose_prints_the_same_lines(name: str, way: str) -> None:
    def call(model: Any) -> Any:
        text = io.StringIO()
        with redirect_stdout(text):
            model.fit(X, target_of(name))
        return text.getvalue()

    printed, _, _ = same(name, call, verbose=True, **VERBOSE[way])
    assert printed.startswith("Iteration 1, loss = ")


@pytest.mark.parametrize("frame", [FRAME, FORMS["polars"]])
def test_18_data_frames_with_early_stopping_warn_of_nothing(frame: Any) -> None:
    _, warned, _ = same(
        "MLPClassifier", lambda m: fitted(m, frame), early_stopping=True
    )
    assert not [text for _, text in warned if "feature names" in text]


WRONG: list[dict[str, Any]] = [
    {"alpha": -1},
    {"hidden_layer_sizes": (5, 0)},
    {"hidden_layer_sizes": (5.5,)},
    {"hidden_layer_sizes": 0},
    {"learning_rate": "slow"},
    {"max_iter": 0},
    {"validation_fraction": 1.0},
    {"beta_1": 1.0},
    {"random_state": "seed"},
    {"n_iter_no_change": 0},
    {"momentum": 1.5},
]
ODD: list[dict[str, Any]] = [
    {"hidden_layer_sizes": ()},
    {"hidden_layer_sizes": 3},
    {"hidden_layer_sizes": np.array([3, 4])},
    {"momentum": 1.0, "solver": "sgd"},
    {"n_iter_no_change": np.inf},
    {"beta_1": 0, "beta_2": 0},
    {"alpha": 0},
    {"batch_size": 1},
]


@pytest.mark.parametrize("settings", ODD, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_odd_settings_are_taken(name: str, settings: dict[str, Any]) -> None:
    *_, error = same(name, fitted, **settings)
    assert error is None


@pytest.mark.parametrize("settings", WRONG, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    *_, error = same(name, fitted, **settings)
    assert error is not None
