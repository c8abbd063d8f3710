"""A fitted model of any class as a net, and what becomes of its predictions."""

from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from fastmlp.model import MLP

Array = NDArray[Any]
# How a net's predictions become the model's. "none": unchanged; "complement": the only one, p,
# becomes 1 - p and p; "sum": each is divided by the sum of its row.
Completion = Literal["none", "complement", "sum"]
Kind = Literal["net", "regressor", "classifier"]


class ModelParts(NamedTuple):
    """A fitted model.

    Attributes
    ----------
    kind : "net", "regressor" or "classifier"
    net : MLP
        It shares its parameters with the model.
    completion : of the net's predictions
    n_features : int, inputs of the net
    n_outputs : numbers that the model predicts for a row, in the order of its `predict` or, for a
        classifier, `predict_proba`
    classes : (n_classes,) array of labels, of a classifier of one label a row; else None
    feature_names : of the columns, or none
    """

    kind: Kind
    net: MLP
    completion: Completion
    n_features: int
    n_outputs: int
    classes: Array | None
    feature_names: tuple[str, ...]

    @property
    def nets(self) -> list[MLP]:
        """The net alone, as `TableParts` has several."""
        return [self.net]


def is_of_fastmlp(model: Any) -> bool:
    """True for an object of one of fastmlp's classes, or of a subclass."""
    return any(kind.__module__.startswith("fastmlp.") for kind in type(model).__mro__)


def is_a(value: Any, kind: str, package: str) -> bool:
    """True for an object of a package's class of this name, which is not imported."""
    return any(
        base.__name__ == kind and base.__module__.startswith(f"{package}.")
        for base in type(value).__mro__
    )


def parts_of(model: Any, who: str) -> ModelParts:
    """The parts of a fitted model; of a search, those of its best estimator.

    Parameters
    ----------
    model : MLP, or a fitted estimator or search of fastmlp
    who : the function that is called, for messages

    Raises
    ------
    TypeError
        If it is another object; messages of a pipeline and of a model of tables say what takes it.
    ValueError
        If it is not fitted.
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
        return ModelParts(kind, net, "none", n_features, n_outputs, None, names)
    completion: Completion = "complement" if n_outputs == 1 else "none"
    # One class against all others: as many sigmoid outputs, whose sum is another than 1.
    if (
        len(labels) > 2
        and not hasattr(model, "_label_binarizer")
        and model._loss().link == "sigmoid"
    ):
        completion = "sum"
    n_outputs = max(n_outputs, 2)
    return ModelParts(kind, net, completion, n_features, n_outputs, labels, names)


def has_several_labels(classifier: Any) -> bool:
    """True for a classifier whose rows have any number of labels."""
    if hasattr(classifier, "_label_binarizer"):
        return bool(classifier._label_binarizer.y_type_.startswith("multilabel"))
    return bool(getattr(classifier, "_has_several_labels", False))


def _error(model: Any, who: str) -> Exception:
    if is_a(model, "Pipeline", "sklearn") or is_a(model, "TransformedTargetRegressor", "sklearn"):
        return TypeError(
            f"{who}: model is a {type(model).__name__}: fastmlp.fold(model) makes one estimator of "
            "it, which takes the columns as they are"
        )
    if is_a(model, "TabularMLP", "fastmlp"):
        return TypeError(
            f"{who}: a {type(model).__name__} is a model of tables, of whose columns encoders make "
            "the inputs of nets: to_c, to_onnx, jit.compiled and shap_values take it"
        )
    if is_of_fastmlp(model) and hasattr(model, "fit"):
        return ValueError(f"{who}: the {type(model).__name__} is not fitted")
    return TypeError(
        f"{who}: model must be an MLP, or a fitted estimator or search of fastmlp, got "
        f"{type(model).__name__}"
    )
