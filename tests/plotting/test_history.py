"""Losses: what is drawn, on which scale, what the title names, and what is refused."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from matplotlib import pyplot
from matplotlib.figure import Figure

from fastmlp import (
    MLP,
    History,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Report,
    fit_many,
)
from fastmlp.plotting import plot_history
from fastmlp.plotting.axes import log_ticks
from fastmlp.plotting.history import TRAINING, VALIDATION

ROWS = np.random.default_rng(0).normal(size=(60, 2))
BOTH = History(loss=[3.0, 1.0, 2.0], validation_loss=[4.0, 2.5, 2.0])


def curves(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def right_of(ax: Any) -> Any:
    return next(other for other in ax.figure.axes if other is not ax)


def told(ax: Any) -> str:
    return str(ax.get_title(loc="left"))


def test_history_draws_both_losses_from_epoch_1() -> None:
    ax: Any = plot_history(BOTH)
    assert curves(ax) == {TRAINING: [3.0, 1.0, 2.0], VALIDATION: [4.0, 2.5, 2.0]}
    assert list(ax.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert legend(ax) == ["training, mean during each epoch", "validation, at each epoch's end"]


def test_metrics_are_drawn_on_the_right() -> None:
    ax = plot_history(History([3.0, 1.0], [4.0, 2.5], metrics={"auc": [0.5, 0.7], "f": [0.0, 1.0]}))
    right = right_of(ax)
    names = ["validation auc (right)", "validation f (right)"]
    assert curves(right) == dict(zip(names, ([0.5, 0.7], [0.0, 1.0]), strict=True))
    assert right.get_ylabel() == "validation auc, f"
    assert legend(right)[2:] == names
    assert told(ax) == "best validation loss 2.5 in epoch 2 of 2"
    assert not plot_history([BOTH, History([1.0], metrics={"auc": [0.5]})]).figure.axes[1:]


def test_the_title_names_the_epoch_that_was_kept() -> None:
    ax = plot_history(History([3.0, 1.0, 2.0], [4.0, 2.5, 2.0], best_epoch=1))
    assert told(ax) == "kept validation loss 2.5 in epoch 2 of 3"


def test_a_circle_marks_the_epoch_that_was_kept() -> None:
    history = History([3.0, 1.0, 2.0], [4.0, 2.5, 2.0], best_epoch=1)
    lines: Any = plot_history(history).get_lines()
    circle = next(line for line in lines if line.get_label() == "_kept")
    assert (list(circle.get_xdata()), list(circle.get_ydata())) == ([2], [2.5])
    alone: Any = plot_history(History([3.0, 1.0], best_epoch=1)).get_lines()[-1]
    assert (list(alone.get_xdata()), list(alone.get_ydata())) == ([2], [1.0])
    assert all(line.get_label() != "_kept" for line in plot_history(BOTH).get_lines())


def test_the_learning_rate_has_an_axis_of_its_own() -> None:
    history = History([3.0, 1.0], [4.0, 2.5], [0.1, 0.01])
    ax = plot_history(history, learning_rate=True)
    right = right_of(ax)
    assert list(right.get_lines()[0].get_ydata()) == [0.1, 0.01]
    assert right.get_ylabel() == "learning rate"
    assert not plot_history(history).figure.axes[1:]
    both = plot_history(History([3.0], [4.0], [0.1], metrics={"auc": [0.5]}), learning_rate=True)
    names = [axes.get_ylabel() for axes in both.figure.axes]
    assert names == ["loss", "validation auc", "learning rate"]


def test_history_without_validation_is_one_curve() -> None:
    assert list(curves(plot_history(History(loss=[1.0])))) == [TRAINING]


def test_the_title_names_the_best_epoch() -> None:
    assert told(plot_history(BOTH)) == "best validation loss 2 in epoch 3 of 3"
    only = plot_history(History(loss=[np.nan, 1.5, 1.5, np.inf]))
    assert told(only) == "best training loss 1.5 in epoch 2 of 4"
    assert told(plot_history(History(loss=[np.nan]))) == ""
    assert told(plot_history(History())) == ""


def test_a_title_of_the_user_is_kept() -> None:
    ax = Figure().subplots()
    ax.set_title("mine", loc="left")
    assert told(plot_history(BOTH, ax)) == "mine"


def test_a_single_epoch_is_seen() -> None:
    ax = plot_history(History(loss=[1.0], validation_loss=[1.1]))
    assert [line.get_marker() for line in ax.get_lines()] == ["o", "o"]
    assert ax.get_lines()[0].get_markerfacecolor() != ax.get_lines()[1].get_markerfacecolor()
    low, high = ax.get_xlim()
    assert [place for place in ax.get_xticks() if low <= place <= high] == [1]


@pytest.mark.parametrize(
    ("given", "where", "got"),
    [
        (3, "history", "int"),
        ("loss", "history\\[0\\]", "str"),
        ([BOTH, [1.0]], "history\\[1\\]", "list"),
        ({"a": BOTH, "b": None}, "history\\['b'\\]", "NoneType"),
        (MLP((2, 1)), "history", "MLP: take what its fit returned"),
    ],
    ids=["number", "text", "list", "dict", "net"],
)
def test_what_has_no_history_is_refused_without_a_figure(given: Any, where: str, got: str) -> None:
    wanted = "a History, a Report, a fitted estimator, or a list or dict of them"
    with pytest.raises(TypeError, match=f"plot_history: {where} must be {wanted}, got {got}$"):
        plot_history(given)
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        ([2.0, 1.0], "linear"),
        ([2.0, 0.01], "log"),
        ([2.0, 0.0], "linear"),
        ([2.0, -1.0], "linear"),
        ([np.nan, np.nan], "linear"),
        ([np.inf, 2.0, 0.01], "log"),
        ([], "linear"),
    ],
)
def test_scale_follows_the_range(loss: list[float], scale: str) -> None:
    ax = plot_history(History(loss=loss))
    assert ax.get_yscale() == scale
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0012, 8.0, {"0.01", "0.1", "1"}),
        (700.0, 150_000.0, {"1000", "10000", "100000"}),
        (1e3, 1e7, {rf"$\mathdefault{{10^{{{p}}}}}$" for p in range(3, 8)}),
        (0.3, 9.0, {"0.5", "1", "2", "5"}),
        (3e-9, 9e-8, {r"$\mathdefault{10^{-8}}$", r"$\mathdefault{2\times10^{-8}}$"}),
    ],
)
def test_tick_labels_are_all_decimal_or_all_powers(
    low: float, high: float, labels: set[str]
) -> None:
    ax = plot_history(History(loss=[high, low]))
    ax.figure.canvas.draw()
    shown = {
        tick.label1.get_text()
        for tick in ax.yaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    }
    assert labels <= shown
    assert len({"$" in text for text in shown}) == 1
    assert not any("e+" in text for text in shown)


def test_axes_are_kept_and_curves_add_up() -> None:
    ax: Any = Figure().subplots()
    for name, last in (("one", 1.5), ("two", 1.25)):
        history = History(loss=[2.0, 1.0], validation_loss=[2.0, last])
        assert plot_history(history, ax, label=name, color="green") is ax
    assert list(curves(ax)) == ["one", "one, validation", "two", "two, validation"]
    assert {line.get_color() for line in ax.get_lines()} == {"green"}
    assert told(ax) == "best: two, validation loss 1.25 in epoch 2 of 2"
    assert legend(ax) == ["one", "two"]
    assert ax.get_legend().get_title().get_text() == f"solid: {TRAINING}\ndashed: {VALIDATION}"
    assert not pyplot.get_fignums(), "no figure of pyplot's was made"
    ax.clear()
    assert told(plot_history(BOTH, ax)) == "best validation loss 2 in epoch 3 of 3"


def test_a_list_and_a_dict_are_compared() -> None:
    worse = History(loss=[3.0, 2.0])
    assert list(curves(plot_history([worse, BOTH]))) == ["net 0", "net 1", "net 1, validation"]
    ax: Any = plot_history({"plain": worse, 3: History(loss=[2.0, 1.5])})
    assert curves(ax) == {"plain": [3.0, 2.0], "3": [2.0, 1.5]}
    assert told(ax) == "best: 3, training loss 1.5 in epoch 2 of 2"
    assert ax.get_legend().get_title().get_text() == TRAINING


def test_of_many_fits_the_best_is_in_colour() -> None:
    histories = [History([2.0, 1.0], [3.0, 2.0 + abs(i - 7)]) for i in range(30)]
    ax: Any = plot_history(histories)
    assert legend(ax) == ["29 others", "net 7"]
    assert told(ax) == "best: net 7, validation loss 2 in epoch 2 of 2"
    colors = [line.get_color() for line in ax.get_lines()]
    assert len(colors) == 31
    assert len(set(colors[:29])) == 1
    assert colors[29] == colors[30] != colors[0]
    assert list(ax.get_lines()[1].get_ydata()) == histories[1].validation_loss
    nothing = [History(loss=[np.nan])] * 12
    assert len(plot_history(nothing).get_lines()) == 12


def test_a_report_is_its_history_so_far() -> None:
    net: Any = None
    report = Report(0, 1.0, None, 0.1, net=net, history=BOTH)
    assert curves(plot_history(report)) == curves(plot_history(BOTH))


class Estimator(SimpleNamespace):
    """Has what scikit-learn's nets have after a fit."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}


