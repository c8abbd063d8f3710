"""fit_many: many nets in one call,
one on each core or together on a GPU, over shared data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from numpy.typing import ArrayLike

from fastmlp.data.sources import Source
from fastmlp.many.groups import Cluster, client_of
from fastmlp.many.jobs import (
    WHO,
    NetJob,
    check_generators,
    is_over_source,
    jobs_of,
    jobs_over,
    nets_of,
    who,
)
from fastmlp.many.training import (
    check_devices,
    conclude,
    files_of,
    interrupted,
    locked,
    trained,
    trained_on,
)
from fastmlp.model import MLP, heads_of
from fastmlp.training.derivatives import DerivativeWeight, Given
from fastmlp.training.history import Bar, History, bar_over
from fastmlp.training.metrics import Given as Metrics
from fastmlp.training.options import EVERY, FitOptions, Listener, ValidationData
from fastmlp.training.second_order import check as check_second_order
from fastmlp.training.stopping import EarlyStopping
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.gaps import MissingTargets
from fastmlp.validation.heads import ByHead, WeightsByHead

if TYPE_CHECKING:
    from distributed import Client
else:
    Client = Any  # So that type hints can be read without it.


@explained
def fit_many(
    nets: Iterable[MLP],
    X: ArrayLike | Source,
    y: ByHead | None = None,
    *,
    epochs: int | Sequence[int] = 100,
    batch_size: int | Sequence[int] | None = None,
    shuffle: bool = True,
    target: str | Sequence[str] | None = None,
    buffer_rows: int | None = None,
    validation_data: ValidationData | Source | None = None,
    rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
    validation_rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
    validation_split: float | None = None,
    sample_weight: ArrayLike | Sequence[Any] | WeightsByHead | None = None,
    missing_targets: MissingTargets = "raise",
    derivatives: ArrayLike | None = None,
    derivative_weight: DerivativeWeight = "balanced",
    metrics: Metrics | None = None,
    early_stopping: int | EarlyStopping | None = None,
    keep_best: bool = False,
    time_limit: float | timedelta | None = None,
    callbacks: Listener | Iterable[Listener] = (),
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta = EVERY,
    resume: bool = False,
    n_threads: int | None = None,
    client: Client | Literal["auto"] | None = None,
    group_timeout: float | timedelta | None = None,
) -> list[History]:
    """Train many nets on X and y at once, one on each core.

    Each net ends with the bits of `fit`, for any number of threads, order of nets and
    other nets in the call. The costliest begin first; if fewer nets than threads
    remain, they share the threads. X is in memory once. Beside parameters and optimizer
    state a net takes memory only while it trains.

    Nets on a GPU train at the same time as nets on the CPU. Nets with the same layers,
    rules and dtype train in the same launches, as many as fit into memory; nets of
    another kind follow.

    Parameters
    ----------
    nets : sequence of MLP
        Each net once; sizes, rules, optimizers, dtypes, devices and seeds may differ.
    X : (n_rows, n_features) array of real numbers
        Not copied if C-contiguous and of the nets' dtype; else copied once for each
        dtype, and to a GPU for each launch. In the place of X and y a source, as for
        `MLP.fit`: all nets take a buffer before the next is read.
    y : (n_rows,) or (n_rows, n_outputs) array
        Targets, valid for the losses of all nets.
    epochs, batch_size : int, or a sequence of int, one per net
        None: as for `MLP.fit`.
    shuffle : bool
        Take rows in a new order each epoch.
    target, buffer_rows
        As for a source of `MLP.fit`.
    validation_data : (X, y) or (X, y, sample_weight), or a source, optional
        Rows to validate all nets on, for a source.
    rows : (n,) array of int or bool, or a sequence of one per net, optional
        Rows to train on, such as a fold or a bootstrap sample, without a copy: indices
        in any order, or a mask of shape (n_rows,). None: all rows. Results equal
        ``fit(X[rows], y[rows],
        ...)``.
    validation_rows : as `rows`, optional
        Rows to validate on after each epoch; None: no validation.
    sample_weight : (n_rows,) array, or a sequence of one or None per net, optional
        Weights of rows, in training and validation.
        Weights of targets have an axis of nets: (n_nets, n_rows, n_targets).
    missing_targets : "raise" or "ignore"
        As for `MLP.fit`.
    derivatives, derivative_weight
        As for `MLP.fit`, for arrays: `rows`, `validation_rows` and `validation_split`
        take the same rows of them. Nets may have separate ones, with a leading axis of
        nets.
    validation_split : float in (0, 1), optional
        Fraction of each net's `rows`, or of a source of blocks,
        to hold out, the last ones.
    metrics, early_stopping, keep_best, time_limit
        As for `MLP.fit`, for each net: the time begins with the net's fit.
        Metrics are computed on several threads at once.
    callbacks : callable, EarlyStopping or ReduceLROnPlateau, or a sequence of them
        Called with a `Report` after every epoch of every net; ``report.stop()`` ends
        the fit of `Report.net`. Calls come from several threads, one at a time.
    progress : bool
        Show a tqdm bar of all epochs.
    checkpoint : path, optional
        A folder for a file of each net on the CPU;
        not for sources, and not with `client`.
    checkpoint_every, resume
        As for `MLP.fit`. Finished nets are not trained again.
    n_threads : int, optional
        Number of nets to train at once; None: all threads of the process. A net's
        `n_threads` limits its share. Each GPU has one more thread, which waits.
    client : distributed.Client or "auto", optional
        Train the nets in groups on the workers of a Dask cluster; "auto": the current
        client. Results are the same on equal processors. X and y are sent to workers
        once, also for several calls; a source must be a path that all workers see.
        Callbacks and metrics are pickled. Needs the extra `dask`.
    group_timeout : float, in seconds, or timedelta, optional
        With `client`, the maximum time for a group of nets on a worker.

    Returns
    -------
    list of History, one per net
        Ctrl-C ends the call with a warning and usable nets; nets that had not begun are
        unchanged, with an empty history. A net that diverges warns, and others go on.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or two nets would shuffle by one generator;
        all nets are unchanged. The message names the net.
    RuntimeError
        If another fit of a net is running, there are no workers, or they have another
        version of fastmlp; all nets are unchanged. If workers are lost repeatedly;
        finished nets are kept.
    TimeoutError
        If a group takes longer than `group_timeout`; finished nets are kept.
    ConnectionError
        If the scheduler or the client ends; finished nets are kept.
    MemoryError
        If a net, or the rows, do not fit into memory.
        Running fits end, as with Ctrl-C, first.
    Exception
        If a callback raises it. Running fits end, as with Ctrl-C, first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, fit_many
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> nets = [MLP((1, 8 * n, 1), seed=n) for n in (1, 2, 4)]
    >>> histories = fit_many(nets, X, X**2, epochs=20, batch_size=[8, 16, 32])
    >>> [len(history.loss) for history in histories]
    [20, 20, 20]
    """
    given = Given(derivatives, derivative_weight)
    validates = validation_rows is not None
    checked = nets_of(nets)
    options = FitOptions.checked(
        WHO,
        shuffle=shuffle,
        target=target,
        buffer_rows=buffer_rows,
        validation_data=validation_data,
        validation_rows=validation_rows,
        validation_split=validation_split,
        metrics=metrics,
        early_stopping=early_stopping,
        keep_best=keep_best,
        time_limit=time_limit,
        callbacks=callbacks,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        missing_targets=missing_targets,
        derivatives=(given.known[0], validates and given.known[0]),
        heads=heads_of(checked),
    )
    if n_threads is not None:
        scalars.positive_integer(WHO, "n_threads", n_threads)
    timeout = scalars.seconds(WHO, "group_timeout", group_timeout)
    on = None if client is None else client_of(client, WHO)
    if on is None and timeout is not None:
        raise ValueError(
            f"{WHO}: group_timeout is for groups on a cluster: give client= too"
        )
    if on is not None and n_threads is not None:
        raise ValueError(
            f"{WHO}: with client= workers use their own threads: leave n_threads out"
        )
    held_out = (validation_rows, validation_split)
    weights = (sample_weight, options.ignores_gaps)
    feed, files = None, None
    parts = {
        "rows": rows,
        "validation_rows": validation_rows,
        "sample_weight": sample_weight,
        "derivatives": derivatives,
    }
    try:
        if is_over_source(X, y, validation_data, parts):
            files = None if on is None else files_of(X, validation_data)
            sizes = (epochs, batch_size)
            jobs, feed = jobs_over(checked, (X, y), validation_data, options, sizes)
        else:
            jobs = jobs_of(
                checked, X, y, epochs, batch_size, rows, held_out, weights, given=given
            )
    except KeyboardInterrupt:
        # The first call of a process imports the backend: 0.1 s.
        return interrupted([None] * len(checked))
    if not jobs:
        return []
    if checkpoint is not None and (
        feed is not None
        or on is not None
        or any(job.core.engine.queue is not None for job in jobs)
    ):
        raise ValueError(
            f"{WHO}: checkpoint is for nets on the CPU of this machine, and arrays"
        )
    if shuffle:
        check_generators(jobs)
    for i, job in enumerate(jobs):
        network, net = job.core.engine.network, job.net
        options.check_rows(network, job.held_out, who(i))
        check_second_order(network, net.optimizer, options, net.device, None, who(i))
    if on is None:
        with locked(jobs), _bar(jobs, progress) as bar:
            return conclude(trained(jobs, options, bar, n_threads, feed))
    check_devices(jobs)
    if feed is not None:
        feed.close()
    cluster = Cluster(on, WHO, timeout)
    with locked(jobs), _bar(jobs, progress) as bar:
        return conclude(trained_on(cluster, jobs, options, bar, files))


def _bar(jobs: Sequence[NetJob], progress: bool) -> AbstractContextManager[Any]:
    return bar_over(sum(job.epochs for job in jobs), len(jobs), WHO, shown=progress)


class Call(NamedTuple):
    """Arguments of `fit_many` for some nets."""

    nets: list[MLP]
    X: Any
    y: Any
    batch_size: int
    rows: Any
    validation_rows: Any
    sample_weight: Any

    def jobs(self, epochs: int) -> list[NetJob]:
        parts = self.rows, (self.validation_rows, None), (self.sample_weight, False)
        return jobs_of(self.nets, self.X, self.y, epochs, self.batch_size, *parts)


def fit_together(
    cluster: Cluster | None,
    calls: Sequence[Sequence[Any]],
    *,
    epochs: int,
    callbacks: Listener,
    time_limit: float | None,
    n_threads: int | None = None,
    bar: Bar | None = None,
    metrics: Metrics | None = None,
    early_stopping: EarlyStopping | None = None,
    **checkpoints: Any,
) -> list[list[History]]:
    """Histories of each call; the nets end with the parameters of their best epochs.

    A call has the fields of `Call`; `checkpoints` are arguments of `fit_many`.
    Successive calls would each wait for the last net. The time limit also ends an
    epoch: a net in its first epoch keeps its parameters, with an empty history.
    """
    options = FitOptions.checked(
        WHO,
        callbacks=callbacks,
        metrics=metrics,
        early_stopping=early_stopping,
        keep_best=True,
        time_limit=time_limit,
        within_epochs=True,
        validation_rows=True,
        **checkpoints,
    )
    made = [Call(*call) for call in calls]
    ends = list(accumulate(len(call.nets) for call in made))
    try:
        jobs = [job for call in made for job in call.jobs(epochs)]
    except KeyboardInterrupt:
        histories = interrupted([None] * ends[-1])
    else:
        jobs = [job._replace(number=i) for i, job in enumerate(jobs)]
        with locked(jobs):
            if cluster is None:
                histories = conclude(trained(jobs, options, bar, n_threads))
            else:
                histories = conclude(trained_on(cluster, jobs, options, bar, None))
    return [
        histories[end - len(call.nets) : end]
        for call, end in zip(made, ends, strict=True)
    ]
