"""fold: the scaling of inputs goes into the weights and biases of a net's first layer."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.warnings import warn
from fastmlp.data.standardizer import Standardizer
from fastmlp.export.models import is_a, is_of_fastmlp, is_of_tables
from fastmlp.model import MLP, core_of
from fastmlp.network.summary import name_of
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import count

Numbers = NDArray[np.float64]
WHO = "fastmlp.fold"
MODELS = (
    "an MLP, a fitted estimator of fastmlp, or a scikit-learn pipeline of scalers that ends in one"
)
# The share of a column's spread that rounding may take.
LARGEST_ERROR = 1e-3


class Affine(NamedTuple):
    """A change of each column: ``x * factor + shift``; both of shape (n_features,)."""

    factor: Numbers
    shift: Numbers

    def then(self, other: "Affine") -> "Affine":
        return Affine(self.factor * other.factor, self.shift * other.factor + other.shift)


def identity(n_features: int) -> Affine:
    return Affine(np.ones(n_features), np.zeros(n_features))


def affine_of(scaler: Any, name: str, who: str) -> Affine:
    """The product and sum of a fitted scaler; `name` stands in messages."""
    if isinstance(scaler, Standardizer):
        return _scaled(scaler.center, scaler.scale)
    kind = type(scaler).__name__
    if kind not in OF_SKLEARN or not type(scaler).__module__.startswith("sklearn."):
        what = repr(scaler) if isinstance(scaler, str | int | float) else f"a {kind}"
        raise TypeError(
            f"{who}: {name} is {what}, which cannot be folded; what can be: "
            f"Standardizer, {', '.join(OF_SKLEARN)}, 'passthrough'"
        )
    if not hasattr(scaler, "n_features_in_"):
        raise ValueError(f"{who}: {name} is not fitted")
    if getattr(scaler, "clip", False):
        raise ValueError(f"{who}: {name} clips, which cannot be folded: use {kind}(clip=False)")
    center, scale = OF_SKLEARN[kind](scaler)
    n = scaler.n_features_in_
    return _scaled(
        np.zeros(n) if center is None else center, np.ones(n) if scale is None else scale
    )


def _scaled(center: Any, scale: Any) -> Affine:
    center, scale = np.asarray(center, np.float64), np.asarray(scale, np.float64)
    return Affine(1 / scale, -center / scale)


# From a scaler to the numbers that it subtracts, and then divides by; None: it does not.
# MinMaxScaler's x * scale_ + min_ is (x - center) / scale.
OF_SKLEARN: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": lambda it: (it.mean_ if it.with_mean else None, it.scale_),
    "MinMaxScaler": lambda it: (-it.min_ / it.scale_, 1 / it.scale_),
    "MaxAbsScaler": lambda it: (None, it.scale_),
    "RobustScaler": lambda it: (it.center_, it.scale_),
}


@overload
def fold(model: MLP, scaler: Any) -> MLP: ...
@overload
def fold(model: Any, scaler: Any = None) -> Any: ...
@explained
def fold(model: Any, scaler: Any = None) -> Any:
    """Return a net that takes unscaled columns, from a net that was trained on scaled ones.

    The scaling ``x * factor + shift`` goes into the first layer: each row of its weights is
    multiplied by its column's factor, and its biases gain the shifts times the weights. Predictions
    from unscaled columns equal the old net's from scaled ones, to rounding. The optimizer begins at
    step 0.

    Parameters
    ----------
    model : MLP, estimator of fastmlp, Pipeline or TransformedTargetRegressor
        Fitted; it does not change. A pipeline ends in an estimator of fastmlp, and its steps before
        are StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, "passthrough", or pipelines of
        those. The targets of a TransformedTargetRegressor may have been scaled by one of them,
        where the output activation is the identity.
    scaler : Standardizer, or one of those scalers, optional
        The scaler of X, for a model that is not a pipeline.

    Returns
    -------
    MLP or estimator
        Of the class of `model`, or of the last step.

    Raises
    ------
    TypeError, ValueError
        If a step is not such a scaler, is not fitted or has other columns; the message names it.

    Warns
    -----
    RuntimeWarning
        If rounding to the net's dtype loses much of a column's differences, as of large values with
        a small spread.

    See Also
    --------
    fastmlp.Standardizer : learns the scaling, also of a stream.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Standardizer, fold
    >>> X = np.random.default_rng(0).normal(50, 20, (100, 3))
    >>> scaler = Standardizer().fit(X)
    >>> net = MLP((3, 8, 1), dtype="float64", seed=0)
    >>> history = net.fit(scaler.transform(X), X[:, 0], epochs=5)
    >>> whole = fold(net, scaler)
    >>> np.allclose(whole.predict(X), net.predict(scaler.transform(X)))
    True
    """
    targets = None
    if is_a(model, "TransformedTargetRegressor", "sklearn"):
        model, targets = _of_targets(model)
    steps = [] if scaler is None else _steps_of(scaler, "scaler")
    whole = is_a(model, "Pipeline", "sklearn")
    if whole:
        *before, (_, model) = model.steps
        steps = [leaf for name, step in before for leaf in _steps_of(step, name)] + steps
    if is_of_tables(model):
        raise TypeError(
            f"{WHO}: a {type(model).__name__} scales the columns itself, and draws outliers in by "
            "a curve, which weights cannot hold: predict takes columns as they are, also where "
            "skl2onnx.to_onnx(model, X[:1]) writes it to ONNX"
        )
    if not whole and scaler is None and targets is None:
        raise TypeError(f"{WHO}: scaler is missing: fold(model, scaler), or fold(pipeline)")
    folded = deepcopy(model)
    if not isinstance(model, MLP) and not (is_of_fastmlp(model) and hasattr(model, "net_")):
        best = "; fold its best_estimator_" if hasattr(model, "best_estimator_") else ""
        raise TypeError(f"{WHO}: model must be {MODELS}, got {model!r}{best}")
    net: MLP = folded if isinstance(folded, MLP) else folded.net_
    names = _names(folded, [step for _, step in steps])
    _fold_inputs(net, steps, names)
    if targets is not None:
        _fold_targets(net, targets)
    core_of(net).state.restart()
    vars(folded).pop("_optimizer", None)
    if isinstance(folded, MLP):
        folded.feature_names = names or None
    elif names:
        folded.feature_names_in_ = np.array(names, object)
    return folded


def _steps_of(step: Any, name: str) -> list[tuple[str, Any]]:
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return []
    if is_a(step, "Pipeline", "sklearn"):
        inner = [(f"{name}[{label!r}]", part) for label, part in step.steps]
        return [leaf for label, part in inner for leaf in _steps_of(part, label)]
    return [(name, step)]


def _of_targets(model: Any) -> tuple[Any, Affine]:
    if not hasattr(model, "regressor_"):
        raise ValueError(f"{WHO}: the TransformedTargetRegressor is not fitted")
    if model.func is not None:
        raise TypeError(
            f"{WHO}: the targets of the TransformedTargetRegressor are changed by func, which "
            "cannot be folded"
        )
    if model.transformer is None:
        return model.regressor_, identity(1)
    return model.regressor_, affine_of(model.transformer_, "transformer", WHO)


def _fold_inputs(net: MLP, steps: list[tuple[str, Any]], names: Sequence[str]) -> None:
    n_features = len(net.weights[0])
    change = identity(n_features)
    for name, step in steps:
        affine = affine_of(step, name, WHO)
        if len(affine.factor) != n_features:
            raise ValueError(
                f"{WHO}: {name} scales {count(len(affine.factor), 'column')}, but the net has "
                f"{count(n_features, 'input')}"
            )
        change = change.then(affine)
    lost = np.abs(change.shift) * np.finfo(net.weights[0].dtype).eps
    if (lost > LARGEST_ERROR).any():
        worst = int(np.argmax(lost))
        column = repr(names[worst]) if names else str(worst)
        warn(
            f"{WHO}: rounding of column {column} to {net.weights[0].dtype} changes its scaled "
            f"values by up to {lost[worst]:.2g}: subtract a number of about its mean from it "
            "before, or use float64",
            RuntimeWarning,
        )
    weights = net.weights[0].astype(np.float64)
    _assign(net.biases[0], net.biases[0] + change.shift @ weights)
    _assign(net.weights[0], weights * change.factor[:, None])


def _fold_targets(net: MLP, change: Affine) -> None:
    network = core_of(net).engine.network
    output = network.loss.link or name_of(network.activations[-1])
    if output != "identity":
        raise ValueError(
            f"{WHO}: scaled targets need an output activation of identity, got {output!r}"
        )
    _assign(net.weights[-1], net.weights[-1] / change.factor)
    _assign(net.biases[-1], (net.biases[-1] - change.shift) / change.factor)


def _assign(array: Any, numbers: Any) -> None:
    with np.errstate(over="ignore"):
        rounded = numbers.astype(array.dtype)
    if not np.isfinite(rounded).all():
        raise ValueError(f"{WHO}: a scale is so small that weights are not finite {array.dtype}")
    array[:] = rounded


def _names(model: Any, scalers: list[Any]) -> tuple[str, ...]:
    """Return the names of the first scaler's columns, or else of the model's, if there are
    names."""
    for holder in (*scalers[:1], model):
        for attribute in ("feature_names", "feature_names_in_"):
            names = getattr(holder, attribute, None)
            if names is not None:
                return tuple(names)
    return ()