def test_an_estimators_scores_have_an_axis_of_their_own() -> None:
    early = Estimator(loss_curve_=[2.0, 1.0], validation_scores_=[0.9, 0.8], scoring="f1")
    ax = plot_history(early)
    assert curves(ax) == {TRAINING: [2.0, 1.0]}
    right = right_of(ax)
    assert curves(right) == {"validation f1 (right)": [0.9, 0.8]}
    assert right.get_ylabel() == "validation f1"
    assert ax.get_legend() is None
    assert legend(right) == [TRAINING, "validation f1 (right)"]
    assert told(ax) == "best validation f1 0.9 in epoch 1 of 2"
    plot_history(early, ax, label="again")
    assert len(ax.figure.axes) == 2
    assert len(right.get_lines()) == 2


def test_each_subplot_has_an_axis_of_scores() -> None:
    early = Estimator(loss_curve_=[2.0, 1.0], validation_scores_=[0.9, 0.8])
    figure = Figure()
    for ax in figure.subplots(2, sharex=True):
        plot_history(early, ax)
    assert [len(ax.get_lines()) for ax in figure.axes] == [1, 1, 1, 1]


def test_scores_that_are_losses_are_not_drawn_twice() -> None:
    curve = {"validation_loss_curve_": [2.5, 1.5], "validation_scores_": [-2.5, -1.5]}
    ax = plot_history(Estimator(loss_curve_=[2.0, 1.0], scoring="loss", **curve))
    assert list(curves(ax)) == [TRAINING, VALIDATION]
    assert len(ax.figure.axes) == 1
    assert told(ax) == "best validation loss 1.5 in epoch 2 of 2"


