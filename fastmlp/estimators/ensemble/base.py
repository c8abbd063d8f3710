"""The base of both ensembles: members with different seeds, fitted in one call."""

from collections.abc import Sequence
from functools import partial, reduce
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastmlp._process.task_pool import Outcome, Task, check
from fastmlp.cluster.groups import Cluster, run_tasks
from fastmlp.estimators.common import BatchPredictions, warn
from fastmlp.estimators.mlp.fitting import advice
from fastmlp.estimators.mlp.fitting.reports import reports_of
from fastmlp.estimators.mlp.fitting.rows import derive_form
from fastmlp.estimators.mlp.fitting.to_core import fit_cost, n_threads_of
from fastmlp.estimators.sklearn_bases import Settings
from fastmlp.estimators.with_client import PARAMETERS, WithClient
from fastmlp.training.history import Bar, bar_over
from fastmlp.training.pool import pool_of
from fastmlp.validation import scalars

Array = NDArray[Any]
# Parameters that are not passed on to members: their number, and each member's own.
OWN = ("n_members", "bootstrap", "random_state", *PARAMETERS)


def mean_of(values: Array) -> Array:
    """The mean of the members' values, members along the first axis, summed in their order.

    NumPy's `mean` sums eight and more numbers of one row by pairs: not the bits of many rows.
    """
    mean: Array = reduce(np.add, values) / len(values)
    return mean


class Ensemble(BatchPredictions, WithClient, Settings):
    """Members of one class, with seeds of their own, whose predictions are averaged."""

    member: ClassVar[Any]
    n_members: int
    bootstrap: bool
    estimators_: list[Any]
    n_iter_: NDArray[np.int64]

    more_constraints: ClassVar[dict[str, Any]] = {
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        **WithClient.client_constraints,
    }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _validate_params(self) -> None:
        advice.check_parameters(self, super()._validate_params)

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store the arguments of `__init__` under their names."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    def _fit_members(self, X: Any, y: Array, sample_weight: Any, progress: bool) -> None:
        """Fit all members on checked rows, one a thread."""
        who, n_epochs = f"{type(self).__name__}.fit", self.n_members * self.max_iter
        scalars.boolean(who, "progress", progress)
        with bar_over(n_epochs, self.n_members, who, shown=progress) as bar:
            self._fit_each(X, y, sample_weight, bar)

    def _fit_each(self, X: Any, y: Array, sample_weight: Any, bar: Bar | None) -> None:
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        random = check_random_state(self.random_state)
        fits = []
        for _ in range(self.n_members):
            seed = int(random.randint(np.iinfo(np.int32).max))
            # A bootstrap sample: n rows drawn with replacement.
            rows = random.randint(X.shape[0], size=X.shape[0]) if self.bootstrap else None
            fits.append(EnsembleFit(self._member(seed), X, y, weight, rows))
        for outcome in self._outcomes(fits, bar):
            for message, category in outcome.warnings if outcome else ():
                warn(message, category)
        self.estimators_ = [fit.member for fit in fits]
        self.n_iter_ = np.array([fit.member.n_iter_ for fit in fits])

    def _outcomes(self, fits: Sequence["EnsembleFit"], bar: Bar | None) -> Sequence[Outcome | None]:
        """Fit the members, here or on a cluster."""
        cluster = self._cluster(f"{type(self).__name__}.fit")
        if cluster is not None:
            return _on_cluster(cluster, fits, bar)
        pool = pool_of(n_threads_of(self.n_jobs))
        outcomes = pool.run([Task(fit.cost, partial(fit.run, bar)) for fit in fits], "member")
        if pool.interrupted:
            raise KeyboardInterrupt
        return outcomes

    def _member(self, seed: int) -> Any:
        parameters = self.get_params(deep=False).items()
        settings = {name: value for name, value in parameters if name not in OWN}
        return self.member(**settings, random_state=seed)

    def _checked_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        dtype = (np.float64, np.float32)
        with advice.checking(self, X):
            return validate_data(self, X, accept_sparse=["csr", "csc"], dtype=dtype, reset=False)

    def _checked_data(self, X: Any, y: Any) -> tuple[Any, Any]:
        with advice.checking(self, X, y=y):
            X, y = validate_data(
                self,
                X,
                y,
                accept_sparse=["csr", "csc"],
                # Rows must be contiguous: converted once for all members, which take rows of it.
                order="C",
                multi_output=True,
                dtype=(np.float64, np.float32),
            )
        return (X.tocsr() if issparse(X) else X), y


class EnsembleFit(NamedTuple):
    """The fit of a member to some rows of the data that all members share; rows None: to all."""

    member: Any
    X: Any
    y: Array
    weight: Any
    rows: Array | None

    @property
    def cost(self) -> float:
        """The estimated operations."""
        return fit_cost(self.member, *self.X.shape)

    def run(self, bar: Bar | None = None) -> None:
        """Fit the member."""
        check()
        member, X, y, weight, rows = self
        progress: Any = False if bar is None else bar
        if rows is None:
            member.fit(X, y, sample_weight=weight, progress=progress)
        else:
            _, targets = derive_form(member, X, y, rows)
            reports = reports_of(member, (), progress)
            member._fit_part(X, targets, rows, {}, weight, reports)
        if bar is not None:
            bar.net_ends(member.max_iter - member.n_iter_)

    def run_on_worker(self) -> dict[str, Any]:
        """Fit the member on a worker; return its attributes, with the state of training."""
        self.run()
        state: dict[str, Any] = self.member.whole_state()
        return state


def _on_cluster(cluster: Cluster, fits: Sequence[EnsembleFit], bar: Bar | None) -> list[Outcome]:
    """Fit the members on the workers of a cluster."""
    outcomes: dict[int, Outcome] = {}

    def done(number: int, outcome: Outcome) -> None:
        outcomes[number], member = outcome, fits[number].member
        member.__setstate__(outcome.result)
        if bar is not None:
            bar.update(member.n_iter_)
            bar.net_ends(member.max_iter - member.n_iter_)

    arrays = [array for array in fits[0][1:4] if array is not None]
    run_tasks(cluster, [Task(fit.cost, fit.run_on_worker) for fit in fits], arrays, done, "member")
    return [outcomes[i] for i in range(len(fits))]
