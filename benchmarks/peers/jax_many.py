"""JAX: whole trainings, each a `lax.scan`: all in one jitted `vmap`, or a net on each core."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.machine import cores
from benchmarks.many import Sweep
from benchmarks.peers.jax_scan import objective, updated
from benchmarks.workloads import Array


class JaxVmapped:
    """All nets in one program; orders of rows come from the host, within the clock."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        x, y = sweep.data()
        self.x, self.y = jnp.asarray(x), jnp.asarray(y, np.int32 if y.ndim == 1 else y.dtype)
        self.rng = np.random.default_rng(0)
        self.starts = [(jnp.asarray(w), jnp.asarray(b)) for w, b in sweep.starts()]
        self.settings = jnp.asarray(sweep.settings(), x.dtype)
        self._train = jax.jit(jax.vmap(self._training))
        self.p: Any = None

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        n = self.sweep.n_nets
        steps = np.stack([self._steps(self.rng, epochs, shuffle) for _ in range(n)])
        self.p, losses = self._train(self.starts, self.settings, steps)
        losses.block_until_ready()
        self.losses = np.asarray(losses)[:, -self.sweep.workload.n_steps :].mean(1)

    def _steps(self, rng: np.random.Generator, epochs: int, shuffle: bool) -> Array:
        """One net's rows, shape (steps, batch)."""
        load = self.sweep.workload
        orders = np.tile(np.arange(load.n_rows, dtype=np.int32), (epochs, 1))
        if shuffle:
            rng.permuted(orders, axis=1, out=orders)
        return orders.reshape(-1, load.batch)

    def _training(self, p: Any, setting: Any, orders: Any) -> tuple[Any, Any]:
        rate, l2 = setting
        load = self.sweep.workload
        load = load._replace(rule=load.rule._replace(rate=rate))

        def step(state: Any, index: Any) -> tuple[Any, Any]:
            p, m, v, t = state
            x = self.x.at[index].get(mode="promise_in_bounds")
            y = self.y.at[index].get(mode="promise_in_bounds")
            loss, g = jax.value_and_grad(lambda q: objective(load, q, x, y))(p)
            if self.sweep.mixed:
                g = [(gw + l2 / load.batch * w, gb) for (gw, gb), (w, _) in zip(g, p, strict=True)]
            return updated(load, p, g, m, v, t), loss

        zeros = jax.tree.map(jnp.zeros_like, p)
        (p, *_), losses = lax.scan(step, (p, zeros, zeros, jnp.float32(0)), orders)
        return p, losses

    def parameters(self) -> Array:
        n = self.sweep.n_nets
        parts = [w for w, _ in self.p] + [b for _, b in self.p]
        return np.concatenate([np.asarray(part).reshape(n, -1) for part in parts], 1)


class OnThreads(JaxVmapped):
    """A program for one net, run by a Python thread on each core: compiled code holds no lock."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        alone = {"xla_cpu_multi_thread_eigen": False}
        self._train = jax.jit(self._training, compiler_options=alone)
        self.nets = [
            jax.tree.map(lambda part, i=i: part[i], self.starts) for i in range(sweep.n_nets)
        ]
        self.pool = ThreadPoolExecutor(cores())

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        def trained(i: int) -> Any:
            steps = self._steps(np.random.default_rng(i), epochs, shuffle)
            return jax.block_until_ready(self._train(self.nets[i], self.settings[i], steps))

        done = list(self.pool.map(trained, range(self.sweep.n_nets)))
        self.p = jax.tree.map(lambda *parts: np.stack(parts), *[p for p, _ in done])
        last = self.sweep.workload.n_steps
        self.losses = np.array([np.asarray(losses)[-last:].mean() for _, losses in done])


KINDS = {"vmap": JaxVmapped, "a net on each core": OnThreads}
VARIANTS = {"many": (*KINDS,)}


def Many(sweep: Sweep, way: str = "vmap") -> JaxVmapped:
    return KINDS[way](sweep)
