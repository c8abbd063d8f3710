"""Parameter groups against PyTorch's: rates per layer, frozen layers, biases that do not decay."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, AdamW

torch = pytest.importorskip("torch", reason="compares with PyTorch")
SIZES, N_ROWS, N_STEPS = (5, 12, 9, 3), 24, 50


def peer_of(net: MLP) -> list[Any]:
    """The layers' weights and biases as PyTorch's tensors; a frozen layer's need no gradient."""
    pairs = zip(net.weights, net.biases, net.trainable, strict=True)
    return [
        [torch.tensor(each.copy(), requires_grad=trains) for each in (w, b)]
        for w, b, trains in pairs
    ]


def groups_of(layers: Any, rates: Any, rate: float, decay: float, bias_decay: float) -> Any:
    """PyTorch's groups: one of each tensor, with its learning rate and weight decay."""
    return [
        {"params": [tensor], "lr": rate * factor, "weight_decay": its_decay}
        for tensors, factors in zip(layers, rates, strict=True)
        for tensor, factor, its_decay in zip(tensors, factors, (decay, bias_decay), strict=True)
        if tensor.requires_grad
    ]


def train_peer(layers: Any, optimizer: Any, x: Any, y: Any) -> None:
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        a = torch.tensor(x)
        for i, (w, b) in enumerate(layers):
            a = a @ w + b
            a = torch.tanh(a) if i < len(layers) - 1 else a
        torch.nn.functional.mse_loss(a, torch.tensor(y)).backward()
        optimizer.step()


RATES = ((0.1, 0.1), (1.0, 0.5), (2.0, 1.0))
GIVEN: Any = [{"weights": w, "biases": b} for w, b in RATES]


@pytest.mark.parametrize("frozen", [[], [0], [0, 2], [1]], ids=str)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "AdamW without decay of biases"])
def test_fifty_steps_are_pytorchs(name: str, frozen: list[int], rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(N_ROWS, SIZES[0])), rng.normal(size=(N_ROWS, SIZES[-1]))
    whole = name == "AdamW"
    ours: Any = AdamW(0.01, weight_decay=0.1, decay_biases=whole)
    if name == "SGD":
        ours = SGD(0.05, momentum=0.9)
    net = MLP(SIZES, activation="tanh", optimizer=ours, layer_rates=GIVEN, dtype="float64", seed=0)
    net.biases[:] = [rng.normal(size=each.shape) for each in net.biases]
    for i in frozen:
        net.trainable[i] = False
    layers, before = peer_of(net), [each.copy() for each in (*net.weights, *net.biases)]
    if name == "SGD":
        peer = torch.optim.SGD(groups_of(layers, RATES, 0.05, 0, 0), momentum=0.9)
    else:
        groups = groups_of(layers, RATES, 0.01, 0.1, 0.1 if whole else 0.0)
        peer = torch.optim.AdamW(groups)
    train_peer(layers, peer, x, y)
    net.fit(x, y, epochs=N_STEPS, batch_size=N_ROWS)
    for i, pair in enumerate(zip(net.weights, net.biases, strict=True)):
        for mine, tensor, first in zip(pair, layers[i], before[i :: len(layers)], strict=True):
            np.testing.assert_allclose(mine, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)
            assert np.array_equal(mine, first) is (i in frozen)
