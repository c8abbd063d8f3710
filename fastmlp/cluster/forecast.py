"""Ranks in one process: threads, simulated networks, and a forecast of a fit on machines."""

import copy
import math
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.model import MLP
from fastmlp.training.history import Status
from fastmlp.training.ranks.exchange import Communicator
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Array = NDArray[Any]


class _Meeting:
    """The state that ranks share: a barrier, and the array that each of them sends."""

    def __init__(self, n: int, timeout: float) -> None:
        self.barrier, self.timeout = threading.Barrier(n), timeout
        self.sent: list[Array] = [np.empty(0)] * n

    def wait(self) -> None:
        """Wait for all ranks.

        Raises
        ------
        RuntimeError
            If one has aborted, or has not come within the timeout.
        """
        try:
            self.barrier.wait(self.timeout)
        except threading.BrokenBarrierError:
            raise RuntimeError(
                f"another rank has failed, or has not come within {self.timeout:g} seconds: all "
                "ranks must make the same calls, each in a thread of its own"
            ) from None


@final
class ThreadCommunicator:
    """One rank of several threads of a process, of those that `threads` makes.

    It has the collectives that `MLP.fit` takes from MPI's communicators, by their names.

    Examples
    --------
    >>> from fastmlp.cluster import threads
    >>> [communicator.Get_rank() for communicator in threads(3)]
    [0, 1, 2]
    """

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self._rank, self._meeting = rank, meeting

    def Get_rank(self) -> int:
        """Return the number of this rank, from 0."""
        return self._rank

    def Get_size(self) -> int:
        """Return the number of ranks."""
        return len(self._meeting.sent)

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send part i of `sendbuf` to rank i; part i of `recvbuf` comes from rank i."""
        parts = self._exchanged(sendbuf, recvbuf)
        for part, sent in zip(parts, self._meeting.sent, strict=True):
            part[...] = sent.reshape(parts.shape)[self._rank]
        self._meeting.wait()

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks; part i of `recvbuf` comes from rank i."""
        parts = self._exchanged(sendbuf, recvbuf)
        for part, sent in zip(parts, self._meeting.sent, strict=True):
            part[...] = sent.reshape(-1)
        self._meeting.wait()

    def _exchanged(self, sendbuf: Array, recvbuf: Array) -> Array:
        """Show `sendbuf` to the others, and wait for theirs; return the parts of `recvbuf`."""
        parts = recvbuf.reshape(self.Get_size(), -1)
        self._meeting.sent[self._rank] = sendbuf
        self._meeting.wait()
        return parts

    def Abort(self, errorcode: int = 0) -> None:
        """End the waiting of all other ranks, now and later, by an error."""
        self._meeting.barrier.abort()

    def __repr__(self) -> str:
        return f"ThreadCommunicator(rank {self._rank} of {self.Get_size()})"


@explained
def threads(n: int, *, timeout: float = 600.0) -> list[ThreadCommunicator]:
    """Return the communicators of so many ranks, each for a thread of this process.

    Parameters
    ----------
    n : int of 1 or more
    timeout : float
        Seconds that a rank waits for the others in one call, before it raises.

    Returns
    -------
    list of ThreadCommunicator, one per rank

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or value.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import numpy as np
    >>> from fastmlp.cluster import threads
    >>> def of_all(comm):
    ...     ranks = np.empty(comm.Get_size(), np.int64)
    ...     comm.Allgather(np.array([comm.Get_rank()]), ranks)
    ...     return ranks.tolist()
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(pool.map(of_all, threads(2)))
    [[0, 1], [0, 1]]
    """
    who = "threads"
    n = scalars.positive_integer(who, "n", n)
    valid = scalars.is_positive(timeout)
    seconds = scalars.real(who, "timeout", timeout, "a positive number of seconds", valid)
    meeting = _Meeting(n, seconds)
    return [ThreadCommunicator(rank, meeting) for rank in range(n)]


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
        The one that exchanges the messages: of `threads`, or ``mpi4py.MPI.COMM_WORLD``.
    latency : float
        Seconds of a message without bytes: 30e-6 by TCP in a data centre, 2e-6 by InfiniBand.
    bandwidth : float
        Bits a second that a rank sends, and receives at the same time: 10e9 of 10-Gbit Ethernet.
    clock : bool, default True
        If True, each call lasts longer by the model's time; if False, `seconds` alone counts it.

    Attributes
    ----------
    seconds : float
        The time of all messages so far, by the model.
    n_bytes : int
        Bytes that this rank has sent to others so far.
    n_calls : int
        Collective calls so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or value.

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
        """Send part i of `sendbuf` to rank i; part i of `recvbuf` comes from rank i."""
        self._communicator.Alltoall(sendbuf, recvbuf)
        self._delay(self._network.alltoall(self.Get_size(), sendbuf.nbytes), sendbuf.nbytes)

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks; part i of `recvbuf` comes from rank i."""
        self._communicator.Allgather(sendbuf, recvbuf)
        self._delay(self._network.allgather(self.Get_size(), recvbuf.nbytes), recvbuf.nbytes)

    def Abort(self, errorcode: int = 0) -> None:
        """Abort the communicator below, if it can."""
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
    """Rank 0 of n equal ranks, so that one rank's work can be timed alone.

    A rank computes, packs, sums and copies as it would among n. It receives from the others the
    numbers that it has sent itself: after an `Alltoall`, an `Allgather` of as many numbers gives
    the sums of n equal ranks, if they are floating-point numbers, and else its own part.

    Parameters
    ----------
    n_ranks : int of 1 or more

    Raises
    ------
    TypeError, ValueError
        If `n_ranks` is of a wrong type or value.

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
        """Fill `recvbuf` with the parts that the ranks would send."""
        sent, self._sent = self._sent, None
        parts = recvbuf.reshape(self._n_ranks, -1)
        if sent is None or (sent.size, sent.dtype) != (recvbuf.size, recvbuf.dtype):
            parts[...] = np.ravel(sendbuf)
            return
        times = self._n_ranks if sent.dtype.kind == "f" else 1
        np.multiply(sent.reshape(parts.shape), times, out=parts, dtype=sent.dtype)
        parts[0] = np.ravel(sendbuf)


