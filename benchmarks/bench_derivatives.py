"""Training on values and derivatives by the inputs:
a step, in `fit` or in a library's loop.

"plain" is fastmlp's step on values alone. PyTorch takes a second backward pass through
the first; JAX takes a call a step, or one scan over an epoch, whichever is faster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.race import Ways, repeated
from benchmarks.workloads import forward

N_BATCHES = 16
RATE = 0.001


class Net(NamedTuple):
    sizes: tuple[int, ...]
    activation: Any
    batch: int


NETS = {
    "7-20x4-1@256": Net((7, 20, 20, 20, 20, 1), "softplus", 256),
    "7-20x4-1@1024": Net((7, 20, 20, 20, 20, 1), "softplus", 1024),
    "30-32-32-1@64": Net((30, 32, 32, 1), "tanh", 64),
    "2-64-64-64-1@512": Net((2, 64, 64, 64, 1), "tanh", 512),
    "10-128-128-1@256": Net((10, 128, 128, 1), "silu", 256),
}


class Work(Ways):
    """Steps of Adam on all batches of an epoch, in the order of the rows."""

    def __init__(
        self, worker: Any, quick: bool, net: str, form: str | None = None
    ) -> None:
        from fastmlp import MLP, Adam

        sizes, activation, batch = NETS[net]
        if quick:
            batch = 8
        rng = np.random.default_rng(0)
        n = N_BATCHES * batch
        x, slopes = rng.normal(size=(2, n, sizes[0])).astype(np.float32)
        y = rng.normal(size=(n, 1)).astype(np.float32)
        model = MLP(sizes, activation=activation, optimizer=Adam(RATE), seed=0)
        ways: dict[str, Callable[[int], Any]]
        if worker.name == "fastmlp":
            options: dict[str, Any] = {"batch_size": batch, "shuffle": False}
            if form != "plain":
                options |= {"derivatives": slopes, "derivative_weight": 1.0}
            ways = {"fit": lambda n: model.fit(x, y, epochs=n, **options)}
        else:
            make = {"torch": of_torch, "jax": of_jax}[worker.name]
            ways = make(model, activation, (x, y, slopes), batch)
        super().__init__(worker, quick, ways, units=N_BATCHES)


def layers_of(model: Any, array: Callable[[Any], Any]) -> list[Any]:
    pairs = zip(model.weights, model.biases, strict=True)
    return [(array(w.copy()), array(b.copy())) for w, b in pairs]


def of_torch(
    model: Any, activation: str, data: Any, batch: int
) -> dict[str, Callable[[int], Any]]:
    import torch

    functional: Any = torch.nn.functional
    function = getattr(functional, activation, None) or getattr(torch, activation)
    layers = layers_of(model, lambda a: torch.tensor(a, requires_grad=True))
    numbers = [number for pair in layers for number in pair]
    optimizer = torch.optim.Adam(numbers, RATE)
    batches = []
    for i in range(0, len(data[0]), batch):
        batches.append([torch.tensor(array[i : i + batch]) for array in data])

    def epoch() -> None:
        for x, y, slopes in batches:
            x.requires_grad_(True)
            predicted = forward(layers, x, activation=function)
            (by_x,) = torch.autograd.grad(predicted.sum(), x, create_graph=True)
            value_loss = (predicted - y).pow(2).mean()
            slope_loss = (by_x - slopes).pow(2).mean()
            loss = value_loss + slope_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return {"create_graph": repeated(epoch)}


def of_jax(
    model: Any, activation: str, data: Any, batch: int
) -> dict[str, Callable[[int], Any]]:
    import jax
    import jax.numpy as jnp

    from benchmarks.peers.jax_adam import begin, scan_of, step_of

    if activation == "tanh":
        function = jnp.tanh
    else:
        function = getattr(jax.nn, activation)
    stacked = tuple(jnp.array(a).reshape(N_BATCHES, batch, -1) for a in data)

    def value(layers: Any, row: Any) -> Any:
        return forward(layers, row[None], activation=function)[0, 0]

    def objective(layers: Any, x: Any, y: Any, slopes: Any) -> Any:
        both = jax.vmap(jax.value_and_grad(value, argnums=1), (None, 0))
        predicted, by_x = both(layers, x)
        value_loss = jnp.mean((predicted - y[:, 0]) ** 2)
        slope_loss = jnp.mean((by_x - slopes) ** 2)
        return value_loss + slope_loss

    step = step_of(objective, RATE)
    one_step = jax.jit(step)
    scan = scan_of(step, stacked)
    state = begin(layers_of(model, jnp.array))
    batches = [tuple(array[i] for array in stacked) for i in range(N_BATCHES)]

    def by_call() -> None:
        now = state
        for rows in batches:
            now, _ = one_step(now, rows)
        jax.block_until_ready(now)

    def by_scan() -> None:
        jax.block_until_ready(scan(state))

    return {"a call a step": repeated(by_call), "a scan": repeated(by_scan)}


@pytest.mark.libraries("fastmlp", "fastmlp-plain", "torch", "jax")
@pytest.mark.parametrize("net", NETS)
def test_train_on_derivatives(race: Race, net: str) -> None:
    race(Work, rows=NETS[net].batch, net=net)
