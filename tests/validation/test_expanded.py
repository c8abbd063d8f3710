"""Expanded rows: what they are made of, and what is no such row."""

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
