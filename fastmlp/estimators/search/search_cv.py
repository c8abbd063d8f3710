"""MLPSearchCV: scikit-learn's searches, with every candidate and fold in one sweep."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import joblib
import numpy as np
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
)
from sklearn.utils._param_validation import Interval, StrOptions

from fastmlp._process.task_pool import share
from fastmlp.backends.devices import thread_limit
from fastmlp.estimators.common import Configurable, Folds, Grid, Metrics, RandomState, Table
from fastmlp.estimators.mlp.fitting.to_core import n_threads_of
from fastmlp.estimators.search.backends import ClusterBackend, FitBar, PoolBackend
from fastmlp.estimators.sklearn_bases import BaseSearchCV, _fit_context
from fastmlp.estimators.with_client import Client, WithClient
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

SHARED = ("scoring", "refit", "cv", "verbose", "error_score", "return_train_score")
HALVING = ("factor", "resource", "max_resources", "min_resources", "aggressive_elimination")


class MLPSearchCV(WithClient, BaseSearchCV):
    """scikit-learn's grid, randomized and halving searches, one fit on each core.

    Candidates, folds, scores and `cv_results_` are equal to those of scikit-learn's own searches
    with the same `cv` and `random_state`: `GridSearchCV` with `param_grid`, `RandomizedSearchCV`
    with `param_distributions`, and with ``halving=True`` `HalvingGridSearchCV` and
    `HalvingRandomSearchCV`. No process is started and X is in memory once: one thread fits each
    candidate on each fold, in compiled code, the costliest first.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a Pipeline that ends in one
        Other estimators work too, limited by Python's threads.
    param_grid : dict or list of dict, optional
        Names of parameters and the values to try, all combinations of them.
    param_distributions : dict or list of dict, optional
        Names of parameters and lists, or distributions with ``rvs``, of which `n_iter` candidates
        are drawn. One of the two must be given.
    n_iter : int, default 10
        The number of candidates that are drawn; under halving, at the start.
    halving : bool, default False
        If True, start all candidates with few rows, or epochs, and give more of them to the better
        candidates only, repeatedly. `scoring` must then be one metric.
    factor, resource, max_resources, min_resources, aggressive_elimination
        Settings of the halving searches; the default of `min_resources` is "exhaust" in both. With
        ``resource="max_iter"`` resources are epochs, and `max_resources` is needed.
    scoring, refit, cv, verbose, error_score, return_train_score
        As for `GridSearchCV`.
    random_state : int, RandomState instance or None
        Seeds the draw of candidates, and of rows under halving.
    n_jobs : int, optional
        The number of fits at once. None: the number of threads that the process may use, or one in
        a joblib worker. Results do not depend on it.
    client : distributed.Client or "auto", optional
        Send the fits in groups to the workers of a Dask cluster, on all of their threads; "auto":
        of the current client. `cv_results_` are those of a search without it but for the times,
        and the best candidate is fitted to all rows here. The lines of `verbose` are in the logs of
        the workers. Needs the extra `dask`. Clones and copies have the same client, pickles and
        files none.
    group_timeout : float, optional
        With `client`, the most seconds that a group of fits may take on a worker.

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
        "max_resources": [Interval(Integral, 0, None, closed="neither"), StrOptions({"auto"})],
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
            Show a tqdm bar over the fits: each candidate on each fold. Under halving it grows with
            each round.
        **params
            For the estimator's `fit`, the scorer and the splitter, as in `GridSearchCV`: arrays as
            long as X, such as `sample_weight`, are split with it; the splitter takes `groups`.

        Returns
        -------
        MLPSearchCV
            The search itself.
        """
        scalars.boolean("MLPSearchCV.fit", "progress", progress)
        search = self._search()
        # To order calls by cost all must be known; halving searches would set it to 2 n_jobs.
        search.pre_dispatch = "all"
        # scikit-learn sets the warning filters in each thread; threads restore them in any order.
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
        """The backend that runs the fits: a pool of threads, or a cluster."""
        cluster = self._cluster("MLPSearchCV.fit")
        if cluster is not None:
            return ClusterBackend(cluster, bar)
        return PoolBackend(n_threads_of(self.n_jobs) or share() or thread_limit(), bar)

    def _search(self) -> Any:
        """Return the equivalent search of scikit-learn."""
        grid, distributions = self.param_grid, self.param_distributions
        if (grid is None) == (distributions is None):
            raise ValueError(
                "MLPSearchCV: one of param_grid and param_distributions must be given, and not both"
            )
        options = {name: getattr(self, name) for name in SHARED}
        if self.halving:
            options |= {name: getattr(self, name) for name in (*HALVING, "random_state")}
            if grid is not None:
                return HalvingGridSearchCV(self.estimator, grid, **options)
            n = self.n_iter
            return HalvingRandomSearchCV(self.estimator, distributions, n_candidates=n, **options)
        if grid is not None:
            return GridSearchCV(self.estimator, grid, **options)
        options |= {"n_iter": self.n_iter, "random_state": self.random_state}
        return RandomizedSearchCV(self.estimator, distributions, **options)

    def _run_search(self, evaluate_candidates: Any, **options: Any) -> None:
        """Raise: `fit` runs another search, which has its own method."""
        raise NotImplementedError
