"""Metrics of the validation rows; histories in a notebook and as a data frame."""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    get_scorer_names,
    log_loss,
    make_scorer,
    mean_absolute_error,
    r2_score,
)
from sklearn.metrics import roc_auc_score as auc

from fastmlp import (
    MLP,
    Adam,
    EarlyStopping,
    History,
    MLPClassifier,
    MLPRegressor,
    Report,
    Status,
    fit_many,
)
from fastmlp.backends.cpu.evaluation import Evaluation
from fastmlp.rules.losses import LOSSES
from fastmlp.training.metrics import OF_SCORERS

random = np.random.default_rng(0)
X = random.uniform(-1, 1, (60, 3))
Y = X[:, 0] * X[:, 1]
WEIGHTS = random.integers(0, 3, 60).astype(float)
IS_POSITIVE = (Y > 0).astype(int)
CLASSES = IS_POSITIVE + (X[:, 2] > 0)
VALID: dict[str, Any] = {"validation_data": (X[40:], Y[40:])}
TWO_CLASSES: dict[str, Any] = {"validation_data": (X[40:], IS_POSITIVE[40:])}
THREE_CLASSES: dict[str, Any] = {"validation_data": (X[40:], CLASSES[40:])}


def regressor(**settings: Any) -> MLP:
    return MLP((3, 8, 1), **{"seed": 0, "dtype": "float64", **settings})


def binary(rate: float = 0.001) -> MLP:
    optimizer = Adam(rate)
    return MLP(
        (3, 8, 1),
        loss="binary_cross_entropy",
        optimizer=optimizer,
        seed=0,
        dtype="float64",
    )


def classifier() -> MLP:
    return MLP((3, 8, 3), loss="cross_entropy", seed=0, dtype="float64")


