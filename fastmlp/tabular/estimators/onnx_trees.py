"""Boosted trees as ONNX nodes: all trees go down a step at a time, in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.predict.trees import N_BITS
from fastmlp.export.onnx import Graph
from fastmlp.tabular.estimators.trees import BoostedTrees

Array = NDArray[Any]


def predictions(
    graph: Graph, trees: BoostedTrees, numbers: str, places: Sequence[str], n_classes: int
) -> str:
    """Add trees; return the name of their predictions, as of a net, float64.

    Parameters
    ----------
    numbers, places : as of `ColumnNodes`
    n_classes : 0 for numbers
    """
    wide = graph.kinds.DOUBLE
    n_trees, n_outputs = len(trees.roots), trees.n_outputs
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
            raw = graph.node("Concat", [graph.node("Sub", [one, second]), second], axis=1)
        else:
            raw = graph.node("Add", [graph.node("Sub", [raw, raw]), one])
    if len(trees.classes_) == n_classes:
        return raw
    own = np.eye(n_classes)[trees.classes_]
    return graph.node("MatMul", [raw, graph.constant(own, wide)])


def _rows(graph: Graph, numbers: str, places: Sequence[str]) -> str:
    """Add the rows that trees look at: numbers, then codes, NaN where a value is missing."""
    wide, parts = graph.kinds.DOUBLE, [numbers] if numbers else []
    shape = graph.constant(np.array([-1, 1]), graph.kinds.INT64) if places else ""
    for place in places:
        column = graph.node("Cast", [graph.node("Reshape", [place, shape])], to=wide)
        code = graph.node("Sub", [column, graph.constant(np.ones(1), wide)])
        missing = graph.node("Less", [code, graph.constant(np.zeros(1), wide)])
        parts.append(graph.node("Where", [missing, graph.constant(np.array([np.nan]), wide), code]))
    return graph.node("Concat", parts, axis=1)


def _leaves(graph: Graph, trees: BoostedTrees, rows: str) -> str:
    """Add the way down all trees; return the name of leaves' values, (n_rows, n_trees)."""
    wide, whole = graph.kinds.DOUBLE, graph.kinds.INT64

    def integers(values: Any) -> str:
        return graph.constant(np.asarray(values, np.int64), whole)

    leaf = trees.features < 0
    # A leaf goes on to itself.
    children = np.where(leaf[:, None], np.arange(len(leaf))[:, None], trees.children)
    features, ways = integers(np.maximum(trees.features, 0)), integers(children.ravel())
    numbers = graph.constant(trees.numbers, wide)
    missed, three = integers([2]), integers([3])
    if len(trees.sets):
        bits = np.unpackbits(trees.sets.astype("<i4").view(np.uint8), bitorder="little")
        of_levels = graph.constant(trees.places >= 0, graph.kinds.BOOL)
        firsts, right = integers(np.maximum(trees.places, 0) * N_BITS), integers(1 - bits)
        zero, last = (graph.constant(np.array(end), wide) for end in (0.0, N_BITS - 1.0))
    first = graph.node("Cast", [graph.node("IsNaN", [graph.chosen(rows, [0])])], to=whole)
    node = graph.node("Add", [graph.node("Sub", [first, first]), integers(trees.roots)])
    for _ in range(_depth(trees)):
        value = graph.node("GatherElements", [rows, graph.node("Gather", [features, node])], axis=1)
        missing = graph.node("IsNaN", [value])
        over = graph.node("Greater", [value, graph.node("Gather", [numbers, node])])
        way = graph.node("Cast", [over], to=whole)
        if len(trees.sets):
            code = graph.node("Where", [missing, zero, value])
            code = graph.node("Cast", [graph.node("Clip", [code, zero, last])], to=whole)
            cell = graph.node("Add", [graph.node("Gather", [firsts, node]), code])
            flags = graph.node("Gather", [of_levels, node])
            way = graph.node("Where", [flags, graph.node("Gather", [right, cell]), way])
        way = graph.node("Where", [missing, missed, way])
        place = graph.node("Add", [graph.node("Mul", [node, three]), way])
        node = graph.node("Gather", [ways, place])
    return graph.node("Gather", [numbers, node])


def _depth(trees: BoostedTrees) -> int:
    """The most steps from a root to a leaf."""
    nodes, depth = trees.roots, 0
    while len(nodes := nodes[trees.features[nodes] >= 0]):
        # One of the two ways is that of missing values, too: a chain's nodes would double.
        nodes, depth = np.unique(trees.children[nodes]), depth + 1
    return depth
