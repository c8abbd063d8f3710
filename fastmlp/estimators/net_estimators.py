"""scikit-learn's interface to the nets of `MLP`: what `MLP.as_estimator` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fastmlp._process import task_pool
from fastmlp.estimators import net_settings
from fastmlp.estimators.arguments import Table
from fastmlp.estimators.in_batches import InBatches
from fastmlp.estimators.mlp.losses import pinball_score
from fastmlp.estimators.sklearn_bases import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    available_if,
)
from fastmlp.model import MLP
from fastmlp.network.resolve import loss
from fastmlp.network.spec import Network
from fastmlp.rules.loss_settings import Quantile, spelled
from fastmlp.rules.losses import Loss
from fastmlp.training.history import History
from fastmlp.training.options import Listener
from fastmlp.validation.calls import explained

Array = NDArray[Any]
Callbacks = Listener | Iterable[Listener]


class NetEstimator(InBatches, BaseEstimator):
    """Arguments of `MLP` and `MLP.fit` as parameters; each fit makes a net with new weights.

    Attributes
    ----------
    net_ : MLP
    history_ : History
    n_features_in_, feature_names_in_ : as in scikit-learn
    """

    layer_sizes: Any
    loss: Any
    dtype: Any
    random_state: Any
    class_weight: Any
    net_: MLP
    history_: History

    def __init__(self, **settings: Any) -> None:
        net_settings.check_names(settings, type(self).__name__)
        given = net_settings.SIGNATURE.bind(self, **settings)
        given.apply_defaults()
        for name in net_settings.KNOWN:
            setattr(self, name, given.arguments[name])

    # Where scikit-learn reads the names of parameters.
    __init__.__signature__ = net_settings.SIGNATURE  # type: ignore[attr-defined]

    def _loss(self) -> Loss:
        return loss(self.loss)

    def _checked(self, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, dtype=np.dtype(self.dtype), multi_output=True, **options)
        return X, y

    def _train(self, X: Array, y: Array, sample_weight: Any, weights: Any, **options: Any) -> Self:
        """Make a net, and fit it on checked data; `weights` are those of the classes."""
        of_net = {name: getattr(self, name) for name in net_settings.OF_NETS}
        of_fit = {name: getattr(self, name) for name in net_settings.OF_FITS}
        of_fit["class_weight"] = weights
        net = MLP(**of_net, seed=self._seed())
        self.history_ = net.fit(X, y, sample_weight=sample_weight, **of_fit, **options)
        # Ctrl-C has ended the fit, and ends the pool that the fit is part of.
        task_pool.check()
        self.net_ = net
        return self

    def _seed(self) -> int | None:
        state = self.random_state
        if state is None or isinstance(state, Integral):
            return None if state is None else int(state)
        return int(check_random_state(state).randint(np.iinfo(np.int32).max))

    def _predictions(self, X: Any) -> Array:
        check_is_fitted(self, "net_")
        return self.net_.predict(validate_data(self, X, dtype=self.net_.dtype, reset=False))


class NetClassifier(ClassifierMixin, NetEstimator):
    """A net as a classifier: y has labels of any kind, or is an indicator matrix.

    Attributes
    ----------
    classes_ : (n_classes,) array
    """

    classes_: Array

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @explained
    def fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        *,
        callbacks: Callbacks = (),
        progress: bool = False,
    ) -> Self:
        """Fit a net with new weights.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
        y : (n_samples,) array-like of labels, or (n_samples, n_labels) of 0 and 1
        sample_weight : (n_samples,) array-like, optional
        callbacks, progress
            As for `MLP.fit`.

        Returns
        -------
        NetClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            If data or parameters are not what they must be, or the classes are not those of the
            outputs.
        """
        rows, labels = self._checked(X, y, y_numeric=False)
        check_classification_targets(labels)
        targets = labels
        self._has_several_labels = labels.ndim == 2 and labels.shape[1] > 1
        if self._has_several_labels:
            self.classes_ = np.arange(labels.shape[1])
        else:
            self.classes_, codes = np.unique(column_or_1d(labels), return_inverse=True)
            targets = self._coded(codes)
        weights = self._weights_of_codes()
        options: dict[str, Any] = {"callbacks": callbacks, "progress": progress}
        return self._train(rows, targets, sample_weight, weights, **options)

    def _coded(self, codes: Array) -> Array:
        """Return the targets of the loss, for the index of each row's class."""
        sizes, n = tuple(self.layer_sizes), len(self.classes_)
        n_outputs = sizes[-1]
        if n != max(n_outputs, 2):
            needed = 1 if n == 2 and self._loss().link != "softmax" else n
            raise ValueError(
                f"{type(self).__name__}: y has {n} classes, but layer_sizes={sizes} is for "
                f"{max(n_outputs, 2)}: layer_sizes={(*sizes[:-1], needed)}"
            )
        if n_outputs == 1 or self._loss().targets == "classes":
            return codes
        return np.eye(n, dtype=self.dtype)[codes]

    def _weights_of_codes(self) -> Any:
        """Return `class_weight` by the indices of the classes."""
        given = self.class_weight
        if not isinstance(given, Mapping):
            return given
        index = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in given if label not in index]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: class_weight has classes that y has not: {unknown}"
            )
        return {index[label]: weight for label, weight in given.items()}

    def predict(self, X: Table) -> Array:
        """Return the labels of the largest outputs, or of those above one half.

        Parameters
        ----------
        X : (n_samples, n_features) array-like

        Returns
        -------
        (n_samples,) array of labels, or (n_samples, n_labels) array of 0 and 1
        """
        outputs = self._predictions(X)
        if self._has_several_labels:
            return (outputs > 0.5).astype(int)
        if outputs.shape[1] == 1:
            return self.classes_[(outputs[:, 0] > 0.5).astype(np.intp)]
        return self.classes_[outputs.argmax(axis=1)]

    @available_if(lambda classifier: classifier._loss().link in ("softmax", "sigmoid"))
    def predict_proba(self, X: Table) -> Array:
        """Return the probabilities of the classes, of a loss with the link sigmoid or softmax.

        Parameters
        ----------
        X : (n_samples, n_features) array-like

        Returns
        -------
        (n_samples, n_classes) array
        """
        outputs = self._predictions(X)
        if outputs.shape[1] == 1:
            return np.hstack([1 - outputs, outputs])
        if not self._has_several_labels and self._loss().link == "sigmoid":
            # One class against all others: the outputs have another sum than 1.
            return outputs / outputs.sum(axis=1, keepdims=True)
        return outputs


