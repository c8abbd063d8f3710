"""The fits of many nets in a pool: on this machine, or on a worker of a cluster."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from fastmlp._process.task_pool import Outcome, Pool, Task, check
from fastmlp.data.feed import Feed
from fastmlp.many.gpu import Fit, queues_of
from fastmlp.many.sources import SharedFeed
from fastmlp.many.tasks import Job, who
from fastmlp.training import loop
from fastmlp.training.bar import Bar
from fastmlp.training.history import Callback, History, Report
from fastmlp.training.options import FitOptions
from fastmlp.training.pool import n_threads_of
from fastmlp.training.request import FitRequest
from fastmlp.training.rows import by_buffers


class Ended(NamedTuple):
    """The nets' outcomes, None for those that had not begun, and True if Ctrl-C ended the call."""

    outcomes: Sequence[Outcome | None]
    interrupted: bool


def locked(jobs: Sequence[Job]) -> ExitStack:
    """Return a context in which no other fit of the nets begins; they know their columns in it."""
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(job.core.state.lock.training(who(job.number)))
            job.core.state.feature_names = job.names
        return stack.pop_all()


def trained(
    jobs: list[Job],
    options: FitOptions,
    bar: Bar | None,
    n_threads: int | None,
    feed: Feed | None = None,
) -> Ended:
    """Train all nets, which are locked, on as many threads; `feed` is that of a source."""
    n = n_threads_of(n_threads)
    options = replace(options, callbacks=_one_at_a_time(options.callbacks))
    if feed is None or feed.is_whole:
        return _trained(Pool(n), jobs, options, bar, None)
    shared = SharedFeed(feed, len(jobs), n)
    try:
        return _trained(Pool(len(jobs)), jobs, options, bar, shared)
    finally:
        shared.close()


def _one_at_a_time(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return the callbacks under one lock: two never run at once."""
    lock = threading.Lock()

    def alone(callback: Callback, report: Report) -> None:
        with lock:
            callback(report)

    return tuple(partial(alone, callback) for callback in callbacks)


def _trained(
    pool: Pool, jobs: list[Job], options: FitOptions, bar: Bar | None, shared: SharedFeed | None
) -> Ended:
    """Run the fits: on the CPU in the pool, on each GPU in a thread of its own."""
    fits = [_fit(job, options, bar, shared) for job in jobs]
    on_cpu = [i for i, job in enumerate(jobs) if job.core.engine.queue is None]
    of_queues: dict[str, Any] = {"shuffle": options.shuffle, "watched": options.watched, "bar": bar}
    queues = queues_of(jobs, fits, **of_queues)
    tasks = [Task(jobs[i].cost, fits[i], f"nets {jobs[i].number}") for i in on_cpu]
    ended = pool.run([*tasks, *(queue.task for queue in queues)])
    found = dict(zip(on_cpu, ended, strict=False))
    for queue in queues:
        found |= queue.outcomes
    return Ended([found.get(i) for i in range(len(jobs))], pool.interrupted)


def _fit(job: Job, options: FitOptions, bar: Bar | None, shared: SharedFeed | None) -> Fit:
    """Return a function that trains a net as its own fit does."""

    def fit() -> History:
        check()
        progress: Any = False if bar is None else bar
        own = replace(options, epochs=job.epochs, batch_size=job.batch_size, progress=progress)
        request = FitRequest(job.data, own, held_out=job.held_out, net=job.net)
        feed = None if shared is None else shared.part()
        loop.fit(*job.core, request, by_buffers(request, feed, *job.core))
        history = request.history
        if bar is not None:
            bar.net_ends(job.epochs - len(history.loss))
        return history

    return fit
