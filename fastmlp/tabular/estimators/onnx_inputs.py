"""The nodes of an ONNX graph from the columns of a table to the inputs of nets.

Columns are read and scaled in float64, as `Schema` and the encoders do, which write float32.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.estimators.mlp.onnx import Graph
from fastmlp.tabular.encoders import (
    CosineEncoder,
    Encoding,
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RobustSmoothClip,
    TargetStatistics,
)
from fastmlp.tabular.encoders.base import Encoder
from fastmlp.tabular.encoders.compiled import BOUND, LARGEST
from fastmlp.tabular.schema import Schema
from fastmlp.tabular.schema.in_memory import Level
from fastmlp.validation.suggestions import count, listed

Array = NDArray[Any]


class Columns(NamedTuple):
    """What graphs have of the rows of a table.

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


def columns_of(graph: Graph, schema: Schema, inputs: Sequence[Any]) -> Columns:
    """Add the reading of a table: one input of all columns, or an input for each.

    Raises
    ------
    TypeError, ValueError
        If inputs are missing, or are texts where numbers were, or numbers where texts were.
    """
    if schema.dates:
        names = listed([*map(repr, schema.dates)])
        told = f"the columns {names} hold dates or times, whose parts have no ONNX nodes here"
        raise NotImplementedError(f"to_onnx: {told}: train on numbers of your own in their place")
    n = len(schema.columns)
    if len(inputs) == 1 and n > 1 and inputs[0].type.shape[1] in (n, None):
        of_name = dict.fromkeys(schema.columns, inputs[0])
        place = {name: j for j, name in enumerate(schema.columns)}
    else:
        of_name, place = _by_column(schema, inputs), {}
    for name in (*schema.numeric_names, *schema.categorical_names):
        _check_type(of_name[name], name, schema.levels.get(name))

    def column(name: str) -> str:
        whole = of_name[name].full_name
        return _taken(graph, whole, [place[name]]) if place else whole

    numbers = ""
    if place and schema.numeric_names:
        its = _taken(graph, inputs[0].full_name, [place[name] for name in schema.numeric_names])
        numbers = graph.node("Cast", [its], to=graph.kinds.DOUBLE)
    elif schema.numeric_names:
        each = [of_name[name].full_name for name in schema.numeric_names]
        each = [graph.node("Cast", [one], to=graph.kinds.DOUBLE) for one in each]
        numbers = graph.node("Concat", each, axis=1)
    levels = [schema.levels[name] for name in schema.categorical_names]
    named = zip(schema.categorical_names, levels, strict=True)
    places = [_places(graph, column(name), its, name) for name, its in named]
    return Columns(numbers, places, [len(its) for its in levels])


def _by_column(schema: Schema, inputs: Sequence[Any]) -> dict[str, Any]:
    """Return the input of each column: by name or, where a table had none, by place."""
    given = {each.raw_name: each for each in inputs}
    wanted = [*schema.numeric_names, *schema.categorical_names]
    by_place = not schema.named or len(inputs) == 1
    if by_place and len(inputs) == len(schema.columns):
        given = dict(zip(schema.columns, inputs, strict=True))
    lacking = [name for name in wanted if name not in given]
    if lacking or any(given[name].type.shape[1] not in (1, None) for name in wanted):
        n = count(len(schema.columns), "column")
        told = f"one input of {n}, or one of shape [None, 1] for each"
        without = f"; without {listed(list(map(repr, lacking)))}" if lacking else ""
        raise ValueError(
            f"to_onnx: the model needs {told}, got {listed([_shown(one) for one in inputs])}"
            f"{without}: pass X[:1], of a frame as in training"
        )
    return given


def _shown(one: Any) -> str:
    return f"{one.raw_name!r} of shape {list(one.type.shape)}"


def _check_type(given: Any, name: str, levels: Sequence[Level] | None) -> None:
    from skl2onnx.common.data_types import StringTensorType

    was = "texts" if levels and isinstance(levels[0], str) else "numbers"
    its = "texts" if isinstance(given.type, StringTensorType) else "numbers"
    if its != was:
        one = ": give each column an input of its own" if was == "texts" else ""
        raise TypeError(
            f"to_onnx: the column {name!r} held {was} in training, and is to be {its}{one}"
        )


def _places(graph: Graph, column: str, levels: Sequence[Level], name: str) -> str:
    """Add a category; return the places of its levels."""
    flat = graph.node("Reshape", [column, graph.constant(np.array([-1]), graph.kinds.INT64)])
    keys: dict[str, Any]
    if isinstance(levels[0], str):
        keys = {"keys_strings": list(levels)}
    else:
        flat = graph.node("Cast", [flat], to=graph.kinds.FLOAT)
        floats = np.array(levels, np.float32)
        if len(np.unique(floats)) < len(levels):
            told = "has levels that are the same number in float32"
            raise NotImplementedError(f"to_onnx: the column {name!r} {told}")
        keys = {"keys_floats": floats.tolist()}
    values = list(range(1, len(levels) + 1))
    how: dict[str, Any] = {"values_int64s": values, "default_int64": 0}
    # skl2onnx would ask for the newest version, 4, which it then refuses.
    how |= {"op_domain": "ai.onnx.ml", "op_version": 2}
    return graph.node("LabelEncoder", [flat], **keys, **how)


