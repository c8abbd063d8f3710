"""Pictures: what is drawn, on which scale, and how a missing matplotlib is reported."""

import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest

from fastmlp import History
from fastmlp.plotting import plot_digits, plot_history

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure


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
