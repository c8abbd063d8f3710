"""MLPClassifier and MLPRegressor: scikit-learn's, trained by fastmlp."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators import base, sklearn_bases, to_core
from fastmlp.estimators.sklearn_bases import _fit_context, available_if
from fastmlp.export.onnx import register
from fastmlp.network.spec import ComputeDTypes, DropoutLike
from fastmlp.rules.dropout import Rate
from fastmlp.rules.losses import Loss, LossSettings
from fastmlp.rules.optimizer_protocol import Average
from fastmlp.training.stopping import EarlyStopping
from fastmlp.typing import (
    Activations,
    BatchSize,
    ClassWeight,
    HiddenLayerSizes,
    LearningRate,
    Metrics,
    RandomState,
    RegressionLoss,
    Scoring,
    Solver,
    Table,
)
from fastmlp.validation import Array, arrays
from fastmlp.validation.calls import explained


class MLPClassifier(base.CompiledMLP, sklearn_bases.MLPClassifier):
    """scikit-learn's multi-layer perceptron classifier, trained by compiled kernels.

    Parameters, attributes, methods and messages are as in `sklearn.neural_network.MLPClassifier`.
    With the same `random_state` the weights, `loss_curve_` and `validation_scores_` equal
    scikit-learn's up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int, default (100,)
    activation : str, callable, or a list of them, one per hidden layer, default "relu"
        scikit-learn's "identity", "logistic", "tanh" and "relu", other names of `MLP`, such as
        "gelu", or a function ``activation(z) -> (value, slope)``.
    solver : str or Optimizer, default "adam"
        scikit-learn's "lbfgs", "sgd" and "adam", another name of `MLP`, such as "adamw", or an
        optimizer, such as ``AdamW(weight_decay=0.1)``. Names use `learning_rate_init`, `beta_1`,
        `beta_2` and `epsilon` if the optimizer has them. "lm" is `LevenbergMarquardt`, with all
        rows at each of `max_iter` iterations; "lm" and "lbfgs" take `tol` as the bound of the
        gradient.
    alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
    random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, validation_fraction, \
    beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn.
    early_stopping : bool or EarlyStopping, default False
        True: scikit-learn's rule, by `scoring`, `tol` and `n_iter_no_change`. An `EarlyStopping`
        works as in `MLP.fit`.
    n_jobs : int, optional
        Maximum number of threads; results do not depend on it. None: all threads of the process,
        but one in a joblib worker.
    class_weight : dict, "balanced" or None
        Weights of the classes, which multiply the rows' weights.
    scoring : str or callable, optional
        The criterion of ``early_stopping=True``: a scorer, its name, or "loss". None: the accuracy.
    metrics : str or callable, or a list or dict of them, optional
        As in `MLP.fit`, on held-out rows or `X_val`: for `history_`, reports and
        ``EarlyStopping(monitor=name)``. Functions get indices of `classes_`.
    pickle_state : bool, default False
        If True, pickles hold the state of training, and are three times as large: `partial_fit`
        then continues as without pickling. `copy.deepcopy` always keeps the state.
    label_smoothing : float in [0, 1), default 0.0
        Training targets are ``(1 - label_smoothing) y + label_smoothing / n`` for n classes, 2 for
        each of several labels.
    dropout, input_dropout, input_noise : float or schedule, default 0.0
        As in `MLP`; `dropout` may be a list, one for each hidden layer. Not for "lbfgs".
    average : EMA or SWA, optional
        The average of parameters that predicts, as for optimizers of `MLP`. Not for "lbfgs", nor
        for an optimizer that averages.
    compute_dtype : "bfloat16", or a sequence of "bfloat16" and "float32", one per layer, optional
        Mixed precision, as in `MLP`, with float32 parameters for any X. Not for "lbfgs".
    monotonic_cst : array-like of -1, 0 and 1, of shape (n_features,), or dict of str, optional
        Predictions, or the second class's probability, do not fall (1) or do not rise (-1) with the
        feature, as in `MLP`; a dict constrains the named columns.

    Attributes
    ----------
    coefs_, intercepts_ : lists of arrays, shape (n_in, n_out) and (n_out,) each
        Numbers written to them take effect.
    validation_loss_curve_ : list of float, or None
        Each epoch's loss on the held-out rows, if any.
    history_ : History or None
        After a fit with metrics, an `EarlyStopping`, callbacks or a bar.
    net_ : MLP
        A net that shares the parameters: numbers written to one are in the other.
    classes_, loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_, t_, \
    n_iter_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter has a wrong type or value.

    See Also
    --------
    fastmlp.MLP : the same kernels in the words of Keras and PyTorch.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fastmlp import MLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = MLPClassifier(random_state=0, early_stopping=True).fit(X / 16, y)
    >>> classifier.predict(X[:3] / 16)
    array([0, 1, 2])
    """

    classes_: Array
    class_weight: ClassWeight | None
    label_smoothing: float

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn_bases.MLPClassifier._parameter_constraints,
        **base.CompiledMLP.more_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    @explained
    def __init__(
        self,
        hidden_layer_sizes: HiddenLayerSizes = (100,),
        activation: Activations = "relu",
        *,
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
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool | EarlyStopping = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        class_weight: ClassWeight | None = None,
        scoring: Scoring | None = None,
        metrics: Metrics | None = None,
        pickle_state: bool = False,
        label_smoothing: float = 0.0,
        dropout: DropoutLike = 0.0,
        input_dropout: Rate = 0.0,
        input_noise: Rate = 0.0,
        average: Average | None = None,
        compute_dtype: ComputeDTypes | None = None,
        monotonic_cst: ArrayLike | Mapping[str, int] | None = None,
    ) -> None:
        self._keep(locals(), sklearn_bases.MLPClassifier)

    @available_if(lambda estimator: estimator._check_solver())
    def partial_fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the given rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        sample_weight : array-like of shape (n_samples,), optional
        classes : array-like of shape (n_classes,), optional
            The labels of all calls, which the first call needs.

        Returns
        -------
        MLPClassifier
            Itself.

        Raises
        ------
        AttributeError
            With ``solver="lbfgs"``.
        ValueError
            If the first call lacks classes,
            a later call has others, or y has other labels.
        """
        known = hasattr(self, "classes_")
        if known and classes is not None and np.array_equal(self.classes_, classes):
            classes = None  # scikit-learn would sort them again, in 80 us
        return super().partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Table) -> Array:
        """Return the labels of X, shape (n_samples,) or (n_samples, n_labels).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        outputs = self._quick_outputs(X)
        if outputs is None:
            return super().predict(X)
        # Labels are the binarizer's, as in scikit-learn:
        # `classes_` may have been written to.
        classes: Array = self._label_binarizer.classes_
        if len(classes) > 1 and self.n_outputs_ == 1:
            return classes[(outputs[:, 0] > 0.5).astype(np.intp)]
        if self._label_binarizer.y_type_ == "multiclass":
            return classes[outputs.argmax(axis=1)]
        outputs = outputs.ravel() if self.n_outputs_ == 1 else outputs
        labels: Array = self._label_binarizer.inverse_transform(outputs)
        return labels

    def predict_proba(self, X: Table) -> Array:
        """Return the probabilities of the classes, shape (n_samples, n_classes).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        outputs = self._quick_outputs(X)
        if outputs is None:
            return super().predict_proba(X)
        if self.n_outputs_ == 1:
            return np.hstack([1 - outputs, outputs])
        return outputs

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, Array]:
        anew = not hasattr(self, "classes_") or not (self.warm_start or incremental)
        if base.are_plain_labels(y, X) and (anew or self._has_plain_classes()):
            classes = base.classes_of(y) if anew else self.classes_
            targets = base.binarize(y, classes, all_present=self.warm_start)
            if targets is not None:
                X = base.checked_rows(self, X, reset=reset)
                if anew:
                    self._label_binarizer = base.binarizer_of(classes)
                    self.classes_ = classes
                return X, targets
        who = f"{type(self).__name__}.fit"
        arrays.check_labels(y, who, "y")
        try:
            return super()._validate_input(X, y, incremental, reset)
        except ValueError as error:
            if not str(error).startswith("Unknown label type: (array"):
                raise
            # scikit-learn's begins so, and prints all of y.
            raise ValueError(
                f"Unknown label type: {who}: y must be labels of classes, got numbers "
                f"such as {np.ravel(y)[0]:.4g}; for numbers take MLPRegressor, for "
                "classes y.astype(int) or np.digitize(y, bins)"
            ) from None

    def _has_plain_classes(self) -> bool:
        """True for one label a row, and classes that a user has not written to."""
        binarizer = self._label_binarizer
        of_one_label = binarizer.y_type_ in ("binary", "multiclass")
        return of_one_label and np.array_equal(binarizer.classes_, self.classes_)

    def _labels_of(self, targets: Array) -> Any:
        return self._label_binarizer.inverse_transform(targets)

    def _loss(self) -> Loss:
        return to_core.loss_of_classifier(self)

    def _metric(self, outputs: Array, targets: Array, weight: Any) -> float:
        if len(self.classes_) == 1:
            return 1.0
        return base.accuracy(
            outputs, targets, weight, one_hot=self.out_activation_ == "softmax"
        )

    def _binarized(self, y: Any) -> Array:
        if np.ndim(y) == 1 and (
            unknown := set(np.unique(y).tolist()) - {*self.classes_.tolist()}
        ):
            raise ValueError(f"y_val has classes that y has not: {sorted(unknown)}")
        return self._label_binarizer.transform(y).astype(bool)

    def _of_classes(self, weight: Any, X: Any, y: Array) -> Any:
        if self.class_weight is None:
            return weight
        labels = self._label_binarizer.inverse_transform(y)
        by_class = compute_sample_weight(self.class_weight, labels).astype(X.dtype)
        return by_class if weight is None else weight * by_class