@needs_compiler
@unconverged
def test_estimators_that_were_fitted_are_drawn() -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    settings: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}
    net = MLPClassifier(**settings, early_stopping=True).fit(ROWS, ROWS[:, 0] > 0)
    ax = plot_history(net)
    assert curves(ax) == {TRAINING: net.loss_curve_, VALIDATION: net.validation_loss_curve_}
    assert curves(right_of(ax)) == {"validation accuracy (right)": net.validation_scores_}
    assert told(ax).startswith(f"best validation accuracy {max(net.validation_scores_ or []):.4g}")
    pipe = make_pipeline(StandardScaler(), MLPRegressor(**settings)).fit(ROWS, ROWS[:, 0])
    assert curves(plot_history(pipe)) == {TRAINING: pipe[-1].loss_curve_}
    search = MLPSearchCV(pipe, {"mlpregressor__alpha": [0.1, 1.0]}, cv=2).fit(ROWS, ROWS[:, 0])
    assert curves(plot_history(search)) == {TRAINING: search.best_estimator_[-1].loss_curve_}


@needs_compiler
def test_the_histories_of_fit_many_are_drawn() -> None:
    nets = [MLP((2, 3, 1), seed=seed) for seed in range(3)]
    histories = fit_many(nets, ROWS, ROWS[:, 0], epochs=2)
    assert list(curves(plot_history(histories))) == ["net 0", "net 1", "net 2"]


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"plotting needs matplotlib: pip install matplotlib$"):
        plot_history(History(loss=[1.0]))


@pytest.mark.parametrize(("high", "marks"), [(1e-7, [1, 2, 5, 10]), (1e-6, [1, 10, 100])])
def test_two_decades_have_powers_alone(high: float, marks: list[float]) -> None:
    axis = Figure().subplots().yaxis
    log_ticks(axis, 1e-8, high)
    ticks = axis.get_major_locator().tick_values(1e-8, high)
    np.testing.assert_allclose([t / 1e-8 for t in ticks if 0.9e-8 < t < 1.1 * high], marks)
