"""A model of tables inside the user's compiled code: a row of numbers and codes is
encoded, and predicted by each net, and by boosted trees.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels.rule_blocks import link_block
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.predict.small_batch import ROW_BUFFERS, row_pass
from fastmlp.backends.cpu.predict.trees import TreeNodes, Trees, record_of, value_of
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import (
    block_of,
    call,
    entry_of,
    flush_denormals,
    njit,
    restore_denormals,
)
from fastmlp.compiler.memory import Record, record_at, records_at, row, stack
from fastmlp.compiler.target import LINE_BYTES
from fastmlp.network.spec import Network
from fastmlp.rules.columns import COLUMN_RULES, LevelStep, NumberStep
from fastmlp.rules.losses import LINKS
from fastmlp.validation import Array

F32 = np.float32
F64 = np.float64
INT = np.int64
NAN = np.nan
CLIPPED_STEP = 0
RISING_STEP = 1
MISSING_STEP = 2
PIECES_STEP = 3
LEVELS_STEP = len(COLUMN_RULES)
RULE_NAMES = [*COLUMN_RULES]
_clipped, _rising, _missing, _share_below, _within = map(njit, COLUMN_RULES.values())
TASKS = ("regression", "binary", "multiclass")
BINARY = 1


class InputStep(Record):
    """Inputs of a net by one rule, or from the levels of categories."""

    rule: int  # place in `COLUMN_RULES`, or LEVELS_STEP
    n: int  # inputs, or categories
    columns: int  # address of the places of their columns in the row
    constants: int  # address of numbers of float64, or of what levels write, float32
    n_inputs: int
    starts: int  # of levels: addresses of the arrays of `LevelStep`
    inputs: int
    width: int  # of levels, the numbers that one writes


class WeightedNet(Record):
    """A net of a model of tables."""

    net: int  # address of its `FlatNet`
    steps: int  # address of the steps that make its inputs; 0: as for the net before
    n_steps: int
    weight: float


class WeightedNets(Record):
    """A model of tables."""

    n_in: int
    n_out: int
    n_nets: int
    nets: int  # address of the `WeightedNet` records
    task: int  # of TASKS
    scale: float
    center: float
    low: float
    high: float
    unit: int  # bytes of each buffer of a net's numbers
    trees: int  # address of the `Trees`, or 0


@njit
def _write_numbers(step: InputStep, x: Array, z: int) -> None:
    """Inputs of a step of numbers."""
    place = row(step.columns, step.n, INT)
    inputs = row(z, step.n, F32)
    k = row(step.constants, 3 * step.n, F64)
    for i in range(step.n):
        number = x[place[i]]
        if step.rule == CLIPPED_STEP:
            inputs[i] = _clipped(number, k[2 * i], k[2 * i + 1])
        elif step.rule == RISING_STEP:
            inputs[i] = _rising(number, k[2 * i], k[2 * i + 1])
        elif step.rule == MISSING_STEP:
            inputs[i] = _missing(number)
        elif step.rule == PIECES_STEP:
            inputs[i] = _share_below(number, k[3 * i], k[3 * i + 1], k[3 * i + 2])
        else:
            inputs[i] = _within(number, k[3 * i], k[3 * i + 1], k[3 * i + 2])


@njit
def _write_levels(step: InputStep, x: Array, z: int) -> None:
    """Inputs of a step of levels."""
    column = row(step.columns, step.n, INT)
    start = row(step.starts, step.n + 1, INT)
    inputs = row(z, step.n_inputs, F32)
    zero = F32(0)
    for i in range(step.n_inputs):
        inputs[i] = zero
    for j in range(step.n):
        code = x[column[j]]
        place = start[j]
        if code >= 0.0 and code < F64(start[j + 1] - start[j] - 1):
            place += INT(code) + 1
        first = row(step.inputs, place + 1, INT)[place]
        if first >= 0:
            values = row(step.constants + 4 * place * step.width, step.width, F32)
            for k in range(step.width):
                inputs[first + k] = values[k]


@njit
def _add_trees(trees: Trees, x: Array, n_in: int, y: Array, work: int) -> None:
    """Add the weighted predictions of trees."""
    n = trees.n_outputs
    sums = work + 8 * n_in
    shares = sums + 8 * n
    known = row(work, n_in, F64)
    levels = row(trees.n_levels, n_in, INT)
    raw = row(sums, n, F64)
    p = row(shares, n, F64)
    place = row(trees.classes, trees.n_classes, INT)
    for j in range(n_in):
        known[j] = x[j]
        if levels[j] > 0:
            known[j] = x[j] if x[j] >= 0.0 and x[j] < F64(levels[j]) else NAN
    for j in range(n):
        raw[j] = 0.0
    for t in range(trees.n_trees):
        raw[t % n] += value_of(trees, t, work, 8)
    if trees.link == 0:
        y[place[0]] += trees.weight * raw[0]
    else:
        call(trees.link, (sums, shares, 0, 1, n))
        if n == 1:
            y[place[0]] += trees.weight * (1.0 - p[0])
            y[place[1]] += trees.weight * p[0]
        else:
            for j in range(n):
                y[place[j]] += trees.weight * p[j]


@njit
def _sum(a: Array, n: int) -> float:
    """The sum of a row in NumPy's order, of up to 128 numbers."""
    r = row(stack(LINE_BYTES), 8, F64)
    ends = n - n % 8
    for k in range(8):
        r[k] = 0.0
    for i in range(ends):
        r[i % 8] += a[i]
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
    for i in range(ends, n):
        total += a[i]
    return total


