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


BY_NAME = [
    *(("activation", name) for name in RULES),
    *(("solver", name) for name in OPTIMIZERS),
]


@pytest.mark.parametrize(("setting", "name"), BY_NAME)
def test_every_activation_and_optimizer_of_the_core_trains(
    setting: str, name: str
) -> None:
    model = clone(SMALL).set_params(
        max_iter=30, learning_rate_init=0.03, **{setting: name}
    )
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


def test_class_weights_are_sample_weights() -> None:
    for given in ({"yes": 3.0, "no": 0.5}, "balanced"):
        model = clone(SMALL).set_params(class_weight=given)
        by_class = compute_sample_weight(given, LABELS) * WEIGHTS
        expected = clone(SMALL).fit(X, LABELS, sample_weight=by_class)
        for mine, other in zip(
            model.fit(X, LABELS, sample_weight=WEIGHTS).coefs_,
            expected.coefs_,
            strict=True,
        ):
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
        p = model.predict_proba(NEW)[
            np.arange(len(NEW)), (NEW_LABELS == "yes").astype(int)
        ]
        expected = np.average(-np.log(p), weights=WEIGHTS[::2])
        assert model.validation_loss_curve_[-1] == pytest.approx(expected)
        assert same(model, clone(model).fit(X, LABELS))


def test_a_pipeline_transforms_the_validation_rows() -> None:
    with config_context(enable_metadata_routing=True):
        net = clone(SMALL).set_fit_request(X_val=True, y_val=True)
        steps = [("scale", StandardScaler()), ("net", net)]
        model = Pipeline(steps, transform_input=["X_val"]).fit(
            X, LABELS, X_val=NEW, y_val=NEW_LABELS
        )
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
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", max_iter=3).fit(
        X, REAL
    )
    values = X
    for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        values = np.tanh(values @ coef + intercept)
    np.testing.assert_allclose(model.transform(X), values, rtol=1e-9)
    np.testing.assert_allclose(
        values @ model.coefs_[-1][:, 0] + model.intercepts_[-1],
        model.predict(X),
        rtol=1e-7,
    )
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


def test_validation_callbacks_and_early_stopping_see_the_average() -> None:
    model = clone(AVERAGED).set_params(
        average=EMA(0.9), learning_rate_init=0.05, max_iter=9
    )
    seen: list[float] = []
    model.fit(
        X,
        POSITIVE,
        X_val=X[:9],
        y_val=POSITIVE[:9],
        callbacks=lambda report: seen.append(report.net.predict(X[:1]).item()),
    )
    p = model.predict_proba(X[:9])[np.arange(9), POSITIVE[:9]]
    assert model.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())
    assert seen[-1] == model.predict_proba(X[:1])[0, 1]
    # Looking at it changes nothing.
    assert same(model, clone(model).fit(X, POSITIVE))
    early = (
        clone(model)
        .set_params(early_stopping=True, validation_fraction=0.3)
        .fit(X, POSITIVE)
    )
    assert early.score(X, POSITIVE) > 0.5


def test_weights_of_your_own_arrays_leave_the_average_where_it_began() -> None:
    """The average begins anew after parameters that were written by hand."""
    model = clone(AVERAGED).set_params(average=EMA(0.9), learning_rate_init=0.05)
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
    y = RISING if kind is MLPRegressor else ANSWERS
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
def test_each_epoch_is_reported_and_changes_nothing(solver: str) -> None:
    seen: list[tuple[int, float, float, float]] = []

    def look(report: Report) -> None:
        p = report.net.predict(X[:1]).item()
        seen.append((report.epoch, report.loss, report.learning_rate, p))
        assert report.history.loss[-1] == report.loss

    model = clone(SMALL).set_params(solver=solver).fit(X, LABELS, callbacks=look)
    plain = clone(SMALL).set_params(solver=solver).fit(X, LABELS)
    assert same(model, plain)
    assert (model.n_iter_, model.loss_) == (plain.n_iter_, plain.loss_)
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


def test_reports_have_scores_and_falling_rates() -> None:
    settings: dict[str, Any] = {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "early_stopping": True,
        "validation_fraction": 0.3,
    }
    reports: list[Report] = []
    model = clone(SMALL).set_params(**settings).fit(X, LABELS, callbacks=reports.append)
    assert [
        report.metrics["validation_score"] for report in reports
    ] == model.validation_scores_
    assert [
        report.validation_loss for report in reports
    ] == model.validation_loss_curve_
    rates = [report.learning_rate for report in reports]
    assert rates == sorted(set(rates), reverse=True)
    assert reports[-1].history.learning_rate == rates
    # Rows to validate on, without early stopping.
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
    model.fit(
        X[20:],
        LABELS[20:],
        **HELD,
        callbacks=lambda report: seen.append(right(report.net)),
    )
    history = model.history_
    assert history is not None
    assert history.metrics["hits"] == history.metrics["accuracy"] == seen
    series = {"loss": history.loss, "validation_loss": history.validation_loss}
    values = np.array({**series, **history.metrics}[monitor])
    best = int(values.argmax() if monitor in METRICS else values.argmin())
    assert history.best_epoch == best
    assert model.n_iter_ in (best + patience + 1, 40)
    plain = clone(SMALL).set_params(**settings, max_iter=best + 1)
    assert same(model, plain.fit(X[20:], LABELS[20:], **HELD))
    assert plain.history_ is None


def right(net: Any) -> float:
    return float(np.mean((net.predict(X[:20])[:, 0] > 0.5) == (LABELS[:20] == "yes")))


def test_rows_are_held_out_for_metrics_as_for_scikit_learns_rule() -> None:
    model = (
        clone(SMALL).set_params(early_stopping=True, metrics="accuracy").fit(X, LABELS)
    )
    assert model.history_ is not None
    assert model.history_.metrics["accuracy"] == model.validation_scores_
    plain = clone(SMALL).set_params(early_stopping=True).fit(X, LABELS)
    assert same(model, plain)
    other = (
        clone(SMALL)
        .set_params(early_stopping=EarlyStopping(patience=None))
        .fit(X, LABELS)
    )
    assert other.validation_scores_ is None
    assert other.validation_loss_curve_ == plain.validation_loss_curve_[: other.n_iter_]


def test_a_regressor_lowers_its_rate_on_plateaus() -> None:
    model = MLPRegressor(
        hidden_layer_sizes=(4,), max_iter=12, random_state=0, metrics=["mae"]
    )
    plateau = ReduceLROnPlateau(0.5, patience=2, min_delta=1e9, monitor="mae")
    model.fit(X, X[:, 0], X_val=X, y_val=X[:, 0], callbacks=plateau)
    assert model.history_ is not None
    assert sorted({rate / 0.001 for rate in model.history_.learning_rate}) == [
        0.5**i for i in reversed(range(6))
    ]
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
    of_each = 3 if early else 2
    assert [line for line in detailed if not line.startswith("    ")] == ours
    seconds = r"    \d+\.\d\d s, rate = 0.001" + (
        r", validation loss = \d\.\d{8}" if early else ""
    )
    assert all(re.fullmatch(seconds, line) for line in detailed[of_each - 1 :: of_each])
    assert len(detailed) == 3 * of_each


def test_lbfgs_prints_its_iterations_from_2_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=2, verbose=2)
    model.fit(X, X[:, 0])
    first, second, *_ = capsys.readouterr().out.splitlines()[-4:]
    assert re.fullmatch(r"Iteration 1, loss = \d\.\d{8}", first)
    assert re.fullmatch(r"    \d+\.\d\d s", second)
