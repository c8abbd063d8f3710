"""Phase one by rows: the same bits into however many parts a team cuts them."""

from typing import Any

import pytest
from nets import Net
from phases import scene

from fastmlp.backends.cpu.kernels.output_layer import TRAIN

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
