"""scikit-learn's interface to the nets of `MLP`, which `MLP.as_estimator` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fastmlp._process import task_pool
from fastmlp.estimators.common import BatchPredictions
from fastmlp.estimators.sklearn_bases import (
    BaseEstimator,
    ClassifierMixin,
    available_if,
)
from fastmlp.estimators.to_core import QuantileScore, values_of
from fastmlp.model import MLP
from fastmlp.network import heads, residual
from fastmlp.network.resolve import loss
from fastmlp.network.spec import Network
from fastmlp.rules import activations, losses, updates
from fastmlp.rules.losses import Loss, Smoothed, spelled
from fastmlp.training.history import History
from fastmlp.training.options import Listener
from fastmlp.typing import Table
from fastmlp.validation import Array, arrays, gaps
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import UNKNOWN, suggestion_for

# Arguments of `MLP.fit` that are not settings: data, arguments of one fit,
# and validation rows, which searches and pipelines would not transform.
OF_ONE_FIT = {
    "self",
    "X",
    "y",
    "sample_weight",
    "validation_data",
    "callbacks",
    "progress",
    "checkpoint",
    "checkpoint_every",
    "resume",
    "derivatives",
    "validation_derivatives",
}
Callbacks = Listener | Iterable[Listener]


def keyword_parameters(
    function: Callable[..., Any], but: set[str]
) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter for parameter in parameters if parameter.name not in but]


NET = keyword_parameters(MLP.__init__, {"self", "seed"})
FIT = keyword_parameters(MLP.fit, OF_ONE_FIT)
PARAMETERS_OF_NETS = [parameter.name for parameter in NET]
OF_FITS = [parameter.name for parameter in FIT]
_SELF, _SEED = "self", "random_state"
SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(_SELF, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *NET,
        *FIT,
        inspect.Parameter(_SEED, inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
)
KNOWN_PARAMETERS = [*PARAMETERS_OF_NETS, *OF_FITS, _SEED]


def check_names(settings: dict[str, Any], who: str) -> None:
    for name in settings.keys() - set(KNOWN_PARAMETERS):
        meant = suggestion_for(name, KNOWN_PARAMETERS, "MLP")
        raise TypeError(
            f"{who}: got an unexpected keyword argument {name!r}{meant} known: "
            f"{', '.join(KNOWN_PARAMETERS)}"
        )


def settings_of(net: MLP, network: Network, initializer: Any) -> dict[str, Any]:
    """The arguments with which `MLP` makes a net like this one, without the seed."""
    *linear, output = [_name(rule, activations.RULES) for rule in network.activations]
    hidden = residual.of_entries(network, linear)
    dropout = residual.written_dropout(network)
    loss = spelled(network.loss)
    smoothed = isinstance(loss, Smoothed)
    strengths: dict[Any, float] = {}
    for rule, strength in network.penalties:
        name = _name(rule, updates.PENALTIES)
        strengths[name] = strengths.get(name, 0.0) + strength
    of_spec = {
        "activation": _one_for_all(hidden) if hidden else "relu",
        "output_activation": None
        if network.loss.link or output == "identity"
        else output,
        "loss": loss.kind if smoothed else network.loss if loss is None else loss,
        "loss_weights": None,
        "label_smoothing": loss.label_smoothing if smoothed else 0.0,
        "l2": strengths.pop("l2", 0.0),
        "l1": strengths.pop("l1", 0.0),
        "penalties": strengths or None,
        "initializer": initializer,
        "layer_rates": _one_for_all(net.layer_rates) if network.layer_rates else None,
        "dtype": network.dtype.name,
        **dict.fromkeys(("dropout", "input_dropout", "input_noise"), 0.0),
        **({} if dropout is None else dropout.in_use()),
        "norm_epsilon": network.written.epsilon
        if network.written
        else residual.NORM_EPSILON,
    }
    if network.heads:
        of_spec |= heads.arguments(network)
    return {
        name: of_spec[name] if name in of_spec else getattr(net, name)
        for name in PARAMETERS_OF_NETS
    }


def _one_for_all(values: Sequence[Any]) -> Any:
    """The value of all layers, if equal: it fits nets of any depth."""
    first, *others = values
    same = all(value == first for value in others) and not isinstance(first, float)
    return first if same else list(values)


def _name(rule: Any, table: dict[str, Any]) -> Any:
    return next((name for name, known in table.items() if known is rule), rule)


def _plain(y: Any) -> Any:
    """Objects as the array that NumPy makes of them: of numbers, or of texts."""
    array = np.asarray(y)
    if array.dtype.kind == "O":
        return np.array(array.tolist())
    return array


class NetEstimator(BatchPredictions, BaseEstimator):
    """Arguments of `MLP` and `MLP.fit` as parameters;
    each fit makes a net with new weights.

    Attributes
    ----------
    net_ : MLP
    history_ : History
    n_rows_left_out_ : int, number of rows without a known target, with ``missing_targets="ignore"``
    n_features_in_, feature_names_in_ : as in scikit-learn
    """

    layer_sizes: Any
    loss: Any
    dtype: Any
    random_state: Any
    class_weight: Any
    missing_targets: Any
    n_rows_left_out_: int
    net_: MLP
    history_: History

    def __init__(self, **settings: Any) -> None:
        check_names(settings, type(self).__name__)
        bound = SIGNATURE.bind(self, **settings)
        bound.apply_defaults()
        for name in KNOWN_PARAMETERS:
            setattr(self, name, bound.arguments[name])

    # scikit-learn reads the names of parameters from it.
    __init__.__signature__ = SIGNATURE  # type: ignore[attr-defined]

    def _loss(self) -> Loss:
        if heads.is_spelled(self.loss):
            return losses.JOINT
        return loss(self.loss)

    def _checked(self, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
        dtype = np.dtype(self.dtype)
        try:
            X, y = validate_data(self, X, y, dtype=dtype, multi_output=True, **options)
        except ValueError as error:
            if str(error).startswith("Input y contains NaN"):
                raise ValueError(f"{error} {UNKNOWN.capitalize()}") from error
            raise
        return X, y

    def _known(self, X: Any, y: Any, beside: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rows that have a known target,
        with stand-ins in gaps, and a mask of known targets.

        `beside` has arrays of as many rows, or None. The mask is None without gaps.
        """
        self.n_rows_left_out_, known = 0, gaps.known_mask(y)
        if known is None:
            return X, y, beside, None
        rows = known.reshape(len(known), -1).any(axis=1)
        if not rows.any():
            raise ValueError(f"{type(self).__name__}: y has no known target")
        self.n_rows_left_out_ = int((~rows).sum())
        X, y = (_safe_indexing(each, np.flatnonzero(rows)) for each in (X, y))
        beside = tuple(None if a is None else np.asarray(a)[rows] for a in beside)
        known = known[rows]
        if known.all():
            return X, _plain(y), beside, None
        return X, np.where(known, np.asarray(y), 0).astype(float), beside, known

    @explained
    def fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        *,
        derivatives: ArrayLike | None = None,
        callbacks: Callbacks = (),
        progress: bool = False,
    ) -> Self:
        """Fit a net with new weights.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
        y : (n_samples,) or (n_samples, n_outputs) array-like
            Numbers; for a classifier labels, or 0 and 1 for each of several labels.
        sample_weight : (n_samples,) or (n_samples, n_outputs) array-like, optional
        derivatives : (n_samples, n_features) or (n_samples, n_outputs, n_features) array, optional
            Derivatives of y by X as `fit` receives it:
            scaled, where a pipeline scales X.
        callbacks, progress
            As for `MLP.fit`.

        Returns
        -------
        NetClassifier or NetRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            If data or parameters have a wrong type or value,
            or classes do not fit the outputs.
        """
        known = None
        beside = (sample_weight, derivatives)
        if self.missing_targets == "ignore":
            X, y, beside, known = self._known(X, y, beside)
        rows, targets, weights = self._data(X, y)
        if known is not None:
            targets = np.where(known, targets, np.nan)
        net = MLP(
            **{name: getattr(self, name) for name in PARAMETERS_OF_NETS},
            seed=self._seed(),
        )
        options = {name: getattr(self, name) for name in OF_FITS} | {
            "class_weight": weights
        }
        options |= {"callbacks": callbacks, "progress": progress}
        if derivatives is None:
            del options["derivative_weight"]  # without a meaning
        options |= {"sample_weight": beside[0], "derivatives": beside[1]}
        self.history_ = net.fit(rows, targets, **options)
        # Ctrl-C has ended the fit, and ends the pool of the fit.
        task_pool.check()
        self.net_ = net
        return self

    def _data(self, X: Any, y: Any) -> tuple[Array, Array, Any]:
        """Rows, targets and class weights for the net."""
        raise NotImplementedError

    def _seed(self) -> int | None:
        state = self.random_state
        if state is None or isinstance(state, Integral):
            return None if state is None else int(state)
        return int(check_random_state(state).randint(np.iinfo(np.int32).max))

    def _predictions(self, X: Any) -> Array:
        check_is_fitted(self, "net_")
        return self.net_.predict(
            validate_data(self, X, dtype=self.net_.dtype, reset=False)
        )


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

    def _data(self, X: Any, y: Any) -> tuple[Array, Array, Any]:
        arrays.check_labels(y, f"{type(self).__name__}.fit", "y")
        rows, labels = self._checked(X, y, y_numeric=False)
        check_classification_targets(labels)
        targets = labels
        self._has_several_labels = labels.ndim == 2 and labels.shape[1] > 1
        if self._has_several_labels:
            self.classes_ = np.arange(labels.shape[1])
        else:
            self.classes_, codes = np.unique(column_or_1d(labels), return_inverse=True)
            targets = self._coded(codes)
        return rows, targets, self._weights_of_codes()

    def _coded(self, codes: Array) -> Array:
        sizes, n = tuple(self.layer_sizes), len(self.classes_)
        n_outputs = sizes[-1]
        if n != max(n_outputs, 2):
            needed = 1 if n == 2 and self._loss().link != "softmax" else n
            raise ValueError(
                f"{type(self).__name__}: y has {n} classes, but layer_sizes={sizes} is "
                f"for {max(n_outputs, 2)}: layer_sizes={(*sizes[:-1], needed)}"
            )
        if n > 2 and self._loss().link == "sigmoid":
            raise ValueError(
                f"{type(self).__name__}: loss={self.loss!r} is for two classes or "
                f"several labels a row, but y has {n} classes: loss='cross_entropy'"
            )
        if n_outputs == 1 or self._loss().targets == "classes":
            return codes
        return np.eye(n, dtype=self.dtype)[codes]

    def _weights_of_codes(self) -> Any:
        weights = self.class_weight
        if not isinstance(weights, Mapping):
            return weights
        index = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in weights if label not in index]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: class_weight has classes that y has not: "
                f"{unknown}"
            )
        return {index[label]: weight for label, weight in weights.items()}

    def predict(self, X: Table) -> Array:
        """Return the labels of the largest outputs, or of outputs above one half.

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
        """Return the probabilities of the classes,
        for a loss with the link sigmoid or softmax.

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
        return outputs


