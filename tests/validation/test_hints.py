"""Data that are not accepted: what is wrong with them, where, and what to do; the advice works."""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.preprocessing import OneHotEncoder

from fastmlp import MLP, MLPClassifier, fit_many
from fastmlp.validation import hints

X, Y = np.ones((6, 3)), np.ones(6)
TABLE = {"a": [1.0, 2.0], "b": ["u", "v"]}
FRAME = pd.DataFrame(TABLE)
PANDAS = r"encode it: pandas.get_dummies\(X, dtype=float\), or scikit-learn's OneHotEncoder$"
ENCODER = r"encode it: as scikit-learn's OneHotEncoder\(sparse_output=False\) does$"
MISSING = "fill missing values in, or leave their rows out$"
BINARY = "binary_cross_entropy"
CLASSES = r"classes, y = np.unique\(y, return_inverse=True\)$"
FLOATS = r"; try np.asarray\(X, float\)$"

# What is given for X by a net of two features, and the end of the message.
ROWS: dict[str, tuple[Any, str]] = {
    "text in pandas": (FRAME, rf"got dtype \w+: text, such as 'u' in column 'b'; {PANDAS}"),
    "categories": (FRAME.astype({"b": "category"}), f"such as 'u' in column 'b'; {PANDAS}"),
    "text in polars": (pl.DataFrame(TABLE), r"'u' in column 'b'; encode it: X.to_dummies\('b'\)$"),
    "text in arrow": (pa.table(TABLE), f"such as 'u' in column 'b'; {ENCODER}"),
    "text in lists": ([[1.0, "u"], [2.0, "v"]], f"such as 'u' in column 1; {ENCODER}"),
    "bytes": (np.array([[b"1", b"u"]]), f"such as b'u' in column 1; {ENCODER}"),
    "numbers as objects": (np.array([[1, 2], [3, 4]], object), FLOATS),
    "numbers as text": ([["1", "2"]], FLOATS),
    "NA": (
        pd.DataFrame({"a": [1, 2], "b": [1, None]}).convert_dtypes(),
        f"X has 1 missing value in column 'b'; {MISSING}",
    ),
    "None": ([[1, None], [1, 2]], f"got dtype object: a missing value in column 1; {MISSING}"),
    "NaN in a frame": (
        pd.DataFrame({"a": [1.0, 2], "b": [1, None]}),
        f"X has 1 missing value in column 'b'; {MISSING}",
    ),
    "dates in a frame": (
        FRAME.assign(b=pd.to_datetime(["2020", "2021"])),
        r"dates in column 'b'; \(X\['b'\] - X\['b'\].min\(\)\).dt.total_seconds\(\) / 86400 are "
        "days$",
    ),
    "numbers as text in a frame": (
        FRAME.assign(b=["1", "2"]),
        r"text, such as '1' in column 'b'; try pandas.to_numeric\(X\['b'\]\)$",
    ),
    "dates": (
        np.array([["2020", "2021"]], "M8[D]"),
        r"datetime64\[D\]; \(X - X.min\(\)\) / np.timedelta64\(1, 'D'\) are days$",
    ),
    "time spans": (np.array([[1, 2]], "m8[h]"), r"\[h\]; X / np.timedelta64\(1, 'D'\) are days$"),
    "lists as objects": (np.array([[1, [2]]], object), "a list in column 1; make numbers of it$"),
    "fields": (np.zeros(2, "f8,f8"), r"try np.lib.recfunctions.structured_to_unstructured\(X\)$"),
    "a file's name": ("data.csv", "X must be an array of real numbers, got str$"),
    "a generator": ((row for row in X), r"got generator; try np.array\(list\(X\)\)$"),
    "one row": (np.ones(2), r"got \(2,\); for one row use X.reshape\(1, -1\)$"),
    "one row, a list": ([1, 2], r"got \(2,\); for one row use np.asarray\(X\).reshape\(1, -1\)$"),
    "one dimension": (np.ones(4), r"X must have shape \(n_rows, n_features\), got \(4,\)$"),
    "a number": (3.0, r"got \(\)$"),
    "three dimensions": (
        np.ones((4, 5, 6)),
        r"\(4, 5, 6\); X.reshape\(len\(X\), -1\) has 30 features$",
    ),
    "columns as rows": (np.ones((2, 5)), r"5 features, .* is X transposed\? use X.T$"),
    "one feature": ([[1.0]], "X has 1 feature, but the net has 2 inputs$"),
    "beyond float32": (
        [[1, 1e300]],
        r"got 1e\+300 in row 0, column 1, beyond the largest number, 3.4e\+38; scale X, or use "
        "dtype='float64'$",
    ),
    "infinity": ([[1, -np.inf]], "got -inf in row 0, column 1$"),
}


@pytest.mark.parametrize("form", ROWS)
def test_rows(form: str) -> None:
    given, words = ROWS[form]
    with pytest.raises((TypeError, ValueError), match=f"^MLP.predict: .*{words}"):
        MLP((2, 1)).predict(given)


def test_rows_of_one_feature() -> None:
    net = MLP((1, 1))
    with pytest.raises(ValueError, match=r"got \(4,\); for one feature use X.reshape\(-1, 1\)$"):
        net.predict(np.ones(4))
    with pytest.raises(ValueError, match=r"got \(\); use \[\[X\]\]$"):
        net.predict(2.0)
    assert net.predict([[2.0]]).shape == (1, 1)


