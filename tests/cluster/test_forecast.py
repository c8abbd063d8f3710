"""The forecast of a fit on several machines, and ranks that stand for them."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler

from fastmlp import MLP, SGD, Custom
from fastmlp.backends.cpu.plan.optimizer_state import packed_numbers
from fastmlp.backends.cpu.plan.packing import Spacing
from fastmlp.backends.cpu.tuning import APART_BYTES
from fastmlp.cluster import DelayedCommunicator, MirrorCommunicator, forecast, threads
from fastmlp.cluster.forecast import RING_BYTES, Interconnect, measured
from fastmlp.compiler.target import lanes_of

X = np.random.default_rng(0).normal(size=(2048, 12)).astype(np.float32)
Y = X[:, :1] * X[:, 1:2]
WRONG: Any = {"batch": 64}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time short fits, once."""
    monkeypatch.setattr(forecast_module(), "SECONDS", 1e-3)
    monkeypatch.setattr(forecast_module(), "TURNS", 1)


def forecast_module() -> Any:
    """The module; the function has its name."""
    return import_module("fastmlp.cluster.forecast")


@needs_compiler
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("average_every", [None, 4])
def test_a_forecast_adds_up(average_every: int | None) -> None:
    net, network = MLP((12, 256, 256, 16), seed=0), Interconnect(1e-3, 1e9)
    options: Any = {"batch_size": 256, "ranks": (2, 4, 512), "average_every": average_every}
    result = forecast(net, X, np.resize(Y, (2048, 16)), **options, **network._asdict())
    assert [(row.n_ranks, row.rows) for row in result.each_step] == [(2, 128), (4, 64)]
    # Kernels' panels are exchanged, and the empty rows after each go along.
    itemsize = net.parameters.itemsize
    apart = Spacing(APART_BYTES // (lanes_of(np.float32) * itemsize))
    n_bytes = net.parameters.nbytes
    padded = itemsize * packed_numbers(net._network, sparse=False, spacing=apart)
    for row in result.each_step:
        k = row.n_ranks
        # And the room within a split layer, and the losses, now and then.
        assert n_bytes <= row.n_bytes / (2 * (k - 1) / k) < 1.15 * padded
        exchange = network.alltoall(k, n_bytes) + network.allgather(k, n_bytes)
        assert exchange <= row.messages < 1.15 * padded / n_bytes * exchange
    assert len(result.averaged) == (0 if average_every is None else 2)
    for row, averaged in zip(result.each_step, result.averaged, strict=False):
        # Adam's moments go along, every fourth time.
        assert averaged.n_bytes == pytest.approx(row.n_bytes * 3 / 4, rel=0.1)
    for row in [*result.each_step, *result.averaged]:
        assert row.speed_up == pytest.approx(result.alone / (row.computing + row.messages))


@needs_compiler
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "optimizer", [SGD(0.1), "adamw", Custom(lambda w, g, m, v, rate: (w - rate * g, m, v))]
)
def test_a_net_is_left_as_it_is(optimizer: Any) -> None:
    net = MLP((12, 8, 1), optimizer=optimizer, seed=0)
    before, rate = net.parameters.copy(), net.optimizer.learning_rate
    result = forecast(net, X, Y, batch_size=1000, ranks=[3])
    assert [row.rows for row in result.each_step] == [333]
    assert np.array_equal(net.parameters, before)
    assert (net.n_steps, net.optimizer.learning_rate) == (0, rate)


@needs_compiler
@pytest.mark.usefixtures("short")
def test_a_forecast_is_a_table() -> None:
    module = forecast_module()
    row = module.RankStep(2, 2048, 1e-3, 2.5e-4, 2.7e6, 1.5)
    lines = str(module.Forecast(2e-3, [row], [row._replace(speed_up=1.9)], 16)).splitlines()
    head = " ranks rows each computing messages sent speed-up averaged"
    assert re.sub(" +", " ", f" {lines[0]}") == head
    assert re.sub(" +", " ", lines[1]) == " 2 2,048 1.00 ms 250 us 2.7 MB 1.50x 1.90x"
    assert "averaged" not in str(module.Forecast(2e-3, [row], []))