class NetRegressor(QuantileScore, NetEstimator):
    """A net as a regressor."""

    def _data(self, X: Any, y: Any) -> tuple[Array, Array, Any]:
        return *self._checked(X, y, y_numeric=True), self.class_weight

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
            If `return_std` is True for another loss.
        """
        return values_of(
            self, self._predictions(X), self._loss().link, with_std=return_std
        )


def estimator_of(
    net: MLP, network: Network, initializer: Any, kind: Any, settings: dict[str, Any]
) -> NetEstimator:
    """An estimator with a net's settings, replaced by the given settings."""
    who = "MLP.as_estimator"
    check_names(settings, who)
    if not all(net.trainable):
        raise ValueError(
            f"{who}: each fit draws new weights, also for frozen layers, which would "
            "keep them: set net.trainable = True"
        )
    if network.heads and "loss" not in settings:
        labelled = [it.name for it in network.heads if it.loss.targets == "classes"]
        if labelled or kind == "classifier":
            raise ValueError(
                f"{who}: y of scikit-learn is one array, and head "
                f"{(labelled or network.head_names)[0]!r} would take labels: use "
                f"net.fit"
            )
    if kind is None:
        chosen = settings.get("loss", network.loss)
        known: Any = losses.LOSSES.get(chosen) if isinstance(chosen, str) else chosen
        link = getattr(getattr(known, "loss", known), "link", None)
        classes = link in ("softmax", "sigmoid")
        kind = "classifier" if classes else "regressor"
    kinds: dict[Any, type[NetEstimator]] = {
        "classifier": NetClassifier,
        "regressor": NetRegressor,
    }
    if kind not in kinds:
        raise ValueError(
            f"{who}: kind must be 'classifier', 'regressor' or None, got {kind!r}"
        )
    return kinds[kind](**settings_of(net, network, initializer) | settings)
