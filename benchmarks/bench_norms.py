"""Nets with layer normalisation, and of residual blocks:
a step, in `fit` or in a library's loop.

"plain" is the same net of fastmlp's without norms;
the net of residual blocks keeps its skip.
"""

from collections.abc import Callable
from itertools import pairwise
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
        if quick:
            batch = 8
        rng = np.random.default_rng(0)
        n = N_BATCHES * batch
        x = rng.normal(size=(n, sizes[0])).astype(np.float32)
        y = rng.normal(size=(n, 1)).astype(np.float32)
        ways: dict[str, Callable[[int], Any]]
        if worker.name == "fastmlp":
            norm = "layer" if form is None else None
            ways = of_fastmlp(NETS[net], x, y, batch, norm)
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
        layers.append(nn.Linear(net.sizes[0], width))
        layers.append(Block(width))
        layers.append(nn.LayerNorm(width))
    else:
        for n_in, n_out in pairwise(net.sizes[:-1]):
            layers.append(nn.Linear(n_in, n_out))
            layers.append(nn.LayerNorm(n_out))
            layers.append(nn.ReLU())
    model = nn.Sequential(*layers, nn.Linear(net.sizes[-2], 1))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    rows_by_batch = torch.tensor(x).split(batch)
    targets_by_batch = torch.tensor(y).split(batch)
    batches = list(zip(rows_by_batch, targets_by_batch, strict=True))

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

    from benchmarks.peers.jax_adam import begin, scan_of, step_of

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
        weights, biases = parameters
        return h @ weights + biases

    if net.is_residual:
        width = net.sizes[1]
        layers: Any = [
            linear(net.sizes[0], width),
            (norm(width), linear(width, INNER), linear(INNER, width)),
            norm(width),
        ]

        def hidden(layers: Any, h: Any) -> Any:
            entry, (first, inner, outer), last = layers
            h = affine(entry, h)
            within = affine(inner, normalised(first, h))
            h = h + affine(outer, jnp.maximum(within, 0))
            return normalised(last, h)

    else:
        layers = [
            (linear(n_in, n_out), norm(n_out))
            for n_in, n_out in pairwise(net.sizes[:-1])
        ]

        def hidden(layers: Any, h: Any) -> Any:
            for sums, gains in layers:
                h = normalised(gains, affine(sums, h))
                h = jnp.maximum(h, 0)
            return h

    def objective(parameters: Any, rows: Any, targets: Any) -> Any:
        layers, last = parameters
        predicted = affine(last, hidden(layers, rows))
        return jnp.mean((predicted - targets) ** 2)

    stacked = tuple(jnp.array(a).reshape(N_BATCHES, batch, -1) for a in (x, y))
    state = begin((layers, linear(net.sizes[-2], 1)))
    scan = scan_of(step_of(objective, RATE), stacked)
    return {"a scan": repeated(lambda: jax.block_until_ready(scan(state)))}


@pytest.mark.libraries("fastmlp", "fastmlp-plain", "torch", "jax")
@pytest.mark.parametrize("net", NETS)
def test_train_norms(race: Race, net: str) -> None:
    race(Work, rows=NETS[net].batch, net=net)