def test_a_metric_is_exact_and_by_epoch() -> None:
    net = regressor()
    reports = list[Report]()
    metrics = {"mae": mean_absolute_error, "worst": lambda y, p: np.abs(y - p).max()}
    history = net.fit(
        X[:40], Y[:40], epochs=5, metrics=metrics, callbacks=reports.append, **VALID
    )
    error = np.abs(net.predict(X[40:])[:, 0] - Y[40:])
    assert history.metrics["mae"][-1] == pytest.approx(error.mean(), rel=1e-13)
    assert history.metrics["worst"][-1] == pytest.approx(error.max(), rel=1e-13)
    assert {name: len(values) for name, values in history.metrics.items()} == {
        "mae": 5,
        "worst": 5,
    }
    by_report = [report.metrics["mae"] for report in reports]
    assert by_report == history.metrics["mae"]
    assert history.metrics["mae"][0] != history.metrics["mae"][-1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_a_losss_name_is_its_weighted_mean(name: str, weighted: bool) -> None:
    weight = WEIGHTS if weighted else np.ones(60)
    for n_outputs in (1, 2):
        y = np.column_stack([Y, 3 * X[:, 2]])[:, :n_outputs]
        net = MLP((3, 8, n_outputs), loss="mse", seed=0, dtype="float64")
        valid = (X[40:], y[40:], weight[40:]) if weighted else (X[40:], y[40:])
        history = net.fit(X[:40], y[:40], epochs=2, metrics=name, validation_data=valid)
        assert list(history.metrics) == [name]
        pairs = np.stack([net.predict(X[40:]), y[40:]], axis=-1)
        by_row = np.array(
            [[LOSSES[name].rule(*p)[0] for p in row] for row in pairs]
        ).mean(axis=1)
        expected = np.average(by_row, weights=weight[40:])
        assert history.metrics[name][-1] == pytest.approx(expected, rel=1e-12)
    if name == "mse":
        np.testing.assert_allclose(
            history.metrics["mse"], history.validation_loss, rtol=1e-12
        )


def test_weights_reach_functions_that_take_them() -> None:
    seen: list[Any] = []

    def plain(targets: Any, predictions: Any) -> float:
        seen.append((targets.shape, predictions.shape, predictions.flags.writeable))
        return 0.0

    net = regressor()
    valid = (X[40:], Y[40:], WEIGHTS[40:])
    metrics = {"r2": r2_score, "plain": plain}
    history = net.fit(X[:40], Y[:40], epochs=1, metrics=metrics, validation_data=valid)
    expected = r2_score(Y[40:], net.predict(X[40:])[:, 0], sample_weight=WEIGHTS[40:])
    assert history.metrics["r2"] == [pytest.approx(expected, rel=1e-12)]
    assert seen == [((20,), (20,), False)]


@pytest.mark.parametrize("one_hot", [False, True])
def test_three_classes(one_hot: bool) -> None:
    net = classifier()
    y = np.eye(3)[CLASSES] if one_hot else CLASSES
    scores = {
        "accuracy": "accuracy",
        "own": make_scorer(accuracy_score),
        "auc": "roc_auc_ovr",
    }
    history = net.fit(
        X[:40], y[:40], epochs=3, metrics=scores, validation_data=(X[40:], y[40:])
    )
    p = net.predict(X[40:])
    expected = accuracy_score(CLASSES[40:], p.argmax(axis=1))
    assert history.metrics["accuracy"][-1] == history.metrics["own"][-1] == expected
    assert history.metrics["auc"][-1] == auc(CLASSES[40:], p, multi_class="ovr")


def test_a_metric_is_given_a_column_for_each_class() -> None:
    history = classifier().fit(
        X[:40], CLASSES[:40], epochs=2, metrics={"log": log_loss}, **THREE_CLASSES
    )
    np.testing.assert_allclose(
        history.metrics["log"], history.validation_loss, rtol=1e-9
    )


def test_metrics_change_no_bit() -> None:
    nets = [regressor(dtype="float32") for _ in range(2)]
    plain = nets[0].fit(X[:40], Y[:40], epochs=5, **VALID)
    measured = nets[1].fit(X[:40], Y[:40], epochs=5, metrics=["mae", "r2"], **VALID)
    assert plain.loss == measured.loss
    assert plain.validation_loss == measured.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_one_prediction_an_epoch_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    call = Evaluation.__call__

    def count(self: Evaluation, parameters: Any, out: Any = None) -> float:
        rows.append(len(parameters))
        return call(self, parameters, out)

    monkeypatch.setattr(Evaluation, "__call__", count)
    net = regressor()
    metrics = {
        "r2": r2_score,
        "median": "neg_median_absolute_error",
        "mean": lambda y, p: p.mean(),
    }
    net.fit(X[:40], Y[:40], epochs=4, metrics=metrics, **VALID)
    assert rows == [net.parameters.size] * 4


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [
        (auc, "max", np.argmax),
        ("roc_auc", None, np.argmax),
        ("mae", None, np.argmin),
        ("mae", "max", np.argmax),
    ],
)
def test_a_metric_stops_a_fit(metric: Any, mode: Any, best: Any) -> None:
    net = binary(0.03)
    history = net.fit(
        X[:40],
        IS_POSITIVE[:40],
        epochs=2000,
        metrics={"it": metric},
        early_stopping=EarlyStopping("it", patience=4, mode=mode),
        **TWO_CLASSES,
    )
    assert history.status is Status.STOPPED_EARLY
    assert history.best_epoch == best(history.metrics["it"]) == len(history.loss) - 5
    if metric is auc:
        score = auc(IS_POSITIVE[40:], net.predict(X[40:])[:, 0])
        assert score == max(history.metrics["it"])


def test_many_nets_have_the_metrics_of_their_own_fits() -> None:
    nets, own = ([regressor(seed=k) for k in range(3)] for _ in range(2))
    settings: Any = {
        "epochs": 3,
        "metrics": {"r2": r2_score, "mae": "mae"},
        "validation_split": 0.3,
    }
    for net, history in zip(
        own, fit_many(nets, X, Y, n_threads=2, **settings), strict=True
    ):
        assert history.metrics == net.fit(X, Y, **settings).metrics


def test_the_bar_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    history = regressor().fit(
        X[:40], Y[:40], epochs=2, metrics="mae", progress=True, **VALID
    )
    text = capsys.readouterr().err
    assert f"mae={history.metrics['mae'][-1]:.4g}" in text
    assert f"validation_loss={history.validation_loss[-1]:.4g}" in text


