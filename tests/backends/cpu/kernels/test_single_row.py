"""Plain descent by single rows, where a step waits for the next row: as by batches, or rounded."""

from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, draw_targets, outputs_for
from nets import Net, distance, oracle_gradient
from panelled import INTERPRETED

from fastmlp import MLP, SGD, Loss
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels import single_row
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.rules.optimizers import OPTIMIZERS, coefficients_of

N_ROWS, RATE = 6, 1e-5
# The last layer of few outputs, or not; a hidden one; the only one; more than two panels of units;
# more than four.
SHAPES = [(5, 40, 19, 2), (5, 19, 20), (20, 3, 9, 3), (40, 1), (3, 7), (35, 70, 33, 1), (9, 90, 2)]
SHAPES = SHAPES[:3] if INTERPRETED else SHAPES

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_shape = pytest.mark.parametrize("sizes", SHAPES, ids=str)
each_optimizer = pytest.mark.parametrize("kind", ["sgd", "adam"])


def trainer_of(net: Net, optimizer: Any, parameters: Any, data: Any, **options: Any) -> Trainer:
    moments = Moments(net.network, None)
    return Trainer(Engine(net.network, 1), parameters, moments, optimizer, data, 1, **options)


def trained(
    net: Net, optimizer: Any, *, n_epochs: int = 1, pieces: int = 1, weighted: bool = False,
    fill: float | None = None, **options: bool,
) -> list[Any]:  # fmt: skip
    """Parameters and losses after epochs of single rows, in some calls; with anything in place of
    padding."""
    rng = np.random.default_rng(3)
    parameters, data = net.draw(rng, N_ROWS, weighted=weighted)
    if weighted:
        data.weight[[0, 3]] = 0
    trainer = trainer_of(net, optimizer, parameters, data, **options)
    session = trainer.session
    if fill is not None:
        packed, copies = session.workspace.parameters, session.workspace.copies
        session.load(np.ones_like(parameters))
        # Past the last number is room for what is read and never used.
        ours, theirs = packed == 0, copies == 0
        ours[np.flatnonzero(packed)[-1] + 1 :] = False
        session.load(parameters)
        packed[ours], copies[theirs] = fill, fill
    order = np.array([rng.permutation(N_ROWS) for _ in range(n_epochs)])
    losses, n = np.zeros(n_epochs), n_epochs * N_ROWS
    rates = RATE * np.linspace(1, 2, n)
    trainer.begin()
    for piece in range(pieces):
        first, last = piece * n // pieces, (piece + 1) * n // pieces
        coefficients = coefficients_of(optimizer, 1 + first, rates[first:last])
        trainer.run(order, coefficients, losses, first, last)
        assert not trainer.diverged
    trainer.store()
    return [parameters, losses]


@each_dtype
@each_shape
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "identity"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_it_is_what_batches_of_one_row_are(
    dtype: str, sizes: tuple[int, ...], activation: str, weighted: bool, monkeypatch: Any
) -> None:
    net = Net(sizes, activation, dtype=dtype)
    found = trained(net, SGD(), n_epochs=3, weighted=weighted)
    monkeypatch.setattr(single_row, "is_plain", lambda network, optimizer: False)
    bound = 100 * np.finfo(dtype).eps
    for one, other in zip(found, trained(net, SGD(), n_epochs=3, weighted=weighted), strict=True):
        assert distance(one, other) < bound


@each_shape
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_is_what_the_oracle_does_row_by_row(sizes: tuple[int, ...], activation: str) -> None:
    net, optimizer = Net(sizes, activation), SGD()
    parameters, data = net.draw(np.random.default_rng(3), N_ROWS)
    expected = parameters.copy()
    for r in range(N_ROWS):
        one = Data(data.x[r : r + 1], data.y[r : r + 1], data.weight)
        expected -= RATE * oracle_gradient(net, expected, one)[1]
    trainer = trainer_of(net, optimizer, parameters, data)
    trainer.begin()
    rates = coefficients_of(optimizer, 1, np.full(N_ROWS, RATE))
    trainer.run(np.arange(N_ROWS)[None], rates, np.zeros(1), 0, N_ROWS)
    trainer.store()
    assert distance(parameters, expected) < 1e-14


