"""Fits of many nets: in a pool on this machine, on GPUs, or on a cluster's workers.

Errors, interrupts and time limits end them together.
"""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from fastmlp._process import collect_warnings, task_pool, warn
from fastmlp._process.task_pool import Outcome, Pool, Stopped, Task, check
from fastmlp.backends.protocol import GroupEngine, Launches, Span, n_threads_of
from fastmlp.data.arrow import paths_of
from fastmlp.data.feed import Feed
from fastmlp.many.groups import Cluster
from fastmlp.many.jobs import WHO, NetJob, SharedFeed, jobs_over, who
from fastmlp.training import loop
from fastmlp.training.history import (
    Bar,
    Callback,
    History,
    Report,
    Status,
)
from fastmlp.training.options import FitOptions, by_buffers
from fastmlp.training.request import FitRequest
from fastmlp.validation.expanded import Expanded
from fastmlp.validation.messages import count

# Maximum operations, 0.5 ms of one thread, of fits without threads.
SHORT_FLOPS = 20_000_000
STORED_SUFFIX = ".safetensors"


class GpuQueue:
    """Nets on one GPU. Equal kinds train in the same launches,
    with the bits of single fits.

    Parameters
    ----------
    index : number of the GPU
    jobs : by the nets' numbers
    request : from a net's job to the request of the fit
    bar : of the epochs of all nets, or None

    Attributes
    ----------
    outcomes : of the nets that have begun, by number
    """

    def __init__(
        self,
        index: int,
        jobs: Mapping[int, NetJob],
        request: Callable[[NetJob], FitRequest],
        bar: Bar | None,
    ) -> None:
        self._index = index
        self._jobs = jobs
        self._request = request
        self._bar = bar
        self._fits: dict[int, tuple[FitRequest, Generator[Span[Any]]]] = {}
        self._warned: dict[int, list[Any]] = {i: [] for i in jobs}
        self.outcomes: dict[int, Outcome] = {}

    @property
    def task(self) -> Task:
        """The task that trains all nets;
        its thread waits for the GPU most of the time.
        """
        return Task(0.0, self._run, f"nets on cuda:{self._index}", apart=True)

    def _run(self) -> None:
        kinds: dict[Any, list[int]] = {}
        for i, job in self._jobs.items():
            key = _group_engine(job).kind(job.core.state, job.data)
            kinds.setdefault(key, []).append(i)
        for places in kinds.values():
            while places:
                task_pool.check()
                jobs = [self._jobs[i] for i in places]
                members = [(*job.core, job.data) for job in jobs]
                most = max(job.batch_size for job in jobs)
                launches = _group_engine(jobs[0]).launches(members, most)
                self._train(launches, places[: launches.n_nets])
                places = places[launches.n_nets :]

    def _train(self, launches: Launches, places: Sequence[int]) -> None:
        for net, i in enumerate(places):
            job = self._jobs[i]
            request = self._request(job)
            request.trainer_options = {"seat": launches.seat(net)}
            self._fits[i] = request, loop.spans_of(*job.core, request)
        try:
            while spans := [
                span for i in [*self._fits] if (span := self._next(i)) is not None
            ]:
                launches.run(spans)
        except BaseException:
            for i in [*self._fits]:
                with suppress(Exception, Stopped):
                    self._next(i, Stopped())
            raise

    def _next(self, i: int, error: Stopped | None = None) -> Span[Any] | None:
        """The next span of a net's fit, or None at the end; an error ends the fit."""
        request, spans = self._fits[i]
        try:
            with collect_warnings() as warned:
                if error is None:
                    return next(spans)
                return spans.throw(error)
        except StopIteration:
            self._conclude(i, request.history)
        except Exception as raised:
            raised.add_note(f"in nets {i}")
            raise
        finally:
            self._warned[i] += warned
        return None

    def _conclude(self, i: int, history: History) -> None:
        del self._fits[i]
        self.outcomes[i] = Outcome(history, self._warned[i])
        if self._bar is not None:
            self._bar.net_ends(self._jobs[i].epochs - len(history.loss))


def _group_engine(job: NetJob) -> GroupEngine[Any]:
    return cast(GroupEngine[Any], job.core.engine)


def queues_of(jobs: list[NetJob], *arguments: Any) -> list[GpuQueue]:
    """Queues of the GPUs that have nets; `arguments` follow the jobs of `GpuQueue`."""
    places: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        if job.core.engine.queue is not None:
            places.setdefault(job.core.engine.queue, []).append(i)
    return [
        GpuQueue(index, {i: jobs[i] for i in numbers}, *arguments)
        for index, numbers in places.items()
    ]