def labels(n: int, loss: str = "cross_entropy") -> Callable[[Any], Any]:
    return lambda y: MLP((3, n), loss=loss).fit(X, y, epochs=1)


# A fit on six rows, the targets given, and the end of the message.
TARGETS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "from 1": (
        labels(3),
        [1, 2, 3] * 2,
        "from 0 to 2, for a net of 3 outputs, got 3; they begin at 1: subtract 1$",
    ),
    "gaps": (labels(3), [0, 10, 20] * 2, f"got 20; number them from 0: {CLASSES}"),
    "negative": (labels(2), [-1, 1] * 3, f"got -1; number them from 0: {CLASSES}"),
    "too many": (
        labels(2),
        [0, 1, 2] * 2,
        "got 2; 3 classes need 3 outputs, the last of layer_sizes$",
    ),
    "floats": (labels(3), np.array([0.0, 1, 2] * 2), r"got dtype float64; use y.astype\(int\)$"),
    "floats, a list": (labels(3), [0.0, 1, 2] * 2, r"got dtype float64; use np.asarray\(y, int\)$"),
    "real": (
        labels(3),
        Y / 2,
        "got dtype float64; for targets that are no classes use loss='mse'$",
    ),
    "text": (
        labels(2),
        ["no", "yes"] * 3,
        f"got dtype <U3: text, such as 'no'; for class labels use {CLASSES}",
    ),
    "text in a series": (
        labels(1, "mse"),
        pd.Series(["no", "yes"] * 3),
        f"text, such as 'no'; .* {CLASSES}",
    ),
    "classes of mse": (
        labels(3, "mse"),
        [0, 1, 2] * 2,
        "y has 1 column, but the net has 3 outputs; for class labels use loss='cross_entropy'$",
    ),
    "numbers of mse": (labels(3, "mse"), Y, "y has 1 column, but the net has 3 outputs$"),
    "columns": (labels(1, "mse"), X, "y has 3 columns, but the net has 1 output$"),
    "1 and 2": (labels(1, BINARY), [1, 2] * 3, f"got 2.0; number two classes 0 and 1: {CLASSES}"),
    "-1 and 1": (labels(1, BINARY), [-1, 1] * 3, f"got -1.0; number two .* {CLASSES}"),
    "three classes": (
        labels(1, BINARY),
        [0, 1, 2] * 2,
        "got 2.0; for more than two classes use loss='cross_entropy' and an output for each$",
    ),
    "beyond 1": (labels(1, BINARY), [0, 0.5, 1.5] * 2, "for this loss, got 1.5$"),
    "rows": (labels(1, "mse"), [1.0], "X has 6 rows, but y has 1$"),
    "a row": (labels(1, "mse"), Y[None], "but y has 1; y is transposed: use y.T$"),
    "rows of two": (labels(2, "mse"), X[:, :2].T, "but y has 2; y is transposed: use y.T$"),
    "a name": (labels(1, "mse"), "sold", "got 'sold'; for a column of X give target='sold' in"),
}


@pytest.mark.parametrize("form", TARGETS)
def test_targets(form: str) -> None:
    fit, y, words = TARGETS[form]
    with pytest.raises((TypeError, ValueError), match=f"^MLP.fit: .*{words}"):
        fit(y)


@pytest.mark.parametrize("fit", [partial(fit_many, [MLP((3, 1))]), MLPClassifier().fit])
def test_the_name_of_a_column_in_the_place_of_targets(fit: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"for a column of X give target='sold' in its place$"):
        fit(X, "sold")


def test_validation_data_that_are_a_fraction() -> None:
    with pytest.raises(TypeError, match=r"got float; use validation_split=0.2$"):
        MLP((3, 1)).fit(X, Y, validation_data=0.2)


def test_the_advice_for_text_works() -> None:
    rows = pd.get_dummies(FRAME, dtype=float)
    assert MLP((3, 1)).predict(rows).shape == (2, 1)
    assert MLP((3, 1)).predict(pl.DataFrame(TABLE).to_dummies("b")).shape == (2, 1)
    codes = OneHotEncoder(sparse_output=False).fit_transform(FRAME[["b"]])
    assert MLP((2, 1)).predict(codes).shape == (2, 1)


@pytest.mark.parametrize("form", [form for form in ROWS if ROWS[form][1] == FLOATS])
def test_the_advice_for_tables_of_several_kinds_works(form: str) -> None:
    rows = ROWS[form][0]
    assert MLP((2, 1)).predict(np.asarray(rows, float)).shape == (len(rows), 1)


@pytest.mark.parametrize("form", ["one row", "one row, a list"])
def test_the_advice_for_one_row_works(form: str) -> None:
    assert MLP((2, 1)).predict(np.asarray(ROWS[form][0]).reshape(1, -1)).shape == (1, 1)


@pytest.mark.parametrize("form", ["gaps", "negative", "text", "text in a series"])
def test_the_advice_for_labels_works(form: str) -> None:
    _, y, _ = TARGETS[form]
    classes, numbers = np.unique(y, return_inverse=True)
    labels(len(classes))(numbers)


def test_columns_have_their_names() -> None:
    assert [hints.column_name(FRAME, j) for j in range(2)] == ["'a'", "'b'"]
    assert hints.column_name(pa.table(TABLE), 1) == "'b'"
    assert hints.column_name(X, 1) == "1"
