"""Arguments that scikit-learn lacks: settings of the core,
validation rows, callbacks, verbose.
"""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conditions import count_as_wide
from fitting import needs_compiler, unconverged
from pairs import LABELS, REAL, WEIGHTS, X, same
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score, make_scorer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from fastmlp import (
    EMA,
    Cosine,
    EarlyStopping,
    MLPClassifier,
    MLPRegressor,
    ReduceLROnPlateau,
    Report,
    load,
    save,
    to_onnx,
)
from fastmlp.rules.activations import RULES
from fastmlp.rules.optimizers import OPTIMIZERS

pytestmark = [unconverged, needs_compiler]

SMALL = MLPClassifier((5,), max_iter=8, random_state=0)
NEW = X[::2] + 0.1
NEW_LABELS = LABELS[::2]


BY_NAME = [("activation", name) for name in RULES]
BY_NAME += [("solver", name) for name in OPTIMIZERS]


@pytest.mark.parametrize(("setting", "name"), BY_NAME)
def test_every_rule_of_the_core_trains(setting: str, name: str) -> None:
    model = clone(SMALL).set_params(max_iter=30, learning_rate_init=0.03)
    model.set_params(**{setting: name})
    model.fit(X, LABELS)
    before = model.loss_curve_[-1]
    assert before < model.loss_curve_[0]
    assert model.partial_fit(X, LABELS).loss_ < before


def test_each_layer_takes_an_activation_even_your_own() -> None:
    def square(z: Any) -> Any:
        return z * z, z + z

    model = clone(SMALL).set_params(
        hidden_layer_sizes=(4, 3), activation=["gelu", square]
    )
    model.fit(X, LABELS)
    hidden = model.transform(X)
    assert hidden.shape == (len(X), 3)
    assert (hidden >= 0).all()


@pytest.mark.parametrize("given", [{"yes": 3.0, "no": 0.5}, "balanced"], ids=str)
def test_class_weights_are_sample_weights(given: Any) -> None:
    model = clone(SMALL).set_params(class_weight=given)
    model.fit(X, LABELS, sample_weight=WEIGHTS)
    by_class = compute_sample_weight(given, LABELS) * WEIGHTS
    expected = clone(SMALL).fit(X, LABELS, sample_weight=by_class)
    for mine, other in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)


@pytest.mark.parametrize("early", [False, True])
def test_validation_rows_of_your_own(early: bool) -> None:
    settings = {"early_stopping": early, "max_iter": 30, "learning_rate_init": 0.05}
    model = clone(SMALL).set_params(**settings)
    model.fit(X, LABELS, X_val=NEW, y_val=NEW_LABELS, sample_weight_val=WEIGHTS[::2])
    assert len(model.validation_loss_curve_) == model.n_iter_
    if early:
        score = model.score(NEW, NEW_LABELS, sample_weight=WEIGHTS[::2])
        assert score == pytest.approx(model.best_validation_score_)
    else:
        places = (NEW_LABELS == "yes").astype(int)
        p = model.predict_proba(NEW)[np.arange(len(NEW)), places]
        expected = np.average(-np.log(p), weights=WEIGHTS[::2])
        assert model.validation_loss_curve_[-1] == pytest.approx(expected)
        assert same(model, clone(model).fit(X, LABELS))


def test_a_pipeline_transforms_the_validation_rows() -> None:
    with config_context(enable_metadata_routing=True):
        net = clone(SMALL).set_fit_request(X_val=True, y_val=True)
        steps = [("scale", StandardScaler()), ("net", net)]
        model = Pipeline(steps, transform_input=["X_val"])
        model.fit(X, LABELS, X_val=NEW, y_val=NEW_LABELS)
    scaler = StandardScaler().fit(X)
    rows = {"X_val": scaler.transform(NEW), "y_val": NEW_LABELS}
    expected = clone(SMALL).fit(scaler.transform(X), LABELS, **rows)
    assert model[-1].validation_loss_curve_ == expected.validation_loss_curve_


