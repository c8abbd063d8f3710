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
    kind = kinds[workload.form]
    return kind(workload, variant or VARIANTS[workload.form][0])


def placed(x: Array, y: Array) -> tuple[Any, Any]:
    """Rows and targets on the device."""
    if y.ndim == 1:
        y = y.astype(np.int32)
    return jnp.asarray(x), jnp.asarray(y)


def taken(array: Any, index: Any) -> Any:
    """Rows of an array, whose index is known to be within."""
    return array.at[index].get(mode="promise_in_bounds")


def objective(workload: Workload, layers: Any, x: Any, y: Any) -> Any:
    raw = forward(layers, x, ACTIVATIONS[workload.activation])
    return loss_of(workload, raw, y)


def loss_of(workload: Workload, raw: Any, y: Any) -> Any:
    if workload.loss == "mse":
        return jnp.mean((raw - y) ** 2)
    if workload.loss == "cross_entropy":
        chosen = jnp.take_along_axis(raw, y[:, None], 1, mode="promise_in_bounds")
        return jnp.mean(jax.nn.logsumexp(raw, 1) - chosen[:, 0])
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
        change = rule.rate * (g + rule.momentum * m)
        return p - change, m, v
    m = m + (1 - 0.9) * (g - m)
    v = v + (1 - 0.999) * (g * g - v)
    root = jnp.sqrt(1 - 0.999**t)
    rate = rule.rate * root / (1 - 0.9**t)
    change = rate * m / (jnp.sqrt(v) + 1e-8 * root)
    kept = 1 - rule.rate * rule.weight_decay
    return p * kept - change, m, v


def updated(workload: Workload, p: Any, g: Any, m: Any, v: Any, t: Any) -> Any:
    """The new (p, m, v, t) of trees of arrays, after one step more than t."""
    t = t + 1

    def new(p: Any, g: Any, m: Any, v: Any) -> Any:
        return update(workload, p, g, m, v, t)

    by_array = jax.tree.map(new, p, g, m, v)
    three = jax.tree.structure((0, 0, 0))
    p, m, v = jax.tree.transpose(jax.tree.structure(p), three, by_array)
    return p, m, v, t


def penalised(g: Any, p: Any, strength: Any) -> Any:
    """The gradient with that of the penalty, which is on weights only."""
    new = []
    for (weight_slopes, bias_slopes), (weights, _) in zip(g, p, strict=True):
        new.append((weight_slopes + strength * weights, bias_slopes))
    return new


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
        self._slopes = jax.jit(jax.value_and_grad(self._objective))
        self.reset()

    def reset(self) -> None:
        start: Any = self.workload.start()
        if self.variant == "one flat vector":
            start = flat(start)
        p = jax.tree.map(jnp.array, start)
        m = jax.tree.map(jnp.zeros_like, p)
        v = jax.tree.map(jnp.zeros_like, p)
        t = jnp.zeros((), self.workload.dtype)
        self.state: State = (p, m, v, t)

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
            order = np.arange(n * load.batch, dtype=np.int32)
            self._run(order.reshape(n, load.batch))
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
        weights, biases = zip(*self._shapes, strict=True)
        parts = []
        first = 0
        for shape in (*weights, *biases):
            size = int(np.prod(shape))
            parts.append(p[first : first + size].reshape(shape))
            first += size
        n = len(self._shapes)
        return list(zip(parts[:n], parts[n:], strict=True))

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        return objective(self.workload, self._layers(p), x, y)

    def _step(self, state: State, x: Any, y: Any) -> tuple[State, Any]:
        load = self.workload
        p, m, v, t = state
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
        def step(state: State, batch: Any) -> tuple[State, Any]:
            return self._step(state, *batch)

        def gather_and_step(state: State, index: Any) -> tuple[State, Any]:
            return self._step(state, taken(x, index), taken(y, index))

        if self.variant == "gather ahead":
            return lax.scan(step, state, (taken(x, order), taken(y, order)))
        return lax.scan(gather_and_step, state, order)

    def _repeat(self, state: State, x: Any, y: Any, n: Any) -> State:
        def step(_: Any, state: State) -> State:
            state, _ = self._step(state, x, y)
            return state

        return lax.fori_loop(0, n, step, state)


