"""A fitted model of tables as steps of rows,
for C and compiled code, and as an ONNX graph.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.extend import Graph, TableParts, TreeNodes, messages
from fastmlp.extend import columns as rules
from fastmlp.tabular import number_encoders
from fastmlp.tabular.boosted_trees import N_BITS, BoostedTrees
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.in_memory import Level
from fastmlp.tabular.level_encoders import OneHotLevels, TargetStatistics
from fastmlp.tabular.number_encoders import LARGEST_CODE
from fastmlp.tabular.outputs import NetOutputs
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.schema import Schema, Values
from fastmlp.typing import Array

Step = rules.NumberStep | rules.LevelStep
# NumPy sums more in parts.
MOST_SUMMED = 128


def steps_of(encoding: Encoding) -> tuple[Step, ...]:
    """The steps of an encoding, in the order of the inputs."""
    parts = encoding.parts.values()
    return tuple(
        STEPS[type(one)](one, columns) for one, columns in parts if one.n_outputs
    )


def _scaled(encoder: number_encoders.RobustSmoothClip, columns: Array) -> Step:
    rising = isinstance(encoder, number_encoders.RisingSmoothClip)
    rule: Literal["rising", "clipped"] = "rising" if rising else "clipped"
    return rules.NumberStep(
        rule, columns, np.stack([encoder.center_, encoder.factor_], axis=1)
    )


def _marked(encoder: number_encoders.MissingMarks, columns: Array) -> Step:
    return rules.NumberStep(
        "missing", columns[encoder.columns_], np.empty((encoder.n_outputs, 0))
    )


def _pieces(encoder: number_encoders.PiecewiseLinear, columns: Array) -> Step:
    n = encoder.n_pieces_
    levels = isinstance(encoder, number_encoders.IntegerLevels)
    rule: Literal["within", "share_below"] = "within" if levels else "share_below"
    constants = [np.repeat(encoder.medians_, n), *encoder.table_]
    return rules.NumberStep(rule, np.repeat(columns, n), np.stack(constants, axis=1))


def _one_hot(encoder: OneHotLevels, columns: Array) -> Step:
    values = encoder.values_[:, None]
    return rules.LevelStep(
        columns, encoder.starts_, encoder.columns_, values, encoder.n_outputs
    )


def _statistics(encoder: TargetStatistics, columns: Array) -> Step:
    starts, table = encoder.starts_, encoder.table_
    firsts = np.repeat(np.arange(len(columns)) * table.shape[1], np.diff(starts))
    return rules.LevelStep(columns, starts, firsts, table, encoder.n_outputs)


STEPS: dict[type[number_encoders.Encoder], Callable[[Any, Array], Step]] = {
    number_encoders.MissingMarks: _marked,
    OneHotLevels: _one_hot,
    number_encoders.IntegerLevels: _pieces,
    number_encoders.PiecewiseLinear: _pieces,
    number_encoders.RisingSmoothClip: _scaled,
    number_encoders.RobustSmoothClip: _scaled,
    TargetStatistics: _statistics,
}


def check_members(model: Any, who: str) -> None:
    used = [
        f"{name!r} with weight {weight:.2g}"
        for name, member, weight in model._beside
        if not isinstance(member, BoostedTrees)
    ]
    if used:
        raise NotImplementedError(
            f"{who}: the ensemble holds {', '.join(used)}, and only nets are "
            "converted, and the trees of trees=True: fit without extra_members"
        )


def parts_of_table(model: Any, who: str) -> TableParts:
    check_members(model, who)
    schema = model.schema_
    places = row_of(schema)
    names = [*schema.numeric_names]
    for name, parts in schema.dates.items():
        names += [f"{name} ({part})" for part in parts.names]
    names += schema.categorical_names
    levels = [()] * len(schema.number_names) + [
        schema.levels[n] for n in schema.categorical_names
    ]
    columns = ColumnPlaces(
        tuple(names[k] for k in places),
        tuple(levels[k] for k in places),
        *_places_in_row(schema),
    )
    classes = getattr(model, "classes_", None)
    parts = _parts(model.pack_, columns, classes, model._beside)
    return parts._replace(decisions=getattr(model, "decision_weights_", None))


class ColumnPlaces(NamedTuple):
    """Names, levels and places of the numbers of a row, as in `TableParts`."""

    names: tuple[str, ...]
    levels: tuple[Sequence[Any], ...]
    numbers: Array
    codes: Array


def has_row_function(pack: Pack, beside: Sequence[Any]) -> bool:
    """True if a compiled function has the bits of the nets,
    and of the estimators beside them.
    """
    are_trees = all(isinstance(member, BoostedTrees) for _, member, _ in beside)
    return are_trees and pack.outputs.n_outputs <= MOST_SUMMED


def row_predictions(pack: Pack, values: Values, beside: Sequence[Any] = ()) -> Array:
    """Predictions of one row, shape (1, n_outputs), by the compiled function.

    `beside` are names, trees and weights beside the pack.
    """
    if pack.row is None:
        n, n_codes = (table.shape[1] for table in values)
        levels = (*[()] * n, *[range(LARGEST_CODE)] * n_codes)
        places = np.split(np.arange(n + n_codes), [n])
        columns = ColumnPlaces(("",) * len(levels), levels, *places)
        is_of_classes = pack.task != "regression"
        if is_of_classes:
            classes = np.arange(max(pack.outputs.n_outputs, 2))
        else:
            classes = None
        pack.row = _parts(pack, columns, classes, beside).row_function()
    predictions: Array = pack.row(np.concatenate(values, axis=1))
    return predictions


def _parts(
    pack: Pack, columns: ColumnPlaces, classes: Array | None, beside: Sequence[Any]
) -> TableParts:
    outputs = pack.outputs
    return TableParts(
        *columns,
        tuple(map(steps_of, pack.encodings)),
        tuple(
            (member.net, place, member.weight)
            for place in range(len(pack.encodings))
            for member in pack.members
            if member.encoding == place
        ),
        1 if classes is None else len(classes),
        classes,
        outputs.scale,
        outputs.center,
        outputs.low,
        outputs.high,
        _trees(columns, beside),
    )


def _trees(columns: ColumnPlaces, beside: Sequence[Any]) -> TreeNodes | None:
    if not beside:
        return None
    ((_, trees, weight),) = beside
    nodes = trees.nodes
    if len(trees.classes_) == 1:  # a leaf alone: the probability is 1
        nodes = nodes._replace(
            roots=nodes.roots[:1], numbers=np.ones(len(nodes.numbers))
        )
    places = np.concatenate([columns.numbers, columns.codes])
    features = np.where(nodes.features < 0, -1, places[nodes.features])
    n_levels = np.array([*map(len, columns.levels)], np.int64)
    own = {"features": features, "n_levels": n_levels, "weight": weight}
    return nodes._replace(**own)


def row_of(schema: Schema) -> NDArray[np.intp]:
    """Indices of a row's numbers,
    in the order of the table's columns; codes follow numbers.
    """
    names = [*schema.number_names, *schema.categorical_names]
    place = {name: j for j, name in enumerate(schema.columns)}
    return np.argsort([place[name] for name in names], kind="stable")


def rows_of(schema: Schema, values: Values) -> NDArray[np.float64]:
    """The rows of a table for compiled code and C files."""
    columns = np.concatenate([values.numbers, values.codes], axis=1)
    # An index would store each column contiguously.
    rows: NDArray[np.float64] = np.take(columns, row_of(schema), axis=1)
    return rows


def values_of(schema: Schema, rows: Array) -> Values:
    """The inverse of `rows_of`."""
    numbers, codes = _places_in_row(schema)
    return Values(rows[:, numbers], rows[:, codes].astype(np.int32))


def _places_in_row(schema: Schema) -> list[NDArray[np.intp]]:
    return np.split(np.argsort(row_of(schema)), [len(schema.number_names)])


def _of_trees(
    graph: Graph,
    trees: BoostedTrees,
    numbers: str,
    places: Sequence[str],
    n_classes: int,
) -> str:
    """Add trees; return the name of their predictions,
    float64, in the form of a net's predictions.

    `numbers` and `places` are as in `ColumnNodes`; `n_classes` is 0 for numbers.
    """
    wide = graph.kinds.DOUBLE
    n_trees = len(trees.roots)
    n_outputs = trees.n_outputs
    values = _leaves(graph, trees, _rows(graph, numbers, places))
    columns = np.eye(n_outputs)[np.arange(n_trees) % n_outputs]
    raw = graph.node("MatMul", [values, graph.constant(columns, wide)])
    if not n_classes:
        return raw
    if n_outputs > 1:
        raw = graph.node("Softmax", [raw], axis=1)
    else:
        one = graph.constant(np.ones(1), wide)
        if len(trees.classes_) > 1:
            second = graph.node("Sigmoid", [raw])
            raw = graph.node(
                "Concat", [graph.node("Sub", [one, second]), second], axis=1
            )
        else:
            # x - x is a zero for each row: every row has the probability 1.
            zeros = graph.node("Sub", [raw, raw])
            raw = graph.node("Add", [zeros, one])
    if len(trees.classes_) == n_classes:
        return raw
    own = np.eye(n_classes)[trees.classes_]
    return graph.node("MatMul", [raw, graph.constant(own, wide)])


def _rows(graph: Graph, numbers: str, places: Sequence[str]) -> str:
    """Add the rows that trees read: numbers,
    then codes, NaN where a value is missing.
    """
    wide = graph.kinds.DOUBLE
    if numbers:
        parts = [numbers]
    else:
        parts = []
    if places:
        shape = graph.constant(np.array([-1, 1]), graph.kinds.INT64)
    else:
        shape = ""
    for place in places:
        column = graph.node("Cast", [graph.node("Reshape", [place, shape])], to=wide)
        code = graph.node("Sub", [column, graph.constant(np.ones(1), wide)])
        missing = graph.node("Less", [code, graph.constant(np.zeros(1), wide)])
        parts.append(
            graph.node(
                "Where", [missing, graph.constant(np.array([np.nan]), wide), code]
            )
        )
    return graph.node("Concat", parts, axis=1)


def _leaves(graph: Graph, trees: BoostedTrees, rows: str) -> str:
    """Add the descent of all trees;
    return the name of the leaves' values, (n_rows, n_trees).
    """
    wide = graph.kinds.DOUBLE
    whole = graph.kinds.INT64

    def integers(values: Any) -> str:
        return graph.constant(np.asarray(values, np.int64), whole)

    leaf = trees.features < 0
    # A leaf's next node is itself.
    children = np.where(leaf[:, None], np.arange(len(leaf))[:, None], trees.children)
    features = integers(np.maximum(trees.features, 0))
    ways = integers(children.ravel())
    numbers = graph.constant(trees.numbers, wide)
    missed, three = integers([2]), integers([3])
    if len(trees.sets):
        bits = np.unpackbits(trees.sets.astype("<i4").view(np.uint8), bitorder="little")
        of_levels = graph.constant(trees.places >= 0, graph.kinds.BOOL)
        firsts = integers(np.maximum(trees.places, 0) * N_BITS)
        right = integers(1 - bits)
        zero, last = (
            graph.constant(np.array(end), wide) for end in (0.0, N_BITS - 1.0)
        )
    first = graph.node(
        "Cast", [graph.node("IsNaN", [graph.chosen(rows, [0])])], to=whole
    )
    # x - x is a zero for each row: all rows begin at the roots.
    zeros = graph.node("Sub", [first, first])
    node = graph.node("Add", [zeros, integers(trees.roots)])
    for _ in range(_depth(trees)):
        value = graph.node(
            "GatherElements", [rows, graph.node("Gather", [features, node])], axis=1
        )
        missing = graph.node("IsNaN", [value])
        over = graph.node("Greater", [value, graph.node("Gather", [numbers, node])])
        way = graph.node("Cast", [over], to=whole)
        if len(trees.sets):
            code = graph.node("Where", [missing, zero, value])
            code = graph.node(
                "Cast", [graph.node("Clip", [code, zero, last])], to=whole
            )
            cell = graph.node("Add", [graph.node("Gather", [firsts, node]), code])
            flags = graph.node("Gather", [of_levels, node])
            way = graph.node("Where", [flags, graph.node("Gather", [right, cell]), way])
        way = graph.node("Where", [missing, missed, way])
        place = graph.node("Add", [graph.node("Mul", [node, three]), way])
        node = graph.node("Gather", [ways, place])
    return graph.node("Gather", [numbers, node])


def _depth(trees: BoostedTrees) -> int:
    nodes, depth = trees.roots, 0
    while len(nodes := nodes[trees.features[nodes] >= 0]):
        # Nodes for missing values would double along a chain,
        # as they take one of the two ways.
        nodes = np.unique(trees.children[nodes])
        depth = depth + 1
    return depth


class ColumnNodes(NamedTuple):
    """The names in a graph of the columns of a table.

    Attributes
    ----------
    numbers : name of float64, shape (n_rows, n_numeric); "" without numbers
    places : names of int64, shape (n_rows,), for each category
        0 for a missing or unknown level, else 1 + the code.
    n_levels : for each category
    """

    numbers: str
    places: list[str]
    n_levels: list[int]


def columns_of(
    graph: Graph, schema: Schema, inputs: Sequence[Graph.Input]
) -> ColumnNodes:
    """Add the reading of a table: one input for all columns, or an input for each."""
    if schema.dates:
        names = messages.listed([*map(repr, schema.dates)])
        reason = f"the columns {names} hold dates or times, whose parts have no ONNX nodes here"
        raise NotImplementedError(
            f"to_onnx: {reason}: train on numbers of your own in their place"
        )
    n = len(schema.columns)
    if len(inputs) == 1 and n > 1 and inputs[0].n_columns in (n, None):
        of_name = dict.fromkeys(schema.columns, inputs[0])
        place = {name: j for j, name in enumerate(schema.columns)}
    else:
        of_name = _by_column(schema, inputs)
        place = {}
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


def _by_column(schema: Schema, inputs: Sequence[Graph.Input]) -> dict[str, Graph.Input]:
    """The input of each column: by name, or by position for a table without names."""
    by_name = {each.column: each for each in inputs}
    names = [*schema.numeric_names, *schema.categorical_names]
    by_place = not schema.named or len(inputs) == 1
    if by_place and len(inputs) == len(schema.columns):
        by_name = dict(zip(schema.columns, inputs, strict=True))
    lacking = [name for name in names if name not in by_name]
    if lacking or any(by_name[name].n_columns not in (1, None) for name in names):
        n = messages.count(len(schema.columns), "column")
        expected = f"one input of {n}, or one of shape [None, 1] for each"
        if lacking:
            without = f"; without {messages.listed(list(map(repr, lacking)))}"
        else:
            without = ""
        shown = [f"{one.column!r} of shape {[None, one.n_columns]}" for one in inputs]
        raise ValueError(
            f"to_onnx: the model needs {expected}, got "
            f"{messages.listed(shown)}{without}: pass X[:1], of a frame as in training"
        )
    return by_name


def _check_type(column: Graph.Input, name: str, levels: Sequence[Level] | None) -> None:
    if levels and isinstance(levels[0], str):
        was = "texts"
    else:
        was = "numbers"
    kind = "texts" if column.holds_texts else "numbers"
    if kind != was:
        if was == "texts":
            advice = ": give each column an input of its own"
        else:
            advice = ""
        raise TypeError(
            f"to_onnx: the column {name!r} held {was} in training, and is to be "
            f"{kind}{advice}"
        )


def _places(graph: Graph, column: str, levels: Sequence[Level], name: str) -> str:
    """Add a category; return the name of its levels' indices."""
    wide = graph.kinds.DOUBLE
    whole = graph.kinds.INT64
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
    # skl2onnx asks for the newest version by default, 4, and then refuses it.
    options |= {"op_domain": "ai.onnx.ml", "op_version": 2}
    places = graph.node("LabelEncoder", [key], **keys, **options)
    if "keys_floats" not in keys or graph.kind != wide:
        return places
    # A float64 number near a level rounds to the level's float32,
    # but is unknown to the model.
    level = graph.node(
        "Gather", [graph.constant(np.array([np.nan, *levels]), wide), places]
    )
    same = graph.node("Equal", [level, graph.node("Cast", [flat], to=wide)])
    return graph.node("Where", [same, places, graph.constant(np.array([0]), whole)])


