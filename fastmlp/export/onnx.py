"""to_onnx: a model as an ONNX graph, node by node; converters of skl2onnx.

One code writes graphs for `to_onnx` and for skl2onnx, whose converters of
scikit-learn's classes know four activations, one output of a regressor, and not exp.
The converters here are registered when skl2onnx is imported, before fastmlp or after.
"""

import math
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp.compiler.trace import Comparison, Symbol, Trace
from fastmlp.export.models import ModelParts, has_several_labels, is_of_tables, parts_of
from fastmlp.model import MLP, core_of
from fastmlp.network.spec import Network, gain_views
from fastmlp.rules import activations, elementary, losses
from fastmlp.serialization.files import writing
from fastmlp.validation import Array, scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import needs

DTypeName = Literal["float32", "float64"]
# Single nodes of activations.
# onnxruntime has the nodes of `OF_FLOAT32` in float32 alone.
NODES: dict[Any, tuple[str, dict[str, Any]]] = {activations.relu: ("Relu", {})}
OF_FLOAT32: dict[Any, tuple[str, dict[str, Any]]] = {
    activations.leaky_relu: ("LeakyRelu", {"alpha": 0.01}),
    activations.elu: ("Elu", {"alpha": 1.0}),
    activations.selu: ("Selu", {}),
}
# From an operation of a `Trace` to a node of another name.
OPERATIONS = {
    "truediv": "Div",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
}
WHO = "fastmlp.to_onnx"
# The oldest version that has every node, and the version of LabelEncoder.
OLDEST_OPSET = 13
OF_LABELS = 2
IR_VERSION = 8
# The first opset with LayerNormalization.
LAYER_NORM = 17


class Output(NamedTuple):
    name: str
    kind: int
    shape: tuple[int | None, ...]


class Outline(NamedTuple):
    inputs: "list[Graph.Input]"
    outputs: list[Output]