def _sums(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def product(x: Any, w: Any) -> Any:
    """x @ w in float32 of rounded operands; so are those of the derivatives."""
    return _sums(x.astype(HALF), w.astype(HALF))


def _forth(x: Any, w: Any) -> tuple[Any, Any]:
    like = jnp.zeros((), x.dtype)
    x = x.astype(HALF)
    w = w.astype(HALF)
    return _sums(x, w), (x, w, like)


def _back(kept: Any, slope: Any) -> tuple[Any, Any]:
    x, w, like = kept
    slope = slope.astype(HALF)
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
        if "one flat vector" in words:
            super().__init__(workload, "one flat vector")
        else:
            super().__init__(workload, words[0])

    def reset(self) -> None:
        super().reset()
        p, *_ = self.state
        rule = self._optimizer(1).init(p)
        average = jax.tree.map(jnp.copy, p)
        key = jax.random.key(0)
        done = jnp.zeros((), self.workload.dtype)
        total = jnp.zeros((), self.workload.dtype)
        self.state = (p, rule, average, key, done, total)

    def _optimizer(self, total: Any) -> Any:
        highest = self.workload.rule.rate

        def rate(step: Any) -> Any:
            return highest * 0.5 * (1 + jnp.cos(jnp.pi * step / total))

        clip = optax.clip_by_global_norm(self.recipe.norm)
        return optax.chain(clip, optax.adam(rate))

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
        *state, done, _ = self.state
        self.state = (*state, done, done + n)

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
        masks = jnp.where(bits >= least, 1 / (1 - least / n), 0)
        return masks.astype(self.workload.dtype)

    def _dropped(self, p: Any, x: Any, y: Any, masks: Any) -> Any:
        act = ACTIVATIONS[self.workload.activation]
        ends = np.cumsum(self.workload.sizes[1:-2])
        by_layer = iter(jnp.split(masks, ends, axis=1))
        raw = forward(self._layers(p), x, lambda z: act(z) * next(by_layer))
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
            rows = (taken(x, index), taken(y, index))
            if not dropping:
                loss, g = jax.value_and_grad(self._objective)(p, *rows)
            else:
                if self.ahead:
                    masks = draw
                else:
                    masks = self._masks(draw, (len(index), units))
                loss, g = jax.value_and_grad(self._dropped)(p, *rows, masks)
            change, rule = optimizer.update(g, rule, p)
            p = optax.apply_updates(p, change)
            done = done + 1
            weight = self.recipe.weight(done)
            average = optax.incremental_update(p, average, weight)
            return (p, rule, average, done), loss

        state, losses = lax.scan(step, (p, rule, average, done), (order, draws))
        p, rule, average, done = state
        return (p, rule, average, key, done, total), losses


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
        last_epoch = slice(-self.sweep.workload.n_steps, None)
        self.losses = np.asarray(losses)[:, last_epoch].mean(1)

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
            x = taken(self.x, index)
            y = taken(self.y, index)
            loss, g = jax.value_and_grad(partial(objective, load))(p, x, y)
            if self.sweep.mixed:
                g = penalised(g, p, l2 / load.batch)
            return updated(load, p, g, m, v, t), loss

        zeros = jax.tree.map(jnp.zeros_like, p)
        start = (p, zeros, zeros, jnp.float32(0))
        (p, *_), losses = lax.scan(step, start, orders)
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
        self.nets = []
        for i in range(sweep.n_nets):
            self.nets.append([(w[i], b[i]) for w, b in self.starts])
        self.pool = ThreadPoolExecutor(cores())

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        def train_one(i: int) -> Any:
            steps = self._steps(np.random.default_rng(i), epochs, shuffle)
            done = self._train(self.nets[i], self.settings[i], steps)
            return jax.block_until_ready(done)

        done = list(self.pool.map(train_one, range(self.sweep.n_nets)))
        nets, losses = zip(*done, strict=True)
        self.p = jax.tree.map(lambda *parts: np.stack(parts), *nets)
        last = self.sweep.workload.n_steps
        self.losses = np.array([np.asarray(each)[-last:].mean() for each in losses])


KINDS = {"vmap": JaxVmapped, "a net on each core": OnThreads}


def Many(sweep: Sweep, way: str = "vmap") -> JaxVmapped:
    return KINDS[way](sweep)
