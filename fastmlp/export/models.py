"""A fitted model of any class as nets,
with steps before and after; `fold` of pipelines.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import warn
from fastmlp.backends.cpu.predict.embedded_tables import (
    RowFunction,
    TableMember,
    TableOwner,
    TableScale,
)
from fastmlp.backends.cpu.predict.trees import TreeNodes
from fastmlp.data.standardizer import Standardizer
from fastmlp.model import MLP, core_of
from fastmlp.network.spec import name_of
from fastmlp.rules.columns import LevelStep, NumberStep
from fastmlp.validation import Array
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import count

Kind = Literal["net", "regressor", "classifier"]
MISSING_CODE = -1
Step = NumberStep | LevelStep


class ModelParts(NamedTuple):
    """A fitted model.

    Attributes
    ----------
    kind : "net", "regressor" or "classifier"
    net : MLP
        Shares its parameters with the model.
    n_features : int, inputs of the net
    n_outputs : predictions for a row, in the order of `predict` or a classifier's `predict_proba`
    classes : (n_classes,) array of a classifier's labels, one label a row; else None
    feature_names : of the columns, if any
    """

    kind: Kind
    net: MLP
    n_features: int
    n_outputs: int
    classes: Array | None
    feature_names: tuple[str, ...]

    @property
    def complements(self) -> bool:
        """True if the net's one prediction p becomes 1 - p and p."""
        return self.n_outputs > self.net.layer_sizes[-1]

    @property
    def nets(self) -> list[MLP]:
        return [self.net]


def is_of_fastmlp(model: Any) -> bool:
    return any(kind.__module__.startswith("fastmlp.") for kind in type(model).__mro__)


def is_a(value: Any, kind: str, package: str) -> bool:
    """True for an object of a package's class of this name, which is not imported."""
    return any(
        base.__name__ == kind and base.__module__.startswith(f"{package}.")
        for base in type(value).__mro__
    )


def is_of_tables(model: Any) -> bool:
    """True for a model with `TableParts`."""
    return hasattr(type(model), "_table_parts")


def parts_of(model: Any, who: str) -> ModelParts:
    """Parts of a fitted model, or of a search's best estimator.

    `who` is the calling function, for messages.
    """
    if is_of_fastmlp(model) and hasattr(model, "best_estimator_"):
        return parts_of(model.best_estimator_, who)
    if not isinstance(model, MLP) and not (
        is_of_fastmlp(model) and hasattr(model, "net_")
    ):
        raise _error(model, who)
    net: MLP = model if isinstance(model, MLP) else model.net_
    n_features = net.layer_sizes[0]
    n_outputs = net.layer_sizes[-1]
    if isinstance(model, MLP):
        names = tuple(model.feature_names or ())
    else:
        names = tuple(getattr(model, "feature_names_in_", ()))
    labels: Array | None = getattr(model, "classes_", None)
    kind: Kind = "net" if isinstance(model, MLP) else "regressor"
    kind = kind if labels is None else "classifier"
    if labels is None or has_several_labels(model):
        return ModelParts(kind, net, n_features, n_outputs, None, names)
    return ModelParts(kind, net, n_features, max(n_outputs, 2), labels, names)


def has_several_labels(classifier: Any) -> bool:
    if hasattr(classifier, "_label_binarizer"):
        return bool(classifier._label_binarizer.y_type_.startswith("multilabel"))
    return bool(getattr(classifier, "_has_several_labels", False))


def _error(model: Any, who: str) -> Exception:
    """The error for a model without nets to export, with the way to one with nets."""
    if is_a(model, "Pipeline", "sklearn") or is_a(
        model, "TransformedTargetRegressor", "sklearn"
    ):
        return TypeError(
            f"{who}: model is a {type(model).__name__}: fastmlp.fold(model) makes one "
            "estimator of it, which takes the columns as they are"
        )
    if is_of_tables(model):
        return TypeError(
            f"{who}: a {type(model).__name__} is a model of tables, where encoders "
            "turn columns into inputs of nets: to_c, to_onnx, jit.compiled and "
            "shap_values take it"
        )
    if is_of_fastmlp(model) and hasattr(model, "fit"):
        return ValueError(f"{who}: the {type(model).__name__} is not fitted")
    return TypeError(
        f"{who}: model must be an MLP, or a fitted estimator or search of fastmlp, got "
        f"{type(model).__name__}"
    )


