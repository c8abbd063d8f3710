"""Models of tables as ONNX graphs: for `to_onnx`, and for converters of skl2onnx."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from fastmlp.export.models import Step
from fastmlp.export.onnx import (
    OPTIONS,
    Graph,
    Input,
    Outline,
    Output,
    graph_of,
    number_type,
    set_class_types,
)
from fastmlp.rules.columns import LevelStep
from fastmlp.tabular.encoders import Encoding
from fastmlp.tabular.estimators.onnx_trees import predictions
from fastmlp.tabular.estimators.steps import check_members, steps_of
from fastmlp.tabular.pack import Member
from fastmlp.tabular.pack.outputs import NetOutputs
from fastmlp.tabular.schema import Schema
from fastmlp.tabular.schema.in_memory import Level
from fastmlp.validation.suggestions import count, listed

Array = NDArray[Any]


class ColumnNodes(NamedTuple):
    """The names in a graph of the columns of a table.

    Attributes
    ----------
    numbers : name of float64 of shape (n_rows, n_numeric); "" if there are none
    places : names of int64 of shape (n_rows,), of each category
        0 for what is missing or unknown, else 1 + the code.
    n_levels : of each category
    """

    numbers: str
    places: list[str]
    n_levels: list[int]


def columns_of(graph: Graph, schema: Schema, inputs: Sequence[Input]) -> ColumnNodes:
    """Add the reading of a table: one input of all columns, or an input for each.

    Raises
    ------
    TypeError, ValueError
        If inputs are missing, or are texts where numbers were, or numbers where texts were.
    """
    if schema.dates:
        names = listed([*map(repr, schema.dates)])
        reason = f"the columns {names} hold dates or times, whose parts have no ONNX nodes here"
        raise NotImplementedError(f"to_onnx: {reason}: train on numbers of your own in their place")
    n = len(schema.columns)
    if len(inputs) == 1 and n > 1 and inputs[0].n_columns in (n, None):
        of_name = dict.fromkeys(schema.columns, inputs[0])
        place = {name: j for j, name in enumerate(schema.columns)}
    else:
        of_name, place = _by_column(schema, inputs), {}
    for name in (*schema.numeric_names, *schema.categorical_names):
        _check_type(of_name[name], name, schema.levels.get(name))

    def column(name: str) -> str:
        whole = of_name[name].name
        return graph.chosen(whole, [place[name]]) if place else whole

    numbers = ""
    if place and schema.numeric_names:
        chosen = [place[name] for name in schema.numeric_names]
        numeric = graph.chosen(inputs[0].name, chosen)
        numbers = graph.node("Cast", [numeric], to=graph.kinds.DOUBLE)
    elif schema.numeric_names:
        floats = [
            graph.node("Cast", [of_name[name].name], to=graph.kinds.DOUBLE)
            for name in schema.numeric_names
        ]
        numbers = graph.node("Concat", floats, axis=1)
    levels = {name: schema.levels[name] for name in schema.categorical_names}
    places = [_places(graph, column(name), levels[name], name) for name in levels]
    return ColumnNodes(numbers, places, [*map(len, levels.values())])


def _by_column(schema: Schema, inputs: Sequence[Input]) -> dict[str, Input]:
    """Return the input of each column: by name or, where a table had none, by place."""
    by_name = {each.column: each for each in inputs}
    names = [*schema.numeric_names, *schema.categorical_names]
    by_place = not schema.named or len(inputs) == 1
    if by_place and len(inputs) == len(schema.columns):
        by_name = dict(zip(schema.columns, inputs, strict=True))
    lacking = [name for name in names if name not in by_name]
    if lacking or any(by_name[name].n_columns not in (1, None) for name in names):
        n = count(len(schema.columns), "column")
        expected = f"one input of {n}, or one of shape [None, 1] for each"
        without = f"; without {listed(list(map(repr, lacking)))}" if lacking else ""
        raise ValueError(
            f"to_onnx: the model needs {expected}, got {listed([_shown(one) for one in inputs])}"
            f"{without}: pass X[:1], of a frame as in training"
        )
    return by_name


def _shown(column: Input) -> str:
    return f"{column.column!r} of shape {[None, column.n_columns]}"


def _check_type(column: Input, name: str, levels: Sequence[Level] | None) -> None:
    was = "texts" if levels and isinstance(levels[0], str) else "numbers"
    kind = "texts" if column.holds_texts else "numbers"
    if kind != was:
        advice = ": give each column an input of its own" if was == "texts" else ""
        raise TypeError(
            f"to_onnx: the column {name!r} held {was} in training, and is to be {kind}{advice}"
        )


def _places(graph: Graph, column: str, levels: Sequence[Level], name: str) -> str:
    """Add a category; return the places of its levels."""
    wide, whole = graph.kinds.DOUBLE, graph.kinds.INT64
    flat = key = graph.node("Reshape", [column, graph.constant(np.array([-1]), whole)])
    keys: dict[str, Any]
    if isinstance(levels[0], str):
        keys = {"keys_strings": list(levels)}
    else:
        key = graph.node("Cast", [flat], to=graph.kinds.FLOAT)
        floats = np.array(levels, np.float32)
        if len(np.unique(floats)) < len(levels):
            reason = "has levels that are the same number in float32"
            raise NotImplementedError(f"to_onnx: the column {name!r} {reason}")
        keys = {"keys_floats": floats.tolist()}
    values = list(range(1, len(levels) + 1))
    options: dict[str, Any] = {"values_int64s": values, "default_int64": 0}
    # skl2onnx would ask for the newest version, 4, which it then refuses.
    options |= {"op_domain": "ai.onnx.ml", "op_version": 2}
    places = graph.node("LabelEncoder", [key], **keys, **options)
    if "keys_floats" not in keys or graph.kind != wide:
        return places
    # A number of float64 that is near a level has its float32, and is unknown to the model.
    level = graph.node("Gather", [graph.constant(np.array([np.nan, *levels]), wide), places])
    same = graph.node("Equal", [level, graph.node("Cast", [flat], to=wide)])
    return graph.node("Where", [same, places, graph.constant(np.array([0]), whole)])


def inputs_of(graph: Graph, encoding: Encoding, columns: ColumnNodes) -> str:
    """Add an encoding; return the name of the net's inputs, float32 of shape (n_rows, n_inputs)."""
    nodes = [name for step in steps_of(encoding) for name in _inputs(graph, step, columns)]
    return graph.node("Concat", nodes, axis=1)