@needs_compiler
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("n_ranks", [2, 3, 4, 64])
def test_a_network_is_measured(n_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on while messages are on their way, and stands still else."""
    comm = DelayedCommunicator(
        MirrorCommunicator(n_ranks), latency=25e-6, bandwidth=8e9, clock=False
    )
    monkeypatch.setattr(time, "perf_counter", lambda: comm.seconds)
    result = measured(comm)
    assert result == pytest.approx((25e-6, 8e9), rel=0.02)


@needs_compiler
@pytest.mark.usefixtures("short")
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


# A message takes a second, and a second a byte.
SLOW = Interconnect(latency=1.0, bandwidth=8.0)


def on_ranks(communicators: list[Any], work: Callable[[Any], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(communicators)) as pool:
        return list(pool.map(work, communicators))


def exchanged_by_bruck(n: int) -> int:
    """The parts that a rank sends in Bruck's algorithm, counted: in a round of distance d, those
    whose way has the bit d."""
    return sum((part & (1 << bit)) > 0 for bit in range(n.bit_length()) for part in range(n))


@pytest.mark.parametrize("n", [2, 4, 8, 16, 64])
def test_the_faster_exchange_counts(n: int) -> None:
    rounds = n.bit_length() - 1
    assert exchanged_by_bruck(n) == rounds * n // 2
    # Of a part of a byte each, and of a part of a thousand.
    short, long = n, 1000 * n
    assert SLOW.alltoall(n, short) == pytest.approx(
        min(2 * (n - 1), rounds + exchanged_by_bruck(n))
    )
    assert SLOW.alltoall(n, long) == pytest.approx((n - 1) * 1001)


@pytest.mark.parametrize(("n", "rounds"), [(2, 1), (3, 2), (4, 2), (5, 3), (64, 6)])
def test_long_messages_are_gathered_in_a_ring(n: int, rounds: int) -> None:
    assert SLOW.allgather(n, n) == pytest.approx(rounds + n - 1)
    assert SLOW.allgather(n, n * RING_BYTES) == pytest.approx((n - 1) * (1 + RING_BYTES))


def test_one_rank_sends_nothing() -> None:
    assert SLOW.alltoall(1, 1000) == SLOW.allgather(1, 1000) == 0


def test_messages_arrive_and_are_counted() -> None:
    def work(comm: DelayedCommunicator) -> tuple[Any, ...]:
        rank = comm.Get_rank()
        received, gathered = np.empty(6), np.empty((3, 1))
        comm.Alltoall(10.0 * rank + np.repeat(np.arange(3), 2), received)
        comm.Allgather(np.array([rank]) + 0.5, gathered)
        return received.tolist(), gathered.ravel().tolist(), comm

    ranks = [DelayedCommunicator(comm, latency=1, bandwidth=8, clock=False) for comm in threads(3)]
    for rank, (received, gathered, comm) in enumerate(on_ranks(ranks, work)):
        assert received == [*[rank] * 2, *[10 + rank] * 2, *[20 + rank] * 2]
        assert gathered == [0.5, 1.5, 2.5]
        # Two parts of 16 bytes, then two of 8.
        assert (comm.n_calls, comm.n_bytes) == (2, 48)
        assert comm.seconds == pytest.approx(2 * 17 + 2 + 16)
        assert (comm.Get_rank(), comm.Get_size()) == (rank, 3)


def test_by_the_clock_a_call_takes_its_time() -> None:
    comm = DelayedCommunicator(MirrorCommunicator(2), latency=0.02, bandwidth=1e12)
    begin = time.perf_counter()
    comm.Allgather(np.ones(1), np.empty(2))
    assert time.perf_counter() - begin >= comm.seconds > 0.02


def test_an_abort_is_passed_on() -> None:
    one, other = threads(2, timeout=5)
    DelayedCommunicator(one, latency=0, bandwidth=1).Abort(1)
    with pytest.raises(RuntimeError, match="another rank has failed"):
        other.Allgather(np.ones(1), np.empty(2))
    DelayedCommunicator(MirrorCommunicator(2), latency=0, bandwidth=1).Abort(1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_mirror_is_rank_0_of_ranks_that_do_the_same(dtype: Any) -> None:
    """Floating-point numbers are summed, others passed on; all ranks send the same."""

    def work(comm: Any) -> list[Any]:
        numbers, received, gathered = np.arange(6, dtype=dtype), np.empty(6, dtype), np.empty(4)
        comm.Allgather(np.arange(2.0), gathered)
        comm.Alltoall(numbers, received)
        parts = received.reshape(2, -1)
        comm.Allgather(parts.sum(0) if dtype == np.float32 else parts[0].copy(), numbers)
        return [comm.Get_rank(), comm.Get_size(), *gathered.tolist(), *numbers.tolist()]

    assert work(MirrorCommunicator(2)) == on_ranks(list(threads(2)), work)[0]


def test_a_net_trains_with_its_mirror_as_with_ranks_of_the_same_rows() -> None:
    X = np.random.default_rng(0).normal(size=(64, 3))
    y = X[:, 0] * X[:, 1]

    def work(comm: Any, **arguments: Any) -> Any:
        net = MLP((3, 8, 1), dtype="float64", seed=0)
        net.fit(X, y, epochs=3, batch_size=32, shuffle=False, communicator=comm, **arguments)
        return net.parameters

    for arguments in ({}, {"average_every": 2}):
        expected = on_ranks(list(threads(4)), partial(work, **arguments))[0]
        np.testing.assert_allclose(work(MirrorCommunicator(4), **arguments), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MirrorCommunicator(0), ValueError, "n_ranks must be an integer of 1 or more"),
        (
            lambda: DelayedCommunicator(MirrorCommunicator(2), latency=-1, bandwidth=1),
            ValueError,
            "DelayedCommunicator: latency must be a finite number of 0 or more, got -1",
        ),
        (
            lambda: DelayedCommunicator(MirrorCommunicator(2), latency=0, bandwidth="10Gbit"),  # type: ignore[arg-type]
            TypeError,
            "bandwidth must be a finite number above 0, got '10Gbit'",
        ),
    ],
)
def test_ranks_that_are_refused(
    make: Callable[[], Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()
