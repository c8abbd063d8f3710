"""What training asks of the processes, or threads, that share it."""

from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


class Communicator(Protocol):
    """The collectives that training on several ranks takes, by the names of mpi4py.

    ``mpi4py.MPI.COMM_WORLD`` is one, and so is what `fastmlp.cluster.threads` returns. All ranks
    call the same ones in the same order. Buffers are C-contiguous arrays, of one size on all ranks.
    One that has ``Abort(errorcode)`` as well ends the other ranks by it where this one fails.
    """

    def Get_rank(self) -> int:
        """Return the number of this rank, from 0."""
        ...

    def Get_size(self) -> int:
        """Return the number of ranks."""
        ...

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send part i of `sendbuf` to rank i; part i of `recvbuf` is what rank i sent here.

        Both have the same size and dtype, as many equal parts as there are ranks.
        """
        ...

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks; part i of `recvbuf` is what rank i sent."""
        ...
