"""Nets for river: its checks, features and classes that come later,
numbers that are missing.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP

base = pytest.importorskip("river.base", reason="river is not installed")
pd = pytest.importorskip("pandas", reason="frames are pandas'")

from river import checks, datasets, linear_model, preprocessing  # noqa: E402

from fastmlp.river import MLPClassifier, MLPRegressor, RunningScales  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
ROWS = [dict(zip("abc", row, strict=True)) for row in X.tolist()]
Y = (X @ [1.0, 2.0, 3.0] + 40.0).tolist()
LABELS = ["low" if y < 40 else "high" for y in Y]
MODELS: list[Callable[..., Any]] = [
    MLPRegressor,
    MLPClassifier,
    lambda **settings: preprocessing.StandardScaler() | MLPRegressor(**settings),
]


def learned(rows: list[Any] = ROWS, targets: list[Any] = Y, **settings: Any) -> Any:
    kind: Any = MLPClassifier
    if isinstance(targets[0], float):
        kind = MLPRegressor
    model = kind(seed=0, **settings)
    for x, y in zip(rows, targets, strict=True):
        model.learn_one(x, y)
    return model


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("make", MODELS)
def test_rivers_checks_pass(make: Callable[..., Any]) -> None:
    pytest.importorskip("sklearn", reason="river's checks import it")
    model = make()
    for check in checks.yield_checks(model):
        if check.__name__ not in model._unit_test_skips():
            check(model.clone())


@pytest.mark.slow
@pytest.mark.nightly
def test_the_error_on_a_stream_is_below_that_of_a_line() -> None:
    errors = []
    for model in (
        MLPRegressor(seed=0),
        preprocessing.StandardScaler()
        | linear_model.LinearRegression(intercept_lr=0.1),
    ):
        error = 0.0
        for x, y in datasets.TrumpApproval():
            error += abs(model.predict_one(x) - y)
            model.learn_one(x, y)
        errors.append(error)
    assert errors[0] < 0.8 * errors[1]


def test_a_row_at_a_time_has_the_moments_of_all() -> None:
    one, many = RunningScales(), RunningScales()
    for moments in (one, many):
        moments.add(X[0].tolist())
    for row in X:
        one.learn(row)
    gaps = X.copy()
    gaps[1::2, 1] = np.nan
    many.learn_many(gaps[:20])
    many.learn_many(gaps[20:])
    np.testing.assert_allclose(one.deviations, X.std(axis=0))
    np.testing.assert_allclose(many.means, np.nanmean(gaps, axis=0))
    np.testing.assert_allclose(many.deviations, np.nanstd(gaps, axis=0))


def test_a_feature_that_comes_later_keeps_what_was_learned() -> None:
    model = learned()
    before = [model.predict_one(x) for x in ROWS]
    model._meet({"d": 5.0})
    model._grown(1)
    assert model.net.layer_sizes[0] == 6
    assert [model.predict_one(x) for x in ROWS] == pytest.approx(before, rel=1e-5)
    model.learn_one({**ROWS[0], "d": 5.0}, Y[0])
    assert model.net.layer_sizes[0] == 6


def test_a_class_that_comes_later_has_a_probability() -> None:
    model = learned(targets=LABELS)
    assert {*model.predict_proba_one(ROWS[0])} == {"low", "high"}
    model.learn_one(ROWS[0], "new")
    probabilities = model.predict_proba_one(ROWS[0])
    assert {*probabilities} == {"low", "high", "new"}
    assert math.isclose(sum(probabilities.values()), 1.0)


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_what_is_missing_is_left_out(missing: Any) -> None:
    model = learned()
    gap = {**ROWS[0], "a": missing}
    absent = {"b": ROWS[0]["b"], "c": ROWS[0]["c"]}
    assert model.predict_one(gap) == model.predict_one(absent)
    other = pickle.loads(pickle.dumps(model))
    model.learn_one(gap, Y[0])
    other.learn_one(absent, Y[0])
    assert model.predict_one(ROWS[1]) == other.predict_one(ROWS[1])


def test_an_empty_row_teaches_the_mean() -> None:
    model = learned([{}] * 3, [40.0, 42.0, 44.0])
    assert model.predict_one({}) == pytest.approx(42.0, abs=2.0)
    assert MLPRegressor().predict_one({}) == 0.0
    assert MLPClassifier().predict_one({"a": 1.0}) is None


def test_frames_are_rows() -> None:
    model = learned(targets=LABELS)
    frame = pd.DataFrame(ROWS)[["c", "a", "b"]]
    predicted = model.predict_many(frame)
    assert predicted.tolist() == [model.predict_one(x) for x in ROWS]
    assert [*model.predict_proba_many(frame)] == [*model.predict_proba_one(ROWS[0])]
    assert len(model.predict_many(frame[:0])) == 0
    steps = model.net.n_steps
    model.learn_many(frame, pd.Series(LABELS))
    assert model.net.n_steps == steps + 1
    model.learn_many(frame[:0], pd.Series([], dtype=object))
    assert model.net.n_steps == steps + 1


def test_a_frame_is_learned_as_its_row() -> None:
    one = learned(ROWS[:1], Y[:1])
    many = MLPRegressor(seed=0)
    many.learn_many(pd.DataFrame(ROWS[:1]), pd.Series(Y[:1]))
    assert one.predict_one(ROWS[1]) == many.predict_one(ROWS[1])


def test_a_clone_has_the_settings_and_nothing_learned() -> None:
    model = learned(hidden_layer_sizes=(4,))
    assert model.clone().net is None
    assert model.clone({"l2": 0.5}).l2 == 0.5
    assert repr(model.clone()) == repr(model)
    assert isinstance(model.net, MLP)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda model: model.learn_one({"a": "1"}, 1.0),
            TypeError,
            "MLPRegressor.learn_one: feature 'a' must be a number, got '1'; encode it "
            "before",
        ),
        (
            lambda model: model.predict_one({"a": [1.0]}),
            TypeError,
            "MLPRegressor.predict_one: feature 'a' must be a number, got a list; "
            "encode it",
        ),
        (
            lambda model: model.learn_one([1.0, 2.0], 1.0),
            TypeError,
            "MLPRegressor.learn_one: x must be a dict of features, got a list; for a "
            "row of an array dict(enumerate(row))",
        ),
        (
            lambda model: model.predict_one(None),
            TypeError,
            "MLPRegressor.predict_one: x must be a dict of features, got a NoneType",
        ),
        (
            lambda model: model.learn_one({"a": 1.0}, "dear"),
            TypeError,
            "MLPRegressor.learn_one: the target must be a number, got 'dear'; for "
            "labels take fastmlp.river.MLPClassifier",
        ),
        (
            lambda model: model.learn_one({"a": math.inf}, 1.0),
            ValueError,
            "MLPRegressor.learn_one: feature 'a' must be finite, got inf; leave the "
            "row out",
        ),
        (
            lambda model: model.learn_one({"a": 1.0}, math.nan),
            ValueError,
            "MLPRegressor.learn_one: the target is missing; leave the row out",
        ),
        (
            lambda model: model.learn_many(pd.DataFrame(ROWS), pd.Series(Y[:5])),
            ValueError,
            "MLPRegressor.learn_many: X has 60 rows, but y has 5",
        ),
        (
            lambda model: model.clone({"loss": "poisson"}),
            ValueError,
            "MLPRegressor: the target is scaled, and the loss 'poisson' takes no "
            "negative",
        ),
        (
            lambda model: MLPClassifier().learn_one({"a": 1.0}, None),
            ValueError,
            "MLPClassifier.learn_one: the label is missing; leave the row out",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_learned(
    call: Callable[[Any], Any], kind: type[Exception], message: str
) -> None:
    model = MLPRegressor(seed=0)
    with pytest.raises(kind) as caught:
        call(model)
    assert str(caught.value).startswith(message)
    assert model.net is None
    assert not model._columns