class CallOutcomes(NamedTuple):
    """Outcomes of nets, None for nets that had not begun,
    and True if Ctrl-C ended the call.
    """

    outcomes: Sequence[Outcome | None]
    interrupted: bool


def locked(jobs: Sequence[NetJob]) -> ExitStack:
    """A context in which other fits of the nets are refused,
    and the nets know their columns.
    """
    with ExitStack() as stack:
        for job in jobs:
            state = job.core.state
            stack.enter_context(state.lock.training(who(job.number)))
            state.feature_names = job.names
        return stack.pop_all()


def trained(
    jobs: list[NetJob],
    options: FitOptions,
    bar: Bar | None,
    n_threads: int | None,
    feed: Feed | None = None,
) -> CallOutcomes:
    """Train all locked nets on up to `n_threads` threads; `feed` reads a source."""
    n = n_threads_of(n_threads)
    options = options.having(
        callbacks=_one_at_a_time(options.callbacks),
        progress=bar if bar is not None else False,
    )
    if options.checkpoint is not None:
        Path(options.checkpoint).mkdir(parents=True, exist_ok=True)
    if feed is None or feed.is_whole:
        shared = None
    else:
        shared = SharedFeed(feed, len(jobs), n)
    # On the CPU in the pool, on each GPU in a separate thread.
    on_cpu = [i for i, job in enumerate(jobs) if job.core.engine.queue is None]
    request = partial(_request, options=options)
    if len(on_cpu) < len(jobs):
        queues = queues_of(jobs, request, bar)
    else:
        queues = []
    tasks = [
        Task(
            jobs[i].cost,
            partial(_fit, jobs[i], request, bar, shared),
            f"nets {jobs[i].number}",
        )
        for i in on_cpu
    ]
    seen = options.metrics or options.callbacks or options.look_at_epochs
    work = sum(task.cost - loop.FIT_FLOPS for task in tasks)
    is_short = not (shared or queues or seen) and work <= SHORT_FLOPS
    pool = Pool(n if shared is None else len(jobs), is_here=is_short)
    try:
        ended = pool.run([*tasks, *(queue.task for queue in queues)])
    finally:
        if shared is not None:
            shared.close()
    outcomes = dict(zip(on_cpu, ended, strict=False))
    for queue in queues:
        outcomes |= queue.outcomes
    return CallOutcomes([outcomes.get(i) for i in range(len(jobs))], pool.interrupted)


