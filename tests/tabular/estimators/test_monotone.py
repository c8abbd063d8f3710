"""monotonic_cst of models of tables: by name or place, bit for bit, kept by files and ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from small_tables import FEW
from threadpoolctl import threadpool_limits

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, load, save, to_onnx
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import RisingSmoothClip

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
rng = np.random.default_rng(0)
N = 300
FRAME = pd.DataFrame(
    {
        "town": rng.choice(["Bern", "Basel", "Chur"], N),
        "income": np.where(rng.random(N) < 0.1, np.nan, rng.lognormal(3, 1, N)),
        "age": rng.integers(18, 90, N).astype(float),
        "debts": rng.normal(size=N),
    }
)
# Against the constraints.
Y = -np.nan_to_num(np.log(FRAME["income"])) + np.sin(FRAME["age"] / 9) + FRAME["debts"]
CONSTRAINTS = {"income": 1, "debts": -1}


def is_ordered(model: Any) -> bool:
    for name, sign in CONSTRAINTS.items():
        for place in (0, 7):
            n = 4000
            rows = FRAME.iloc[[place] * n].copy()
            # A quarter of the steps are of one unit in the last place of float32.
            near = np.arange(n // 4) * np.spacing(np.float32(20.0)) + 20
            rows[name] = np.sort(np.concatenate([near, rng.lognormal(2, 2, n // 2), -near]))
            if hasattr(model, "classes_"):
                values = model.predict_proba(rows)[:, 1]
            else:
                values = model.predict(rows)
            if (sign * np.diff(values) < 0).any():
                return False
    return True


def test_predictions_are_ordered(tmp_path: Path) -> None:
    few = {**FEW, "n_members": 5, "max_members": 5, "cv": 2}
    model = TabularMLPRegressor(**few, monotonic_cst=CONSTRAINTS).fit(FRAME, Y)
    assert is_ordered(model)
    free = TabularMLPRegressor(**few).fit(FRAME, Y)
    assert not is_ordered(free)
    path = tmp_path / "model"
    save(model, path)
    np.testing.assert_array_equal(load(path).predict(FRAME), model.predict(FRAME))
    assert load(path).monotonic_cst == CONSTRAINTS
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    columns = {
        name: FRAME[[name]].to_numpy(object if name == "town" else np.float32) for name in FRAME
    }
    (values,) = session.run(None, columns)
    np.testing.assert_allclose(values[:, 0], model.predict(FRAME), rtol=1e-4, atol=1e-5)


def test_classes_and_places() -> None:
    labels = np.where(np.median(Y) < Y, "yes", "no")
    named = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=CONSTRAINTS).fit(FRAME, labels)
    placed = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=[0, 1, 0, -1]).fit(FRAME, labels)
    assert is_ordered(named)
    np.testing.assert_array_equal(named.predict_proba(FRAME), placed.predict_proba(FRAME))


def test_extra_members_have_the_constraints() -> None:
    trees = HistGradientBoostingRegressor(max_iter=5, random_state=0)
    model = TabularMLPRegressor(
        **FEW, cv=2, monotonic_cst=CONSTRAINTS, extra_members=[trees], ensemble="mean"
    )
    with threadpool_limits(1, user_api="openmp"):
        model.fit(FRAME, Y)
    ((_, fitted),) = model.extra_members_
    assert fitted.monotonic_cst == [1, 0, -1, 0]
    assert trees.monotonic_cst is None
    assert is_ordered(model)


def test_the_scaled_numbers_keep_their_order() -> None:
    X = rng.normal(size=(50, 1))
    encoder = RisingSmoothClip().fit(X)
    for start in (1e-6, 0.3, 1.7, 5.0, 300.0):
        near = start + np.arange(20_000) * np.spacing(np.float32(start)) / 2
        for sign in (1, -1):
            steps = np.diff(encoder.transform(sign * near[:, None])[:, 0])
            assert (sign * steps >= 0).all()
    clipped = encoder.transform([[0.0], [np.nan], [1e300], [-1e300]])[:, 0]
    assert clipped[1:].tolist() == [0.0, 3.0, -3.0]


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="monotonic_cst is for two classes, got 3"):
        TabularMLPClassifier(**FEW, monotonic_cst=CONSTRAINTS).fit(FRAME, np.arange(N) % 3)
    line = LinearRegression()
    with pytest.raises(ValueError, match="LinearRegression does not take it"):
        TabularMLPRegressor(**FEW, monotonic_cst=CONSTRAINTS, extra_members=[line]).fit(FRAME, Y)
    dated = FRAME.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(N), "D"))
    with pytest.raises(ValueError, match="'day' holds dates or times"):
        TabularMLPRegressor(**FEW, monotonic_cst={"day": 1}).fit(dated, Y)
