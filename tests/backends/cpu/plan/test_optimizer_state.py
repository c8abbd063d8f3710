"""An optimizer's state lies as a training wants it, and is the same whoever has trained it."""

import copy
from typing import Any

import numpy as np
import pytest
from nets import Net
from panelled import INTERPRETED

from fastmlp import MLP, Adam
from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing

SPACINGS = [CLOSE, Spacing(16, 0), Spacing(16, 1), Spacing(32, 2)]
RNG = np.random.default_rng(0)
N_ROWS = 70 if INTERPRETED else 200
X = RNG.normal(size=(N_ROWS, 20)).astype(np.float32)
Y = RNG.normal(size=(N_ROWS, 2)).astype(np.float32)


def trained(n_threads: int) -> list[Any]:
    """What a net has after each of several trainings, which want its state in different ways."""
    net = MLP((20, 40, 70, 2), optimizer=Adam(0.01), seed=0, n_threads=n_threads)
    seen = []
    for batch_size in (64, 1, 40, 3):
        net.fit(X, Y, epochs=1, batch_size=batch_size)
        seen.append(net.parameters.tobytes())
    net.apply_gradient(net.loss_and_gradient(X, Y)[1])
    seen.append(net.parameters.tobytes())
    net = copy.deepcopy(net)
    net.fit(X, Y, epochs=1, batch_size=64)
    return [*seen, net.parameters.tobytes()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("first", SPACINGS)
@pytest.mark.parametrize("second", SPACINGS)
def test_an_arrangement_moves_every_number(dtype: Any, first: Spacing, second: Spacing) -> None:
    network = Net((20, 40, 70, 2), dtype=dtype).network
    state = RNG.normal(size=(2, network.layout.n_parameters)).astype(dtype)
    moments = Moments(network, state)
    for spacing in (first, second):
        moments.arrange(spacing)
        assert moments.spacing == spacing
        assert np.array_equal(moments.flat(), state)
    assert np.count_nonzero(moments.m) == np.count_nonzero(state[0])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_state_that_has_taken_no_step_is_zeros(spacing: Spacing) -> None:
    network = Net((20, 40, 70, 2), dtype="float32").network
    moments, apart = Moments(network), Moments(network)
    apart.arrange(spacing)
    assert not moments.flat().any()
    assert not apart.flat().any()
    assert len(apart.m) == len(apart.v) >= len(moments.m)
    assert (len(apart.m) > len(moments.m)) == (spacing != CLOSE)


def test_trainings_on_one_thread_and_on_two_share_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_model, "pays", lambda work, n_threads: n_threads > 1)
    assert trained(1) == trained(2)
