"""Phase one by rows, by panels and by split-K: the same bits into however many parts it is cut."""

from typing import Any

import numpy as np
import pytest
from nets import Net, distance, oracle_gradient
from panelled import INTERPRETED
from phases import scene

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.by_panels import forward_backward_by_panels
from fastmlp.backends.cpu.kernels.output_layer import EVALUATE, TRAIN
from fastmlp.backends.cpu.kernels.split_k import split_k, split_k_backward
from fastmlp.backends.cpu.plan import partition
from fastmlp.compiler import block_of

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(5, 19, 1), (5, 19, 20, 2), (5, 19, 33)], ids=str)
def test_rows_have_the_same_errors_by_strips(
    sizes: tuple[int, ...], activation: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a team begins in the middle of a panel of errors transposed."""
    at = scene(monkeypatch, Net(sizes, activation, dtype=dtype), 45)  # six strips
    assert at.session.plan.layers[-1].is_transposed == (sizes[-1] < 3)

    def in_parts(n_parts: int) -> Any:
        block = at.session.blocks["forward_backward"]
        return lambda: block(0, at.net, n_parts, TRAIN, 0)

    assert len({at.gradient(in_parts(n_parts)) for n_parts in (1, 2, 4, 6, 9)}) == 1


each_activation = pytest.mark.parametrize("activation", ["relu", "tanh"])
SIZES = [(37, 19, 2), (40, 34 if INTERPRETED else 90, 33, 5), (33, 70, 40)]
N_ROWS = 21 if INTERPRETED else 45


@each_dtype
@each_activation
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("split", [0, 1])
def test_panels_have_the_bits_of_rows(
    split: int,
    sizes: tuple[int, ...],
    activation: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net(sizes, activation, dtype=dtype)
    at = scene(monkeypatch, net, N_ROWS, split_layer=split, by_panels=True)
    assert at.session.net["by_panels"]
    by_rows, by_panels = (
        at.session.blocks["forward_backward"],
        block_of(forward_backward_by_panels, dtype),
    )
    alone = at.gradient(lambda: by_rows(0, at.net, 1, TRAIN, 0))

    def in_parts(n_parts: int) -> Any:
        def phase_one() -> None:
            if split:
                block_of(split_k, dtype)(0, at.net, n_parts)
            by_panels(0, at.net, n_parts, TRAIN, split)

        return phase_one

    assert {at.gradient(in_parts(n_parts), split) for n_parts in (1, 2, 3, 5)} == {alone}


@each_dtype
def test_a_loss_alone_computes_no_deltas(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = scene(monkeypatch, Net((17, 90, 33, 5), "relu", dtype=dtype), 45, by_panels=True)
    by_panels = block_of(forward_backward_by_panels, dtype)
    losses = at.session.plan.strip_losses[:6]
    at.gradient(lambda: by_panels(0, at.net, 2, TRAIN, 0))
    trained = losses.copy()
    at.session.workspace.deltas.fill(7)
    losses.fill(0)
    by_panels(0, at.net, 2, EVALUATE, 0)
    assert losses.tobytes() == trained.tobytes()
    assert (at.session.workspace.deltas == 7).all()


TOLERANCE = {"float64": 1e-10, "float32": 2e-5}


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize(
    ("sizes", "split_layer"),
    [((40, 33), 1), ((70, 19, 3), 1), ((37, 12, 2), 1), ((5, 70, 40, 3), 2), ((3, 33, 17), 2)],
)
@pytest.mark.parametrize("n_rows", [1, 7, 37 if INTERPRETED else 133])
def test_gradient_by_halves_is_that_of_the_oracle(
    n_rows: int,
    sizes: tuple[int, ...],
    split_layer: int,
    activation: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    net = Net(sizes, activation, penalties={"l2": 0.1}, dtype=dtype)
    parameters, data = net.draw(rng, n_rows, weighted=True)
    value, gradient = Engine(net.network, 1).loss_and_gradient(parameters, data)
    expected, slopes = oracle_gradient(net, parameters, data)
    assert gradient.dtype == net.dtype
    assert value == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)
    assert distance(gradient, slopes) <= TOLERANCE[dtype]


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize(
    ("sizes", "split_layer"),
    [((40, 33), 1), ((70, 19, 20), 1), ((5, 70, 40, 3), 2), ((3, 33, 17), 2)],
)
def test_parts_of_halves_have_the_bits_of_one_thread(
    sizes: tuple[int, ...],
    split_layer: int,
    activation: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, n_rows = Net(sizes, activation, dtype=dtype), 21 if INTERPRETED else 45
    at = scene(monkeypatch, net, n_rows, split_layer=split_layer)
    assert at.session.net["split_layer"] == split_layer
    by_rows = at.session.blocks["forward_backward"]
    alone = at.gradient(lambda: by_rows(0, at.net, 1, TRAIN, 0))

    def in_parts(n_parts: int) -> Any:
        def phase_one() -> None:
            block_of(split_k, dtype)(0, at.net, n_parts)
            by_rows(0, at.net, n_parts, TRAIN, split_layer)
            if split_layer > 1:
                block_of(split_k_backward, dtype)(0, at.net, n_parts)

        return phase_one

    assert {at.gradient(in_parts(n_parts), split_layer) for n_parts in (1, 2, 3, 5)} == {alone}
