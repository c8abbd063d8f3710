"""The ranks of a communicator: arrays and objects that they exchange."""

import hashlib
import pickle
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation import Array
from fastmlp.validation.messages import needs


class Communicator(Protocol):
    """The collectives that training on several ranks takes, by mpi4py's names.

    ``mpi4py.MPI.COMM_WORLD`` and the results of `fastmlp.cluster.threads` have them.
    All ranks call the same ones in the same order. Buffers are C-contiguous arrays, of
    one size on all ranks. A rank that fails calls ``Abort(errorcode)``, where the
    communicator has it, to end the others.
    """

    def Get_rank(self) -> int: ...

    def Get_size(self) -> int: ...

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send part i of `sendbuf` to rank i; rank i's goes to part i of `recvbuf`.

        The buffers have one size and dtype, and an equal part for each rank.
        """
        ...

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks; rank i's goes to part i of `recvbuf`."""
        ...


COLLECTIVES = ("Get_rank", "Get_size", "Alltoall", "Allgather")


def communicator_of(argument: Any, who: str) -> Communicator | None:
    """ "world" is MPI's communicator of all processes."""
    if argument is None:
        return None
    if isinstance(argument, str) and argument == "world":
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            needed = needs(f'{who}: communicator="world"', "mpi4py")
            raise ImportError(f"{needed} ({error})") from error
        return MPI.COMM_WORLD
    lacking = [
        name for name in COLLECTIVES if not callable(getattr(argument, name, None))
    ]
    if lacking:
        raise TypeError(
            f'{who}: communicator must be "world", or one of mpi4py, such as '
            f"MPI.COMM_WORLD, or "
            f"have its {', '.join(COLLECTIVES)}; got {argument!r}, without "
            f"{', '.join(lacking)}"
        )
    communicator: Communicator = argument
    return communicator


T = TypeVar("T")
COMPARED_BYTES = 16


class Exchange:
    """The ranks that train one net, as one of them sees them.

    Attributes
    ----------
    rank, size : number of this rank, number of ranks
    """

    rank: int
    size: int

    def __init__(self, communicator: Communicator, who: str) -> None:
        self._communicator = communicator
        self._who = who
        self._received = np.empty(0)
        # True once all ranks raise: no rank waits for another, and all may live on.
        self._fail_alike = False
        self.rank = int(communicator.Get_rank())
        self.size = int(communicator.Get_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, numbers: Array) -> None:
        """Replace numbers by their sums over the ranks,
        added in the order of the ranks.

        Each rank sums one slice and sends the sums to all,
        so all ranks have the same bits. `numbers` has whole slices.
        """
        received = self._received
        if received.size != numbers.size or received.dtype != numbers.dtype:
            received = self._received = np.empty_like(numbers)
        self._communicator.Alltoall(numbers, received)
        total, *others = received.reshape(self.size, -1)
        # A fit that diverges sees it in its losses.
        with np.errstate(all="ignore"):
            for slices in others:
                np.add(total, slices, out=total)
        self._communicator.Allgather(total, numbers)

    def allgather(self, values: Array) -> Array:
        """Return the values of all ranks,
        shape (size, n), from this rank's, shape (n,).
        """
        gathered = np.empty((self.size, len(values)), values.dtype)
        if values.size:
            self._communicator.Allgather(np.ascontiguousarray(values), gathered)
        return gathered

    def flags(self, *flags: bool) -> Array:
        return self.allgather(np.array(flags, np.uint8)) != 0

    def allgather_objects(self, content: T) -> list[T]:
        own = np.frombuffer(pickle.dumps(content), np.uint8)
        sizes = self.allgather(np.array([len(own)], np.int64))[:, 0]
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(own)] = own
        gathered = self.allgather(padded)
        return [
            pickle.loads(row[:n].tobytes())
            for row, n in zip(gathered, sizes, strict=True)
        ]

    def broadcast(self, content: T) -> T:
        """Return rank 0's object, which may be large; the others' are not sent."""
        own = np.frombuffer(pickle.dumps(content if self.is_first else None), np.uint8)
        n = int(self.allgather(np.array([len(own)], np.int64))[0, 0])
        sent = np.zeros(-(-n // self.size) * self.size, np.uint8)
        if self.is_first:
            sent[:n] = own
        # Rank i passes slice i of rank 0's on to all.
        received = np.empty_like(sent)
        self._communicator.Alltoall(sent, received)
        self._communicator.Allgather(received.reshape(self.size, -1)[0], sent)
        received_content: T = pickle.loads(sent[:n].tobytes())
        return received_content

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Raise an error on all ranks where one rank raises one;
        the body must not communicate.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        errors = self.allgather_objects(
            None if own is None else f"{type(own).__name__}: {own}"
        )
        self._fail_alike = any(text is not None for text in errors)
        if own is not None:
            raise own
        for rank, text in enumerate(errors):
            if text is not None:
                raise RuntimeError(f"{self._who}: rank {rank} has raised {text}")

    def agree(self, settings: dict[str, str]) -> None:
        all_settings = self.allgather_objects(settings)
        for name in settings:
            values = [of_rank.get(name, "") for of_rank in all_settings]
            other = next(
                (i for i, value in enumerate(values) if value != values[0]), None
            )
            if other is not None:
                self._fail_alike = True
                raise ValueError(
                    f"{self._who}: all ranks must have the same {name}, but rank 0 has "
                    f"{values[0]} and rank {other} {values[other]}"
                )

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """End all ranks where this one fails by itself: the others would wait forever.

        ``Abort`` ends this process as well, so the error is printed first.
        """
        try:
            yield
        except BaseException:
            abort = getattr(self._communicator, "Abort", None)
            if abort is not None and not self._fail_alike:
                text = (
                    f"{self._who} on rank {self.rank} of {self.size} ends all ranks:\n"
                )
                sys.stderr.write(text + traceback.format_exc())
                sys.stderr.flush()
                abort(1)
            raise


def digest(*arrays: NDArray[Any]) -> str:
    """Return a hash of C-contiguous arrays, by which a fit's data are recognised."""
    hasher = hashlib.blake2b(digest_size=COMPARED_BYTES)
    for array in arrays:
        hasher.update(repr((array.dtype.str, array.shape)).encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
