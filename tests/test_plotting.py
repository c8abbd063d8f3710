"""Pictures of fits and searches: what is drawn,
on which scale, what the title says; errors.
"""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from sklearn import neural_network
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import (
    MLP,
    History,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Report,
    fit_many,
)
from fastmlp.plotting import TRAINING, VALIDATION, plot_history, plot_search

matplotlib.use("Agg")
from matplotlib import pyplot

ROWS = np.random.default_rng(0).normal(size=(60, 2))
BOTH = History(loss=[3.0, 1.0, 2.0], validation_loss=[4.0, 2.5, 2.0])
KEPT = History([3.0, 1.0, 2.0], [4.0, 2.5, 2.6], [0.3, 0.2, 0.1], best_epoch=1)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def curves(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def told(ax: Any) -> str:
    return str(ax.get_title(loc="left"))


def test_both_losses_are_drawn_from_epoch_1() -> None:
    ax: Any = plot_history(BOTH)
    assert curves(ax) == {TRAINING: BOTH.loss, VALIDATION: BOTH.validation_loss}
    assert list(ax.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert legend(ax) == [TRAINING, VALIDATION]
    assert told(ax) == "best validation loss 2 in epoch 3 of 3"
    assert told(plot_history(History(loss=[np.nan, 1.5, 1.5, np.inf]))).endswith(
        "epoch 2 of 4"
    )
    assert told(plot_history(History(loss=[np.nan]))) == ""
    assert plot_history(History(loss=[1.0])).get_lines()[0].get_marker() == "o"


def test_metrics_have_an_axis_on_the_right() -> None:
    ax = plot_history(
        History([3.0, 1.0], [4.0, 2.5], metrics={"auc": [0.5, 0.7], "f": [0.0, 1.0]})
    )
    right = ax.figure.axes[1]
    assert curves(right) == {"auc (right)": [0.5, 0.7], "f (right)": [0.0, 1.0]}
    assert right.get_ylabel() == "validation auc, f"
    assert legend(right) == [TRAINING, VALIDATION, "auc (right)", "f (right)"]


def test_rates_have_an_axis_on_the_right_of_metrics() -> None:
    both = History([3.0], [4.0], [0.1], metrics={"auc": [0.5]})
    first, second = plot_history(both, learning_rate=True).figure.axes[1:]
    assert curves(second) == {"learning rate (right)": [0.1]}
    assert first.spines["right"].get_position() != second.spines["right"].get_position()
    assert not plot_history(both.__class__([3.0], [4.0], [0.1])).figure.axes[1:]


def test_a_kept_epoch_has_a_circle_and_the_title() -> None:
    ax = plot_history(KEPT, learning_rate=True)
    circle: Any = ax.get_lines()[-1]
    assert circle.get_xydata().tolist() == [[2, 2.5]]
    assert told(ax) == "kept validation loss 2.5 in epoch 2 of 3"
    assert not any("_" in text for text in legend(ax.figure.axes[1]))


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        ([21.0, 1.0], "log"),
        ([19.0, 1.0], "linear"),
        ([21.0, 0.0], "linear"),
        ([], "linear"),
    ],
)
def test_the_scale_is_logarithmic_where_positive_losses_span_much(
    loss: Any, scale: str
) -> None:
    assert plot_history(History(loss=loss)).get_yscale() == scale


WORSE = History(loss=[3.0, 2.5])


def test_several_fits_have_their_places_as_names() -> None:
    assert list(curves(plot_history([WORSE, BOTH]))) == [
        "net 0",
        "net 1",
        "net 1, validation",
    ]


def test_the_best_of_several_fits_has_the_title() -> None:
    ax = plot_history({"a": WORSE, 3: History(loss=[2.0, 1.5])})
    assert list(curves(ax)) == ["a", "3"]
    assert told(ax) == "best: 3, training loss 1.5 in epoch 2 of 2"


def test_many_fits_have_no_legend() -> None:
    many: Any = plot_history([WORSE] * 11)
    assert len(many.get_lines()) == 11
    assert many.get_legend() is None


def test_a_second_call_adds_curves() -> None:
    ax = plot_history(BOTH, label="one", color="green")
    assert plot_history(History(loss=[60.0]), ax, label="other") is ax
    assert list(curves(ax)) == ["one", "one, validation", "other"]
    assert ax.get_lines()[1].get_color() == "green"
    assert ax.get_yscale() == "log"
    assert told(ax) == ""


@needs_compiler
@unconverged
def test_estimators_are_drawn() -> None:
    early = MLPClassifier((4,), early_stopping=True, max_iter=3, random_state=0)
    early.fit(ROWS, ROWS[:, 0] > 0)
    ax = plot_history(early)
    assert curves(ax)[TRAINING] == early.loss_curve_
    assert curves(ax.figure.axes[1])["accuracy (right)"] == early.validation_scores_


