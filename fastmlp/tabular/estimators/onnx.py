"""Converters of skl2onnx from a model of tables to an ONNX graph."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.mlp.onnx import OPTIONS, Graph, number_type, set_class_types
from fastmlp.model import core_of
from fastmlp.tabular.estimators.onnx_inputs import columns_of, inputs_of
from fastmlp.tabular.pack import Member
from fastmlp.tabular.pack.outputs import Outputs
from fastmlp.tabular.pack.scoring import Task

LINKS: dict[Task, str] = {"binary": "sigmoid", "multiclass": "softmax", "regression": "identity"}


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Add a model of numbers: one output, shape (n_rows, 1)."""
    graph = Graph(scope, operator, container)
    values = _predictions(graph, operator.inputs)
    graph.node("Cast", [values], operator.outputs[0].full_name, to=graph.kind)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add a model of classes: labels, and probabilities of shape (n_rows, n_classes)."""
    graph, (label, probability) = Graph(scope, operator, container), operator.outputs
    values = _predictions(graph, operator.inputs)
    graph.node("Cast", [values], probability.full_name, to=graph.kind)
    graph.label(values, label.full_name)


def _predictions(graph: Graph, inputs: Any) -> str:
    """Add all nets; return the name of the weighted mean of their predictions, float64."""
    model = graph.estimator
    pack = model.pack_
    others = zip(model.extra_members_, pack.extra_weights, strict=True)
    used = [f"{name!r} with weight {weight:.2g}" for (name, _), weight in others if weight]
    if used:
        told = f"the ensemble holds {', '.join(used)}, and only nets are converted"
        raise NotImplementedError(f"to_onnx: {told}: fit without extra_members")
    columns, found = columns_of(graph, model.schema_, inputs), []
    for place, encoding in enumerate(pack.encodings):
        members = [member for member in pack.members if member.encoding == place]
        if members:
            rows = inputs_of(graph, encoding, columns, str(members[0].recipe))
            found += [_net(graph, rows, member, pack.outputs) for member in members]
    return graph.node("Sum", found)


def _net(graph: Graph, values: str, member: Member, outputs: Outputs) -> str:
    """Add a net; return the name of its predictions times its weight."""
    net, wide = member.net, graph.kinds.DOUBLE

    def constant(number: float) -> str:
        return graph.constant(np.array(number), wide)

    activations = [*core_of(net).engine.network.activations[:-1], LINKS[outputs.task]]
    for layer in zip(net.weights, net.biases, activations, strict=True):
        values = graph.layer(values, *layer, graph.kinds.FLOAT)
    values = graph.node("Cast", [values], to=wide)
    if outputs.task == "regression":
        values = graph.node("Mul", [values, constant(outputs.scale)])
        values = graph.node("Add", [values, constant(outputs.center)])
        values = graph.node("Clip", [values, constant(outputs.low), constant(outputs.high)])
    elif outputs.task == "binary":
        first = graph.node("Sub", [constant(1.0), values])
        values = graph.node("Concat", [first, values], axis=1)
    return graph.node("Mul", [values, constant(member.weight)])


def shape_of_regressor(operator: Any) -> None:
    """Set the type of the numbers."""
    check_is_fitted(operator.raw_operator)
    operator.outputs[0].type = number_type(operator)([None, 1])


def shapes_of_classifier(operator: Any) -> None:
    """Set the types of labels and probabilities."""
    check_is_fitted(operator.raw_operator)
    set_class_types(operator, len(operator.raw_operator.classes_))


def register(classifier: type, regressor: type) -> None:
    """Tell skl2onnx how to convert the models of tables."""
    from skl2onnx import update_registered_converter

    update_registered_converter(
        classifier,
        "FastmlpTabularMLPClassifier",
        shapes_of_classifier,
        convert_classifier,
        options=OPTIONS,
    )
    update_registered_converter(
        regressor, "FastmlpTabularMLPRegressor", shape_of_regressor, convert_regressor
    )
