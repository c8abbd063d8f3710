"""MLPEnsembleClassifier: the mean of many nets' probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from fastmlp.estimators.common import (
    Activations,
    BatchSize,
    ClassWeight,
    HiddenLayerSizes,
    LearningRate,
    RandomState,
    Scoring,
    Solver,
    Table,
)
from fastmlp.estimators.ensemble.base import Ensemble, mean_of
from fastmlp.estimators.mlp import MLPClassifier
from fastmlp.estimators.sklearn_bases import ClassifierMixin, _fit_context
from fastmlp.network.spec import ComputeDTypes, DropoutLike
from fastmlp.rules.averages import Average
from fastmlp.rules.dropout import Rate
from fastmlp.validation.calls import explained

if TYPE_CHECKING:
    from distributed import Client
else:
    Client = Any  # So that type hints can be read without it.

Array = NDArray[Any]
CONSTRAINTS = dict(MLPClassifier._parameter_constraints)
CONSTRAINTS.pop("warm_start")


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
    _parameter_constraints: ClassVar[dict[str, Any]] = {**CONSTRAINTS, **Ensemble.more_constraints}

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
