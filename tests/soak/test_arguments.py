"""Drawn arguments end in a fit or a documented error.

No call ends in a crash, a hang, another exception,
or numbers that are not finite without a warning.
"""

import re
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draws import (
    JUNK,
    infinite,
    made,
    names,
    numbers,
    often,
    optimizers,
    square,
    tables,
    targets,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import fastmlp
from fastmlp import EMA, MLP, SWA, FileError, Quantile, Status, Tweedie
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.estimators.to_core import SOLVERS
from fastmlp.rules.initializers import INITIALIZERS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.updates import PENALTIES

pytestmark = pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")

DOCUMENTED = (TypeError, ValueError, MemoryError, FileError)


@st.composite
def settings_of_nets(draw: Any) -> dict[str, Any]:
    choices = {
        "activation": st.one_of(
            names, st.lists(names, min_size=1, max_size=2), st.just(square)
        ),
        "output_activation": st.one_of(st.none(), names),
        "loss": st.sampled_from(
            [*LOSSES, *LOSSES.values(), Quantile([0.1, 0.9]), Tweedie(1.3)]
        ),
        "label_smoothing": st.one_of(st.floats(0, 0.9), numbers),
        "dropout": st.one_of(
            st.floats(0, 0.9), numbers, st.lists(st.floats(0, 0.9), max_size=2)
        ),
        "input_dropout": st.one_of(st.floats(0, 0.9), numbers),
        "input_noise": numbers,
        "layer_rates": st.one_of(
            st.lists(st.floats(0, 2), min_size=1, max_size=3),
            st.sampled_from(
                [{"weights": 1, "biases": 0.1}, {"biases": 0}, {}, {"bias": 1}]
            ),
        ),
        "optimizer": optimizers(),
        "l2": st.one_of(st.floats(0, 10), numbers),
        "l1": numbers,
        "penalties": st.dictionaries(
            st.sampled_from(sorted(PENALTIES)), numbers, max_size=2
        ),
        "initializer": st.sampled_from([*INITIALIZERS, infinite]),
        "dtype": st.sampled_from(["float32", "float64", np.float32]),
        "seed": st.integers(0, 9),
        "n_threads": st.sampled_from([None, 1, 2, 10**6]),
        "device": st.just("cpu"),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(choices)), max_size=5))
    return {name: draw(often(choices[name])) for name in sorted(chosen)}


@st.composite
def calls(draw: Any) -> tuple[Any, dict[str, Any], Any, Any, dict[str, Any]]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    n = draw(st.integers(1, 9))
    x = draw(often(tables(n, sizes[0])))
    y = draw(often(targets(n, sizes[-1])))
    choices = {
        "batch_size": st.sampled_from([1, 2, 3, 7, 2**40]),
        "shuffle": st.booleans(),
        "sample_weight": st.lists(st.floats(0, 3), min_size=n, max_size=n),
        "class_weight": st.sampled_from(["balanced", {0: 2.0}, {9: 1.0}, {}, 3]),
        "validation_data": st.sampled_from(
            [(x, y), [x, y], (x, y, None), (x,), (x, y, y)]
        ),
        "callbacks": st.sampled_from(
            [(), [], lambda r: None, [lambda r: r.stop()], [None]]
        ),
        "progress": st.just(False),
        "checkpoint": st.just("/nonexistent/run.safetensors"),
        "checkpoint_every": st.sampled_from([1, timedelta(0), timedelta(-1), 0.5]),
        "resume": st.booleans(),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(choices)), max_size=3))
    options = {name: draw(often(choices[name])) for name in sorted(chosen)}
    epochs = draw(
        st.sampled_from([1, 2, 3, 3, 3, 0, -1, 1.5, "1", None, np.int64(2), True])
    )
    return (
        draw(often(st.just(sizes))),
        draw(settings_of_nets()),
        x,
        y,
        {"epochs": epochs, **options},
    )


def refused(error: Exception, *, unchanged: bool = True) -> str:
    assert str(error)
    assert unchanged
    return "refused"