class MLPRegressor(to_core.QuantileScore, base.CompiledMLP, sklearn_bases.MLPRegressor):
    """scikit-learn's multi-layer perceptron regressor, trained by compiled kernels.

    Parameters, attributes, methods and messages are as in `sklearn.neural_network.MLPRegressor`.
    With the same `random_state` the weights, `loss_curve_` and `validation_scores_` equal
    scikit-learn's up to rounding.

    Parameters
    ----------
    loss : str, Quantile, Tweedie, Loss or callable, default "squared_error"
        scikit-learn's "squared_error" and "poisson", or a loss of `MLP` for numbers. "gamma" is for
        targets above 0, "tweedie" for 0 or more; both are half the deviance, and `predict` is exp
        of the net's output. With several levels of `Quantile` y has one column, and `predict` a
        sorted column for each level. "gaussian_nll" trains a mean and a standard deviation.
    scoring : str or callable, optional
        The criterion of early stopping: a scorer, its name, or "loss". None: R2.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, \
    power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, \
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
    n_iter_no_change, max_fun, n_jobs, metrics, pickle_state, dropout, input_dropout, input_noise, \
    average, compute_dtype, monotonic_cst
        As in `MLPClassifier`.

    Attributes
    ----------
    coefs_, intercepts_ : lists of arrays, shape (n_in, n_out) and (n_out,) each
        Numbers written to them take effect.
    validation_loss_curve_ : list of float, or None
        Each epoch's loss on the held-out rows, if any.
    history_ : History or None
        After a fit with metrics, an `EarlyStopping`, callbacks or a bar.
    net_ : MLP
        A net that shares the parameters: numbers written to one are in the other.
    loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_, t_, n_iter_, \
    n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter has a wrong type or value.

    See Also
    --------
    fastmlp.MLP : the same kernels in the words of Keras and PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPRegressor
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> regressor = MLPRegressor(solver="lbfgs", random_state=0, max_iter=500)
    >>> y = np.sin(3 * X[:, 0])
    >>> regressor.fit(X, y).score(X, y) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn_bases.MLPRegressor._parameter_constraints,
        **base.CompiledMLP.more_constraints,
        "loss": [StrOptions({*to_core.OF_REGRESSORS}), LossSettings, Loss, callable],
    }

    @explained
    def __init__(
        self,
        loss: RegressionLoss = "squared_error",
        hidden_layer_sizes: HiddenLayerSizes = (100,),
        activation: Activations = "relu",
        *,
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
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool | EarlyStopping = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        scoring: Scoring | None = None,
        metrics: Metrics | None = None,
        pickle_state: bool = False,
        dropout: DropoutLike = 0.0,
        input_dropout: Rate = 0.0,
        input_noise: Rate = 0.0,
        average: Average | None = None,
        compute_dtype: ComputeDTypes | None = None,
        monotonic_cst: ArrayLike | Mapping[str, int] | None = None,
    ) -> None:
        self._keep(locals(), sklearn_bases.MLPRegressor)

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    @explained
    def partial_fit(
        self, X: Table, y: Table, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on the given rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        MLPRegressor
            Itself.

        Raises
        ------
        AttributeError
            With ``solver="lbfgs"``.
        """
        return self._fit(X, y, sample_weight=sample_weight, incremental=True)

    def predict(self, X: Table, *, return_std: bool = False) -> Any:
        """Return the predictions, shape (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default False
            If True, return standard deviations too,
            in the same shape; for ``loss="gaussian_nll"``.

        Raises
        ------
        ValueError
            If `return_std` is True for another loss.
        """
        outputs = self._quick_outputs(X)
        if outputs is None:
            check_is_fitted(self)
            outputs = self._outputs(self._validated_rows(X))
        return to_core.values_of(
            self, outputs, self.out_activation_, with_std=return_std
        )

    def _loss(self) -> Loss:
        return to_core.loss_of_regressor(self)

    def _outputs_for(self, y: Array) -> int:
        loss = self._loss()
        if loss.link == "sorted" and y.shape[1] > 1:
            raise ValueError(
                f"MLPRegressor: quantiles of several levels take y of one column, got "
                f"{y.shape[1]}: fit a model for each column, or for each level"
            )
        return int(y.shape[1]) * loss.per_target

    def _initialize(self, y: Array, layer_units: list[Any], dtype: Any) -> None:
        super()._initialize(y, layer_units, dtype)
        self.out_activation_ = self._loss().link or "identity"

    def _labels_of(self, targets: Array) -> Array:
        return targets

    def _metric(self, outputs: Array, targets: Array, weight: Any) -> float:
        levels = to_core.levels_of(self._loss())
        if levels is not None:
            return to_core.pinball_score(outputs, targets, weight, levels)
        return base.r2(outputs[:, :: self._loss().per_target], targets, weight)

    def _binarized(self, y: Any) -> Array:
        y = to_core.checked_targets(self, y)
        return y.reshape(-1, 1) if y.ndim == 1 else y

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, Array]:
        out = self._loss().link or "identity"
        if not reset and self.out_activation_ != out:
            raise ValueError(
                f"MLPRegressor has the out_activation_ {self.out_activation_!r} from "
                f"an earlier fit, but loss={self.loss!r} asks for {out!r}: call fit "
                "with warm_start=False to begin anew"
            )
        if base.are_plain_targets(y, X):
            X = base.checked_rows(self, X, reset=reset)
        else:
            X, y = super()._validate_input(X, y, incremental, reset)
        return X, to_core.checked_targets(self, y, X.dtype)


register(MLPClassifier, MLPRegressor)
