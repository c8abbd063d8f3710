"""Ranks in one process, one a thread."""

import threading
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

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
