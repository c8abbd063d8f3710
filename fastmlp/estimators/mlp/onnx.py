"""Converters of skl2onnx from an estimator to an ONNX graph.

Its converter for scikit-learn's own classes knows four activations, one output of a regressor, and
no exp. The converters here are registered when skl2onnx is imported, before fastmlp or after.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

from fastmlp.export.models import parts_of
from fastmlp.export.onnx_graph import Graph, are_words


def graph_of(scope: Any, operator: Any, container: Any) -> Graph:
    """The graph that skl2onnx gives to a converter."""
    return Graph(scope, container, "float64" if _is_double(operator) else "float32")


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Add a regressor: one output, shape (n_rows, n_outputs)."""
    graph = graph_of(scope, operator, container)
    parts = parts_of(operator.raw_operator, "to_onnx")
    values = graph.predictions(operator.inputs[0].full_name, parts)
    graph.node("Identity", [values], operator.outputs[0].full_name)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add a classifier: labels and probabilities, as for scikit-learn's own."""
    graph, (label, probability) = graph_of(scope, operator, container), operator.outputs
    parts = parts_of(operator.raw_operator, "to_onnx")
    values = graph.predictions(operator.inputs[0].full_name, parts)
    graph.classes(values, parts.classes, label.full_name, probability.full_name)


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
