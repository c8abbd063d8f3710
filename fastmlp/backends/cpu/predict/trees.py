"""Boosted trees on rows of float64: sums of their leaves,
and the probabilities of sums.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels.rule_blocks import apply_link
from fastmlp.backends.cpu.plan.records import address
from fastmlp.compiler import block_of, njit
from fastmlp.compiler.memory import Record, record_at, row
from fastmlp.validation import Array

F64 = np.dtype(np.float64)
INT = np.int64
I32 = np.int32
# Rows that a tree is added to while it is in the cache.
TREE_ROWS = 128
# A set has a bit for each level, in numbers of int32.
N_BITS, WORDS = 256, 8


class TreeNodes(NamedTuple):
    """The nodes of boosted trees, one tree after the other, each from its root on.

    Attributes
    ----------
    roots : (n_trees,) array of int32
        Trees belong to the columns of the sums in turn.
    features : (n_nodes,) array of int32, -1 for a leaf
    numbers : (n_nodes,) array of float64: a leaf's value, or the largest number that goes left
    children : (n_nodes, 3) array of int32
        The nodes of rows that go left, that go right, and whose value is missing.
    places : (n_nodes,) array of int32, -1 for a node of numbers: the set of the levels that go left
    sets : (n_sets * 8,) array of int32, a bit for each of 256 levels
    classes : places of the classes that they know; of numbers one place, 0
    n_levels : (n_features,) array of the levels of each number of a row, 0 if it is not a code;
        another value is missing
    weight : float, in the mean of a model's members
    """

    roots: Array
    features: Array
    numbers: Array
    children: Array
    places: Array
    sets: Array
    classes: Array = np.zeros(1, np.int64)
    n_levels: Array = np.zeros(0, np.int64)
    weight: float = 1.0

    @property
    def n_outputs(self) -> int:
        return len(self.classes) if len(self.classes) > 2 else 1

    @property
    def arrays(self) -> dict[str, Array]:
        return dict(zip(self._fields, self[:6], strict=False))

    def sums(self, X: Array, out: Array) -> None:
        add_trees(X, out, self)

    def probabilities(self, raw: Array) -> Array:
        """The probabilities of `classes` of sums, by the links of nets in float64."""
        if len(self.classes) == 1:  # as the rows of a fold may have
            return np.ones_like(raw)
        several = raw.shape[1] > 1
        shares = apply_link("softmax" if several else "sigmoid", raw)
        return shares if several else np.concatenate([1 - shares, shares], axis=1)


class Trees(Record):
    n_trees: int
    n_nodes: int
    n_words: int
    roots: int
    features: int
    numbers: int
    children: int
    places: int
    sets: int
    n_outputs: int
    link: int  # address of the block of probabilities; 0: of numbers, or of one class
    classes: int
    n_classes: int
    n_levels: int
    weight: float


def record_of(nodes: TreeNodes) -> tuple[Array, list[Array]]:
    """A record of nodes, shape (1,), and the arrays that must live as long."""
    kept = [
        np.ascontiguousarray(array, np.float64 if name == "numbers" else I32)
        for name, array in nodes.arrays.items()
    ]
    sizes = (len(nodes.roots), len(nodes.features), len(nodes.sets))
    return np.array([(*sizes, *map(address, kept), *[0] * 6)], Trees.dtype), kept


def add_trees(X: Array, out: Array, nodes: TreeNodes) -> None:
    """Add the values of trees to sums, tree after tree.

    Parameters
    ----------
    X : (n_rows, n_features) array of float64, NaN where a value is missing
    out : (n_rows, n_outputs) array of float64, each column contiguous
    nodes : TreeNodes, checked: of these features, and children come behind their parents
    """
    if out.dtype != F64 or len(out) != len(X) or (len(X) > 1 and out.strides[0] != 8):
        raise ValueError(f"out must have columns of float64, with {len(X)} rows")
    X = np.asarray(X, F64)
    (record, kept) = record_of(nodes)
    places = (
        X.ctypes.data,
        *X.strides,
        len(X),
        out.ctypes.data,
        out.strides[1],
        out.shape[1],
    )
    block_of(tree_sums, F64)(address(record), *places)
    del kept


@njit
def value_of(trees: Trees, t: int, x: int, right: int) -> float:
    """The value of a tree's leaf for the row at x, of numbers `right` bytes apart."""
    n = trees.n_nodes
    feature = row(trees.features, trees.n_nodes, I32)
    number = row(trees.numbers, n, np.float64)
    child = row(trees.children, 3 * n, I32)
    place = row(trees.places, n, I32)
    bits = row(trees.sets, trees.n_words, I32)
    node = INT(row(trees.roots, trees.n_trees, I32)[t])
    while feature[node] >= 0:
        value = row(x + INT(feature[node]) * right, 1, np.float64)[0]
        way = INT(2)
        if value == value:
            if place[node] < 0:
                way = INT(0 if value <= number[node] else 1)
            elif value >= 0.0 and value < 256.0:
                level = INT(value)
                word = INT(bits[INT(place[node]) * 8 + (level >> 5)])
                way = 1 - ((word >> (level & 31)) & 1)
        node = INT(child[node * 3 + way])
    return number[node]


def tree_sums(scalar: Any) -> Any:
    """`add_trees`: a tree stays in the cache for a block of rows."""

    def add(
        model: int, x: int, down: int, right: int, n: int, out: int, skip: int, k: int
    ) -> None:
        trees = record_at(model, Trees)
        for first in range(0, n, TREE_ROWS):
            for t in range(trees.n_trees):
                column = row(out + (t % k) * skip, n, np.float64)
                for r in range(first, min(first + TREE_ROWS, n)):
                    column[r] += value_of(trees, t, x + r * down, right)

    return add
