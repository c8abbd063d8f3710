"""A net with two heads, a class and a number in one trunk: a step, in `fit` or in a
library's loop.
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
# Policies have six actions, and a value that weighs half.
N_CLASSES = 6
SHARE = 0.5


class Net(NamedTuple):
    sizes: tuple[int, ...]
    batch: int


NETS = {
    "17-64-64-7@64": Net((17, 64, 64, 7), 64),
    "17-256-256-7@256": Net((17, 256, 256, 7), 256),
}


class Run(NamedTuple):
    """Epochs, in the order of the rows, and the weights of all layers after them."""

    epochs: Callable[[int], Any]
    weights: Callable[[], list[Any]]


class Rows(NamedTuple):
    x: Any
    labels: Any
    values: Any
    batch: int


def drawn(sizes: tuple[int, ...], batch: int) -> Rows:
    rng = np.random.default_rng(0)
    n = N_BATCHES * batch
    x = rng.normal(size=(n, sizes[0])).astype(np.float32)
    labels = rng.integers(0, N_CLASSES, n)
    values = rng.normal(size=n).astype(np.float32)
    return Rows(x, labels, values, batch)


def start(sizes: tuple[int, ...]) -> list[Any]:
    """Weights of each layer, shape (n_in, n_out); biases are 0."""
    rng = np.random.default_rng(0)
    layers = []
    for n_in, n_out in pairwise(sizes):
        weights = rng.normal(0, n_in**-0.5, (n_in, n_out))
        layers.append(weights.astype(np.float32))
    return layers


def of_fastmlp(sizes: tuple[int, ...], rows: Rows) -> Run:
    from fastmlp import MLP, Adam

    model = MLP(
        sizes,
        loss=[("cross_entropy", N_CLASSES), ("mse", 1)],
        loss_weights=[1.0, SHARE],
        optimizer=Adam(RATE),
    )
    model.parameters[:] = 0
    for weights, w in zip(model.weights, start(sizes), strict=True):
        weights[:] = w
    y = (rows.labels, rows.values)
    options: dict[str, Any] = {"batch_size": rows.batch, "shuffle": False}
    return Run(
        lambda n: model.fit(rows.x, y, epochs=n, **options),
        lambda: [*model.weights],
    )


def of_torch(sizes: tuple[int, ...], rows: Rows) -> Run:
    import torch
    from torch import nn

    layers: list[Any] = []
    for w in start(sizes):
        linear = nn.Linear(*w.shape)
        linear.weight.data = torch.tensor(w.T.copy())
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    parts = [torch.tensor(array).split(rows.batch) for array in rows[:3]]
    batches = list(zip(*parts, strict=True))

    def epoch() -> None:
        for x, labels, values in batches:
            z = model(x)
            class_loss = nn.functional.cross_entropy(z[:, :N_CLASSES], labels)
            value_loss = nn.functional.mse_loss(z[:, N_CLASSES], values)
            loss = class_loss + SHARE * value_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Run(
        repeated(epoch),
        lambda: [layer.weight.detach().numpy().T for layer in layers[::2]],
    )


def of_jax(sizes: tuple[int, ...], rows: Rows) -> Run:
    import jax
    import jax.numpy as jnp

    from benchmarks.peers.jax_adam import begin, scan_of, step_of

    parameters = [(jnp.array(w), jnp.zeros(w.shape[1])) for w in start(sizes)]

    def objective(parameters: Any, x: Any, labels: Any, values: Any) -> Any:
        h = x
        for w, b in parameters[:-1]:
            h = jnp.maximum(h @ w + b, 0)
        w, b = parameters[-1]
        z = h @ w + b
        scores = jax.nn.log_softmax(z[:, :N_CLASSES])
        class_loss = -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()
        value_loss = jnp.mean((z[:, N_CLASSES] - values) ** 2)
        return class_loss + SHARE * value_loss

    stacked = tuple(
        jnp.array(array).reshape(N_BATCHES, rows.batch, *array.shape[1:])
        for array in rows[:3]
    )
    state = begin(parameters)
    scan = scan_of(step_of(objective, RATE), stacked)

    def epochs(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state = jax.block_until_ready(scan(state))

    def weights() -> list[Any]:
        layers, *_ = state
        return [np.array(w) for w, _ in layers]

    return Run(epochs, weights)


RUNS = {"fastmlp": of_fastmlp, "torch": of_torch, "jax": of_jax}


class Work(Ways):
    """Steps of Adam on all batches of an epoch."""

    def __init__(self, worker: Any, quick: bool, net: str) -> None:
        sizes, batch = NETS[net]
        if quick:
            batch = 8
        run = RUNS[worker.name](sizes, drawn(sizes, batch))
        super().__init__(worker, quick, {"steps": run.epochs}, units=N_BATCHES)


@pytest.mark.libraries(*RUNS)
@pytest.mark.parametrize("net", NETS)
def test_train_heads(race: Race, net: str) -> None:
    race(Work, rows=NETS[net].batch, net=net)
