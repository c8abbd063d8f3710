"""fit_many: many nets in one call, one on each core or in each block of a GPU, over shared data."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from fastmlp._process.task_pool import Outcome, Pool, Task, check
from fastmlp._process.warnings import warn
from fastmlp.data.reading import Reading
from fastmlp.data.sources import Source
from fastmlp.many.gpu import Fit, queues_of
from fastmlp.many.sources import SharedFeed, is_over_source, jobs_over
from fastmlp.many.tasks import WHO, Job, check_generators, jobs_of, nets_of, who
from fastmlp.model import MLP
from fastmlp.training import loop
from fastmlp.training.bar import Bar, bar_over
from fastmlp.training.history import Callback, History, Report, Status
from fastmlp.training.metrics import Given as Metrics
from fastmlp.training.monitors import Listener, Monitors, monitors_of
from fastmlp.training.pool import n_threads_of, pool_of
from fastmlp.training.request import FitRequest
from fastmlp.training.stopping import EarlyStopping
from fastmlp.training.stream import by_buffers
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.fits import ValidationData


@explained
def fit_many(
    nets: Iterable[MLP],
    X: ArrayLike | Source,
    y: ArrayLike | None = None,
    *,
    epochs: int | Sequence[int] = 100,
    batch_size: int | Sequence[int] = 32,
    shuffle: bool = True,
    target: str | Sequence[str] | None = None,
    buffer_rows: int | None = None,
    validation_data: ValidationData | Source | None = None,
    rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
    validation_rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
    validation_split: float | None = None,
    sample_weight: ArrayLike | Sequence[ArrayLike | None] | None = None,
    metrics: Metrics | None = None,
    early_stopping: int | EarlyStopping | None = None,
    keep_best: bool = False,
    time_limit: float | timedelta | None = None,
    callbacks: Listener | Iterable[Listener] = (),
    progress: bool = False,
    n_threads: int | None = None,
) -> list[History]:
    """Train many nets on X and y at once, one on each core.

    Each net ends with the bits of its own `fit`, for any number of threads, order of the nets and
    other nets in the call. The costliest begin first; if fewer nets than threads remain, the
    remaining nets share the threads. X is in memory once for all nets. Beside its parameters and
    its optimizer's state, two numbers a parameter, a net takes memory only while it trains.

    Nets with a GPU as their device train there, at the same time as the nets on the CPU. Small
    nets, which train as one block in their own fits too, train many in a launch, if they have the
    same layers, rules, dtype, epochs and batch size, and nothing that looks at their epochs. The
    other nets on a GPU train one after the other.

    Parameters
    ----------
    nets : sequence of MLP
        Of any sizes, depths, rules, optimizers, penalties, dtypes, devices and seeds; each net
        once.
    X : (n_rows, n_features) array of real numbers
        Not copied if it is C-contiguous and of the nets' dtype; else once for each dtype. On a GPU
        it is copied there for each launch, or each net that trains by itself. In the place of X
        and y a source, as for `MLP.fit`: a buffer of it goes to all nets before the next is read.
    y : (n_rows,) or (n_rows, n_outputs) array
        Targets, valid for the losses of all nets.
    epochs, batch_size : int, or a sequence of int, one per net
    shuffle : bool
        Take the rows in a new order each epoch.
    target, buffer_rows
        As for `MLP.fit`, of a source.
    validation_data : (X, y) or (X, y, sample_weight), or a source, optional
        With a source, the rows to validate all nets on.
    rows : (n,) array of int or bool, or a sequence of one per net, optional
        The rows to train on, as of a fold or a bootstrap sample, without a copy: indices in any
        order, or a mask of shape (n_rows,). None: all rows. A net ends as it would with
        ``fit(X[rows], y[rows], ...)``.
    validation_rows : as `rows`, optional
        The rows to validate on after each epoch; None: no validation.
    sample_weight : (n_rows,) array, or a sequence of one or None per net, optional
        How much each row counts, in training and in validation.
    validation_split : float in (0, 1), optional
        Hold out this fraction of each net's `rows`, the last ones, or of the rows of a source of
        blocks, and validate on them.
    metrics, early_stopping, keep_best, time_limit
        As for `MLP.fit`, for each net by itself: the time begins with the net's own fit. Metrics
        are computed on several threads at once.
    callbacks : callable, EarlyStopping or ReduceLROnPlateau, or a sequence of them
        Each callable is called with a `Report` after every epoch of every net; `Report.net` is the
        net, and ``report.stop()`` ends its fit. Calls come from several threads, one at a time.
    progress : bool
        Show a tqdm bar of all epochs.
    n_threads : int, optional
        How many nets to train at once; None: as many as the process may use threads. A net whose
        own `n_threads` is less than its share uses no more than that. Nets on GPUs do not count:
        each GPU has one thread more, which waits for it.

    Returns
    -------
    list of History, one per net
        Ctrl-C ends the call with a warning; nets that had not begun are unchanged, with an empty
        history, and all are usable. A net that diverges warns, and the others go on.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid, or two nets would shuffle by one generator; all nets are
        unchanged then, and nothing has been compiled. The message names the net.
    RuntimeError
        If a net is being fitted already; all nets are unchanged then.
    MemoryError
        If a net, or the rows, do not fit into memory. The fits that run then end, as with
        Ctrl-C, before it is raised.
    Exception
        If a callback raises it. The fits that run then end, as with Ctrl-C, before it is raised.

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
    scalars.boolean(WHO, "shuffle", shuffle)
    scalars.boolean(WHO, "progress", progress)
    if n_threads is not None:
        scalars.positive_integer(WHO, "n_threads", n_threads)
    for name, given in (("rows", validation_rows), ("data", validation_data)):
        if given is not None and validation_split is not None:
            raise ValueError(f"{WHO}: give validation_{name} or validation_split, not both")
    held_out = (validation_rows, validation_split)
    listeners, monitors = monitors_of(
        WHO,
        callbacks,
        early_stopping=early_stopping,
        keep_best=keep_best,
        metrics=metrics,
        time_limit=time_limit,
        validated=any(given is not None for given in (*held_out, validation_data)),
    )
    each = nets_of(nets)
    reading, feed = Reading(1, 1, shuffle, buffer_rows, target=target), None
    reading = reading._replace(validation_split=validation_split)
    parts = {"rows": rows, "validation_rows": validation_rows, "sample_weight": sample_weight}
    try:
        if is_over_source(X, y, validation_data, parts):
            sizes = (epochs, batch_size)
            jobs, feed = jobs_over(each, (X, y), validation_data, reading, sizes)
        else:
            jobs = jobs_of(each, X, y, epochs, batch_size, rows, held_out, sample_weight)
    except KeyboardInterrupt:
        # The first call of a process imports Numba there: 0.3 s.
        return _interrupted([None] * len(each))
    if not jobs:
        return []
    if shuffle:
        check_generators(jobs)
    for i, job in enumerate(jobs):
        monitors.check(job.core.engine.network, job.held_out, who(i))
    how = How(shuffle, _one_at_a_time(listeners), monitors)
    if feed is None or feed.is_whole:
        return _train(jobs, how, progress, pool_of(n_threads))
    shared = SharedFeed(feed, len(jobs), n_threads_of(n_threads))
    try:
        return _train(jobs, how, progress, Pool(len(jobs)), shared)
    finally:
        shared.close()


