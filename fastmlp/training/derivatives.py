"""Derivatives of the targets by the inputs,
and gradients by a Jacobian: checked, and weighed.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmlp.backends.protocol import Data, Derivatives
from fastmlp.compiler.curvature import check_curvatures
from fastmlp.network.spec import Network
from fastmlp.training.options import FitRows
from fastmlp.training.second_order import check_derivatives as check_second_order
from fastmlp.validation import Array, arrays, frames

BALANCED = "balanced"
# The least mean square of a balanced column, over that of the largest. Errors of
# surrogates with a share of 0 -> 0.1, % of the deviation: 100 -> 0.9 (borehole, where
# three inputs hardly count), 3.5 -> 1.4 (wing weight). Columns that weigh together as
# the targets do -> each: 7.8 -> 5.9 (Rosenbrock), 7.2 -> 5.1 (a basket option), 0.74 ->
# 0.86 (wing weight).
LEAST_SHARE = 0.1
DerivativeWeight = float | ArrayLike | Literal["balanced"]


class Given(NamedTuple):
    """Arguments of a fit: targets of the Jacobian,
    their weight, and targets to validate on.
    """

    values: Any = None
    weight: Any = BALANCED
    validation: Any = None

    def __bool__(self) -> bool:
        return self.values is not None

    @property
    def known(self) -> tuple[bool, bool]:
        """True with derivatives of the rows to train on,
        and of those to validate on.
        """
        return bool(self), self.validation is not None

    def check(self, network: Network, device: str, optimizer: Any, who: str) -> None:
        """Check that this net trains on derivatives, if they are given."""
        if self:
            check(network, device, who)
            check_second_order(network, optimizer, who)
            return
        for name, value in {
            "derivative_weight": None if is_default(self.weight) else self.weight,
            "validation_derivatives": self.validation,
        }.items():
            if value is not None:
                raise ValueError(f"{who}: {name} needs derivatives=, the targets")

    def of_nets(self, n_nets: int, n_outputs: int, who: str) -> list["Given"]:
        """The arguments of each net, from arrays for all,
        or with a leading axis of nets.
        """
        each = of_nets(self.values, n_nets, n_outputs, "derivatives", who)
        return [self._replace(values=values) for values in each]

    def attached(
        self, rows: FitRows, network: Network, who: str, *, all_unknown: bool = False
    ) -> FitRows:
        """The rows with their derivatives, which may be `all_unknown`."""
        if not self:
            return rows
        data, held_out = rows.data, rows.held_out
        if rows.feed is not None or not isinstance(data.x, np.ndarray):
            refuse("a source, sparse or expanded rows", "a dense array X", who)
        values = frames.in_order(self.values, rows.names, who)
        values = targets(values, len(data.x), network, who)
        weights = weights_of(self.weight, data, values, network, who)
        data = with_targets(data, values, weights)
        if not all_unknown:
            _check_known(data, "derivatives", "train", who)
        if self.validation is not None:
            if held_out is None or held_out.rows is not None:
                raise ValueError(
                    f"{who}: validation_derivatives needs validation_data; "
                    "validation_split splits derivatives, too"
                )
            name = "validation_derivatives"
            others = frames.in_order(self.validation, rows.names, who)
            others = targets(others, len(held_out.x), network, who, name)
            held_out = with_targets(held_out, others, weights)
            _check_known(held_out, name, "validate", who)
        elif held_out is not None and held_out.rows is not None:
            held_out = with_targets(held_out, values, weights)
            _check_known(held_out, "derivatives", "validate", who)
        return rows._replace(data=data, held_out=held_out)


NOT_GIVEN = Given()


def is_default(weight: object) -> bool:
    """Return True for the weights that a call has without derivatives."""
    return is_one(weight) or (isinstance(weight, str) and weight == BALANCED)


def of_nets(values: Any, n_nets: int, n_outputs: int, name: str, who: str) -> list[Any]:
    """Numbers of a Jacobian for each net; they have one axis more if nets differ."""
    shape = np.shape(values)
    if len(shape) < 4 and not (len(shape) == 3 and shape[1] > n_outputs == 1):
        return [values] * n_nets
    if shape[0] != n_nets:
        raise ValueError(
            f"{who}: {name} of shape {shape} has a leading axis, which must be "
            f"{n_nets}, one for each net"
        )
    return list(values)


def is_one(weight: object) -> bool:
    return isinstance(weight, int | float) and weight == 1


def refuse(what: str, instead: str, who: str) -> None:
    raise ValueError(f"{who}: derivatives do not train with {what}; use {instead}")


def check(network: Network, device: str, who: str) -> None:
    """Check that steps of a net take derivatives: before any compilation."""
    if device != "cpu":
        refuse(f"device={device!r}", "net.to('cpu')", who)
    if network.compute_dtype is not None:
        refuse("compute_dtype='bfloat16'", "compute_dtype=None", who)
    if not network.layout.is_plain:
        refuse("norms, residual blocks or skip", "a net without them", who)
    if network.heads:
        refuse("heads", "a net with one loss", who)
    if network.dropout is not None:
        refuse("dropout or input_noise", "a net without them", who)
    check_curvatures(network, who)


def targets(
    values: object, n_rows: int, network: Network, who: str, name: str = "derivatives"
) -> Array:
    """Targets of the Jacobian,
    shape (n_rows, n_outputs, n_features); NaN is unknown.
    """
    n_features = network.layout.sizes[0]
    n_outputs = network.layout.sizes[-1]
    shape = (n_rows, n_outputs, n_features)
    return arrays.jacobian(values, shape, network.dtype, name, who, unknown=True)


def gradient(values: object, n_rows: int, network: Network, who: str) -> Derivatives:
    """An objective's gradient by the raw Jacobian."""
    n_features = network.layout.sizes[0]
    n_outputs = network.layout.sizes[-1]
    shape = (n_rows, n_outputs, n_features)
    dtype = network.dtype
    name = "jacobian_gradient"
    of_jacobian = arrays.jacobian(values, shape, dtype, name, who)
    return Derivatives(of_jacobian, np.empty(0), np.empty((0, 0), dtype))


