"""Communicators for machines that are not there: a model of messages, and one rank for n."""

import math
import time
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from fastmlp.training.ranks.communicator import Communicator
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Array = NDArray[Any]
# Bytes that a rank has gathered from which on a ring is taken, as in MPICH: below it doubling has
# fewer rounds, above it neighbours alone exchange.
RING_BYTES = 512 * 1024
# The end of a delay, which is spun: a sleep ends up to 0.1 ms late.
SPIN_SECONDS = 2e-4


class Interconnect(NamedTuple):
    """A full-duplex network without contention, in which k ranks exchange in rounds.

    A message of n bytes takes ``latency + 8 n / bandwidth``, as in Hockney's model, and a rank
    sends one and receives one at a time. The algorithms and their costs are those of Thakur,
    Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005.

    Attributes
    ----------
    latency : seconds of a message without bytes, software included
    bandwidth : bits a second, in each direction

    Examples
    --------
    >>> network = Interconnect(latency=30e-6, bandwidth=10e9)
    >>> f"{1e6 * network.alltoall(4, 4_000_000):.0f} us"
    '2490 us'
    """

    latency: float
    bandwidth: float

    def alltoall(self, n_ranks: int, n_bytes: int) -> float:
        """Return the seconds of an exchange of buffers of `n_bytes`, a part for each rank.

        The faster of pairwise exchange, of k - 1 rounds of a part each, and of Bruck's algorithm,
        of ``log2 k`` rounds of half of the buffer.
        """
        rounds = math.ceil(math.log2(n_ranks))
        pairwise = (n_ranks - 1) * self._message(n_bytes / n_ranks)
        return min(pairwise, rounds * self._message(n_bytes / 2))

    def allgather(self, n_ranks: int, n_bytes: int) -> float:
        """Return the seconds until each rank has `n_bytes`, a part of each rank's.

        Doubling, of ``log2 k`` rounds, or of long messages a ring, of k - 1.
        """
        parts = (n_ranks - 1) * self._bits(n_bytes / n_ranks)
        rounds = n_ranks - 1 if n_bytes >= RING_BYTES else math.ceil(math.log2(n_ranks))
        return rounds * self.latency + parts

    def _message(self, n_bytes: float) -> float:
        return self.latency + self._bits(n_bytes)

    def _bits(self, n_bytes: float) -> float:
        return 8 * n_bytes / self.bandwidth


@final
class DelayedCommunicator:
    """A communicator whose messages take as long as over a network, by a model of it.

    Parameters
    ----------
    communicator : Communicator
        What exchanges the messages, such as one of `threads`, or ``mpi4py.MPI.COMM_WORLD``.
    latency : float
        Seconds of a message without bytes: 30e-6 by TCP in a data centre, 2e-6 by InfiniBand.
    bandwidth : float
        Bits a second that a rank sends, and receives at the same time: 10e9 of 10-Gbit Ethernet.
    clock : bool, default True
        If True, each call lasts longer by what the model says; if False, `seconds` alone tells.

    Attributes
    ----------
    seconds : float
        What all messages so far have taken by the model.
    n_bytes : int
        Bytes that this rank has sent to others so far.
    n_calls : int
        Collective calls so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.cluster import DelayedCommunicator, MirrorCommunicator
    >>> ranks = MirrorCommunicator(4)
    >>> comm = DelayedCommunicator(ranks, latency=30e-6, bandwidth=10e9, clock=False)
    >>> comm.Alltoall(np.zeros(1_000_000, np.float32), np.empty(1_000_000, np.float32))
    >>> comm.n_bytes, round(comm.seconds, 5)
    (3000000, 0.00249)
    """

    @explained
    def __init__(
        self, communicator: Communicator, *, latency: float, bandwidth: float, clock: bool = True
    ) -> None:
        who = "DelayedCommunicator"
        self._communicator = communicator
        self._network = Interconnect(
            scalars.non_negative(who, "latency", latency),
            scalars.positive(who, "bandwidth", bandwidth),
        )
        scalars.boolean(who, "clock", clock)
        self._clock = clock
        self.seconds, self.n_bytes, self.n_calls = 0.0, 0, 0

    def Get_rank(self) -> int:
        """Return the number of this rank, from 0."""
        return self._communicator.Get_rank()

    def Get_size(self) -> int:
        """Return the number of ranks."""
        return self._communicator.Get_size()

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send part i of `sendbuf` to rank i; part i of `recvbuf` is what rank i sent here."""
        self._communicator.Alltoall(sendbuf, recvbuf)
        self._delay(self._network.alltoall(self.Get_size(), sendbuf.nbytes), sendbuf.nbytes)

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks; part i of `recvbuf` is what rank i sent."""
        self._communicator.Allgather(sendbuf, recvbuf)
        self._delay(self._network.allgather(self.Get_size(), recvbuf.nbytes), recvbuf.nbytes)

    def Abort(self, errorcode: int = 0) -> None:
        """Abort what exchanges the messages, if it can."""
        abort = getattr(self._communicator, "Abort", None)
        if abort is not None:
            abort(errorcode)

    def _delay(self, seconds: float, n_bytes: int) -> None:
        end = time.perf_counter() + seconds
        n = self.Get_size()
        self.seconds += seconds
        self.n_bytes += n_bytes * (n - 1) // n
        self.n_calls += 1
        if not self._clock:
            return
        if seconds > SPIN_SECONDS:
            time.sleep(seconds - SPIN_SECONDS)
        while time.perf_counter() < end:
            pass


