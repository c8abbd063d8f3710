"""Data that are not accepted: what is wrong with them, where, and what to do; the advice works."""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.preprocessing import OneHotEncoder

from fastmlp import MLP
from fastmlp.validation import hints

X, Y = np.ones((6, 3)), np.ones(6)
TABLE = {"a": [1.0, 2.0], "b": ["u", "v"]}
FRAME = pd.DataFrame(TABLE)


def test_the_advice_for_text_works() -> None:
    rows = pd.get_dummies(FRAME, dtype=float)
    assert MLP((3, 1)).predict(rows).shape == (2, 1)
    assert MLP((3, 1)).predict(pl.DataFrame(TABLE).to_dummies("b")).shape == (2, 1)
    codes = OneHotEncoder(sparse_output=False).fit_transform(FRAME[["b"]])
    assert MLP((2, 1)).predict(codes).shape == (2, 1)


@pytest.mark.parametrize("rows", [np.array([[1, 2], [3, 4]], object), [["1", "2"]]])
def test_the_advice_for_tables_of_several_kinds_works(rows: Any) -> None:
    assert MLP((2, 1)).predict(np.asarray(rows, float)).shape == (len(rows), 1)


@pytest.mark.parametrize("row", [np.ones(2), [1, 2]])
def test_the_advice_for_one_row_works(row: Any) -> None:
    assert MLP((2, 1)).predict(np.asarray(row).reshape(1, -1)).shape == (1, 1)


@pytest.mark.parametrize(
    "y", [[0, 10, 20] * 2, [-1, 1] * 3, ["no", "yes"] * 3, pd.Series(["no", "yes"] * 3)]
)
def test_the_advice_for_labels_works(y: Any) -> None:
    classes, numbers = np.unique(y, return_inverse=True)
    MLP((3, len(classes)), loss="cross_entropy").fit(X, numbers, epochs=1)


def test_columns_have_their_names() -> None:
    assert [hints.column_name(FRAME, j) for j in range(2)] == ["'a'", "'b'"]
    assert hints.column_name(pa.table(TABLE), 1) == "'b'"
    assert hints.column_name(X, 1) == "1"
