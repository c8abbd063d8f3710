"""Shared by all estimators: warnings, predictions in batches, clients, threads."""

from __future__ import annotations

import copy
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, Self, get_args

import joblib
from sklearn.utils._param_validation import Interval

from fastmlp import _process
from fastmlp.data.batches import batches_of, names_of_model, predicted
from fastmlp.estimators.sklearn_bases import BaseEstimator
from fastmlp.many.groups import Cluster, client_of
from fastmlp.typing import Source, Table
from fastmlp.validation import Array, scalars
from fastmlp.validation.calls import OF_ESTIMATORS, AdvisingType, explained

# The scikit-learn module in users' filters.
SKLEARN_MODULE = "sklearn.neural_network._multilayer_perceptron"
Method = Literal["predict", "predict_proba", "predict_log_proba", "predict_std"]
# Parameters of `WithClient`, which files leave out.
PARAMETERS = ("client", "group_timeout")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line, but with scikit-learn's module for filters.

    ``warnings.filterwarnings("ignore", category=ConvergenceWarning,
    module="sklearn")`` thus works for these estimators too.
    """
    _process.warn(message, category, SKLEARN_MODULE)


def n_threads_of(n_jobs: int | None) -> int | None:
    """The maximum number of threads, or None for all.

    n_jobs None means all threads, but one inside a joblib worker,
    which divides the cores.
    """
    if n_jobs is None:
        backend, _ = joblib.parallel.get_active_backend()
        return 1 if backend.nesting_level else None
    return int(joblib.effective_n_jobs(n_jobs))


class AdvisingABC(AdvisingType, ABCMeta):
    """`AdvisingType`, for classes beside scikit-learn's abstract ones.

    `__getattr__` would slow each miss: a prediction of one row, 2.3 -> 4.1 us.
    """


class BatchPredictions(metaclass=AdvisingABC, advice=OF_ESTIMATORS):
    """Adds `predict_batches` to an estimator, and advice on what it lacks."""

    @explained
    def predict_batches(
        self,
        source: Table | Source,
        *,
        method: Method = "predict",
        batch_rows: int = 65536,
    ) -> Iterator[Array]:
        """Yield arrays of predictions, with one batch in memory at a time.

        Parameters
        ----------
        source : array, frame, path or list of paths, table, blocks or stream
            Files of Parquet, Arrow or CSV, or any object with ``__arrow_c_stream__``,
            such as a table of pyarrow or a relation of DuckDB; `Blocks`, or a function
            that begins a stream of X or (X, y). Columns are found by name if the
            estimator has `feature_names_in_`.
        method : str, default "predict"
            Or "predict_proba", as in `sklearn.model_selection.cross_val_predict`.
        batch_rows : int of 1 or more, default 65536
            Maximum number of rows of an array.

        Yields
        ------
        array, as from the method
            In the order of the rows.

        Raises
        ------
        TypeError, ValueError, ImportError, OSError
            When rows are requested, if they have a wrong type or value,
            pyarrow is missing, or a file cannot be read. A note names the rows.

        See Also
        --------
        fastmlp.predict_arrow, fastmlp.predict_parquet :
            Predictions beside columns of a table.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLPRegressor
        >>> X = np.zeros((10, 2))
        >>> model = MLPRegressor(hidden_layer_sizes=4, tol=1.0).fit(X, X[:, 0])
        >>> [len(rows) for rows in model.predict_batches(X, batch_rows=4)]
        [4, 4, 2]
        """
        who = f"{type(self).__name__}.predict_batches"
        scalars.positive_integer(who, "batch_rows", batch_rows)
        known = [name for name in get_args(Method) if hasattr(self, name)]
        scalars.known(who, "method", method, known)
        names = names_of_model(self)
        texts = getattr(self, "_text_names", ())
        batches = batches_of(source, names, batch_rows, who, texts)
        call: Callable[[Any], Array] = getattr(self, method)
        named = names is not None
        return (predicted(call, batch, named=named, who=who) for batch in batches)


class WithClient(BaseEstimator):
    """Adds the parameters `client` and `group_timeout`.

    Clones and copies share a client, a connection of this process.
    Pickles hold only the word "auto".
    """

    client: Any
    group_timeout: float | None

    client_constraints: ClassVar[Mapping[str, Any]] = {
        "client": "no_validation",
        "group_timeout": [Interval(Real, 0, None, closed="neither"), None],
    }

    def _keep(self, arguments: Mapping[str, Any]) -> None:
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    def _cluster(self, who: str) -> Cluster | None:
        if self.client is None:
            return None
        return Cluster(client_of(self.client, who), who, self.group_timeout)

    def __sklearn_clone__(self) -> Any:
        bare = copy.copy(self)
        bare.client = None
        cloned = super(WithClient, bare).__sklearn_clone__()
        cloned.client = self.client
        return cloned

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.client)] = self.client
        memo[id(self)] = other = type(self).__new__(type(self))
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if self.client in (None, "auto"):
            return state
        return {**state, "client": None}


class BaseModel(BatchPredictions, WithClient):
    """A base for your models: `predict_batches`, `client` and `group_timeout`.

    A model adds `client_constraints` to `_parameter_constraints`,
    and these parameters and `n_jobs` to `__init__`.
    """

    n_jobs: int | None

    def _n_threads(self) -> int | None:
        """Return the maximum number of threads by `n_jobs`, or None for all."""
        return n_threads_of(self.n_jobs)