def test_scoring_decides_early_stopping() -> None:
    settings = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 20}
    model = clone(SMALL).set_params(**settings)
    for scoring in ("balanced_accuracy", make_scorer(balanced_accuracy_score)):
        model.set_params(scoring=scoring).fit(X, LABELS)
        assert len(model.validation_scores_) == model.n_iter_
    by_loss = model.set_params(scoring="loss").fit(X, LABELS)
    assert by_loss.validation_scores_ == [
        -loss for loss in by_loss.validation_loss_curve_
    ]


@pytest.mark.parametrize("hidden", [(5,), (7, 3), ()])
def test_transform_gives_the_last_hidden_layer(hidden: tuple[int, ...]) -> None:
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", max_iter=3)
    model.fit(X, REAL)
    values = X
    for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        values = np.tanh(values @ coef + intercept)
    np.testing.assert_allclose(model.transform(X), values, rtol=1e-9)
    expected = values @ model.coefs_[-1][:, 0] + model.intercepts_[-1]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-7)
    assert len(model.get_feature_names_out()) == values.shape[1]
    frame: Any = model.set_output(transform="pandas").transform(X)
    assert frame.columns[0] == "mlpregressor0"


POSITIVE = (X[:, 0] > 0).astype(int)
PRODUCT = X[:, 0] * X[:, 1]
SHORT: dict[str, Any] = {"hidden_layer_sizes": (9,), "max_iter": 4, "random_state": 0}
STILL = 1e-300


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_each_call_of_partial_fit_drops_others(solver: str) -> None:
    settings: dict[str, Any] = {
        "solver": solver,
        "learning_rate_init": STILL,
        "shuffle": False,
    }
    model = MLPRegressor(**SHORT, dropout=Cosine(0.5), **settings)
    # The weights stay as they are: losses differ by what is dropped.
    losses = [model.partial_fit(X, PRODUCT).loss_ for _ in range(3)]
    assert len(set(losses)) == 3


# --- averages ---

AVERAGED = MLPClassifier(**SHORT, batch_size=10, shuffle=False, alpha=0.01)


def averaged(**settings: Any) -> Any:
    model = clone(AVERAGED).set_params(average=EMA(0.9), learning_rate_init=0.05)
    return model.set_params(**settings)


HELD_OUT: dict[str, Any] = {"X_val": X[:9], "y_val": POSITIVE[:9]}


def test_validation_sees_the_average() -> None:
    model = averaged(max_iter=9).fit(X, POSITIVE, **HELD_OUT)
    p = model.predict_proba(X[:9])[np.arange(9), POSITIVE[:9]]
    assert model.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())


def test_callbacks_see_the_average() -> None:
    seen: list[float] = []

    def look(report: Report) -> None:
        seen.append(report.net.predict(X[:1]).item())

    model = averaged(max_iter=9).fit(X, POSITIVE, callbacks=look)
    assert seen[-1] == model.predict_proba(X[:1])[0, 1]


def test_looking_at_the_average_changes_nothing() -> None:
    looked = averaged(max_iter=9).fit(
        X, POSITIVE, **HELD_OUT, callbacks=lambda report: report.net.predict(X[:1])
    )
    assert same(looked, averaged(max_iter=9).fit(X, POSITIVE))


def test_early_stopping_sees_the_average() -> None:
    early = averaged(max_iter=9, early_stopping=True, validation_fraction=0.3)
    assert early.fit(X, POSITIVE).score(X, POSITIVE) > 0.5


def test_weights_of_your_own_arrays_leave_the_average_where_it_began() -> None:
    """The average begins anew after parameters that were written by hand."""
    model = averaged()
    for _ in range(5):
        model.partial_fit(X, POSITIVE, classes=[0, 1])
    model.coefs_[0] *= 0.5
    model.partial_fit(X, POSITIVE)
    other = copy.deepcopy(model)
    other.coefs_ = [weights.copy() for weights in other.coefs_]
    other.intercepts_ = [biases.copy() for biases in other.intercepts_]
    assert same(model.partial_fit(X, POSITIVE), other.partial_fit(X, POSITIVE))


# --- mixed precision ---

WIDE: Any = np.random.default_rng(0).normal(size=(60, 20))
SINGLE = WIDE.astype(np.float32)
WIDE_LABELS = (WIDE[:, 0] > 0).astype(int)
MIXED = {**SHORT, "hidden_layer_sizes": (24, 20), "compute_dtype": "bfloat16"}


