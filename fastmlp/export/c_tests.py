"""The tests in a C file: rows, a model's predictions of them, and a program that compares."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.export.c_rules import literal
from fastmlp.export.c_template import MAIN, TESTS
from fastmlp.validation import frames

Array = NDArray[Any]
# Of predictions without fused multiply-adds, or of a net in another precision: relative to 1 + |y|.
TOLERANCES: dict[Any, float] = {np.float32: 1e-5, np.float64: 1e-13}


def numbers(array: Array) -> str:
    """The numbers of an array in C, some to a line."""
    texts = [
        literal(number).strip("()") if number == number else "(double)NAN"
        for number in array.ravel()
    ]
    lines = [", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8)]
    return "".join(f"\n    {line}," for line in lines) + "\n"


def rows_for(n: int, n_features: int, data: Any, dtype: Any, who: str) -> Array:
    """The first n rows of an array or a table; without data, as many rows of normal numbers.

    Raises
    ------
    ValueError
        If the data have another shape, or are not finite.
    """
    if data is None:
        return np.random.default_rng(0).standard_normal((n, n_features)).astype(dtype)
    whole = (
        frames.numbers(data, np.dtype(dtype), who, "test_data") if frames.is_frame(data) else data
    )
    rows: Array = np.asarray(whole, dtype)[:n]
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ValueError(
            f"{who}: test_data must have shape (n_rows, {n_features}), got {np.shape(data)}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{who}: test_data must be finite")
    return rows


def predictions_of(model: Any, rows: Array) -> Array:
    """A model's predictions of rows, shape (n_rows, n_outputs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without names of columns
        predict = model.predict_proba if hasattr(model, "classes_") else model.predict
        # Twice: the members' mean of one row alone NumPy sums in another order.
        predictions: Array = predict(np.repeat(rows, 2, axis=0)).reshape(2 * len(rows), -1)[::2]
    return predictions


def tests_of(
    rows: Array, predictions: Array, scalar: Any, number: Any, *, exact: bool
) -> tuple[str, str]:
    """The self-test with its rows and predictions, and the program that runs it.

    `scalar` is the type of the nets' numbers, `number` that of rows and predictions. `exact`: with
    fused multiply-adds the numbers are the model's, to the bit. Rows are left out whose predictions
    are not finite.

    Raises
    ------
    ValueError
        If no row is left.
    """
    finite = np.isfinite(predictions).all(axis=1)
    if not finite.any():
        raise ValueError(
            "to_c: no prediction of the test rows is finite: give test_data, or tests=0"
        )
    rows, predictions = rows[finite], predictions[finite]
    loose = literal(number(TOLERANCES[scalar if exact else np.float32]))
    filled = {
        "@X": numbers(rows.astype(number)),
        "@Y": numbers(predictions.astype(number)),
        "@N": str(len(rows)),
        "@TOLERANCE": f"$FUSED{8 * scalar().itemsize} ? 0 : {loose}" if exact else loose,
        "@TINY": literal(number(np.finfo(scalar).tiny)),
    }
    test = replaced(TESTS, filled)
    if np.isnan(rows).any():
        test = test.replace("static const", "#include <math.h>\nstatic const", 1)
    return test, replaced(MAIN, filled)


def replaced(template: str, filled: dict[str, str]) -> str:
    """A template with its places filled."""
    for place, text in filled.items():
        template = template.replace(place, text)
    return template
