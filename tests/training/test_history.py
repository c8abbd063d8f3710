"""What a history shows in a notebook, and its data frame."""

import math
import sys
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from fastmlp import History, Status


def parts(history: History, tag: str) -> list[Any]:
    return list(ElementTree.fromstring(history._repr_html_()).iter(tag))


def cells(history: History) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parts(history, "tr")]


def test_a_history_in_a_notebook_has_first_best_and_last_losses() -> None:
    history = History([4.0, 1.0, 2.0], [5.0, 3.0, 1.5], seconds=1.234, status=Status.STOPPED)
    assert cells(history) == [
        ["loss", "first", "best", "in epoch", "last"],
        ["training", "4", "1", "2", "2"],
        ["validation", "5", "1.5", "3", "1.5"],
    ]
    shown = " ".join(ElementTree.fromstring(history._repr_html_()).itertext())
    assert "History  3 epochs in 1.23 s; a callback asked to stop" in shown
    solid, dashed = parts(history, "polyline")
    assert dashed.get("stroke-dasharray")
    assert not solid.get("stroke-dasharray")
    assert [len(line.get("points").split()) for line in (solid, dashed)] == [3, 3]
    assert "background" not in history._repr_html_()


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
    assert all(0 <= float(x) <= 320 for points in lines for p in points for x in p.split(","))


def test_a_frame_has_a_row_an_epoch() -> None:
    history = History([3.0, 2.0], [4.0, 3.0], [0.1, 0.05])
    frame = pd.DataFrame(
        {"epoch": [1, 2], "loss": [3.0, 2.0], "validation_loss": [4.0, 3.0]}
    ).assign(learning_rate=[0.1, 0.05])
    pd.testing.assert_frame_equal(history.to_frame(), frame)


def test_a_frame_has_the_metrics() -> None:
    history = History([3.0, 2.0], [4.0, 3.0], metrics={"auc": [0.5, 0.75], "r2": []})
    assert list(history.to_frame().columns) == ["epoch", "loss", "validation_loss", "auc"]
    assert history.to_frame()["auc"].tolist() == [0.5, 0.75]


def test_its_repr_names_the_best_epoch() -> None:
    history = History([3.0, 2.0], status=Status.STOPPED_EARLY, best_epoch=0)
    assert repr(history) == ("History(2 epochs, loss 3 to 2, best_epoch 0, STOPPED_EARLY, 0 s)")


def test_a_frame_has_the_columns_that_the_history_has() -> None:
    assert list(History().to_frame().columns) == ["epoch", "loss"]
    assert History().to_frame().shape == (0, 2)
    cut = History([3.0, 2.0], [4.0]).to_frame()
    assert math.isnan(cut["validation_loss"][1])


def test_a_missing_pandas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        History([1.0]).to_frame()