@pytest.fixture
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(16, monkeypatch)


@pytest.mark.usefixtures("narrow_layers_too")
@pytest.mark.parametrize(
    ("kind", "y"), [(MLPClassifier, WIDE_LABELS), (MLPRegressor, WIDE[:, 0])]
)
def test_an_estimator_trains_float32_in_mixed_precision(kind: Any, y: Any) -> None:
    model = kind(**MIXED).fit(WIDE, y)
    assert {each.dtype for each in model.coefs_} == {np.dtype(np.float32)}
    assert same(kind(**MIXED).fit(SINGLE, y), model)
    plain = clone(model).set_params(compute_dtype=None).fit(SINGLE, y)
    np.testing.assert_allclose(plain.predict(SINGLE), model.predict(SINGLE), atol=0.02)
    model.set_params(compute_dtype=["float32", "bfloat16"])
    for each in (model, clone(model)):
        with pytest.raises(
            ValueError, match=f"^{kind.__name__}: compute_dtype must have one dty"
        ):
            each.fit(WIDE, y)
    assert not hasattr(each, "coefs_")


def test_parameters_of_an_earlier_fit_in_float64_are_an_error() -> None:
    model = MLPClassifier(**{**MIXED, "compute_dtype": None}, warm_start=True)
    model.fit(WIDE, WIDE_LABELS).set_params(compute_dtype="bfloat16")
    with pytest.raises(
        ValueError, match=r"^MLPClassifier: compute_dtype='bfloat16' needs"
    ):
        model.fit(WIDE, WIDE_LABELS)


# --- what is wrong ---


rng = np.random.default_rng(0)
RISING_X = rng.uniform(-2, 2, (200, 3))
RISING = -RISING_X[:, 0] + np.sin(2 * RISING_X[:, 1]) + rng.normal(size=200)
ANSWERS = np.where(RISING > 0, "yes", "no")
SIGNS = [1, 0, -1]
FEW: dict[str, Any] = {"hidden_layer_sizes": (8, 6), "random_state": 0, "max_iter": 5}


def is_ordered(model: Any) -> bool:
    grid = np.sort(rng.uniform(-5, 5, 300))
    for j, sign in enumerate(SIGNS):
        for row in RISING_X[:4]:
            rows = np.repeat(row[None], 300, axis=0)
            rows[:, j] = grid
            if hasattr(model, "classes_"):
                values = model.predict_proba(rows)[:, 1]
            else:
                values = model.predict(rows)
            if sign and (sign * np.diff(values) < 0).any():
                return False
    return True


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", "rmsprop"])
@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_fits_are_monotone(kind: Any, solver: str) -> None:
    y = RISING
    if kind is MLPClassifier:
        y = ANSWERS
    model = kind(**FEW, solver=solver, monotonic_cst=SIGNS)
    assert is_ordered(model.fit(RISING_X, y))
    assert is_ordered(clone(model).fit(RISING_X, y))
    if solver != "lbfgs":
        assert is_ordered(model.partial_fit(RISING_X[:20], y[:20]))
    assert model.net_.monotonic_cst == (1, 0, -1)


def test_signs_go_by_the_names_of_columns() -> None:
    frame = pd.DataFrame(RISING_X, columns=[*"abc"])
    named = MLPRegressor(**FEW, monotonic_cst={"c": -1, "a": 1}).fit(frame, RISING)
    placed = MLPRegressor(**FEW, monotonic_cst=SIGNS).fit(RISING_X, RISING)
    np.testing.assert_array_equal(named.coefs_[0], placed.coefs_[0])


def test_a_file_keeps_the_signs(tmp_path: Path) -> None:
    model = MLPRegressor(**FEW, monotonic_cst=SIGNS).fit(RISING_X, RISING)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.monotonic_cst == SIGNS
    assert is_ordered(loaded)


def test_a_model_with_signs_is_exported() -> None:
    model = MLPRegressor(**FEW, monotonic_cst=SIGNS).fit(RISING_X, RISING)
    assert to_onnx(model)


