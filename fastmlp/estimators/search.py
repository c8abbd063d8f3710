"""MLPSearchCV: scikit-learn's searches, with every candidate and fold in one sweep."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self, final

import joblib
import numpy as np
from joblib.parallel import ParallelBackendBase
from sklearn import model_selection
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, StrOptions

from fastmlp._process import raise_warnings
from fastmlp._process.task_pool import Outcome, Pool, Task, check, threads_of_task
from fastmlp.backends.protocol import thread_limit
from fastmlp.estimators.common import WithClient, n_threads_of, warn
from fastmlp.estimators.sklearn_bases import BaseSearchCV, _fit_context
from fastmlp.estimators.to_core import fit_cost
from fastmlp.many.groups import Cluster, run_tasks
from fastmlp.training.history import new_bar
from fastmlp.typing import (
    Client,
    Configurable,
    Folds,
    Grid,
    Metrics,
    RandomState,
    Table,
)
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

__all__ = ["MLPSearchCV"]
SHARED = ("scoring", "refit", "cv", "verbose", "error_score", "return_train_score")
HALVING = (
    "factor",
    "resource",
    "max_resources",
    "min_resources",
    "aggressive_elimination",
)


@final
class FitBar:
    """Counts the fits of a search, from several threads, with a tqdm bar if `shown`.

    Under halving the bar grows with each round.
    """

    def __init__(self, who: str, *, shown: bool) -> None:
        self._bar: Any = new_bar(0, 0, who, "fit") if shown else None
        self._lock = threading.Lock()

    def __enter__(self) -> FitBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def count(self, *, more: int = 0, done: int = 0) -> None:
        if self._bar is not None:
            with self._lock:
                self._bar.total += more
                self._bar.update(done)


class SubmittedCall:
    """A call that joblib has submitted, with its result or error."""

    def __init__(self, call: Any, callback: Any, bar: FitBar) -> None:
        self._call = call
        self._callback = callback
        self._bar = bar
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        """Run the call and notify joblib, which would otherwise wait forever."""
        try:
            check()
            # A warning raised as an error fails this fit, not the search at its end.
            with raise_warnings():
                self._result = self._call()
        except BaseException as error:
            self._error = error
        self._notify()

    def _notify(self) -> None:
        self._bar.count(done=1)
        self._callback(self)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class PoolBackend(ParallelBackendBase):
    """Collects all calls, and runs them in a pool while joblib waits for the
    results.
    """

    supports_retrieve_callback = True
    uses_threads = True
    supports_sharedmem = True

    def __init__(self, n_threads: int, bar: FitBar, nesting_level: int = 0) -> None:
        super().__init__(nesting_level=nesting_level)
        self._n_threads = n_threads
        self._bar = bar
        self._tasks: list[Task] = []
        self._pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of threads, for any `n_jobs`, but at least two.

        With one, joblib would run the calls itself, outside of the pool.
        """
        return max(2, self._n_threads)

    def configure(
        self, n_jobs: int | None = 1, parallel: Any = None, **options: Any
    ) -> int:
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        """Collect a call; it runs when all are collected, or after the running ones."""
        self._bar.count(more=1)
        job = SubmittedCall(task_of(func), callback, self._bar)
        task = Task(cost_of(func), job)
        if self._pool is None:
            self._tasks.append(task)
        else:
            self._pool.add(task)
        return job

    apply_async = submit

    def retrieve_result_callback(self, out: SubmittedCall) -> Any:
        return out.result()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the submitted calls, while joblib waits inside."""
        self._pool = Pool(self._n_threads)
        tasks = self._tasks
        self._tasks = []
        try:
            self._pool.begin(tasks)
            yield
        finally:
            self.terminate()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        self._tasks = []
        self.terminate()

    def terminate(self) -> None:
        """End the pool; running calls end at their next call of compiled code."""
        pool = self._pool
        self._pool = None
        if pool is None:
            return
        pool.end()
        for outcome in pool.outcomes:
            for message, category in outcome.warnings if outcome else ():
                warn(message, category)


def cost_of(calls: Any) -> float:
    """Estimated operations of a batch of fits, or 1 for other calls."""
    try:
        return sum(
            _cost_of_fit(*arguments[:2], **named) for _, arguments, named in calls.items
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        return 1.0


def _cost_of_fit(
    estimator: Any, X: Any, *, parameters: Any, train: Any, **more: Any
) -> float:
    trial = estimator
    while isinstance(trial, Pipeline):
        trial = trial.steps[-1][1]
    own = {
        name.rpartition("__")[2]: value for name, value in (parameters or {}).items()
    }
    settings = SimpleNamespace(**{**trial.get_params(deep=False), **own})
    return fit_cost(settings, len(train), X.shape[1] if len(X.shape) > 1 else 1)


def are_fits(calls: Any) -> bool:
    """True for a non-empty batch of joblib's calls that all fit candidates."""
    items = getattr(calls, "items", ())
    functions = [getattr(item[0], "function", None) for item in items]
    return bool(items) and all(
        getattr(f, "__name__", "") == "_fit_and_score" for f in functions
    )