def _inputs(graph: Graph, step: Step, columns: ColumnNodes) -> list[str]:
    """Add a step; return the names of the inputs that it makes."""
    if isinstance(step, LevelStep):
        return _levels(graph, step, columns)
    numbers = graph.chosen(columns.numbers, step.columns)
    wide, constants = graph.kinds.DOUBLE, step.constants.T[:, None]
    names = [numbers, *(graph.constant(each, wide) for each in constants)]
    return [graph.traced(step.rule, wide, *names, to=graph.kinds.FLOAT)]


def _levels(graph: Graph, step: LevelStep, columns: ColumnNodes) -> list[str]:
    """Add the encoding of categories: a table for each, from which rows are taken."""
    nodes = []
    for column, (start, end) in zip(step.columns, pairwise(step.starts), strict=True):
        inputs = step.inputs[start:end]
        if (inputs < 0).all():
            continue
        # A level that is not known has the place of none.
        places = np.arange(columns.n_levels[column] + 1)
        places[places >= end - start] = 0
        table = np.zeros((len(inputs), step.n_inputs), np.float32)
        for k, values in enumerate(step.constants[start:end].T):
            table[inputs >= 0, inputs[inputs >= 0] + k] = values[inputs >= 0]
        own = slice(inputs[inputs >= 0].min(), inputs.max() + len(step.constants[0]))
        constant = graph.constant(table[places, own], graph.kinds.FLOAT)
        nodes.append(graph.node("Gather", [constant, columns.places[column]], axis=0))
    return nodes


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Add a model of numbers: one output, shape (n_rows, 1)."""
    graph = graph_of(scope, operator, container)
    values = _predictions(graph, operator.raw_operator, _inputs_of(operator))
    graph.node("Cast", [values], operator.outputs[0].full_name, to=graph.kind)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add a model of classes: labels, and probabilities of shape (n_rows, n_classes)."""
    graph, (label, probability) = graph_of(scope, operator, container), operator.outputs
    model = operator.raw_operator
    values = _predictions(graph, model, _inputs_of(operator))
    graph.classes(values, model.classes_, label.full_name, probability.full_name)


def _inputs_of(operator: Any) -> list[Input]:
    from skl2onnx.common.data_types import StringTensorType

    return [
        Input(
            each.full_name,
            each.raw_name,
            each.type.shape[1],
            isinstance(each.type, StringTensorType),
        )
        for each in operator.inputs
    ]


def write(graph: Graph, model: Any) -> Outline:
    """Add a model of a table: of names, or of texts, an input for each column; else one of all."""
    schema, n = model.schema_, len(model.schema_.columns)
    names = [*schema.numeric_names, *schema.categorical_names]
    texts = {
        name for name, levels in schema.levels.items() if levels and isinstance(levels[0], str)
    }
    if schema.named or texts:
        # Where a table had no names, all columns are needed.
        used = names if schema.named else schema.columns
        inputs = [Input(str(name), name, 1, holds_texts=name in texts) for name in used]
    else:
        inputs = [Input("X", "X", n, holds_texts=False)]
    graph.columns = {each.name for each in inputs}
    values = _predictions(graph, model, inputs)
    if hasattr(model, "classes_"):
        return graph.classifier(values, inputs, model.classes_, len(model.classes_))
    name = graph.output("variable")
    graph.node("Cast", [values], name, to=graph.kind)
    return Outline(inputs, [Output(name, graph.kind, (None, 1))])


def _predictions(graph: Graph, model: Any, inputs: Sequence[Input]) -> str:
    """Add nets and boosted trees; return the name of the weighted mean of predictions, float64."""
    pack = model.pack_
    check_members(model, "to_onnx")
    columns, outputs = columns_of(graph, model.schema_, inputs), []
    for place, encoding in enumerate(pack.encodings):
        members = [member for member in pack.members if member.encoding == place]
        if members:
            rows = inputs_of(graph, encoding, columns)
            outputs += [_net(graph, rows, member, pack.outputs) for member in members]
    for (_, trees), weight in zip(model.extra_members_, pack.extra_weights, strict=True):
        if weight:
            n_classes, share = len(getattr(model, "classes_", ())), np.array(weight)
            name = predictions(graph, trees, columns.numbers, columns.places, n_classes)
            outputs.append(graph.node("Mul", [name, graph.constant(share, graph.kinds.DOUBLE)]))
    return graph.node("Sum", outputs)


def _net(graph: Graph, values: str, member: Member, outputs: NetOutputs) -> str:
    """Add a net; return the name of its predictions times its weight."""
    wide = graph.kinds.DOUBLE

    def constant(number: float) -> str:
        return graph.constant(np.array(number), wide)

    values = graph.node("Cast", [graph.net(values, member.net, graph.kinds.FLOAT)], to=wide)
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
