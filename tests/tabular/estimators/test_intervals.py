"""Intervals, quantiles, sets of classes, losses,
monotonic_cst: definitions and promises.
"""

import pickle
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    mean_squared_error,
    mean_tweedie_deviance,
)
from sklearn.model_selection import GroupKFold, KFold
from small_models import FEW, drawn, labels, regressor, reloaded

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit, load, save, to_onnx
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import RisingSmoothClip, conformal
from fastmlp.tabular.conformal import ends, learn_sizes
from fastmlp.tabular.outputs import NumberLoss, outputs_of, scores_of
from fastmlp.tabular.pack import Pack
from fastmlp.tabular.pool import TableRows
from fastmlp.tabular.schema import Values

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)

Array = NDArray[Any]
X, Y = drawn()
LABELS = labels()


def naive(scores: Array, level: float, weights: Array) -> float:
    """The least score that a share of the rows and a further one,
    which is above all, is up to.
    """
    wanted = level * (weights.sum() + weights.mean()) - 1e-9
    for score in np.sort(scores):
        if weights[scores <= score].sum() >= wanted:
            return float(score)
    return np.inf


def pack_of(
    scores: Array, weight: Array | None, low: float = -9.0, high: float = 9.0
) -> Pack:
    """A pack of numbers without nets, that has scores of validation rows."""
    outputs = outputs_of("regression", np.array([low, high]), None, 0)
    rest: dict[str, Any] = {
        "extra_weights": np.empty(0),
        "validation_score": 0.0,
        "n_trained": 0,
    }
    pack = Pack(outputs, (), (), residuals=np.empty(0), **rest)
    pack.take_scores(scores, weight)
    return pack


def model_of(pack: Pack) -> TabularMLPRegressor:
    """A model of a pack without nets, whose predictions are 1."""
    model = TabularMLPRegressor()
    model.pack_ = pack
    model.training_ = {"rows": 10**6}
    rows = Values(np.empty((3, 1)), np.empty((3, 0), np.int32))
    model._values = lambda X, method: rows  # type: ignore[method-assign]
    model._predicted = lambda values: np.ones(3)  # type: ignore[method-assign]
    return model


def drawn_scores(n_draws: int) -> Iterator[tuple[Array, Array, Pack, float]]:
    """Scores, their weights, a pack that has taken both, and a level."""
    generator = np.random.default_rng(0)
    for _ in range(n_draws):
        n = int(generator.integers(1, 60))
        scores = generator.normal(size=n).round(int(generator.integers(1, 4)))
        weight = None
        weights = np.ones(n)
        if generator.random() < 0.5:
            weight = generator.integers(1, 4, n).astype(float)
            weights = weight
        level = float(generator.uniform(0.02, 0.98))
        yield scores, weights, pack_of(scores, weight), level


def test_scores_are_those_of_the_definition() -> None:
    for scores, weights, pack, level in drawn_scores(300):
        assert pack.upper_score(level) == naive(scores, level, weights)
        assert pack.lower_score(level) == -naive(-scores, 1 - level, weights)
        assert pack.half_width(level) == naive(np.abs(scores), level, weights)


def test_intervals_are_those_of_the_definition() -> None:
    """An interval has a side for each sign of errors, or one width if rows are few."""
    for scores, weights, pack, level in drawn_scores(300):
        low = naive(-scores, (1 + level) / 2, weights)
        high = naive(scores, (1 + level) / 2, weights)
        if np.isinf(low) or np.isinf(high):
            low = high = naive(np.abs(scores), level, weights)
        model = model_of(pack)
        if np.isinf(low):
            words = rf"rows to validate on, there were {len(scores)}; use cv=5"
            with pytest.raises(ValueError, match=words):
                model.predict_interval(X, level)
        else:
            expected = [[1 - low, 1 + high]] * 3
            np.testing.assert_allclose(model.predict_interval(X, level), expected)


LEVELS = [0.1, 0.25, 0.49, 0.5, 0.51, 0.75, 0.9]