class NetRegressor(RegressorMixin, NetEstimator):
    """A net as a regressor."""

    @explained
    def fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        *,
        callbacks: Callbacks = (),
        progress: bool = False,
    ) -> Self:
        """Fit a net with new weights.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
        y : (n_samples,) or (n_samples, n_outputs) array-like
        sample_weight : (n_samples,) array-like, optional
        callbacks, progress
            As for `MLP.fit`.

        Returns
        -------
        NetRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            If data or parameters are not what they must be.
        """
        rows, targets = self._checked(X, y, y_numeric=True)
        options: dict[str, Any] = {"callbacks": callbacks, "progress": progress}
        return self._train(rows, targets, sample_weight, self.class_weight, **options)

    def predict(self, X: Table, *, return_std: bool = False) -> Any:
        """Return the predictions, shape (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : (n_samples, n_features) array-like
        return_std : bool, default False
            If True, return the standard deviations too; for ``loss="gaussian_nll"``.

        Raises
        ------
        ValueError
            If standard deviations are asked for, and the loss has none.
        """
        outputs = self._predictions(X)
        if self._loss().link == "mean_std":
            mean, deviation = _squeezed(outputs[:, ::2]), _squeezed(outputs[:, 1::2])
            return (mean, deviation) if return_std else mean
        if return_std:
            raise ValueError("NetRegressor.predict: return_std=True needs loss='gaussian_nll'")
        return _squeezed(outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 of the predictions; of `Quantile` the negative mean pinball loss.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
        y : (n_samples,) or (n_samples, n_outputs) array-like
        sample_weight : (n_samples,) array-like, optional
        """
        settings = spelled(self._loss())
        if not isinstance(settings, Quantile):
            return float(super().score(X, y, sample_weight))
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        return pinball_score(self._predictions(X), targets, sample_weight, settings.levels)


def _squeezed(outputs: Array) -> Array:
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def estimator_of(
    net: MLP, network: Network, initializer: Any, kind: Any, settings: dict[str, Any]
) -> NetEstimator:
    """Return an estimator with a net's settings, and with those that are given.

    Raises
    ------
    TypeError, ValueError
        If there is no such kind or setting, or a layer of the net is frozen.
    """
    who = "MLP.as_estimator"
    net_settings.check_names(settings, who)
    if not all(net.trainable):
        raise ValueError(
            f"{who}: each fit draws new weights, also for frozen layers, which would keep them: "
            "set net.trainable = True"
        )
    if kind is None:
        chosen = settings.get("loss", network.loss)
        classes = net_settings.link_of(chosen) in ("softmax", "sigmoid")
        kind = "classifier" if classes else "regressor"
    kinds: dict[Any, type[NetEstimator]] = {"classifier": NetClassifier, "regressor": NetRegressor}
    if kind not in kinds:
        raise ValueError(f"{who}: kind must be 'classifier', 'regressor' or None, got {kind!r}")
    return kinds[kind](**net_settings.settings_of(net, network, initializer) | settings)
