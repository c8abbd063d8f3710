"""Pictures: what is drawn, on which scale, and how a missing matplotlib is reported."""

import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from fastmlp import History, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor, MLPSearchCV
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.plotting import plot_digits, plot_ensemble, plot_history, plot_search

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def curves(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def test_history_draws_both_losses_from_epoch_1() -> None:
    ax = plot_history(History(loss=[3.0, 2.0, 1.0], validation_loss=[4.0, 3.0, 2.0]))
    assert curves(ax) == {"training": [3.0, 2.0, 1.0], "validation": [4.0, 3.0, 2.0]}
    assert list(ax.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]


def test_history_without_validation_is_one_curve() -> None:
    assert list(curves(plot_history(History(loss=[1.0])))) == ["training"]


def test_a_single_epoch_is_seen() -> None:
    ax = plot_history(History(loss=[1.0], validation_loss=[1.1]))
    assert [line.get_marker() for line in ax.get_lines()] == ["o", "o"]
    assert ax.get_lines()[0].get_markerfacecolor() != ax.get_lines()[1].get_markerfacecolor()
    low, high = ax.get_xlim()
    assert [place for place in ax.get_xticks() if low <= place <= high] == [1]


def test_what_is_no_history_is_refused_without_a_figure() -> None:
    with pytest.raises(TypeError, match="history must be the History of one fit, got list"):
        plot_history([History(loss=[1.0])])
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


def test_axes_are_kept_and_curves_add_up() -> None:
    ax = Figure().subplots()
    for name in ("one", "two"):
        history = History(loss=[2.0, 1.0], validation_loss=[2.0, 1.5])
        assert plot_history(history, ax, label=name, color="green") is ax
    assert list(curves(ax)) == ["one", "one, validation", "two", "two, validation"]
    assert {line.get_color() for line in ax.get_lines()} == {"green"}
    assert not pyplot.get_fignums(), "no figure of pyplot's was made"


def test_digits_mark_what_was_misread() -> None:
    images = np.arange(3 * 64).reshape(3, 8, 8)
    axes = plot_digits(images, [1, 2, 3], [1, 7, 3])
    assert [ax.get_title() for ax in axes] == ["1", "7, not 2", "3"]
    for ax, image in zip(axes, images, strict=True):
        assert np.array_equal(ax.get_images()[0].get_array(), image)
    red, green, blue = to_rgb(axes[1].title.get_color())
    assert red > 2 * max(green, blue)
    assert len({to_rgb(ax.title.get_color()) for ax in axes}) == 2


def test_digits_take_axes() -> None:
    axes = Figure().subplots(1, 2)
    assert plot_digits(np.zeros((2, 8, 8)), [0, 1], [0, 1], axes) == list(axes)


def test_digits_of_differing_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be as many, got 2, 1, 2 and 2"):
        plot_digits(np.zeros((2, 8, 8)), [0], [0, 1])


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "fastmlp\[plot\]"'):
        plot_history(History(loss=[1.0]))


SCORES = {
    "mean_test_score": np.array([0.8, 0.9, 0.7]),
    "std_test_score": np.array([0.1, 0.2, 0.0]),
    "params": [
        {"alpha": 0.01, "sizes": (4,)},
        {"alpha": 1.0, "sizes": (8, 8)},
        {"alpha": 1, "sizes": (4,)},
    ],
}
SEARCH = SimpleNamespace(cv_results_=SCORES)


def points(ax: Any) -> list[tuple[float, float]]:
    line = ax.containers[0].lines[0]
    return list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


def test_search_draws_candidates_by_rank_and_marks_the_best() -> None:
    ax = plot_search(SEARCH)
    assert points(ax) == [(1, 0.9), (2, 0.8), (3, 0.7)]
    assert curves(ax)["best"] == [0.9]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("candidate, by rank", "score")
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.7, 1.1], [0.7, 0.9], [0.7, 0.7]])


def test_search_draws_numbers_at_their_place_and_other_values_one_by_one() -> None:
    ax = plot_search(SEARCH, parameter="alpha")
    assert points(ax) == [(1, 0.9), (0.01, 0.8), (1, 0.7)]
    assert ax.get_xscale() == "log"
    ax = plot_search(SEARCH, parameter="sizes")
    assert points(ax) == [(1, 0.9), (0, 0.8), (0, 0.7)]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["(4,)", "(8, 8)"]


def test_search_marks_what_the_search_took_for_the_best() -> None:
    search = SimpleNamespace(cv_results_=SCORES, best_index_=2)
    for parameter, place in ((None, 3), ("alpha", 1)):
        ax = plot_search(search, parameter=parameter)
        (best,) = (line for line in ax.get_lines() if line.get_label() == "best")
        assert best.get_xydata().tolist() == [[place, 0.7]]


def test_search_draws_candidates_that_have_the_parameter_and_numbers_of_numpy() -> None:
    drawn = [{"alpha": 1.0}, {"units": np.int64(64)}, {"units": np.int64(8)}]
    search = SimpleNamespace(cv_results_={**SCORES, "params": drawn})
    ax = plot_search(search, parameter="units")
    assert points(ax) == [(64, 0.9), (8, 0.7)]
    assert curves(ax)["best"] == [0.9]
    with pytest.raises(ValueError, match="there are alpha, units"):
        plot_search(search, parameter="beta")