def attempt(sizes: Any, arguments: Any, x: Any, y: Any, options: Any) -> str:
    try:
        net = MLP(sizes, **{name: made(value) for name, value in arguments.items()})
    except DOCUMENTED as error:
        return refused(error)
    before = net.parameters.tobytes()
    try:
        history = net.fit(x, y, **options)
    except DOCUMENTED as error:
        # A schedule's rates are known step by step,
        # and what callbacks raise epoch by epoch.
        late = "learning-rate" in str(error) or "callbacks" in options
        return refused(error, unchanged=late or net.parameters.tobytes() == before)
    except OSError as error:
        return refused(error, unchanged="checkpoint" in options)
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(history.loss).all()
    assert np.isfinite(history.learning_rate).all()
    assert history.status in (Status.COMPLETED, Status.STOPPED, Status.DIVERGED)
    predictions = net.predict(x)
    assert predictions.shape == (len(predictions), net.layer_sizes[-1])
    assert np.array_equal(net.predict(x[:1]), predictions[:1], equal_nan=True)
    assert net.summary()
    assert repr(net)
    silent = [*predictions.ravel(), *history.validation_loss]
    if np.isfinite(silent).all():
        return history.status.name
    return "not finite"


@pytest.mark.slow
def test_every_call_ends_in_a_fit_or_in_a_documented_exception(soak: bool) -> None:
    ends: dict[str, int] = {}
    if soak:
        n = 20_000
    elif INTERPRETED:
        n = 60
    else:
        n = 350

    @settings(
        max_examples=n,
        deadline=None,
        derandomize=not soak,
        suppress_health_check=[*HealthCheck],
    )
    @given(call=calls())
    def check(call: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            end = attempt(*call)
        ours = [
            str(each.message)
            for each in caught
            if issubclass(each.category, RuntimeWarning)
        ]
        if end == "DIVERGED":
            assert any("diverged" in words for words in ours)
        if end == "not finite":
            assert any(
                "not all predictions are finite" in w or "loss is" in w for w in ours
            )
        ends[end] = ends.get(end, 0) + 1

    check()
    # Neither end is rare, but of the few that are drawn uncompiled there may be none.
    if n >= 350:
        assert ends["COMPLETED"] > n // 50
        assert ends["refused"] > n // 50


def junk_id(value: Any) -> str:
    """Its type and its value, without addresses: processes must agree on it."""
    return re.sub(r" at 0x\w+", "", f"{type(value).__name__}-{value!r}")[:40]


@pytest.mark.few(12)
@pytest.mark.parametrize("value", JUNK, ids=junk_id)
def test_junk_in_the_place_of_any_single_argument(value: Any) -> None:
    """One argument at a time: what hypothesis draws together hides some of it."""
    X = np.ones((4, 2))
    y = np.zeros(4)
    names = [
        "activation",
        "output_activation",
        "loss",
        "optimizer",
        "l2",
        "l1",
        "penalties",
    ]
    names += ["initializer", "dtype", "seed", "n_threads", "device"]
    options = ["batch_size", "shuffle", "sample_weight", "validation_data", "callbacks"]
    options += ["progress", "checkpoint_every", "resume"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            attempt((2, 3, 1), {"seed": 0, name: value}, X, y, {"epochs": 1})
        for option in options:
            attempt((2, 3, 1), {"seed": 0}, X, y, {"epochs": 1, option: value})
        attempt(value, {"seed": 0}, X, y, {"epochs": 1})
        attempt((2, 3, 1), {"seed": 0}, value, y, {"epochs": 1})
        attempt((2, 3, 1), {"seed": 0}, X, value, {"epochs": 1})


# As a scorer, any function will do until it is asked.
RULES = {
    each.__name__: each for each in JUNK if callable(each) and hasattr(each, "__name__")
}
DOCUMENTED_THERE = (TypeError, ValueError, MemoryError)
CHOICES: dict[str, Any] = {
    "hidden_layer_sizes": st.one_of(
        st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2)
    ),
    "activation": st.one_of(
        names, st.lists(names, min_size=1, max_size=2), st.just(square)
    ),
    "solver": st.one_of(st.sampled_from(sorted(SOLVERS)), optimizers()),
    "alpha": numbers,
    "batch_size": st.sampled_from(["auto", 1, 3, 10**6]),
    "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
    "learning_rate_init": st.one_of(st.floats(1e-4, 0.1), numbers),
    "power_t": numbers,
    "max_iter": st.integers(1, 3),
    "shuffle": st.booleans(),
    "tol": numbers,
    "warm_start": st.booleans(),
    "momentum": st.floats(0, 1),
    "nesterovs_momentum": st.booleans(),
    "early_stopping": st.booleans(),
    "validation_fraction": st.floats(0.1, 0.9),
    "beta_1": st.floats(0, 1),
    "beta_2": st.floats(0, 1),
    "epsilon": numbers,
    "n_iter_no_change": st.sampled_from([1, 2, np.inf]),
    "max_fun": st.integers(1, 9),
    "n_jobs": st.sampled_from([None, 1, 2, -1, 0, 10**6]),
    "scoring": st.sampled_from([None, "loss", "accuracy", "r2", "of nothing"]),
    "pickle_state": st.booleans(),
    "average": st.sampled_from([None, EMA(0.9), SWA(0.5), True]),
    "dropout": st.one_of(
        st.floats(0, 0.9), st.lists(st.floats(0, 0.9), max_size=2), numbers
    ),
    "input_dropout": st.one_of(st.floats(0, 0.9), numbers),
    "input_noise": st.one_of(st.floats(0, 1), numbers),
}
OF_CLASSIFIERS = {
    "class_weight": st.sampled_from([None, "balanced", {0: 1, 1: 2.0}, {7: 1}])
}
OF_REGRESSORS = {"loss": st.sampled_from(["squared_error", "poisson"])}


@st.composite
def calls_of_estimators(
    draw: Any,
) -> tuple[str, dict[str, Any], Any, Any, dict[str, Any]]:
    kind = draw(st.sampled_from(["MLPClassifier", "MLPRegressor"]))
    choices = CHOICES | (OF_CLASSIFIERS if kind == "MLPClassifier" else OF_REGRESSORS)
    chosen = draw(st.sets(st.sampled_from(sorted(choices)), max_size=5))
    parameters = {name: draw(often(choices[name])) for name in sorted(chosen)}
    parameters.setdefault("max_iter", 3)
    parameters.setdefault("hidden_layer_sizes", 3)
    parameters["random_state"] = draw(st.sampled_from([0, 1]))
    n = draw(st.integers(1, 12))
    width = draw(st.integers(1, 4))
    x = draw(often(tables(n, width)))
    y = draw(often(targets(n, draw(st.integers(1, 3)))))
    weights = st.lists(st.floats(0, 3), min_size=n, max_size=n)
    options = {
        "sample_weight": weights,
        "X_val": st.just(x),
        "y_val": st.just(y),
        "sample_weight_val": weights,
    }
    given_too = draw(st.sets(st.sampled_from(sorted(options)), max_size=3))
    return (
        kind,
        parameters,
        x,
        y,
        {name: draw(often(options[name])) for name in sorted(given_too)},
    )


def refused_with(error: Exception, *words: str) -> str:
    assert not words or any(word in str(error) for word in words)
    assert str(error)
    return "refused"


def attempt_estimator(kind: str, parameters: Any, x: Any, y: Any, options: Any) -> str:
    try:
        model = getattr(fastmlp, kind)(
            **{name: made(value) for name, value in parameters.items()}
        )
        model.fit(x, y, **options)
    except DOCUMENTED_THERE as error:
        return refused_with(error)
    assert all(np.isfinite(each).all() for each in model.coefs_ + model.intercepts_)
    clone(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        try:
            fastmlp.save(model, path, include_training_state=True)
        except ValueError as error:
            return "not saved, " + refused_with(
                error, "no name", "JSON", "cannot be written"
            )
        other = fastmlp.load(path, rules=RULES)
    assert [c.tobytes() for c in model.coefs_] == [c.tobytes() for c in other.coefs_]
    try:
        expected = model.predict(x)
    except DOCUMENTED_THERE:  # as of predictions that are not finite
        return "fitted"
    assert np.array_equal(
        other.predict(x), expected, equal_nan=expected.dtype.kind == "f"
    )
    return "fitted"


@pytest.mark.slow
def test_every_call_of_an_estimator_ends_so_too(soak: bool) -> None:
    ends: dict[str, int] = {}
    if soak:
        n = 5_000
    elif INTERPRETED:
        n = 30
    else:
        n = 200

    @settings(
        max_examples=n,
        deadline=None,
        derandomize=not soak,
        suppress_health_check=[*HealthCheck],
    )
    @given(call=calls_of_estimators())
    def check(call: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            end = attempt_estimator(*call)
        ends[end] = ends.get(end, 0) + 1

    check()
    # Neither end is rare, but of the few that are drawn uncompiled there may be none.
    if n >= 200:
        assert ends["fitted"] > n // 20
        assert ends["refused"] > n // 20
