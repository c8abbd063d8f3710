"""Weights and scores follow scikit-learn's epoch by epoch,
but for the table of differences.
"""

import pickle
import re
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import (
    BEFORE_1_9,
    REAL,
    TASKS,
    WEIGHTS,
    Task,
    X,
    assert_same_books,
    both,
    distance,
    numbers_of,
    outcome,
)
from pairwise import crossed
from sklearn import neural_network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._base import LOSS_FUNCTIONS

from fastmlp import EarlyStopping, MLPClassifier, MLPRegressor

pytestmark = [unconverged, needs_compiler]
PAGE = (Path(__file__).parents[3] / "docs" / "from" / "scikit-learn.md").read_text()
SMALL: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0}
NAN = float("nan")


def outcomes(name: str, call: Callable[[Any], Any], **settings: Any) -> tuple[Any, Any]:
    theirs, ours = both(name, **{**SMALL, **settings})
    return outcome(lambda: call(theirs)), outcome(lambda: call(ours))


def fit(y: Any, model: Any) -> Any:
    return model.fit(X, y)


def fit_on(data: Any, model: Any) -> Any:
    return model.fit(**data)


def fit_twice(model: Any) -> Any:
    return model.fit(X, REAL).fit(X, REAL)


def objective_at(model: Any, y: Any, buffers: Any, packed: Any) -> Any:
    return model._loss_grad_lbfgs(packed, X, y, None, *buffers)


def batch_of_no_weight() -> None:
    weight = np.r_[np.zeros(20), np.ones(33)]
    settings = {"shuffle": False, "batch_size": 20, "solver": "sgd"}
    theirs, ours = outcomes(
        "MLPRegressor", lambda m: m.fit(X, REAL, sample_weight=weight), **settings
    )
    assert theirs[2][0] == "ZeroDivisionError"
    rest = MLPRegressor(**{**SMALL, **settings})
    rest.fit(X[20:], REAL[20:])
    for mine, other in zip(ours[0].coefs_, rest.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)


def negative_weights() -> None:
    weight = np.where(np.arange(len(X)) % 5 == 0, -0.1, 1.0)
    theirs, ours = outcomes(
        "MLPRegressor", lambda m: m.fit(X, REAL, sample_weight=weight)
    )
    for mine, other in zip(ours[0].coefs_, theirs[0].coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)


def no_weight_at_all() -> None:
    theirs, ours = outcomes("MLPRegressor", lambda m: m.fit(X, REAL, sample_weight=0.0))
    # Before 1.9, scikit-learn's check of weights lets them pass.
    assert BEFORE_1_9 or ours[2] == theirs[2] is not None


def other_sizes_under_warm_start() -> None:
    def call(model: Any) -> Any:
        return model.fit(X, REAL).set_params(hidden_layer_sizes=(9,)).fit(X, REAL)

    theirs, ours = outcomes("MLPRegressor", call, warm_start=True)
    assert theirs[0].coefs_[0].shape == (6, 4)
    assert ours[2][0] == "ValueError"
    assert "[6, 4, 1]" in ours[2][1]
    assert "[6, 9, 1]" in ours[2][1]
    _, ours = outcomes(
        "MLPRegressor", lambda m: m.fit(X, REAL).fit(X, X[:, :2]), warm_start=True
    )
    assert "[6, 4, 2]" in ours[2][1]


def another_loss_under_warm_start() -> None:
    counts = np.abs(np.rint(REAL))
    for before, after in (("poisson", "squared_error"), ("squared_error", "poisson")):
        for again in ("fit", "partial_fit"):

            def call(model: Any, after: str = after, again: str = again) -> Any:
                model.fit(X, counts).set_params(loss=after)
                return getattr(model, again)(X, counts)

            settings = {"loss": before, "warm_start": True}
            theirs, ours = outcomes("MLPRegressor", call, **settings)
            assert theirs[2] is None
            assert theirs[0].out_activation_ == (
                "exp" if before == "poisson" else "identity"
            )
            assert ours[2][0] == "ValueError"
            assert repr(theirs[0].out_activation_) in ours[2][1]
            assert repr(after) in ours[2][1]


