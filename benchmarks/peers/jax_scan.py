"""JAX: an epoch is one jitted `lax.scan` with donated state, the update written out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.workloads import Array, Workload, flat

VARIANTS = ("gather in the scan", "gather ahead", "one flat vector")
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
State = Any


def about() -> str:
    return f"JAX {jax.__version__} on {jax.devices()[0]}"


def make(workload: Workload, variant: str = VARIANTS[0]) -> "JaxScan":
    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    return JaxScan(workload, variant)


def forward(activation: str, layers: Any, x: Any) -> Any:
    *hidden, (w, b) = layers
    for weight, bias in hidden:
        x = ACTIVATIONS[activation](x @ weight + bias)
    return x @ w + b


def objective(workload: Workload, layers: Any, x: Any, y: Any) -> Any:
    return loss_of(workload, forward(workload.activation, layers, x), y)


def loss_of(workload: Workload, raw: Any, y: Any) -> Any:
    if workload.loss == "mse":
        return jnp.mean((raw - y) ** 2)
    if workload.loss == "cross_entropy":
        chosen = jnp.take_along_axis(raw, y[:, None], 1, mode="promise_in_bounds")[:, 0]
        return jnp.mean(jax.nn.logsumexp(raw, 1) - chosen)
    return jnp.mean(jax.nn.softplus(raw) - y * raw)


def update(workload: Workload, p: Any, g: Any, m: Any, v: Any, t: Any) -> tuple[Any, Any, Any]:
    """Return the new (p, m, v) of one array."""
    rule = workload.rule
    if rule.kind == "sgd":
        if not rule.momentum:
            return p - rule.rate * g, m, v
        m = rule.momentum * m + g
        return p - rule.rate * (g + rule.momentum * m), m, v
    m = m + (1 - 0.9) * (g - m)
    v = v + (1 - 0.999) * (g * g - v)
    root = jnp.sqrt(1 - 0.999**t)
    change = (rule.rate * root / (1 - 0.9**t)) * m / (jnp.sqrt(v) + 1e-8 * root)
    return p * (1 - rule.rate * rule.weight_decay) - change, m, v


class JaxScan:
    """State (parameters, m, v, t), all on the device."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.workload, self.variant = workload, variant
        x, y = workload.data()
        self.x, self.y = jnp.asarray(x), jnp.asarray(y, np.int32 if y.ndim == 1 else y.dtype)
        self.rng = np.random.default_rng(0)
        self._shapes = [(w.shape, b.shape) for w, b in workload.start()]
        self._epoch = jax.jit(self._scan, donate_argnums=0)
        self._loop = jax.jit(self._repeat, donate_argnums=0)
        self._slopes = jax.jit(jax.value_and_grad(partial(self._objective)))
        self.reset()

    def reset(self) -> None:
        p = [(jnp.array(w), jnp.array(b)) for w, b in self.workload.start()]
        if self.variant == "one flat vector":
            p = jnp.array(flat(self.workload.start()))
        m, v = (jax.tree.map(jnp.zeros_like, p) for _ in range(2))
        self.state: State = (p, m, v, jnp.zeros((), self.workload.dtype))

    def epochs(self, n: int) -> None:
        load = self.workload
        if not load.shuffle:
            self.state = self._loop(self.state, self.x, self.y, n)
        else:
            for _ in range(n):
                order = self.rng.permutation(load.n_rows).astype(np.int32)
                self._run(order.reshape(-1, load.batch))
        jax.block_until_ready(self.state)

    def _run(self, order: Array) -> None:
        self.state, self.losses = self._epoch(self.state, self.x, self.y, order)

    def steps(self, n: int) -> None:
        load = self.workload
        if load.shuffle:
            self._run(np.arange(n * load.batch, dtype=np.int32).reshape(n, load.batch))
        else:
            self.state = self._loop(self.state, self.x, self.y, n)
        jax.block_until_ready(self.state)

    def gradient(self) -> Any:
        batch = self.workload.batch
        return jax.block_until_ready(self._slopes(self.state[0], self.x[:batch], self.y[:batch]))

    def loss(self) -> float:
        return float(self._objective(self.state[0], self.x, self.y))

    def parameters(self) -> Array:
        return flat(self._layers(self.state[0]))

    def rows(self, x: Array) -> Any:
        return jnp.asarray(x)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        # The parameters are constants of the program, not six more arguments to look at.
        layers, name = self._layers(self.state[0]), self.workload.activation
        all_rows = jax.jit(lambda x: forward(name, layers, x))
        by_blocks = jax.jit(
            lambda x: lax.map(lambda row: forward(name, layers, row), x, batch_size=1_000)
        )
        return {
            "jit": lambda x: all_rows(x).block_until_ready(),
            "jit, blocks of 1,000": lambda x: by_blocks(x).block_until_ready(),
        }

    def _layers(self, p: Any) -> Any:
        if self.variant != "one flat vector":
            return p
        shapes = [w for w, _ in self._shapes] + [b for _, b in self._shapes]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = [
            p[end - int(np.prod(s)) : end].reshape(s) for s, end in zip(shapes, ends, strict=True)
        ]
        n = len(self._shapes)
        return list(zip(parts[:n], parts[n:], strict=True))

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        return objective(self.workload, self._layers(p), x, y)

    def _step(self, state: State, x: Any, y: Any) -> tuple[State, Any]:
        load, (p, m, v, t) = self.workload, state
        loss, g = jax.value_and_grad(self._objective)(p, x, y)
        if load.l2:
            g = self._penalised(g, p)
        t = t + 1
        parts, tree = jax.tree.flatten(p)
        gs, ms, vs = (jax.tree.leaves(part) for part in (g, m, v))
        new = [update(load, *four, t) for four in zip(parts, gs, ms, vs, strict=True)]
        p, m, v = (jax.tree.unflatten(tree, part) for part in zip(*new, strict=True))
        return (p, m, v, t), loss

    def _penalised(self, g: Any, p: Any) -> Any:
        """Add the penalty's gradient: weights only."""
        strength = self.workload.l2 / self.workload.batch
        if self.variant == "one flat vector":
            n = sum(int(np.prod(w)) for w, _ in self._shapes)
            return g.at[:n].add(strength * p[:n])
        return [(gw + strength * w, gb) for (gw, gb), (w, _) in zip(g, p, strict=True)]

    def _scan(self, state: State, x: Any, y: Any, order: Any) -> tuple[State, Any]:
        def take(array: Any, index: Any) -> Any:
            return array.at[index].get(mode="promise_in_bounds")

        if self.variant == "gather ahead":
            batches = (take(x, order), take(y, order))
            return lax.scan(lambda s, batch: self._step(s, *batch), state, batches)
        return lax.scan(lambda s, i: self._step(s, take(x, i), take(y, i)), state, order)

    def _repeat(self, state: State, x: Any, y: Any, n: Any) -> State:
        return lax.fori_loop(0, n, lambda _, s: self._step(s, x, y)[0], state)