# Messages that measure a network: parts of one number, and of so many bytes. Each is sent as often
# as this, and the median counts.
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


RANKS = (2, 4, 8, 16, 32, 64)
LATENCY, BANDWIDTH = 30e-6, 10e9
# Seconds of a fit that is timed, and how many are: the fastest counts.
SECONDS, TURNS = 0.2, 3


class RankStep(NamedTuple):
    """A step of one of several ranks.

    Attributes
    ----------
    n_ranks : int
    rows : rows of a step on each rank
    computing : seconds of a step without messages, measured
    messages : seconds of a step's messages, computed
    n_bytes : bytes that a rank sends a step
    speed_up : time of a step on one machine over that on these
    """

    n_ranks: int
    rows: int
    computing: float
    messages: float
    n_bytes: float
    speed_up: float


class Forecast(NamedTuple):
    """A step on one machine, and on as many as there are ranks; `str` shows it as a table.

    Attributes
    ----------
    alone : float
        Seconds of a step on this machine, measured.
    each_step : list of RankStep
        With the gradient summed over the ranks in each step.
    averaged : list of RankStep
        With parameters averaged every `average_every` steps; empty without.
    average_every : int or None

    Examples
    --------
    >>> from fastmlp.cluster import Forecast
    >>> prediction = Forecast(alone=0.02, each_step=[], averaged=[])
    >>> prediction.alone
    0.02
    """

    alone: float
    each_step: list[RankStep]
    averaged: list[RankStep]
    average_every: int | None = None

    def __str__(self) -> str:
        return "\n".join(_lines(self))