LABELS = np.column_stack([IS_POSITIVE, X[:, 2] > 0]).astype(int)
# The targets, the loss, and the labels or numbers that a scorer compares with them.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "two classes": (IS_POSITIVE, "binary_cross_entropy", lambda p: p[:, 0] > 0.5),
    "classes": (CLASSES, "cross_entropy", lambda p: p.argmax(axis=1)),
    "labels": (LABELS, "binary_cross_entropy", lambda p: p > 0.5),
    "numbers": (Y, "mse", np.squeeze),
    "whole numbers": ((4 * Y).round(), "mse", np.squeeze),
    "rows of numbers": (X[:, :2] * X[:, 1:], "mse", np.squeeze),
}
SCORES: dict[str, tuple[Any, Any]] = {
    "accuracy": (accuracy_score, ("two classes", "classes", "labels")),
    "f1_macro": (
        partial(f1_score, average="macro"),
        ("two classes", "classes", "labels"),
    ),
    "roc_auc": (auc, ("two classes", "labels")),
    "neg_log_loss": (
        lambda y, p, **of_rows: -log_loss(y, p, **of_rows),
        ("two classes", "classes"),
    ),
    "r2": (r2_score, KINDS),
    "neg_max_error": (None, ()),
}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCORES)
def test_a_scorer_suits_the_targets_or_is_refused_before_training(
    name: str, kind: str
) -> None:
    (y, loss, compared), (function, suiting) = KINDS[kind], SCORES[name]
    net = MLP(
        (3, 8, 3 if kind == "classes" else y[0].size),
        loss=loss,
        seed=0,
        dtype="float64",
    )
    valid = X[40:], y[40:], WEIGHTS[40:]
    settings: Any = {
        "early_stopping": True,
        "validation_fraction": 0.4,
        "random_state": 0,
    }
    estimator = MLPRegressor if loss == "mse" else MLPClassifier
    model = estimator(hidden_layer_sizes=(4,), max_iter=2, metrics=name, **settings)
    doors: dict[str, Callable[[], Any]] = {
        "MLP": lambda: net.fit(
            X[:40], y[:40], epochs=2, metrics=name, validation_data=valid
        ),
        estimator.__name__: lambda: model.fit(X, y, sample_weight=WEIGHTS + 1),
    }
    if kind in suiting:
        scores = doors.pop("MLP")().metrics[name]
        p = net.predict(X[40:])
        if name in ("roc_auc", "neg_log_loss"):
            seen = np.squeeze(p)
        else:
            seen = compared(p)
        assert scores[-1] == pytest.approx(
            function(y[40:], seen, sample_weight=WEIGHTS[40:])
        )
        assert len(doors.popitem()[1]().history_.metrics[name]) == 2
    for who, fit in doors.items():
        with pytest.raises(
            ValueError, match=rf"^{who}.fit: metrics\['{name}'\] does not suit "
        ):
            fit()
    assert net.n_steps == 0 or kind in suiting


# --- errors ---


def test_an_error_in_a_metric_names_it() -> None:
    def wrong(targets: Any, predictions: Any) -> float:
        raise LookupError("mine")

    net = regressor()
    with pytest.raises(LookupError, match="mine") as caught:
        net.fit(X[:40], Y[:40], epochs=2, metrics={"it": wrong}, **VALID)
    assert caught.value.__notes__ == ["in metrics['it']"]
    assert np.isfinite(net.predict(X)).all()
    message = r"metrics\['it'\] must return a number, got an array of shape"
    with pytest.raises(TypeError, match=rf"{message} \(\d+,\)$"):
        net.fit(X[:40], Y[:40], metrics={"it": lambda y, p: np.abs(y - p)}, **VALID)
    with pytest.raises(
        TypeError, match=rf"{message} \((\d+), \1\); .* use predictions\[:, 0\]"
    ):
        net.fit(X[:40], Y[:40], metrics={"it": lambda y, p: y - p[:, None]}, **VALID)
    with pytest.raises(TypeError, match=r"must return a number, got None$"):
        net.fit(X[:40], Y[:40], metrics={"it": lambda y, p: None}, **VALID)


@pytest.mark.parametrize("metrics", ["mae", "r2"])
def test_a_net_of_several_outputs_for_a_target_asks_for_a_function(
    metrics: str,
) -> None:
    net = MLP((3, 4, 2), loss="gaussian_nll", seed=0)
    x = np.ones((20, 3))
    y = np.arange(20.0)
    with pytest.raises(
        ValueError, match="2 outputs for each column of the targets; give a func"
    ):
        net.fit(x, y, metrics=metrics, validation_split=0.5)
    of_mean = {"mean": lambda y, p: float(np.mean(abs(y[:, None] - p[:, ::2])))}
    history = net.fit(x, y, epochs=2, metrics=of_mean, validation_split=0.5)
    assert len(history.metrics["mean"]) == 2


