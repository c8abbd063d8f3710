"""Fifty steps on values and derivatives against PyTorch's double backward, in
float64.
"""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam
from fastmlp.validation import Array

torch: Any = pytest.importorskip("torch", reason="compares with PyTorch")
F = torch.nn.functional
ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
}
N_ROWS = 24
N_FEATURES = 4
N_STEPS = 50
L2 = 0.1
OPTIMIZERS: dict[str, Any] = {
    "sgd": (SGD(0.02), lambda p: torch.optim.SGD(p, 0.02)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
}


class Rows:
    """Rows with weights and derivatives, of which a third is unknown."""

    def __init__(self, n_outputs: int) -> None:
        rng = np.random.default_rng(n_outputs)
        self.x = rng.normal(size=(N_ROWS, N_FEATURES))
        self.y = rng.normal(size=(N_ROWS, n_outputs))
        self.weight = rng.uniform(0.2, 2, N_ROWS)
        self.derivatives = rng.normal(size=(N_ROWS, n_outputs, N_FEATURES))
        self.derivatives[rng.uniform(size=self.derivatives.shape) < 0.3] = np.nan
        self.derivatives[0] = np.nan


def theirs(net: MLP, rows: Rows, activation: str, optimizer: Any) -> Array:
    """The parameters after fifty steps of PyTorch's loop."""
    arrays = [*net.weights, *net.biases]
    parameters = [torch.tensor(a.copy(), requires_grad=True) for a in arrays]
    n = len(net.weights)
    x = torch.tensor(rows.x, requires_grad=True)
    y = torch.tensor(rows.y)
    weight = torch.tensor(rows.weight)
    targets = torch.tensor(rows.derivatives)
    known = ~torch.isnan(targets)
    step = optimizer(parameters)
    for _ in range(N_STEPS):
        step.zero_grad()
        a = x
        for i in range(n):
            a = a @ parameters[i] + parameters[n + i]
            a = ACTIVATIONS[activation](a) if i < n - 1 else a
        slopes = torch.stack(
            [
                torch.autograd.grad(a[:, k].sum(), x, create_graph=True)[0]
                for k in range(a.shape[1])
            ],
            dim=1,
        )
        errors = torch.where(known, slopes - torch.nan_to_num(targets), 0)
        of_rows = weight[:, None, None]
        loss = (weight * ((a - y) ** 2).mean(dim=1)).sum() / weight.sum()
        loss = loss + 0.5 * (of_rows * errors**2).sum() / (of_rows * known).sum()
        decay = sum((w**2).sum() for w in parameters[:n]) / 2
        (loss + L2 * decay / weight.sum()).backward()
        step.step()
    return np.concatenate([p.detach().numpy().ravel() for p in parameters])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fifty_steps_are_those_of_double_backward(
    activation: str, n_outputs: int, name: str
) -> None:
    rows = Rows(n_outputs)
    (own, peer) = OPTIMIZERS[name]
    sizes = (N_FEATURES, 9, 7, n_outputs)
    settings: dict[str, Any] = {"activation": activation, "optimizer": own, "l2": L2}
    net = MLP(sizes, dtype="float64", seed=0, **settings)
    expected = theirs(net, rows, activation, peer)
    options: dict[str, Any] = {
        "derivatives": rows.derivatives,
        "derivative_weight": 0.5,
    }
    options |= {"sample_weight": rows.weight, "epochs": N_STEPS, "batch_size": N_ROWS}
    net.fit(rows.x, rows.y, **options)
    np.testing.assert_allclose(
        net.parameters, expected, rtol=0, atol=1e-12 * np.abs(expected).max()
    )