class How(NamedTuple):
    """The settings of all fits of a call."""

    shuffle: bool
    callbacks: Sequence[Callback]
    monitors: Monitors

    @property
    def watched(self) -> bool:
        """True if something looks at a fit before its end."""
        return bool(self.callbacks) or self.monitors.look_at_fits


def _one_at_a_time(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks under one lock: two never run at once."""
    lock = threading.Lock()

    def locked(callback: Callback, report: Report) -> None:
        with lock:
            callback(report)

    return [partial(locked, callback) for callback in callbacks]


def _train(
    jobs: list[Job], how: How, progress: bool, pool: Pool, shared: SharedFeed | None = None
) -> list[History]:
    """Train all nets; each is locked against another fit meanwhile."""
    with ExitStack() as stack:
        for i, job in enumerate(jobs):
            stack.enter_context(job.core.state.lock.training(who(i)))
            job.core.state.feature_names = job.names
        n_epochs = sum(job.epochs for job in jobs)
        bar = stack.enter_context(bar_over(n_epochs, len(jobs), WHO, shown=progress))
        fits = [_fit(job, how, bar, shared) for job in jobs]
        of_queues = {"shuffle": how.shuffle, "watched": how.watched, "bar": bar}
        outcomes = _outcomes(pool, jobs, fits, of_queues)
    for i, outcome in enumerate(outcomes):
        for message, category in outcome.warnings if outcome else ():
            warn(f"{who(i)}: {message}", category)
    if pool.interrupted:
        return _interrupted(outcomes)
    return _histories(outcomes)


def _histories(outcomes: Sequence[Outcome | None]) -> list[History]:
    return [out.result if out else History(status=Status.INTERRUPTED) for out in outcomes]


def _interrupted(outcomes: Sequence[Outcome | None]) -> list[History]:
    """Return the histories of a call that Ctrl-C has ended, and warn."""
    histories = _histories(outcomes)
    done = sum(history.status is not Status.INTERRUPTED for history in histories)
    begun = sum(outcome is not None for outcome in outcomes)
    warn(
        f"{WHO} interrupted: {done} of {len(histories)} nets are done, {begun - done} keep what "
        "they have learnt so far, and the others are as they were",
        UserWarning,
    )
    return histories


def _outcomes(
    pool: Pool, jobs: list[Job], fits: list[Fit], how: dict[str, Any]
) -> list[Outcome | None]:
    """Run the fits: on the CPU in the pool, on each GPU in a thread of its own."""
    on_cpu = [i for i, job in enumerate(jobs) if job.core.engine.queue is None]
    queues = queues_of(jobs, fits, **how)
    tasks = [Task(jobs[i].cost, fits[i], f"nets {i}") for i in on_cpu]
    ended = pool.run([*tasks, *(queue.task for queue in queues)])
    found = dict(zip(on_cpu, ended, strict=False))
    for queue in queues:
        found |= queue.outcomes
    return [found.get(i) for i in range(len(jobs))]


def _fit(job: Job, how: How, bar: Bar | None, shared: SharedFeed | None) -> Fit:
    """Return a function that trains a net as its own fit does."""

    def fit() -> History:
        check()
        request = FitRequest(
            job.data,
            job.epochs,
            job.batch_size,
            shuffle=how.shuffle,
            held_out=job.held_out,
            callbacks=how.callbacks,
            monitors=how.monitors,
            progress=False if bar is None else bar,
            net=job.net,
        )
        over = request if shared is None else by_buffers(request, shared.part(), *job.core)
        loop.fit(*job.core, over)
        history = request.history
        if bar is not None:
            bar.net_ends(job.epochs - len(history.loss))
        return history

    return fit
