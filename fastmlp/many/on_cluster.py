"""The nets of a call in groups on the workers of a Dask cluster; they return what they learnt."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from fastmlp._process.task_pool import Outcome
from fastmlp.backends.protocol import Data
from fastmlp.cluster.groups import Cluster, Group, dealt
from fastmlp.data.arrow import paths_of
from fastmlp.data.feed import Feed
from fastmlp.many.sources import jobs_over
from fastmlp.many.tasks import WHO, Job, who
from fastmlp.many.training import Ended, locked, trained
from fastmlp.model import MLP, core_of
from fastmlp.training.bar import Bar
from fastmlp.training.options import FitOptions
from fastmlp.validation import Names
from fastmlp.validation.expanded import Expanded

# What training does not change, or changes nowhere but here.
STAYS = ("layout", "optimizer")


class Files(NamedTuple):
    """The files of a call, which each worker reads itself, and rows to validate on, or files."""

    path: Any
    validation_data: Any


class Parcel(NamedTuple):
    """A net on its way to a worker, and what it is to do there; see `Job`."""

    net: MLP
    data: Data | None
    held_out: Data | None
    epochs: int
    batch_size: int
    names: Names
    number: int

    def job(self) -> Job:
        """Return the job; called in a thread of the pool, for in one of Dask's the net's engine
        would have one task's share of the threads."""
        return Job(self.net, core_of(self.net), cast(Data, self.data), *self[2:])


@dataclass
class NetsOfGroup:
    """The work of a group: a function without arguments that is pickled."""

    parcels: list[Parcel]
    options: FitOptions
    files: Files | None

    def __call__(self) -> list[tuple[Outcome, dict[str, Any]]]:
        """Train the nets; return each one's outcome, and what training has changed in it."""
        jobs, feed = self._jobs()
        with locked(jobs):
            ended = trained(jobs, self.options, None, None, feed)
        found = []
        for job, outcome in zip(jobs, ended.outcomes, strict=True):
            assert outcome is not None
            content = job.core.state.__getstate__()
            found.append((outcome, {k: v for k, v in content.items() if k not in STAYS}))
        return found

    def _jobs(self) -> tuple[list[Job], Feed | None]:
        if self.files is None:
            return [it.job() for it in self.parcels], None
        sizes = [it.epochs for it in self.parcels], [it.batch_size for it in self.parcels]
        path, validation_data = self.files
        nets = [it.net for it in self.parcels]
        jobs, feed = jobs_over(nets, (path, None), validation_data, self.options, sizes)
        numbers = [it.number for it in self.parcels]
        return [job._replace(number=n) for job, n in zip(jobs, numbers, strict=True)], feed


def files_of(path: Any, validation_data: Any) -> Files:
    """Return the files of a call.

    Raises
    ------
    TypeError
        If the source is something else, which workers cannot read.
    """
    if paths_of(path) is None:
        raise TypeError(
            f"{WHO}: with client= a source must be a path, or a list of paths, of files that all "
            f"workers see, got one of type {type(path).__name__}"
        )
    return Files(path, validation_data)


def check_devices(jobs: Sequence[Job]) -> None:
    """Raise ValueError if a net is on a GPU."""
    for job in jobs:
        if job.core.engine.queue is not None:
            raise ValueError(
                f"{who(job.number)} is on a GPU: with client= nets train on the CPU of a worker"
            )


def trained_on(
    cluster: Cluster, jobs: list[Job], options: FitOptions, bar: Bar | None, files: Files | None
) -> Ended:
    """Train all nets, which are locked, on the workers of a cluster."""
    groups = [
        Group(numbers, NetsOfGroup([_parcel(jobs[i], files) for i in numbers], options, files))
        for numbers in dealt([job.cost for job in jobs], cluster.n_at_once)
    ]
    found: dict[int, Outcome] = {}

    def done(number: int, result: tuple[Outcome, dict[str, Any]]) -> None:
        found[number], content = result
        job = jobs[number]
        job.core.state.adopt(content)
        if bar is not None:
            bar.update(len(found[number].result.loss))
            bar.net_ends(job.epochs - len(found[number].result.loss))

    with ExitStack() as stack:
        for job in jobs:
            # No fit changes them here: their pickles have the state of the optimizers.
            stack.enter_context(job.core.state.lock.calling_back())
        try:
            cluster.run(groups, _arrays(jobs), done, "nets")
        except Exception as error:
            error.add_note(f"{len(found)} of {len(jobs)} nets were done")
            raise
    return Ended([found.get(i) for i in range(len(jobs))], cluster.interrupted)


def _parcel(job: Job, files: Files | None) -> Parcel:
    """Return a net with its rows; those of files are read by the worker."""
    data, held_out = (None, None) if files else (job.data, job.held_out)
    return Parcel(job.net, data, held_out, *job[4:])


def _arrays(jobs: Sequence[Job]) -> list[Any]:
    """Return the arrays of the nets' rows, each once."""
    found: dict[int, Any] = {}
    for job in jobs:
        for data in (job.data, job.held_out):
            for each in (data.x, data.y, data.weight, data.rows) if data is not None else ():
                array = each.values if isinstance(each, Expanded) else each
                if getattr(array, "size", array is not None):
                    found[id(array)] = array
    return list(found.values())
