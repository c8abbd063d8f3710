"""Converters of skl2onnx from an estimator to an ONNX graph.

Its converter for scikit-learn's own classes knows four activations, one output of a regressor, and
no exp. The converters here are registered when skl2onnx is imported, before fastmlp or after.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastmlp.network.summary import name_of
from fastmlp.rules import activations

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


class Graph:
    """Adds an estimator's layers to a graph, node by node.

    Parameters
    ----------
    scope, operator, container : as skl2onnx gives them to a converter
    """

    estimator: Any
    double: bool
    kind: int
    integer: int
    string: int

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        from skl2onnx.common.data_types import guess_proto_type
        from skl2onnx.proto import onnx_proto

        self._scope, self._container = scope, container
        self.estimator = operator.raw_operator
        kinds = onnx_proto.TensorProto
        self.double = guess_proto_type(operator.inputs[0].type) == kinds.DOUBLE
        self.kind = kinds.DOUBLE if self.double else kinds.FLOAT
        self.integer, self.string = kinds.INT64, kinds.STRING

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
            product = self.node("MatMul", [values, self.constant(coef, self.kind)])
            raw = self.node("Add", [product, self.constant(bias[None], self.kind)])
            kind, options = _node_of(name)
            values = self.node(kind, [raw], **options)
        return values


def _names(activation: Any, n_hidden: int) -> list[Any]:
    one = isinstance(activation, str) or callable(activation)
    return [activation] * n_hidden if one else list(activation)


def _node_of(activation: Any) -> tuple[str, dict[str, Any]]:
    name = name_of(activation)
    name = activations.ALIASES.get(name, name)
    if name not in NODES:
        raise NotImplementedError(
            f"to_onnx: the activation {name!r} has no ONNX node here; known: "
            f"{', '.join(sorted(NODES))}"
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
        graph.node("Cast", [right], label.full_name, to=graph.integer)
        return
    if estimator.n_outputs_ == 1:
        one = graph.constant(np.array([1.0]), graph.kind)
        values = graph.node("Concat", [graph.node("Sub", [one, values]), values], axis=1)
    graph.node("Identity", [values], probability.full_name)
    place = graph.node("ArgMax", [values], axis=1, keepdims=0)
    classes, kind = estimator.classes_, graph.integer
    if classes.dtype.kind in "USO":
        classes, kind = np.array([str(c).encode() for c in classes], object), graph.string
    else:
        classes = classes.astype(np.int64)
    graph.node("Gather", [graph.constant(classes, kind), place], label.full_name, axis=0)


def shape_of_regressor(operator: Any) -> None:
    """Set the type of a regressor's output."""
    kind = _number_type(operator)
    operator.outputs[0].type = kind([None, operator.raw_operator.n_outputs_])


def shapes_of_classifier(operator: Any) -> None:
    """Set the types of a classifier's labels and probabilities."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    estimator = operator.raw_operator
    several = estimator._label_binarizer.y_type_ == "multilabel-indicator"
    words = estimator.classes_.dtype.kind in "USO"
    label = StringTensorType if words and not several else Int64TensorType
    n_classes = max(2, estimator.n_outputs_)
    operator.outputs[0].type = label([None, estimator.n_outputs_] if several else [None])
    operator.outputs[1].type = _number_type(operator)([None, n_classes])


def _number_type(operator: Any) -> Callable[[list[Any]], Any]:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    double = isinstance(operator.inputs[0].type, DoubleTensorType)
    return DoubleTensorType if double else FloatTensorType


def register(classifier: type, regressor: type) -> None:
    """Tell skl2onnx how to convert the estimators."""
    from skl2onnx import update_registered_converter

    options = {
        "zipmap": [True, False, "columns"],
        "output_class_labels": [False, True],
        "nocl": [True, False],
    }
    update_registered_converter(
        classifier,
        "FastmlpMLPClassifier",
        shapes_of_classifier,
        convert_classifier,
        options=options,
    )
    update_registered_converter(
        regressor, "FastmlpMLPRegressor", shape_of_regressor, convert_regressor
    )


def register_when_imported(classifier: type, regressor: type) -> None:
    """Register now if skl2onnx is imported, else right after its import, which takes 1 s."""
    if "skl2onnx" in sys.modules:
        register(classifier, regressor)
    else:
        sys.meta_path.insert(0, _Waiting(lambda: register(classifier, regressor)))


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
