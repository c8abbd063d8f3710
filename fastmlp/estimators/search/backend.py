"""A backend for joblib whose workers are the threads of a `Pool`, which begin with the costly fits.

scikit-learn's own searches then cut the folds, score, and keep the books; processes would take
copies of the data, and threads without an order end with one long fit on one core.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import ParallelBackendBase
from sklearn.pipeline import Pipeline

from fastmlp._process.task_pool import Pool, Task, check
from fastmlp._process.warnings import raised, warn
from fastmlp.estimators.mlp.to_core import fit_cost
from fastmlp.estimators.search.trial import Trials


class Job:
    """A call that joblib has submitted: what came of it, or the error."""

    def __init__(self, call: Any, callback: Any) -> None:
        self._call, self._callback = call, callback
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        """Do it, and tell joblib, which waits for ever for a call that it is told nothing of."""
        try:
            check()
            # Where a warning is an error, it fails that fit, and not the search at its end.
            with raised():
                self._result = self._call()
        except BaseException as error:
            self._error = error
        self._callback(self)

    def result(self) -> Any:
        """Return what it returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class PoolBackend(ParallelBackendBase):
    """Collects all calls, then runs them in a pool while joblib waits for the results.

    Parameters
    ----------
    n_threads : int
    """

    supports_retrieve_callback = True
    uses_threads = True
    supports_sharedmem = True

    def __init__(self, n_threads: int, nesting_level: int = 0) -> None:
        super().__init__(nesting_level=nesting_level)
        self._n_threads = n_threads
        self._tasks: list[Task] = []
        self._pool: Pool | None = None
        self._trials = Trials()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many threads there are, whatever is asked for.

        Two for one: alone, joblib would do the calls itself, and know no trials.
        """
        return max(2, self._n_threads)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Return how many threads there are."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> Job:
        """Take a call; it runs when all are there, or after those that run already."""
        job = Job(self._trials.of(func), callback)
        task = Task(cost_of(func), job)
        if self._pool is None:
            self._tasks.append(task)
        else:
            self._pool.add(task)
        return job

    # Its name until joblib 1.5.
    apply_async = submit

    def retrieve_result_callback(self, out: Job) -> Any:
        """Return what a call returned."""
        return out.result()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run what was submitted, while joblib waits inside."""
        self._pool, tasks = Pool(self._n_threads), self._tasks
        self._tasks = []
        try:
            self._pool.begin(tasks)
            yield
        finally:
            self.terminate()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the calls that run, and forget the others."""
        self._tasks = []
        self.terminate()

    def terminate(self) -> None:
        """End the pool; calls that run end at their next call of compiled code."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.end()
        for outcome in pool.outcomes:
            for message, category in outcome.warnings if outcome else ():
                warn(message, category)


def cost_of(calls: Any) -> float:
    """Return about how long a batch of fits takes, in operations; 1 where it is of others."""
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