def early_stopping_under_warm_start() -> None:
    first: list[Any] = []
    labels = (
        X[:, 0] > 0
    )  # scikit-learn before 1.9 cannot stop early where they are text

    def call(model: Any) -> Any:
        first.append([part.copy() for part in model.fit(X, labels).coefs_])
        return model.fit(X, labels)

    settings: dict[str, Any] = {
        "warm_start": True,
        "early_stopping": True,
        "n_iter_no_change": 3,
    }
    settings |= {"solver": "sgd", "learning_rate_init": 0.5, "max_iter": 30}
    theirs, ours = outcomes("MLPClassifier", call, **settings)
    scores = ours[0].validation_scores_
    assert scores == pytest.approx(theirs[0].validation_scores_)
    assert max(scores[: -ours[0].n_iter_]) >= max(scores[-ours[0].n_iter_ :])
    same = [
        np.array_equal(model.coefs_[0], before[0])
        for model, before in zip((theirs[0], ours[0]), first, strict=True)
    ]
    assert same == [False, True]


def targets_that_are_text() -> None:
    for y in (REAL.astype(str), np.full(len(X), "2026-01-01", "M8[D]")):
        theirs, ours = outcomes("MLPRegressor", partial(fit, y))
        assert theirs[2][0] == "UFuncTypeError"
        assert ours[2] == (
            "TypeError",
            f"MLPRegressor: y must hold numbers, got an array of {y.dtype}",
        )


def state_in_pickles() -> None:
    theirs, ours = outcomes(
        "MLPRegressor",
        lambda m: len(pickle.dumps(m.fit(X, REAL))),
        hidden_layer_sizes=(200,),
    )
    assert theirs[0] > 2.5 * ours[0]
    with_state = MLPRegressor(**{**SMALL, "pickle_state": True})
    with_state.fit(X, REAL)
    assert hasattr(pickle.loads(pickle.dumps(with_state)), "_optimizer")
    assert not hasattr(
        pickle.loads(pickle.dumps(with_state.set_params(pickle_state=False))),
        "_optimizer",
    )


def float64_targets_of_float32_rows() -> None:
    theirs, ours = outcomes("MLPRegressor", lambda m: m.fit(X.astype(np.float32), REAL))
    assert theirs[0]._optimizer.ms[0].dtype == np.float64
    assert ours[0]._state.slots().dtype == np.float32


def lbfgs_in_float32() -> None:
    theirs, ours = outcomes(
        "MLPRegressor", lambda m: m.fit(X.astype(np.float32), REAL), solver="lbfgs"
    )
    assert theirs[0].coefs_[0].dtype == np.float64
    assert ours[0].coefs_[0].dtype == np.float32
    np.testing.assert_allclose(
        ours[0].coefs_[0], theirs[0].coefs_[0], rtol=1e-4, atol=1e-6
    )


def levenberg_marquardt() -> None:
    """All rows at each iteration: batches, and rows held out, have no effect."""
    settings = {**SMALL, "solver": "lm", "max_iter": 5, "tol": 0}
    theirs, ours = both("MLPRegressor", **settings)
    with pytest.raises(ValueError, match="solver"):
        theirs.fit(X, REAL)
    with pytest.warns(ConvergenceWarning):
        ours.fit(X, REAL)
    others = both("MLPRegressor", **settings, batch_size=3, early_stopping=True)[1]
    with pytest.warns(ConvergenceWarning):
        others.fit(X, REAL)
    assert ours.n_iter_ == others.n_iter_ == 5
    assert (
        ours.loss_curve_ == others.loss_curve_ == sorted(ours.loss_curve_, reverse=True)
    )


def lbfgs_by_epochs() -> None:
    theirs, ours = both("MLPRegressor", **SMALL, solver="lbfgs")
    assert hasattr(theirs, "partial_fit")
    assert not hasattr(ours, "partial_fit")


def names_in_messages() -> None:
    theirs, ours = outcomes(
        "MLPRegressor", lambda m: m.fit(X, REAL), activation="swish"
    )
    for (_, _, error), known in ((theirs, "'relu'"), (ours, "'gelu'")):
        assert error[0] == "InvalidParameterError"
        assert known in error[1]


def what_the_core_has() -> None:
    watch = {"early_stopping": EarlyStopping(patience=2), "loss": "huber"}
    for name, value in watch.items():
        theirs, ours = outcomes(
            "MLPRegressor", lambda m: m.fit(X, REAL), **{name: value}
        )
        assert theirs[2][0] == "InvalidParameterError"
        assert ours[0].n_iter_ <= 5


