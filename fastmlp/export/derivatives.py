"""Derivatives of a model's predictions, or of its loss, with respect to the inputs.

Attributions of predictions to columns are integrated gradients,
averaged over background rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._process import memory, warn
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.rule_blocks import apply_link
from fastmlp.export import shapley
from fastmlp.export.models import ModelParts, is_of_tables, parts_of
from fastmlp.model import MLP, core_of
from fastmlp.network.spec import bias_views, make_layout, weight_views
from fastmlp.rules.activations import identity
from fastmlp.rules.losses import LEAST_LOG_VARIANCE, Parts, link_name, link_slices
from fastmlp.validation import Array, arrays, scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.heads import ByHead
from fastmlp.validation.messages import count

# Numbers of a block of derivatives summed over nets: 8 MB of float64.
BLOCK_NUMBERS = 1 << 20
# Least probability in a logarithm.
LEAST_PROBABILITY = 1e-300


class NetDerivatives:
    """Outputs of a net and their derivatives,
    on the CPU; `raw`: before activation or link.
    """

    def __init__(self, net: MLP, *, raw: bool) -> None:
        core = core_of(net)
        network = core.engine.network
        self.engine: Any = core.engine
        if not isinstance(core.engine, Engine):
            self.engine = Engine(network, net.n_threads, core.state.lock)
        self.parameters: Array = core.state.parameters
        self._raw = raw
        self.n_outputs: int = network.layout.sizes[-1]
        self.dtype: np.dtype[Any] = network.dtype
        self.link: str | Parts = "identity"
        if not raw:
            self.link = network.link.parts or link_name(network.link)

    def __call__(
        self, x: Array, places: NDArray[np.intp], out: Array, *, keep: bool = False
    ) -> tuple[Array | None, bool]:
        """Write the derivatives of some predictions to out,
        shape (n_rows, n_places, n_features).

        Returns the outputs before the link, shape (n_rows, n_outputs),
        with a link or `keep`; and True if all numbers before the link are finite.
        """
        derived = places
        whole = out
        outputs = None
        by_row = ("softmax", "sorted")
        links = [self.link] if isinstance(self.link, str) else dict(self.link)
        if len(places) < self.n_outputs and any(name in by_row for name in links):
            derived = np.arange(self.n_outputs)
            whole = np.empty((len(x), self.n_outputs, x.shape[1]), self.dtype)
        if keep or self.link != "identity":
            outputs = np.empty((len(x), self.n_outputs), self.dtype)
        engine: Any = self.engine
        options = {"linear": self._raw}
        finite = engine.jacobian(self.parameters, x, derived, whole, outputs, **options)
        if outputs is not None and self.link != "identity":
            with np.errstate(over="ignore"):
                _through(self.link, outputs, whole, derived)
        if whole is not out:
            out[:] = whole[:, places]
        return outputs, finite

    def values(self, x: Array) -> Array:
        """The outputs before the link, shape (n_rows, n_outputs)."""
        raw = self._raw or self.link != "identity"
        out = np.empty((len(x), self.n_outputs), self.dtype)
        self.engine.predictor(self.parameters, raw=raw).write(x, out)
        return out


def _through(
    link: str | Parts, raw: Array, derivatives: Array, places: NDArray[np.intp]
) -> None:
    """Change derivatives of raw outputs to derivatives of the link's values, in place.

    Parameters
    ----------
    raw : (n_rows, n_outputs) array
    derivatives : (n_rows, n_places, n_features) array
    places : (n_places,) array, of outputs; all for a link by row
    """
    if not isinstance(link, str):
        for name, first, n in link_slices(link):
            mine = (places >= first) & (places < first + n)
            if mine.any() and name != "identity":
                # A mask copies: the changed copy is written back.
                own = derivatives[:, mine]
                _through(name, raw[:, first : first + n], own, places[mine] - first)
                derivatives[:, mine] = own
        return
    if link == "sorted":
        order = np.argsort(raw, axis=1, kind="stable")
        derivatives[:] = np.take_along_axis(derivatives, order[:, :, None], axis=1)
        return
    # The logistic function has equal slopes on both sides of 0,
    # and more digits below it.
    factors = apply_link(link, -np.abs(raw) if link == "sigmoid" else raw)[:, places]
    if link == "softmax":
        derivatives -= np.einsum("rp,rpf->rf", factors, derivatives)[:, None]
    elif link == "sigmoid":
        factors *= 1 - factors
    elif link == "mean_std":
        slopes = np.where(raw[:, places] < LEAST_LOG_VARIANCE, 0, factors / 2)
        factors = np.where(places % 2, slopes, 1)
    derivatives *= factors[:, :, None]


class Term(NamedTuple):
    """A net of a weighted mean; `inputs`: the model's inputs that the net takes."""

    net: NetDerivatives
    weight: float = 1.0
    inputs: slice = slice(None)