REPORTED = ("adam", "sgd", "adamw", "lbfgs", "lm")


@pytest.mark.parametrize("solver", REPORTED)
def test_reports_change_nothing(solver: str) -> None:
    def look(report: Report) -> None:
        report.net.predict(X[:1])

    model = clone(SMALL).set_params(solver=solver).fit(X, LABELS, callbacks=look)
    plain = clone(SMALL).set_params(solver=solver).fit(X, LABELS)
    assert same(model, plain)
    assert model.n_iter_ == plain.n_iter_
    assert model.loss_ == plain.loss_


@pytest.mark.parametrize("solver", REPORTED)
def test_each_epoch_is_reported(solver: str) -> None:
    seen: list[tuple[int, float, float, float]] = []

    def look(report: Report) -> None:
        p = report.net.predict(X[:1]).item()
        seen.append((report.epoch, report.loss, report.learning_rate, p))
        assert report.history.loss[-1] == report.loss

    model = clone(SMALL).set_params(solver=solver).fit(X, LABELS, callbacks=look)
    epochs, losses, rates, p = zip(*seen, strict=True)
    assert epochs == tuple(range(8))
    assert len(set(p)) == 8
    assert p[-1] == model.predict_proba(X[:1])[0, 1]
    if solver in ("lbfgs", "lm"):
        assert np.isnan(rates).all()
        assert losses[-1] == model.loss_
    else:
        assert rates == (0.001,) * 8
        assert list(losses) == model.loss_curve_


@pytest.mark.parametrize("solver", REPORTED)
def test_a_callback_stops_the_fit_without_a_warning(solver: str) -> None:
    def stop(report: Report) -> None:
        if report.epoch == 2:
            report.stop()

    model = clone(SMALL).set_params(solver=solver)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmlp._process.warn", pytest.fail)
        model.fit(X, LABELS, callbacks=[stop])
    assert model.n_iter_ == 3
    if solver in ("lbfgs", "lm"):
        short = clone(model).set_params(max_iter=3).fit(X, LABELS)
        assert same(model, short)
        assert model.loss_ == short.loss_


FALLING: dict[str, Any] = {
    "solver": "sgd",
    "learning_rate": "invscaling",
    "early_stopping": True,
    "validation_fraction": 0.3,
}


def test_reports_have_scores() -> None:
    reports: list[Report] = []
    model = clone(SMALL).set_params(**FALLING).fit(X, LABELS, callbacks=reports.append)
    scores = [report.metrics["validation_score"] for report in reports]
    assert scores == model.validation_scores_
    losses = [report.validation_loss for report in reports]
    assert losses == model.validation_loss_curve_


def test_reports_have_falling_rates() -> None:
    reports: list[Report] = []
    clone(SMALL).set_params(**FALLING).fit(X, LABELS, callbacks=reports.append)
    rates = [report.learning_rate for report in reports]
    assert rates == sorted(set(rates), reverse=True)
    assert reports[-1].history.learning_rate == rates


def test_reports_have_losses_of_rows_to_validate_on() -> None:
    reports: list[Report] = []
    rows = {"X_val": X[:9], "y_val": LABELS[:9]}
    model = clone(SMALL).fit(X, LABELS, **rows, callbacks=reports.append)
    assert reports[-1].validation_loss == model.validation_loss_curve_[-1]
    assert not reports[-1].metrics


METRICS: dict[str, Any] = {
    "hits": lambda y, p: np.mean((p > 0.5) == y),
    "accuracy": "accuracy",
}
HELD: dict[str, Any] = {"X_val": X[:20], "y_val": LABELS[:20]}


