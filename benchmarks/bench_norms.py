"""Nets with layer normalisation, and of residual blocks:
a step, in `fit` or in a library's loop.

"plain" is the same net of fastmlp's without norms;
the net of residual blocks keeps its skip.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.race import Ways, repeated

N_BATCHES = 16
RATE = 0.001
EPSILON = 1e-5
# SimBa's net: a residual block of one hidden layer, four times as wide.
INNER = 1024


class Net(NamedTuple):
    sizes: tuple[int, ...]
    batch: int
    is_residual: bool = False


NETS = {
    "23-64-64-1@64": Net((23, 64, 64, 1), 64),
    "23-256-256-1@256": Net((23, 256, 256, 1), 256),
    "simba-23-256-1@256": Net((23, 256, 1), 256, is_residual=True),
}


class Work(Ways):
    """Steps of Adam on all batches of an epoch, in the order of the rows."""

    def __init__(
        self, worker: Any, quick: bool, net: str, form: str | None = None
    ) -> None:
        sizes, batch, _ = NETS[net]
        batch = 8 if quick else batch
        rng = np.random.default_rng(0)
        n = N_BATCHES * batch
        x = rng.normal(size=(n, sizes[0])).astype(np.float32)
        y = rng.normal(size=(n, 1)).astype(np.float32)
        ways: dict[str, Callable[[int], Any]]
        if worker.name == "fastmlp":
            ways = of_fastmlp(NETS[net], x, y, batch, None if form else "layer")
        else:
            make = {"torch": of_torch, "jax": of_jax}[worker.name]
            ways = make(NETS[net], x, y, batch)
        super().__init__(worker, quick, ways, units=N_BATCHES)


def of_fastmlp(
    net: Net, x: Any, y: Any, batch: int, norm: Any
) -> dict[str, Callable[[int], Any]]:
    from fastmlp import MLP, Adam, Residual

    sizes: Any = net.sizes
    if net.is_residual:
        sizes = (sizes[0], Residual(sizes[1], inner=INNER), sizes[2])
    model = MLP(sizes, norm=norm, optimizer=Adam(RATE), seed=0)
    options: dict[str, Any] = {"batch_size": batch, "shuffle": False}
    return {"fit": lambda n: model.fit(x, y, epochs=n, **options)}


def of_torch(net: Net, x: Any, y: Any, batch: int) -> dict[str, Callable[[int], Any]]:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, INNER), nn.ReLU()
            )
            self.outer = nn.Linear(INNER, width)

        def forward(self, h: Any) -> Any:
            return h + self.outer(self.inner(h))

    layers: list[Any] = []
    if net.is_residual:
        width = net.sizes[1]
        layers = [nn.Linear(net.sizes[0], width), Block(width), nn.LayerNorm(width)]
    else:
        for n_in, n_out in zip(net.sizes[:-2], net.sizes[1:-1], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(net.sizes[-2], 1))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    batches = [
        (torch.tensor(x[i : i + batch]), torch.tensor(y[i : i + batch]))
        for i in range(0, len(x), batch)
    ]

    def epoch() -> None:
        for rows, targets in batches:
            loss = (model(rows) - targets).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return {"eager": repeated(epoch)}


def of_jax(net: Net, x: Any, y: Any, batch: int) -> dict[str, Callable[[int], Any]]:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)

    def linear(n_in: int, n_out: int) -> Any:
        w = rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(np.float32)
        return jnp.array(w), jnp.zeros(n_out)

    def norm(width: int) -> Any:
        return jnp.ones(width), jnp.zeros(width)

    def normalised(parameters: Any, z: Any) -> Any:
        gain, shift = parameters
        mean = z.mean(axis=1, keepdims=True)
        variance = ((z - mean) ** 2).mean(axis=1, keepdims=True)
        return gain * (z - mean) / jnp.sqrt(variance + EPSILON) + shift

    def affine(parameters: Any, h: Any) -> Any:
        return h @ parameters[0] + parameters[1]

    if net.is_residual:
        width = net.sizes[1]
        layers: Any = [
            linear(net.sizes[0], width),
            (norm(width), linear(width, INNER), linear(INNER, width)),
            norm(width),
        ]

        def hidden(layers: Any, h: Any) -> Any:
            h = affine(layers[0], h)
            first, inner, outer = layers[1]
            within = jnp.maximum(affine(inner, normalised(first, h)), 0)
            return normalised(layers[2], h + affine(outer, within))

    else:
        layers = [
            (linear(n_in, n_out), norm(n_out))
            for n_in, n_out in zip(net.sizes[:-2], net.sizes[1:-1], strict=True)
        ]

        def hidden(layers: Any, h: Any) -> Any:
            for sums, gains in layers:
                h = jnp.maximum(normalised(gains, affine(sums, h)), 0)
            return h

    parameters = layers, linear(net.sizes[-2], 1)

    def objective(parameters: Any, rows: Any, targets: Any) -> Any:
        layers, last = parameters
        return jnp.mean((affine(last, hidden(layers, rows)) - targets) ** 2)

    def step(state: Any, batch: Any) -> tuple[Any, None]:
        w, m, v, t = state
        g = jax.grad(objective)(w, *batch)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), w, m, v)
        return (w, m, v, t + 1), None

    stacked = tuple(jnp.array(a).reshape(N_BATCHES, batch, -1) for a in (x, y))
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = parameters, zeros, zeros, jnp.float32(1)
    scan = jax.jit(lambda state: jax.lax.scan(step, state, stacked)[0])
    return {"a scan": repeated(lambda: jax.block_until_ready(scan(state)))}


@pytest.mark.libraries("fastmlp", "fastmlp-plain", "torch", "jax")
@pytest.mark.parametrize("net", NETS)
def test_train_norms(race: Race, net: str) -> None:
    race(Work, rows=NETS[net].batch, net=net)