def test_search_wants_a_fitted_one_and_a_known_parameter() -> None:
    with pytest.raises(ValueError, match="must be fitted"):
        plot_search(SimpleNamespace())
    with pytest.raises(
        ValueError, match="no parameter 'beta' was searched; there are alpha, sizes"
    ):
        plot_search(SEARCH, parameter="beta")


ROWS = np.random.default_rng(0).normal(size=(60, 2))
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
SEARCHES: list[dict[str, Any]] = [
    {"param_grid": {"alpha": [0.1, 1.0], "hidden_layer_sizes": [(3,), (4, 2)]}},
    {"param_distributions": {"alpha": [0.1, 1.0, 10.0]}, "n_iter": 2, "random_state": 0},
    {"param_grid": {"alpha": [0.1, 1.0, 10.0]}, "halving": True, "factor": 2, "random_state": 0},
    {"param_grid": {"alpha": [0.1, 1.0]}, "refit": False},
]


@needs_compiler
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("parameter", [None, "alpha"])
def test_a_search_that_was_fitted_is_drawn(options: dict[str, Any], parameter: Any) -> None:
    estimator = MLPRegressor(**SETTINGS, batch_size=10)
    search = MLPSearchCV(estimator, cv=2, **options).fit(ROWS, ROWS[:, 0])
    results = search.cv_results_
    ax = plot_search(search, parameter=parameter)
    ax.figure.canvas.draw()
    scores = [score for _, score in points(ax)]
    assert scores == sorted(results["mean_test_score"], reverse=True)
    assert curves(ax)["best"] == [results["mean_test_score"][search.best_index_]]
    if parameter:
        values = [candidate["alpha"] for candidate in results["params"]]
        assert sorted(place for place, _ in points(ax)) == sorted(values)


@needs_compiler
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    ("kind", "y"),
    [
        (MLPEnsembleRegressor, ROWS[:, 0]),
        (MLPEnsembleRegressor, ROWS),
        (MLPEnsembleClassifier, ROWS[:, 0] > 0),
        (MLPEnsembleClassifier, np.array(["a", "b", "c"])[np.digitize(ROWS[:, 0], [-0.5, 0.5])]),
        (MLPEnsembleClassifier, (ROWS > 0).astype(int)),
    ],
    ids=["one output", "outputs", "two classes", "three classes", "labels"],
)
def test_an_ensemble_that_was_fitted_is_drawn(kind: Any, y: Any) -> None:
    ensemble = kind(n_members=3, **SETTINGS).fit(ROWS, y)
    ax = plot_ensemble(ensemble, ROWS, 1, n_points=9)
    ax.figure.canvas.draw()
    classifies = kind is MLPEnsembleClassifier
    along = np.column_stack([np.full(9, ROWS[:, 0].mean()), ax.get_lines()[0].get_xdata()])
    mean = ensemble.predict_proba(along) if classifies else ensemble.predict(along)
    spread = ensemble.predict_std(along)
    mean, spread = (each if each.ndim == 1 else each[:, -1] for each in (mean, spread))
    np.testing.assert_allclose(curves(ax)["mean of the members"], mean)
    assert spread.min() > 0
    narrow = ax.collections[1].get_paths()[0].vertices
    upper = mean + spread if not classifies else np.minimum(mean + spread, 1)
    assert narrow[:, 1].max() == pytest.approx(upper.max())


class Line:
    """Predicts the first column, with a spread of the second."""

    def predict(self, X: Any) -> Any:
        return X[:, 0]

    def predict_std(self, X: Any) -> Any:
        return X[:, 1]


class Chances(Line):
    classes_ = ("no", "yes")

    def predict_proba(self, X: Any) -> Any:
        return np.column_stack([X[:, 0], 1 - X[:, 0]])

    def predict_std(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.75)


def test_ensemble_draws_mean_and_spread_beyond_the_rows() -> None:
    ax = plot_ensemble(Line(), np.array([[0.0, 2.0], [4.0, 4.0]]), n_points=7)
    assert curves(ax)["mean of the members"] == [-1, 0, 1, 2, 3, 4, 5]
    wide, narrow = (band.get_paths()[0].vertices[:, 1] for band in ax.collections)
    assert (wide.min(), wide.max(), narrow.max()) == (-7, 11, 8)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 0", "prediction")


def test_ensemble_draws_probabilities_of_a_class_between_0_and_1() -> None:
    ax = plot_ensemble(Chances(), np.array([[0.2], [0.6]]), n_points=3)
    np.testing.assert_allclose(curves(ax)["mean of the members"], [0.9, 0.6, 0.3])
    assert ax.get_ylabel() == "probability of class yes"
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0, 1)


def test_ensemble_of_named_features_says_the_name_and_does_not_warn() -> None:
    class Named(Line):
        feature_names_in_ = ("width", "height")

        def predict(self, X: Any) -> Any:
            warnings.warn("X does not have valid feature names, but", UserWarning, stacklevel=1)
            return X[:, 0]

    frame = pd.DataFrame({"width": [0.0, 4.0], "height": [2.0, 4.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot_ensemble(Named(), frame, 1)
    assert ax.get_xlabel() == "height"