def task_of(calls: Any) -> Callable[[], Any]:
    """A function that runs calls.

    Fits run without joblib's nested backend, which would give each fit one thread.
    """
    return partial(_each, calls.items) if are_fits(calls) else calls


def _each(items: Any) -> list[Any]:
    return [call(*arguments, **named) for call, arguments, named in items]


class SubmittedFit(SubmittedCall):
    def __init__(self, func: Any, callback: Any, bar: FitBar) -> None:
        super().__init__(func, callback, bar)
        self.run, self.items, self.cost = task_of(func), func.items, cost_of(func)

    def ends(self, outcome: Outcome) -> None:
        for message, category in outcome.warnings:
            warn(message, category)
        self._result = outcome.result
        self._notify()


class ClusterBackend(PoolBackend):
    """Sends the fits of a search to a cluster; joblib's other calls run here."""

    def __init__(self, cluster: Cluster, bar: FitBar, nesting_level: int = 0) -> None:
        super().__init__(cluster.n_at_once, bar, nesting_level)
        self._cluster = cluster
        self._sent: list[SubmittedFit] = []

    def submit(self, func: Any, callback: Any = None) -> SubmittedCall:
        if not are_fits(func):
            return super().submit(func, callback)
        self._bar.count(more=1)
        call = SubmittedFit(func, callback, self._bar)
        self._sent.append(call)
        return call

    # The method's name until joblib 1.5.
    apply_async = submit

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the fits, then the other calls, while joblib waits inside."""
        sent = self._sent
        self._sent = []
        if sent:
            self._run(sent)
        with super().retrieval_context():
            yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        self._sent = []
        super().abort_everything(ensure_ready)

    def _run(self, sent: Sequence[SubmittedFit]) -> None:
        tasks = [Task(call.cost, call.run) for call in sent]

        def done(number: int, outcome: Outcome) -> None:
            sent[number].ends(outcome)

        run_tasks(self._cluster, tasks, _data_of(sent), done, "fits")


def _data_of(sent: Sequence[SubmittedFit]) -> list[Any]:
    """Objects that several fits share: X, y, rows, and arrays as long as X."""
    shared: dict[int, Any] = {}
    for call in sent:
        for _, (_, X, y), named in call.items:
            of_rows = [*named["fit_params"].values(), *named["score_params"].values()]
            for value in (X, y, named["train"], named["test"], *of_rows):
                if hasattr(value, "shape") or isinstance(value, list):
                    shared[id(value)] = value
    return list(shared.values())


class MLPSearchCV(WithClient, BaseSearchCV):
    """scikit-learn's grid, randomized and halving searches, one fit on each core.

    Candidates, folds, scores and `cv_results_` equal scikit-learn's searches with the same `cv` and
    `random_state`: `GridSearchCV` with `param_grid`, `RandomizedSearchCV` with
    `param_distributions`, and with ``halving=True`` `HalvingGridSearchCV` and
    `HalvingRandomSearchCV`. Fits run on threads in compiled code, one each, the costliest first,
    and X is in memory once.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a Pipeline that ends in one
        Other estimators work too, limited by Python's threads.
    param_grid : dict or list of dict, optional
        Values to try for each parameter, in all combinations.
    param_distributions : dict or list of dict, optional
        Lists, or distributions with ``rvs``, for each parameter, from which `n_iter` candidates are
        drawn. One of the two must be given.
    n_iter : int, default 10
        Number of drawn candidates; under halving, at the start.
    halving : bool, default False
        If True, start all candidates with few rows or epochs, and repeatedly give more to the
        better candidates only. `scoring` must then be one metric.
    factor, resource, max_resources, min_resources, aggressive_elimination
        Settings of the halving searches; the default of `min_resources` is "exhaust" in both. With
        ``resource="max_iter"`` resources are epochs, and `max_resources` is needed.
    scoring, refit, cv, verbose, error_score, return_train_score
        As for `GridSearchCV`.
    random_state : int, RandomState instance or None
        Seeds the draw of candidates, and of rows under halving.
    n_jobs : int, optional
        Number of fits at once. None: all threads of the process, but one in a joblib worker.
        Results do not depend on it.
    client : distributed.Client or "auto", optional
        Send the fits in groups to the workers of a Dask cluster, on all threads; "auto": the
        current client. `cv_results_` are the same but for times, and the best candidate is fitted
        to all rows here. Lines of `verbose` are in the workers' logs. Clones and copies share the
        client; pickles and files leave it out.
    group_timeout : float, optional
        With `client`, the maximum seconds for a group of fits on a worker.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
    refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As for `GridSearchCV`.
    n_resources_, n_candidates_, n_iterations_, n_remaining_candidates_, \
    n_required_iterations_, n_possible_iterations_, min_resources_, max_resources_
        Under halving, as for `HalvingGridSearchCV`.

    Raises
    ------
    TypeError, ValueError
        By `fit`, if a parameter is invalid.
    ConnectionError, TimeoutError, RuntimeError
        By `fit`, if a cluster cannot finish; the message says what to do.
    KeyboardInterrupt
        By `fit`, on Ctrl-C.

    References
    ----------
    Jamieson & Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter
    optimization", arXiv:1502.07943.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastmlp import MLPClassifier, MLPSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> search = MLPSearchCV(
    ...     MLPClassifier((8,), solver="lbfgs", random_state=0, max_iter=1000),
    ...     {"alpha": [1e-3, 1e3]},
    ... ).fit(X - X.mean(0), y)
    >>> search.best_params_
    {'alpha': 0.001}
    """

    param_grid: Grid | None
    param_distributions: Grid | None
    n_iter: int
    halving: bool
    factor: float
    resource: str
    max_resources: int | Literal["auto"]
    min_resources: int | Literal["exhaust", "smallest"]
    aggressive_elimination: bool
    random_state: RandomState | None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list, None],
        "param_distributions": [dict, list, None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "halving": ["boolean"],
        "factor": [Interval(Real, 0, None, closed="neither")],
        "resource": [str],
        "max_resources": [
            Interval(Integral, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "min_resources": [
            Interval(Integral, 0, None, closed="neither"),
            StrOptions({"exhaust", "smallest"}),
        ],
        "aggressive_elimination": ["boolean"],
        "random_state": ["random_state"],
        **WithClient.client_constraints,
    }
    _parameter_constraints.pop("pre_dispatch")

    @explained
    def __init__(
        self,
        estimator: Configurable,
        param_grid: Grid | None = None,
        *,
        param_distributions: Grid | None = None,
        n_iter: int = 10,
        halving: bool = False,
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | Literal["auto"] = "auto",
        min_resources: int | Literal["exhaust", "smallest"] = "exhaust",
        aggressive_elimination: bool = False,
        scoring: Metrics | None = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable[..., int] = True,
        cv: Folds | None = None,
        verbose: int = 0,
        random_state: RandomState | None = None,
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = False,
        client: Client | Literal["auto"] | None = None,
        group_timeout: float | None = None,
    ) -> None:
        self._keep(locals())

    @_fit_context(prefer_skip_nested_validation=False)
    @explained
    def fit(
        self, X: Table, y: Table | None = None, *, progress: bool = False, **params: Any
    ) -> Self:
        """Fit and score all candidates on all folds, and the best one on all rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        progress : bool
            Show a tqdm bar over the fits of candidates on folds.
        **params
            For the estimator's `fit`, the scorer and the splitter, as in
            `GridSearchCV`. Arrays as long as X, such as `sample_weight`, are split too;
            the splitter takes `groups`.

        Returns
        -------
        MLPSearchCV
            The search itself.
        """
        scalars.boolean("MLPSearchCV.fit", "progress", progress)
        search = self._search()
        # An order by cost needs all calls; halving searches would set it to 2 n_jobs.
        search.pre_dispatch = "all"
        # scikit-learn sets the warning filters in each thread;
        # threads restore them in any order.
        with (
            FitBar("MLPSearchCV.fit", shown=progress) as bar,
            warnings.catch_warnings(),
            joblib.parallel_config(backend=self._backend(bar)),
        ):
            search.fit(X, y, **params)
        own = {*self.get_params(deep=False), "pre_dispatch"}
        self.__dict__.update({k: v for k, v in vars(search).items() if k not in own})
        return self

    def _backend(self, bar: FitBar) -> PoolBackend:
        cluster = self._cluster("MLPSearchCV.fit")
        if cluster is not None:
            return ClusterBackend(cluster, bar)
        return PoolBackend(
            n_threads_of(self.n_jobs) or threads_of_task() or thread_limit(), bar
        )

    def _search(self) -> Any:
        """scikit-learn's search of these settings: grid or draws, whole or halving."""
        grid = self.param_grid
        distributions = self.param_distributions
        if (grid is None) == (distributions is None):
            raise ValueError(
                "MLPSearchCV: one of param_grid and param_distributions must be given, "
                "and not both"
            )
        grids: Any = [grid] if isinstance(grid, dict) else grid or []
        for name, values in (item for one in grids for item in one.items()):
            if hasattr(values, "rvs"):
                raise TypeError(
                    f"MLPSearchCV: {name!r} of param_grid is a distribution, which "
                    "param_distributions=... takes"
                )
        options = {name: getattr(self, name) for name in SHARED}
        if self.halving:
            options |= {
                name: getattr(self, name) for name in (*HALVING, "random_state")
            }
            if grid is not None:
                return model_selection.HalvingGridSearchCV(
                    self.estimator, grid, **options
                )
            options["n_candidates"] = self.n_iter
            return model_selection.HalvingRandomSearchCV(
                self.estimator, distributions, **options
            )
        if grid is not None:
            return model_selection.GridSearchCV(self.estimator, grid, **options)
        options |= {"n_iter": self.n_iter, "random_state": self.random_state}
        return model_selection.RandomizedSearchCV(
            self.estimator, distributions, **options
        )

    def _run_search(self, evaluate_candidates: Any, **options: Any) -> None:
        """Unused: `fit` runs another search, which has this method."""
        raise NotImplementedError
