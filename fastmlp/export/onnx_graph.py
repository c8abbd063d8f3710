"""An ONNX graph, to which the layers of nets are added, node by node.

The same code writes to a graph of its own, for `to_onnx`, and to that of a converter of skl2onnx.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.export.models import ModelParts
from fastmlp.model import MLP, core_of
from fastmlp.network.spec import Network
from fastmlp.network.summary import name_of
from fastmlp.rules.links import LEAST_LOG_VARIANCE, LINKS

Array = NDArray[Any]
DTypeName = Literal["float32", "float64"]
# Of nodes that every runtime since opset 9 has. onnxruntime's CPU provider has none of float64 of
# Elu, Selu, Softplus and Erf, and the slope of LeakyRelu is a float32.
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "exp": ("Exp", {}),
}
OF_FLOAT32: dict[str, tuple[str, dict[str, Any]]] = {
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
}


class Input(NamedTuple):
    """An input of a graph.

    Attributes
    ----------
    name : in the graph
    column : of the table; of a matrix, any name
    n_columns : None if it is not known
    holds_texts : True for texts, False for numbers
    """

    name: str
    column: str
    n_columns: int | None
    holds_texts: bool


class Output(NamedTuple):
    """An output of a graph, with the kind of its numbers or texts."""

    name: str
    kind: int
    shape: tuple[int | None, ...]


class Outline(NamedTuple):
    """The inputs and outputs of a graph."""

    inputs: list[Input]
    outputs: list[Output]


class Graph:
    """A graph that nodes are added to.

    Parameters
    ----------
    scope : makes names: `get_unique_variable_name`, `get_unique_operator_name`, as skl2onnx's
    container : takes nodes and constants: `add_node`, `add_initializer`, as skl2onnx's
    dtype : of what the layers compute
    """

    def __init__(self, scope: Any, container: Any, dtype: DTypeName) -> None:
        from onnx import TensorProto

        self._scope, self._container = scope, container
        self.kinds: Any = TensorProto
        self._is_double = dtype == "float64"
        # Names of columns, which no other variable may have.
        self.columns: set[str] = set()
        self.kind: int = self.kinds.DOUBLE if self._is_double else self.kinds.FLOAT

    def named(self, stem: str) -> str:
        """A name that no other variable has, nor a column."""
        name: str = self._scope.get_unique_variable_name(stem)
        return self.named(stem) if name in self.columns else name

    def output(self, name: str) -> str:
        """The name of an output of the graph."""
        return self.output(f"predicted_{name}") if name in self.columns else name

    def node(self, kind: str, inputs: list[str], output: str | None = None, **options: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or self.named(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, inputs, output, name=name, **options)
        return output

    def constant(self, values: Any, kind: int) -> str:
        """Add a constant; return its name."""
        name = self.named("constant")
        values = np.asarray(values)
        self._container.add_initializer(name, kind, list(values.shape), values.ravel().tolist())
        return name

    def chosen(self, values: str, columns: Array | list[int]) -> str:
        """Add the choice of columns."""
        indices = self.constant(np.asarray(columns, np.int64), self.kinds.INT64)
        return self.node("Gather", [values, indices], axis=1)

    def predictions(self, rows: str, parts: ModelParts) -> str:
        """Add the nets of a model; return the name of its predictions, (n_rows, n_outputs)."""
        values = self.node("Cast", [rows], to=self.kind)
        outputs, certain = [], np.zeros(parts.n_outputs)
        for net, columns in parts.members:
            if net is None:
                certain[columns] += 1
                continue
            completed = self._completed(self.net(values, net, self.kind), net, parts)
            if len(columns) < parts.n_outputs:
                places = np.eye(parts.n_outputs)[columns]
                completed = self.node("MatMul", [completed, self.constant(places, self.kind)])
            outputs.append(completed)
        n = len(parts.members)
        if n == 1:
            return outputs[0]
        if certain.any():
            outputs.append(self._certain(values, certain))
        total = self.node("Sum", outputs)
        return self.node("Div", [total, self.constant([float(n)], self.kind)])

    def _completed(self, values: str, net: MLP, parts: ModelParts) -> str:
        if parts.completion == "complement" and net.layer_sizes[-1] == 1:
            first = self.node("Sub", [self.constant([1.0], self.kind), values])
            return self.node("Concat", [first, values], axis=1)
        if parts.completion == "sum":
            columns = self.constant(np.ones((net.layer_sizes[-1], 1)), self.kind)
            return self.node("Div", [values, self.node("MatMul", [values, columns])])
        return values

    def _certain(self, rows: str, row: Array) -> str:
        """Add this row for each row of the inputs."""
        shape = self.node("Shape", [rows])
        first = self.node("Gather", [shape, self.constant(np.array([0]), self.kinds.INT64)], axis=0)
        width = self.constant(np.array([len(row)]), self.kinds.INT64)
        target = self.node("Concat", [first, width], axis=0)
        return self.node("Expand", [self.constant(row[None], self.kind), target])

    def net(self, values: str, net: MLP, kind: int) -> str:
        """Add a net that computes in numbers of this kind; return the name of its predictions."""
        network: Network = core_of(net).engine.network
        for weights, biases, rule in zip(net.weights, net.biases, network.activations, strict=True):
            product = self.node("MatMul", [values, self.constant(weights, kind)])
            raw = self.node("Add", [product, self.constant(biases[None], kind)])
            values = self.activation(raw, name_of(rule), kind)
        name = next((name for name, link in LINKS.items() if link == network.link), "")
        return self.link(values, name or network.link.rule.__name__, net.layer_sizes[-1], kind)

    def activation(self, raw: str, name: str, kind: int) -> str:
        """Add an activation function, of numbers of this kind."""
        if name in NODES or (name in OF_FLOAT32 and kind == self.kinds.FLOAT):
            node, options = (NODES | OF_FLOAT32)[name]
            return self.node(node, [raw], **options)
        if name not in COMPOSED:
            known = ", ".join(sorted([*NODES, *COMPOSED]))
            raise NotImplementedError(
                f"to_onnx: the activation {name!r} has no ONNX node here; known: {known}"
            )
        return COMPOSED[name](Formula(self, kind), raw)

    def link(self, raw: str, name: str, n_outputs: int, kind: int) -> str:
        """Add the function from raw outputs to predictions."""
        f = Formula(self, kind)
        if name == "softmax":
            return self.node("Softmax", [raw], axis=1)
        if name == "sorted":
            n = self.constant(np.array([n_outputs]), self.kinds.INT64)
            values = self.named("sorted")
            places = self.named("places")
            self._container.add_node(
                "TopK",
                [raw, n],
                [values, places],
                name=self._scope.get_unique_operator_name("TopK"),
                axis=1,
                largest=0,
                sorted=1,
            )
            return values
        if name == "mean_std":
            means, logs = (self.chosen(raw, np.arange(k, n_outputs, 2)) for k in (0, 1))
            deviations = f("Exp", f("Mul", f("Max", logs, LEAST_LOG_VARIANCE), 0.5))
            both = self.node("Concat", [means, deviations], axis=1)
            return self.chosen(both, np.arange(n_outputs).reshape(2, -1).T.ravel())
        return self.activation(raw, name, kind)

    def classes(self, values: str, classes: Array | None, label: str, to: str) -> None:
        """Add labels and probabilities; classes None: any number of labels a row."""
        self.node("Cast", [values], to, to=self.kind)
        if classes is None:
            right = self.node("Greater", [values, self.constant([0.5], self.kind)])
            self.node("Cast", [right], label, to=self.kinds.INT64)
            return
        place = self.node("ArgMax", [values], axis=1, keepdims=0)
        if len(classes) == 1:  # whose probability is the second of two
            classes = np.repeat(classes, 2)
        kind = self.kinds.INT64
        if are_words(classes):
            classes = np.array([str(name).encode() for name in classes], object)
            kind = self.kinds.STRING
        else:
            classes = classes.astype(np.int64)
        self.node("Gather", [self.constant(classes, kind), place], label, axis=0)

    def classifier(
        self, values: str, inputs: list[Input], classes: Array | None, n_outputs: int
    ) -> Outline:
        """Add labels and probabilities; return the outline of the whole graph."""
        label, to = self.output("label"), self.output("probabilities")
        self.classes(values, classes, label, to)
        kind, shape = self.kinds.INT64, (None,) if classes is not None else (None, n_outputs)
        if classes is not None and are_words(classes):
            kind = self.kinds.STRING
        probabilities = Output(to, self.kind, (None, n_outputs))
        return Outline(inputs, [Output(label, kind, shape), probabilities])


def are_words(classes: Array) -> bool:
    """True for labels that are texts in a graph."""
    return classes.dtype.kind in "USO"


class Formula:
    """Adds nodes of names and numbers: ``f("Mul", x, 0.5)``."""

    def __init__(self, graph: Graph, kind: int) -> None:
        self._graph, self.kind = graph, kind
        self.is_double = kind == graph.kinds.DOUBLE

    def __call__(self, node: str, *operands: str | float) -> str:
        """Add a node; return the name of its output."""
        names = [
            item if isinstance(item, str) else self._graph.constant(np.array([item]), self.kind)
            for item in operands
        ]
        return self._graph.node(node, names)


def _softplus(f: Formula, z: str) -> str:
    if not f.is_double:
        return f("Softplus", z)
    return f("Add", f("Relu", z), f("Log", f("Add", f("Exp", f("Neg", f("Abs", z))), 1.0)))


def _elu(f: Formula, z: str) -> str:
    below = f("Sub", f("Exp", f("Min", z, 0.0)), 1.0)
    return f("Where", f("Greater", z, 0.0), z, below)


def _gelu(f: Formula, z: str) -> str:
    if f.is_double:
        raise NotImplementedError(
            "to_onnx: gelu needs the node Erf, which onnxruntime has in float32 alone: "
            "dtype='float32', or train with gelu_tanh"
        )
    half = f("Mul", f("Add", f("Erf", f("Mul", z, 0.7071067811865476)), 1.0), 0.5)
    return f("Mul", z, half)


def _gelu_tanh(f: Formula, z: str) -> str:
    cubic = f("Mul", f("Mul", f("Mul", z, z), z), 0.044715)
    return f("Mul", z, f("Sigmoid", f("Mul", f("Add", z, cubic), 1.5957691216057308)))


# Activations of several nodes; those of `OF_FLOAT32` are so in float64.
COMPOSED: dict[str, Callable[[Formula, str], str]] = {
    "leaky_relu": lambda f, z: f("Where", f("Greater", z, 0.0), z, f("Mul", z, 0.01)),
    "elu": _elu,
    "selu": lambda f, z: f(
        "Mul",
        f("Where", f("Greater", z, 0.0), z, f("Mul", _elu(f, z), 1.6732632423543772)),
        1.0507009873554805,
    ),
    "softplus": _softplus,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda f, z: f("Mul", z, f("Sigmoid", z)),
    "mish": lambda f, z: f("Mul", z, f("Tanh", _softplus(f, z))),
}
