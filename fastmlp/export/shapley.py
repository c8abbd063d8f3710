"""Shapley values of the columns of a table, for models that have no derivatives.

The columns of a background row take the values of the row to explain, one by one. The
change of the prediction is the share of the column that changed. Each background row
draws one order of the columns, which is also taken in reverse.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation import Array

# Rows that are predicted at once.
ROWS_AT_ONCE = 1 << 16
# Least probability in a logarithm.
LEAST_PROBABILITY = 1e-300
Predict = Callable[[Any], NDArray[np.float64]]


def predictor(model: Any, raw: bool | None) -> Predict:
    """A function of a table's values: predictions, shape (n_rows, n_outputs).

    Without `raw=False` they are log odds of two classes, or logarithms of several
    probabilities.
    """

    def predict(values: Any) -> NDArray[np.float64]:
        outputs: NDArray[np.float64] = model._predicted(values)
        if outputs.ndim == 1:
            return outputs[:, None]
        if raw is False:
            return outputs
        logs = np.log(np.maximum(outputs, LEAST_PROBABILITY))
        return logs[:, 1:] - logs[:, :1] if outputs.shape[1] == 2 else logs

    return predict


def of_columns(
    predict: Predict, X: Any, background: Any, places: tuple[Array, Array], n: int
) -> NDArray[np.float64]:
    """Return the columns' shares, the mean of the background, (n_rows, n_outputs, n).

    Parameters
    ----------
    X, background : Values
    places : index among the n columns of each number and of each code
    """
    generator = np.random.default_rng(0)
    orders = np.array([generator.permutation(n) for _ in background.codes])
    orders = np.concatenate([orders, orders[:, ::-1]])
    ranks = np.argsort(orders, axis=1)
    rows = np.tile(np.arange(len(background.codes)), 2)
    height = max(1, min(len(X.codes), ROWS_AT_ONCE // (n + 1)))
    width = max(1, ROWS_AT_ONCE // ((n + 1) * height))
    shares = []
    for first in range(0, len(X.codes), height):
        part = X.part(slice(first, first + height))
        total: Any = 0.0
        for k in range(0, len(rows), width):
            others = background.part(rows[k : k + width])
            rank = ranks[k : k + width]
            changes = np.diff(_along(predict, part, others, places, rank), axis=1)
            total += np.take_along_axis(changes, rank[:, :, None, None], axis=1).sum(0)
        shares.append(total.transpose(1, 2, 0) / len(rows))
    return np.concatenate(shares)


def _along(
    predict: Predict, X: Any, background: Any, places: tuple[Array, Array], ranks: Array
) -> NDArray[np.float64]:
    """Predictions on the way from each background row to each row.

    The shape is (n_background, n_columns + 1, n_rows, n_outputs). After step k the
    columns of a rank below k are those of the row.
    """
    taken = ranks[:, None] < np.arange(ranks.shape[1] + 1)[:, None]
    mixed = [
        np.where(taken[:, :, None, of_kind], ours, theirs[:, None, None])
        for ours, theirs, of_kind in zip(X, background, places, strict=True)
    ]
    steps = mixed[0].shape[:3]
    flat = [each.reshape(-1, each.shape[-1]) for each in mixed]
    return predict(type(X)(*flat)).reshape(*steps, -1)
