"""ONNX Runtime: predictions alone."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers import Unsupported
from benchmarks.workloads import Array, Workload

VARIANTS = {"plain": ("run",)}
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def about() -> str:
    return f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}"


def make(workload: Workload, variant: str = "run") -> "OnnxRuntime":
    if workload.dtype != "float32":
        raise Unsupported("float32 alone here")
    return OnnxRuntime(workload)


def model_of(workload: Workload) -> onnx.ModelProto:
    """Gemm nodes with activations between."""
    nodes = []
    constants = []
    layers = workload.start()
    source = "x"
    for i, (w, b) in enumerate(layers):
        constants.append(numpy_helper.from_array(w, f"w{i}"))
        constants.append(numpy_helper.from_array(b, f"b{i}"))
        last = i == len(layers) - 1
        target = "y" if last else f"z{i}"
        nodes.append(helper.make_node("Gemm", [source, f"w{i}", f"b{i}"], [target]))
        if not last:
            kind = ACTIVATIONS[workload.activation]
            nodes.append(helper.make_node(kind, [f"z{i}"], [f"a{i}"]))
            source = f"a{i}"

    def rows_of(name: str, size: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])

    x = rows_of("x", workload.sizes[0])
    y = rows_of("y", workload.sizes[-1])
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


class OnnxRuntime:
    """Sessions of the net at its start, on all threads and, for few rows, on one."""

    def __init__(self, workload: Workload) -> None:
        self.n_outputs = workload.sizes[-1]
        text = model_of(workload).SerializeToString()
        n_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        self.sessions = {n: session(text, n) for n in dict.fromkeys((n_threads, 1))}

    def rows(self, x: Array) -> Array:
        return x

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        ways: dict[str, Callable[[Any], Any]] = {}
        for n, session_ in self.sessions.items():
            where = "" if n == max(self.sessions) else ", one thread"
            ways[f"run{where}"] = _run(session_)
            ways[f"bound buffers{where}"] = _bound(session_, self.n_outputs)
        return ways

    def epochs(self, n: int) -> None:
        raise Unsupported("ONNX Runtime predicts only")


def session(text: bytes, n_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    return onnxruntime.InferenceSession(
        text, options, providers=["CPUExecutionProvider"]
    )


def _run(session: Any) -> Callable[[Array], Array]:
    run = session.run
    return lambda x: run(None, {"x": x})[0]


def _bound(session: Any, n_outputs: int) -> Callable[[Array], Array]:
    """Bind memory of rows and of predictions once:
    a call reads the first and writes the other.
    """
    run = session.run_with_iobinding
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    bound: Any = None
    binding: Any = None
    out = np.empty(0)

    def predict(x: Array) -> Array:
        nonlocal bound, binding, out
        if bound is not x:
            bound = x
            out = np.empty((len(x), n_outputs), x.dtype)
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", value(x))
            binding.bind_ortvalue_output("y", value(out))
        run(binding)
        return out

    return predict