@each_dtype
@each_shape
@pytest.mark.parametrize("guarded", [False, True], ids=["free", "guarded"])
def test_nothing_waits_from_call_to_call(dtype: str, sizes: tuple[int, ...], guarded: bool) -> None:
    net = Net(sizes, "relu", dtype=dtype)
    whole = trained(net, SGD(), n_epochs=4, guarded=guarded)
    for pieces in (2, 3, 24):
        cut = trained(net, SGD(), n_epochs=4, pieces=pieces, guarded=guarded)
        assert [it.tobytes() for it in cut] == [it.tobytes() for it in whole]


@each_dtype
@each_shape
@each_optimizer
def test_nothing_reads_the_padding(dtype: str, sizes: tuple[int, ...], kind: str) -> None:
    net, optimizer = Net(sizes, "sigmoid", dtype=dtype), OPTIMIZERS[kind]()
    plain, filled = (trained(net, optimizer, fill=fill) for fill in (None, np.nan))
    assert [it.tobytes() for it in filled] == [it.tobytes() for it in plain]


@each_dtype
def test_a_divergence_leaves_the_parameters_of_the_epochs_start_and_no_step(dtype: str) -> None:
    net = Net((5, 40, 2), "relu", dtype=dtype)
    parameters, data = net.draw(np.random.default_rng(3), N_ROWS)
    before = parameters.copy()
    trainer = trainer_of(net, SGD(), parameters, data)
    order, losses = np.arange(N_ROWS)[None], np.zeros(1)

    def diverges(rate: float) -> bool:
        trainer.begin()
        rates = np.full((N_ROWS, 1), rate)
        trainer.run(order, rates, losses, 0, N_ROWS)
        trainer.store()
        return trainer.diverged

    assert diverges(float(np.finfo(dtype).max))
    assert np.array_equal(parameters, before)
    assert not diverges(RATE)
    again = before.copy()
    trainer = trainer_of(net, SGD(), again, data)
    parameters_after, parameters = parameters, again
    assert not diverges(RATE)
    assert np.array_equal(parameters_after, again)


def test_it_is_for_plain_descent_without_penalties() -> None:
    network = Net((3, 2)).network
    assert single_row.is_plain(network, SGD())
    assert not single_row.is_plain(network, SGD(momentum=0.9))
    assert not single_row.is_plain(network, OPTIMIZERS["adam"]())
    assert not single_row.is_plain(Net((3, 2), penalties={"l2": 0.1}).network, SGD())


@pytest.mark.parametrize("loss", [name for name in CASES if outputs_for(name, 3) == 3])
def test_a_fit_learns_by_any_loss_and_has_the_same_bits_with_threads(loss: Any, rng: Any) -> None:
    n_rows = 20 if INTERPRETED else 60
    X, y = rng.normal(size=(n_rows, 7)), draw_targets(loss, rng, n_rows, 3)
    fits = []
    for n_threads in (1, 2):
        net = MLP((7, 20, 3), loss=CASES[loss], optimizer=SGD(0.003), seed=1, n_threads=n_threads)
        fits.append((net.fit(X, y, epochs=5, batch_size=1).loss, net.parameters.tobytes()))
    assert fits[0] == fits[1]
    assert fits[0][0][-1] < fits[0][0][0]


def test_a_loss_of_yours_trains_so_too(rng: Any) -> None:
    def squared(raw: Any, target: Any) -> Any:
        error = raw - target
        return error * error, error + error

    X, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    found = []
    for loss in (Loss(squared), "mse"):
        net = MLP((3, 6, 2), loss=loss, optimizer=SGD(0.01), seed=0)
        net.fit(X, y, epochs=3, batch_size=1)
        found.append(net.parameters)
    assert distance(*found) < 1e-6
