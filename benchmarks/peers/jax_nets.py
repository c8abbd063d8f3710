"""JAX: an epoch is one jitted `lax.scan` with donated state and the update written out.

The recipe has optax's chain; mixed precision has products of bfloat16 that sum in
float32, forth and back. Many nets are whole trainings: all in one jitted `vmap`, or a
net on each core.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.bench_many import Sweep
from benchmarks.machine import cores
from benchmarks.peers import Run
from benchmarks.workloads import Array, Recipe, Workload, flat, forward

POLICY = "layers in bfloat16"
_PLAIN = ("gather in the scan", "gather ahead", "one flat vector")
VARIANTS = {
    "plain": _PLAIN,
    "mixed": (*_PLAIN, f"{POLICY}, gather ahead"),
    "recipe": (
        "threefry",
        "threefry, packed",
        "threefry, packed, masks ahead",
        "threefry, packed, 8 bits, masks ahead",
        "threefry, packed, 8 bits, masks ahead, one flat vector",
    ),
    "many": ("vmap", "a net on each core"),
}
HALF = jnp.bfloat16
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
State = Any


def about() -> str:
    return f"JAX {jax.__version__} on {jax.devices()[0]}"


def make(workload: Workload, variant: str = "") -> "JaxScan":
    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    kinds = {"plain": JaxScan, "mixed": JaxMixed, "recipe": JaxRecipe}
    return kinds[workload.form](workload, variant or VARIANTS[workload.form][0])


def placed(x: Array, y: Array) -> tuple[Any, Any]:
    """Rows and targets on the device."""
    return jnp.asarray(x), jnp.asarray(y, np.int32 if y.ndim == 1 else y.dtype)


def objective(workload: Workload, layers: Any, x: Any, y: Any) -> Any:
    return loss_of(workload, forward(layers, x, ACTIVATIONS[workload.activation]), y)


def loss_of(workload: Workload, raw: Any, y: Any) -> Any:
    if workload.loss == "mse":
        return jnp.mean((raw - y) ** 2)
    if workload.loss == "cross_entropy":
        chosen = jnp.take_along_axis(raw, y[:, None], 1, mode="promise_in_bounds")[:, 0]
        return jnp.mean(jax.nn.logsumexp(raw, 1) - chosen)
    return jnp.mean(jax.nn.softplus(raw) - y * raw)


def update(
    workload: Workload, p: Any, g: Any, m: Any, v: Any, t: Any
) -> tuple[Any, Any, Any]:
    """The new (p, m, v) of one array."""
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


def updated(workload: Workload, p: Any, g: Any, m: Any, v: Any, t: Any) -> Any:
    """The new (p, m, v, t) of trees of arrays, after one step more than t."""
    t = t + 1
    parts, tree = jax.tree.flatten(p)
    gs, ms, vs = (jax.tree.leaves(part) for part in (g, m, v))
    new = [update(workload, *four, t) for four in zip(parts, gs, ms, vs, strict=True)]
    return (*(jax.tree.unflatten(tree, part) for part in zip(*new, strict=True)), t)


def penalised(g: Any, p: Any, strength: Any) -> Any:
    """The gradient with that of the penalty, which is on weights only."""
    return [(gw + strength * w, gb) for (gw, gb), (w, _) in zip(g, p, strict=True)]


class JaxScan(Run):
    """State (parameters, m, v, t), all on the device."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.workload = workload
        self.variant = variant
        self.x, self.y = placed(*workload.data())
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
        rows = self.workload.rows(0)
        slopes = self._slopes(self.state[0], self.x[rows], self.y[rows])
        return jax.block_until_ready(slopes)

    def loss(self) -> float:
        return float(self._objective(self.state[0], self.x, self.y))

    def parameters(self) -> Array:
        return flat(self._layers(self.state[0]))

    def rows(self, x: Array) -> Any:
        return jnp.asarray(x)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        # The parameters are constants of the program,
        # not six more arguments to look at.
        layers = self._layers(self.state[0])
        act = ACTIVATIONS[self.workload.activation]
        predict = partial(forward, layers, activation=act)
        all_rows = jax.jit(predict)
        by_blocks = jax.jit(lambda x: lax.map(predict, x, batch_size=1_000))
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
            p[end - int(np.prod(s)) : end].reshape(s)
            for s, end in zip(shapes, ends, strict=True)
        ]
        n = len(self._shapes)
        return list(zip(parts[:n], parts[n:], strict=True))

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        return objective(self.workload, self._layers(p), x, y)

    def _step(self, state: State, x: Any, y: Any) -> tuple[State, Any]:
        load = self.workload
        (p, m, v, t) = state
        loss, g = jax.value_and_grad(self._objective)(p, x, y)
        if load.l2:
            g = self._penalised(g, p)
        return updated(load, p, g, m, v, t), loss

    def _penalised(self, g: Any, p: Any) -> Any:
        strength = self.workload.l2 / self.workload.batch
        if self.variant == "one flat vector":
            n = sum(int(np.prod(w)) for w, _ in self._shapes)
            return g.at[:n].add(strength * p[:n])
        return penalised(g, p, strength)

    def _scan(self, state: State, x: Any, y: Any, order: Any) -> tuple[State, Any]:
        def take(array: Any, index: Any) -> Any:
            return array.at[index].get(mode="promise_in_bounds")

        if self.variant == "gather ahead":
            batches = (take(x, order), take(y, order))
            return lax.scan(lambda s, batch: self._step(s, *batch), state, batches)
        return lax.scan(
            lambda s, i: self._step(s, take(x, i), take(y, i)), state, order
        )

    def _repeat(self, state: State, x: Any, y: Any, n: Any) -> State:
        return lax.fori_loop(0, n, lambda _, s: self._step(s, x, y)[0], state)


