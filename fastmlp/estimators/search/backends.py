"""Backends of joblib that run a search's fits: threads of a pool, or the workers of a cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, final

from joblib.parallel import ParallelBackendBase
from sklearn.pipeline import Pipeline

from fastmlp._process.task_pool import Outcome, Pool, Task, check
from fastmlp._process.warnings import raised
from fastmlp.cluster.groups import Cluster, run_tasks
from fastmlp.estimators.common import warn
from fastmlp.estimators.mlp.fitting.to_core import fit_cost
from fastmlp.training.history import new_bar


@final
class FitBar:
    """Counts the fits of a search, from several threads; shows them in a tqdm bar if `shown`.

    Under halving the number of fits is known round by round: the bar grows.

    Raises
    ------
    ImportError
        If a bar is asked for without tqdm.
    """

    def __init__(self, who: str, *, shown: bool) -> None:
        self._bar: Any = new_bar(0, 0, who, "fit") if shown else None
        self._lock = threading.Lock()

    def __enter__(self) -> "FitBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self) -> None:
        """Count one more fit to be done."""
        if self._bar is not None:
            with self._lock:
                self._bar.total += 1

    def update(self) -> None:
        """Count one more fit that is done."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(1)


class SubmittedCall:
    """A call that joblib has submitted, with its result or its error."""

    def __init__(self, call: Any, callback: Any, bar: FitBar) -> None:
        self._call, self._callback, self._bar = call, callback, bar
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        """Run the call and notify joblib, which waits for ever for a call without notification."""
        try:
            check()
            # A warning that is an error fails its own fit, not the search at its end.
            with raised():
                self._result = self._call()
        except BaseException as error:
            self._error = error
        self._notify()

    def _notify(self) -> None:
        self._bar.update()
        self._callback(self)

    def result(self) -> Any:
        """Return the call's result, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result


class PoolBackend(ParallelBackendBase):
    """Collects all calls, and runs them in a pool while joblib waits for the results.

    Parameters
    ----------
    n_threads : int
    bar : FitBar
        Counts the calls.
    """

    supports_retrieve_callback = True
    uses_threads = True
    supports_sharedmem = True

    def __init__(self, n_threads: int, bar: FitBar, nesting_level: int = 0) -> None:
        super().__init__(nesting_level=nesting_level)
        self._n_threads, self._bar = n_threads, bar
        self._tasks: list[Task] = []
        self._pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of threads, for any `n_jobs`, but at least two.

        With one, joblib would run the calls itself, outside of the pool.
        """
        return max(2, self._n_threads)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Return the number of threads."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        """Collect a call; it runs when all are collected, or after the running ones."""
        self._bar.expect()
        job = SubmittedCall(task_of(func), callback, self._bar)
        task = Task(cost_of(func), job)
        if self._pool is None:
            self._tasks.append(task)
        else:
            self._pool.add(task)
        return job

    # The method's name until joblib 1.5.
    apply_async = submit

    def retrieve_result_callback(self, out: SubmittedCall) -> Any:
        """Return the result of a call."""
        return out.result()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the submitted calls, while joblib waits inside."""
        self._pool, tasks = Pool(self._n_threads), self._tasks
        self._tasks = []
        try:
            self._pool.begin(tasks)
            yield
        finally:
            self.terminate()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the running calls, and drop the others."""
        self._tasks = []
        self.terminate()

    def terminate(self) -> None:
        """End the pool; running calls end at their next call of compiled code."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.end()
        for outcome in pool.outcomes:
            for message, category in outcome.warnings if outcome else ():
                warn(message, category)


def cost_of(calls: Any) -> float:
    """Return the estimated operations of a batch of fits, or 1 for other calls."""
    try:
        return sum(_cost_of_fit(*arguments[:2], **named) for _, arguments, named in calls.items)
    except (AttributeError, IndexError, TypeError, ValueError):
        return 1.0


def _cost_of_fit(estimator: Any, X: Any, *, parameters: Any, train: Any, **more: Any) -> float:
    trial = estimator
    while isinstance(trial, Pipeline):
        trial = trial.steps[-1][1]
    own = {name.rpartition("__")[2]: value for name, value in (parameters or {}).items()}
    settings = SimpleNamespace(**{**trial.get_params(deep=False), **own})
    return fit_cost(settings, len(train), X.shape[1] if len(X.shape) > 1 else 1)


def are_fits(calls: Any) -> bool:
    """Return True for a batch of joblib's calls, at least one, that all fit candidates."""
    items = getattr(calls, "items", ())
    functions = [getattr(item[0], "function", None) for item in items]
    return bool(items) and all(getattr(f, "__name__", "") == "_fit_and_score" for f in functions)


def task_of(calls: Any) -> Callable[[], Any]:
    """A function that runs calls; of fits without joblib's nested backend, in which a fit has one
    thread: the pool shares the threads out."""
    return partial(_each, calls.items) if are_fits(calls) else calls


def _each(items: Any) -> list[Any]:
    return [call(*arguments, **named) for call, arguments, named in items]


class SubmittedFit(SubmittedCall):
    """A call for a worker, with its result when it has one."""

    def __init__(self, func: Any, callback: Any, bar: FitBar) -> None:
        super().__init__(func, callback, bar)
        self.run, self.items, self.cost = task_of(func), func.items, cost_of(func)

    def ends(self, outcome: Outcome) -> None:
        """Take the outcome, and notify joblib."""
        for message, category in outcome.warnings:
            warn(message, category)
        self._result = outcome.result
        self._notify()


class ClusterBackend(PoolBackend):
    """Sends the fits of a search to a cluster; other calls of joblib's run here.

    Parameters
    ----------
    cluster : Cluster
    bar : FitBar
        Counts the calls.
    """

    def __init__(self, cluster: Cluster, bar: FitBar, nesting_level: int = 0) -> None:
        super().__init__(cluster.n_at_once, bar, nesting_level)
        self._cluster = cluster
        self._sent: list[SubmittedFit] = []

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        """Collect a call; it runs when all are collected."""
        if not are_fits(func):
            return super().submit(func, callback)
        self._bar.expect()
        call = SubmittedFit(func, callback, self._bar)
        self._sent.append(call)
        return call

    # The method's name until joblib 1.5.
    apply_async = submit

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the fits, then the other calls, while joblib waits inside."""
        sent, self._sent = self._sent, []
        if sent:
            self._run(sent)
        with super().retrieval_context():
            yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the running calls, and drop the others."""
        self._sent = []
        super().abort_everything(ensure_ready)

    def _run(self, sent: Sequence[SubmittedFit]) -> None:
        tasks = [Task(call.cost, call.run) for call in sent]

        def done(number: int, outcome: Outcome) -> None:
            sent[number].ends(outcome)

        run_tasks(self._cluster, tasks, _data_of(sent), done, "fits")


def _data_of(sent: Sequence[SubmittedFit]) -> list[Any]:
    """The objects that several fits hold: X, y, rows, and arrays as long as X."""
    shared: dict[int, Any] = {}
    for call in sent:
        for _, (_, X, y), named in call.items:
            of_rows = [*named["fit_params"].values(), *named["score_params"].values()]
            for value in (X, y, named["train"], named["test"], *of_rows):
                if hasattr(value, "shape") or isinstance(value, list):
                    shared[id(value)] = value
    return list(shared.values())