def table_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """The block that predicts a row of float64 of `WeightedNets`."""
    predict_row = row_pass(scalar)

    def predict_table(model: int, x: int, out: int, work: int) -> None:
        """Each net's steps write its inputs to `work` as float32; the weighted
        predictions are summed in float64, in the nets' order, then the trees' are
        added. Probabilities are divided by their sum at the end.
        """
        table = record_at(model, WeightedNets)
        nets = records_at(table.nets, table.n_nets, WeightedNet)
        numbers = row(x, table.n_in, F64)
        y = row(out, table.n_out, F64)
        outputs = work + table.unit
        buffers = work + 2 * table.unit
        p = row(outputs, table.n_out, scalar)
        for j in range(table.n_out):
            y[j] = 0.0
        for t in range(table.n_nets):
            weighted = nets[t]
            z = work
            for s in range(weighted.n_steps):
                step = records_at(weighted.steps, weighted.n_steps, InputStep)[s]
                if step.rule == LEVELS_STEP:
                    _write_levels(step, numbers, z)
                else:
                    _write_numbers(step, numbers, z)
                z += 4 * step.n_inputs
            mode = flush_denormals()
            predict_row(record_at(weighted.net, FlatNet), work, outputs, buffers)
            restore_denormals(mode)
            if table.task == 0:
                raw = F64(p[0]) * table.scale + table.center
                value = table.low if raw < table.low else raw
                y[0] += weighted.weight * (table.high if value > table.high else value)
            elif table.task == BINARY:
                y[0] += weighted.weight * (1.0 - F64(p[0]))
                y[1] += weighted.weight * F64(p[0])
            else:
                for j in range(table.n_out):
                    y[j] += weighted.weight * F64(p[j])
        if table.trees:
            trees = record_at(table.trees, Trees)
            buffers = work + (2 + ROW_BUFFERS) * table.unit
            _add_trees(trees, numbers, table.n_in, y, buffers)
        if table.task > 0:
            total = _sum(y, table.n_out)
            for j in range(table.n_out):
                y[j] /= total

    return predict_table


def row_entry(scalar: Scalar) -> Callable[[int, int, Array, Array, Array], float]:
    """Python predicts a row by this function, which calls a block."""

    def predict(block: int, model: int, x: Array, out: Array, work: Array) -> float:
        call(block, (model, x.ctypes.data, out.ctypes.data, work.ctypes.data))
        return 0.0

    return predict


class TableMember(NamedTuple):
    """A net, the index of its encoding, and its weight."""

    network: Network
    parameters: Array
    encoding: int
    weight: float


class TableScale(NamedTuple):
    """A regression's predictions: ``y * scale + center``, between `low` and `high`."""

    scale: float
    center: float
    low: float
    high: float


