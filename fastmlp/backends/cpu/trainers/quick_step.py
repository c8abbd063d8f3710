"""Steps of a kept trainer on plain rows, in one compiled call that holds the GIL."""

from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import one_step
from fastmlp.backends.cpu.kernels.one_step import DECLINED, TAKEN, take_quick_step
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.tuning import GIL_LANE_PRODUCTS
from fastmlp.compiler import Block, block_of
from fastmlp.network.spec import Network, paired_layers

Array = NDArray[Any]
# What an update of a parameter, and its way to the flat vector, count as in multiply-adds.
UPDATE_PRODUCTS = 16


def is_quick(network: Network, session: Session) -> bool:
    """Return True if a step is so short that it may hold the GIL, as predictions of a few rows do,
    and needs nothing that is done by Python."""
    layout, moments = network.layout, session.moments
    products = 3 * layout.n_weights * session.data.n_rows + UPDATE_PRODUCTS * layout.n_parameters
    averaged = moments is None or moments.trained is not None
    paired = any(paired_layers(layout, network.compute_dtype))
    plain = isinstance(session.data.x, ndarray) and not averaged and not paired
    of_one_hot = network.loss.targets == "classes" and session.data.y.shape[1] > 1
    return plain and not of_one_hot and products <= GIL_LANE_PRODUCTS


def _converted(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """A C-contiguous copy of real numbers; None of others, whose errors are found elsewhere."""
    if array.dtype.kind not in "fiu":
        return None
    # A number too large becomes infinite, which the step declines.
    with np.errstate(over="ignore"):
        return np.array(array, dtype, order="C")


class QuickStep:
    """A trainer's steps on plain rows: as many as it was made for.

    Parameters
    ----------
    network, session : of the trainer
    driver : Block, of the trainer
    parameters : (n_parameters,) array, live

    Attributes
    ----------
    slots : the array of the first slot, by which it is known if the optimizer's state lies
        elsewhere since
    """

    slots: object

    def __init__(
        self, network: Network, session: Session, driver: Block, parameters: Array
    ) -> None:
        dtype, data = network.dtype, session.data
        self._dtype, self._session, self._n_rows = dtype, session, data.n_rows
        n_rows = data.n_rows
        self._seen, self._no_weight = np.empty_like(parameters), np.empty(0, dtype)
        self._labels, self._losses = np.empty(n_rows, dtype), np.zeros(1)
        self._order = np.arange(n_rows, dtype=np.int64)
        self._record = np.zeros(1, one_step.PlainStep.dtype)
        self._fields, self._address = fields_of(self._record), address(self._record)
        self._blocks = block_of(one_step.quick_step, dtype), driver
        has_labels = network.loss.targets == "classes"
        self._label_bytes = {np.dtype(kind): np.dtype(kind).itemsize for kind in ("i8", "i4")}
        if not has_labels:
            self._label_bytes = {dtype: 0}
        largest = float(np.finfo(dtype).max)
        lowest = {"real": -largest, "positive": float(np.finfo(dtype).tiny)}
        fields = {
            "job": address(session.record),
            "block": self._blocks[0].address,
            "driver": driver.address,
            "flat": address(parameters),
            "seen": address(self._seen),
            "n_parameters": len(parameters),
            "n_rows": n_rows,
            "n_in": network.layout.sizes[0],
            "n_targets": data.y.shape[1],
            "label_rows": address(self._labels),
            "n_labels": network.layout.sizes[-1] if has_labels else 0,
            "lowest": lowest.get(network.loss.targets, 0.0),
            "highest": 1.0 if network.loss.targets == "unit" else largest,
        }
        for name, value in fields.items():
            self._fields[name] = value

    def prepare(self, parameters: Array) -> None:
        """Get ready, after a step of the trainer's that left these parameters."""
        session, job = self._session, self._session.job
        assert session.moments is not None
        self.slots = session.moments.m
        self._seen[:] = parameters
        job["team"], job["n_parts"], job["n_rows"] = 0, 1, self._n_rows
        job["chunk_rows"], job["first"] = session.rows, 0
        job["last"] = -(-self._n_rows // session.rows)
        job["order"], job["losses"] = address(self._order), address(self._losses)

    def point_to(self, table: Array, first_step: int) -> None:
        """Take the coefficients of steps from `first_step` on of a table in the net's dtype."""
        self._table = table
        self._fields["table"], self._fields["first_step"] = address(table), first_step
        self._fields["row_bytes"] = table.strides[0]

    def __call__(self, step: int, x: Any, y: Any, weight: Any) -> float | None:
        """Take the step of this number, if its loss is finite; return the loss, or None where rows
        need a check or a copy."""
        dtype = self._dtype
        if type(y) is not ndarray or x.ndim != 2:
            return None
        if x.dtype != dtype or not x.flags.carray:
            x = _converted(x, dtype)
        label_bytes = self._label_bytes.get(y.dtype)
        if label_bytes is None and dtype in self._label_bytes:
            y, label_bytes = _converted(y, dtype), 0
        if x is None or y is None or label_bytes is None:
            return None
        if not y.flags.carray:
            y = y.copy()
        if y.ndim != 2:
            if y.ndim != 1:
                return None
            y = y[:, None]
        if weight is None:
            weight = self._no_weight
        elif type(weight) is not ndarray or weight.dtype != dtype or weight.ndim != 1:
            return None
        elif not weight.flags.carray:
            return None
        loss: float = take_quick_step(self._address, step, label_bytes, x, y, weight)
        return loss if loss - loss == 0 or self._fields["status"] != DECLINED else None

    def has_taken(self, step: int) -> bool:
        """Return True if the last call took this step."""
        return bool(self._fields["status"] == TAKEN and self._fields["step"] == step)
