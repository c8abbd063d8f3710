"""The argument `client`: a client of Dask's, checked."""

import sys
from typing import Any

from fastmlp.validation.packages import needs


def client_of(given: Any, who: str) -> Any:
    """Return the client that is meant by the argument `client`: itself, or by "auto" the current.

    Raises
    ------
    TypeError
        If it is neither.
    ImportError
        If it is "auto", and distributed is not installed.
    ValueError
        If it is "auto", and there is no client; or the client is closed, or asynchronous; or this
        is a task of a worker.
    """
    _check_no_task(who)
    if given == "auto":
        try:
            from distributed import get_client
        except ImportError as error:
            raise ImportError(needs(f'{who}: client="auto"', "distributed")) from error
        try:
            given = get_client()
        except ValueError as error:
            raise ValueError(
                f'{who}: client="auto" found no client: make one, distributed.Client(address)'
            ) from error
    kind = getattr(sys.modules.get("distributed"), "Client", ())
    if not isinstance(given, kind):
        raise TypeError(f'{who}: client must be a distributed.Client, or "auto", got {given!r}')
    if given.asynchronous or given.status != "running":
        state = "asynchronous" if given.asynchronous else given.status
        raise ValueError(f"{who}: client must be a running one that is not asynchronous: {state}")
    return given


def _check_no_task(who: str) -> None:
    """Raise ValueError in a task of a worker's: it would wait for tasks that need its thread."""
    module = sys.modules.get("distributed.worker")
    if module is not None and hasattr(module.thread_state, "execution_state"):
        raise ValueError(
            f"{who}: client= is for the program that has the client, and this is a task on a "
            "worker: leave client out, and the task trains on its own threads"
        )
