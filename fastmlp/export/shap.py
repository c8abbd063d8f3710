"""Attributions of predictions to columns: integrated gradients, averaged over background rows."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._process import warn
from fastmlp.export.derivatives import (
    ModelDerivatives,
    NetDerivatives,
    Term,
    as_they_are,
    complemented,
    model_derivatives,
    rows_of,
)
from fastmlp.export.models import is_of_tables, parts_of
from fastmlp.validation import arrays, scalars
from fastmlp.validation.calls import explained

Array = NDArray[Any]
WHO = "fastmlp.shap_values"
# Maximum number of background rows.
MOST_ROWS = 1000
# Numbers of a block of points, or of derivatives, that stay in the caches.
BLOCK = 1 << 18
# Share of the values' spread above which a gap is warned of.
LARGE_GAP = 0.05


class Attribution(NamedTuple):
    """Predictions as a base and the shares of columns, float64.

    Attributes
    ----------
    values : (n_rows, n_features) array, or (n_rows, n_outputs, n_features) for several outputs
        Their sum is the prediction minus `base`.
    base : float, or (n_outputs,) array
        The mean prediction of the background.
    gap : (n_rows,) array, or (n_rows, n_outputs)
        Error of the integrals' sum, which is shared among the values.
    """

    values: NDArray[np.float64]
    base: Any
    gap: NDArray[np.float64]


@explained
def shap_values(
    model: Any,
    X: ArrayLike,
    background: ArrayLike,
    *,
    n_steps: int = 16,
    raw: bool | None = None,
) -> Attribution:
    """Attribute predictions to columns: each row's difference from a background.

    Integrated gradients (Sundararajan, Taly & Yan, 2017, "Axiomatic attribution for deep networks")
    along straight lines from each background row, averaged, by Gauss-Legendre quadrature:
    Aumann-Shapley values, close to Shapley values for smooth nets. Results are deterministic.

    Models of tables are attributed to columns, including categories, missing values and dates:
    lines go through the nets' encoded inputs.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
    X : (n_rows, n_features) array of real numbers, or a frame; for a model of tables, a table
    background : rows like those of X
        Rows that represent the data, such as 100 of training. At most 1,000 rows are used, evenly
        picked.
    n_steps : int of 1 or more, default 16
        Points of each line. The time is n_rows x n_background x n_steps gradients.
    raw : bool, optional
        Attribute raw outputs, before the output activation or link, such as log odds. For a model
        of tables: the log odds of two classes, or logarithms of several probabilities. None: True
        for classifiers.

    Returns
    -------
    Attribution
        `values`, `base` and `gap`; ``base + values.sum(axis=-1)`` is the prediction.

    Raises
    ------
    TypeError, ValueError
        If the model has another class or is not fitted, or rows have a wrong type, shape or value.
    NotImplementedError
        If a model of tables has members that are not nets.

    Warns
    -----
    RuntimeWarning
        If the gap is above 5 % of the values' spread: more steps are needed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, shap_values
    >>> net = MLP((2, 1), initializer="zeros", dtype="float64")
    >>> net.weights[0] = [[3], [4]]
    >>> attribution = shap_values(net, [[2.0, 1.0]], background=[[0.0, 0.0], [2.0, 0.0]])
    >>> attribution.values, attribution.base
    (array([[3., 4.]]), 3.0)
    """
    scalars.positive_integer(WHO, "n_steps", n_steps)
    if raw is not None:
        scalars.boolean(WHO, "raw", raw)
    if is_of_tables(model):
        table = _Table(model, raw)
        derivatives, x, rows = table.derivatives, table.encoded(X), table.encoded(background)
    else:
        derivatives = _of_rows(model, raw)
        n_features, dtype = derivatives.n_features, derivatives.dtype
        x = rows_of(model, X, n_features, dtype, WHO)
        rows = rows_of(model, background, n_features, dtype, f"{WHO}: background")
    if len(rows) > MOST_ROWS:
        warn(f"{WHO}: {MOST_ROWS} of {len(rows)} rows of background are used", RuntimeWarning)
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(np.intp)]
    values = _integrals(derivatives, x, rows, n_steps)
    base = derivatives.values(rows).mean(axis=0)
    gap = derivatives.values(x) - base - values.sum(axis=2)
    distances = np.array([np.abs(rows - row, dtype=np.float64).mean(axis=0) for row in x])
    distances = distances if derivatives.sums is None else distances @ derivatives.sums
    _share(values, gap, distances)
    arrays.warn_if_not_finite(values, WHO)
    if derivatives.n_outputs == 1:
        return Attribution(values[:, 0], float(base[0]), gap[:, 0])
    return Attribution(values, base, gap)


def _of_rows(model: Any, raw: bool | None) -> ModelDerivatives:
    parts = parts_of(model, WHO)
    if raw is None:
        raw = NetDerivatives(parts.net, raw=False).link in ("sigmoid", "softmax")
    return model_derivatives(parts, raw)


def _integrals(derivatives: ModelDerivatives, x: Array, rows: Array, n_steps: int) -> Array:
    """Each column's part of a line integral, averaged over background rows.

    Shape (n_rows, n_outputs, n_columns), float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    dtype, n_outputs, n_features = derivatives.dtype, derivatives.n_outputs, x.shape[1]
    times, weights = ((nodes + 1) / 2).astype(dtype)[:, None, None, None], weights / 2
    most = max(1, BLOCK // (n_steps * n_outputs * n_features))
    width = min(most, len(rows))
    height = min(max(1, most // width), len(x))
    points = np.empty((n_steps * height * width, n_features), dtype)
    buffer = np.empty(points.size * max(n_outputs, 2), dtype)
    result = np.zeros((len(x), n_outputs, derivatives.n_columns))
    for i in range(0, len(x), height):
        for k in range(0, len(rows), width):
            some, ends = rows[k : k + width], x[i : i + height, None]
            lines = ends - some
            n = n_steps * len(ends) * len(some)
            between = points[:n].reshape(n_steps, *lines.shape)
            np.multiply(times, lines, out=between)
            between += some
            parts = derivatives.along(points[:n], lines.reshape(-1, n_features), buffer)
            means = weights.astype(parts.dtype) @ parts.reshape(n_steps, -1)
            of_pairs = means.reshape(*lines.shape[:2], *result.shape[1:])
            result[i : i + height] += of_pairs.sum(axis=1, dtype=np.float64)
    return result / len(rows)


def _share(values: Array, gap: Array, distances: Array) -> None:
    """Share each gap among the values by size, or by distance if all are 0; warn of large gaps."""
    sizes = np.abs(values)
    sizes = np.where(sizes.any(axis=2, keepdims=True), sizes, distances[:, None])
    totals = sizes.sum(axis=2, keepdims=True)
    shares = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
    values += gap[:, :, None] * shares
    spread, error = np.sqrt(np.mean(values**2)), np.sqrt(np.mean(gap**2))
    if error > LARGE_GAP * spread:
        warn(
            f"{WHO}: the integrals miss the predictions by {error:.2g}, beside values of "
            f"{spread:.2g}: more steps, n_steps=, come closer; nets with kinks, such as relu, need "
            "more of them",
            RuntimeWarning,
        )


class _Table:
    """A model of tables as a function of the inputs of all its nets, side by side."""

    def __init__(self, model: Any, raw: bool | None) -> None:
        self._model, pack, schema = model, _pack_of(model), model.schema_
        classes = pack.task != "regression"
        if raw and not classes:
            raise TypeError(f"{WHO}: a model of numbers has no raw outputs: raw=False")
        self._encodings = [
            (place, encoding)
            for place, encoding in enumerate(pack.encodings)
            if any(member.encoding == place for member in pack.members)
        ]
        numbers, categories = schema.number_names, schema.categorical_names
        inputs, owners = dict[int, slice](), list[int]()
        for place, encoding in self._encodings:
            names = [categories[-1 - k] if k < 0 else numbers[k] for k in encoding.origins]
            inputs[place] = slice(len(owners), len(owners) + len(names))
            owners += [schema.columns.index(name) for name in names]
        n_outputs = max(pack.outputs.n_outputs, 2) if classes else 1
        terms = [
            Term(NetDerivatives(net, raw=False), weight, inputs[encoding])
            for _, encoding, net, weight, *_ in pack.members
        ]
        self.derivatives = ModelDerivatives(
            terms,
            complemented if classes else partial(_scaled, pack.outputs),
            len(owners),
            n_outputs,
            logs=classes and raw is not False,
            sums=np.eye(len(schema.columns), dtype=np.float32)[owners],
        )

    def encoded(self, X: Any) -> Array:
        """Inputs of all nets, shape (n_rows, n_inputs)."""
        values = self._model._values(X, "shap_values")
        if not len(values.codes):
            raise ValueError(f"{WHO}: X and background must have rows")
        return np.concatenate([encoding.transform(values) for _, encoding in self._encodings], 1)


def _pack_of(model: Any) -> Any:
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    if model._beside:
        names = ", ".join(repr(name) for name, *_ in model._beside)
        raise NotImplementedError(
            f"{WHO}: the ensemble has members that are not nets, and cannot be derived: "
            f"{names}; fit without extra_members, with trees=False, or hand predict to "
            "shap.PermutationExplainer"
        )
    return model.pack_


def _scaled(outputs: Any, link: str, values: Array, derivatives: Any) -> tuple[Array, Any]:
    values, derivatives = as_they_are(link, values, derivatives)
    numbers = values * outputs.scale + outputs.center
    if derivatives is not None:
        inside = (numbers > outputs.low) & (numbers < outputs.high)
        derivatives = derivatives * np.where(inside, outputs.scale, 0.0)[:, :, None]
    return np.clip(numbers, outputs.low, outputs.high), derivatives