def _sums(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def product(x: Any, w: Any) -> Any:
    """x @ w in float32 of rounded operands; so are those of the derivatives."""
    return _sums(x.astype(HALF), w.astype(HALF))


def _forth(x: Any, w: Any) -> tuple[Any, Any]:
    rounded = x.astype(HALF), w.astype(HALF)
    return _sums(*rounded), (*rounded, jnp.zeros((), x.dtype))


def _back(kept: Any, slope: Any) -> tuple[Any, Any]:
    (x, w, like), slope = kept, slope.astype(HALF)
    return _sums(slope, w.T).astype(like.dtype), _sums(x.T, slope)


product.defvjp(_forth, _back)


class JaxMixed(JaxScan):
    """In mixed precision: inputs are rounded ahead. Outputs of layers are float32;
    or bfloat16, as biases are, as a policy of Flax or jmp has it.
    """

    def __init__(self, workload: Workload, variant: str) -> None:
        super().__init__(workload, variant.removeprefix(f"{POLICY}, "))
        self.by_policy = variant.startswith(POLICY)
        self.exact = self.x
        self.x = self.x.astype(HALF)

    def loss(self) -> float:
        return float(super()._objective(self.state[0], self.exact, self.y))

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        act = ACTIVATIONS[self.workload.activation]
        raw = forward(self._layers(p), x, act, self._affine)
        return loss_of(self.workload, raw.astype(jnp.float32), y)

    def _affine(self, x: Any, w: Any, b: Any) -> Any:
        if self.by_policy:
            return x.astype(HALF) @ w.astype(HALF) + b.astype(HALF)
        return product(x, w) + b


class JaxRecipe(JaxScan):
    """With the recipe, by optax's chain: state
    (parameters, optax's, average, steps done, steps of the fit), all on the device.
    """

    def __init__(self, workload: Workload, variant: str) -> None:
        assert workload.recipe
        self.recipe: Recipe = workload.recipe
        words = variant.split(", ")
        self.bits = 8 if "8 bits" in words else 16
        self.packed = "packed" in words
        self.ahead = "masks ahead" in words
        super().__init__(
            workload, "one flat vector" if words[-1] == "one flat vector" else words[0]
        )

    def reset(self) -> None:
        super().reset()
        p = self.state[0]
        average = jax.tree.map(jnp.copy, p)
        zero = jnp.zeros((), self.workload.dtype)
        key = jax.random.key(0)
        self.state = (p, self._optimizer(1).init(p), average, key, zero, jnp.copy(zero))

    def _optimizer(self, total: Any) -> Any:
        rate = self.workload.rule.rate
        return optax.chain(
            optax.clip_by_global_norm(self.recipe.norm),
            optax.adam(lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * step / total))),
        )

    def epochs(self, n: int) -> None:
        self._horizon(n * self.workload.n_steps)
        super().epochs(n)

    def steps(self, n: int) -> None:
        self._horizon(n)
        super().steps(n)

    def _run(self, order: Array) -> None:
        # Packed, a word of 32 bits gives two decisions of 16, else one.
        with jax.threefry_partitionable(not self.packed):
            super()._run(order)

    def _horizon(self, n: int) -> None:
        *state, _ = self.state
        self.state = (*state, state[-1] + n)

    def loss(self) -> float:
        return float(self._objective(self.state[2], self.x, self.y))

    def parameters(self) -> Array:
        return flat(self._layers(self.state[2]))

    def _masks(self, key: Any, shape: tuple[int, ...]) -> Any:
        """Draw masks of 0 and 1 / (1 - rate), of all hidden layers beside each other.

        16 bits decide, as in fastmlp, or 8: with `bernoulli`, of 32, XLA takes longer.
        """
        n = 2**self.bits
        least = round(n * self.recipe.dropout)
        bits = jax.random.bits(key, shape, f"uint{self.bits}")
        return jnp.where(bits >= least, 1 / (1 - least / n), 0).astype(
            self.workload.dtype
        )

    def _dropped(self, p: Any, x: Any, y: Any, masks: Any) -> Any:
        act = ACTIVATIONS[self.workload.activation]
        parts = iter(jnp.split(masks, np.cumsum(self.workload.sizes[1:-2]), axis=1))
        raw = forward(self._layers(p), x, lambda z: act(z) * next(parts))
        return loss_of(self.workload, raw, y)

    def _scan(self, state: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any]:
        p, rule, average, key, done, total = state
        optimizer = self._optimizer(total)
        key, own = jax.random.split(key)
        units = sum(self.workload.sizes[1:-1])
        dropping = self.recipe.dropout > 0
        draws = jax.random.split(own, len(order))
        if self.ahead and dropping:
            draws = self._masks(own, (*order.shape, units))

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            p, rule, average, done = state
            index, draw = batch
            rows = (part.at[index].get(mode="promise_in_bounds") for part in (x, y))
            if dropping:
                if self.ahead:
                    masks = draw
                else:
                    masks = self._masks(draw, (len(index), units))
                loss, g = jax.value_and_grad(self._dropped)(p, *rows, masks)
            else:
                loss, g = jax.value_and_grad(self._objective)(p, *rows)
            change, rule = optimizer.update(g, rule, p)
            p = optax.apply_updates(p, change)
            done = done + 1
            weight = (1 - self.recipe.average) / (1 - self.recipe.average**done)
            return (p, rule, optax.incremental_update(p, average, weight), done), loss

        state, losses = lax.scan(step, (p, rule, average, done), (order, draws))
        return (*state[:3], key, state[3], total), losses


