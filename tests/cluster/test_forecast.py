"""What a fit on several machines would take."""

import re
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Custom
from fastmlp.backends.cpu.plan.optimizer_state import packed_numbers
from fastmlp.backends.cpu.plan.packing import Spacing
from fastmlp.backends.cpu.tuning import APART_BYTES
from fastmlp.cluster import DelayedCommunicator, MirrorCommunicator, forecast
from fastmlp.cluster.forecast import Interconnect, measured
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.target import lanes_of

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
X = np.random.default_rng(0).normal(size=(2048, 12)).astype(np.float32)
Y = X[:, :1] * X[:, 1:2]
WRONG: Any = {"batch": 64}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time short fits, once."""
    monkeypatch.setattr(forecast_module(), "SECONDS", 1e-3)
    monkeypatch.setattr(forecast_module(), "TURNS", 1)


def forecast_module() -> Any:
    """The module; the function has its name."""
    return import_module("fastmlp.cluster.forecast")


@pytest.mark.parametrize("average_every", [None, 4])
def test_a_forecast_adds_up(average_every: int | None) -> None:
    net, network = MLP((12, 256, 256, 16), seed=0), Interconnect(1e-3, 1e9)
    how: Any = {"batch_size": 256, "ranks": (2, 4, 512), "average_every": average_every}
    found = forecast(net, X, np.resize(Y, (2048, 16)), **how, **network._asdict())
    assert [(row.n_ranks, row.rows) for row in found.each_step] == [(2, 128), (4, 64)]
    # Kernels' panels are exchanged, and the empty rows after each go along.
    itemsize = net.parameters.itemsize
    apart = Spacing(APART_BYTES // (lanes_of(np.float32) * itemsize))
    n_bytes = net.parameters.nbytes
    padded = itemsize * packed_numbers(net._network, sparse=False, spacing=apart)
    for row in found.each_step:
        k = row.n_ranks
        # And the room within a split layer, and the losses, now and then.
        assert n_bytes <= row.n_bytes / (2 * (k - 1) / k) < 1.15 * padded
        exchange = network.alltoall(k, n_bytes) + network.allgather(k, n_bytes)
        assert exchange <= row.messages < 1.15 * padded / n_bytes * exchange
    assert len(found.averaged) == (0 if average_every is None else 2)
    for row, averaged in zip(found.each_step, found.averaged, strict=False):
        # Adam's moments go along, every fourth time.
        assert averaged.n_bytes == pytest.approx(row.n_bytes * 3 / 4, rel=0.1)
    for row in [*found.each_step, *found.averaged]:
        assert row.speed_up == pytest.approx(found.alone / (row.computing + row.messages))


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1), "adamw", Custom(lambda w, g, m, v, rate: (w - rate * g, m, v))]
)
def test_a_net_is_left_as_it_is(optimizer: Any) -> None:
    net = MLP((12, 8, 1), optimizer=optimizer, seed=0)
    before, rate = net.parameters.copy(), net.optimizer.learning_rate
    found = forecast(net, X, Y, batch_size=1000, ranks=[3])
    assert [row.rows for row in found.each_step] == [333]
    assert np.array_equal(net.parameters, before)
    assert (net.n_steps, net.optimizer.learning_rate) == (0, rate)


def test_a_forecast_is_a_table() -> None:
    module = forecast_module()
    row = module.RankStep(2, 2048, 1e-3, 2.5e-4, 2.7e6, 1.5)
    lines = str(module.Forecast(2e-3, [row], [row._replace(speed_up=1.9)], 16)).splitlines()
    head = " ranks rows each computing messages sent speed-up averaged"
    assert re.sub(" +", " ", f" {lines[0]}") == head
    assert re.sub(" +", " ", lines[1]) == " 2 2,048 1.00 ms 250 us 2.7 MB 1.50x 1.90x"
    assert "averaged" not in str(module.Forecast(2e-3, [row], []))


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 64])
def test_a_network_is_measured(n_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on while messages are on their way, and stands still else."""
    comm = DelayedCommunicator(
        MirrorCommunicator(n_ranks), latency=25e-6, bandwidth=8e9, clock=False
    )
    monkeypatch.setattr(time, "perf_counter", lambda: comm.seconds)
    found = measured(comm)
    assert found == pytest.approx((25e-6, 8e9), rel=0.02)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda net: forecast(net, X, Y, batch_size=4096),
            ValueError,
            "cluster.forecast: X must have the rows of a batch or more, got 2048 for a batch_size "
            "of 4096",
        ),
        (lambda net: forecast(net, X, Y, batch_size=0), ValueError, "batch_size must be"),
        (
            lambda net: forecast(net, X, Y, batch_size=64, ranks=[0]),
            ValueError,
            "cluster.forecast: ranks must be an integer of 1 or more, got 0",
        ),
        (
            lambda net: forecast(net, X, Y, batch_size=64, bandwidth=0),
            ValueError,
            "bandwidth must be a finite number above 0, got 0",
        ),
        (
            lambda net: forecast(net, X, Y, batch_size=64, average_every=0),
            ValueError,
            "average_every must be an integer of 1 or more",
        ),
        (lambda net: forecast(net, X, Y, **WRONG), TypeError, "did you mean 'batch_size'"),
    ],
)
def test_what_is_refused(call: Callable[[MLP], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(MLP((12, 8, 1)))
