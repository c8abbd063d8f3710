"""Steps of many nets from a loop of one's own: NetGroup beside JAX's and PyTorch's vmap, in turns.

``python -m benchmarks.side_by_side`` prints microseconds of a step of all nets: medians of turns.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastmlp import MLP, NetGroup

CASES = [(7, (6, 64, 64, 8), 32), (100, (4, 16, 16, 1), 16)]
N_TURNS, N_CALLS, RATE = 15, 40, 0.001
Step = Callable[[], Any]


def jax_step(n_nets: int, sizes: Any, x: Any, y: Any) -> Step:
    import jax
    import jax.numpy as jnp

    def loss(layers: Any, x: Any, y: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        return jnp.mean((x @ layers[-1][0] + layers[-1][1] - y) ** 2)

    def step(p: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, y)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), p, m, v)
        return p, m, v, t, value

    each = jax.vmap(step, (0, 0, 0, None, None, None), (0, 0, 0, None, 0))
    compiled = jax.jit(each, donate_argnums=(0, 1, 2, 3))
    nets = [MLP(sizes, seed=i) for i in range(n_nets)]
    p = [
        (
            jnp.stack([n.weights[k] for n in nets]),
            jnp.stack([n.biases[k] for n in nets]),
        )
        for k in range(len(sizes) - 1)
    ]
    state = [p, *(jax.tree.map(jnp.zeros_like, p) for _ in range(2)), jnp.zeros(())]

    def take() -> Any:
        *state[:], value = compiled(*state, x, y)
        return np.asarray(value)

    return take


def torch_step(n_nets: int, sizes: Any, x: Any, y: Any) -> Step:
    import torch

    from benchmarks.peers.torch_nets import forward

    nets = [MLP(sizes, seed=i) for i in range(n_nets)]
    parts = [[n.weights[k].T for n in nets] for k in range(len(sizes) - 1)]
    biases = [[n.biases[k] for n in nets] for k in range(len(sizes) - 1)]
    p = [
        torch.tensor(np.stack(it))
        for pair in zip(parts, biases, strict=True)
        for it in pair
    ]
    adam, xs, ys = (
        torch.optim.Adam(p, lr=RATE, fused=True),
        torch.tensor(x),
        torch.tensor(y),
    )

    def loss(p: Any) -> Any:
        return torch.mean((forward("relu", p, xs) - ys) ** 2)

    slopes = torch.func.vmap(torch.func.grad_and_value(loss))

    def take() -> Any:
        with torch.no_grad():
            gradient, value = slopes(p)
            for it, g in zip(p, gradient, strict=True):
                it.grad = g
            adam.step()
        return value.numpy()

    return take


def fit_step(sizes: Any, x: Any, y: Any) -> Step:
    net, rows = (
        MLP(sizes, seed=0, n_threads=1),
        (np.tile(x, (200, 1)), np.tile(y, (200, 1))),
    )
    return partial(net.fit, *rows, epochs=1, batch_size=len(x), shuffle=False)


def microseconds(step: Step, n_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(n_calls):
        step()
    return (time.perf_counter() - start) / n_calls * 1e6


def main() -> None:
    rng = np.random.default_rng(0)
    for n_nets, sizes, n in CASES:
        x, y = (
            rng.normal(size=(n, k)).astype(np.float32) for k in (sizes[0], sizes[-1])
        )
        ways: dict[str, Step] = {"inside fit": fit_step(sizes, x, y)}
        for threads in (1, 2):
            nets = [MLP(sizes, seed=i, n_threads=1) for i in range(n_nets)]
            group = NetGroup(nets, n_threads=threads)
            ways[f"NetGroup, {threads} threads"] = partial(group.train_on_batch, x, y)
        ways |= {
            "JAX": jax_step(n_nets, sizes, x, y),
            "PyTorch": torch_step(n_nets, sizes, x, y),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(N_TURNS + 1):
            for name, step in ways.items():
                # A call of `fit` takes 200 steps of one net.
                of_fit = name == "inside fit"
                seconds = microseconds(step, 2 if of_fit else N_CALLS)
                if turn:
                    times[name].append(seconds * n_nets / 200 if of_fit else seconds)
        print(f"{n_nets} nets {'-'.join(map(str, sizes))}@{n}")
        for name, taken in times.items():
            print(f"  {name:22}{np.median(taken):8.0f}{min(taken):8.0f}")


if __name__ == "__main__":
    main()
