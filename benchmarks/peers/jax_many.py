"""JAX: one jitted `vmap` over whole trainings, each a `lax.scan` over all steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.peers.jax_scan import objective, update
from benchmarks.sweeps import Nets, Sweep
from benchmarks.workloads import Array


class Vmapped(Nets):
    """All nets in one program; orders of rows come from the host, within the clock."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        x, y = sweep.data()
        self.x, self.y = jnp.asarray(x), jnp.asarray(y, np.int32 if y.ndim == 1 else y.dtype)
        self.rng = np.random.default_rng(0)
        self.starts = [(jnp.asarray(w), jnp.asarray(b)) for w, b in sweep.starts()]
        self._train = jax.jit(jax.vmap(self._training, in_axes=(0, 0)))
        self.p: Any = None

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        load, shape = self.sweep.workload, (self.sweep.n_nets, epochs, self.sweep.workload.n_rows)
        orders = np.broadcast_to(np.arange(load.n_rows, dtype=np.int32), shape)
        if shuffle:
            orders = self.rng.permuted(orders, axis=-1)
        steps = orders.reshape(shape[0], -1, load.batch)
        self.p, losses = self._train(self.starts, steps)
        losses.block_until_ready()
        self.losses = np.asarray(losses)[:, -load.n_steps :].mean(1)

    def _training(self, p: Any, orders: Any) -> tuple[Any, Any]:
        load = self.sweep.workload

        def step(state: Any, index: Any) -> tuple[Any, Any]:
            p, m, v, t = state
            x = self.x.at[index].get(mode="promise_in_bounds")
            y = self.y.at[index].get(mode="promise_in_bounds")
            loss, g = jax.value_and_grad(lambda q: objective(load, q, x, y))(p)
            t = t + 1
            parts, tree = jax.tree.flatten(p)
            others = [jax.tree.leaves(part) for part in (g, m, v)]
            new = [update(load, *args, t) for args in zip(parts, *others, strict=True)]
            p, m, v = (jax.tree.unflatten(tree, part) for part in zip(*new, strict=True))
            return (p, m, v, t), loss

        zeros = jax.tree.map(jnp.zeros_like, p)
        (p, *_), losses = lax.scan(step, (p, zeros, zeros, jnp.float32(0)), orders)
        return p, losses

    def parameters(self) -> Array:
        n = self.sweep.n_nets
        parts = [w for w, _ in self.p] + [b for _, b in self.p]
        return np.concatenate([np.asarray(part).reshape(n, -1) for part in parts], 1)


def many(sweep: Sweep) -> Vmapped:
    return Vmapped(sweep)