def inputs_of(graph: Graph, encoding: Encoding, columns: ColumnNodes) -> str:
    """Add an encoding; return the name of the net's inputs,
    float32, shape (n_rows, n_inputs).
    """
    nodes = [
        name for step in steps_of(encoding) for name in _inputs(graph, step, columns)
    ]
    return graph.node("Concat", nodes, axis=1)


def _inputs(graph: Graph, step: Step, columns: ColumnNodes) -> list[str]:
    if isinstance(step, rules.LevelStep):
        return _levels(graph, step, columns)
    numbers = graph.chosen(columns.numbers, step.columns)
    wide = graph.kinds.DOUBLE
    constants = step.constants.T[:, None]
    names = [numbers, *(graph.constant(each, wide) for each in constants)]
    return [graph.traced(step.function, wide, *names, to=graph.kinds.FLOAT)]


def _levels(graph: Graph, step: rules.LevelStep, columns: ColumnNodes) -> list[str]:
    """Add the encoding of categories: rows of one table for each."""
    nodes = []
    for column, (start, end) in zip(step.columns, pairwise(step.starts), strict=True):
        inputs = step.inputs[start:end]
        if (inputs < 0).all():
            continue
        # An unknown level has the index of a missing one.
        places = np.arange(columns.n_levels[column] + 1)
        places[places >= end - start] = 0
        table = np.zeros((len(inputs), step.n_inputs), np.float32)
        for k, values in enumerate(step.constants[start:end].T):
            table[inputs >= 0, inputs[inputs >= 0] + k] = values[inputs >= 0]
        own = slice(inputs[inputs >= 0].min(), inputs.max() + len(step.constants[0]))
        constant = graph.constant(table[places, own], graph.kinds.FLOAT)
        nodes.append(graph.node("Gather", [constant, columns.places[column]], axis=0))
    return nodes


