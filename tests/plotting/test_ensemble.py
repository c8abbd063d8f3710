"""Ensembles: mean, spread and rows, features by name, pipelines; digits, and their marks."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitting import needs_compiler, unconverged
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastmlp import MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor
from fastmlp.plotting import plot_digits, plot_ensemble

ROWS = np.random.default_rng(0).normal(size=(60, 2))
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}


def curves(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


@needs_compiler
@unconverged
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
    ax: Any = plot_ensemble(ensemble, ROWS, 1, n_points=9)
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
    """Predicts the first column, with a spread of the last."""

    def predict(self, X: Any) -> Any:
        return X[:, 0]

    def predict_std(self, X: Any) -> Any:
        return X[:, -1]


class Chances(Line):
    classes_ = ("no", "yes")

    def predict_proba(self, X: Any) -> Any:
        return np.column_stack([X[:, 0], 1 - X[:, 0]])

    def predict_std(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.75)


def test_ensemble_draws_mean_and_spread_beyond_the_rows() -> None:
    ax: Any = plot_ensemble(Line(), np.array([[0.0, 2.0], [4.0, 4.0]]), n_points=7)
    assert curves(ax)["mean of the members"] == [-1, 0, 1, 2, 3, 4, 5]
    wide, narrow = (band.get_paths()[0].vertices[:, 1] for band in ax.collections)
    assert (wide.min(), wide.max(), narrow.max()) == (-7, 11, 8)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 0", "prediction")
    assert ax.get_legend().get_title().get_text() == "other features at their means"


def test_the_legend_says_what_the_spread_is_not() -> None:
    ax: Any = plot_ensemble(Line(), np.array([[0.0], [4.0]]), ax=Figure().subplots(), n_points=3)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "mean of the members",
        "spread of the members (± 2 sd), no prediction interval",
        "spread of the members (± 1 sd)",
        "rows",
    ]
    assert not ax.get_legend().get_title().get_text()


def test_ensemble_draws_probabilities_of_a_class_between_0_and_1() -> None:
    ax: Any = plot_ensemble(Chances(), np.array([[0.2], [0.6]]), n_points=3)
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


FRAME = {"age": [0.0, 4.0, 2.0], "bmi": [10.0, 30.0, 20.0]}


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_a_feature_may_be_given_by_name(kind: Any) -> None:
    ax: Any = plot_ensemble(Line(), kind(FRAME), "bmi", n_points=3)
    assert ax.get_xlabel() == "bmi"
    assert list(ax.get_lines()[0].get_xdata()) == [5, 20, 35]
    assert curves(ax)["mean of the members"] == [2, 2, 2]
    assert plot_ensemble(Line(), kind(FRAME), -1).get_xlabel() == "bmi"


@pytest.mark.parametrize(
    ("feature", "error", "message"),
    [
        ("bim", ValueError, "no feature has the name 'bim'; they are age, bmi$"),
        (2, ValueError, "feature must be from 0 to 1, got 2"),
        (-3, ValueError, "feature must be from 0 to 1, got -3"),
        (np.zeros(3), TypeError, "column of X, got ndarray; the targets are y=..."),
        (True, TypeError, "the number or the name of a column of X, got bool$"),
        (1.0, TypeError, "the number or the name of a column of X, got float$"),
    ],
    ids=str,
)
def test_what_is_no_feature_is_refused(feature: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"plot_ensemble: .*{message}"):
        plot_ensemble(Line(), pd.DataFrame(FRAME), feature)
    assert not pyplot.get_fignums()


def test_what_is_no_table_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="X has no names: give the column's number"):
        plot_ensemble(Line(), ROWS, "bmi")
    with pytest.raises(
        ValueError, match=r"X must have shape \(n_samples, n_features\), got \(60,\)"
    ):
        plot_ensemble(Line(), ROWS[:, 0])
    many = pd.DataFrame(np.zeros((2, 30)), columns=[f"x{i}" for i in range(30)])
    with pytest.raises(ValueError, match=r"they are x0, x1, .*, x19, \.\.\.$"):
        plot_ensemble(Line(), many, "y")
    with pytest.raises(TypeError, match="or a Pipeline that ends in one, got MLPRegressor"):
        plot_ensemble(MLPRegressor(), ROWS)
    for y in (np.zeros(59), np.zeros((60, 1, 1)), 3.0):
        with pytest.raises(ValueError, match=r"y must have the 60 rows of X, got shape \("):
            plot_ensemble(Line(), ROWS, y=y)


def test_targets_are_points_instead_of_marks() -> None:
    ax: Any = plot_ensemble(Line(), ROWS, y=ROWS[:, 1])
    assert curves(ax)["y of the rows"] == ROWS[:, 1].tolist()
    assert list(ax.get_lines()[1].get_xdata()) == ROWS[:, 0].tolist()
    assert "rows" not in curves(ax)
    of_two = plot_ensemble(Line(), ROWS, y=ROWS, label=0)
    assert curves(of_two)["y of the rows"] == ROWS[:, 0].tolist()
    labels = plot_ensemble(Chances(), np.array([[0.2], [0.6]]), y=["yes", "no"])
    assert curves(labels)["y of the rows"] == [1, 0]
    many = np.zeros((10_001, 1))
    assert len(curves(plot_ensemble(Line(), many, y=many))["y of the rows"]) <= 2000


@needs_compiler
@unconverged
def test_a_pipeline_around_an_ensemble_is_drawn() -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    ensemble = MLPEnsembleRegressor(n_members=2, **SETTINGS)
    pipe = make_pipeline("passthrough", StandardScaler(), ensemble).fit(ROWS, ROWS[:, 0])
    ax = plot_ensemble(pipe, ROWS, 1, n_points=5)
    along = np.column_stack([np.full(5, ROWS[:, 0].mean()), ax.get_lines()[0].get_xdata()])
    np.testing.assert_allclose(curves(ax)["mean of the members"], pipe.predict(along))
    towns = np.where(np.arange(60) % 3, "a", "b")
    frame = pd.DataFrame(ROWS, columns=["age", "bmi"]).assign(town=towns, old=ROWS[:, 0] > 1)
    columns = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    pipe = make_pipeline(columns, ensemble).fit(frame, ROWS[:, 0])
    ax = plot_ensemble(pipe, frame, "bmi", n_points=5, y=ROWS[:, 0])
    assert ax.get_xlabel() == "bmi"
    held = pd.DataFrame({"age": ROWS[:, 0].mean(), "bmi": ax.get_lines()[0].get_xdata()})
    expected = pipe.predict(held.assign(town="a", old=False))
    np.testing.assert_allclose(curves(ax)["mean of the members"], expected)
    with pytest.raises(ValueError, match="the column 'town' has no numbers"):
        plot_ensemble(pipe, frame, "town")


def test_digits_mark_what_was_misread() -> None:
    images = np.arange(3 * 64).reshape(3, 8, 8)
    axes: Any = plot_digits(images, [1, 2, 3], [1, 7, 3])
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
