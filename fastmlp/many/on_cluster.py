"""The nets of a call in groups on the workers of a Dask cluster; their states come back."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from fastmlp._process.task_pool import Outcome
from fastmlp.cluster.groups import Cluster
from fastmlp.data.arrow import paths_of
from fastmlp.data.feed import Feed
from fastmlp.many.jobs import WHO, NetJob, jobs_over, who
from fastmlp.many.training import CallOutcomes, locked, trained
from fastmlp.training.history import Bar
from fastmlp.training.options import FitOptions
from fastmlp.validation.expanded import Expanded

# What training does not change, or changes nowhere but here.
STAYS = ("layout", "optimizer")


class Files(NamedTuple):
    """The files of a call, which each worker reads itself, and rows to validate on, or files."""

    path: Any
    validation_data: Any


def train_jobs(
    options: FitOptions, files: Files | None, jobs: list[NetJob]
) -> list[tuple[Outcome, dict[str, Any]]]:
    """Train the nets of a group; return each one's outcome, and its state but for `STAYS`."""
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
    """The jobs, of files with their rows, and the feed of the files."""
    if files is None:
        return jobs, None
    sizes = [job.epochs for job in jobs], [job.batch_size for job in jobs]
    nets = [job.net for job in jobs]
    whole, feed = jobs_over(nets, (files.path, None), files.validation_data, options, sizes)
    return [new._replace(number=job.number) for new, job in zip(whole, jobs, strict=True)], feed


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
    work, costs = partial(train_jobs, options, files), [job.cost for job in jobs]
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
            # No fit changes them here: their pickles have the state of the optimizers.
            stack.enter_context(job.core.state.lock.calling_back())
        try:
            cluster.run_items(work, parcels, costs, _arrays(jobs), done, "nets")
        except Exception as error:
            error.add_note(f"{len(outcomes)} of {len(jobs)} nets were done")
            raise
    return CallOutcomes([outcomes.get(i) for i in range(len(jobs))], cluster.interrupted)


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
