"""A joblib backend whose workers are the threads of a `Pool`, which run the costliest fits first.

scikit-learn's own searches split the folds, score and collect the results. Processes would copy the
data, and unordered threads would end with one long fit on one core.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import ParallelBackendBase
from sklearn.pipeline import Pipeline

from fastmlp._process.task_pool import Pool, Task, check
from fastmlp._process.warnings import raised
from fastmlp.estimators.mlp.to_core import fit_cost
from fastmlp.estimators.search.progress import FitBar
from fastmlp.estimators.search.trial import Trials
from fastmlp.estimators.warnings import warn


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
        self._trials = Trials()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of threads, for any `n_jobs`, but at least two.

        With one, joblib would run the calls itself, without `Trials`.
        """
        return max(2, self._n_threads)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Return the number of threads."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        """Collect a call; it runs when all are collected, or after the running ones."""
        self._bar.expect()
        job = SubmittedCall(self._trials.of(func), callback, self._bar)
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
    for part in _parts(estimator):
        trial = part
    told = {name.rpartition("__")[2]: value for name, value in (parameters or {}).items()}
    settings = _Settings({**trial.get_params(deep=False), **told})
    return fit_cost(settings, len(train), X.shape[1] if len(X.shape) > 1 else 1)


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield the last step of a pipeline, and of a pipeline in it."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
        yield estimator


class _Settings:
    """Parameters as attributes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.__dict__.update(settings)
