"""The column of X that `plot_ensemble` shows: its index, or its name in a data frame."""

from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from fastmlp.plotting import plot_ensemble

matplotlib.use("Agg")
from matplotlib import pyplot

FRAME = pd.DataFrame({"width": [0.0, 4.0], "height": [1.0, 3.0]})


def test_a_name_and_an_index_show_the_same() -> None:
    ensemble = SimpleNamespace(predict=lambda X: X[:, 1], predict_std=lambda X: 0 * X[:, 1])
    axes = [plot_ensemble(ensemble, FRAME, feature) for feature in ("height", 1, -1, np.int64(1))]
    along = [np.asarray(ax.get_lines()[0].get_xdata()) for ax in axes]
    assert (along[0][0], along[0][-1]) == (0.5, 3.5)
    assert all(np.array_equal(along[0], other) for other in along)
    pyplot.close("all")


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ("widht", "plot_ensemble: unknown feature 'widht', did you mean 'width'. known: height"),
        (np.ones(2), "feature must be the index of a column of X, or its name in .* got array"),
        (True, "feature must be the index of a column of X, .* got True"),
        (1.5, "feature must be the index of a column of X, .* got 1.5"),
        (2, "plot_ensemble: feature must be from 0 to 1, got 2"),
        (-3, "plot_ensemble: feature must be from 0 to 1, got -3"),
    ],
)
def test_a_feature_that_is_not_there(feature: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        plot_ensemble(SimpleNamespace(), FRAME, feature)


def test_columns_of_an_array_have_no_names() -> None:
    with pytest.raises(TypeError, match="its name in a data frame, got 'bmi'"):
        plot_ensemble(SimpleNamespace(), np.ones((3, 2)), "bmi")
