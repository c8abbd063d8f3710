"""Norms and residual blocks against PyTorch in float64, after 50 steps."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Adam, AdamW, Residual

torch: Any = pytest.importorskip("torch", reason="compares with PyTorch")
nn: Any = torch.nn
N_ROWS, N_STEPS, EPSILON = 24, 50, 1e-5


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
        nn.Linear(5, 12), norm(12), nn.ReLU(), nn.Linear(12, 9), norm(9), nn.ReLU(),
        nn.Linear(9, 3),
    )  # fmt: skip


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


def parameters_of(module: Any) -> np.ndarray[Any, Any]:
    """In the order of `MLP.parameters`."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    norms = [
        part for part in module.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)
    ]
    tensors = [
        *(part.weight.T for part in linear),
        *(part.bias for part in linear),
        *(part.weight for part in norms),
        *(part.bias for part in norms if isinstance(part, nn.LayerNorm)),
    ]
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


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
    decay = {} if kind == "Adam" else {"weight_decay": 0.1}
    optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.01, **decay)
    x, y = rng.normal(size=(N_ROWS, 5)), rng.normal(size=(N_ROWS, 3))
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