def test_without_scikit_learn_losses_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert regressor().fit(X[:40], Y[:40], epochs=1, metrics="mae", **VALID).metrics
    with pytest.raises(
        ImportError, match=r"the metric 'accuracy' needs scikit-learn: pip install"
    ):
        regressor().fit(X[:40], Y[:40], metrics="accuracy", **VALID)
    known = "huber, log_cosh, mae, mse, quantile; any of scikit-learn's scorers needs scikit-learn"
    with pytest.raises(
        ValueError, match=f"unknown metric 'r2_score', .*'r2'.* known: {known}"
    ):
        regressor().fit(X[:40], Y[:40], metrics="r2_score", **VALID)


def test_an_unknown_metric_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'roc_auc'") as raised:
        regressor().fit(X[:40], Y[:40], metrics="auc", **VALID)
    assert {*OF_SCORERS} <= {*get_scorer_names()}
    assert len(str(raised.value)) < 350
    assert "completeness" not in str(raised.value)


def test_a_history_tells_its_best_epoch() -> None:
    history = History([3.0, 2.0], status=Status.STOPPED_EARLY, best_epoch=0)
    assert repr(history) == (
        "History(2 epochs, loss 3 to 2, best in epoch 1, STOPPED_EARLY, 0 s)"
    )


def parts(history: History, tag: str) -> list[Any]:
    return list(ElementTree.fromstring(history._repr_html_()).iter(tag))


def cells(history: History) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parts(history, "tr")]


SHOWN = History([4.0, 1.0, 2.0], [5.0, 3.0, 1.5], seconds=1.234, status=Status.STOPPED)


def test_a_history_in_a_notebook_has_first_best_and_last_losses() -> None:
    assert cells(SHOWN) == [
        ["loss", "first", "best", "in epoch", "last"],
        ["training", "4", "1", "2", "2"],
        ["validation", "5", "1.5", "3", "1.5"],
    ]


def test_a_history_in_a_notebook_tells_its_time_and_status() -> None:
    shown = " ".join(ElementTree.fromstring(SHOWN._repr_html_()).itertext())
    assert "History  3 epochs in 1.23 s; a callback asked to stop" in shown


def test_a_history_in_a_notebook_has_a_line_for_each_loss() -> None:
    solid, dashed = parts(SHOWN, "polyline")
    assert dashed.get("stroke-dasharray")
    assert not solid.get("stroke-dasharray")
    assert [len(line.get("points").split()) for line in (solid, dashed)] == [3, 3]


def test_a_history_in_a_notebook_has_no_colour_of_its_own() -> None:
    assert "background" not in SHOWN._repr_html_()


@pytest.mark.parametrize(
    ("loss", "validation", "n_rows", "n_points"),
    [
        ([], [], 0, []),
        ([1.0], [], 2, []),
        ([1.0, 1.0], [], 2, [2]),
        ([math.nan, math.inf], [], 2, []),
        ([2.0, -1.0, math.nan], [3.0, 2.0], 3, [2, 2]),
        ([1.0 / (1 + i) for i in range(100_000)], [], 2, [320]),
    ],
)
def test_any_history_is_shown(
    loss: list[float], validation: list[float], n_rows: int, n_points: list[int]
) -> None:
    history = History(loss, validation)
    assert len(cells(history)) == n_rows
    lines = [line.get("points").split() for line in parts(history, "polyline")]
    assert [len(points) for points in lines] == n_points
    assert all(
        0 <= float(x) <= 320 for points in lines for p in points for x in p.split(",")
    )


def test_a_frame_has_a_row_for_each_epoch() -> None:
    history = History([3.0, 2.0], [4.0, 3.0], [0.1, 0.05])
    frame = pd.DataFrame(
        {"epoch": [0, 1], "loss": [3.0, 2.0], "validation_loss": [4.0, 3.0]}
    ).assign(learning_rate=[0.1, 0.05])
    pd.testing.assert_frame_equal(history.to_frame(), frame)


def test_a_frame_has_a_column_for_each_metric_with_values() -> None:
    history = History([3.0, 2.0], [4.0, 3.0], metrics={"auc": [0.5, 0.75], "r2": []})
    frame = history.to_frame()
    assert list(frame.columns) == ["epoch", "loss", "validation_loss", "auc"]
    assert frame["auc"].tolist() == [0.5, 0.75]


def test_a_frame_without_epochs_is_empty() -> None:
    frame = History().to_frame()
    assert list(frame.columns) == ["epoch", "loss"]
    assert frame.shape == (0, 2)


def test_a_frame_has_gaps_where_a_series_is_shorter() -> None:
    cut = History([3.0, 2.0], [4.0]).to_frame()
    assert math.isnan(cut["validation_loss"][1])


def test_a_missing_pandas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        History([1.0]).to_frame()