# From a net's predictions, shape (n_rows, n), and derivatives or None, to a member's.
Complete = Callable[[str | Parts, Array, Any], tuple[Array, Any]]


def as_they_are(
    link: str | Parts, values: Array, derivatives: Any
) -> tuple[Array, Any]:
    return apply_link(link, values), derivatives


def complemented(
    link: str | Parts, values: Array, derivatives: Any
) -> tuple[Array, Any]:
    """Both 1 - p and p, from one probability p."""
    raw = values
    values, derivatives = as_they_are(link, values, derivatives)
    if values.shape[1] > 1:
        return values, derivatives
    if link == "sigmoid":
        other = apply_link(link, -raw)
    else:
        other = 1 - values
    if derivatives is not None:
        derivatives = np.concatenate([-derivatives, derivatives], axis=1)
    return np.concatenate([other, values], axis=1), derivatives


class ModelDerivatives:
    """Predictions of a weighted mean of nets, and their derivatives.

    Parameters
    ----------
    terms : at least one net
    complete : for each net's predictions
    n_features, n_outputs : of the mean
    logs : True for log odds of two classes, or logarithms of several probabilities
    sums : (n_features, n_columns) array, which sums derivatives along lines, or None
    """

    def __init__(
        self,
        terms: Sequence[Term],
        complete: Complete,
        n_features: int,
        n_outputs: int,
        *,
        logs: bool = False,
        sums: Array | None = None,
    ) -> None:
        self._terms = terms
        self._complete = complete
        self._n_outputs = n_outputs
        self._logs = logs
        self.n_features: int = n_features
        self.n_outputs: int = 1 if logs and n_outputs == 2 else n_outputs
        self.dtype: np.dtype[Any] = terms[0].net.dtype
        self._alone = (
            terms[0].net if len(terms) == 1 and complete is as_they_are else None
        )
        self.sums = sums
        self.n_columns = n_features if sums is None else sums.shape[1]

    def write(self, x: Array, places: NDArray[np.intp], out: Array) -> bool:
        """Write the derivatives of some outputs to out,
        shape (n_rows, n_places, n_features).

        Returns True if all are known to be finite.
        """
        if self._alone is not None:
            return self._alone(x, places, out)[1] and self._alone.link == "identity"
        rows = max(1, BLOCK_NUMBERS // (self._n_outputs * self.n_features))
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            out[part] = self._mean(x[part], self._derived, self.n_features)[1][
                :, places
            ]
        return False

    def along(self, points: Array, lines: Array, buffer: Array) -> Array:
        """Each column's part of the derivatives along lines,
        (n_points, n_outputs, n_columns).

        Parameters
        ----------
        points : (n_steps * n_lines, n_features) array: first points of all lines, then second ones
        lines : (n_lines, n_features) array
        buffer : (n_points * n_outputs * n_features,) array, which may hold the result
        """

        def derive(net: NetDerivatives, x: Array, inputs: slice) -> tuple[Array, Any]:
            derivatives, outputs = self._derived(net, x, inputs, buffer)
            of_steps = derivatives.reshape(-1, len(lines), *derivatives.shape[1:])
            of_steps *= lines[:, None, inputs]
            return derivatives if self.sums is None else derivatives @ self.sums[
                inputs
            ], outputs

        if self._alone is not None:
            return derive(self._alone, points, slice(None))[0]
        derivatives: Array = self._mean(points, derive, self.n_columns)[1]
        return derivatives

    def values(self, x: Array) -> Array:
        return self._mean(x, lambda net, rows, inputs: (None, net.values(rows)))[0]

    def _derived(
        self, net: NetDerivatives, x: Array, inputs: slice, buffer: Array | None = None
    ) -> tuple[Array, Any]:
        shape = (len(x), net.n_outputs, x.shape[1])
        size = prod(shape)
        if buffer is None:
            flat = np.empty(size, self.dtype)
        else:
            flat = buffer[:size]
        derivatives = flat.reshape(shape)
        return derivatives, net(x, np.arange(net.n_outputs), derivatives, keep=True)[0]

    def _mean(
        self, x: Array, derive: Callable[..., tuple[Any, Array]], width: int = 0
    ) -> tuple[Array, Array]:
        """The outputs and, for `width` columns, their derivatives."""
        values = np.zeros((len(x), self._n_outputs))
        total = np.zeros(
            (*values.shape, width), np.float64 if self._logs else self.dtype
        )
        for net, weight, inputs in self._terms:
            derivatives, outputs = derive(
                net, np.ascontiguousarray(x[:, inputs]), inputs
            )
            outputs = outputs.astype(np.float64)
            of_net, derivatives = self._complete(net.link, outputs, derivatives)
            values += weight * of_net
            if width:
                total += weight * derivatives
        if self._logs:
            values = np.maximum(values, LEAST_PROBABILITY)
            values, total = np.log(values), total / values[:, :, None]
            if self._n_outputs == 2:
                values = values[:, 1:] - values[:, :1]
                total = total[:, 1:] - total[:, :1]
        return values, total


def model_derivatives(parts: ModelParts, raw: bool) -> ModelDerivatives:
    """Derivatives of a model's predictions or, with `raw`, of its raw outputs."""
    net = NetDerivatives(parts.net, raw=raw)
    complete = complemented if parts.complements else as_they_are
    if raw:
        return ModelDerivatives(
            [Term(net)], as_they_are, parts.n_features, net.n_outputs
        )
    return ModelDerivatives([Term(net)], complete, parts.n_features, parts.n_outputs)


def _parts(model: Any, raw: bool, who: str) -> ModelParts:
    scalars.boolean(who, "raw", raw)
    if is_of_tables(model):
        raise TypeError(
            f"{who}: a {type(model).__name__} encodes the columns of a table, and "
            "derivatives with respect to encoded columns are of little use: "
            "fastmlp.shap_values attributes predictions to columns"
        )
    return parts_of(model, who)


def rows_of(
    model: Any, X: Any, n_features: int, dtype: np.dtype[Any], who: str
) -> Array:
    """The rows of X, checked as for `predict`."""
    model = getattr(model, "best_estimator_", model)
    if isinstance(model, MLP):
        X = core_of(model).state.select(X, who)
    elif not hasattr(X, "tocsr") and not hasattr(X, "pieces"):
        from sklearn.utils.validation import validate_data

        X = validate_data(model, X, dtype=dtype, reset=False)
    return arrays.features(X, n_features, dtype, who)


def _places(outputs: Any, n_outputs: int, who: str) -> NDArray[np.intp]:
    if outputs is None:
        return np.arange(n_outputs)
    places = np.asarray(outputs)
    if places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
        raise TypeError(
            f"{who}: outputs must be a sequence of places of outputs, got {outputs!r}"
        )
    if not places.size or places.min() < -n_outputs or places.max() >= n_outputs:
        known = f"the model has {count(n_outputs, 'output')}"
        raise ValueError(
            f"{who}: outputs must be one place or more, got {outputs!r}, and {known}"
        )
    return places.astype(np.intp) % n_outputs


@explained
def jacobian(
    model: Any,
    X: ArrayLike,
    *,
    raw: bool = False,
    outputs: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    out: Array | None = None,
) -> Array:
    """Return the derivatives of each prediction with respect to the features of its
    row.

    One output takes less than twice the time of `predict`.
    Nets on a GPU are derived on the CPU.

    Parameters
    ----------
    model : MLP, or a fitted estimator or search of fastmlp
    X : (n_rows, n_features) array of real numbers, or a frame
    raw : bool, default False
        Derive raw outputs, before the output activation or link.
    outputs : sequence of int, optional
        Indices of the outputs to derive. None: all.
    out : (n_rows, n_outputs, n_features) array of the net's dtype, optional
        Where to write them.

    Returns
    -------
    (n_rows, n_outputs, n_features) array of the net's dtype
        Outputs are as in `predict`, or a classifier's `predict_proba`; with `raw` as in
        `MLP.predict_raw`. Kinks have the slope of training: relu has 0 at 0.

    Raises
    ------
    TypeError, ValueError
        If the model has another class or is not fitted, or X,
        `outputs` or `out` has a wrong type, shape or value.

    See Also
    --------
    fastmlp.gradient : of one output, or of the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jacobian
    >>> net = MLP((2, 2), initializer="zeros", dtype="float64")
    >>> net.weights[0] = [[1, 2], [3, 4]]
    >>> jacobian(net, [[0.5, 0.5]])
    array([[[1., 3.],
            [2., 4.]]])
    """
    who = "fastmlp.jacobian"
    derivatives = model_derivatives(_parts(model, raw, who), raw)
    places = _places(outputs, derivatives.n_outputs, who)
    n_features = derivatives.n_features
    dtype = derivatives.dtype
    # The kernel checks the rows: 0.2 ms of 3.
    x: Any = X
    plain = isinstance(model, MLP) and type(x) is np.ndarray and x.dtype == dtype
    plain = plain and x.shape[1:] == (n_features,) and len(x) > 0 and x.flags.carray
    x = x if plain else rows_of(model, x, n_features, dtype, who)
    shape: Any = (len(x), len(places), n_features)
    if out is None:
        size = prod(shape) * derivatives.dtype.itemsize
        memory.require(size, who, f"derivatives of shape {shape}")
        result = np.empty(shape, derivatives.dtype)
    else:
        result = arrays.out_array(out, shape, derivatives.dtype, who)
    if out is not None and np.may_share_memory(x, result):
        x = x.copy()
    if derivatives.write(x, places, result):
        return result
    if plain:
        rows_of(model, x, n_features, dtype, who)
    return arrays.warn_if_not_finite(result, who)


@explained
def gradient(
    model: Any, X: ArrayLike, *, y: ByHead | None = None, raw: bool = False
) -> Array:
    """Return the gradient of a model's one output, or of its loss, at each row.

    Parameters
    ----------
    model : MLP, or a fitted estimator or search of fastmlp
    X : (n_rows, n_features) array of real numbers, or a frame
    y : (n_rows,) or (n_rows, n_targets) array, optional
        Targets, for the gradient of each row's loss, without weights and penalties.
        A net with heads takes a tuple or a dict of them.
    raw : bool, default False
        Derive the raw output, before the output activation or link.

    Returns
    -------
    (n_rows, n_features) array of the net's dtype
        Without y, for two classes, the gradient of the second's probability.

    Raises
    ------
    TypeError, ValueError
        As for `jacobian`, or if there are several outputs and no y.

    See Also
    --------
    fastmlp.jacobian : of all outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, gradient
    >>> net = MLP((2, 1), initializer="zeros", dtype="float64")
    >>> net.weights[0] = [[3], [4]]
    >>> gradient(net, [[1.0, 1.0]])
    array([[3., 4.]])
    >>> gradient(net, [[1.0, 1.0]], y=[8.0])  # of (7 - 8)^2
    array([[-6., -8.]])
    """
    who = "fastmlp.gradient"
    parts = _parts(model, raw, who)
    if y is not None:
        return _of_loss(model, parts, X, y, raw, who)
    derivatives = model_derivatives(parts, raw)
    two = parts.classes is not None and derivatives.n_outputs == 2
    if derivatives.n_outputs > 1 and not two:
        raise TypeError(
            f"{who}: the model has {count(derivatives.n_outputs, 'output')}: "
            "fastmlp.jacobian derives them, and with y= this is the gradient of the "
            "loss"
        )
    x = rows_of(model, X, derivatives.n_features, derivatives.dtype, who)
    result = np.empty((len(x), 1, derivatives.n_features), derivatives.dtype)
    derivatives.write(x, np.array([derivatives.n_outputs - 1]), result)
    return arrays.warn_if_not_finite(result[:, 0], who)


def _of_loss(
    model: Any, parts: ModelParts, X: Any, y: Any, raw: bool, who: str
) -> Array:
    net = parts.net
    if raw:
        raise ValueError(
            f"{who}: raw=True is of an output, y= of the loss: only one of them"
        )
    core = core_of(net)
    plain: dict[str, Any] = {"penalties": (), "dropout": None, "compute_dtype": None}
    network = core.engine.network._replace(**plain, trainable=())
    parameters = core.state.parameters
    x = rows_of(model, X, parts.n_features, network.dtype, who)
    if parts.classes is not None:
        y = _coded(
            y, parts.classes, network.layout.sizes[-1], network.loss.targets, who
        )
    if network.layout.n_layers == 1:
        # Deltas of hidden layers are kept: the first layer leaves the inputs unchanged.
        sizes = network.layout.sizes
        views = weight_views(network.layout, parameters)
        biases = bias_views(network.layout, parameters)
        network = network._replace(
            layout=make_layout((sizes[0], *sizes)),
            activations=(identity, *network.activations),
            layer_rates=(),
        )
        parameters = np.zeros(network.layout.n_parameters, network.dtype)
        first, last = weight_views(network.layout, parameters)
        np.fill_diagonal(first, 1)
        last[:] = views[0]
        bias_views(network.layout, parameters)[1][:] = biases[0]
    engine = Engine(network, net.n_threads, core.state.lock)
    result = np.empty_like(x)
    engine.objective(engine.data(x, y, None, who), summed=True)(parameters, result)
    return arrays.warn_if_not_finite(result, who)


def _coded(y: Any, classes: Array, n_outputs: int, targets: str, who: str) -> Array:
    labels = np.asarray(y)
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = labels[classes[codes] != labels]
    if unknown.size:
        raise ValueError(
            f"{who}: y holds {unknown[0]!r}, which is not among the model's classes"
        )
    if n_outputs == 1 or targets == "classes":
        return codes
    return np.eye(len(classes))[codes]


WHO = "fastmlp.shap_values"
# Maximum number of background rows.
MOST_BACKGROUND_ROWS = 1000
# Numbers of a block of points, or of derivatives, that stay in the caches.
PATHS_AT_ONCE = 1 << 18
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

    Integrated gradients (Sundararajan, Taly & Yan, 2017, "Axiomatic attribution for
    deep networks") along straight lines from each background row, averaged, by
    Gauss-Legendre quadrature: Aumann-Shapley values, close to Shapley values for smooth
    nets. Results are deterministic.

    Models of tables are attributed to columns, including categories, missing values and
    dates: lines go through the nets' encoded inputs. With boosted trees or other
    members that are not nets, values are Shapley values: a background row's columns
    become the row's, one by one, in an order that a fixed seed draws for each
    background row, and in reverse (Castro, Gomez & Tejada, 2009, "Polynomial
    calculation of the Shapley value based on sampling").

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
    X : (n_rows, n_features) array of real numbers, or a frame; for a model of tables, a table
    background : rows like those of X
        Rows that represent the data, such as 100 of training.
        At most 1,000 rows are used, evenly picked.
    n_steps : int of 1 or more, default 16
        Points of each line. The time is n_rows x n_background x n_steps gradients, or
        with members that are not nets n_rows x n_background x 2 n_features predictions.
    raw : bool, optional
        Attribute raw outputs, before the output activation or link, such as log odds.
        For a model of tables: the log odds of two classes, or logarithms of several
        probabilities. None: True for classifiers.

    Returns
    -------
    Attribution
        `values`, `base` and `gap`; ``base + values.sum(axis=-1)`` is the prediction.

    Raises
    ------
    TypeError, ValueError
        If the model has another class or is not fitted,
        or rows have a wrong type, shape or value.

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
        _check_table(model, raw)
        if model._beside:
            return _of_any_members(model, X, background, raw)
        table = _Table(model, raw)
        derivatives = table.derivatives
        x = table.encoded(X)
        rows = table.encoded(background)
    else:
        derivatives = _of_rows(model, raw)
        n_features = derivatives.n_features
        dtype = derivatives.dtype
        x = rows_of(model, X, n_features, dtype, WHO)
        rows = rows_of(model, background, n_features, dtype, f"{WHO}: background")
    rows = rows[_picked(len(rows))]
    values = _integrals(derivatives, x, rows, n_steps)
    base = derivatives.values(rows).mean(axis=0)
    gap = derivatives.values(x) - base - values.sum(axis=2)
    distances = np.array(
        [np.abs(rows - row, dtype=np.float64).mean(axis=0) for row in x]
    )
    if derivatives.sums is not None:
        distances = distances @ derivatives.sums
    _share(values, gap, distances)
    arrays.warn_if_not_finite(values, WHO)
    return _attribution(values, base, gap)


def _attribution(values: Array, base: Array, gap: Array) -> Attribution:
    if values.shape[1] == 1:
        return Attribution(values[:, 0], float(base[0]), gap[:, 0])
    return Attribution(values, base, gap)


def _picked(n_rows: int) -> NDArray[np.intp]:
    """Indices of the background rows that are used; a warning says if not all are."""
    if n_rows <= MOST_BACKGROUND_ROWS:
        return np.arange(n_rows)
    warn(
        f"{WHO}: {MOST_BACKGROUND_ROWS} of {n_rows} rows of background are used",
        RuntimeWarning,
    )
    return np.linspace(0, n_rows - 1, MOST_BACKGROUND_ROWS).round().astype(np.intp)


def _of_any_members(
    model: Any, X: Any, background: Any, raw: bool | None
) -> Attribution:
    """Shapley values of a model of tables some of whose members are not nets."""
    schema = model.schema_
    x = _values_of(model, X)
    rows = _values_of(model, background)
    rows = rows.part(_picked(len(rows.codes)))
    predict = shapley.predictor(model, raw)
    shares = shapley.of_columns(predict, x, rows, schema.places, len(schema.read_names))
    values = np.zeros((*shares.shape[:2], len(schema.columns)))
    values[:, :, [schema.columns.index(name) for name in schema.read_names]] = shares
    base = predict(rows).mean(axis=0)
    gap = predict(x) - base - values.sum(axis=2)
    arrays.warn_if_not_finite(values, WHO)
    return _attribution(values, base, gap)


def _values_of(model: Any, X: Any) -> Any:
    """Numbers and codes of a table, which has rows."""
    values = model._values(X, "shap_values")
    if not len(values.codes):
        raise ValueError(f"{WHO}: X and background must have rows")
    return values


def _check_table(model: Any, raw: bool | None) -> None:
    """Raise if a model of tables is not fitted, or has no raw outputs."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    if raw and model.pack_.task == "regression":
        raise TypeError(f"{WHO}: a model of numbers has no raw outputs: raw=False")


def _of_rows(model: Any, raw: bool | None) -> ModelDerivatives:
    parts = parts_of(model, WHO)
    if raw is None:
        raw = NetDerivatives(parts.net, raw=False).link in ("sigmoid", "softmax")
    return model_derivatives(parts, raw)


def _integrals(
    derivatives: ModelDerivatives, x: Array, rows: Array, n_steps: int
) -> Array:
    """Each column's part of a line integral, averaged over background rows.

    Shape (n_rows, n_outputs, n_columns), float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    dtype = derivatives.dtype
    n_outputs = derivatives.n_outputs
    n_features = x.shape[1]
    times = ((nodes + 1) / 2).astype(dtype)[:, None, None, None]
    weights = weights / 2
    most = max(1, PATHS_AT_ONCE // (n_steps * n_outputs * n_features))
    width = min(most, len(rows))
    height = min(max(1, most // width), len(x))
    points = np.empty((n_steps * height * width, n_features), dtype)
    buffer = np.empty(points.size * max(n_outputs, 2), dtype)
    result = np.zeros((len(x), n_outputs, derivatives.n_columns))
    for i in range(0, len(x), height):
        for k in range(0, len(rows), width):
            some = rows[k : k + width]
            ends = x[i : i + height, None]
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
    """Share each gap among the values by size,
    or by distance if all are 0; warn of large gaps.
    """
    sizes = np.abs(values)
    sizes = np.where(sizes.any(axis=2, keepdims=True), sizes, distances[:, None])
    totals = sizes.sum(axis=2, keepdims=True)
    shares = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
    values += gap[:, :, None] * shares
    spread = np.sqrt(np.mean(values**2))
    error = np.sqrt(np.mean(gap**2))
    if error > LARGE_GAP * spread:
        warn(
            f"{WHO}: the integrals miss the predictions by {error:.2g}, beside values "
            f"of {spread:.2g}: more steps, n_steps=, come closer; nets with kinks, "
            "such as relu, need more of them",
            RuntimeWarning,
        )


class _Table:
    """A model of tables as a function of the inputs of all its nets, side by side."""

    def __init__(self, model: Any, raw: bool | None) -> None:
        """Give each encoding in use a slice of one long vector of inputs.

        `sums`, shape (n_inputs, n_columns), adds an input's derivative to its column.
        """
        self._model = model
        pack = model.pack_
        schema = model.schema_
        classes = pack.task != "regression"
        self._encodings = [
            (place, encoding)
            for place, encoding in enumerate(pack.encodings)
            if any(member.encoding == place for member in pack.members)
        ]
        numbers = schema.number_names
        categories = schema.categorical_names
        inputs = dict[int, slice]()
        owners = list[int]()
        for place, encoding in self._encodings:
            names = [
                categories[-1 - k] if k < 0 else numbers[k] for k in encoding.origins
            ]
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
        values = _values_of(self._model, X)
        return np.concatenate(
            [encoding.transform(values) for _, encoding in self._encodings], 1
        )


def _scaled(
    outputs: Any, link: str | Parts, values: Array, derivatives: Any
) -> tuple[Array, Any]:
    values, derivatives = as_they_are(link, values, derivatives)
    numbers = values * outputs.scale + outputs.center
    if derivatives is not None:
        inside = (numbers > outputs.low) & (numbers < outputs.high)
        derivatives = derivatives * np.where(inside, outputs.scale, 0.0)[:, :, None]
    return np.clip(numbers, outputs.low, outputs.high), derivatives
