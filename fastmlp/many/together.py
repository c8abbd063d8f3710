"""Several calls of `fit_many`, each with its own rows, as one on the workers of a cluster."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from fastmlp.cluster.groups import Cluster
from fastmlp.many.endings import concluded
from fastmlp.many.on_cluster import trained_on
from fastmlp.many.tasks import WHO, Job, jobs_of
from fastmlp.many.training import How, locked
from fastmlp.model import MLP
from fastmlp.training.history import History
from fastmlp.training.monitors import Listener, monitors_of


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
    cluster: Cluster,
    calls: Sequence[Call],
    *,
    epochs: int,
    callbacks: Listener,
    time_limit: float | None,
) -> list[list[History]]:
    """Return the histories of each call; the nets keep what they were in their best epochs.

    Calls one after the other would each wait for its last net.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    ConnectionError, TimeoutError, RuntimeError
        As `Cluster.run`.
    """
    listeners, monitors = monitors_of(
        WHO,
        callbacks,
        early_stopping=None,
        keep_best=True,
        metrics=None,
        time_limit=time_limit,
        validated=True,
    )
    jobs = [job for call in calls for job in call.jobs(epochs)]
    jobs = [job._replace(number=i) for i, job in enumerate(jobs)]
    with locked(jobs):
        how = How(True, listeners, monitors)
        histories = concluded(trained_on(cluster, jobs, how, None, None))
    ends = list(accumulate(len(call.nets) for call in calls))
    return [histories[end - len(call.nets) : end] for call, end in zip(calls, ends, strict=True)]