@unconverged
def test_estimators_of_scikit_learn_are_drawn() -> None:
    theirs = neural_network.MLPClassifier((4,), max_iter=3, random_state=0)
    theirs.fit(ROWS, ROWS[:, 0] > 0)
    assert curves(plot_history(theirs)) == {TRAINING: theirs.loss_curve_}


@needs_compiler
@unconverged
def test_searches_over_pipelines_are_drawn() -> None:
    pipe = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(3,), max_iter=2)
    )
    search = MLPSearchCV(pipe, {"mlpregressor__alpha": [0.1, 1.0]}, cv=2).fit(
        ROWS, ROWS[:, 0]
    )
    expected = search.best_estimator_[-1].loss_curve_
    assert curves(plot_history(search)) == {TRAINING: expected}
    picture = plot_search(search, parameter="mlpregressor__alpha")
    picture.figure.canvas.draw()
    assert picture.get_ylabel() == "R²"
    assert "mean and standard deviation of 2 folds" in legend(picture)


@needs_compiler
def test_many_nets_are_drawn() -> None:
    nets = [MLP((2, 3, 1), seed=seed) for seed in range(2)]
    histories = fit_many(nets, ROWS, ROWS[:, 0], epochs=2)
    assert list(curves(plot_history(histories))) == ["net 0", "net 1"]


@needs_compiler
def test_reports_are_drawn() -> None:
    reports: list[Report] = []
    history = MLP((2, 3, 1), seed=0).fit(
        ROWS, ROWS[:, 0], epochs=2, callbacks=reports.append
    )
    assert curves(plot_history(reports[-1])) == {TRAINING: history.loss}


def test_without_matplotlib_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plotting needs matplotlib: pip install"):
        plot_history(BOTH)


def search_of(params: list[dict[str, Any]], scores: Any, **more: Any) -> Any:
    results = {
        "params": params,
        "mean_test_score": scores,
        "std_test_score": np.zeros(len(scores)),
    }
    return SimpleNamespace(cv_results_=results, **more)


GRID: list[dict[str, Any]] = [
    {"a": a, "b": b, "c": c} for a in (1, 2, 3) for b in (0.1, 10) for c in ("x", "y")
]
WEIGHTS = {"x": 0, "y": 1}


def points(ax: Any) -> list[Any]:
    return list(map(tuple, ax.containers[0].lines[0].get_xydata().tolist()))


def test_a_search_is_drawn_by_the_parameter_that_matters_most() -> None:
    scores = np.array([each["a"] + 0.1 * WEIGHTS[each["c"]] for each in GRID])
    ax: Any = plot_search(search_of(GRID, scores))
    assert ax.get_xlabel() == "a"
    assert points(ax) == [
        (each["a"], score) for each, score in zip(GRID, scores, strict=True)
    ]
    assert told(ax) == "best: score 3.1 with a=3, b=0.1, c=y"
    (best,) = (line for line in ax.get_lines() if line.get_label() == "best")
    assert best.get_xydata().tolist() == [[3, 3.1]]
    other = plot_search(search_of(GRID, scores, best_index_=0), color="c")
    assert told(other).endswith("with a=1, b=0.1, c=x")
    assert {"c=x", "c=y"} < set(legend(other))
    plot_search(search_of(GRID, np.full(len(GRID), np.nan))).figure.canvas.draw()


def test_of_several_metrics_the_one_of_refit_lies_at_its_value() -> None:
    scores = np.arange(len(GRID))
    wide = plot_search(search_of(GRID, scores), parameter="b")
    assert (wide.get_xscale(), {x for x, _ in points(wide)}) == ("log", {0.1, 10})
    named = plot_search(search_of(GRID, scores), parameter="c")
    assert [text.get_text() for text in named.get_xticklabels()] == ["x", "y"]
    assert {x for x, _ in points(named)} == {0, 1}
    drawn = [{"p": p, "q": q} for p, q in np.random.default_rng(0).random((20, 2))]
    ax = plot_search(search_of(drawn, np.array([each["q"] for each in drawn])))
    assert ax.get_xlabel() == "q"
    assert ax.figure.axes[1].get_ylabel() == "p"
    results = {
        "params": [{"a": 1}, {"a": 2}],
        "mean_test_f1": [0.1, 0.2],
        "std_test_f1": [0, 0],
    }
    assert (
        plot_search(SimpleNamespace(cv_results_=results, refit="f1")).get_ylabel()
        == "f1"
    )
    with pytest.raises(ValueError, match="several metrics: set its refit"):
        plot_search(SimpleNamespace(cv_results_=results))
