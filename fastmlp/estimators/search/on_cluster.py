"""A search's fits on the workers of a cluster: groups of them, each with its own `Trials`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sklearn.model_selection._validation import _fit_and_score

from fastmlp._process.task_pool import Outcome, Pool, Task, share
from fastmlp.backends.devices import thread_limit
from fastmlp.cluster.groups import Cluster, Group, dealt
from fastmlp.estimators.search.backend import PoolBackend, SubmittedCall, cost_of
from fastmlp.estimators.search.progress import FitBar
from fastmlp.estimators.search.trial import Items, Trials
from fastmlp.estimators.warnings import warn


class Trial(NamedTuple):
    """The calls of one of joblib's batches, which is a candidate's fit to a fold."""

    items: Items
    cost: float
    number: int


class TrialsOfGroup:
    """The work of a group: a function without arguments that is pickled."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = trials

    def __call__(self) -> list[Outcome | None]:
        """Run the trials side by side; return their outcomes."""
        shared = Trials()
        tasks = [Task(it.cost, shared.task(it.items), f"fits {it.number}") for it in self.trials]
        return Pool(share() or thread_limit()).run(tasks)


class Sent(SubmittedCall):
    """A call for a worker, with its result when it has one."""

    def __init__(self, func: Any, callback: Any, bar: FitBar) -> None:
        super().__init__(func, callback, bar)
        self.items, self.cost = func.items, cost_of(func)

    def ends(self, outcome: Outcome) -> None:
        """Take the outcome, and notify joblib."""
        for message, category in outcome.warnings:
            warn(message, category)
        self._result = outcome.result
        self._notify()


class ClusterBackend(PoolBackend):
    """Sends the fits of a search to a cluster; what else joblib is given runs here.

    Parameters
    ----------
    cluster : Cluster
    bar : FitBar
        Counts the calls.
    """

    def __init__(self, cluster: Cluster, bar: FitBar, nesting_level: int = 0) -> None:
        super().__init__(cluster.n_at_once, bar, nesting_level)
        self._cluster = cluster
        self._sent: list[Sent] = []

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        """Collect a call; it runs when all are collected."""
        if not _are_fits(func):
            return super().submit(func, callback)
        self._bar.expect()
        call = Sent(func, callback, self._bar)
        self._sent.append(call)
        return call

    # The method's name until joblib 1.5.
    apply_async = submit

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the fits, then what else was collected, while joblib waits inside."""
        sent, self._sent = self._sent, []
        if sent:
            self._run(sent)
        with super().retrieval_context():
            yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the running calls, and drop the others."""
        self._sent = []
        super().abort_everything(ensure_ready)

    def _run(self, sent: Sequence[Sent]) -> None:
        trials = [Trial(call.items, call.cost, i) for i, call in enumerate(sent)]
        groups = [
            Group(numbers, TrialsOfGroup([trials[i] for i in numbers]))
            for numbers in dealt([it.cost for it in trials], self._cluster.n_at_once)
        ]

        def done(number: int, outcome: Outcome) -> None:
            sent[number].ends(outcome)

        self._cluster.run(groups, _data_of(trials), done, "fits")
        if self._cluster.interrupted:
            raise KeyboardInterrupt


def _are_fits(func: Any) -> bool:
    """Return True if a call of joblib's fits and scores candidates."""
    items = getattr(func, "items", ())
    return bool(items) and all(_is_fit(it[0]) for it in items)


def _is_fit(call: Callable[..., Any]) -> bool:
    return getattr(call, "function", 0) is _fit_and_score


def _data_of(trials: Sequence[Trial]) -> list[Any]:
    """Return what trials hold of the same objects: X, y, rows, and arrays as long as X."""
    found: dict[int, Any] = {}
    for trial in trials:
        for _, (_, X, y), named in trial.items:
            of_rows = [*named["fit_params"].values(), *named["score_params"].values()]
            for each in (X, y, named["train"], named["test"], *of_rows):
                if hasattr(each, "shape") or isinstance(each, list):
                    found[id(each)] = each
    return list(found.values())