def of_drawn_scores() -> Iterator[tuple[TabularMLPRegressor, Array, Array]]:
    """Models, their intervals and their quantiles: of scores that suffice for both."""
    generator = np.random.default_rng(1)
    for _ in range(100):
        n = int(generator.integers(40, 90))
        weight = None
        if generator.random() < 0.5:
            weight = generator.exponential(size=n)
        model = model_of(pack_of(generator.normal(size=n).round(1), weight))
        try:
            interval = model.predict_interval(X, 0.8)
            quantiles = model.predict_quantiles(X, LEVELS)
        except ValueError:
            assert weight is not None
            continue
        yield model, interval, quantiles


def test_quantiles_rise() -> None:
    for _, _, quantiles in of_drawn_scores():
        assert (np.diff(quantiles, axis=1) >= 0).all()


def test_quantiles_are_the_ends_of_intervals() -> None:
    for model, interval, quantiles in of_drawn_scores():
        np.testing.assert_array_equal(quantiles[:, [0, -1]], interval)
        falling = model.predict_quantiles(X, (0.9, 0.1))
        np.testing.assert_array_equal(falling, interval[:, ::-1])


@pytest.mark.parametrize(
    ("n", "coverage"), [(19, 0.9), (99, 0.8), (40, 0.5), (12, 0.9)]
)
def test_new_rows_are_inside_as_often_as_promised(n: int, coverage: float) -> None:
    generator = np.random.default_rng(n)
    inside = []
    for _ in range(2000):
        scores = generator.standard_t(3, n + 1) + 1
        low, high = ends(pack_of(scores[:n], None), coverage, "test", 0)
        inside.append(low <= scores[n] <= high)
    # By exchangeability between coverage and coverage + 2 / (n + 1); 4 standard errors.
    error = 4 * np.sqrt(coverage * (1 - coverage) / len(inside))
    assert coverage - error <= np.mean(inside) <= coverage + 2 / (n + 1) + error


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1, 3, (-9, 11)),
        (0, 3, (0, 11)),
        (-3, 0, (-9, 0)),
        (0, 1, (0, 1)),
        (0.2, 0.9, (0, 1)),
        (-1, 1, (-9, 11)),
        (0, 0, (0, 0)),
    ],
)
def test_ends_are_in_the_range_of_targets(
    low: float, high: float, expected: Any
) -> None:
    model = model_of(pack_of(np.linspace(-10, 10, 99), None, low, high))
    np.testing.assert_allclose(model.predict_interval(X, 0.98)[0], expected)
    np.testing.assert_allclose(model.predict_quantiles(X, [0.01, 0.99])[0], expected)


def rows_of_errors() -> tuple[Values, Array]:
    """Rows and their errors: ten times as large where the first number is above 0."""
    generator = np.random.default_rng(0)
    numbers = generator.uniform(-1, 1, (1200, 2))
    errors = generator.normal(size=1200) * np.where(numbers[:, 0] > 0, 1.0, 0.1)
    return Values(numbers, np.empty((1200, 0), np.int32)), errors


def sized(n: int, weight: Array | None, n_threads: int) -> Pack:
    """A pack that has learned the sizes of the errors of the first n rows."""
    values, errors = rows_of_errors()
    pack = pack_of(errors[:n], weight)
    pack.validated = np.zeros(n)
    rows = TableRows(values.part(slice(n)), errors[:n], weight)
    learn_sizes(pack, rows, seed=3, n_threads=n_threads)
    return pack


