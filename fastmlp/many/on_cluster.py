"""The nets of a call in groups on the workers of a Dask cluster; their states come back."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, cast

from fastmlp._process.task_pool import Outcome
from fastmlp.backends.protocol import Data
from fastmlp.cluster.groups import Cluster
from fastmlp.data.arrow import paths_of
from fastmlp.data.feed import Feed
from fastmlp.many.jobs import WHO, NetJob, jobs_over, who
from fastmlp.many.training import CallOutcomes, locked, trained
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
    """A net and its job, as they are pickled for a worker; see `NetJob`."""

    net: MLP
    data: Data | None
    held_out: Data | None
    epochs: int
    batch_size: int
    names: Names
    number: int

    def job(self) -> NetJob:
        """Return the job; called in a thread of the pool, for in one of Dask's the net's engine
        would have one task's share of the threads."""
        return NetJob(self.net, core_of(self.net), cast(Data, self.data), *self[2:])


def train_parcels(
    options: FitOptions, files: Files | None, parcels: list[Parcel]
) -> list[tuple[Outcome, dict[str, Any]]]:
    """Train the nets of a group; return each one's outcome, and its state but for `STAYS`."""
    jobs, feed = _unpacked(parcels, files, options)
    with locked(jobs):
        ended = trained(jobs, options, None, None, feed)
    results = []
    for job, outcome in zip(jobs, ended.outcomes, strict=True):
        assert outcome is not None
        content = job.core.state.__getstate__()
        results.append((outcome, {k: v for k, v in content.items() if k not in STAYS}))
    return results


def _unpacked(
    parcels: list[Parcel], files: Files | None, options: FitOptions
) -> tuple[list[NetJob], Feed | None]:
    """The jobs of parcels, and the feed of their files."""
    if files is None:
        return [parcel.job() for parcel in parcels], None
    sizes = [parcel.epochs for parcel in parcels], [parcel.batch_size for parcel in parcels]
    nets = [parcel.net for parcel in parcels]
    jobs, feed = jobs_over(nets, (files.path, None), files.validation_data, options, sizes)
    numbered = zip(jobs, parcels, strict=True)
    return [job._replace(number=parcel.number) for job, parcel in numbered], feed


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


def check_devices(jobs: Sequence[NetJob]) -> None:
    """Raise ValueError if a net is on a GPU."""
    for job in jobs:
        if job.core.engine.queue is not None:
            raise ValueError(
                f"{who(job.number)} is on a GPU: with client= nets train on the CPU of a worker"
            )


def trained_on(
    cluster: Cluster,
    jobs: list[NetJob],
    options: FitOptions,
    bar: Bar | None,
    files: Files | None,
) -> CallOutcomes:
    """Train all nets, which are locked, on the workers of a cluster."""
    work = partial(train_parcels, options, files)
    parcels, costs = [_parcel(job, files) for job in jobs], [job.cost for job in jobs]
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
            # No fit changes them here: their pickles have the state of the optimizers.
            stack.enter_context(job.core.state.lock.calling_back())
        try:
            cluster.run_items(work, parcels, costs, _arrays(jobs), done, "nets")
        except Exception as error:
            error.add_note(f"{len(outcomes)} of {len(jobs)} nets were done")
            raise
    return CallOutcomes([outcomes.get(i) for i in range(len(jobs))], cluster.interrupted)


def _parcel(job: NetJob, files: Files | None) -> Parcel:
    """Return a net with its rows; those of files are read by the worker."""
    data, held_out = (None, None) if files else (job.data, job.held_out)
    return Parcel(job.net, data, held_out, *job[4:])


def _arrays(jobs: Sequence[NetJob]) -> list[Any]:
    """Return the arrays of the nets' rows, each once."""
    arrays: dict[int, Any] = {}
    for job in jobs:
        for data in (job.data, job.held_out):
            for rows in (data.x, data.y, data.weight, data.rows) if data is not None else ():
                array = rows.values if isinstance(rows, Expanded) else rows
                if getattr(array, "size", array is not None):
                    arrays[id(array)] = array
    return list(arrays.values())