class TableParts(NamedTuple):
    """A model of tables, the weighted mean of nets and trees.

    A row is float64, in the order of the table's columns: numbers, NaN where missing,
    or codes of levels, -1 where missing or unknown. A date has a number for each part.

    Attributes
    ----------
    feature_names : of the numbers of a row
    levels : of each number of a row; empty unless it is a code
    numbers, codes : indices in a row of the steps' numbers and codes
    encodings : steps of each encoding, whose inputs follow each other
    members : nets, each with the index of its steps and its weight in the mean
        Predictions are summed in this order.
    n_outputs : predictions for a row
    classes : labels; None for a regression
    scale, center, low, high : of a regression: nets predict ``(y - center) / scale``, and y is
        between low and high
    trees : TreeNodes, or None; features are indices in a row; added last
    decisions : weights of the classes' probabilities in labels; None for a regression
    """

    feature_names: tuple[str, ...]
    levels: tuple[Sequence[Any], ...]
    numbers: Array
    codes: Array
    encodings: tuple[tuple[Step, ...], ...]
    members: tuple[tuple[MLP, int, float], ...]
    n_outputs: int
    classes: Array | None
    scale: float
    center: float
    low: float
    high: float
    trees: TreeNodes | None
    decisions: Array | None = None

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def nets(self) -> list[MLP]:
        return [net for net, *_ in self.members]

    @property
    def n_constants(self) -> int:
        sizes = [step.constants.size for steps in self.encodings for step in steps]
        nodes = self.trees.arrays.values() if self.trees else ()
        return sum(sizes) + sum(array.size for array in nodes)

    @property
    def steps(self) -> list[list[Step]]:
        return [[self._placed(step) for step in steps] for steps in self.encodings]

    def _placed(self, step: Step) -> Step:
        if isinstance(step, NumberStep):
            places = self.numbers
        else:
            places = self.codes
        return step._replace(columns=places[step.columns])

    def row_function(self) -> RowFunction:
        """A function of a row, from Python."""
        return RowFunction(self.owner())

    def owner(self, *, freeze: bool = False) -> TableOwner:
        """What the compiled function of a row is made of; `freeze` copies parameters."""
        members = []
        for net, encoding, weight in self.members:
            core = core_of(net)
            parameters = core.state.parameters
            if freeze:
                parameters = parameters.copy()
            network = core.engine.network
            members.append(TableMember(network, parameters, encoding, weight))
        if self.classes is None:
            task = "regression"
        elif all(net.layer_sizes[-1] == 1 for net in self.nets):
            task = "binary"
        else:
            task = "multiclass"
        return TableOwner(
            encodings=self.steps,
            members=members,
            n_in=self.n_features,
            n_out=self.n_outputs,
            task=task,
            scale=TableScale(self.scale, self.center, self.low, self.high),
            trees=self.trees,
        )

    def drawn(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Rows of numbers as in training, of levels, and of missing values."""
        generator = np.random.default_rng(seed)
        rows = np.full((n, self.n_features), np.nan)
        steps = (
            step
            for steps in self.encodings
            for step in steps
            if isinstance(step, NumberStep)
        )
        scaled = next((step for step in steps if step.constants.shape[1] == 2), None)
        if scaled is not None:
            center, factor = scaled.constants.T
            spread = np.divide(1, factor, out=np.ones_like(factor), where=factor > 0)
            numbers = center + spread * generator.normal(size=(n, len(center)))
            rows[:, self.numbers[scaled.columns]] = np.where(
                generator.random(numbers.shape) < 0.1, np.nan, numbers
            )
        elif self.trees is not None:
            for j in self.numbers:
                limits = self.trees.numbers[self.trees.features == j]
                rows[:, j] = generator.choice([*limits, np.nan], n)
        for j in self.codes:
            rows[:, j] = generator.integers(MISSING_CODE, len(self.levels[j]), n)
        return rows


Numbers = NDArray[np.float64]
WHO = "fastmlp.fold"
MODELS = (
    "an MLP, a fitted estimator of fastmlp, or a scikit-learn pipeline of scalers that "
    "ends in one"
)
# Share of a column's spread that rounding may take.
LARGEST_ROUNDING = 1e-3


class Affine(NamedTuple):
    """A change of each column: ``x * factor + shift``; both of shape (n_features,)."""

    factor: Numbers
    shift: Numbers

    def then(self, other: "Affine") -> "Affine":
        return Affine(
            self.factor * other.factor, self.shift * other.factor + other.shift
        )


def identity(n_features: int) -> Affine:
    return Affine(np.ones(n_features), np.zeros(n_features))


def affine_of(scaler: Any, name: str, who: str) -> Affine:
    """Product and sum of a fitted scaler; `name` is for messages."""
    if isinstance(scaler, Standardizer):
        return _scaled(scaler.center, scaler.scale)
    kind = type(scaler).__name__
    if kind not in OF_SKLEARN or not type(scaler).__module__.startswith("sklearn."):
        if isinstance(scaler, str | int | float):
            what = repr(scaler)
        else:
            what = f"a {kind}"
        raise TypeError(
            f"{who}: {name} is {what}, which cannot be folded; what can be: "
            f"Standardizer, {', '.join(OF_SKLEARN)}, 'passthrough'"
        )
    if not hasattr(scaler, "n_features_in_"):
        raise ValueError(f"{who}: {name} is not fitted")
    if getattr(scaler, "clip", False):
        raise ValueError(
            f"{who}: {name} clips, which cannot be folded: use {kind}(clip=False)"
        )
    center, scale = OF_SKLEARN[kind](scaler)
    n = scaler.n_features_in_
    return _scaled(
        np.zeros(n) if center is None else center,
        np.ones(n) if scale is None else scale,
    )


def _scaled(center: Any, scale: Any) -> Affine:
    center = np.asarray(center, np.float64)
    scale = np.asarray(scale, np.float64)
    return Affine(1 / scale, -center / scale)


# From a scaler to the numbers that are subtracted, and then divide; None:
# neither. MinMaxScaler's x * scale_ + min_ is (x - center) / scale.
OF_SKLEARN: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": lambda it: (it.mean_ if it.with_mean else None, it.scale_),
    "MinMaxScaler": lambda it: (-it.min_ / it.scale_, 1 / it.scale_),
    "MaxAbsScaler": lambda it: (None, it.scale_),
    "RobustScaler": lambda it: (it.center_, it.scale_),
}


@overload
def fold(model: MLP, scaler: Any = None, target_scaler: Any = None) -> MLP: ...
@overload
def fold(model: Any, scaler: Any = None, target_scaler: Any = None) -> Any: ...
@explained
def fold(model: Any, scaler: Any = None, target_scaler: Any = None) -> Any:
    """Return a net for unscaled columns, from a net that was trained on scaled columns.

    The scaling ``x * factor + shift`` goes into the first layer. Rows of weights are
    multiplied by factors, and biases gain the shifts times the weights. The scaling of
    targets goes into the last layer the other way. Predictions are equal up to
    rounding. The optimizer begins at step 0.

    Parameters
    ----------
    model : MLP, estimator of fastmlp, Pipeline or TransformedTargetRegressor
        Fitted; unchanged. A pipeline ends in an estimator of fastmlp, after
        StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, "passthrough", or
        pipelines of those. Targets of a TransformedTargetRegressor may be scaled too,
        if the output activation is the identity, or the loss a `Quantile`.
    scaler : Standardizer, or one of those scalers, optional
        Scaler of X, for a model that is not a pipeline.
    target_scaler : Standardizer, or one of those scalers, optional
        Scaler of y, with a column for each output, and one for all quantiles. The
        output activation is the identity, or the loss is a `Quantile`.

    Returns
    -------
    MLP or estimator
        In the class of `model`, or of the last step.

    Raises
    ------
    TypeError, ValueError
        If a step is another transformer, is not fitted or has other columns.

    Warns
    -----
    RuntimeWarning
        If rounding to the net's dtype loses much of a column's differences,
        such as large values with a small spread.

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

    Targets in Kelvin, of which the net learned ``(y - 300) / 25``:

    >>> whole = fold(net, scaler, Standardizer.known([300], [25]))
    >>> np.allclose(whole.predict(X), 300 + 25 * net.predict(scaler.transform(X)))
    True
    """
    targets = None
    if is_a(model, "TransformedTargetRegressor", "sklearn"):
        if target_scaler is not None:
            raise TypeError(
                f"{WHO}: the TransformedTargetRegressor has the scaling of its "
                "targets: leave target_scaler out"
            )
        model, targets = _of_targets(model)
    if scaler is None:
        steps = []
    else:
        steps = _steps_of(scaler, "scaler")
    whole = is_a(model, "Pipeline", "sklearn")
    if whole:
        *before, (_, model) = model.steps
        steps = [
            leaf for name, step in before for leaf in _steps_of(step, name)
        ] + steps
    if is_of_tables(model):
        raise TypeError(
            f"{WHO}: a {type(model).__name__} scales the columns itself, and draws "
            "outliers in by a curve, which weights cannot hold: predict takes columns "
            "as they are, also where skl2onnx.to_onnx(model, X[:1]) writes it to ONNX"
        )
    if not whole and scaler is None and targets is None and target_scaler is None:
        raise TypeError(
            f"{WHO}: scaler is missing: fold(model, scaler), fold(model, scaler, "
            "target_scaler), or fold(pipeline)"
        )
    folded = deepcopy(model)
    if not isinstance(model, MLP) and not (
        is_of_fastmlp(model) and hasattr(model, "net_")
    ):
        if hasattr(model, "best_estimator_"):
            best = "; fold its best_estimator_"
        elif isinstance(scaler, MLP):
            best = "; the model comes first: fold(model, scaler)"
        else:
            best = ""
        raise TypeError(f"{WHO}: model must be {MODELS}, got {model!r}{best}")
    net: MLP = folded if isinstance(folded, MLP) else folded.net_
    names = _names(folded, [step for _, step in steps])
    _fold_inputs(net, steps, names)
    if target_scaler is not None:
        of_targets = _steps_of(target_scaler, "target_scaler")
        if _link(net) == "sorted":
            # All quantiles are of one target.
            targets = _change_of(of_targets, 1, "target")
        else:
            targets = _change_of(of_targets, len(net.biases[-1]), "output")
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
            f"{WHO}: the targets of the TransformedTargetRegressor are changed by "
            "func, which cannot be folded"
        )
    if model.transformer is None:
        return model.regressor_, identity(1)
    return model.regressor_, affine_of(model.transformer_, "transformer", WHO)


def _fold_inputs(net: MLP, steps: list[tuple[str, Any]], names: Sequence[str]) -> None:
    """Move a scaling of inputs into the layers that read them, a skip's too.

    With x' = x f + s: W' = f W, and b' = b + s W.
    """
    change = _change_of(steps, len(net.weights[0]), "input")
    lost = np.abs(change.shift) * np.finfo(net.weights[0].dtype).eps
    if (lost > LARGEST_ROUNDING).any():
        worst = int(np.argmax(lost))
        if names:
            column = repr(names[worst])
        else:
            column = str(worst)
        warn(
            f"{WHO}: rounding of column {column} to {net.weights[0].dtype} changes its "
            f"scaled values by up to {lost[worst]:.2g}: subtract a number of about its "
            "mean from it before, or use float64",
            RuntimeWarning,
        )
    readers = [(net.weights[0], net.biases[0])]
    if net.skip:
        readers.append((net.weights[-1][-len(change.factor) :], net.biases[-1]))
    for numbers, biases in readers:
        weights = numbers.astype(np.float64)
        _assign(biases, biases + change.shift @ weights)
        _assign(numbers, weights * change.factor[:, None])


def _change_of(steps: list[tuple[str, Any]], n: int, what: str) -> Affine:
    """All steps as one change of a net's n inputs or outputs."""
    change = identity(n)
    for name, step in steps:
        affine = affine_of(step, name, WHO)
        if len(affine.factor) != n:
            raise ValueError(
                f"{WHO}: {name} scales {count(len(affine.factor), 'column')}, but the "
                f"net has {count(n, what)}"
            )
        change = change.then(affine)
    return change


def _link(net: MLP) -> str:
    network = core_of(net).engine.network
    return network.loss.link or name_of(network.activations[-1])


def _fold_targets(net: MLP, change: Affine) -> None:
    output = _link(net)
    if output not in ("identity", "sorted"):
        raise ValueError(
            f"{WHO}: scaled targets need an output activation of identity, got "
            f"{output!r}"
        )
    _assign(net.weights[-1], net.weights[-1] / change.factor)
    _assign(net.biases[-1], (net.biases[-1] - change.shift) / change.factor)


def _assign(array: Any, numbers: Any) -> None:
    with np.errstate(over="ignore"):
        rounded = numbers.astype(array.dtype)
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"{WHO}: a scale is so small that weights are not finite {array.dtype}"
        )
    array[:] = rounded


def _names(model: Any, scalers: list[Any]) -> tuple[str, ...]:
    """Names of the first scaler's columns, or else of the model's, if any."""
    for holder in (*scalers[:1], model):
        for attribute in ("feature_names", "feature_names_in_"):
            names = getattr(holder, attribute, None)
            if names is not None:
                return tuple(names)
    return ()
