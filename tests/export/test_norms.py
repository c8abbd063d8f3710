"""Norms, residual blocks and skips in ONNX and C, folded, and in attributions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from exported import built, failures, needs_gcc, predictions, sanitized
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLP, Residual, fold, shap_values, to_c, to_onnx
from fastmlp.export.c_source import TOLERANCES

SIZES = (5, 9, Residual(9, inner=4), 3)


def by_runtime(graph: Any, x: Any) -> Any:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (predicted,) = session.run(None, {"X": x})
    return predicted


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_a_runtime_predicts_as_the_net(norm: Any, opset: int) -> None:
    rng = np.random.default_rng(0)
    net = MLP(SIZES, norm=norm, dtype="float64", seed=0)
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    x = rng.normal(size=(20, 5))
    predicted = by_runtime(to_onnx(net, opset=opset), x)
    # LayerNormalization has its epsilon as a float32.
    np.testing.assert_allclose(predicted, net.predict(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("opset", "there"), [(16, False), (17, True)])
def test_a_layer_norm_is_one_node_from_opset_17_on(opset: int, there: bool) -> None:
    nodes = to_onnx(MLP(SIZES, norm="layer"), opset=opset).graph.node
    assert ("LayerNormalization" in [node.op_type for node in nodes]) is there


NETS: dict[str, Any] = {
    "layer": {"norm": "layer"},
    "rms": {"norm": "rms", "activation": "tanh"},
    "wide": {"skip": "input", "activation": "silu"},
    "all": {"norm": ["layer", "rms"], "skip": "input", "dtype": "float64"},
}


def exported_net(name: str, **settings: Any) -> MLP:
    net = MLP(SIZES, **{"seed": 0, **NETS[name], **settings})
    rng = np.random.default_rng(0)
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    return net


@pytest.mark.parametrize("name", NETS)
def test_a_runtime_takes_skips(name: str) -> None:
    net = exported_net(name)
    x = np.random.default_rng(1).normal(size=(20, 5)).astype(net.dtype)
    predicted = by_runtime(to_onnx(net), x)
    np.testing.assert_allclose(predicted, net.predict(x), rtol=1e-5, atol=1e-5)


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-std=c99 -O1", "-x c++ -std=c++17 -O3"])
def test_c_files_predict_as_the_net(flags: str, tmp_path: Path) -> None:
    nets = {name: exported_net(name) for name in NETS}
    texts = {name: to_c(net, prefix=name) for name, net in nets.items()}
    library = built(tmp_path, texts, [*flags.split(), "-march=native"])
    for name, net in nets.items():
        x = np.random.default_rng(1).normal(size=(137, 5)).astype(net.dtype)
        expected = net.predict(x)
        got = predictions(library, name, x, 3)
        tolerance = 10 * TOLERANCES[net.dtype.type]
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
        assert failures(library, name, net.dtype, tolerance) == 0
    x = np.random.default_rng(1).normal(size=(137, 5)).astype(np.float32)
    # Without norms the sums are in the order of the net's.
    assert np.array_equal(predictions(library, "wide", x, 3), nets["wide"].predict(x))


@needs_gcc
def test_sanitizers_find_nothing_in_a_c_file(tmp_path: Path) -> None:
    lines = sanitized(tmp_path, {"net": to_c(exported_net("all"), prefix="net")})
    assert lines == ["0 failures of 30"] * 2


def test_scaling_is_folded_into_all_that_read_the_inputs() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (30, 5))
    net = exported_net("all").as_estimator(epochs=1, random_state=0)
    model = make_pipeline(StandardScaler(), net).fit(X, X[:, :3])
    np.testing.assert_allclose(fold(model).predict(X), model.predict(X), atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_attributions_add_up(name: str) -> None:
    net = exported_net(name, activation="tanh", dtype="float64")
    x = np.random.default_rng(1).normal(size=(6, 5))
    values, base, gap = shap_values(net, x[:2], x, n_steps=100)
    assert abs(gap).max() < 1e-5
    np.testing.assert_allclose(base + values.sum(axis=-1), net.predict(x[:2]))
