"""Estimators: what is drawn ends in a fit or in a documented exception, and fits go through files.

None ends in a crash, a hang, another exception, or weights that are not finite.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from draws import JUNK, made, names, numbers, often, optimizers, square, tables, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import fastmlp
from fastmlp import EMA, SWA
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.estimators.to_core import SOLVERS

# As a scorer, any function will do until it is asked.
RULES = {each.__name__: each for each in JUNK if callable(each) and hasattr(each, "__name__")}
DOCUMENTED = (TypeError, ValueError, MemoryError)
CHOICES: dict[str, Any] = {
    "hidden_layer_sizes": st.one_of(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2)),
    "activation": st.one_of(names, st.lists(names, min_size=1, max_size=2), st.just(square)),
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
    "dropout": st.one_of(st.floats(0, 0.9), st.lists(st.floats(0, 0.9), max_size=2), numbers),
    "input_dropout": st.one_of(st.floats(0, 0.9), numbers),
    "input_noise": st.one_of(st.floats(0, 1), numbers),
}
OF_CLASSIFIERS = {"class_weight": st.sampled_from([None, "balanced", {0: 1, 1: 2.0}, {7: 1}])}
OF_REGRESSORS = {"loss": st.sampled_from(["squared_error", "poisson"])}


@st.composite
def calls(draw: Any) -> tuple[str, dict[str, Any], Any, Any, dict[str, Any]]:
    """An estimator and its parameters; rows, targets and options of a fit."""
    kind = draw(st.sampled_from(["MLPClassifier", "MLPRegressor"]))
    choices = CHOICES | (OF_CLASSIFIERS if kind == "MLPClassifier" else OF_REGRESSORS)
    chosen = draw(st.sets(st.sampled_from(sorted(choices)), max_size=5))
    parameters = {name: draw(often(choices[name])) for name in sorted(chosen)}
    parameters.setdefault("max_iter", 3)
    parameters.setdefault("hidden_layer_sizes", 3)
    parameters["random_state"] = draw(st.sampled_from([0, 1]))
    n, width = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    x, y = draw(often(tables(n, width))), draw(often(targets(n, draw(st.integers(1, 3)))))
    weights = st.lists(st.floats(0, 3), min_size=n, max_size=n)
    options = {
        "sample_weight": weights,
        "X_val": st.just(x),
        "y_val": st.just(y),
        "sample_weight_val": weights,
    }
    given_too = draw(st.sets(st.sampled_from(sorted(options)), max_size=3))
    return kind, parameters, x, y, {name: draw(often(options[name])) for name in sorted(given_too)}


def refused(error: Exception, *words: str) -> str:
    assert not words or any(word in str(error) for word in words)
    assert str(error)
    return "refused"


def attempt(kind: str, parameters: Any, x: Any, y: Any, options: Any) -> str:
    """Make an estimator, fit it, use it, and take it through a file; return how it ended."""
    try:
        model = getattr(fastmlp, kind)(**{name: made(value) for name, value in parameters.items()})
        model.fit(x, y, **options)
    except DOCUMENTED as error:
        return refused(error)
    assert all(np.isfinite(each).all() for each in model.coefs_ + model.intercepts_)
    clone(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        try:
            fastmlp.save(model, path, include_training_state=True)
        except ValueError as error:
            return "not saved, " + refused(error, "no name", "JSON", "cannot be written")
        other = fastmlp.load(path, rules=RULES)
    assert [c.tobytes() for c in model.coefs_] == [c.tobytes() for c in other.coefs_]
    try:
        expected = model.predict(x)
    except DOCUMENTED:  # as of predictions that are not finite
        return "fitted"
    assert np.array_equal(other.predict(x), expected, equal_nan=expected.dtype.kind == "f")
    return "fitted"


def test_every_call_ends_in_a_fit_or_in_a_documented_exception(soak: bool) -> None:
    ends: dict[str, int] = {}
    n = 5_000 if soak else 30 if INTERPRETED else 200

    @settings(max_examples=n, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(call=calls())
    def check(call: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            end = attempt(*call)
        ends[end] = ends.get(end, 0) + 1

    check()
    # Neither end is rare, but of the few that are drawn uncompiled there may be none.
    if n >= 200:
        assert ends["fitted"] > n // 20
        assert ends["refused"] > n // 20
