"""A fitted model of any class as the nets that it consists of, whose mean it predicts."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model import MLP

Array = NDArray[Any]
# What becomes of a net's predictions: they stay; a single probability p becomes 1 - p and p, and
# several stay; each is divided by the sum of its row.
Completion = Literal["none", "complement", "sum"]
Kind = Literal["net", "regressor", "classifier"]


class MemberNet(NamedTuple):
    """One net of a model.

    Attributes
    ----------
    net : MLP or None
        It shares its parameters with the model. None: a member that has seen one class alone, whose
        probability is 1.
    columns : (n,) array of int
        Places of its completed predictions among the model's; the others are 0.
    """

    net: MLP | None
    columns: NDArray[np.intp]


class ModelParts(NamedTuple):
    """A model whose predictions are the mean of its members'.

    Attributes
    ----------
    kind : "net", "regressor" or "classifier"
    members : of at least one net
    completion : of each member's predictions
    n_features : int, inputs of each net
    n_outputs : numbers that the model predicts for a row, in the order of its `predict` or, for a
        classifier, `predict_proba`
    classes : (n_classes,) array of labels, of a classifier of one label a row; else None
    feature_names : of the columns, or none
    """

    kind: Kind
    members: tuple[MemberNet, ...]
    completion: Completion
    n_features: int
    n_outputs: int
    classes: Array | None
    feature_names: tuple[str, ...]

    @property
    def nets(self) -> list[MLP]:
        """The nets, without members of one class."""
        return [member.net for member in self.members if member.net is not None]

    @property
    def is_net(self) -> bool:
        """True if the predictions are those of one net, as they are."""
        if len(self.members) > 1 or self.members[0].net is None or self.completion == "sum":
            return False
        return self.completion == "none" or self.members[0].net.layer_sizes[-1] > 1


def leaves_of(model: Any) -> list[Any]:
    """The models of one net in a fitted model of fastmlp: nets, or estimators with `net_`."""
    if isinstance(model, MLP):
        return [model]
    if not is_of_fastmlp(model):
        return []
    if hasattr(model, "estimators_"):
        return [leaf for member in model.estimators_ for leaf in leaves_of(member)]
    return [model] if hasattr(model, "net_") else []


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
    leaves = leaves_of(model)
    if not leaves:
        raise _error(model, who)
    nets: list[MLP] = [model] if isinstance(model, MLP) else [leaf.net_ for leaf in leaves]
    n_features, n_outputs = nets[0].layer_sizes[0], nets[0].layer_sizes[-1]
    if isinstance(model, MLP):
        names = tuple(model.feature_names or ())
    else:
        names = tuple(getattr(model, "feature_names_in_", ()))
    labels: Array | None = getattr(model, "classes_", None)
    kind: Kind = "net" if isinstance(model, MLP) else "regressor"
    kind = kind if labels is None else "classifier"
    if labels is None or has_several_labels(leaves[0]):
        members = tuple(MemberNet(net, np.arange(n_outputs)) for net in nets)
        return ModelParts(kind, members, "none", n_features, n_outputs, None, names)
    alone = leaves[0] is model
    # A classifier of one class has two columns; an ensemble of such has one.
    n_outputs = max(len(labels), 2) if alone else len(labels)
    members = tuple(
        MemberNet(net, np.arange(n_outputs)) if alone else _of_ensemble(leaf, net, labels)
        for leaf, net in zip(leaves, nets, strict=True)
    )
    # One class against all others: as many sigmoid outputs, whose sum is another than 1.
    against_all = not hasattr(leaves[0], "_label_binarizer") and leaves[0]._loss().link == "sigmoid"
    completion: Completion = "sum" if against_all and len(labels) > 2 else "complement"
    return ModelParts(kind, members, completion, n_features, n_outputs, labels, names)


def has_several_labels(classifier: Any) -> bool:
    """True for a classifier whose rows have any number of labels."""
    if hasattr(classifier, "_label_binarizer"):
        return bool(classifier._label_binarizer.y_type_.startswith("multilabel"))
    return bool(getattr(classifier, "_has_several_labels", False))


def _of_ensemble(classifier: Any, net: MLP, labels: Array) -> MemberNet:
    """A member whose sample may lack some of the labels."""
    columns = np.searchsorted(labels, classifier.classes_)
    return MemberNet(None if len(columns) == 1 else net, columns)


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
    if is_a(model, "TableModel", "fastmlp"):
        return TypeError(
            f"{who}: a TableModel is a model of tables: take its net, model.net, whose rows are "
            "those of model.inputs(table), or train with --model tabular, which it takes as it is"
        )
    if is_of_fastmlp(model) and hasattr(model, "fit"):
        return ValueError(f"{who}: the {type(model).__name__} is not fitted")
    return TypeError(
        f"{who}: model must be an MLP, or a fitted estimator or search of fastmlp, got "
        f"{type(model).__name__}"
    )
