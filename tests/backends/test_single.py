"""Batches of one row: the same steps without the gradient in memory."""

from typing import Any

import numpy as np
import pytest
from nets import Net
from panelled import INTERPRETED, address, to_panels

from fastmlp import SGD
from fastmlp._compile import block_of
from fastmlp.backends.cpu import rules
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.moments import Moments
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.single import row_update
from fastmlp.optimizers import OPTIMIZERS
from fastmlp.updates import sgd

N_ROWS, RATE = 6, 1e-6
# The last layer of few outputs, or not; a hidden one; the only one; more than two panels of units.
SHAPES = [(5, 40, 19, 2), (5, 19, 20), (20, 3, 9, 3), (40, 1), (3, 7), (35, 70, 33, 1)]
SHAPES = SHAPES[:3] if INTERPRETED else SHAPES

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_shape = pytest.mark.parametrize("sizes", SHAPES, ids=str)


@each_dtype
@pytest.mark.parametrize("n_panels", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 64])
def test_a_step_from_a_row_is_the_step_with_its_outer_product(
    dtype: str, n_panels: int, n: int, rng: Any
) -> None:
    scalar = np.dtype(dtype).type
    lanes = lanes_of(scalar)
    x, e = rng.normal(size=(1, n)).astype(dtype), rng.normal(size=(1, n_panels * lanes))
    w = rng.normal(size=(n, n_panels * lanes)).astype(dtype)
    rate = np.array([RATE], dtype)
    numbers, errors = to_panels(x, lanes, 3), to_panels(e.astype(dtype), lanes, 3)
    weights = to_panels(w, lanes, n + 1)  # the biases' row, which is not stepped with
    before = weights.copy()
    block = block_of(row_update, scalar, sgd, light=True, n_coefficients=1)
    where = (address(weights), weights[0].nbytes, address(numbers), numbers[0].nbytes)
    block(*where, x.itemsize, address(errors), address(rate), n, n_panels)
    expected = w - rate[0] * (x.T * e.astype(dtype))
    assert np.array_equal(weights[:, :n], to_panels(expected, lanes))
    assert np.array_equal(weights[:, n], before[:, n])


def trained(net: Net, optimizer: Any, fill: float | None = None) -> list[Any]:
    """Parameters and state after an epoch of single rows; with anything in place of padding."""
    rng = np.random.default_rng(3)
    parameters, data = net.draw(rng, N_ROWS)
    moments = Moments(net.network, None)
    trainer = Engine(net.network, 1).trainer(parameters, moments, optimizer, data, 1)
    session = trainer._session
    if fill is not None:
        packed, copies = session.workspace.parameters, session.workspace.copies
        session.load(np.ones_like(parameters))
        # Past the last number is room for what is read and never used.
        ours, theirs = packed == 0, copies == 0
        ours[np.flatnonzero(packed)[-1] + 1 :] = False
        session.load(parameters)
        packed[ours], copies[theirs] = fill, fill
    order, losses = np.arange(N_ROWS)[None], np.zeros(1)
    coefficients = optimizer.coefficients(1, np.full(N_ROWS, RATE))
    trainer.run(order, coefficients, losses, 0, trainer.units_per_epoch)
    assert not trainer.diverged
    trainer.store()
    return [parameters, *moments.flat()]


@each_dtype
@each_shape
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "identity"])
def test_training_has_the_same_bits_with_the_gradient_in_memory(
    dtype: str, sizes: tuple[int, ...], activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(sizes, activation, dtype=dtype)
    without = trained(net, SGD())
    assert rules.row_optimizer(net.network, SGD()) != 0
    monkeypatch.setattr(rules, "row_optimizer", lambda network, optimizer: 0)
    for one, other in zip(without, trained(net, SGD()), strict=True):
        assert one.tobytes() == other.tobytes()


@each_dtype
@each_shape
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_nothing_reads_the_padding(dtype: str, sizes: tuple[int, ...], kind: str) -> None:
    net, optimizer = Net(sizes, "sigmoid", dtype=dtype), OPTIMIZERS[kind]()
    for one, other in zip(trained(net, optimizer), trained(net, optimizer, np.nan), strict=True):
        assert one.tobytes() == other.tobytes()


def test_optimizers_with_state_and_rules_of_users_keep_the_gradient() -> None:
    network = Net((3, 2)).network
    assert rules.row_optimizer(network, OPTIMIZERS["adam"]()) == 0
    assert rules.row_optimizer(network, SGD(momentum=0.9)) == 0
