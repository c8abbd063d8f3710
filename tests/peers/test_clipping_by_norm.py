"""Clipping by norm against PyTorch's clip_grad_norm_, and Keras' formulas written down."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Adam

torch = pytest.importorskip("torch", reason="compares with PyTorch")
SIZES, N_ROWS, BATCH, N_EPOCHS = (5, 12, 9, 3), 24, 8, 10
LIMITS = {"clipnorm": 0.4, "global_clipnorm": 1.3}
# Clips gradients in place; returns the norms.
Clip = Callable[[list[Any], float], list[float]]


def by_pytorch(variables: list[Any], limit: float) -> list[float]:
    """PyTorch's own, whose factor is min(1, max_norm / (total + 1e-6)), without the 1e-6."""
    total = float(torch.nn.utils.clip_grad_norm_(variables, np.inf))
    torch.nn.utils.clip_grad_norm_(variables, limit * (total + 1e-6) / total)
    return [total]


def by_variable_as_keras(variables: list[Any], limit: float) -> list[float]:
    """Of each variable: values * (clipnorm / max(l2norm(values), clipnorm))."""
    norms = [float(torch.sqrt(torch.sum(torch.square(its.grad)))) for its in variables]
    for its, norm in zip(variables, norms, strict=True):
        its.grad = its.grad * (limit / max(norm, limit))
    return norms


def global_as_keras(variables: list[Any], limit: float) -> list[float]:
    """Of all: values * clip_norm * min(1 / global_norm, 1 / clip_norm)."""
    total = float(torch.sqrt(sum(torch.sum(torch.square(its.grad)) for its in variables)))
    for its in variables:
        its.grad = its.grad * limit * min(1 / total, 1 / limit)
    return [total]


def train_peer(pairs: list[Any], clip: Clip, limit: float, data: Any) -> list[float]:
    """Train PyTorch's tensors in place; return the norms before they are clipped."""
    (x, y), variables = data, [its for pair in pairs for its in pair if its.requires_grad]
    adam, norms = torch.optim.Adam(variables, 0.01), list[float]()
    for first in N_EPOCHS * [*range(0, N_ROWS, BATCH)]:
        adam.zero_grad()
        a = torch.tensor(x[first : first + BATCH])
        for i, (w, b) in enumerate(pairs):
            a = a @ w + b
            a = torch.tanh(a) if i < len(pairs) - 1 else a
        torch.nn.functional.mse_loss(a, torch.tensor(y[first : first + BATCH])).backward()
        norms += clip(variables, limit)
        adam.step()
    return norms


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("global_clipnorm", by_pytorch),
        ("global_clipnorm", global_as_keras),
        ("clipnorm", by_variable_as_keras),
    ],
)
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_thirty_steps_of_adam_are_pytorchs(
    frozen: bool, name: str, clip: Clip, rng: np.random.Generator
) -> None:
    x, y = rng.normal(size=(N_ROWS, SIZES[0])), rng.normal(size=(N_ROWS, SIZES[-1]))
    limit = LIMITS[name]
    setting: dict[str, Any] = {name: limit}
    net = MLP(SIZES, activation="tanh", optimizer=Adam(0.01, **setting), dtype="float64", seed=0)
    free = MLP(SIZES, activation="tanh", optimizer=Adam(0.01), dtype="float64", seed=0)
    for each in (net, free):
        each.trainable[0] = not frozen
        each.fit(x, y, epochs=N_EPOCHS, batch_size=BATCH, shuffle=False)
    start = MLP(SIZES, activation="tanh", dtype="float64", seed=0)
    pairs = [
        [torch.tensor(its.copy(), requires_grad=i > 0 or not frozen) for its in pair]
        for i, pair in enumerate(zip(start.weights, start.biases, strict=True))
    ]
    norms = train_peer(pairs, clip, limit, (x, y))
    assert min(norms) < limit < max(norms)
    ends = [pair[k].detach().numpy().ravel() for k in (0, 1) for pair in pairs]
    np.testing.assert_allclose(net.parameters, np.concatenate(ends), rtol=1e-10, atol=1e-12)
    assert np.abs(net.parameters - free.parameters).max() > 1e-3