class Graph:
    """A graph that nodes are added to.

    Parameters
    ----------
    scope : makes names by `get_unique_variable_name`, `get_unique_operator_name`, as in skl2onnx
    container : takes nodes and constants by `add_node`, `add_initializer`, as in skl2onnx
    dtype : of the layers' arithmetic
    """

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

    def __init__(
        self, scope: Any, container: Any, dtype: DTypeName, opset: int
    ) -> None:
        from onnx import TensorProto

        self._scope = scope
        self._container = container
        self._opset = opset
        self.kinds: Any = TensorProto
        self._is_double = dtype == "float64"
        # Names of columns, which no other variable may have.
        self.columns: set[str] = set()
        self.kind: int = self.kinds.DOUBLE if self._is_double else self.kinds.FLOAT

    def named(self, stem: str) -> str:
        name: str = self._scope.get_unique_variable_name(stem)
        return self.named(stem) if name in self.columns else name

    def output(self, name: str) -> str:
        if name in self.columns:
            return self.output(f"predicted_{name}")
        return name

    def node(
        self, kind: str, inputs: list[str], output: str | None = None, **options: Any
    ) -> str:
        output = output or self.named(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, inputs, output, name=name, **options)
        return output

    def constant(self, values: Any, kind: int) -> str:
        name = self.named("constant")
        values = np.asarray(values)
        self._container.add_initializer(
            name, kind, list(values.shape), values.ravel().tolist()
        )
        return name

    def chosen(self, values: str, columns: Array | list[int]) -> str:
        indices = self.constant(np.asarray(columns, np.int64), self.kinds.INT64)
        return self.node("Gather", [values, indices], axis=1)

    def predictions(self, rows: str, parts: ModelParts) -> str:
        values = self.node("Cast", [rows], to=self.kind)
        return self._completed(self.net(values, parts.net, self.kind), parts)

    def _completed(self, values: str, parts: ModelParts) -> str:
        if parts.complements:
            first = self.node("Sub", [self.constant([1.0], self.kind), values])
            return self.node("Concat", [first, values], axis=1)
        return values

    def net(self, values: str, net: MLP, kind: int) -> str:
        """Add a net that computes in numbers of this kind;
        return the name of its predictions.

        `values` and `inputs` are names of variables; `outputs` has one for each layer.
        """
        network: Network = core_of(net).engine.network
        layout = network.layout
        outputs = list[str]()
        next_shifts = iter(net.shifts)
        shifts = [
            next(next_shifts) if norm.shifts >= 0 else None for norm in layout.norms
        ]
        gain_of_norms = gain_views(layout, net.parameters)
        norms = {
            (norm.layer, norm.after): (norm.epsilon, gains, shift)
            for norm, gains, shift in zip(
                layout.norms, gain_of_norms, shifts, strict=True
            )
        }
        inputs = values
        last = layout.n_layers - 1
        for i, (weights, biases, rule) in enumerate(
            zip(net.weights, net.biases, network.activations, strict=True)
        ):
            if layout.takes_inputs and i == last:
                values = self.node("Concat", [values, inputs], axis=1)
            product = self.node("MatMul", [values, self.constant(weights, kind)])
            raw = self.node("Add", [product, self.constant(biases[None], kind)])
            if layout.skips and layout.skips[i] >= 0:
                raw = self.node("Add", [raw, outputs[layout.skips[i]]])
            if (i, False) in norms:
                raw = self._norm(raw, kind, *norms[i, False])
            values = self._activated(raw, rule, kind)
            outputs.append(values)
            if (i, True) in norms:
                values = self._norm(values, kind, *norms[i, True])
        if not network.link.parts:
            return self._linked(values, network.link, net.layer_sizes[-1], kind)
        heads = []
        for name, first, n in losses.link_slices(network.link.parts):
            head = self.chosen(values, np.arange(first, first + n))
            heads.append(self._linked(head, losses.LINKS[name], n, kind))
        return self.node("Concat", heads, axis=1)

    def _activated(self, raw: str, rule: Any, kind: int) -> str:
        """Add an activation: the node that ONNX has for it, or the rule's own nodes."""
        known = NODES if kind == self.kinds.DOUBLE else NODES | OF_FLOAT32
        node, options = known.get(rule, ("", {}))
        if node:
            return self.node(node, [raw], **options)
        return self.traced(rule, kind, raw)

    def _linked(self, raw: str, link: losses.Link, n_outputs: int, kind: int) -> str:
        """Add a link; return the name of its values."""
        if link.by_row:
            return self._link(raw, link.rule, n_outputs, kind)
        return self.traced(link.rule, kind, raw)

    def _norm(
        self, values: str, kind: int, epsilon: float, gains: Array, shifts: Array | None
    ) -> str:
        """Add a norm; without shifts it has no mean."""
        scale = self.constant(gains, kind)
        if shifts is not None:
            shift = self.constant(shifts, kind)
            if self._opset >= LAYER_NORM:
                inputs = [values, scale, shift]
                return self.node("LayerNormalization", inputs, axis=-1, epsilon=epsilon)
            values = self.node("Sub", [values, self._mean(values, kind, len(gains))])
        squares = self.node("Mul", [values, values])
        variance = self._mean(squares, kind, len(gains))
        least = self.node("Add", [variance, self.constant([[epsilon]], kind)])
        root = self.node("Sqrt", [least])
        result = self.node("Mul", [self.node("Div", [values, root]), scale])
        if shifts is None:
            return result
        return self.node("Add", [result, shift])

    def _mean(self, values: str, kind: int, n: int) -> str:
        """Add the mean of each row, shape (n_rows, 1)."""
        axes = self.constant(np.array([1]), self.kinds.INT64)
        total = self.node("ReduceSum", [values, axes], keepdims=1)
        return self.node("Mul", [total, self.constant([[1 / n]], kind)])

    def traced(self, rule: Any, kind: int, *inputs: str, to: int | None = None) -> str:
        """Add the nodes of a rule, with this kind of numbers;
        return the first result's name.
        """
        code = Nodes()
        to = kind if to is None else to
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
                    names[operand] = self.constant(
                        [float(value)], kinds[np.dtype(dtype).type]
                    )
            if node == "Cast":
                options = {"to": kinds[scalar]}
            else:
                options = {}
            sources = [names[operand] for operand in operands]
            if sources:
                names[name] = self.node(node, sources, **options)
            else:
                names[name] = names[node]
        return names[last]

    def _link(self, raw: str, rule: Any, n_outputs: int, kind: int) -> str:
        """Add the nodes of a link by rows; the result's name.

        Raw outputs of the last link, mean_std, alternate: mean, then logarithm of the
        deviation.
        """
        if rule is losses.softmax:
            return self.node("Softmax", [raw], axis=1)
        if rule is losses.ascending:
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
        means, logs = (self.chosen(raw, np.arange(k, n_outputs, 2)) for k in (0, 1))
        deviations = self.traced(losses.deviation, kind, logs)
        both = self.node("Concat", [means, deviations], axis=1)
        return self.chosen(both, np.arange(n_outputs).reshape(2, -1).T.ravel())

    def classes(
        self,
        values: str,
        classes: Array | None,
        label: str,
        to: str,
        weights: Array | None = None,
    ) -> None:
        """Add labels and probabilities; classes None: any number of labels a row.

        `weights` are of the classes in labels, of float64 values.
        """
        self.node("Cast", [values], to, to=self.kind)
        if classes is None:
            right = self.node("Greater", [values, self.constant([0.5], self.kind)])
            self.node("Cast", [right], label, to=self.kinds.INT64)
            return
        if weights is not None and (weights != 1).any():
            own = self.constant(weights, self.kinds.DOUBLE)
            values = self.node("Mul", [values, own])
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

    def regressor(
        self, values: str, inputs: list["Graph.Input"], n_outputs: int
    ) -> Outline:
        name = self.output("variable")
        self.node("Cast", [values], name, to=self.kind)
        return Outline(inputs, [Output(name, self.kind, (None, n_outputs))])

    def classifier(
        self,
        values: str,
        inputs: list["Graph.Input"],
        classes: Array | None,
        n_outputs: int,
        weights: Array | None = None,
    ) -> Outline:
        """Add labels and probabilities; return the outline of the whole graph."""
        label = self.output("label")
        to = self.output("probabilities")
        self.classes(values, classes, label, to, weights)
        kind = self.kinds.INT64
        shape = (None,) if classes is not None else (None, n_outputs)
        if classes is not None and are_words(classes):
            kind = self.kinds.STRING
        probabilities = Output(to, self.kind, (None, n_outputs))
        return Outline(inputs, [Output(label, kind, shape), probabilities])