def write(graph: Graph, model: Any) -> Any:
    """Add a model of a table:
    an input per column if there are names or texts, else one for all.
    """
    schema = model.schema_
    n = len(model.schema_.columns)
    names = [*schema.numeric_names, *schema.categorical_names]
    texts = {
        name
        for name, levels in schema.levels.items()
        if levels and isinstance(levels[0], str)
    }
    if schema.named or texts:
        # Tables without names need all columns.
        used = names if schema.named else schema.columns
        inputs = [
            Graph.Input(str(name), name, 1, holds_texts=name in texts) for name in used
        ]
    else:
        inputs = [Graph.Input("X", "X", n, holds_texts=False)]
    graph.columns = {each.name for each in inputs}
    values = predictions(graph, model, inputs)
    if hasattr(model, "classes_"):
        classes = model.classes_
        weights = model.decision_weights_
        return graph.classifier(values, inputs, classes, len(classes), weights)
    return graph.regressor(values, inputs, 1)


def predictions(graph: Graph, model: Any, inputs: Sequence[Graph.Input]) -> str:
    """Add nets and boosted trees;
    return the name of the weighted mean prediction, float64.
    """
    pack = model.pack_
    check_members(model, "to_onnx")
    columns = columns_of(graph, model.schema_, inputs)
    outputs = []
    for place, encoding in enumerate(pack.encodings):
        members = [member for member in pack.members if member.encoding == place]
        if members:
            rows = inputs_of(graph, encoding, columns)
            outputs += [_net(graph, rows, member, pack.outputs) for member in members]
    for _, trees, weight in model._beside:
        name = _of_trees(
            graph, trees, columns.numbers, columns.places, model._n_classes
        )
        share = graph.constant(np.array(weight), graph.kinds.DOUBLE)
        outputs.append(graph.node("Mul", [name, share]))
    return graph.node("Sum", outputs)


def _net(graph: Graph, values: str, member: Member, outputs: NetOutputs) -> str:
    """Add a net; return the name of its predictions times its weight."""
    wide = graph.kinds.DOUBLE

    def constant(number: float) -> str:
        return graph.constant(np.array(number), wide)

    values = graph.node(
        "Cast", [graph.net(values, member.net, graph.kinds.FLOAT)], to=wide
    )
    if outputs.task == "regression":
        values = graph.node("Mul", [values, constant(outputs.scale)])
        values = graph.node("Add", [values, constant(outputs.center)])
        values = graph.node(
            "Clip", [values, constant(outputs.low), constant(outputs.high)]
        )
    elif outputs.task == "binary":
        first = graph.node("Sub", [constant(1.0), values])
        values = graph.node("Concat", [first, values], axis=1)
    return graph.node("Mul", [values, constant(member.weight)])
