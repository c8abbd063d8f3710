"""Expanded rows: what they are made of, and what is no such row."""

import re
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.tabular import Expanded
from fastmlp.validation.expanded import rows as rows_of

VALUES = np.array([[7.0, 1.25, 2], [8, 3, 0], [9, -1, 1]])
ROWS = Expanded(VALUES, plain=1, pieces=[3], levels=[3])


def test_values_are_not_copied() -> None:
    assert ROWS.values is VALUES
    assert ROWS.astype(np.dtype("float64")) is ROWS
    assert ROWS.astype(np.dtype("float32")).dtype == np.float32
    assert Expanded([[1]], pieces=[2]).dtype == np.float64


def test_rows_are_chosen() -> None:
    assert (len(ROWS), ROWS.shape) == (3, (3, 7))
    assert np.array_equal(ROWS[1:].toarray(), ROWS.toarray()[1:])
    assert ROWS[[0]].kind == ROWS.kind == (1, (3,), (3,))
    assert ROWS.starts == (1, 4, 7)


def test_its_text_tells_the_columns() -> None:
    assert repr(ROWS) == "Expanded(3 rows: 1 plain, 1 of pieces, 1 of levels; 7 inputs)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"plain": -1}, "Expanded: plain must be an integer of 0 or more, got -1"),
        ({"pieces": [0]}, "Expanded: pieces[0] must be an integer of 1 or more, got 0"),
        ({"pieces": [3, 129]}, "Expanded: a column has at most 128 pieces, got 129"),
        ({"levels": [1.5]}, "Expanded: levels[0] must be"),
        ({"plain": 1, "levels": [3]}, "Expanded: values have 3 columns, not 2: 1 plain"),
        (
            {"plain": 2, "levels": [2]},
            "Expanded: column 2 must hold levels from -1 to 1, got 2.0 in row 0",
        ),
        ({"levels": [10, 2, 3]}, "Expanded: column 0 must hold levels from -1 to 9, got"),
    ],
    ids=str,
)
def test_columns_that_do_not_fit(arguments: dict[str, Any], words: str) -> None:
    values = VALUES if "levels" not in arguments or len(arguments["levels"]) < 3 else VALUES + 0.5
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        Expanded(values, **arguments)


def test_counts_are_a_sequence() -> None:
    with pytest.raises(TypeError, match="pieces must be a sequence of int, got 3"):
        Expanded(VALUES, pieces=3)  # type: ignore[arg-type]


def test_values_are_finite() -> None:
    with pytest.raises(ValueError, match="Expanded: values: X must be finite"):
        Expanded([[np.nan]], pieces=[2])


def test_a_net_has_as_many_inputs() -> None:
    kind = np.dtype("float32")
    assert rows_of(ROWS, 7, kind, "who").dtype == kind
    with pytest.raises(ValueError, match="who: X stands for 7 inputs, but the net has 6 inputs"):
        rows_of(ROWS, 6, kind, "who")
    with pytest.raises(ValueError, match="who: X has no rows"):
        rows_of(ROWS[:0], 7, kind, "who")
    with pytest.raises(ValueError, match=r"MLP\.fit: X stands for 7 inputs"):
        MLP((6, 1)).fit(ROWS, [1.0, 2.0, 3.0])


def test_numpy_takes_them_as_their_inputs() -> None:
    assert np.array_equal(np.asarray(ROWS), ROWS.toarray())
    assert np.asarray(ROWS, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy=False cannot be had"):
        ROWS.__array__(copy=False)


def test_they_are_no_targets() -> None:
    with pytest.raises(TypeError, match=r"y is expanded; use y\.toarray\(\)"):
        MLP((7, 7)).fit(ROWS, ROWS)
