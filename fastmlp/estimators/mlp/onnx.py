"""Converters of skl2onnx from an estimator to an ONNX graph.

Its converter for scikit-learn's own classes knows four activations, one output of a regressor, and
no exp. The converters here are registered when skl2onnx is imported, before fastmlp or after.
Those of models of tables build on `Graph`.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.summary import name_of
from fastmlp.rules import activations

Array = NDArray[Any]
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "exp": ("Exp", {}),
}
# Of two nodes.
SILU = "silu"


class Graph:
    """Adds an estimator's layers to a graph, node by node.

    Parameters
    ----------
    scope, operator, container : as skl2onnx gives them to a converter
    """

    estimator: Any
    kind: int
    kinds: Any

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        from skl2onnx.proto import onnx_proto

        self._scope, self._container = scope, container
        self.estimator = operator.raw_operator
        self.kinds = onnx_proto.TensorProto
        self.kind = self.kinds.DOUBLE if _is_double(operator) else self.kinds.FLOAT

    def node(self, kind: str, inputs: list[str], output: str | None = None, **options: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or self._scope.get_unique_variable_name(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, inputs, output, name=name, **options)
        return output

    def constant(self, values: Any, kind: int) -> str:
        """Add a constant; return its name."""
        name = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, list(values.shape), values.ravel().tolist())
        return name

    def outputs(self, rows: str) -> str:
        """Add all layers; return the name of the net's predictions."""
        estimator = self.estimator
        values = self.node("Cast", [rows], to=self.kind)
        hidden = _names(estimator.activation, len(estimator.coefs_) - 1)
        layers = zip(estimator.coefs_, estimator.intercepts_, strict=True)
        for (coef, bias), name in zip(layers, [*hidden, estimator.out_activation_], strict=True):
            values = self.layer(values, coef, bias, name, self.kind)
        return values

    def layer(self, values: str, weights: Array, biases: Array, activation: Any, kind: int) -> str:
        """Add a layer, of numbers of this kind; return the name of its outputs."""
        product = self.node("MatMul", [values, self.constant(weights, kind)])
        raw = self.node("Add", [product, self.constant(biases[None], kind)])
        name = name_of(activation)
        if name == SILU:
            return self.node("Mul", [raw, self.node("Sigmoid", [raw])])
        node, options = _node_of(name)
        return self.node(node, [raw], **options)

    def label(self, probabilities: str, output: str) -> None:
        """Add the classes of the largest probabilities."""
        place = self.node("ArgMax", [probabilities], axis=1, keepdims=0)
        classes, kind = self.estimator.classes_, self.kinds.INT64
        if are_words(classes):
            classes = np.array([str(c).encode() for c in classes], object)
            kind = self.kinds.STRING
        else:
            classes = classes.astype(np.int64)
        self.node("Gather", [self.constant(classes, kind), place], output, axis=0)


def _names(activation: Any, n_hidden: int) -> list[Any]:
    is_single = isinstance(activation, str) or callable(activation)
    return [activation] * n_hidden if is_single else list(activation)


def are_words(classes: Array) -> bool:
    """Return True for labels that are texts in a graph."""
    return classes.dtype.kind in "USO"


def _node_of(name: str) -> tuple[str, dict[str, Any]]:
    name = activations.ALIASES.get(name, name)
    if name not in NODES:
        raise NotImplementedError(
            f"to_onnx: the activation {name!r} has no ONNX node here; known: "
            f"{', '.join(sorted([*NODES, SILU]))}"
        )
    return NODES[name]


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Add a regressor: one output, shape (n_rows, n_outputs)."""
    graph = Graph(scope, operator, container)
    values = graph.outputs(operator.inputs[0].full_name)
    graph.node("Identity", [values], operator.outputs[0].full_name)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add a classifier: labels and probabilities, as for scikit-learn's own."""
    graph = Graph(scope, operator, container)
    estimator, (label, probability) = graph.estimator, operator.outputs
    values = graph.outputs(operator.inputs[0].full_name)
    if estimator._label_binarizer.y_type_ == "multilabel-indicator":
        graph.node("Identity", [values], probability.full_name)
        half = graph.constant(np.array([0.5]), graph.kind)
        right = graph.node("Greater", [values, half])
        graph.node("Cast", [right], label.full_name, to=graph.kinds.INT64)
        return
    if estimator.n_outputs_ == 1:
        ones = graph.constant(np.array([1.0]), graph.kind)
        values = graph.node("Concat", [graph.node("Sub", [ones, values]), values], axis=1)
    graph.node("Identity", [values], probability.full_name)
    graph.label(values, label.full_name)


def shape_of_regressor(operator: Any) -> None:
    """Set the type of a regressor's output."""
    kind = number_type(operator)
    operator.outputs[0].type = kind([None, operator.raw_operator.n_outputs_])


def shapes_of_classifier(operator: Any) -> None:
    """Set the types of a classifier's labels and probabilities."""
    from skl2onnx.common.data_types import Int64TensorType

    estimator = operator.raw_operator
    set_class_types(operator, max(2, estimator.n_outputs_))
    if estimator._label_binarizer.y_type_ == "multilabel-indicator":
        operator.outputs[0].type = Int64TensorType([None, estimator.n_outputs_])


def set_class_types(operator: Any, n_classes: int) -> None:
    """Set the types of labels, and of as many probabilities as there are classes."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    words = are_words(operator.raw_operator.classes_)
    operator.outputs[0].type = (StringTensorType if words else Int64TensorType)([None])
    operator.outputs[1].type = number_type(operator)([None, n_classes])


def number_type(operator: Any) -> Callable[[list[Any]], Any]:
    """Return the type of predictions: that of inputs which are float64 is float64."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if _is_double(operator) else FloatTensorType


def _is_double(operator: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType

    return any(isinstance(variable.type, DoubleTensorType) for variable in operator.inputs)


# Of a classifier's converter.
OPTIONS = {
    "zipmap": [True, False, "columns"],
    "output_class_labels": [False, True],
    "nocl": [True, False],
}


def register(classifier: type, regressor: type) -> None:
    """Tell skl2onnx how to convert the estimators."""
    from skl2onnx import update_registered_converter

    update_registered_converter(
        classifier,
        "FastmlpMLPClassifier",
        shapes_of_classifier,
        convert_classifier,
        options=OPTIONS,
    )
    update_registered_converter(
        regressor, "FastmlpMLPRegressor", shape_of_regressor, convert_regressor
    )


def when_imported(then: Callable[[], None]) -> None:
    """Call a function now if skl2onnx is imported, else right after its import, of 1 s."""
    if "skl2onnx" in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Waiting(then))


class _Waiting(MetaPathFinder):
    """A finder that calls a function after the import of skl2onnx, and then removes itself."""

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
