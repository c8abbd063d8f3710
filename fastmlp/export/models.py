"""A fitted model of any class as nets, with the steps from a row to inputs, and to predictions."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.predict.trees import TreeNodes
from fastmlp.model import MLP
from fastmlp.rules.columns import LevelStep, NumberStep

Array = NDArray[Any]
Kind = Literal["net", "regressor", "classifier"]
MISSING = -1
Step = NumberStep | LevelStep


class ModelParts(NamedTuple):
    """A fitted model.

    Attributes
    ----------
    kind : "net", "regressor" or "classifier"
    net : MLP
        It shares its parameters with the model.
    n_features : int, inputs of the net
    n_outputs : numbers that the model predicts for a row, in the order of its `predict` or, for a
        classifier, `predict_proba`
    classes : (n_classes,) array of labels, of a classifier of one label a row; else None
    feature_names : of the columns, if there are names
    """

    kind: Kind
    net: MLP
    n_features: int
    n_outputs: int
    classes: Array | None
    feature_names: tuple[str, ...]

    @property
    def complements(self) -> bool:
        """True if the net's one prediction, p, becomes 1 - p and p."""
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
    """True for a model that tells what becomes of a table's row, as `TableParts`."""
    return hasattr(type(model), "_table_parts")


def parts_of(model: Any, who: str) -> ModelParts:
    """The parts of a fitted model, or of a search's best estimator.

    Parameters
    ----------
    model : MLP, or a fitted estimator or search of fastmlp
    who : the function that is called, for messages
    """
    if is_of_fastmlp(model) and hasattr(model, "best_estimator_"):
        return parts_of(model.best_estimator_, who)
    if not isinstance(model, MLP) and not (is_of_fastmlp(model) and hasattr(model, "net_")):
        raise _error(model, who)
    net: MLP = model if isinstance(model, MLP) else model.net_
    n_features, n_outputs = net.layer_sizes[0], net.layer_sizes[-1]
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
    if is_a(model, "Pipeline", "sklearn") or is_a(model, "TransformedTargetRegressor", "sklearn"):
        return TypeError(
            f"{who}: model is a {type(model).__name__}: fastmlp.fold(model) makes one estimator of "
            "it, which takes the columns as they are"
        )
    if is_of_tables(model):
        return TypeError(
            f"{who}: a {type(model).__name__} is a model of tables, where encoders turn columns "
            "into inputs of nets: to_c, to_onnx, jit.compiled and shap_values take it"
        )
    if is_of_fastmlp(model) and hasattr(model, "fit"):
        return ValueError(f"{who}: the {type(model).__name__} is not fitted")
    return TypeError(
        f"{who}: model must be an MLP, or a fitted estimator or search of fastmlp, got "
        f"{type(model).__name__}"
    )


class TableParts(NamedTuple):
    """A model of tables whose predictions are the weighted mean of its nets' and its trees'.

    A row is of float64, in the order of the table's columns: a number, NaN where it is missing, or
    the code of a level, -1 where it is missing or unknown. A date has a number for each part.

    Attributes
    ----------
    feature_names : of the numbers of a row
    levels : of each number of a row; empty if the number is not a code
    numbers, codes : places in a row of what steps call numbers and codes
    encodings : the steps of each encoding, whose inputs follow each other
    members : nets, each with the place of its steps and its weight in the mean
        Their predictions are summed up in this order.
    n_outputs : numbers that are predicted for a row
    classes : labels; None for a regression
    scale, center, low, high : of a regression: nets predict ``(y - center) / scale``, and y is
        between low and high
    trees : TreeNodes, or None, whose features are places in a row; they are added last
    """

    feature_names: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
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
        places = self.numbers if isinstance(step, NumberStep) else self.codes
        return step._replace(columns=places[step.columns])

    def drawn(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Rows of numbers as in training, of levels, and of missing ones."""
        generator = np.random.default_rng(seed)
        rows = np.full((n, self.n_features), np.nan)
        steps = (step for steps in self.encodings for step in steps if isinstance(step, NumberStep))
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
            rows[:, j] = generator.integers(MISSING, len(self.levels[j]), n)
        return rows
