"""Losses and links far out and at the bounds of targets, beside decimal arithmetic.

An error is counted in roundings: of the terms whose sum is the number, and of each output and
target by half a unit in the last place, which moves the exact number. So digits that terms lose
near a perfect prediction, as those of a Tweedie loss do, are no error here.
"""

from decimal import Decimal
from itertools import product
from typing import Any

import numba
import numpy as np
import precise
import pytest
from loss_cases import CASES, options_of, outputs_for

from fastmlp import MLP, Adam, Status, Tweedie
from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import block_of, call
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import Loss, in_dtype

FAR: dict[str, Loss] = CASES | {f"tweedie {k}": Tweedie(k).loss for k in (1.001, 1.9, 1.999)}
MOST_ROUNDINGS, N_ROWS = 8, 40
SIZES = (1e-6, 0.5, 3.0, 30.0, 88.0, 177.0, 709.0, 1e4)
RAW = np.array([0.0, *SIZES, *(-size for size in SIZES)])
TARGETS = {
    "real": (0.0, 1.0, -3.0, 1e6, -1e6),
    "unit": (0.0, 1e-6, 0.5, 1.0),
    "count": (0.0, 1.0, 5.0, 1e6),
    "positive": (1e-30, 1.0, 1e6),
    "classes": (0.0, 0.25, 1.0),
}
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@numba.njit
def invoke(address: Any, arguments: Any) -> None:
    call(address, arguments)


def run(factory: Any, rule: Any, options: Any, arrays: Any, *counts: int) -> None:
    """Call a rule's compiled loop."""
    block = block_of(factory, str(arrays[0].dtype), rule, **options)
    invoke(block.address, (*(array.ctypes.data for array in arrays), *counts))


def rows_of(name: str, dtype: str) -> tuple[Any, Any]:
    """Outputs, shape (n_rows, n), and targets, in columns."""
    loss, rng = FAR[name], np.random.default_rng(0)
    if loss.by_row:
        n = outputs_for(name, 3)
        n_targets = n if loss.targets == "classes" else n // loss.per_target
        outputs: Any = rng.choice(RAW, (N_ROWS, n))
        targets: Any = rng.choice(TARGETS[loss.targets], (N_ROWS, n_targets))
    else:
        outputs, targets = np.split(np.array([*product(RAW, TARGETS[loss.targets])]), 2, axis=1)
    return np.asfortranarray(outputs.astype(dtype)), np.asfortranarray(targets.astype(dtype))


def plain(loss: Loss, outputs: Any, targets: Any) -> Any:
    """Values and slopes of all rows, uncompiled: shape (n_rows, 1 + n)."""
    slopes, values = np.empty_like(outputs), np.empty(len(outputs))
    constants = in_dtype(loss.constants, outputs.dtype.type)
    if loss.by_row:
        loss.rule(outputs, targets, slopes, values, *constants)
    else:
        for r, pair in enumerate(zip(outputs[:, 0], targets[:, 0], strict=True)):
            values[r], slopes[r] = loss.rule(*pair, *constants)
    return np.column_stack([values, slopes])


def compiled(loss: Loss, outputs: Any, targets: Any) -> Any:
    """`plain`, by the kernels' loop."""
    slopes, values = np.empty_like(outputs), np.empty(len(outputs))
    arrays, counts = (outputs, targets, slopes, values), (*outputs.shape, targets.shape[1])
    run(elementwise.loss_loop, loss.rule, options_of(loss), arrays, *counts)
    return np.column_stack([values, slopes])


def decimals(numbers: Any) -> list[Any]:
    return [Decimal(float(n)) if np.ndim(n) == 0 else decimals(n) for n in numbers]


def half_unit(dtype: str) -> Decimal:
    """The relative error of a rounding."""
    return Decimal(float(np.finfo(dtype).eps)) / 2


def moved(numbers: list[Decimal], unit: Decimal) -> list[list[Decimal]]:
    """Rows of which one number each has a rounding error."""
    each = enumerate(numbers)
    return [[*numbers[:j], n * (1 + unit), *numbers[j + 1 :]] for j, n in each if n]


