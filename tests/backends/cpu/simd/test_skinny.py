"""A last layer of few outputs, and deltas through W without a transposed copy: every shape."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from nets import Net
from panelled import INTERPRETED, address, block, rounding, to_panels

from fastmlp import SGD
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.output_layer import TRAIN
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.plan.packing import few_outputs, round_up
from fastmlp.backends.cpu.simd.microkernel import RELU, STORE, TIMES, WHERE_POSITIVE, Epilogue
from fastmlp.backends.cpu.simd.skinny import delta_unit, skinny
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.compiler import Block
from fastmlp.compiler.target import lanes_of

UNTOUCHED = 77.0
DEPTHS = (1, 3, 16, 40) if INTERPRETED else range(1, 70)
N_ROWS = (1, 2, 8, 19, 33)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@cache
def compiled(name: str, dtype: Any) -> Block:
    chosen = getattr(skinny(dtype, lanes_of(dtype)), name)

    def dots(a: Panels, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, c, d, e, f, g)

    def backward_dots(a: Panels, b: Panels, c: Any, d: Epilogue, e: Any, f: Any) -> None:
        chosen(a, b, c, d, e, f)

    def add_row(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
        chosen(a, b, c, d, e)

    table: dict[str, Any] = {"dots": dots, "backward_dots": backward_dots, "add_row": add_row}
    return block(table[name])


def in_squares(matrix: Any, lanes: int) -> Any:
    """Panels with room for whole squares; where nothing is, NaN, which would show."""
    return to_panels(matrix, lanes, round_up(len(matrix), lanes), np.nan)


@each_dtype
@pytest.mark.parametrize("n_out", [1, 2, 3, 10])
@pytest.mark.parametrize("n", N_ROWS)
def test_dot_products_come_in_columns(dtype: Any, n_out: int, n: int, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for n_in in DEPTHS:
        x, w = rng.normal(size=(n, n_in)).astype(dtype), rng.normal(size=(n_in, n_out))
        inputs, weights = in_squares(x, lanes), to_panels(w.T.astype(dtype), lanes, fill=np.nan)
        biases = rng.normal(size=n_out).astype(dtype)
        target = np.full(n * n_out + lanes + 1, UNTOUCHED, dtype)
        where = (address(inputs), inputs[0].nbytes, address(weights), address(biases))
        compiled("dots", dtype)(*where, address(target), n_in, n_out, n)
        expected = x.astype(float) @ w.astype(dtype) + biases
        bound = rounding(n_in, dtype) * (abs(x.astype(float)) @ abs(w) + abs(biases))
        columns = target[: n * n_out].reshape(n_out, n)
        assert (abs(columns.T - expected) <= bound).all()
        assert target[-1] == UNTOUCHED


@each_dtype
def test_a_dot_product_has_the_same_bits_in_whatever_company(dtype: Any, rng: Any) -> None:
    lanes, n_in = lanes_of(dtype), 37
    x, w = rng.normal(size=(19, n_in)).astype(dtype), rng.normal(size=(1, n_in)).astype(dtype)
    weights, biases = to_panels(w, lanes), np.zeros(1, dtype)
    found = []
    for rows in (x, x[7:], x[18:]):
        inputs, target = in_squares(rows, lanes), np.zeros(len(rows) + lanes, dtype)
        where = (address(inputs), inputs[0].nbytes, address(weights), address(biases))
        compiled("dots", dtype)(*where, address(target), n_in, 1, len(rows))
        found.append(target[len(rows) - 1])
    assert found[0] == found[1] == found[2]


@each_dtype
@pytest.mark.parametrize("epilogue", [STORE, TIMES, WHERE_POSITIVE])
def test_deltas_go_back_through_weights_without_a_copy(dtype: Any, epilogue: int, rng: Any) -> None:
    lanes = lanes_of(dtype)
    assert epilogue != RELU
    for n_out in DEPTHS:
        for n in (1, 15, 16, 40):
            w, e = rng.normal(size=(n, n_out)).astype(dtype), rng.normal(size=(1, n_out))
            factors = rng.normal(size=(1, n)).astype(dtype)
            weights = in_squares(w, lanes)
            # Deltas and operand lie in panels of more rows than one.
            errors = to_panels(e.astype(dtype), lanes, STRIP_ROWS, np.nan)
            operand = to_panels(factors, lanes, STRIP_ROWS)
            target = np.full_like(operand, UNTOUCHED)
            panel = operand[0].nbytes
            assert errors[0].nbytes == panel
            where = (address(weights), weights[0].nbytes, address(errors), panel, address(target))
            compiled("backward_dots", dtype)(*where, epilogue, address(operand), n_out, n)
            products = w.astype(float) * e.astype(dtype)
            expected, factor = products.sum(1), factors[0].astype(float)
            bound = rounding(n_out, dtype) * abs(products).sum(1)
            if epilogue == TIMES:
                expected, bound = expected * factor, bound * abs(factor)
            elif epilogue == WHERE_POSITIVE:
                expected = np.where(factor > 0, expected, 0)
            found = target[:, 0].ravel()
            assert (abs(found[:n] - expected) <= bound).all()
            assert not found[n:].any()
            assert (target[:, 1:] == UNTOUCHED).all()


@each_dtype
def test_a_row_of_panels_is_added_up(dtype: Any, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for n in DEPTHS:
        numbers = rng.normal(size=(1, n)).astype(dtype)
        panels = to_panels(numbers, lanes, 3, np.nan)
        start, target = rng.normal(size=1).astype(dtype), np.full(3, UNTOUCHED, dtype)
        where = (address(panels), panels[0].nbytes, address(start), address(target, 1))
        compiled("add_row", dtype)(*where, n)
        expected = numbers.astype(float).sum() + start[0]
        assert abs(target[1] - expected) <= rounding(n, dtype) * (abs(numbers).sum() + abs(start))
        assert target[0] == target[2] == UNTOUCHED


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_contiguous_deltas_belong_to_one_strip_and_one_panel(lanes: int) -> None:
    unit = delta_unit(lanes)
    assert STRIP_ROWS % unit == 0
    assert lanes % unit == 0
    # Transposed, deltas have room in a panel of rows.
    assert few_outputs(lanes) <= lanes


@each_dtype
@pytest.mark.parametrize("sizes", [(5, 19, 1), (5, 19, 20, 2)], ids=str)
def test_rows_have_the_same_deltas_by_parts(dtype: Any, sizes: tuple[int, ...], rng: Any) -> None:
    """A part of phase one begins in the middle of a panel of deltas transposed."""
    n, net = 45, Net(sizes, "tanh", dtype=np.dtype(dtype).name)
    found = []
    for n_parts in (1, 4):
        parameters, data = net.draw(np.random.default_rng(1), n)
        moments = Moments(net.network, None)
        trainer = Trainer(Engine(net.network, 1), parameters, moments, SGD(), data, n)
        session = trainer.session
        assert session.plan.layers[-1].is_transposed
        session.at(slice(0, n))
        session.batch["scale"] = 1 / n
        gradient, place = session.keep_gradient(), address(session.plan.net)
        session.blocks["forward_backward"](0, place, n_parts, TRAIN, 0)
        assert session.plan.layers[-1].is_transposed
        session.blocks["update"](0, place, 1, n, 0, 1, 0, 0)
        flat = np.empty_like(parameters)
        session.unpack(gradient, flat)
        found.append(flat.copy())
    assert np.isfinite(found[0]).all()
    assert found[0].any()
    assert found[0].tobytes() == found[1].tobytes()