def warnings_of_numpy() -> None:
    settings = {"solver": "sgd", "learning_rate_init": 1e200, "activation": "identity"}
    for kind, warns in zip(
        both("MLPRegressor", **{**SMALL, **settings}), (True, False), strict=True
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(ValueError, match="non-finite"):
                kind.fit(X, REAL)
        assert any(w.category is RuntimeWarning for w in caught) == warns


def loss_of_several_outputs() -> None:
    y = np.column_stack([REAL, REAL])
    for model in both("MLPRegressor", **SMALL, alpha=0, solver="lbfgs"):
        outcome(partial(model.fit, X, REAL))
        single = model.loss_
        outcome(partial(model.fit, X, y))
        # Up to scikit-learn 1.9 the mean over outputs, and the gradient of their sum.
        packed = np.concatenate([np.ravel(p) for p in model.coefs_ + model.intercepts_])
        gradients = [np.empty_like(p) for p in model.coefs_]
        biases = [np.empty_like(p) for p in model.intercepts_]
        buffers = ([X, None, None], [None, None], gradients, biases)
        at = partial(objective_at, model, y, buffers)
        loss, gradient = at(packed)
        gradient = gradient.copy()
        step = np.zeros_like(packed)
        step[-1] = 1e-6
        slope = (at(packed + step)[0] - at(packed - step)[0]) / 2e-6
        sums = LOSS_FUNCTIONS["squared_error"](y * 0, y * 0 + 1) == 1
        n_slopes = 1 if sums else 2
        assert gradient[-1] == pytest.approx(n_slopes * slope, rel=1e-5)
        assert np.isfinite([loss, single]).all()


def integers_that_no_float_holds() -> None:
    theirs, ours = outcomes("MLPRegressor", lambda m: m.fit(X, REAL), alpha=10**400)
    assert theirs[2] == ("OverflowError", "int too large to convert to float")
    assert ours[2] == ("ValueError", "MLPRegressor: int too large to convert to float")


def split_of_several_classes() -> None:
    y = np.repeat([0, 1, 2], [45, 6, 2])
    theirs, ours = outcomes("MLPClassifier", lambda m: m.fit(X, y), early_stopping=True)
    assert theirs[2] is None
    assert ours[2] is None
    assert ours[0].validation_scores_ == pytest.approx(theirs[0].validation_scores_)


def momentum_under_warm_start() -> None:
    for model in both("MLPRegressor", **SMALL, warm_start=True):
        outcome(partial(fit_twice, model))
        assert model._optimizer.t == 5


def curve_of_partial_fits() -> None:
    for model in both("MLPRegressor", **SMALL):
        for _ in range(4):
            model.partial_fit(X, REAL)
        assert (model.n_iter_, len(model.loss_curve_)) == (1, 4)


def squares_that_overflow() -> None:
    """A mean of squares that is infinite stays so in scikit-learn:
    such parameters no longer move.

    Ours moves by a difference, and infinity less infinity is NaN.
    """
    far = {"X": (1e12 * X).astype(np.float32), "y": REAL.astype(np.float32)}
    light = {"X": X, "y": REAL, "sample_weight": np.full(len(X), 1e-165)}
    for data in (far, light):
        fits = [
            outcomes("MLPRegressor", partial(fit_on, data), max_iter=n) for n in (1, 5)
        ]
        (first, _), (theirs, ours) = fits
        assert theirs[2] is None
        np.testing.assert_array_equal(theirs[0].coefs_[0], first[0].coefs_[0])
        assert ours[2][0] == "ValueError"
        assert "non-finite parameter weights" in ours[2][1]


def lbfgs_on_relu() -> None:
    """After ten iterations the two agree to rounding;
    after hundreds scikit-learn differs from itself, if the last bit of X does.
    """
    labels = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
    settings = {"hidden_layer_sizes": (10, 10), "solver": "lbfgs", "alpha": 0.1}

    def probabilities(model: Any, rows: Any = X) -> Any:
        return model.fit(rows, labels).predict_proba(X)

    theirs, ours = outcomes("MLPClassifier", probabilities, **settings, max_iter=10)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-10)
    bits = 1 + 2.0**-52 * np.random.default_rng(0).integers(-1, 2, X.shape)
    long = {**settings, "max_iter": 2000}
    there, _ = outcomes("MLPClassifier", probabilities, **long)
    moved, _ = outcomes("MLPClassifier", lambda m: probabilities(m, X * bits), **long)
    assert np.abs(there[0] - moved[0]).max() > 1e-6


