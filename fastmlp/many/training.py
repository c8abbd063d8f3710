"""The fits of many nets in a pool: on this machine, or on a worker of a cluster."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
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
from fastmlp.training.monitors import Monitors
from fastmlp.training.pool import n_threads_of
from fastmlp.training.request import FitRequest
from fastmlp.training.stream import by_buffers


class How(NamedTuple):
    """The settings of all fits of a call."""

    shuffle: bool
    callbacks: Sequence[Callback]
    monitors: Monitors

    @property
    def watched(self) -> bool:
        """True if something looks at a fit before its end."""
        return bool(self.callbacks) or self.monitors.look_at_fits


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
    jobs: list[Job], how: How, bar: Bar | None, n_threads: int | None, feed: Feed | None = None
) -> Ended:
    """Train all nets, which are locked, on as many threads; `feed` is that of a source."""
    n = n_threads_of(n_threads)
    how = how._replace(callbacks=_one_at_a_time(how.callbacks))
    if feed is None or feed.is_whole:
        return _trained(Pool(n), jobs, how, bar, None)
    shared = SharedFeed(feed, len(jobs), n)
    try:
        return _trained(Pool(len(jobs)), jobs, how, bar, shared)
    finally:
        shared.close()


def _one_at_a_time(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks under one lock: two never run at once."""
    lock = threading.Lock()

    def alone(callback: Callback, report: Report) -> None:
        with lock:
            callback(report)

    return [partial(alone, callback) for callback in callbacks]


def _trained(
    pool: Pool, jobs: list[Job], how: How, bar: Bar | None, shared: SharedFeed | None
) -> Ended:
    """Run the fits: on the CPU in the pool, on each GPU in a thread of its own."""
    fits = [_fit(job, how, bar, shared) for job in jobs]
    on_cpu = [i for i, job in enumerate(jobs) if job.core.engine.queue is None]
    of_queues: dict[str, Any] = {"shuffle": how.shuffle, "watched": how.watched, "bar": bar}
    queues = queues_of(jobs, fits, **of_queues)
    tasks = [Task(jobs[i].cost, fits[i], f"nets {jobs[i].number}") for i in on_cpu]
    ended = pool.run([*tasks, *(queue.task for queue in queues)])
    found = dict(zip(on_cpu, ended, strict=False))
    for queue in queues:
        found |= queue.outcomes
    return Ended([found.get(i) for i in range(len(jobs))], pool.interrupted)


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
