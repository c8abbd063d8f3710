"""Heads beside norms, residual blocks and skips;
in C, ONNX, attributions, ranks and copies.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from exported import built, failures, needs_gcc, predictions
from ranked import on_ranks

from fastmlp import (
    MLP,
    Residual,
    gradient,
    jacobian,
    jit,
    shap_values,
    to_c,
    to_onnx,
)
from fastmlp.export.c_source import TOLERANCES

RNG = np.random.default_rng(5)
N, N_IN = 40, 5
X = RNG.normal(size=(N, N_IN))
# A head of each link.
LOSS: Any = {
    "action": ("cross_entropy", 3),
    "flag": ("binary_cross_entropy", 1),
    "value": ("mse", 1),
    "spread": ("gaussian_nll", 2),
}
Y: Any = {
    "action": RNG.integers(0, 3, N),
    "flag": (RNG.random(N) < 0.5).astype(float),
    "value": RNG.normal(size=N),
    "spread": RNG.normal(size=N),
}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": ((N_IN, 8, 7), {}),
    "norm": ((N_IN, 8, 6, 7), {"norm": "layer"}),
    "residual": ((N_IN, Residual(8, inner=4), 7), {"norm": "rms"}),
    "wide": ((N_IN, 8, 7), {"skip": "input", "norm": ["layer"]}),
}
each_shape = pytest.mark.parametrize("name", SHAPES)


def make(name: str = "plain", **settings: Any) -> MLP:
    sizes, own = SHAPES[name]
    of_net: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    net = MLP(
        sizes, loss=LOSS, loss_weights={"value": 0.5}, **(of_net | own | settings)
    )
    net.parameters[:] += np.random.default_rng(0).normal(size=net.parameters.size) / 8
    return net


@each_shape
def test_the_gradient_is_the_slope_of_the_objective(name: str) -> None:
    net = make(name)
    _, slopes = net.loss_and_gradient(X, Y)
    for i in range(0, net.parameters.size, 7):
        start = net.parameters[i]
        h = 1e-5
        values = []
        for moved in (start + h, start - h):
            net.parameters[i] = moved
            values.append(net.loss_and_gradient(X, Y)[0])
        net.parameters[i] = start
        np.testing.assert_allclose(
            slopes[i], (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-9
        )


@each_shape
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_change_the_bits(name: str, dtype: Any) -> None:
    nets = [make(name, n_threads=n, dtype=dtype) for n in (1, 2)]
    for net in nets:
        net.fit(X, Y, epochs=3, batch_size=16)
        net.train_on_batch(X[:9], {head: y[:9] for head, y in Y.items()})
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


@each_shape
def test_a_row_has_its_bits_alone(name: str) -> None:
    net = make(name)
    alone = np.concatenate([net.predict(row[None]) for row in X])
    np.testing.assert_array_equal(net.predict(X), alone)


@each_shape
def test_a_runtime_predicts_as_the_net(name: str) -> None:
    net = make(name)
    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString())
    (predicted,) = session.run(None, {"X": X})
    np.testing.assert_allclose(predicted, net.predict(X), rtol=0, atol=1e-10)


@needs_gcc
@pytest.mark.slow
def test_c_files_predict_as_the_net(tmp_path: Path) -> None:
    nets = {name: make(name) for name in SHAPES}
    nets["float32"] = make(dtype="float32")
    texts = {name: to_c(net, prefix=name) for name, net in nets.items()}
    library = built(tmp_path, texts, ["-std=c99", "-O1", "-march=native"])
    for name, net in nets.items():
        x = X.astype(net.dtype)
        tolerance = 10 * TOLERANCES[net.dtype.type]
        got = predictions(library, name, x, 7)
        np.testing.assert_allclose(got, net.predict(x), rtol=tolerance, atol=tolerance)
        assert failures(library, name, net.dtype, tolerance) == 0


@needs_gcc
@pytest.mark.slow
def test_derivatives_of_c_files_have_test_vectors(tmp_path: Path) -> None:
    net = make()
    library = built(tmp_path, {"net": to_c(net, prefix="net", gradient=True)}, ["-O1"])
    assert failures(library, "net", net.dtype, 1e-12) == 0


@each_shape
def test_the_jacobian_is_the_slope_of_predictions(name: str) -> None:
    net = make(name)
    h = 1e-5
    slopes = jacobian(net, X[:4])
    for j in range(N_IN):
        step = h * np.eye(N_IN)[j]
        expected = (net.predict(X[:4] + step) - net.predict(X[:4] - step)) / (2 * h)
        np.testing.assert_allclose(slopes[:, :, j], expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_the_loss_by_the_inputs_is_that_of_all_heads() -> None:
    net = make()
    h = 1e-5
    row = {name: y[:1] for name, y in Y.items()}
    slopes = gradient(net, X[:1], y=row)[0]
    for j in range(N_IN):
        step = h * np.eye(N_IN)[j]
        above = net.loss_and_gradient(X[:1] + step, row)[0]
        below = net.loss_and_gradient(X[:1] - step, row)[0]
        np.testing.assert_allclose(slopes[j], (above - below) / (2 * h), rtol=1e-6)


@each_shape
def test_attributions_add_up(name: str) -> None:
    net = make(name)
    values, base, gap = shap_values(net, X[:2], X[:6], n_steps=100)
    assert abs(gap).max() < 1e-5
    np.testing.assert_allclose(base + values.sum(axis=-1), net.predict(X[:2]))


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_train_one_net(n_ranks: int) -> None:
    alone = make()
    history = alone.fit(X, Y, epochs=3, batch_size=8, validation_data=(X, Y))

    def work(communicator: Any) -> Any:
        net = make()
        rank = communicator.Get_rank()
        cut = slice(N * rank // n_ranks, N * (rank + 1) // n_ranks)
        own = (X[cut], {name: y[cut] for name, y in Y.items()})
        settings: Any = {"epochs": 3, "batch_size": 8, "validation_data": own}
        return net, net.fit(*own, communicator=communicator, **settings)

    results = on_ranks(n_ranks, work)
    bits = {net.parameters.tobytes() for net, _ in results}
    assert len(bits) == 1
    for _, own in results:
        assert own.head_losses == results[0][1].head_losses
        total = sum(
            (0.5 if name == "value" else 1.0) * np.array(each)
            for name, each in own.head_losses.items()
        )
        np.testing.assert_allclose(own.loss, total, rtol=1e-12)
        assert set(own.validation_head_losses) == set(history.validation_head_losses)


def test_frozen_layers_stay() -> None:
    net = make("norm")
    before = net.parameters.copy(), net.weights[0].copy(), net.gains[0].copy()
    net.trainable = [False, True, True]
    net.fit(X, Y, epochs=1)
    np.testing.assert_array_equal(net.weights[0], before[1])
    np.testing.assert_array_equal(net.gains[0], before[2])
    assert not np.array_equal(net.parameters, before[0])


def test_weights_of_a_net_with_one_loss_begin_one_with_heads() -> None:
    source = MLP((N_IN, 8, 3), activation="tanh", dtype="float64", seed=3)
    net = make()
    net.weights[0][:] = source.weights[0]
    net.biases[0][:] = source.biases[0]
    net.trainable = [False, True]
    net.fit(X, Y, epochs=2)
    np.testing.assert_array_equal(net.weights[0], source.weights[0])


def test_the_summary_has_the_losses_of_heads() -> None:
    text = str(make().summary())
    for name, (loss, n) in LOSS.items():
        assert f"'{name}': ('{loss}', {n})" in text
    assert "loss_weights [1.0, 1.0, 0.5, 1.0]" in text


@each_shape
def test_a_file_has_all_of_it(name: str, tmp_path: Path) -> None:
    net = make(name)
    net.save(tmp_path / "net.safetensors")
    loaded = MLP.load(tmp_path / "net.safetensors")
    assert repr(loaded) == repr(net)
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    assert [*loaded.predict_heads(X)] == [*LOSS]


@each_shape
def test_compiled_code_predicts_and_trains_heads(name: str) -> None:
    net = make(name)
    loop = make(name)
    columns = np.column_stack([*Y.values()])
    with jit.learner(net, batch_size=N) as handle:
        for _ in range(2):
            jit.train_on_batch(handle, X, columns)
        out = np.empty(7)
        jit.predict(handle, X[0], out)
    for _ in range(2):
        loop.train_on_batch(X, Y)
    assert net.parameters.tobytes() == loop.parameters.tobytes()
    np.testing.assert_array_equal(out, loop.predict(X[:1])[0])


def test_doors_that_take_one_loss_refuse_heads() -> None:
    net = make()
    with pytest.raises(ValueError, match="derivatives do not train with heads"):
        net.train_on_batch(X, Y, derivatives=np.zeros((N, 7, N_IN)))
    with (
        pytest.raises(ValueError, match="missing_targets='ignore' does not take heads"),
        jit.learner(net, batch_size=8, missing_targets="ignore"),
    ):
        pass