@pytest.mark.parametrize("seed", range(6))
def test_early_stopping_by_a_metric(seed: int) -> None:
    """The fit ends in the bits of one of as many epochs as the best has."""
    rng = np.random.default_rng(seed)
    monitor = str(rng.choice(["hits", "accuracy", "validation_loss", "loss"]))
    patience = int(rng.integers(1, 4))
    solver = str(rng.choice(["adam", "sgd", "adamw"]))
    mode: Any = "max" if monitor == "hits" else None
    watch = EarlyStopping(monitor, patience=patience, mode=mode)
    settings = {"solver": solver, "learning_rate_init": 0.05, "random_state": seed}
    model = clone(SMALL).set_params(**settings, max_iter=40)
    model.set_params(metrics=METRICS, early_stopping=watch)
    seen: list[float] = []

    def look(report: Report) -> None:
        seen.append(right(report.net))

    model.fit(X[20:], LABELS[20:], **HELD, callbacks=look)
    history = model.history_
    assert history is not None
    assert history.metrics["hits"] == history.metrics["accuracy"] == seen
    series = {"loss": history.loss, "validation_loss": history.validation_loss}
    values = np.array({**series, **history.metrics}[monitor])
    best = int(values.argmin())
    if monitor in METRICS:
        best = int(values.argmax())
    assert history.best_epoch == best
    assert model.n_iter_ in (best + patience + 1, 40)
    plain = clone(SMALL).set_params(**settings, max_iter=best + 1)
    assert same(model, plain.fit(X[20:], LABELS[20:], **HELD))
    assert plain.history_ is None


def right(net: Any) -> float:
    answers = net.predict(X[:20])[:, 0] > 0.5
    return float(np.mean(answers == (LABELS[:20] == "yes")))


def test_rows_are_held_out_for_metrics_as_for_scikit_learns_rule() -> None:
    model = clone(SMALL).set_params(early_stopping=True, metrics="accuracy")
    model.fit(X, LABELS)
    assert model.history_ is not None
    assert model.history_.metrics["accuracy"] == model.validation_scores_
    plain = clone(SMALL).set_params(early_stopping=True).fit(X, LABELS)
    assert same(model, plain)
    other = clone(SMALL).set_params(early_stopping=EarlyStopping(patience=None))
    other.fit(X, LABELS)
    assert other.validation_scores_ is None
    assert other.validation_loss_curve_ == plain.validation_loss_curve_[: other.n_iter_]


def test_a_regressor_lowers_its_rate_on_plateaus() -> None:
    model = MLPRegressor(
        hidden_layer_sizes=(4,), max_iter=12, random_state=0, metrics=["mae"]
    )
    plateau = ReduceLROnPlateau(0.5, patience=2, min_delta=1e9, monitor="mae")
    model.fit(X, X[:, 0], X_val=X, y_val=X[:, 0], callbacks=plateau)
    assert model.history_ is not None
    factors = {rate / 0.001 for rate in model.history_.learning_rate}
    assert factors == {0.5**i for i in range(6)}
    mean = np.abs(model.predict(X) - X[:, 0]).mean()
    assert model.history_.metrics["mae"][-1] == pytest.approx(mean, rel=1e-12)


def test_a_bar_counts_the_iterations_of_lbfgs(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = clone(SMALL).set_params(solver="lbfgs").fit(X, LABELS, progress=True)
    printed = capfd.readouterr().err
    assert "8/8" in printed
    assert f"loss={model.loss_:.4g}" in printed


@pytest.mark.parametrize("early", [False, True])
def test_verbose_prints_more_from_2_on(
    early: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "early_stopping": early,
        "max_iter": 3,
        "random_state": 0,
    }
    lines = []
    for verbose in (True, 2):
        with pytest.warns(match="Stochastic Optimizer"):
            MLPClassifier((5,), verbose=verbose, **settings).fit(X, POSITIVE)
        lines.append(capsys.readouterr().out.splitlines())
    ours, detailed = lines
    of_each = 2
    seconds = r"    \d+\.\d\d s, rate = 0.001"
    if early:
        of_each = 3
        seconds += r", validation loss = \d\.\d{8}"
    assert [line for line in detailed if not line.startswith("    ")] == ours
    for line in detailed[of_each - 1 :: of_each]:
        assert re.fullmatch(seconds, line)
    assert len(detailed) == 3 * of_each


def test_lbfgs_prints_its_iterations_from_2_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=2, verbose=2)
    model.fit(X, X[:, 0])
    first, second, *_ = capsys.readouterr().out.splitlines()[-4:]
    assert re.fullmatch(r"Iteration 1, loss = \d\.\d{8}", first)
    assert re.fullmatch(r"    \d+\.\d\d s", second)
