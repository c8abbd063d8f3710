"""Public names for clusters: predictions of Dask's collections,
and ranks that are threads.
"""

import sys
import threading
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from fastmlp import predict_arrow
from fastmlp.extend import explained, messages, scalars
from fastmlp.typing import Array

__all__ = ["ThreadCommunicator", "predict", "threads"]
WHO = "cluster.predict"


@explained
def predict(
    model: Any,
    collection: Any,
    *,
    keep: str | Sequence[str] = (),
    output: str = "prediction",
    probabilities: bool = False,
) -> Any:
    """Return the predictions of a Dask DataFrame or a Dask Array,
    as a collection of the same kind.

    Dask reads and predicts on compute. Each partition is a task, and the model goes to
    each worker once. A task uses one thread in workers that are processes. The module
    needs the extra `dask`.

    Parameters
    ----------
    model : MLP or fitted estimator, or a model of tables
        Columns of a DataFrame are found by name;
        a model without names takes all columns but `keep`, in order.
    collection : dask.dataframe.DataFrame or dask.array.Array of shape (n_rows, n_features)
        Arrays must have all columns in one chunk.
    keep : str or sequence of str
        Columns of a DataFrame to pass on before the predictions.
    output : str, default "prediction"
        A DataFrame's column of predictions, as in `predict_arrow`.
    probabilities : bool, default False
        Add probabilities of classes to a DataFrame. For an array,
        return `predict_proba` in place of the predictions.

    Returns
    -------
    dask.dataframe.DataFrame
        With the index and the divisions of `collection`,
        and the columns of `predict_arrow`.
    dask.array.Array
        With the chunks of rows of `collection`,
        and the shape and dtype of the predictions.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, columns are in several chunks, or a
        DataFrame lacks a column; on compute, if numbers of a partition are wrong.
    ImportError
        If pyarrow is not installed, and the collection is a DataFrame.

    See Also
    --------
    fastmlp.predict_parquet : writes the predictions of files that one machine reads.

    Examples
    --------
    >>> import dask.array
    >>> from fastmlp import MLP, cluster
    >>> net = MLP((3, 8, 2), loss="cross_entropy", seed=0)
    >>> X = dask.array.zeros((100, 3), chunks=(40, 3))
    >>> predictions = cluster.predict(net, X)
    >>> predictions.chunks, predictions[:2].compute().shape
    (((40, 40, 20), (2,)), (2, 2))
    """
    scalars.boolean(WHO, "probabilities", probabilities)
    if not hasattr(model, "predict") or isinstance(model, type):
        raise TypeError(
            f"{WHO}: model must be an MLP or a fitted estimator, got {model!r}"
        )
    if _is(collection, "dask.dataframe", "DataFrame"):
        form = {"keep": keep, "output": output, "probabilities": probabilities}
        return _of_frame(model, collection, form)
    if not _is(collection, "dask.array", "Array"):
        raise TypeError(
            f"{WHO}: collection must be a Dask DataFrame or a Dask Array, got one of "
            f"type {type(collection).__name__}; predict_parquet takes files, and "
            f"predict rows in memory"
        )
    if len(keep) or output != "prediction":
        raise ValueError(
            f"{WHO}: keep and output are for a DataFrame, and this is an array"
        )
    return _of_array(model, collection, probabilities)


def _is(value: Any, module: str, name: str) -> bool:
    """True for an object of one of Dask's classes, without an import of Dask."""
    return isinstance(value, getattr(sys.modules.get(module), name, ()))


def _sent_once(model: Any) -> Any:
    """The model as one value of the graph; else each task would hold a copy."""
    from dask import delayed

    return delayed(model, traverse=False)


def _of_frame(model: Any, frame: Any, form: dict[str, Any]) -> Any:
    from dask.dataframe.utils import meta_nonempty

    names = list(frame.columns)
    unnamed = [repr(name) for name in names if not isinstance(name, str)]
    if unnamed:
        raise TypeError(
            f"{WHO}: the names of columns must be str, got {messages.listed(unnamed)}"
        )
    # Predictions of two made-up rows also check the columns and the other arguments.
    meta = _frame_predictions(meta_nonempty(frame._meta), model, form, None).iloc[:0]
    return frame.map_partitions(
        _frame_predictions, _sent_once(model), form, meta, meta=meta
    )