class JaxVmapped:
    """All nets in one program; orders of rows come from the host, within the clock."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.x, self.y = placed(*sweep.data())
        self.rng = np.random.default_rng(0)
        self.starts = [(jnp.asarray(w), jnp.asarray(b)) for w, b in sweep.starts()]
        self.settings = jnp.asarray(sweep.settings(), self.x.dtype)
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
                g = penalised(g, p, l2 / load.batch)
            return updated(load, p, g, m, v, t), loss

        zeros = jax.tree.map(jnp.zeros_like, p)
        (p, *_), losses = lax.scan(step, (p, zeros, zeros, jnp.float32(0)), orders)
        return p, losses

    def parameters(self) -> Array:
        n = self.sweep.n_nets
        parts = [w for w, _ in self.p] + [b for _, b in self.p]
        return np.concatenate([np.asarray(part).reshape(n, -1) for part in parts], 1)


class OnThreads(JaxVmapped):
    """A program for one net, run by a Python thread on each core:
    compiled code holds no lock.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        alone = {"xla_cpu_multi_thread_eigen": False}
        self._train = jax.jit(self._training, compiler_options=alone)
        self.nets = [
            jax.tree.map(lambda part, i=i: part[i], self.starts)
            for i in range(sweep.n_nets)
        ]
        self.pool = ThreadPoolExecutor(cores())

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        def trained(i: int) -> Any:
            steps = self._steps(np.random.default_rng(i), epochs, shuffle)
            return jax.block_until_ready(
                self._train(self.nets[i], self.settings[i], steps)
            )

        done = list(self.pool.map(trained, range(self.sweep.n_nets)))
        self.p = jax.tree.map(lambda *parts: np.stack(parts), *[p for p, _ in done])
        last = self.sweep.workload.n_steps
        self.losses = np.array(
            [np.asarray(losses)[-last:].mean() for _, losses in done]
        )


KINDS = {"vmap": JaxVmapped, "a net on each core": OnThreads}


def Many(sweep: Sweep, way: str = "vmap") -> JaxVmapped:
    return KINDS[way](sweep)
