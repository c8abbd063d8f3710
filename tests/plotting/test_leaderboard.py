"""Leaderboards: the best at the top, weights as dots, and the ensemble's score."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastmlp.plotting import plot_leaderboard

BOARD = pd.DataFrame(
    {
        "member": ["64x64 relu, piecewise linear", "trees", "x" * 90],
        "weight": [0.75, 0.25, 0.0],
        "validation_score": [-0.3, -0.4, -0.9],
        "best_epoch": [5.0, np.nan, 3.0],
    }
)
MODEL = SimpleNamespace(leaderboard_=BOARD, validation_score_=-0.25)


@pytest.mark.parametrize("board", [BOARD, BOARD.to_dict("records")], ids=["frame", "list"])
def test_members_by_their_score_and_weight(board: Any) -> None:
    ax = plot_leaderboard(SimpleNamespace(leaderboard_=board, validation_score_=-0.25))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["64x64 relu, piecewise linear", "trees", "x" * 60]
    dots: list[Any] = [one for one in ax.collections if len(np.asarray(one.get_offsets()))]
    assert [one.get_offsets()[0].tolist() for one in dots] == [[-0.3, 0], [-0.4, 1], [-0.9, 2]]
    assert dots[0].get_sizes()[0] > dots[1].get_sizes()[0] > dots[2].get_sizes()[0]
    assert not len(dots[2].get_facecolor())
    assert ax.get_title(loc="left") == "ensemble of 2 members: -0.25"
    low, high = ax.get_ylim()
    assert low > high


def test_the_last_step_of_a_pipeline_and_few_of_many() -> None:
    ax = plot_leaderboard(SimpleNamespace(steps=[("model", MODEL)]), most=1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["64x64 relu, piecewise linear"]
    assert "2 members" in ax.get_title(loc="left")


def test_axes_that_are_given_are_drawn_on() -> None:
    from matplotlib import pyplot as plt

    ax = plt.figure().subplots()
    assert plot_leaderboard(MODEL, ax) is ax
    plt.close("all")


def test_what_has_no_leaderboard() -> None:
    with pytest.raises(TypeError, match=r"must be a fitted TabularMLPClassifier or .* got int"):
        plot_leaderboard(3)