def inputs_of(graph: Graph, encoding: Encoding, columns: Columns, net: str) -> str:
    """Add an encoding; return the name of the net's inputs, float32 of shape (n_rows, n_inputs).

    Raises
    ------
    NotImplementedError
        If an encoder has no nodes here; the message names it, and the net.
    """
    found: dict[str, str] = {}
    for name, (encoder, its) in encoding.parts.items():
        if not encoder.n_outputs:
            continue
        if isinstance(encoder, OneHotLevels | TargetStatistics):
            found[name] = _levels(graph, encoder, columns, its)
        elif type(encoder) in NUMERIC:
            given = found.pop("scaled") if name == "cosines" else columns.numbers
            found[name] = NUMERIC[type(encoder)](graph, encoder, given)
        else:
            kind = type(encoder).__name__
            raise NotImplementedError(
                f"to_onnx: the numbers of the net {net!r} go through {kind}, which has no ONNX "
                f"nodes here; known: {', '.join(sorted(one.__name__ for one in NUMERIC))}"
            )
    return graph.node("Concat", [*found.values()], axis=1)


def _robust(graph: Graph, encoder: RobustSmoothClip, x: str) -> str:
    wide, single = graph.kinds.DOUBLE, graph.kinds.FLOAT
    # NaN is looked for before Clip, which may make a bound of it.
    missing = graph.node("IsNaN", [x])
    z = graph.node("Sub", [x, graph.constant(encoder.center_[None], wide)])
    z = graph.node("Mul", [z, graph.constant(encoder.factor_[None], wide)])
    ends = [graph.constant(np.array(end), wide) for end in (-LARGEST, LARGEST)]
    z = graph.node("Cast", [graph.node("Clip", [z, *ends])], to=single)
    z = graph.node("Where", [missing, graph.constant(np.zeros(1), single), z])
    part = graph.node("Div", [z, graph.constant(np.array([BOUND]), single)])
    square = graph.node("Mul", [part, part])
    root = graph.node("Sqrt", [graph.node("Add", [square, graph.constant(np.ones(1), single)])])
    return graph.node("Div", [z, root])


def _marks(graph: Graph, encoder: MissingMarks, x: str) -> str:
    missing = graph.node("IsNaN", [_taken(graph, x, encoder.columns_)])
    return graph.node("Cast", [missing], to=graph.kinds.FLOAT)


def _pieces(graph: Graph, encoder: PiecewiseLinear, x: str) -> str:
    wide, single = graph.kinds.DOUBLE, graph.kinds.FLOAT
    lows, factors = encoder.table
    medians = graph.constant(encoder.medians_[None], wide)
    filled = graph.node("Where", [graph.node("IsNaN", [x]), medians, x])
    n = encoder.n_pieces_
    shares = _taken(graph, filled, np.repeat(np.arange(len(n)), n))
    shares = graph.node("Sub", [shares, graph.constant(lows[None], wide)])
    shares = graph.node("Mul", [shares, graph.constant(factors[None], wide)])
    ends = [graph.constant(np.array(end), single) for end in (0.0, 1.0)]
    return graph.node("Clip", [graph.node("Cast", [shares], to=single), *ends])


def _cosines(graph: Graph, encoder: CosineEncoder, scaled: str) -> str:
    """Add cosines of scaled numbers, in which none is missing."""
    k, n = encoder.frequencies_.shape
    angles = graph.constant(2 * np.pi * encoder.frequencies_.reshape(1, -1), graph.kinds.FLOAT)
    each = _taken(graph, scaled, np.repeat(np.arange(k), n))
    waves = graph.node("Cos", [graph.node("Mul", [each, angles])])
    both = graph.node("Concat", [scaled, waves], axis=1)
    order = np.concatenate([np.arange(k)[:, None], k + np.arange(k * n).reshape(k, n)], axis=1)
    return _taken(graph, both, order.ravel())


NUMERIC: dict[type[Encoder], Callable[[Graph, Any, str], str]] = {
    CosineEncoder: _cosines,
    MissingMarks: _marks,
    PiecewiseLinear: _pieces,
    RobustSmoothClip: _robust,
}


def _levels(
    graph: Graph, encoder: OneHotLevels | TargetStatistics, columns: Columns, its: Array
) -> str:
    """Add what an encoder makes of categories: a table of each, from which rows are taken."""
    starts = encoder.starts_
    if isinstance(encoder, OneHotLevels):
        some = (encoder.columns_[a:b] for a, b in pairwise(starts))
        widths = [len(np.unique(one[one >= 0])) for one in some]
    else:
        widths = [encoder.table_.shape[1]] * len(its)
    found = []
    for j, (column, (a, b)) in enumerate(zip(its, pairwise(np.cumsum([0, *widths])), strict=True)):
        if a < b:
            codes = np.full((columns.n_levels[column] + 1, len(its)), -1)
            codes[:, j] = np.arange(len(codes)) - 1
            table = graph.constant(encoder.encoded(codes)[:, a:b], graph.kinds.FLOAT)
            found.append(graph.node("Gather", [table, columns.places[column]], axis=0))
    return graph.node("Concat", found, axis=1)


def _taken(graph: Graph, values: str, places: Array | list[int]) -> str:
    """Add the choice of columns."""
    its = graph.constant(np.asarray(places, np.int64), graph.kinds.INT64)
    return graph.node("Gather", [values, its], axis=1)