@final
class MirrorCommunicator:
    """Rank 0 of n, all of which do what this one does: so one rank's work can be timed alone.

    A rank computes, packs, sums and copies as it would among n. What the others would send is what
    it has sent itself: after an `Alltoall`, an `Allgather` of as many numbers gives the sums of n
    equal ranks, if they are floating-point numbers, and else what this rank sent to each.

    Parameters
    ----------
    n_ranks : int of 1 or more

    Raises
    ------
    TypeError, ValueError
        If `n_ranks` is not what it must be.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.cluster import MirrorCommunicator
    >>> of_all = np.empty(3)
    >>> MirrorCommunicator(3).Allgather(np.ones(1), of_all)
    >>> of_all.tolist()
    [1.0, 1.0, 1.0]
    """

    @explained
    def __init__(self, n_ranks: int) -> None:
        self._n_ranks = scalars.positive_integer("MirrorCommunicator", "n_ranks", n_ranks)
        self._sent: Array | None = None

    def Get_rank(self) -> int:
        """Return 0."""
        return 0

    def Get_size(self) -> int:
        """Return the number of ranks."""
        return self._n_ranks

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Let each rank's part of `recvbuf` be the part of `sendbuf` that is for rank 0."""
        self._sent = sendbuf
        recvbuf.reshape(self._n_ranks, -1)[...] = np.reshape(sendbuf, (self._n_ranks, -1))[0]

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Let each rank's part of `recvbuf` be what it would send."""
        sent, self._sent = self._sent, None
        parts = recvbuf.reshape(self._n_ranks, -1)
        if sent is None or (sent.size, sent.dtype) != (recvbuf.size, recvbuf.dtype):
            parts[...] = np.ravel(sendbuf)
            return
        times = self._n_ranks if sent.dtype.kind == "f" else 1
        np.multiply(sent.reshape(parts.shape), times, out=parts, dtype=sent.dtype)
        parts[0] = np.ravel(sendbuf)


# What is sent to measure: a number to each rank, and so many bytes; as often, of which the median
# counts.
LONG_BYTES, TIMES = 1_000_000, 21


def measured(communicator: Communicator) -> Interconnect:
    """Return latency and bandwidth among ranks, of which all must call this.

    They are those at which the model takes as long as the exchange of a number, and of a megabyte,
    of each rank with each.
    """
    n_ranks = communicator.Get_size()
    short, long = (_exchange_seconds(communicator, n) for n in (8, LONG_BYTES))
    rounds = math.ceil(math.log2(n_ranks))
    a_round = max(long / (n_ranks - 1) - short / rounds, 1e-9)
    return Interconnect(short / rounds, 8 * LONG_BYTES / a_round)


def _exchange_seconds(communicator: Communicator, part_bytes: int) -> float:
    """Return the median of all ranks' times to exchange parts of so many bytes."""
    n_ranks = communicator.Get_size()
    sent = np.zeros(part_bytes * n_ranks, np.uint8)
    received, seconds = np.empty_like(sent), np.empty(TIMES)
    for i in range(TIMES):
        begin = time.perf_counter()
        communicator.Alltoall(sent, received)
        seconds[i] = time.perf_counter() - begin
    of_all = np.empty(n_ranks * TIMES)
    communicator.Allgather(seconds, of_all)
    return float(np.median(of_all))
