"""Fits on ranks that are threads,
and the rows that one process would take in the same batches.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import MLP, Adam
from fastmlp.backends.cpu.rank_trainer import places_of
from fastmlp.cluster import ThreadCommunicator, threads

Array = NDArray[Any]
# Of the ranks that are processes.
SHARES = (1000, 3, 0, 500)


def outcomes(
    n: int, work: Callable[[ThreadCommunicator], Any], timeout: float = 300
) -> list[Any]:
    """Do the work on n ranks, a thread each;
    return what each returns, or the error it raises.
    """
    results: list[Any] = [None] * n

    def on(communicator: ThreadCommunicator) -> None:
        try:
            results[communicator.Get_rank()] = work(communicator)
        except BaseException as error:
            results[communicator.Get_rank()] = error

    ranks = [
        threading.Thread(target=on, args=(each,))
        for each in threads(n, timeout=timeout)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(2 * timeout)
        assert not rank.is_alive(), "a rank hangs"
    return results


def on_ranks(n: int, work: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """Do the work on n ranks; return what each returns, or raise the first error."""
    result = outcomes(n, work)
    for each in result:
        if isinstance(each, BaseException):
            raise each
    return result


def parts_of(array: Array, n_rows: Sequence[int]) -> list[Array]:
    """Return the rows of each rank."""
    return np.split(array, np.cumsum(n_rows)[:-1])


def in_batches(n_rows: Sequence[int], batch_size: int) -> list[int]:
    """Return the rows of all ranks in the order in which one process takes the same
    batches.
    """
    places = places_of(n_rows, batch_size)
    starts = np.cumsum([0, *n_rows])
    order: list[int] = []
    for s in range(places.shape[1] - 1):
        for rank, rows_of_rank in enumerate(places):
            order += range(
                starts[rank] + rows_of_rank[s], starts[rank] + rows_of_rank[s + 1]
            )
    return order


def rows_of(rank: int) -> tuple[Array, Array]:
    """Return the rows of a rank that is a process."""
    X = np.random.default_rng(rank).normal(size=(SHARES[rank], 5))
    return X, np.sin(X[:, :1]) * X[:, 1:2]


def made() -> MLP:
    """Return the net that processes train."""
    return MLP((5, 16, 1), optimizer=Adam(0.01), dropout=0.2, seed=1, dtype="float64")


def slots_of(net: MLP) -> Array:
    """Return the state of a trained net's optimizer, shape (n_slots, n_parameters)."""
    slots = net._state.slots()
    assert slots is not None
    return slots