def _one_at_a_time(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Callbacks under one lock: two never run at once."""
    lock = threading.Lock()

    def alone(callback: Callback, report: Report) -> None:
        with lock:
            callback(report)

    return tuple(partial(alone, callback) for callback in callbacks)


def _request(job: NetJob, options: FitOptions) -> FitRequest:
    own = options.having(epochs=job.epochs, batch_size=job.batch_size)
    if options.checkpoint is not None:
        own = own.having(
            checkpoint=Path(options.checkpoint, f"{job.number}{STORED_SUFFIX}")
        )
    return FitRequest(job.data, own, held_out=job.held_out, net=job.net)


def _fit(
    job: NetJob,
    request_of: Callable[[NetJob], FitRequest],
    bar: Bar | None,
    shared: SharedFeed | None,
) -> History:
    check()
    request = request_of(job)
    (engine, state) = job.core
    feed = None if shared is None else shared.part()
    request.open_checkpoint(engine.network, state)
    loop.fit(engine, state, request, by_buffers(request, feed, engine, state))
    history = request.history
    if bar is not None:
        bar.net_ends(job.epochs - len(history.loss))
    return history


def conclude(ended: CallOutcomes) -> list[History]:
    """The histories; warnings of the fits are repeated here, equal ones once."""
    places = dict[tuple[str, type[Warning]], dict[int, None]]()
    for i, outcome in enumerate(ended.outcomes):
        for warning in outcome.warnings if outcome else ():
            places.setdefault(warning, {})[i] = None
    for (message, category), (first, *others) in places.items():
        more = f" and {count(len(others), 'other')}" if others else ""
        warn(f"{who(first)}{more}: {message}", category)
    if ended.interrupted:
        return interrupted(ended.outcomes)
    return _histories(ended.outcomes)


def interrupted(outcomes: Sequence[Outcome | None]) -> list[History]:
    """Histories of a call that Ctrl-C has ended, with a warning."""
    histories = _histories(outcomes)
    done = sum(history.status is not Status.INTERRUPTED for history in histories)
    begun = sum(outcome is not None for outcome in outcomes)
    warn(
        f"{WHO} interrupted: {done} of {len(histories)} nets are done, {begun - done} "
        "keep what they have learnt so far, and the others are as they were",
        UserWarning,
    )
    return histories


def _histories(outcomes: Sequence[Outcome | None]) -> list[History]:
    return [
        out.result if out else History(status=Status.INTERRUPTED) for out in outcomes
    ]


# Parts that training does not change in a worker.
STAYS = ("layout", "optimizer")


class Files(NamedTuple):
    """Files of a call, which each worker reads itself,
    and rows to validate on, or files.
    """

    path: Any
    validation_data: Any


def train_jobs(
    options: FitOptions, files: Files | None, jobs: list[NetJob]
) -> list[tuple[Outcome, dict[str, Any]]]:
    """Train the nets of a group; return outcomes, and states without `STAYS`."""
    jobs, feed = _with_rows(jobs, files, options)
    with locked(jobs):
        ended = trained(jobs, options, None, None, feed)
    results = []
    for job, outcome in zip(jobs, ended.outcomes, strict=True):
        assert outcome is not None
        content = job.core.state.__getstate__()
        results.append((outcome, {k: v for k, v in content.items() if k not in STAYS}))
    return results


def _with_rows(
    jobs: list[NetJob], files: Files | None, options: FitOptions
) -> tuple[list[NetJob], Feed | None]:
    if files is None:
        return jobs, None
    sizes = [job.epochs for job in jobs], [job.batch_size for job in jobs]
    nets = [job.net for job in jobs]
    whole, feed = jobs_over(
        nets, (files.path, None), files.validation_data, options, sizes
    )
    return [
        new._replace(number=job.number) for new, job in zip(whole, jobs, strict=True)
    ], feed


def files_of(path: Any, validation_data: Any) -> Files:
    if paths_of(path) is None:
        raise TypeError(
            f"{WHO}: with client= a source must be a path, or a list of paths, of "
            f"files that all workers see, got one of type {type(path).__name__}"
        )
    return Files(path, validation_data)


def check_devices(jobs: Sequence[NetJob]) -> None:
    for job in jobs:
        if job.core.engine.queue is not None:
            raise ValueError(
                f"{who(job.number)} is on a GPU: with client= nets train on the CPU of "
                f"a worker"
            )


def trained_on(
    cluster: Cluster,
    jobs: list[NetJob],
    options: FitOptions,
    bar: Bar | None,
    files: Files | None,
) -> CallOutcomes:
    """Train all locked nets on the workers of a cluster."""
    work = partial(train_jobs, options, files)
    costs = [job.cost for job in jobs]
    # Rows of files are read by the workers.
    none: Any = {"data": None, "held_out": None}
    parcels = [job._replace(**none) for job in jobs] if files else jobs
    outcomes: dict[int, Outcome] = {}

    def done(number: int, result: tuple[Outcome, dict[str, Any]]) -> None:
        outcomes[number], content = result
        job = jobs[number]
        job.core.state.adopt(content)
        if bar is not None:
            bar.update(len(outcomes[number].result.loss))
            bar.net_ends(job.epochs - len(outcomes[number].result.loss))

    with ExitStack() as stack:
        for job in jobs:
            # Fits do not change them here: pickles have the optimizers' state.
            stack.enter_context(job.core.state.lock.calling_back())
        try:
            cluster.run(work, parcels, costs, _arrays(jobs), done, "nets")
        except Exception as error:
            error.add_note(f"{len(outcomes)} of {len(jobs)} nets were done")
            raise
    return CallOutcomes(
        [outcomes.get(i) for i in range(len(jobs))], cluster.interrupted
    )


def _arrays(jobs: Sequence[NetJob]) -> list[Any]:
    arrays: dict[int, Any] = {}
    for job in jobs:
        for data in (job.data, job.held_out):
            for rows in (
                (data.x, data.y, data.weight, data.rows) if data is not None else ()
            ):
                array = rows.values if isinstance(rows, Expanded) else rows
                if getattr(array, "size", array is not None):
                    arrays[id(array)] = array
    return list(arrays.values())