class TableOwner:
    """The objects that a handle of a model of tables points to.

    Parameters
    ----------
    encodings : steps of each; their columns are indices into a row
    members : the nets; all members of one encoding follow each other
    n_in, n_out : of the model
    task : of TASKS
    """

    def __init__(
        self,
        encodings: Sequence[Sequence[NumberStep | LevelStep]],
        members: Sequence[TableMember],
        n_in: int,
        n_out: int,
        task: str,
        scale: TableScale,
        trees: TreeNodes | None,
    ) -> None:
        flats = [
            make_flat(
                member.network._replace(compute_dtype=None),
                member.parameters,
                blocks=False,
            )
            for member in members
        ]
        sizes = [n for member in members for n in member.network.layout.sizes]
        of_row = round_up(8 * max(n_in, n_out), LINE_BYTES)
        unit = round_up(4 * max([*sizes, n_out]), LINE_BYTES)
        self.kept: list[Any] = [members, flats]
        steps = [
            self._kept(
                np.array([self._step(step) for step in encoding], InputStep.dtype)
            )
            for encoding in encodings
        ]
        nets = np.zeros(len(members), WeightedNet.dtype)
        before = -1
        for i, (member, flat) in enumerate(zip(members, flats, strict=True)):
            flat.net[0].block_bytes = unit
            own = steps[member.encoding]
            n_steps = 0 if member.encoding == before else len(own)
            nets[i] = address(flat.net), address(own), n_steps, member.weight
            before = member.encoding
        self._kept(nets)
        model = np.zeros(1, WeightedNets.dtype)
        model[0] = (
            n_in,
            n_out,
            len(nets),
            address(nets),
            TASKS.index(task),
            *scale,
            unit,
            0,
        )
        # For trees: a row, sums and probabilities.
        more = 8 * (n_in + 2 * n_out) if trees else 0
        if trees is not None:
            model["trees"] = self._trees(trees)
        self.block = block_of(table_row, F32)
        self.fields = {
            "number_bytes": 8,
            "n_in": n_in,
            "n_out": n_out,
            "block": self.block.address,
            "model": address(self._kept(model)),
            "out_at": of_row,
            "work_at": 2 * of_row,
            "n_bytes": 2 * of_row + (2 + ROW_BUFFERS) * unit + more,
        }

    def __reduce__(self) -> Any:
        """Addresses are valid in this object and process only,
        so a copy or a pickle is None.
        """
        return type(None), ()

    def _kept(self, array: Array) -> Array:
        self.kept.append(array)
        return array

    def _trees(self, trees: TreeNodes) -> int:
        """The address of the record of trees."""
        record, arrays = record_of(trees)
        name = "softmax" if trees.n_outputs > 1 else "sigmoid"
        link = (
            link_block(LINKS[name], np.dtype(F64)) if len(trees.classes) > 1 else None
        )
        self.kept += [record, arrays, link]
        classes, levels = (
            self._address(a, INT) for a in (trees.classes, trees.n_levels)
        )
        record["n_outputs"] = trees.n_outputs
        record["link"] = link.address if link else 0
        record["n_classes"] = len(trees.classes)
        record["classes"] = classes
        record["n_levels"] = levels
        record["weight"] = trees.weight
        return address(record)

    def _step(self, step: NumberStep | LevelStep) -> tuple[int, ...]:
        places = self._address(step.columns, INT)
        n = len(step.columns)
        if isinstance(step, NumberStep):
            constants = self._address(step.constants, F64)
            return RULE_NAMES.index(step.rule), n, places, constants, n, 0, 0, 0
        constants = self._address(step.constants, F32)
        width = step.constants.shape[1]
        starts, inputs = (
            self._address(array, INT) for array in (step.starts, step.inputs)
        )
        return LEVELS_STEP, n, places, constants, step.n_inputs, starts, inputs, width

    def _address(self, array: Array, dtype: Any) -> int:
        return address(self._kept(np.ascontiguousarray(array, dtype)))


class RowFunction:
    """Predictions of a row of a model of tables, from Python.

    A call holds the GIL: it takes less time than other threads take to give the GIL
    back.
    """

    def __init__(self, owner: TableOwner) -> None:
        fields = owner.fields
        self._owner, self._entry = owner, entry_of(row_entry, F64)
        self._places = fields["block"], fields["model"]
        self._out_shape = 1, fields["n_out"]
        self._work_shape = 1, fields["n_bytes"] - fields["work_at"]

    __reduce__ = TableOwner.__reduce__

    def __call__(self, x: Array) -> Array:
        """Return the predictions, (1, n_out),
        of a row, (1, n_in), contiguous float64.
        """
        out = np.empty(self._out_shape)
        self._entry(*self._places, x, out, np.empty(self._work_shape, np.uint8))
        return out