DIFFERENCES: dict[str, Callable[[], None]] = {
    "a batch whose weights sum to zero": batch_of_no_weight,
    "negative `sample_weight`": negative_weights,
    "`sample_weight` of 0 for all rows": no_weight_at_all,
    "other layer sizes under `warm_start`": other_sizes_under_warm_start,
    "another `loss` under `warm_start` or in `partial_fit`": another_loss_under_warm_start,
    "`early_stopping` under `warm_start`, no score above the earlier fits' best": (
        early_stopping_under_warm_start
    ),
    "a regressor's targets that are text or dates": targets_that_are_text,
    "what a pickle holds": state_in_pickles,
    "float32 rows with float64 targets": float64_targets_of_float32_rows,
    "`lbfgs` on float32 rows": lbfgs_in_float32,
    "`partial_fit` of a regressor with `lbfgs`": lbfgs_by_epochs,
    '`solver="lm"`': levenberg_marquardt,
    "an `EarlyStopping`, and other losses of a regressor": what_the_core_has,
    "an unknown activation or solver": names_in_messages,
    "overflow in training": warnings_of_numpy,
    "an integer that no float holds": integers_that_no_float_holds,
    "squared error of several outputs": loss_of_several_outputs,
    "early stopping with several classes": split_of_several_classes,
    "the optimizer's state under `warm_start`": momentum_under_warm_start,
    "`loss_curve_` in `partial_fit`": curve_of_partial_fits,
}


def test_the_table_has_the_tested_rows() -> None:
    _, after = PAGE.split("| what | in scikit-learn | in fastmlp |\n", 1)
    table, _ = after.split("\n\n", 1)
    rows = re.findall(r"^\| ([^|]+?) \|", table, flags=re.MULTILINE)
    assert rows == [*DIFFERENCES]


def test_a_clone_has_the_parameters() -> None:
    model = MLPClassifier(**SMALL, class_weight="balanced", n_jobs=1, scoring="loss")
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("row", DIFFERENCES)
def test_row(row: str) -> None:
    DIFFERENCES[row]()


@pytest.mark.slow
@pytest.mark.parametrize("row", [squares_that_overflow, lbfgs_on_relu])
def test_numbers_differ_by_rounding(row: Callable[[], None]) -> None:
    row()


EPOCHS = 20
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {"solver": "adam", "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.05},
    "momentum": {
        "solver": "sgd",
        "learning_rate_init": 0.05,
        "nesterovs_momentum": False,
    },
    "plain": {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3},
    # A tolerance that nothing meets: the rate falls every third epoch.
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "tol": 10,
        "n_iter_no_change": 2,
    },
    "lbfgs": {"solver": "lbfgs"},
}
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
# Descent by other steps and rates, which know nothing of the activation:
# one of them each, in turn; else two of them, which meet every task.
VARIANTS = {"momentum", "plain", "invscaling", "adaptive"}
# A batch of 16 leaves a tail of 5 rows of 53.
WAYS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.2},
    "warm start": {"warm_start": True, "max_iter": EPOCHS // 2},
    "partial fit": {},
    "weighted": {},
    "weighted, early stopping": {"early_stopping": True, "validation_fraction": 0.2},
    "one batch": {"batch_size": "auto"},
    "a tail of 3": {"batch_size": 50},
}
EPOCHAL = {
    "in order",
    "early stopping",
    "partial fit",
    "weighted, early stopping",
    "a tail of 3",
}


def activations_of(solver: str, way: str) -> list[str]:
    turn = [*SOLVERS].index(solver) + [*WAYS].index(way)
    if solver in VARIANTS:
        return [ACTIVATIONS[turn % 4]]
    return ACTIVATIONS[turn % 2 :: 2]


def settings_of(solver: str, activation: str, way: str, task: Task) -> dict[str, Any]:
    base = {
        "hidden_layer_sizes": (7, 5),
        "alpha": 0.1,
        "batch_size": 16,
        "max_iter": EPOCHS,
        "random_state": 3,
    }
    return {
        **base,
        "activation": activation,
        **task.settings,
        **SOLVERS[solver],
        **WAYS[way],
    }


