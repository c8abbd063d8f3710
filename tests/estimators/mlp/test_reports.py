"""Callbacks, bars and the second line of `verbose`."""

import re
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import LABELS, X, both, same
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import EarlyStopping, MLPClassifier, MLPRegressor, ReduceLROnPlateau, Report

pytestmark = [unconverged, needs_compiler]
SMALL = MLPClassifier((5,), max_iter=8, random_state=0)
SOLVERS = ("adam", "sgd", "adamw", "lbfgs")


@pytest.mark.parametrize("solver", SOLVERS)
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
    if solver == "lbfgs":
        assert np.isnan(rates).all()
        assert losses[-1] == model.loss_
    else:
        assert rates == (0.001,) * 8
        assert list(losses) == model.loss_curve_


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_the_fit_without_a_warning(solver: str) -> None:
    def stop(report: Report) -> None:
        if report.epoch == 2:
            report.stop()

    model = clone(SMALL).set_params(solver=solver)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmlp._process.warn", pytest.fail)
        model.fit(X, LABELS, callbacks=[stop])
    assert model.n_iter_ == 3
    if solver == "lbfgs":
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
    assert [report.metrics["validation_score"] for report in reports] == model.validation_scores_
    assert [report.validation_loss for report in reports] == model.validation_loss_curve_
    rates = [report.learning_rate for report in reports]
    assert rates == sorted(set(rates), reverse=True)
    assert reports[-1].history.learning_rate == rates
    # Rows to validate on, without early stopping.
    rows = {"X_val": X[:9], "y_val": LABELS[:9]}
    model = clone(SMALL).fit(X, LABELS, **rows, callbacks=reports.append)
    assert reports[-1].validation_loss == model.validation_loss_curve_[-1]
    assert not reports[-1].metrics


METRICS: dict[str, Any] = {"hits": lambda y, p: np.mean((p > 0.5) == y), "accuracy": "accuracy"}
HELD: dict[str, Any] = {"X_val": X[:20], "y_val": LABELS[:20]}


@pytest.mark.parametrize("seed", range(6))
def test_early_stopping_by_a_metric(seed: int) -> None:
    """The fit ends in the bits of one of as many epochs as the best has."""
    rng = np.random.default_rng(seed)
    monitor = str(rng.choice(["hits", "accuracy", "validation_loss", "loss"]))
    patience, solver = int(rng.integers(1, 4)), str(rng.choice(["adam", "sgd", "adamw"]))
    mode: Any = "max" if monitor == "hits" else None
    watch = EarlyStopping(monitor, patience=patience, mode=mode)
    settings = {"solver": solver, "learning_rate_init": 0.05, "random_state": seed}
    model = clone(SMALL).set_params(**settings, max_iter=40)
    model.set_params(metrics=METRICS, early_stopping=watch)
    seen: list[float] = []
    model.fit(X[20:], LABELS[20:], **HELD, callbacks=lambda report: seen.append(right(report.net)))
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
    model = clone(SMALL).set_params(early_stopping=True, metrics="accuracy").fit(X, LABELS)
    assert model.history_ is not None
    assert model.history_.metrics["accuracy"] == model.validation_scores_
    plain = clone(SMALL).set_params(early_stopping=True).fit(X, LABELS)
    assert same(model, plain)
    other = clone(SMALL).set_params(early_stopping=EarlyStopping(patience=None)).fit(X, LABELS)
    assert other.validation_scores_ is None
    assert other.validation_loss_curve_ == plain.validation_loss_curve_[: other.n_iter_]


def test_a_regressor_lowers_its_rate_on_plateaus() -> None:
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=12, random_state=0, metrics=["mae"])
    plateau = ReduceLROnPlateau(0.5, patience=2, min_delta=1e9, monitor="mae")
    model.fit(X, X[:, 0], X_val=X, y_val=X[:, 0], callbacks=plateau)
    assert model.history_ is not None
    assert sorted({rate / 0.001 for rate in model.history_.learning_rate}) == [
        0.5**i for i in reversed(range(6))
    ]
    mean = np.abs(model.predict(X) - X[:, 0]).mean()
    assert model.history_.metrics["mae"][-1] == pytest.approx(mean, rel=1e-12)


def test_a_bar_counts_the_epochs(capfd: pytest.CaptureFixture[str]) -> None:
    model = clone(SMALL).set_params(solver="lbfgs").fit(X, LABELS, progress=True)
    printed = capfd.readouterr().err
    assert "8/8" in printed
    assert f"loss={model.loss_:.4g}" in printed
    assert same(model, clone(model).fit(X, LABELS))


@pytest.mark.parametrize("early", [False, True])
def test_verbose_prints_scikit_learns_lines_and_from_2_on_a_second(
    early: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"early_stopping": early, "max_iter": 3, "random_state": 0}
    lines = []
    for verbose in (True, 2):
        for model in both("MLPClassifier", hidden_layer_sizes=(5,), verbose=verbose, **settings):
            with pytest.warns(match="Stochastic Optimizer"):
                model.fit(X, (X[:, 0] > 0).astype(int))
            lines.append(capsys.readouterr().out.splitlines())
    theirs, ours, also_theirs, detailed = lines
    assert theirs == ours == also_theirs
    of_each = 3 if early else 2
    assert [line for line in detailed if not line.startswith("    ")] == ours
    seconds = r"    \d+\.\d\d s, rate = 0.001" + (r", validation loss = \d\.\d{8}" if early else "")
    assert all(re.fullmatch(seconds, line) for line in detailed[of_each - 1 :: of_each])
    assert len(detailed) == 3 * of_each


def test_lbfgs_prints_its_iterations_from_2_on(capsys: pytest.CaptureFixture[str]) -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=2, verbose=2)
    model.fit(X, X[:, 0])
    first, second, *_ = capsys.readouterr().out.splitlines()[-4:]
    assert re.fullmatch(r"Iteration 1, loss = \d\.\d{8}", first)
    assert re.fullmatch(r"    \d+\.\d\d s", second)


def test_a_pipeline_passes_them_on(capfd: pytest.CaptureFixture[str]) -> None:
    epochs: list[int] = []
    model = make_pipeline(StandardScaler(), clone(SMALL))
    model.fit(X, LABELS, mlpclassifier__callbacks=lambda report: epochs.append(report.epoch))
    assert epochs == list(range(8))


def test_metadata_routing_passes_them_on() -> None:
    epochs: list[int] = []
    with config_context(enable_metadata_routing=True):
        net = clone(SMALL).set_fit_request(callbacks=True)
        model = make_pipeline(StandardScaler(), net)
        model.fit(X, LABELS, callbacks=lambda report: epochs.append(report.epoch))
        # Without a request for them nothing is asked of a pipeline.
        make_pipeline(StandardScaler(), clone(SMALL)).fit(X, LABELS)
    assert epochs == list(range(8))