@pytest.fixture(scope="module")
def packs() -> dict[str, Pack]:
    values, _ = rows_of_errors()
    weight = np.where(values.numbers[:600, 1] > 0, 1.0, 3.0)
    return {
        "one thread": sized(600, None, 1),
        "two threads": sized(600, None, 2),
        "weighted": sized(600, weight, 2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one thread", "two threads", "weighted"])
def test_sizes_of_errors_are_learned(name: str, packs: dict[str, Pack]) -> None:
    """Intervals of errors ten times as large are several times as wide; both hold."""
    values, errors = rows_of_errors()
    new = values.part(slice(600, None))
    pack = packs[name]
    assert pack.sizes is not None
    sizes = np.exp(pack.sizes.predict(new))
    low = sizes * pack.lower_score(0.05)
    high = sizes * pack.upper_score(0.95)
    large = new.numbers[:, 0] > 0
    assert (high - low)[large].mean() > 4 * (high - low)[~large].mean()
    inside = (low <= errors[600:]) & (errors[600:] <= high)
    assert 0.86 < inside.mean() < 0.94
    assert min(inside[large].mean(), inside[~large].mean()) > 0.78


@pytest.mark.slow
def test_sizes_of_errors_have_the_same_bits_for_any_threads(
    packs: dict[str, Pack],
) -> None:
    one = packs["one thread"].residuals
    np.testing.assert_array_equal(one, packs["two threads"].residuals)


@pytest.mark.slow
def test_sizes_of_errors_are_learned_by_weights(packs: dict[str, Pack]) -> None:
    assert (packs["weighted"].residuals != packs["one thread"].residuals).any()


def test_few_rows_have_no_sizes_of_errors() -> None:
    assert sized(99, None, 1).sizes is None


def test_a_model_has_intervals_of_several_widths() -> None:
    model = regressor()
    assert model.pack_.sizes is not None
    assert not len(model.pack_.validated)
    low, high = model.predict_interval(X, 0.8).T
    assert (low >= 0).all()
    assert np.ptp(high - low) > 0.01


def weighted_regressor() -> TabularMLPRegressor:
    weight = np.where(np.arange(120) % 3 == 0, 2.0, 1.0)
    model = TabularMLPRegressor(**FEW, cv=2).fit(X, Y, sample_weight=weight)
    assert len(model.pack_.row_weights) == 120
    return model


@pytest.mark.slow
@pytest.mark.parametrize("of", [regressor, weighted_regressor])
def test_intervals_are_the_same_after_a_file(of: Any, tmp_path: Path) -> None:
    model = of()
    loaded = reloaded(model, tmp_path / "a.safetensors")
    copy = pickle.loads(pickle.dumps(model))
    for coverage in (0.5, 0.8):
        expected = model.predict_interval(X, coverage)
        np.testing.assert_array_equal(loaded.predict_interval(X, coverage), expected)
        np.testing.assert_array_equal(copy.predict_interval(X, coverage), expected)


@pytest.mark.slow
def test_intervals_are_the_same_for_any_threads() -> None:
    again = TabularMLPRegressor(**FEW, cv=2, n_jobs=1).fit(X, Y)
    expected = regressor().predict_interval(X, 0.8)
    np.testing.assert_array_equal(again.predict_interval(X, 0.8), expected)


def test_no_rows_have_no_intervals() -> None:
    model = regressor()
    assert model.predict_interval(X[:0]).shape == (0, 2)
    assert model.predict_quantiles(X[:0], [0.5]).shape == (0, 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_sets_of_classes_are_those_of_the_definition(
    weighted: bool, tmp_path: Path
) -> None:
    if weighted:
        weight = np.where(np.arange(40) % 3 == 0, 2.0, 1.0)
    else:
        weight = np.ones(40)
    given = {"X_val": X[::3], "y_val": LABELS[::3]}
    model = TabularMLPClassifier(**FEW).fit(
        X, LABELS, sample_weight_val=weight, **given
    )
    p = model.predict_proba(X)
    held_out = model.predict_proba(X[::3])
    own = held_out[np.arange(40), np.searchsorted(model.classes_, LABELS[::3])]
    for coverage in (0.3, 0.5, 0.8, 0.95):
        expected = p >= 1 - naive(1 - own, coverage, weight)
        expected |= p == p.max(axis=1)[:, None]
        result = model.predict_set(X, coverage)
        assert result.dtype == bool
        # A score itself may be an ulp beside that of the fit.
        assert (result != expected).mean() < 0.01
        same = reloaded(model, tmp_path / "a.safetensors")
        np.testing.assert_array_equal(same.predict_set(X, coverage), result)
    assert (model.predict_set(X, 0.5) <= model.predict_set(X, 0.9)).all()
    assert model.predict_set(X[:0]).shape == (0, 3)


def test_a_score_of_a_class_is_what_its_probability_lacks() -> None:
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(scores_of("binary", np.array([0, 1]), p), [0.8, 0.5])


def test_a_score_of_a_number_is_its_error() -> None:
    errors = scores_of("regression", np.array([1.0, 2.0]), np.array([2.0, 0.0]))
    np.testing.assert_array_equal(errors, [-1, 2])


def test_settings_of_other_losses_change_nothing() -> None:
    model = TabularMLPRegressor(
        **FEW, cv=2, loss="squared_error", quantile=0.3, power=1.2
    )
    assert np.array_equal(model.fit(X, Y).predict(X), regressor().predict(X))


@pytest.mark.parametrize("seed", range(8))
def test_sizes_are_learned_from_other_groups(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fold of the sizes no row is trained on whose group has rows to validate
    on.
    """
    g = np.random.default_rng(seed)
    n_groups = int(g.choice([2, 3, 9, 30]))
    groups = g.permutation(np.arange(120) % n_groups)
    weight = None
    if g.random() < 0.3:
        weight = g.integers(0, 2, 120)
    ways = [{"cv": 2}, {"cv": GroupKFold(2)}, {"validation_fraction": 0.5}]
    divided = ways[int(g.integers(3))]
    seen = list[Any]()
    monkeypatch.setattr("fastmlp.tabular.fit_arguments.ROWS_FOR_FOLDS", 0)
    monkeypatch.setattr("fastmlp.tabular.conformal.FEWEST_SIZED_ROWS", 1)

    def train(rows: TableRows, *_: Any, folds: Any, **options: Any) -> Any:
        seen.append((rows, folds))
        return types.SimpleNamespace(validated=np.zeros(len(rows.y)))

    monkeypatch.setattr("fastmlp.tabular.conformal.train_pack", train)
    model = TabularMLPRegressor(**FEW, **divided)
    # The first column says which row of the table one is.
    table = np.stack([np.arange(120.0), g.normal(size=120)], axis=1)
    model.fit(table, Y, groups=groups, sample_weight=weight)
    if not seen:
        assert n_groups == 2
        assert "validation_fraction" in divided
        return
    ((rows, folds),) = seen
    of_rows = groups[rows.values.numbers[:, 0].astype(int)]
    assert len(folds) == min(3, len({*of_rows}))
    validated = np.concatenate([second for _, second in folds])
    assert sorted(validated) == list(range(len(rows.y)))
    for first, second in folds:
        assert not {*of_rows[first]} & {*of_rows[second]}


PAIRS = [(np.arange(58), np.arange(58, 120))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cv", [PAIRS, KFold(2, shuffle=True, random_state=0)])
def test_folds_that_contradict_the_groups_are_refused(cv: Any) -> None:
    model = TabularMLPRegressor(**FEW, cv=cv)
    words = "validates on rows of one of groups: use sklearn"
    with pytest.raises(ValueError, match=words):
        model.fit(X, Y, groups=np.arange(120) // 4)


def test_rows_with_weight_of_one_group_are_refused() -> None:
    groups = np.arange(120) // 4
    with pytest.raises(ValueError, match="groups holds one group only"):
        TabularMLPRegressor(**FEW).fit(X, Y, groups=groups, sample_weight=groups == 0)


def test_a_time_limit_leaves_sizes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    called = list[float]()

    def learn(pack: Any, rows: TableRows, **options: Any) -> Any:
        called.append(limit)
        return np.ones(len(rows.y))

    monkeypatch.setattr(conformal, "learn_sizes", learn)
    limit = 1e6
    TabularMLPRegressor(**FEW, cv=2, time_limit=limit).fit(X, Y)
    limit = 1e-3
    with pytest.warns(match="nets were trained"):
        TabularMLPRegressor(**FEW, cv=2, time_limit=limit).fit(X, Y)
    assert called == [1e6]


POSITIVE = np.exp(Y / 2)
LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "squared_error": (mean_squared_error, {}),
    "absolute_error": (mean_absolute_error, {}),
    "quantile": (mean_pinball_loss, {"alpha": 0.8}),
    "poisson": (mean_tweedie_deviance, {"power": 1}),
    "gamma": (mean_tweedie_deviance, {"power": 2}),
    "tweedie": (mean_tweedie_deviance, {"power": 1.3}),
}
SETTINGS: dict[str, float] = {"quantile": 0.8, "tweedie": 1.3}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_scikit_learn(name: Any, rng: np.random.Generator) -> None:
    metric, settings = LOSSES[name]
    y, predictions, weight = rng.gamma(2, size=(3, 50))
    if name in ("poisson", "tweedie"):
        y[::5] = 0
    loss = NumberLoss(name, SETTINGS.get(name, 0.5))
    for w in (None, weight):
        expected = metric(y, predictions, sample_weight=w, **settings)
        assert -loss.score(y, predictions, w) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_nets_begin_with_the_best_constant(name: Any) -> None:
    y = np.random.default_rng(0).gamma(1.5, size=400)
    loss = NumberLoss(name, SETTINGS.get(name, 0.5))
    outputs = outputs_of("regression", y, None, 0, loss)
    if loss.power is None:
        raw = np.zeros((1, 1))
    else:
        raw = np.ones((1, 1))
    constant = outputs.predictions(raw)[0]
    own = loss.score(y, np.full(400, constant), None)
    for factor in (0.9, 1.1):
        assert own >= loss.score(y, np.full(400, constant * factor), None)


@cache
def model_of_loss(name: Any) -> TabularMLPRegressor:
    own_settings: Any = {"quantile": {"quantile": 0.8}, "tweedie": {"power": 1.3}}
    setting = own_settings.get(name, {})
    model = TabularMLPRegressor(**{**FEW, "max_iter": 30}, loss=name, **setting)
    return clone(model).fit(X, POSITIVE, X_val=X[::2], y_val=POSITIVE[::2])


each_other_loss = pytest.mark.parametrize("name", [*LOSSES][1:])


@each_other_loss
def test_the_score_of_a_loss_is_that_of_scikit_learn(name: Any) -> None:
    metric, settings = LOSSES[name]
    model = model_of_loss(name)
    own = metric(POSITIVE[::2], model.predict(X[::2]), **settings)
    assert model.validation_score_ == pytest.approx(-own, rel=1e-5)


@each_other_loss
def test_models_of_other_losses_learn(name: Any) -> None:
    metric, settings = LOSSES[name]
    model = model_of_loss(name)
    own = metric(POSITIVE[::2], model.predict(X[::2]), **settings)
    level = 0.8 if name == "quantile" else 0.5
    constant = DummyRegressor(strategy="quantile", quantile=level).fit(X, POSITIVE)
    assert own < 0.8 * metric(POSITIVE, constant.predict(X), **settings)
    assert model.feature_importances_.argmax() in (0, 1)


@each_other_loss
def test_files_have_the_loss(name: Any, tmp_path: Path) -> None:
    model = model_of_loss(name)
    loaded = reloaded(model, tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.get_params() == model.get_params()


@each_other_loss
def test_models_of_other_losses_have_the_same_bits_for_any_threads(name: Any) -> None:
    model = model_of_loss(name)
    again = clone(model).set_params(n_jobs=1)
    again.fit(X, POSITIVE, X_val=X[::2], y_val=POSITIVE[::2])
    assert np.array_equal(again.predict(X), model.predict(X))


@each_other_loss
def test_compiled_models_of_other_losses_have_the_same_bits(name: Any) -> None:
    model = model_of_loss(name)
    out = np.empty((120, 1))
    jit.predict(jit.compiled(model), model.codes(X), out)
    assert np.array_equal(out[:, 0], model.predict(X))


@pytest.mark.parametrize(
    ("name", "level"), [("quantile", 0.8), ("absolute_error", 0.5)]
)
def test_predictions_are_above_their_share_of_targets(name: str, level: float) -> None:
    share = (model_of_loss(name).predict(X) > POSITIVE).mean()
    assert abs(share - level) < 0.15


@pytest.mark.parametrize("name", ["poisson", "gamma", "tweedie"])
def test_predictions_of_positive_losses_are_positive(name: str) -> None:
    assert (model_of_loss(name).predict(X) > 0).all()


def test_scores_of_classes_are_refused() -> None:
    words = r"Regressor.fit: scoring='roc_auc' of numbers failed: "
    with pytest.raises(ValueError, match=words):
        TabularMLPRegressor(**FEW, scoring="roc_auc").fit(X, POSITIVE)


def test_rows_without_weight_may_have_any_target() -> None:
    weight = np.arange(120) > 0
    model = TabularMLPRegressor(**FEW, loss="gamma", cv=2)
    y = np.where(weight, POSITIVE, -1.0)
    assert (model.fit(X, y, sample_weight=weight).predict(X) > 0).all()


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
RISING = (
    -np.nan_to_num(np.log(FRAME["income"])) + np.sin(FRAME["age"] / 9) + FRAME["debts"]
)
CONSTRAINTS = {"income": 1, "debts": -1}


def is_ordered(model: Any) -> bool:
    for name, sign in CONSTRAINTS.items():
        for place in (0, 7):
            n = 4000
            rows = FRAME.iloc[[place] * n].copy()
            # A quarter of the steps are of one unit in the last place of float32.
            near = np.arange(n // 4) * np.spacing(np.float32(20.0)) + 20
            rows[name] = np.sort(
                np.concatenate([near, rng.lognormal(2, 2, n // 2), -near])
            )
            if hasattr(model, "classes_"):
                values = model.predict_proba(rows)[:, 1]
            else:
                values = model.predict(rows)
            if (sign * np.diff(values) < 0).any():
                return False
    return True


FIVE: dict[str, Any] = {**FEW, "n_members": 5, "max_members": 5, "cv": 2}


@pytest.fixture(scope="module")
def ordered() -> TabularMLPRegressor:
    return TabularMLPRegressor(**FIVE, monotonic_cst=CONSTRAINTS).fit(FRAME, RISING)


@pytest.mark.slow
def test_predictions_are_ordered(ordered: TabularMLPRegressor) -> None:
    assert is_ordered(ordered)
    free = TabularMLPRegressor(**FIVE).fit(FRAME, RISING)
    assert not is_ordered(free)


@pytest.mark.slow
def test_files_have_the_order(ordered: TabularMLPRegressor, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(ordered, path)
    loaded = load(path)
    np.testing.assert_array_equal(loaded.predict(FRAME), ordered.predict(FRAME))
    assert loaded.monotonic_cst == CONSTRAINTS


@pytest.mark.slow
def test_onnx_has_predictions_of_an_order(ordered: TabularMLPRegressor) -> None:
    session = onnxruntime.InferenceSession(to_onnx(ordered).SerializeToString())
    kinds: dict[str, Any] = dict.fromkeys(FRAME, np.float32)
    kinds["town"] = object
    columns = {name: FRAME[[name]].to_numpy(kind) for name, kind in kinds.items()}
    (values,) = session.run(None, columns)
    expected = ordered.predict(FRAME)
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_probabilities_are_ordered_by_names_or_places() -> None:
    labels = np.where(np.median(RISING) < RISING, "yes", "no")
    named = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=CONSTRAINTS)
    named.fit(FRAME, labels)
    placed = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=[0, 1, 0, -1])
    placed.fit(FRAME, labels)
    assert is_ordered(named)
    expected = named.predict_proba(FRAME)
    np.testing.assert_array_equal(placed.predict_proba(FRAME), expected)


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


def test_a_member_that_has_no_order_is_refused() -> None:
    model = TabularMLPRegressor(**FEW, extra_members=[LinearRegression()])
    with pytest.raises(ValueError, match="LinearRegression does not take it"):
        model.set_params(monotonic_cst=CONSTRAINTS).fit(FRAME, RISING)
