"""Models of tables in compiled code: the bits of `predict`, from rows of numbers and codes."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled_models import digits, expected_of, predict, predict_shared
from model_files import reloaded
from numba import njit
from sklearn.tree import DecisionTreeClassifier
from small_tables import (
    FEW,
    WITH_TREES,
    classifier,
    drawn,
    regressor,
    untrained,
    with_trees,
)

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit
from fastmlp.compiler.jit import INTERPRETED

compiled_alone = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: no code")
SEEDS = range(3 if INTERPRETED else 20)


@njit
def rise(handle: Any, row: Any, n: int) -> int:
    """How often a prediction falls as the first number of a row rises."""
    falls, last = 0, -np.inf
    for i in range(n):
        row[0] = 0.01 * i
        value = jit.value(handle, row)
        falls += value < last
        last = value
    return falls


@pytest.mark.parametrize("function", [predict, jit.predict])
@pytest.mark.parametrize("seed", SEEDS)
def test_bits_are_those_of_drawn_models(
    seed: int, function: Callable[..., None], tmp_path: Any
) -> None:
    model, X = untrained(seed)
    model = reloaded(model, tmp_path / "model")
    expected = expected_of(model, X)
    out = np.empty_like(expected)
    function(jit.compiled(model), model.codes(X), out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    "make",
    [lambda: (regressor(), drawn()[0]), lambda: (classifier(), drawn()[0]), lambda: digits(17)],
)
def test_bits_are_those_of_packs(make: Callable[[], Any]) -> None:
    model, X = make()
    rows, expected = model.codes(X), expected_of(model, X)
    for function in (predict, predict_shared):
        out = np.empty_like(expected)
        function(jit.compiled(model, freeze=True), rows, out)
        np.testing.assert_array_equal(out, expected)


@compiled_alone
@pytest.mark.parametrize("kind", WITH_TREES)
def test_bits_of_boosted_trees(kind: str) -> None:
    model, X = with_trees(kind)
    rows, expected = model.codes(X[:300]), expected_of(model, X[:300])
    for function in (predict, predict_shared):
        out = np.empty_like(expected)
        function(jit.compiled(model), rows, out)
        np.testing.assert_array_equal(out, expected)
    new = X[:1].assign(town=["Rome"], **({"place": ["nowhere"]} if "place" in X else {}))
    (row,), expected = model.codes(new), expected_of(model, new)
    for code in (np.nan, -7, 260 if kind != "many levels" else 300, 1e300):
        out = np.empty(expected.shape[1])
        predict(jit.compiled(model), np.where(row == -1, code, row), out)
        np.testing.assert_array_equal(out, expected[0])


def test_missing_and_unknown_values_in_compiled_code() -> None:
    model, X = regressor(), drawn()[0][:1]
    handle, out = jit.compiled(model), np.empty(1)
    new = X.assign(age=[np.nan], town=["Rome"], income=[np.inf], member=[None])
    new["income"] = np.nan
    for code in (-1, np.nan, -7, 99, 1e300):
        predict(handle, (np.nan, code, np.nan, code), out)
        assert out[0] == model.predict(new)[0]


def test_predictions_rise_in_compiled_code() -> None:
    X, y = drawn()
    model = TabularMLPRegressor(**FEW, monotonic_cst={"age": 1}).fit(X, y, X_val=X, y_val=y)
    handle = jit.compiled(model)
    for row in model.codes(X[:5]):
        assert rise(handle, row, 2000 if not INTERPRETED else 20) == 0


@compiled_alone
def test_a_c_function_predicts_rows_of_a_table() -> None:
    model, X = regressor(), drawn()[0]
    rows, out = model.codes(X), np.empty(1)
    handle = jit.compiled(model)
    jit.function().ctypes(handle.ctypes.data, rows[3].ctypes.data, out.ctypes.data)
    assert out[0] == model.predict(X.iloc[3:4])[0]


def test_parameters_of_tables_are_live_or_frozen() -> None:
    model = copy.deepcopy(regressor())
    row, before, after = model.codes(drawn()[0])[0], np.empty(1), np.empty(1)
    live, frozen = jit.compiled(model), jit.compiled(model, freeze=True)
    jit.predict(live, row, before)
    for member in model.members_:
        member.net.parameters[:] *= 0.5
    jit.predict(live, row, after)
    assert after != before
    assert after[0] == model.predict(drawn()[0][:1])[0]
    jit.predict(frozen, row, after)
    assert after == before


def test_tables_that_compiled_code_refuses() -> None:
    handle, row = jit.compiled(regressor()), np.zeros(4)
    with pytest.raises(ValueError, match="x or out has another length"):
        jit.predict(handle, np.zeros(3), np.empty(1))
    for other in (handle.copy(), pickle.loads(pickle.dumps(handle))):
        with pytest.raises(ValueError, match="the handle is a copy"):
            jit.predict(other, row, np.empty(1))
    with pytest.raises(ValueError, match=r"jit.gradient: the model has no deriv"):
        jit.gradient(handle, row, np.empty(1), np.empty(4))
    with pytest.raises(ValueError, match="raw=True is for nets, and a model of tables is a mean"):
        jit.compiled(regressor(), raw=True)
    with pytest.raises(ValueError, match="is not fitted"):
        jit.compiled(TabularMLPRegressor())
    X, beside = np.random.default_rng(0).normal(size=(60, 2)), [("tree", DecisionTreeClassifier())]
    model = TabularMLPClassifier(**FEW, extra_members=beside, ensemble="mean", max_members=9)
    model.fit(X, X[:, 0] > 0)
    with pytest.raises(NotImplementedError, match=r"jit.compiled: the ensemble holds 'tree' with"):
        jit.compiled(model)