def with_targets(data: Data, values: Array, weights: Array) -> Data:
    """Rows with targets of their Jacobian."""
    counts = np.count_nonzero(~np.isnan(values), axis=(1, 2)).astype(np.float64)
    if data.weight.size:
        counts *= data.weight
    return data._replace(derivatives=Derivatives(values, counts, weights))


def _check_known(data: Data, name: str, verb: str, who: str) -> None:
    assert data.derivatives
    counts = data.derivatives.known
    if not (counts if data.rows is None else counts[data.rows]).any():
        raise ValueError(f"{who}: {name} has no known number in the rows to {verb} on")


def weights_of(
    weight: object, data: Data, values: Array, network: Network, who: str
) -> Array:
    """The weights of the squares, shape (n_outputs, n_features).

    "balanced": of each column the number of columns times the mean square of its
    output's targets over that of the known derivatives, or over a share of the largest
    column's; labels have a mean square of 1.
    """
    name = "derivative_weight"
    shape = values.shape[1:]
    if isinstance(weight, str):
        if weight != BALANCED:
            raise ValueError(
                f"{who}: unknown {name} {weight!r}; known: a number, an array, "
                f"'balanced'"
            )
        return _balanced(data, values, network).astype(network.dtype)
    if isinstance(weight, bool) or weight is None:
        raise TypeError(
            f"{who}: {name} must be a number, an array or 'balanced', got {weight!r}"
        )
    numbers = arrays.real_array(weight, who, name)
    if numbers.shape not in ((), shape[1:], shape):
        raise ValueError(
            f"{who}: {name} must be a number, or have shape {shape[1:]} or {shape}, "
            f"got {numbers.shape}"
        )
    if not (np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()):
        raise ValueError(
            f"{who}: {name} must be finite, 0 or more, and not all 0, got {weight!r}"
        )
    return np.array(np.broadcast_to(numbers, shape), network.dtype, order="C")


def _balanced(data: Data, values: Array, network: Network) -> Array:
    used, y = values, data.y
    if data.rows is not None:
        used = values[data.rows]
        y = y[data.rows]
    known = ~np.isnan(used)
    squares = np.where(known, used, 0).astype(np.float64) ** 2
    total = squares.sum() / max(known.sum(), 1) or 1.0
    of_columns = squares.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    of_columns = np.maximum(of_columns, LEAST_SHARE * of_columns.max())
    of_columns = np.where(of_columns > 0, of_columns, total)
    n_outputs = values.shape[1]
    level = np.ones(n_outputs)
    if network.loss.targets != "classes" and y.shape[1] in (n_outputs, 2 * n_outputs):
        # Factors may be beside targets: 0 for those that are not known.
        if y.shape[1] > n_outputs:
            factors = y[:, n_outputs:]
        else:
            factors = np.ones_like(y)
        y = np.where(factors > 0, y[:, :n_outputs], 0).astype(np.float64)
        level = (y**2).sum(axis=0) / np.maximum((factors > 0).sum(axis=0), 1)
    # The objective has the mean over columns: each weighs as the targets do.
    level = values.shape[2] * np.where(level > 0, level, 1.0)
    return np.asarray(level[:, None] / of_columns)
