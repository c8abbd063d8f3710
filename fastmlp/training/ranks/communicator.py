"""What training asks of the processes, or threads, that share it."""

from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from fastmlp.validation.packages import needs

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


CommunicatorLike: TypeAlias = Communicator | Literal["world"]
NAMES = ("Get_rank", "Get_size", "Alltoall", "Allgather")


def communicator_of(given: Any, who: str) -> Communicator | None:
    """Return the communicator that is meant by the argument: "world" is MPI's of all processes.

    Raises
    ------
    ImportError
        If it is "world", and mpi4py, or an MPI, is not installed.
    TypeError
        If it is none.
    """
    if given is None:
        return None
    if isinstance(given, str) and given == "world":
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            needed = needs(f'{who}: communicator="world"', "mpi4py")
            raise ImportError(f"{needed} ({error})") from error
        return MPI.COMM_WORLD
    lacking = [name for name in NAMES if not callable(getattr(given, name, None))]
    if lacking:
        raise TypeError(
            f'{who}: communicator must be "world", or one of mpi4py, such as MPI.COMM_WORLD, or '
            f"have its {', '.join(NAMES)}; got {given!r}, without {', '.join(lacking)}"
        )
    found: Communicator = given
    return found