def train(model: Any, way: str, y: Any, rows: Any = X) -> Any:
    if way == "partial fit":
        if y.ndim == 1:
            classes = np.unique(y)
        else:
            classes = np.arange(y.shape[1])
        if hasattr(model, "predict_proba"):
            options = {"classes": classes}
        else:
            options = {}
        for _ in range(EPOCHS // 4):
            model.partial_fit(rows, y, **options)
        return model
    if "weighted" in way:
        weight = {"sample_weight": WEIGHTS}
    else:
        weight = {}
    for _ in range(2 if way == "warm start" else 1):
        model.fit(rows, y, **weight)
    return model


def nudged(name: str) -> Any:
    class Nudged(getattr(neural_network, name)):  # type: ignore[misc]
        def _init_coef(self, *arguments: Any) -> Any:
            return tuple(np.nextafter(w, 9) for w in super()._init_coef(*arguments))

    return Nudged


def sensitivity(task: Task, settings: dict[str, Any], way: str, expected: Any) -> float:
    other = train(nudged(task.name)(**settings), way, task.y)
    return distance(expected, numbers_of(other))


@pytest.mark.few(24)
@crossed(task=[*TASKS], solver=[*SOLVERS], way=[*WAYS])
def test_trajectory_is_that_of_scikit_learn(task: str, solver: str, way: str) -> None:
    if solver == "lbfgs" and way in EPOCHAL:
        pytest.skip("lbfgs knows no epochs")
    problem = TASKS[task]
    for activation in activations_of(solver, way):
        settings = settings_of(solver, activation, way, problem)
        models = both(problem.name, **settings)
        (theirs, warned, error), (ours, warned_too, error_too) = (
            outcome(partial(train, model, way, problem.y)) for model in models
        )
        assert error == error_too
        assert warned == warned_too
        assert error is None
        assert_same_books(theirs, ours)
        expected = numbers_of(theirs)
        gap = distance(expected, numbers_of(ours))
        if gap > 1e-9:
            assert gap <= 10 * sensitivity(problem, settings, way, expected), activation
        if problem.name == "MLPClassifier":
            assert np.array_equal(ours.predict(X), theirs.predict(X))
        else:
            np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
        if solver != "lbfgs":
            rates = [model._optimizer.learning_rate for model in models]
            assert rates[1] == pytest.approx(rates[0], rel=1e-12)


def summed_squares(y: Any, prediction: Any, sample_weight: Any = None) -> Any:
    """The squared error of scikit-learn#34830, which no release up to 1.9.1 has."""
    error = (y - prediction) ** 2
    return 0.5 * np.average(error, weights=sample_weight, axis=0).sum()


@pytest.mark.parametrize(
    ("solver", "way"),
    [("lbfgs", "shuffled"), ("adam", "shuffled"), ("adaptive", "partial fit")],
)
def test_squared_errors_are_sums_over_outputs_where_scikit_learn_sums(
    solver: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSS_FUNCTIONS, "squared_error", summed_squares)
    test_trajectory_is_that_of_scikit_learn("several outputs", solver, way)
    y = TASKS["several outputs"].y
    model = MLPRegressor(**SMALL, alpha=0, solver="lbfgs").fit(X, y)
    assert model.loss_ == pytest.approx(summed_squares(y, model.predict(X)))


@cache
def of_float32(task: str, solver: str) -> tuple[Any, Any]:
    """scikit-learn's fit of rows in float32, and ours."""
    problem = TASKS[task]
    settings = settings_of(solver, "tanh", "shuffled", problem) | {"max_iter": 5}
    y = problem.y
    if problem.name == "MLPRegressor":
        y = y.astype(np.float32)
    rows = X.astype(np.float32)
    theirs, ours = both(problem.name, **settings)
    return train(theirs, "shuffled", y, rows), train(ours, "shuffled", y, rows)


@pytest.mark.parametrize("solver", ["adam", "nesterov", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_a_fit_of_float32_is_near_that_of_scikit_learn(task: str, solver: str) -> None:
    theirs, ours = of_float32(task, solver)
    assert distance(numbers_of(theirs), numbers_of(ours)) < 1e-3


@pytest.mark.parametrize("solver", ["adam", "nesterov", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_a_fit_of_float32_stays_in_float32(task: str, solver: str) -> None:
    _, ours = of_float32(task, solver)
    parts = [*ours.coefs_, *ours.intercepts_]
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    predict = getattr(ours, "predict_proba", ours.predict)
    assert predict(X.astype(np.float32)).dtype == np.float32
    assert ours._forward_pass_fast(X).dtype == np.float64
