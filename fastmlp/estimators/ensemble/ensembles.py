"""Ensembles of estimators: members with different seeds, fitted in one call and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from scipy.special import xlogy
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from fastmlp._process.task_pool import Outcome, Task, check
from fastmlp.cluster.groups import Cluster, run_tasks
from fastmlp.estimators.common import (
    Activations,
    BatchPredictions,
    BatchSize,
    ClassWeight,
    HiddenLayerSizes,
    LearningRate,
    RandomState,
    RegressionLoss,
    Scoring,
    Solver,
    Table,
    warn,
)
from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor
from fastmlp.estimators.mlp.fitting import advice
from fastmlp.estimators.mlp.fitting.epochs import reports_of
from fastmlp.estimators.mlp.fitting.rows import derive_form
from fastmlp.estimators.mlp.fitting.to_core import fit_cost, n_threads_of, quantile_score
from fastmlp.estimators.sklearn_bases import ClassifierMixin, RegressorMixin, Settings, _fit_context
from fastmlp.estimators.with_client import PARAMETERS, Client, WithClient
from fastmlp.network.spec import ComputeDTypes, DropoutLike
from fastmlp.rules.averages import Average
from fastmlp.rules.dropout import Rate
from fastmlp.training.history import Bar, bar_over
from fastmlp.training.pool import pool_of
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Array = NDArray[Any]
# Parameters that are not passed on to members: their number, and each member's own.
OWN = ("n_members", "bootstrap", "random_state", *PARAMETERS)


def constraints_of(member: Any) -> dict[str, Any]:
    """The constraints of an ensemble's parameters: those of its members', and its own."""
    of_member = {**member._parameter_constraints}
    del of_member["warm_start"]
    return of_member | {
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        **WithClient.client_constraints,
    }


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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _validate_params(self) -> None:
        advice.check_parameters(self, super()._validate_params)

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

    def _outcomes(self, fits: Sequence[EnsembleFit], bar: Bar | None) -> Sequence[Outcome | None]:
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


class MLPEnsembleClassifier(ClassifierMixin, Ensemble):
    """Nets with different seeds, and optionally bootstrap samples; probabilities are averaged.

    All members are trained in one call, one on each core. Each member is an `MLPClassifier`, and
    ends in the numbers of its own `fit` with its seed.

    Parameters
    ----------
    hidden_layer_sizes, activation
        As for `MLPClassifier`.
    n_members : int, default 10
    bootstrap : bool, default False
        If True, each member is fitted on a bootstrap sample: n rows drawn with replacement. A label
        that is not in the sample has the member's probability 0.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
    tol, verbose, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, \
    beta_2, epsilon, n_iter_no_change, max_fun, class_weight, scoring, pickle_state, \
    label_smoothing, dropout, input_dropout, input_noise, average, compute_dtype, monotonic_cst
        As for `MLPClassifier`, passed on to every member.
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
    estimators_ : list of MLPClassifier, length n_members
    n_iter_ : (n_members,) array of int
        Epochs of each member, or iterations of "lbfgs".
    classes_ : (n_classes,) array of labels
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
    >>> from sklearn.datasets import load_iris
    >>> from fastmlp import MLPEnsembleClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> ensemble = MLPEnsembleClassifier((8,), n_members=3, random_state=0, solver="lbfgs")
    >>> ensemble.fit(X - X.mean(0), y).score(X - X.mean(0), y) > 0.95
    True
    >>> ensemble.predictive_entropy(X[:2] - X.mean(0)).shape
    (2,)
    """

    member: ClassVar[type[MLPClassifier]] = MLPClassifier
    estimators_: list[MLPClassifier]
    classes_: Array
    class_weight: ClassWeight | None
    _parameter_constraints: ClassVar[dict[str, Any]] = constraints_of(MLPClassifier)

    @explained
    def __init__(
        self,
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
        class_weight: ClassWeight | None = None,
        scoring: Scoring | None = None,
        pickle_state: bool = False,
        label_smoothing: float = 0.0,
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

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
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, or an indicator matrix of several labels a row.
        sample_weight : array-like of shape (n_samples,), optional
        progress : bool
            Show a tqdm bar over the epochs of all members.

        Returns
        -------
        MLPEnsembleClassifier
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
        rows, labels = self._checked_data(X, y)
        check_classification_targets(labels)
        if type_of_target(labels) != "multilabel-indicator":
            labels = column_or_1d(labels, warn=True)
            classes = np.unique(labels)
        else:
            classes = np.arange(labels.shape[1])
        self._fit_members(rows, labels, sample_weight, progress)
        self.classes_ = classes
        return self

    def predict(self, X: Table) -> Array:
        """Return the labels of the largest mean probabilities, or all above one half.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        (n_samples,) array of labels, or (n_samples, n_labels) array of 0 and 1
        """
        probabilities = self.predict_proba(X)
        if self._has_several_labels():
            return (probabilities > 0.5).astype(int)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Table) -> Array:
        """Return the mean of the members' probabilities, shape (n_samples, n_classes).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        return mean_of(self._probabilities(X))

    def predict_log_proba(self, X: Table) -> Array:
        """Return the logarithm of `predict_proba`, shape (n_samples, n_classes); -inf for 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict_std(self, X: Table) -> Array:
        """Return the members' standard deviation of the probabilities, (n_samples, n_classes).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        return self._probabilities(X).std(axis=0)

    def predictive_entropy(self, X: Table) -> Array:
        """Return the entropy of the mean probabilities, the ensemble's uncertainty.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        (n_samples,) array, in nats
            From 0 to log(n_classes); with several labels a row, the sum over the labels.
        """
        p = self.predict_proba(X)
        entropy = -xlogy(p, p)
        if self._has_several_labels():
            entropy -= xlogy(1 - p, 1 - p)
        # A probability rounded above 1 has a negative entropy.
        return np.maximum(entropy.sum(axis=1), 0.0)

    def _has_several_labels(self) -> bool:
        return bool(self.estimators_[0]._label_binarizer.y_type_.startswith("multilabel"))

    def _probabilities(self, X: Any) -> Array:
        """Return every member's probabilities, shape (n_members, n_samples, n_classes)."""
        rows = self._checked_rows(X)
        shape = (len(self.estimators_), rows.shape[0], len(self.classes_))
        dtype = self.estimators_[0].coefs_[0].dtype
        result = np.zeros(shape, np.result_type(dtype, rows.dtype))
        for member, of_member in zip(self.estimators_, result, strict=True):
            if len(member.classes_) == 1 and not self._has_several_labels():
                of_member[:, np.searchsorted(self.classes_, member.classes_)] = 1
            elif len(member.classes_) == len(self.classes_):
                of_member[:] = member.predict_proba(rows)
            else:
                columns = np.searchsorted(self.classes_, member.classes_)
                of_member[:, columns] = member.predict_proba(rows)
        return result


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
    _parameter_constraints: ClassVar[dict[str, Any]] = constraints_of(MLPRegressor)

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
