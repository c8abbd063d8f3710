"""The nets of `fit_many` on GPUs: small nets train in one launch, each in a block."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np

from fastmlp._process import task_pool, warnings
from fastmlp._process.task_pool import Outcome, Task
from fastmlp.backends import protocol
from fastmlp.backends.protocol import GroupEngine
from fastmlp.many.tasks import Job
from fastmlp.training.history import History, Status, record, record_divergence
from fastmlp.training.loop import rates_at

Fit = Callable[[], History]


class GpuQueue:
    """The nets on one GPU.

    Nets that train as one block, without validation rows and unwatched, train together, with the
    bits of their own fits, which use the same kernels. The other nets have their own fits, the
    costliest first.

    Parameters
    ----------
    index : the number of the GPU
    jobs : by the nets' numbers
    fits : each net's own fit
    shuffle : bool
    watched : bool, True if something looks at each epoch, or at the time
    bar : of the epochs of all nets, or None

    Attributes
    ----------
    outcomes : of the nets that have begun, by their numbers
    """

    def __init__(
        self,
        index: int,
        jobs: Mapping[int, Job],
        fits: Mapping[int, Fit],
        *,
        shuffle: bool,
        watched: bool,
        bar: Any,
    ) -> None:
        self._index, self._jobs, self._fits = index, jobs, fits
        self._shuffle, self._watched, self._bar = shuffle, watched, bar
        self.outcomes: dict[int, Outcome] = {}

    @property
    def task(self) -> Task:
        """The task that trains all nets; its thread waits for the GPU most of the time."""
        return Task(0.0, self._run, f"nets on cuda:{self._index}", apart=True)

    def _run(self) -> None:
        together: dict[Any, list[int]] = {}
        by_themselves = []
        for i, job in self._jobs.items():
            if self._is_block(job):
                together.setdefault(_kind(job), []).append(i)
            else:
                by_themselves.append(i)
        for places in together.values():
            task_pool.check()
            self._train_together(places)
        for i in sorted(by_themselves, key=lambda i: (-self._jobs[i].cost, i)):
            task_pool.check()
            self._train_alone(i)

    def _is_block(self, job: Job) -> bool:
        """Return True if the net's own fit is one block, unwatched and without validation."""
        if self._watched or job.held_out is not None:
            return False
        return _group_engine(job).fits_in_group(job.batch_size)

    def _train_alone(self, i: int) -> None:
        with warnings.collected() as warned:
            try:
                self.outcomes[i] = Outcome(self._fits[i](), warned)
            except BaseException as error:
                error.add_note(f"in nets {i}")
                raise

    def _train_together(self, places: list[int]) -> None:
        jobs = [self._jobs[i] for i in places]
        first_steps = [job.core.state.n_steps for job in jobs]
        outcomes = [protocol.Outcome(n_steps) for n_steps in first_steps]
        try:
            _group_engine(jobs[0]).train_group(
                [(*job.core, job.data) for job in jobs],
                outcomes,
                epochs=jobs[0].epochs,
                batch_size=max(job.batch_size for job in jobs),
                shuffle=self._shuffle,
                on_epochs=None if self._bar is None else self._bar.update,
            )
        finally:
            for i, first_step, outcome in zip(places, first_steps, outcomes, strict=True):
                if outcome.seconds:
                    self._conclude(i, first_step, outcome)

    def _conclude(self, i: int, first_step: int, outcome: protocol.Outcome) -> None:
        """Record the history that the net's own fit would have."""
        job, history = self._jobs[i], History(seconds=outcome.seconds)
        with warnings.collected() as warned:
            per_epoch = -(-job.data.n_rows // job.batch_size)
            total = first_step + job.epochs * per_epoch
            rates = partial(rates_at, job.core.state.optimizer, total=total)
            record(history, np.array(outcome.loss), rates, first_step, per_epoch)
            if outcome.diverged_at is not None:
                record_divergence(history, outcome.diverged_at)
            elif len(history.loss) < job.epochs:
                history.status = Status.INTERRUPTED
        self.outcomes[i] = Outcome(history, warned)
        if self._bar is not None:
            self._bar.net_ends(job.epochs - len(history.loss))


def _kind(job: Job) -> Any:
    """Return the key of nets that may train together; batches of all rows have the size None."""
    x, y, whole = job.data.x, job.data.y, job.batch_size == job.data.n_rows
    return id(x), id(y), job.epochs, None if whole else job.batch_size


def _group_engine(job: Job) -> GroupEngine[Any]:
    return cast(GroupEngine[Any], job.core.engine)


def queues_of(jobs: list[Job], fits: list[Fit], **how: Any) -> list[GpuQueue]:
    """Return a queue for each GPU with nets; `how` are keyword arguments of `GpuQueue`."""
    places: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        if job.core.engine.queue is not None:
            places.setdefault(job.core.engine.queue, []).append(i)
    return [
        GpuQueue(index, {i: jobs[i] for i in its}, {i: fits[i] for i in its}, **how)
        for index, its in places.items()
    ]
