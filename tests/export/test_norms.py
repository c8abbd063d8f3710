"""Norms and residual blocks in ONNX."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from fastmlp import MLP, Residual, to_onnx

SIZES = (5, 9, Residual(9, inner=4), 3)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_a_runtime_predicts_as_the_net(norm: Any, opset: int) -> None:
    rng = np.random.default_rng(0)
    net = MLP(SIZES, norm=norm, dtype="float64", seed=0)
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    x = rng.normal(size=(20, 5))
    session = onnxruntime.InferenceSession(
        to_onnx(net, opset=opset).SerializeToString()
    )
    (predicted,) = session.run(None, {"X": x})
    # LayerNormalization has its epsilon as a float32.
    np.testing.assert_allclose(predicted, net.predict(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("opset", "there"), [(16, False), (17, True)])
def test_a_layer_norm_is_one_node_from_opset_17_on(opset: int, there: bool) -> None:
    nodes = to_onnx(MLP(SIZES, norm="layer"), opset=opset).graph.node
    assert ("LayerNormalization" in [node.op_type for node in nodes]) is there
