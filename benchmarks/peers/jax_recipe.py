"""JAX with the recipe: an epoch is one jitted `lax.scan` of optax's chain, its state donated."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks.peers.jax_scan import ACTIVATIONS, JaxScan, about, objective
from benchmarks.workloads import Array, Recipe, Workload, flat

__all__ = ["VARIANTS", "about", "make"]

VARIANTS = (
    "threefry",
    "threefry, packed",
    "threefry, packed, masks ahead",
    "threefry, packed, 8 bits, masks ahead",
    "threefry, packed, 8 bits, masks ahead, one flat vector",
)


def make(workload: Workload, variant: str = VARIANTS[0]) -> "JaxRecipe":
    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    return JaxRecipe(workload, variant)


class JaxRecipe(JaxScan):
    """State (parameters, optax's, average, steps done, steps of the fit), all on the device."""

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
        return jnp.where(bits >= least, 1 / (1 - least / n), 0).astype(self.workload.dtype)

    def _dropped(self, p: Any, x: Any, y: Any, masks: Any) -> Any:
        *hidden, (w, b) = self._layers(p)
        first = 0
        for weight, bias in hidden:
            x = ACTIVATIONS[self.workload.activation](x @ weight + bias)
            x = x * masks[:, first : first + x.shape[1]]
            first += x.shape[1]
        # Of a net without hidden layers, whose inputs are the last hidden values.
        return objective(self.workload, [(w, b)], x, y)

    def _scan(self, state: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any]:
        p, rule, average, key, done, total = state
        optimizer = self._optimizer(total)
        key, own = jax.random.split(key)
        units, dropping = sum(self.workload.sizes[1:-1]), self.recipe.dropout > 0
        draws = jax.random.split(own, len(order))
        if self.ahead and dropping:
            draws = self._masks(own, (*order.shape, units))

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            p, rule, average, done = state
            index, draw = batch
            rows = (part.at[index].get(mode="promise_in_bounds") for part in (x, y))
            if dropping:
                masks = draw if self.ahead else self._masks(draw, (len(index), units))
                loss, g = jax.value_and_grad(self._dropped)(p, *rows, masks)
            else:
                loss, g = jax.value_and_grad(self._objective)(p, *rows)
            change, rule = optimizer.update(g, rule, p)
            p, done = optax.apply_updates(p, change), done + 1
            weight = (1 - self.recipe.average) / (1 - self.recipe.average**done)
            return (p, rule, optax.incremental_update(p, average, weight), done), loss

        state, losses = lax.scan(step, (p, rule, average, done), (order, draws))
        return (*state[:3], key, state[3], total), losses