def are_words(classes: Array) -> bool:
    return classes.dtype.kind in "USO"


class Nodes(Trace):
    """Operations of a rule, in the words of nodes: ``Mul t1 0.5:float32``."""

    def __init__(self) -> None:
        super().__init__()
        names = {
            np.exp: "exp",
            np.log: "log",
            np.sqrt: "sqrt",
            np.tanh: "tanh",
            math.erf: "erf",
        }
        names |= {elementary.logistic: "sigmoid", min: "min", max: "max"}
        self.own |= {
            function: partial(self.apply, name) for function, name in names.items()
        }
        self.own |= {
            np.expm1: lambda x: self.apply("exp", x) - x.kind(1),
            np.log1p: lambda x: self.apply("log", x + x.kind(1)),
        }

    def text(self, number: Any, kind: Any) -> str:
        if not isinstance(number, Symbol):
            return f"{kind(number)!s}:{np.dtype(kind).name}"
        if number.kind is kind:
            return number.name
        return self.name(kind, f"Cast {number.name}")

    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        if name == "erf" and kind is np.float64:
            raise NotImplementedError(
                "to_onnx: gelu needs the node Erf, which onnxruntime has in float32 "
                "alone: dtype='float32', or train with gelu_tanh"
            )
        return " ".join([OPERATIONS.get(name, name.capitalize()), *operands])

    def relation(self, name: str, a: str, b: str) -> Comparison:
        if name == "ne":
            return Comparison(
                self.name(np.bool_, f"Not {self.relation('eq', a, b).text}")
            )
        return Comparison(self.name(np.bool_, self.operation(name, np.bool_, [a, b])))


