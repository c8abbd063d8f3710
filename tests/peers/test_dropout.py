"""Dropout and noise against PyTorch, with the masks that the key and the step determine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam, Cosine
from fastmlp.rules.dropout import mask, noise

torch = pytest.importorskip("torch", reason="compares with PyTorch")
SIZES, N_ROWS, BATCH, N_EPOCHS = (7, 24, 13, 2), 40, 8, 10
N_STEPS = N_EPOCHS * N_ROWS // BATCH
OPTIMIZERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "sgd": (SGD(0.05, momentum=0.9), lambda its: torch.optim.SGD(its, 0.05, momentum=0.9)),
    "adam": (Adam(0.01), lambda its: torch.optim.Adam(its, 0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_fifty_steps_are_those_of_pytorch(
    name: str, activation: str, rng: np.random.Generator
) -> None:
    ours, theirs = OPTIMIZERS[name]
    X, y = rng.normal(size=(N_ROWS, SIZES[0])), rng.normal(size=(N_ROWS, SIZES[-1]))
    net = MLP(
        SIZES,
        activation=activation,  # type: ignore[arg-type]
        dropout=[0.2, Cosine(0.5)],
        input_dropout=0.1,
        input_noise=0.3,
        optimizer=ours,
        dtype="float64",
        seed=1,
    )
    pairs = [
        [torch.tensor(array.copy(), requires_grad=True) for array in pair]
        for pair in zip(net.weights, net.biases, strict=True)
    ]
    optimizer, key = theirs([its for pair in pairs for its in pair]), net._state.key
    assert key is not None
    cosine = Cosine(0.5)(np.arange(N_STEPS), N_STEPS)
    for step in range(N_STEPS):
        first = step * BATCH % N_ROWS
        x = X[first : first + BATCH]
        x = (x + noise(key, step, x.shape, 0.3)) * mask(key, step, -1, x.shape, 0.1)
        a = torch.tensor(x)
        for i, (w, b) in enumerate(pairs):
            a = a @ w + b
            if i < len(pairs) - 1:
                drops = mask(key, step, i, tuple(a.shape), (0.2, cosine[step])[i])
                a = getattr(torch, activation)(a) * torch.tensor(drops)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(a, torch.tensor(y[first : first + BATCH])).backward()
        optimizer.step()
    net.fit(X, y, epochs=N_EPOCHS, batch_size=BATCH, shuffle=False)
    assert net.n_steps == N_STEPS == 50
    for pair, its in zip(pairs, zip(net.weights, net.biases, strict=True), strict=True):
        for tensor, array in zip(pair, its, strict=True):
            np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=0, atol=1e-10)
