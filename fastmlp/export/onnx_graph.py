"""An ONNX graph, to which the layers of nets are added, node by node.

The same code writes to a graph of its own, for `to_onnx`, and to that of a converter of skl2onnx.
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.export.models import ModelParts
from fastmlp.export.trace import Comparison, Symbol, Trace
from fastmlp.model import MLP, core_of
from fastmlp.network.spec import Network
from fastmlp.rules import activations, elementary, links

Array = NDArray[Any]
DTypeName = Literal["float32", "float64"]
# Single nodes of activations. onnxruntime has those of `OF_FLOAT32` in no other precision.
NODES: dict[Any, tuple[str, dict[str, Any]]] = {activations.relu: ("Relu", {})}
OF_FLOAT32: dict[Any, tuple[str, dict[str, Any]]] = {
    activations.leaky_relu: ("LeakyRelu", {"alpha": 0.01}),
    activations.elu: ("Elu", {"alpha": 1.0}),
    activations.selu: ("Selu", {}),
}
# From an operation of a `Trace` to its node, if the node is not of that name.
OPERATIONS = {
    "truediv": "Div",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
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
        """Add the net of a model; return the name of its predictions, (n_rows, n_outputs)."""
        values = self.node("Cast", [rows], to=self.kind)
        return self._completed(self.net(values, parts.net, self.kind), parts)

    def _completed(self, values: str, parts: ModelParts) -> str:
        if parts.completion == "complement":
            first = self.node("Sub", [self.constant([1.0], self.kind), values])
            return self.node("Concat", [first, values], axis=1)
        if parts.completion == "sum":
            columns = self.constant(np.ones((parts.n_outputs, 1)), self.kind)
            return self.node("Div", [values, self.node("MatMul", [values, columns])])
        return values

    def net(self, values: str, net: MLP, kind: int) -> str:
        """Add a net that computes in numbers of this kind; return the name of its predictions."""
        network: Network = core_of(net).engine.network
        for weights, biases, rule in zip(net.weights, net.biases, network.activations, strict=True):
            product = self.node("MatMul", [values, self.constant(weights, kind)])
            raw = self.node("Add", [product, self.constant(biases[None], kind)])
            known = NODES if kind == self.kinds.DOUBLE else NODES | OF_FLOAT32
            node, options = known.get(rule, ("", {}))
            values = self.node(node, [raw], **options) if node else self.traced(rule, kind, raw)
        rule, by_row = network.link
        if by_row:
            return self._link(values, rule, net.layer_sizes[-1], kind)
        return self.traced(rule, kind, values)

    def traced(self, rule: Any, kind: int, *inputs: str, to: int | None = None) -> str:
        """Add the nodes of a rule, of numbers of this kind; return the name of its first result.

        Raises
        ------
        NotImplementedError
            If the rule is more than arithmetic.
        """
        code, to = Nodes(), kind if to is None else to
        scalars = {self.kinds.FLOAT: np.float32, self.kinds.DOUBLE: np.float64}
        names: dict[str, str] = {f"x{i}": name for i, name in enumerate(inputs)}
        symbols = [code.symbol(scalars[kind], name) for name in names]
        result = code.results(rule, "to_onnx", *symbols)[0]
        if not isinstance(result, Symbol):  # in the shape of the inputs
            result = code.where(symbols[0] == symbols[0], result, result)
        last = code.text(result, scalars[to])
        kinds = {scalar: number for number, scalar in scalars.items()}
        for scalar, expression, name in code.needed(last):
            node, *operands = expression.split()
            for operand in operands:
                if operand not in names:
                    value, dtype = operand.split(":")
                    names[operand] = self.constant([float(value)], kinds[np.dtype(dtype).type])
            options = {"to": kinds[scalar]} if node == "Cast" else {}
            sources = [names[operand] for operand in operands]
            names[name] = self.node(node, sources, **options) if sources else names[node]
        return names[last]

    def _link(self, raw: str, rule: Any, n_outputs: int, kind: int) -> str:
        """Add a link of rows."""
        if rule is links.softmax:
            return self.node("Softmax", [raw], axis=1)
        if rule is links.ascending:
            n = self.constant(np.array([n_outputs]), self.kinds.INT64)
            values, places = self.named("sorted"), self.named("places")
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
        means, logs = (self.chosen(raw, np.arange(k, n_outputs, 2)) for k in (0, 1))
        deviations = self.traced(links.deviation, kind, logs)
        both = self.node("Concat", [means, deviations], axis=1)
        return self.chosen(both, np.arange(n_outputs).reshape(2, -1).T.ravel())

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


class Nodes(Trace):
    """The operations of a rule, in the words of nodes: ``Mul t1 0.5:float32``."""

    def __init__(self) -> None:
        super().__init__()
        names = {np.exp: "exp", np.log: "log", np.sqrt: "sqrt", np.tanh: "tanh", math.erf: "erf"}
        names |= {elementary.logistic: "sigmoid", min: "min", max: "max"}
        self.own |= {function: partial(self.apply, name) for function, name in names.items()}
        self.own |= {
            np.expm1: lambda x: self.apply("exp", x) - x.kind(1),
            np.log1p: lambda x: self.apply("log", x + x.kind(1)),
        }

    def text(self, number: Any, kind: Any) -> str:
        """A name, or a number with its precision."""
        if not isinstance(number, Symbol):
            return f"{kind(number)!s}:{np.dtype(kind).name}"
        return number.name if number.kind is kind else self.name(kind, f"Cast {number.name}")

    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        """A node and its inputs."""
        if name == "erf" and kind is np.float64:
            raise NotImplementedError(
                "to_onnx: gelu needs the node Erf, which onnxruntime has in float32 alone: "
                "dtype='float32', or train with gelu_tanh"
            )
        return " ".join([OPERATIONS.get(name, name.capitalize()), *operands])

    def relation(self, name: str, a: str, b: str) -> Comparison:
        """The name of a node of booleans."""
        if name == "ne":
            return Comparison(self.name(np.bool_, f"Not {self.relation('eq', a, b).text}"))
        return Comparison(self.name(np.bool_, self.operation(name, np.bool_, [a, b])))