class Expected:
    """A number's terms, and the errors that it may have."""

    def __init__(self, terms: Any, others: Any, dtype: str) -> None:
        limits = np.finfo(dtype)
        unit, (tiny, most) = half_unit(dtype), decimals([limits.tiny, limits.max])
        self.number = sum(terms, Decimal(0))
        self.rounding = unit * sum(map(abs, terms))
        self.rounding += sum(abs(sum(other) - self.number) for other in others)
        # Kernels take numbers below the smallest normal one for 0.
        self.rounding += tiny
        self.overflows = abs(self.number) > most - MOST_ROUNDINGS * self.rounding

    def roundings(self, actual: float) -> float:
        """The error of a number: 0 for an infinity in place of a number beyond the dtype's."""
        if np.isinf(actual) and self.overflows and (actual > 0) == (self.number > 0):
            return 0.0
        if not np.isfinite(actual):
            return np.inf
        return float(abs(Decimal(float(actual)) - self.number) / self.rounding)


def expected_of(name: str, outputs: Any, targets: Any) -> list[Expected]:
    """The value and the slopes of one row."""
    dtype, rule = str(outputs.dtype), FAR[name].rule.__name__
    constants = decimals(in_dtype(FAR[name].constants, outputs.dtype.type))
    unit, raw, y = half_unit(dtype), decimals(outputs), decimals(targets)
    near = [(row, y) for row in moved(raw, unit)] + [(raw, row) for row in moved(y, unit)]
    value, slopes = precise.loss(rule, raw, y, constants)
    others = [precise.loss(rule, z, aims, constants) for z, aims in near]
    return [
        Expected(value, [other for other, _ in others], dtype),
        *(Expected(s, [other[j] for _, other in others], dtype) for j, s in enumerate(slopes)),
    ]


def expected_values(name: str, raw: Any) -> list[Expected]:
    """The link's values of one row."""
    dtype, link = str(raw.dtype), precise.LINKS[name]
    near = [link(row) for row in moved(decimals(raw), half_unit(dtype))]
    values = enumerate(link(decimals(raw)))
    return [Expected([value], [[row[j]] for row in near], dtype) for j, value in values]


@each_dtype
@pytest.mark.parametrize("name", FAR)
def test_a_loss_is_its_formula_far_out(name: str, dtype: str) -> None:
    outputs, targets = rows_of(name, dtype)
    with np.errstate(over="ignore", invalid="raise", divide="raise"):
        tables = [form(FAR[name], outputs, targets) for form in (plain, compiled)]
    for r, row in enumerate(zip(outputs, targets, strict=True)):
        expected = precise.exact(expected_of, name, *row)
        for table in tables:
            errors = [each.roundings(n) for each, n in zip(expected, table[r], strict=True)]
            assert max(errors) <= MOST_ROUNDINGS, (*row, table[r])


@each_dtype
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_its_formula_far_out(name: str, dtype: str) -> None:
    link, rng = LINKS[name], np.random.default_rng(0)
    raw = np.asfortranarray(rng.choice(RAW, (N_ROWS, 4)).astype(dtype))
    by_loop, by_rule = np.empty_like(raw), np.empty_like(raw)
    with np.errstate(over="ignore"):
        run(elementwise.link_loop, link.rule, {"by_row": link.by_row}, (raw, by_loop), *raw.shape)
        if link.by_row:
            link.rule(raw, by_rule)
        else:
            by_rule[:] = [[link.rule(z) for z in row] for row in raw]
    for r, row in enumerate(raw):
        expected = precise.exact(expected_values, name, row)
        for actual in (by_loop[r], by_rule[r]):
            errors = [each.roundings(n) for each, n in zip(expected, actual, strict=True)]
            assert max(errors) <= MOST_ROUNDINGS, (row, actual)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="takes minutes")
def test_rows_that_are_surely_zero_do_not_end_a_tweedie_fit() -> None:
    X = 50 * np.eye(2, dtype="f")[np.arange(2000) % 2]
    y = np.where(np.arange(2000) % 2, 0.0, 5.0)
    net = MLP((2, 16, 1), loss=Tweedie(1.9), seed=0, optimizer=Adam(0.01))
    assert net.fit(X, y, epochs=20).status is Status.COMPLETED