def _frame_predictions(frame: Any, model: Any, form: dict[str, Any], none: Any) -> Any:
    """Predictions of a pandas frame; `none`: predictions without rows."""
    if not len(frame):
        return none.set_axis(frame.index)
    table = (
        predict_arrow(model, frame, batch_rows=len(frame), **form)
        .read_all()
        .to_pandas()
    )
    table.index = frame.index
    # The columns of the frame: Arrow may return other dtypes.
    return table.assign(
        **{name: frame[name] for name in table.columns if name in frame}
    )


def _of_array(model: Any, rows: Any, probabilities: bool) -> Any:
    """Predictions as a lazy array: one chunk for each chunk of rows.

    The prediction of one row of zeros gives dtype and shape, before Dask runs any
    chunk.
    """
    if rows.ndim != 2:
        raise ValueError(f"{WHO}: an array must have 2 dimensions, got {rows.ndim}")
    if rows.numblocks[1] != 1:
        raise ValueError(
            f"{WHO}: all columns must be in one chunk, but there are "
            f"{rows.numblocks[1]} chunks of "
            "columns: give X.rechunk({1: -1})"
        )
    if probabilities and not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{WHO}: {type(model).__name__} has no predict_proba; an MLP whose loss "
            "owns a link returns probabilities by predict"
        )
    method = "predict_proba" if probabilities else "predict"
    row = getattr(model, method)(np.zeros((1, rows.shape[1]), rows.dtype))
    chunks = (rows.chunks[0], *((n,) for n in row.shape[1:]))
    return rows.map_blocks(
        _array_predictions,
        _sent_once(model),
        method,
        row[:0],
        token="predictions",
        dtype=row.dtype,
        chunks=chunks,
        drop_axis=[] if row.ndim == 2 else [1],
        meta=row[:0],
    )


def _array_predictions(rows: Array, model: Any, method: str, none: Array) -> Array:
    predictions: Array = getattr(model, method)(rows) if len(rows) else none
    return predictions


class _Meeting:
    """State that ranks share: a barrier, and the array that each rank sends."""

    def __init__(self, n: int, timeout: float) -> None:
        self.barrier = threading.Barrier(n)
        self.timeout = timeout
        self.sent: list[Array] = [np.empty(0)] * n

    def wait(self) -> None:
        try:
            self.barrier.wait(self.timeout)
        except threading.BrokenBarrierError:
            raise RuntimeError(
                f"another rank has failed, or has not come within {self.timeout:g} "
                "seconds: all ranks must make the same calls, each in another thread"
            ) from None


@final
class ThreadCommunicator:
    """One of several ranks that are threads of a process, made by `threads`.

    The methods are MPI's collectives that `MLP.fit` uses.

    Examples
    --------
    >>> from fastmlp.cluster import threads
    >>> [communicator.Get_rank() for communicator in threads(3)]
    [0, 1, 2]
    """

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self._rank = rank
        self._meeting = meeting

    def Get_rank(self) -> int:
        """Return the number of this rank, from 0."""
        return self._rank

    def Get_size(self) -> int:
        """Return the number of ranks."""
        return len(self._meeting.sent)

    def Alltoall(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send part i of `sendbuf` to rank i,
        and receive part i of `recvbuf` from rank i.
        """
        parts = self._exchanged(sendbuf, recvbuf)
        for part, sent in zip(parts, self._meeting.sent, strict=True):
            part[...] = sent.reshape(parts.shape)[self._rank]
        self._meeting.wait()

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        """Send `sendbuf` to all ranks, and receive part i of `recvbuf` from rank i."""
        parts = self._exchanged(sendbuf, recvbuf)
        for part, sent in zip(parts, self._meeting.sent, strict=True):
            part[...] = sent.reshape(-1)
        self._meeting.wait()

    def _exchanged(self, sendbuf: Array, recvbuf: Array) -> Array:
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
    """Return the communicators of n ranks, each for one thread of this process.

    Parameters
    ----------
    n : int of 1 or more
    timeout : float
        Seconds that a rank waits for others in one call before an error.

    Returns
    -------
    list of ThreadCommunicator, one per rank

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

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
    seconds = scalars.real(
        who, "timeout", timeout, "a positive number of seconds", valid
    )
    meeting = _Meeting(n, seconds)
    return [ThreadCommunicator(rank, meeting) for rank in range(n)]


def __dir__() -> list[str]:
    """Return the public names, without imported modules."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
