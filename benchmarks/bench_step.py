"""Steps that a loop of one's own takes from Python,
of one net and of many; and other short calls.

Beside `train_on_batch`, fastmlp's other forms: "inside" is the step in a long `fit`,
"sizes" and "rates" have another number of rows, or another learning rate, in each step,
"fit" and "partial_fit" are calls of one batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.peers import Unsupported, one_step
from benchmarks.race import Ways, repeated
from benchmarks.workloads import CE, Workload

SECONDS = 0.05
NETS = (
    Workload((8, 64, 64, 2), 64, 6_400),
    Workload((2, 4, 1), 4, 8_000, "sigmoid"),
    Workload((4, 16, 3), 32, 32_000, loss=CE),
    Workload((4, 64, 64, 1), 1, 2_000),
    # Longer than a step that holds the GIL, and shorter than one that asks for a team.
    Workload((16, 64, 64, 2), 128, 12_800),
    Workload((784, 128, 10), 128, 12_800, loss=CE),
)
BY_NAME = {load.name: load for load in NETS}
FORMS = {
    "inside": one_step.INSIDE,
    "sizes": one_step.SIZES,
    "rates": one_step.RATES,
    "fit": one_step.FIT,
    "partial_fit": one_step.PARTIAL_FIT,
}
# Nets side by side: how many, their sizes, and the rows of a batch.
GROUPS = {
    "7-nets-of-6-64-64-8@32": (7, (6, 64, 64, 8), 32),
    "100-nets-of-4-16-16-1@16": (100, (4, 16, 16, 1), 16),
}
RATE = 0.001


class Work(Ways):
    """A library's ways of a task; of fastmlp's the one that the form names."""

    def __init__(
        self, worker: Any, quick: bool, task: str, form: str | None = None
    ) -> None:
        ways = one_step.ways(worker.name, BY_NAME.get(task, task), quick)
        if worker.name == "fastmlp" and task in BY_NAME:
            name = one_step.OURS
            if form:
                name = FORMS[form]
            if name not in ways:
                raise Unsupported(f"{task} has no {name}")
            ways = {name: ways[name]}
        first = next(iter(ways.values()))
        runs = {name: way.run for name, way in ways.items()}
        super().__init__(worker, quick, runs, units=first.units)
        error = ways[self.about["way"]].mae
        if error is not None:
            self.about["mean_absolute_error"] = error


class Group(Ways):
    """A step of all nets: `NetGroup.train_on_batch`, a `vmap` of JAX or of PyTorch."""

    def __init__(self, worker: Any, quick: bool, group: str) -> None:
        n_nets, sizes, n = GROUPS[group]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, sizes[0])).astype(np.float32)
        y = rng.normal(size=(n, sizes[-1])).astype(np.float32)
        make = {"fastmlp": net_group, "jax": jax_step, "torch": torch_step}[worker.name]
        step = make(n_nets, sizes, x, y)
        super().__init__(worker, quick, {"vmap": repeated(step)})


def nets_of(n_nets: int, sizes: tuple[int, ...]) -> list[Any]:
    from fastmlp import MLP

    return [MLP(sizes, seed=i, n_threads=1) for i in range(n_nets)]


def net_group(n_nets: int, sizes: tuple[int, ...], x: Any, y: Any) -> Callable[[], Any]:
    from fastmlp import NetGroup

    group = NetGroup(nets_of(n_nets, sizes))
    return partial(group.train_on_batch, x, y)


def jax_step(n_nets: int, sizes: tuple[int, ...], x: Any, y: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks.workloads import forward

    def loss(layers: Any, x: Any, y: Any) -> Any:
        return jnp.mean((forward(layers, x, jax.nn.relu) - y) ** 2)

    adam = optax.adam(RATE)

    def step(p: Any, state: Any, x: Any, y: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, y)
        change, state = adam.update(g, state, p)
        return optax.apply_updates(p, change), state, value

    compiled = jax.jit(jax.vmap(step, (0, 0, None, None)), donate_argnums=(0, 1))
    nets = nets_of(n_nets, sizes)
    p = []
    for k in range(len(sizes) - 1):
        weights = jnp.stack([net.weights[k] for net in nets])
        biases = jnp.stack([net.biases[k] for net in nets])
        p.append((weights, biases))
    state = [p, jax.vmap(adam.init)(p)]

    def take() -> Any:
        *state[:], value = compiled(*state, x, y)
        return np.asarray(value)

    return take


def torch_step(
    n_nets: int, sizes: tuple[int, ...], x: Any, y: Any
) -> Callable[[], Any]:
    import torch

    from benchmarks.peers.torch_nets import forward

    nets = nets_of(n_nets, sizes)
    p = []
    for k in range(len(sizes) - 1):
        weights = np.stack([net.weights[k].T for net in nets])
        biases = np.stack([net.biases[k] for net in nets])
        p.append(torch.tensor(weights))
        p.append(torch.tensor(biases))
    adam = torch.optim.Adam(p, lr=RATE, fused=True)
    rows = torch.tensor(x)
    targets = torch.tensor(y)

    def loss(p: Any) -> Any:
        error = forward("relu", p, rows) - targets
        return torch.mean(error**2)

    slopes = torch.func.vmap(torch.func.grad_and_value(loss))

    def take() -> Any:
        with torch.no_grad():
            gradient, value = slopes(p)
            for part, slope in zip(p, gradient, strict=True):
                part.grad = slope
            adam.step()
        return value.numpy()

    return take


@pytest.mark.libraries(
    "fastmlp",
    *(f"fastmlp-{form}" for form in FORMS),
    *("sklearn", "torch", "compile", "jax", "keras"),
)
@pytest.mark.parametrize("net", BY_NAME)
def test_step(race: Race, net: str) -> None:
    load = BY_NAME[net]
    race(Work, seconds=SECONDS, flops=load.flops, rows=load.batch, task=net)


@pytest.mark.libraries("fastmlp", "torch", "jax")
@pytest.mark.parametrize("group", GROUPS)
def test_step_group(race: Race, group: str) -> None:
    race(Group, seconds=SECONDS, group=group)


@pytest.mark.libraries("fastmlp", "sklearn")
def test_step_iris(race: Race) -> None:
    race(Work, seconds=SECONDS, task="iris")


@pytest.mark.libraries("fastmlp", "lightgbm")
def test_predict_table_row(race: Race) -> None:
    race(Work, seconds=SECONDS, task="table row")


@pytest.mark.libraries("fastmlp", "sklearn", "river")
def test_step_online(race: Race) -> None:
    """Each row of a stream is predicted, then learned; a step is a row."""
    race(Work, seconds=SECONDS, task="stream")
