"""Communicators that stand for machines which are not there."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.cluster import DelayedCommunicator, MirrorCommunicator, threads
from fastmlp.cluster.forecast import RING_BYTES, Interconnect

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

    def work(comm: Any, **how: Any) -> Any:
        net = MLP((3, 8, 1), dtype="float64", seed=0)
        net.fit(X, y, epochs=3, batch_size=32, shuffle=False, communicator=comm, **how)
        return net.parameters

    for how in ({}, {"average_every": 2}):
        expected = on_ranks(list(threads(4)), partial(work, **how))[0]
        np.testing.assert_allclose(work(MirrorCommunicator(4), **how), expected, rtol=1e-12)


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
def test_what_is_refused(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()
