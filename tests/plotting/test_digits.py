"""Digits: what is drawn, and what is marked."""

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastmlp.plotting import plot_digits


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