@explained
def forecast(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    batch_size: int,
    latency: float = LATENCY,
    bandwidth: float = BANDWIDTH,
    ranks: Sequence[int] = RANKS,
    average_every: int | None = None,
) -> Forecast:
    """Return the time that a step of `fit` would take on several machines like this one.

    Fits on one machine are timed, and those of one rank of several, as `MirrorCommunicator` makes
    it, with its share of each batch. To the latter the time of the messages is added, by
    `DelayedCommunicator`'s model. Nothing is overlapped. The net is not trained. It takes about a
    second for each number of ranks, and twice as long with `average_every`.

    Parameters
    ----------
    net : MLP
        It trains on all threads that it may use, as one rank a machine does.
    X : (n_rows, n_features) array
        Some of the rows, at least a batch; better several.
    y : array
        Their targets.
    batch_size : int
        Rows of a step, on all ranks together.
    latency : float, default 30e-6
        Seconds of a message without bytes.
    bandwidth : float, default 10e9
        Bits a second between two machines.
    ranks : sequence of int, default (2, 4, 8, 16, 32, 64)
        Numbers of machines; those above `batch_size` are left out.
    average_every : int, optional
        As of `fit`: shows the averages of every so many steps beside the sums of each.

    Returns
    -------
    Forecast

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or value, such as fewer rows than a batch; or by `fit`.

    See Also
    --------
    fastmlp.MLP.fit : its `communicator` and `average_every`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, cluster
    >>> X = np.random.default_rng(0).normal(size=(4096, 20))
    >>> net = MLP((20, 64, 64, 1), seed=0)
    >>> two = cluster.forecast(net, X, X[:, 0], batch_size=1024, ranks=(2, 4), bandwidth=100e9)
    >>> [step.rows for step in two.each_step]
    [512, 256]
    """
    who = "cluster.forecast"
    batch = scalars.positive_integer(who, "batch_size", batch_size)
    numbers = [scalars.positive_integer(who, "ranks", rank) for rank in ranks]
    if average_every is not None:
        average_every = scalars.positive_integer(who, "average_every", average_every)
    network = {
        "latency": scalars.non_negative(who, "latency", latency),
        "bandwidth": scalars.positive(who, "bandwidth", bandwidth),
    }
    data = _TimedBatches(net, X, y, batch, who)
    alone = data.timed(len(data.X), batch).seconds

    def of_ranks(n: int, every: int | None) -> RankStep:
        rows = batch // n
        comm = DelayedCommunicator(MirrorCommunicator(n), **network, clock=False)
        step = data.timed(data.n_steps * rows, n * rows, comm, every)
        speed_up = alone / (step.seconds + step.messages)
        return RankStep(n, rows, step.seconds, step.messages, step.n_bytes, speed_up)

    fitting = [n for n in numbers if n <= batch]
    each_step = [of_ranks(n, None) for n in fitting]
    averaged = [of_ranks(n, average_every) for n in fitting] if average_every else []
    return Forecast(alone, each_step, averaged, average_every)


class _StepTime(NamedTuple):
    """The time of a step, that of its messages, and the bytes sent."""

    seconds: float
    messages: float = 0.0
    n_bytes: float = 0.0


class _TimedBatches:
    """Whole batches of rows, on which copies of a net are trained, timed."""

    def __init__(self, net: MLP, X: Any, y: Any, batch: int, who: str) -> None:
        self.n_steps = len(X) // batch
        if not self.n_steps:
            sizes = f"got {len(X)} for a batch_size of {batch}"
            raise ValueError(f"{who}: X must have the rows of a batch or more, {sizes}")
        n = self.n_steps * batch
        self._net, self.X, self._y, self._who = copy.copy(net), X[:n], y[:n], who

    def timed(
        self,
        n_rows: int,
        batch: int,
        comm: DelayedCommunicator | None = None,
        every: int | None = None,
    ) -> _StepTime:
        """The time of a step in the fastest of several fits on the first rows."""
        net = copy.copy(self._net)

        def fit(epochs: int) -> _StepTime:
            sent = (comm.seconds, comm.n_bytes) if comm else (0.0, 0)
            begin = time.perf_counter()
            history = net.fit(
                self.X[:n_rows],
                self._y[:n_rows],
                epochs=epochs,
                batch_size=batch,
                communicator=comm,
                average_every=every,
            )
            seconds = time.perf_counter() - begin
            if history.status is Status.DIVERGED:
                raise ValueError(f"{self._who}: the net diverges on these rows")
            now = (comm.seconds, comm.n_bytes) if comm else (0.0, 0)
            return _StepTime(seconds, now[0] - sent[0], now[1] - sent[1])

        fit(1)
        single = fit(1)
        n = max(2, round(SECONDS / single.seconds))
        several = min(fit(n) for _ in range(TURNS))
        # The messages before the first step, on settings and sizes, are no step's.
        later = (n - 1) * self.n_steps
        messages, n_bytes = ((b - a) / later for a, b in zip(single[1:], several[1:], strict=True))
        return _StepTime(several.seconds / (n * self.n_steps), messages, n_bytes)


def _lines(prediction: Forecast) -> list[str]:
    head = f"{'ranks':>5}  {'rows each':>9}  {'computing':>10}  {'messages':>10}  {'sent':>8}"
    head += f"  {'speed-up':>8}"
    lines = [f"{head}  {'averaged':>8}" if prediction.averaged else head]
    for i, step in enumerate(prediction.each_step):
        line = f"{step.n_ranks:>5}  {step.rows:>9,}  {_time(step.computing):>10}"
        line += f"  {_time(step.messages):>10}  {_bytes(step.n_bytes):>8}  {step.speed_up:>7.2f}x"
        lines.append(
            line + (f"  {prediction.averaged[i].speed_up:>7.2f}x" if prediction.averaged else "")
        )
    return lines


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def _bytes(n: float) -> str:
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"
