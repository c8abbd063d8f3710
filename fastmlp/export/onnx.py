"""to_onnx: a model as an ONNX graph."""

import os
from typing import Any

from fastmlp._process.whole_files import writing
from fastmlp.export.models import is_a, parts_of
from fastmlp.export.onnx_graph import DTypeName, Graph, Input, Outline, Output
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.packages import needs

WHO = "fastmlp.to_onnx"
# The oldest version that has every node, and that of LabelEncoder.
OLDEST, OF_LABELS, IR_VERSION = 13, 2, 8


class Builder:
    """The nodes and constants of a graph, in the place of skl2onnx's scope and container."""

    def __init__(self) -> None:
        self._n_names = 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def get_unique_variable_name(self, stem: str) -> str:
        """A name that no other variable has."""
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
        """Add a node; the version is that of the graph."""
        from onnx import helper

        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=op_domain, **options))

    def add_initializer(self, name: str, kind: int, shape: list[int], values: list[Any]) -> None:
        """Add a constant."""
        from onnx import helper

        self.constants.append(helper.make_tensor(name, kind, shape, values))

    def model(self, graph: Graph, outline: Outline, opset: int) -> Any:
        """The graph of these inputs and outputs, checked."""
        from onnx import checker, helper

        inputs = [
            (name, graph.kinds.STRING if holds_texts else graph.kind, (None, n_columns))
            for name, _, n_columns, holds_texts in outline.inputs
        ]
        first, last = (
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values]
            for values in (inputs, outline.outputs)
        )
        versions = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", OF_LABELS)]
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
    dtype: DTypeName = "float32",
    opset: int = 17,
) -> Any:
    """Write a fitted model as an ONNX graph, for onnxruntime and other runtimes.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
        A search stands for its best estimator; `fold` makes one estimator of a pipeline of scalers.
    path : path-like, optional
        The file to write.
    dtype : "float32" or "float64"
        Of the numbers that come in and go out. Nets of a model of tables compute in float32.
    opset : int, default 17
        The version of ONNX' operators, at least 13.

    Returns
    -------
    onnx.ModelProto
        Its input is "X", shape (n_rows, n_features); of a model of tables with names of columns,
        one input for each column, shape (n_rows, 1): numbers, or texts. The outputs are, for a net,
        "Y", shape (n_rows, n_outputs); for a regressor "variable", of that shape; for a classifier
        "label", shape (n_rows,), or of several labels (n_rows, n_labels), and "probabilities",
        shape (n_rows, n_classes); where a column has an output's name, "predicted_label" and so on.

    Raises
    ------
    TypeError, ValueError
        If the model is of another kind or not fitted, or an argument is wrong.
    NotImplementedError
        If a part of it has no nodes, such as an activation of your own that is more than
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
    scalars.known(WHO, "dtype", dtype, ("float32", "float64"))
    scalars.positive_integer(WHO, "opset", opset)
    if path is not None:
        scalars.path(WHO, "path", path, mode="w")
    try:
        from onnx.defs import onnx_opset_version
    except ModuleNotFoundError as error:
        raise ImportError(needs(WHO, "onnx")) from error
    if not OLDEST <= opset <= onnx_opset_version():
        raise ValueError(f"{WHO}: opset must be {OLDEST} to {onnx_opset_version()}, got {opset}")
    builder = Builder()
    graph = Graph(builder, builder, dtype)
    if is_a(model, "TabularMLP", "fastmlp"):
        outline = model._write_onnx(graph)
    else:
        outline = _write(graph, model)
    result = builder.model(graph, outline, opset)
    if path is not None:
        with writing(path) as file:
            file.write(result.SerializeToString())
    return result


def _write(graph: Graph, model: Any) -> Outline:
    parts = parts_of(model, WHO)
    columns = Input("X", "X", parts.n_features, holds_texts=False)
    values = graph.predictions("X", parts)
    if parts.kind == "classifier":
        return graph.classifier(values, [columns], parts.classes, parts.n_outputs)
    name = "Y" if parts.kind == "net" else "variable"
    graph.node("Identity", [values], name)
    return Outline([columns], [Output(name, graph.kind, (None, parts.n_outputs))])