class Builder:
    """Nodes and constants of a graph, in place of skl2onnx's scope and container."""

    def __init__(self) -> None:
        self._n_names = 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def get_unique_variable_name(self, stem: str) -> str:
        self._n_names += 1
        return f"{stem}_{self._n_names}"

    get_unique_operator_name = get_unique_variable_name

    def add_node(
        self,
        kind: str,
        inputs: list[str],
        outputs: str | list[str],
        *,
        op_domain: str = "",
        op_version: int | None = None,
        **options: Any,
    ) -> None:
        from onnx import helper

        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, domain=op_domain, **options)
        )

    def add_initializer(
        self, name: str, kind: int, shape: list[int], values: list[Any]
    ) -> None:
        from onnx import helper

        self.constants.append(helper.make_tensor(name, kind, shape, values))

    def model(self, graph: Graph, outline: Outline, opset: int) -> Any:
        """The checked model of a graph's nodes, without constants that are not read."""
        from onnx import checker, helper

        inputs = [
            (name, graph.kinds.STRING if holds_texts else graph.kind, (None, n_columns))
            for name, _, n_columns, holds_texts in outline.inputs
        ]
        first, last = (
            [
                helper.make_tensor_value_info(name, kind, shape)
                for name, kind, shape in values
            ]
            for values in (inputs, outline.outputs)
        )
        versions = [
            helper.make_opsetid("", opset),
            helper.make_opsetid("ai.onnx.ml", OF_LABELS),
        ]
        used = {name for node in self.nodes for name in node.input}
        constants = [constant for constant in self.constants if constant.name in used]
        model = helper.make_model(
            helper.make_graph(self.nodes, "fastmlp", first, last, constants),
            producer_name="fastmlp",
            ir_version=IR_VERSION,
            opset_imports=versions,
        )
        checker.check_model(model, full_check=True)
        return model


@explained
def to_onnx(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: DTypeName | None = None,
    opset: int = 17,
) -> Any:
    """Write a fitted model as an ONNX graph, for onnxruntime and other runtimes.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
        A search stands for its best estimator;
        `fold` turns a pipeline of scalers into an estimator.
    path : path-like, optional
        The file to write.
    dtype : "float32" or "float64", optional
        The dtype of inputs, outputs and sums; default: the net's, as for `to_c`. Nets
        of a model of tables are float32, and compute in float32 whatever the dtype of
        inputs and outputs.
    opset : int, default 17
        Version of ONNX' operators, at least 13.

    Returns
    -------
    onnx.ModelProto
        The input is "X", shape (n_rows, n_features); for a model of tables with names
        of columns, one input a column, shape (n_rows, 1): numbers, or texts. Outputs
        are "Y", shape (n_rows, n_outputs), for a net; "variable", of that shape, for a
        regressor; "label", shape (n_rows,) or (n_rows, n_labels), and "probabilities",
        shape (n_rows, n_classes), for a classifier; "predicted_label" and so on if a
        column has an output's name.

    Raises
    ------
    TypeError, ValueError
        If the model is of another kind or not fitted, or an argument is wrong.
    NotImplementedError
        If a part of it has no nodes, such as your activation that is more than
        arithmetic, ``a if c else b`` and functions of `fastmlp.rules.elementary`.
    ImportError
        If onnx is not installed.

    Examples
    --------
    >>> from fastmlp import MLP, to_onnx
    >>> graph = to_onnx(MLP((2, 4, 1), seed=0))
    >>> [node.op_type for node in graph.graph.node]
    ['Cast', 'MatMul', 'Add', 'Relu', 'MatMul', 'Add', 'Identity']
    """
    if dtype is not None:
        scalars.known(WHO, "dtype", dtype, ("float32", "float64"))
    scalars.positive_integer(WHO, "opset", opset)
    if path is not None:
        scalars.path(WHO, "path", path, mode="w")
    try:
        from onnx.defs import onnx_opset_version
    except ModuleNotFoundError as error:
        raise ImportError(needs(WHO, "onnx")) from error
    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ValueError(
            f"{WHO}: opset must be {OLDEST_OPSET} to {onnx_opset_version()}, got {opset}"
        )
    builder = Builder()
    graph = Graph(builder, builder, dtype or _dtype_of(model), opset)
    if is_of_tables(model):
        outline = model._write_onnx(graph)
    else:
        outline = _write(graph, model)
    result = builder.model(graph, outline, opset)
    if path is not None:
        with writing(path) as file:
            file.write(result.SerializeToString())
    return result


def _dtype_of(model: Any) -> DTypeName:
    """The dtype of the model's nets, which of models of tables is float32."""
    if is_of_tables(model):
        return "float32"
    if parts_of(model, WHO).net.dtype == np.float64:
        return "float64"
    return "float32"


