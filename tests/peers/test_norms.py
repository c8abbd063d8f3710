"""Norms and residual blocks against PyTorch in float64, after 50 steps."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Adam, AdamW, Residual

torch: Any = pytest.importorskip("torch", reason="compares with PyTorch")
nn: Any = torch.nn
N_ROWS = 24
N_STEPS = 50
EPSILON = 1e-5


class Block(nn.Module):
    def __init__(self, width: int, inner: int, norm: Any) -> None:
        super().__init__()
        self.norm, self.first = norm(width), nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, h: Any) -> Any:
        return h + self.second(torch.relu(self.first(self.norm(h))))


class Wide(nn.Module):
    """Wide and deep: the last layer takes the inputs too."""

    def __init__(self, hidden: Any) -> None:
        super().__init__()
        self.hidden, self.last = hidden, nn.Linear(9 + 5, 3)

    def forward(self, x: Any) -> Any:
        return self.last(torch.cat([self.hidden(x), x], dim=1))


def layer(n: int) -> Any:
    return nn.LayerNorm(n, eps=EPSILON)


def rms(n: int) -> Any:
    return nn.RMSNorm(n, eps=EPSILON)


def blocks_of(norm: Any) -> Any:
    pair = (Block(12, 20, norm), Block(12, 7, norm))
    return nn.Sequential(nn.Linear(5, 12), *pair, norm(12), nn.Linear(12, 3))


def layers_of(norm: Any) -> Any:
    return nn.Sequential(
        nn.Linear(5, 12),
        norm(12),
        nn.ReLU(),
        nn.Linear(12, 9),
        norm(9),
        nn.ReLU(),
        nn.Linear(9, 3),
    )


def hidden_of(norm: Any) -> Any:
    return layers_of(norm)[:-1]


BLOCKS = (5, Residual(12, inner=20), Residual(12, inner=7), 3)
PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "layer": ((5, 12, 9, 3), "layer", lambda: layers_of(layer)),
    "rms": ((5, 12, 9, 3), "rms", lambda: layers_of(rms)),
    "blocks, layer": (BLOCKS, "layer", lambda: blocks_of(layer)),
    "blocks, rms": (BLOCKS, "rms", lambda: blocks_of(rms)),
    "blocks": (BLOCKS, None, lambda: blocks_of(lambda n: nn.Identity())),
    "wide": ((5, 12, 9, 3), None, lambda: Wide(hidden_of(lambda n: nn.Identity()))),
    "wide, layer": ((5, 12, 9, 3), "layer", lambda: Wide(hidden_of(layer))),
}


def tensors_of(module: Any) -> list[Any]:
    """In the order of `MLP.parameters`."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    norms = [
        part for part in module.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)
    ]
    return [
        *(part.weight for part in linear),
        *(part.bias for part in linear),
        *(part.weight for part in norms),
        *(part.bias for part in norms if isinstance(part, nn.LayerNorm)),
    ]


def flat(arrays: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([array.numpy().T.ravel() for array in arrays])


def parameters_of(module: Any) -> np.ndarray[Any, Any]:
    return flat(tensor.detach() for tensor in tensors_of(module))


def gradients_of(module: Any) -> np.ndarray[Any, Any]:
    return flat(tensor.grad for tensor in tensors_of(module))


def write_parameters(module: Any, numbers: np.ndarray[Any, Any]) -> None:
    first = 0
    for tensor in tensors_of(module):
        part = numbers[first : first + tensor.numel()].reshape(tensor.shape[::-1])
        tensor.data = torch.tensor(part.T.copy())
        first += tensor.numel()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_fifty_steps_are_pytorchs(
    name: str, kind: str, rng: np.random.Generator
) -> None:
    sizes, norm, make = PAIRS[name]
    torch.manual_seed(0)
    module = make().double()
    ours: Any = Adam(0.01) if kind == "Adam" else AdamW(0.01, weight_decay=0.1)
    skip: Any = "input" if name.startswith("wide") else None
    net = MLP(sizes, norm=norm, skip=skip, optimizer=ours, dtype="float64")
    net.parameters[:] = parameters_of(module)
    if kind == "Adam":
        decay = {}
    else:
        decay = {"weight_decay": 0.1}
    optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.01, **decay)
    x = rng.normal(size=(N_ROWS, 5))
    y = rng.normal(size=(N_ROWS, 3))
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    net.fit(x, y, epochs=N_STEPS, batch_size=N_ROWS)
    expected = parameters_of(module)
    error = abs(net.parameters - expected).max() / abs(expected).max()
    assert error < 1e-12
    predicted = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(net.predict(x), predicted, atol=1e-11)


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize("case", ["alike", "far", "one unit"])
def test_extremes_are_pytorchs(name: str, case: str, rng: np.random.Generator) -> None:
    """A row whose units are all alike;
    inputs at 1e6 times their spread; a norm of one unit.
    """
    width = 1 if case == "one unit" else 12
    norm = {"layer": layer, "rms": rms}[name]
    module = nn.Sequential(
        nn.Linear(5, width), norm(width), nn.Tanh(), nn.Linear(width, 3)
    ).double()
    kinds: Any = name
    net = MLP((5, width, 3), norm=kinds, activation="tanh", dtype="float64", seed=0)
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    x = rng.normal(size=(N_ROWS, 5))
    y = rng.normal(size=(N_ROWS, 3))
    if case == "alike":
        net.weights[0][:] = 0
        net.biases[0][:] = 2.5
    if case == "far":
        x = x + 1e6
    single = MLP((5, width, 3), norm=kinds, activation="tanh", seed=0)
    single.parameters[:] = net.parameters
    write_parameters(module, net.parameters)
    predicted = module(torch.tensor(x))
    nn.functional.mse_loss(predicted, torch.tensor(y)).backward()
    _, gradient = net.loss_and_gradient(x, y)
    expected = predicted.detach().numpy()
    np.testing.assert_allclose(net.predict(x), expected, atol=1e-8)
    slopes = gradients_of(module)
    scale = 1e-8 * max(1, float(abs(slopes).max()))
    np.testing.assert_allclose(gradient, slopes, rtol=0, atol=scale)
    assert np.isfinite(single.predict(x)).all()
    assert np.isfinite(single.loss_and_gradient(x, y)[1]).all()
    if case != "far":
        np.testing.assert_allclose(single.predict(x), expected, atol=1e-5)
