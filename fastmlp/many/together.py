"""Several calls of `fit_many`, each with its own rows, as one: here, or on a cluster's workers."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from fastmlp.cluster.groups import Cluster
from fastmlp.many.endings import concluded, interrupted
from fastmlp.many.on_cluster import trained_on
from fastmlp.many.tasks import WHO, Job, jobs_of
from fastmlp.many.training import locked, trained
from fastmlp.model import MLP
from fastmlp.training.bar import Bar
from fastmlp.training.history import History
from fastmlp.training.options import FitOptions, Listener


class Call(NamedTuple):
    """What `fit_many` is given for some nets; see there."""

    nets: list[MLP]
    X: Any
    y: Any
    batch_size: int
    rows: Any
    validation_rows: Any
    sample_weight: Any

    def jobs(self, epochs: int) -> list[Job]:
        """Return the checked arguments, by net."""
        parts = self.rows, (self.validation_rows, None), self.sample_weight
        return jobs_of(self.nets, self.X, self.y, epochs, self.batch_size, *parts)


def fit_together(
    cluster: Cluster | None,
    calls: Sequence[Call],
    *,
    epochs: int,
    callbacks: Listener,
    time_limit: float | None,
    n_threads: int | None = None,
    bar: Bar | None = None,
) -> list[list[History]]:
    """Return the histories of each call; the nets keep what they were in their best epochs.

    Calls one after the other would each wait for its last net. The time limit also ends an epoch:
    a net that has no other is as it is then, and its history has no epoch.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    ConnectionError, TimeoutError, RuntimeError
        As `Cluster.run`.
    """
    options = FitOptions.checked(
        WHO,
        callbacks=callbacks,
        keep_best=True,
        time_limit=time_limit,
        within_epochs=True,
        validation_rows=True,
    )
    ends = list(accumulate(len(call.nets) for call in calls))
    try:
        jobs = [job for call in calls for job in call.jobs(epochs)]
    except KeyboardInterrupt:
        histories = interrupted([None] * ends[-1])
    else:
        jobs = [job._replace(number=i) for i, job in enumerate(jobs)]
        with locked(jobs):
            if cluster is None:
                histories = concluded(trained(jobs, options, bar, n_threads))
            else:
                histories = concluded(trained_on(cluster, jobs, options, bar, None))
    return [histories[end - len(call.nets) : end] for call, end in zip(calls, ends, strict=True)]