def _write(graph: Graph, model: Any) -> Outline:
    parts = parts_of(model, WHO)
    columns = Graph.Input("X", "X", parts.n_features, holds_texts=False)
    values = graph.predictions("X", parts)
    if parts.kind == "classifier":
        return graph.classifier(values, [columns], parts.classes, parts.n_outputs)
    name = "Y" if parts.kind == "net" else "variable"
    graph.node("Identity", [values], name)
    return Outline([columns], [Output(name, graph.kind, (None, parts.n_outputs))])


def _values(scope: Any, operator: Any, container: Any) -> tuple[Graph, str]:
    """The graph that skl2onnx gives to a converter, and the name of its predictions."""
    from skl2onnx.common.data_types import StringTensorType

    dtype: DTypeName = "float64" if _is_double(operator) else "float32"
    # skl2onnx chooses the opset of pipelines: norms of nets there are primitives.
    graph = Graph(scope, container, dtype, OLDEST_OPSET)
    model = operator.raw_operator
    columns = operator.inputs
    if not is_of_tables(model):
        return graph, graph.predictions(columns[0].full_name, parts_of(model, WHO))
    inputs = [
        Graph.Input(
            one.full_name,
            one.raw_name,
            one.type.shape[1],
            isinstance(one.type, StringTensorType),
        )
        for one in columns
    ]
    return graph, model._onnx_values(graph, inputs)


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph, values = _values(scope, operator, container)
    graph.node("Cast", [values], operator.outputs[0].full_name, to=graph.kind)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add a classifier: labels and probabilities,
    as skl2onnx does for scikit-learn's.
    """
    (graph, values), (label, probability) = (
        _values(scope, operator, container),
        operator.outputs,
    )
    model = operator.raw_operator
    classes = None if has_several_labels(model) else model.classes_
    weights = getattr(model, "decision_weights_", None)
    graph.classes(values, classes, label.full_name, probability.full_name, weights)


def shape_of_regressor(operator: Any) -> None:
    n_outputs = getattr(_fitted(operator), "n_outputs_", 1)
    operator.outputs[0].type = _number_type(operator)([None, n_outputs])


def shapes_of_classifier(operator: Any) -> None:
    """Set the types of labels, and of as many probabilities as classes."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    model = _fitted(operator)
    n_classes = max(2, len(model.classes_))
    if are_words(model.classes_):
        kind = StringTensorType
    else:
        kind = Int64TensorType
    operator.outputs[0].type = kind(
        [None, n_classes] if has_several_labels(model) else [None]
    )
    operator.outputs[1].type = _number_type(operator)([None, n_classes])


def _fitted(operator: Any) -> Any:
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(operator.raw_operator)
    return operator.raw_operator


def _number_type(operator: Any) -> Callable[[list[Any]], Any]:
    """The type of predictions: float64 where an input is float64."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if _is_double(operator) else FloatTensorType


def _is_double(operator: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType

    return any(
        isinstance(variable.type, DoubleTensorType) for variable in operator.inputs
    )


def register(*kinds: type) -> None:
    """Tell skl2onnx how to convert estimators, now or once it is imported."""

    def update() -> None:
        """Give the converters to skl2onnx, which is imported by now."""
        from skl2onnx import update_registered_converter

        of_numbers = (shape_of_regressor, convert_regressor)
        options = {
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],
        }
        for kind in kinds:
            of_classes = any(
                base.__name__ == "ClassifierMixin" for base in kind.__mro__
            )
            if of_classes:
                functions = (shapes_of_classifier, convert_classifier)
            else:
                functions = of_numbers
            if of_classes:
                own = {"options": options}
            else:
                own = {}
            update_registered_converter(
                kind, f"Fastmlp{kind.__name__}", *functions, **own
            )

    when_imported(update)


def when_imported(then: Callable[[], None]) -> None:
    """Call a function now if skl2onnx is imported,
    else right after its import, of 1 s.
    """
    if "skl2onnx" in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Waiting(then))


class _Waiting(MetaPathFinder):
    """A finder that calls a function after the import of skl2onnx,
    and then removes itself.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "skl2onnx":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: Any) -> None:
                load(module)
                self._then()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
