"""MLPEnsembleRegressor: the mean of many nets' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.estimators.common import (
    Activations,
    BatchSize,
    HiddenLayerSizes,
    LearningRate,
    RandomState,
    RegressionLoss,
    Scoring,
    Solver,
    Table,
)
from fastmlp.estimators.ensemble.base import Ensemble, mean_of
from fastmlp.estimators.mlp import MLPRegressor
from fastmlp.estimators.mlp.fitting.to_core import quantile_score
from fastmlp.estimators.sklearn_bases import RegressorMixin, _fit_context
from fastmlp.network.spec import ComputeDTypes, DropoutLike
from fastmlp.rules.averages import Average
from fastmlp.rules.dropout import Rate
from fastmlp.validation.calls import explained

if TYPE_CHECKING:
    from distributed import Client
else:
    Client = Any  # So that type hints can be read without it.

Array = NDArray[Any]
CONSTRAINTS = dict(MLPRegressor._parameter_constraints)
CONSTRAINTS.pop("warm_start")


class MLPEnsembleRegressor(RegressorMixin, Ensemble):
    """Nets with different seeds, and optionally bootstrap samples; predictions are averaged.

    All members are trained in one call, one on each core. Each member is an `MLPRegressor`, and
    ends in the numbers of its own `fit` with its seed.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation
        As for `MLPRegressor`.
    n_members : int, default 10
    bootstrap : bool, default False
        If True, each member is fitted on a bootstrap sample: n rows drawn with replacement.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
    tol, verbose, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, \
    beta_2, epsilon, n_iter_no_change, max_fun, scoring, pickle_state, quantile, power, \
    dropout, input_dropout, input_noise, average, compute_dtype, monotonic_cst
        As for `MLPRegressor`, passed on to every member.
    random_state : int, RandomState instance or None
        Seeds the members' seeds and their bootstrap samples.
    n_jobs : int, optional
        The most threads that train and predict; results do not depend on it.
    client : distributed.Client or "auto", optional
        Train the members in groups on the workers of a Dask cluster, on all of their threads;
        "auto": of the current client. Members end as without. Needs the extra `dask`. Clones and
        copies have the same client, pickles and files none.
    group_timeout : float, optional
        With `client`, the most seconds that a group of members may take on a worker.

    Attributes
    ----------
    estimators_ : list of MLPRegressor, length n_members
    n_iter_ : (n_members,) array of int
        Epochs of each member, or iterations of "lbfgs".
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter is invalid.

    References
    ----------
    Lakshminarayanan, Pritzel & Blundell (2017), "Simple and scalable predictive uncertainty
    estimation using deep ensembles", arXiv:1612.01474.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPEnsembleRegressor
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> y = np.sin(3 * X[:, 0])
    >>> ensemble = MLPEnsembleRegressor(n_members=4, solver="lbfgs", max_iter=500, random_state=0)
    >>> ensemble.fit(X, y).score(X, y) > 0.99
    True
    >>> far, near = ensemble.predict_std([[3.0], [0.0]])
    >>> bool(far > near)
    True
    """

    member: ClassVar[type[MLPRegressor]] = MLPRegressor
    estimators_: list[MLPRegressor]
    loss: RegressionLoss
    _parameter_constraints: ClassVar[dict[str, Any]] = {**CONSTRAINTS, **Ensemble.more_constraints}

    @explained
    def __init__(
        self,
        loss: RegressionLoss = "squared_error",
        hidden_layer_sizes: HiddenLayerSizes = (100,),
        activation: Activations = "relu",
        *,
        n_members: int = 10,
        bootstrap: bool = False,
        solver: Solver = "adam",
        alpha: float = 0.0001,
        batch_size: BatchSize = "auto",
        learning_rate: LearningRate = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        scoring: Scoring | None = None,
        pickle_state: bool = False,
        quantile: Any = 0.5,
        power: float = 1.5,
        dropout: DropoutLike = 0.0,
        input_dropout: Rate = 0.0,
        input_noise: Rate = 0.0,
        average: Average | None = None,
        compute_dtype: ComputeDTypes | None = None,
        monotonic_cst: ArrayLike | Mapping[str, int] | None = None,
        client: Client | Literal["auto"] | None = None,
        group_timeout: float | None = None,
    ) -> None:
        self._keep(locals())

    @_fit_context(prefer_skip_nested_validation=True)
    @explained
    def fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        *,
        progress: bool = False,
    ) -> Self:
        """Fit all members.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        progress : bool
            Show a tqdm bar over the epochs of all members.

        Returns
        -------
        MLPEnsembleRegressor
            The ensemble itself.

        Raises
        ------
        TypeError, ValueError
            If data or settings are invalid, or a member's parameters did not stay finite.
        ConnectionError, TimeoutError, RuntimeError
            If a cluster cannot finish; the message says what to do.
        KeyboardInterrupt
            On Ctrl-C; the members of an earlier fit are kept.
        """
        self._fit_members(*self._checked_data(X, y), sample_weight, progress)
        return self

    def predict(self, X: Table) -> Array:
        """Return the mean of the members' predictions, (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        return mean_of(self._predictions(X))

    def predict_std(self, X: Table) -> Array:
        """Return the members' standard deviation, (n_samples,) or (n_samples, n_outputs).

        It measures how much the nets disagree, not the noise of y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        return self._predictions(X).std(axis=0)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 of the predictions; for ``loss="quantile"`` the negative mean pinball loss.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        """
        if self.loss != "quantile":
            return float(super().score(X, y, sample_weight))
        return quantile_score(self, X, y, sample_weight)

    def _predictions(self, X: Any) -> Array:
        """Return every member's predictions, members along the first axis."""
        rows = self._checked_rows(X)
        return np.stack([member.predict(rows) for member in self.estimators_])
