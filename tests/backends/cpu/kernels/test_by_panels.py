"""Phase one by panels of each layer: the bits of phase one by rows."""

from typing import Any

import pytest
from nets import Net
from panelled import INTERPRETED
from phases import scene

from fastmlp.backends.cpu.kernels.by_panels import forward_backward_by_panels
from fastmlp.backends.cpu.kernels.output_layer import EVALUATE, TRAIN
from fastmlp.backends.cpu.kernels.split_k import split_k
from fastmlp.compiler import block_of

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
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
