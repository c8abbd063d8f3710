"""Steps of a kept trainer on plain rows,
in one compiled call: a short one holds the GIL.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from fastmlp._process import task_pool
from fastmlp._process.memory import keep
from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.kernels import epoch
from fastmlp.backends.cpu.kernels.epoch import DECLINED, TAKEN, take_quick_step
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.session import Moments, Session
from fastmlp.backends.cpu.tuning import ALONE_FLOPS, GIL_LANE_PRODUCTS
from fastmlp.compiler import Block, block_of, entry_of
from fastmlp.network.spec import Layout, Network, paired_layers
from fastmlp.rules.losses import range_of
from fastmlp.validation import Array

# Multiply-adds that a parameter's update and its copy to the flat vector count as.
UPDATE_PRODUCTS = 16
# Most multiply-adds of a step in one call, for which signals wait: 17 ms at 60 GFLOP/s.
MOST_STEP_PRODUCTS = 1 << 29


def is_quick(network: Network, session: Session) -> bool:
    """True if Python does no part of a step."""
    moments = session.moments
    # NumPy computes the shown parameters of an optimizer that averages by itself.
    averaged = moments is None or moments.lag > 0
    paired = any(paired_layers(network.layout, network.compute_dtype))
    plain = isinstance(session.data.x, ndarray) and not averaged and not paired
    of_one_hot = network.loss.targets == "classes" and session.data.y.shape[1] > 1
    return plain and not of_one_hot


def convert_array(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """A C-contiguous copy of real numbers; None of others, which the loop refuses."""
    if array.dtype.kind not in "fiu":
        return None
    # A number too large becomes infinite, which the step declines.
    with np.errstate(over="ignore"):
        return np.array(array, dtype, order="C")


def products_of(layout: Layout, n_rows: int) -> int:
    return 3 * layout.n_weights * n_rows + UPDATE_PRODUCTS * layout.n_parameters


class Size(NamedTuple):
    """A step on some number of rows.

    Attributes
    ----------
    is_short : True if it holds the GIL, as predictions of a few rows do
    """

    partition: Partition
    work: Work
    is_short: bool
    is_alone: bool


class QuickStep:
    """A trainer's steps on plain rows.

    Parameters
    ----------
    driver : of the trainer
    parameters : (n_parameters,) array, live
    room : most rows

    Attributes
    ----------
    slots : first slot of the optimizer's state; steps are of no use once that is another array
        Any new object with an average:
        other trainers change the packed parameters then.
    is_lost : True once the parameters are not finite after a step
    sizes : steps by numbers of rows
    address : of its `PlainStep`
    n_rows : of its next step
    """

    slots: object
    is_lost = False
    address: int
    n_rows = 0
    record: Array
    job: Any
    kind: tuple[Any, ...]

    def __init__(
        self, trainer: Any, engine: Runner, driver: Block, parameters: Array, room: int
    ) -> None:
        network = engine.network
        session = trainer.session
        self._dtype = dtype = network.dtype
        self._engine, self._session, self._trainer = (
            engine,
            session,
            weakref.proxy(trainer),
        )
        self._n_targets = session.data.y.shape[1]
        self._parameters = parameters
        self.sizes: dict[int, Size | None] = {}
        self._size: Size | None = None
        # The packed parameters, flat:
        # the trainer's `load` and `store` leave them there.
        self._seen = session.workspace.backup[: len(parameters)]
        self._labels = np.empty(room, dtype)
        self._losses = np.zeros(1)
        self._order = np.arange(room, dtype=np.int64)
        self.record = np.zeros(1, epoch.PlainStep.dtype)
        self.kind = session.kind
        self.job, self.address = fields_of(self.record), address(self.record)
        self._blocks = block_of(epoch.quick_step, dtype), driver
        self._take_short: Callable[..., float] = entry_of(take_quick_step, dtype)
        has_labels = network.loss.targets == "classes"
        self._label_bytes = {
            np.dtype(kind): np.dtype(kind).itemsize for kind in ("i8", "i4")
        }
        if not has_labels:
            self._label_bytes = {dtype: 0}
        # The dtype of targets that are not labels.
        self._plain = None if has_labels else dtype
        lowest, highest = range_of(network.loss.targets, dtype)
        self._ranges = network.target_ranges()
        if network.has_factors(self._n_targets):
            # Targets with factors beside them have been checked.
            lowest, highest = range_of("real", dtype)
            self._ranges = self._ranges[:0]
        fields = {
            "job": address(session.record),
            "n_parts": 1,
            "block": self._blocks[0].address,
            "driver": driver.address,
            "parameters": address(parameters),
            "seen": address(self._seen),
            "n_parameters": len(parameters),
            "n_in": network.layout.sizes[0],
            "n_targets": self._n_targets,
            "label_rows": address(self._labels),
            "n_labels": network.layout.sizes[-1] if has_labels else 0,
            "lowest": lowest,
            "highest": highest,
            "ranges": address(self._ranges) if len(self._ranges) else 0,
        }
        for name, value in fields.items():
            self.job[name] = value

    def prepare(self, n_rows: int) -> bool:
        """Get ready, after a step of the trainer's;
        return False if n rows are too many.
        """
        session, job = self._session, self._session.job
        assert session.moments is not None
        trained = session.moments.trained
        self.slots = session.moments.m if trained is None else object()
        self.job["trained"] = 0 if trained is None else address(trained)
        job["first"], job["order"], job["losses"] = (
            0,
            address(self._order),
            address(self._losses),
        )
        size = self.size_of(n_rows)
        if size is not None:
            self._take_size(n_rows, size)
        return size is not None

    def adopt(self, moments: Moments) -> bool:
        self._session.adopt(moments)
        self.slots = moments.m
        return bool(self._trainer.is_current)

    def size_of(self, n_rows: int) -> Size | None:
        """None if a signal would wait too long for a step on n rows."""
        if n_rows in self.sizes:
            return self.sizes[n_rows]
        engine = self._engine
        layout = self._engine.network.layout
        size = None
        products = products_of(layout, n_rows * engine.network.passes)
        if products <= MOST_STEP_PRODUCTS:
            partition = engine.partition(n_rows)
            work = self._trainer.work_of(partition).times(-(-n_rows // partition.rows))
            is_alone = engine.n_threads == 1 or work.flops <= ALONE_FLOPS
            size = Size(partition, work, products <= GIL_LANE_PRODUCTS, is_alone)
        return keep(self.sizes, n_rows, size)

    def take_rows(self, n_rows: int) -> Size | None:
        """Take steps on n rows from now on; return their size, or None as `size_of`."""
        size = self.size_of(n_rows)
        if size is not None and n_rows != self.n_rows:
            self._take_size(n_rows, size)
        return size

    def _take_size(self, n_rows: int, size: Size) -> None:
        rows = size.partition.rows
        job = self._session.job
        self._trainer.divide(size.partition, n_rows)
        job["n_rows"] = n_rows
        job["chunk_rows"] = rows
        job["last"] = -(-n_rows // rows)
        self.job["n_rows"] = n_rows
        self.job["publishes"] = size.is_short
        self.n_rows = n_rows
        self._size = size
        self.kind = self._session.kind

    def point_to(self, table: Array, first_step: int) -> None:
        """A table of a single row is for any step."""
        self._table = table
        self.job["table"] = address(table)
        self.job["first_step"] = first_step
        self.job["row_bytes"] = table.strides[0] if len(table) > 1 else 0

    def __call__(self, step: int, x: Any, y: Any, weight: Any) -> float | None:
        """Take the step of this number; None where the loop's slower way must check or
        convert rows, targets or weights.
        """
        dtype = self._dtype
        n_rows = len(x)
        if n_rows != self.n_rows and self.take_rows(n_rows) is None:
            return None
        assert self._size is not None
        if type(y) is not ndarray:
            return None
        if (x.dtype is not dtype and x.dtype != dtype) or not x.flags.carray:
            x = convert_array(x, dtype)
        label_bytes = 0 if y.dtype is self._plain else self._label_bytes.get(y.dtype)
        if label_bytes is None and dtype in self._label_bytes:
            y = convert_array(y, dtype)
            label_bytes = 0
        if x is None or y is None or label_bytes is None:
            return None
        if not y.flags.carray:
            y = y.copy()
        if y.ndim != 2:
            if y.ndim != 1:
                return None
            y = y[:, None]
        place = 0
        if weight is not None:
            if type(weight) is not ndarray or weight.dtype != dtype:
                return None
            if weight.shape != (n_rows,) or not weight.flags.carray:
                return None
            place = address(weight)
        if self._size.is_short:
            take = self._take_short
        else:
            take = self._take_long_step
        loss: float = take(self.address, step, label_bytes, x, y, place)
        if loss - loss == 0:
            return loss
        if self.job["is_lost"]:
            self.is_lost = True
            return float(self.job["loss"])
        return loss if self.job["status"] != DECLINED else None

    def _take_long_step(
        self, _: int, step: int, label_bytes: int, x: Array, y: Array, weight: int
    ) -> float:
        """Steps of `take_quick_step` without the GIL,
        on a team where that is faster.
        """
        n = self.n_rows
        size = self._size
        n_in = self.job["n_in"]
        self.job["status"] = DECLINED
        self.job["loss"] = np.nan
        self.job["is_lost"] = 0
        fits = x.shape == (n, n_in) and len(y) == n and y.size == n * self._n_targets
        if fits and size is not None:
            rows = {"x": address(x), "y": address(y), "weight": weight}
            options: Any = {**rows, "label_bytes": label_bytes, "step": step}
            if size.is_alone:
                for name, value in options.items():
                    self.job[name] = value
                task_pool.check()
                with limits.reserved(1):
                    self._blocks[0].entry(self.address)
            else:
                self._engine.run(epoch.quick_step, self, size.work, **options)
            self.has_taken(step)
        return np.nan if self.job["is_lost"] else float(self.job["loss"])

    def has_taken(self, step: int) -> bool:
        taken = bool(self.job["status"] == TAKEN and self.job["step"] == step)
        if taken and not self.job["publishes"]:
            self._engine.lock.publish(self._seen, self._parameters)
        return taken
