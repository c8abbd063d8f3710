"""ONNX Runtime: predictions alone."""

import os
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.run import Unsupported
from benchmarks.workloads import Array, Workload

VARIANTS = ("run",)
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def about() -> str:
    return f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}"


def make(workload: Workload, variant: str = "run") -> "OnnxRuntime":
    if workload.dtype != "float32":
        raise Unsupported("float32 alone here")
    return OnnxRuntime(workload)


def model_of(workload: Workload) -> onnx.ModelProto:
    """Gemm nodes with activations between."""
    nodes, constants, layers = [], [], workload.start()
    source = "x"
    for i, (w, b) in enumerate(layers):
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        last = i == len(layers) - 1
        target = "y" if last else f"z{i}"
        nodes.append(helper.make_node("Gemm", [source, f"w{i}", f"b{i}"], [target]))
        if not last:
            nodes.append(helper.make_node(ACTIVATIONS[workload.activation], [f"z{i}"], [f"a{i}"]))
            source = f"a{i}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
        for name, size in (("x", workload.sizes[0]), ("y", workload.sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class OnnxRuntime:
    """A session of the net at its start."""

    def __init__(self, workload: Workload) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        text = model_of(workload).SerializeToString()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(text, options, providers=providers)

    def rows(self, x: Array) -> Array:
        return x

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        run = self.session.run
        return {"run": lambda x: run(None, {"x": x})[0]}

    def epochs(self, n: int) -> None:
        raise Unsupported("ONNX Runtime predicts only")
