"""Predictions, losses and gradients in the simulator."""

import numpy as np
import pytest
from loss_cases import CASES, outputs_for
from nets import Net
from runs import gpu

from fastmlp.backends.cpu.engine import Engine as CPU
from fastmlp.backends.cuda import predict as cuda_predict
from fastmlp.backends.protocol import Data
from fastmlp.rules.activations import RULES as ACTIVATIONS

each_loss = pytest.mark.parametrize("loss", CASES)


@each_loss
@pytest.mark.parametrize("raw", [False, True])
def test_predictions(loss: str, raw: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    net = Net(loss=loss, sizes=(3, 4, outputs_for(loss, 3)))
    parameters, data = net.draw(rng, 7)
    expected = np.empty((7, net.sizes[-1]))
    CPU(net.network, 1).predict(parameters, data.x, expected, raw=raw)
    # Three rows at a time.
    monkeypatch.setattr(cuda_predict, "CHUNK_NUMBERS", 120)
    got = gpu(net).predictions(parameters, data.x, None, raw=raw)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictions_with_an_output_activation(activation: str) -> None:
    rng = np.random.default_rng(0)
    net = Net(output_activation=activation)
    parameters, data = net.draw(rng, 3)
    expected = np.empty((3, 2))
    CPU(net.network, 1).predict(parameters, data.x, expected)
    np.testing.assert_allclose(gpu(net).predictions(parameters, data.x, None), expected, rtol=1e-12)


@each_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients(loss: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 4, outputs_for(loss, 3))
    net = Net(loss=loss, sizes=sizes, penalties={"l2": 0.3, "l1": 0.1})
    parameters, data = net.draw(rng, 7, weighted=weighted)
    cpu = CPU(net.network, 1)
    value, slopes = cpu.loss_and_gradient(parameters, data)
    monkeypatch.setattr(cuda_predict, "CHUNK_NUMBERS", 120)
    told, gradient = gpu(net).loss_and_gradient(parameters, Data(*data))
    assert told == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-10, atol=1e-12)
    evaluation = gpu(net).evaluation(Data(*data))
    for factor in (1.0, 0.5):
        expected = cpu.loss(parameters * factor, data)
        assert evaluation(parameters * factor) == pytest.approx(expected, rel=1e-12)


def test_an_infinite_loss_leaves_later_evaluations_as_they_were() -> None:
    """An epoch's validation loss may overflow, or a line search may go too far."""
    rng = np.random.default_rng(0)
    net = Net(output_activation="identity")
    parameters, data = net.draw(rng, 7)
    engine = gpu(net)
    evaluation, objective = engine.evaluation(Data(*data)), engine.objective(Data(*data))
    before = evaluation(parameters), objective(parameters)[0]
    assert np.isinf(evaluation(parameters * 1e200))
    assert np.isinf(objective(parameters * 1e200)[0])
    assert (evaluation(parameters), objective(parameters)[0]) == before
