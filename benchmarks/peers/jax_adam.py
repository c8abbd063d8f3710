"""JAX: steps of Adam by an objective of its own, in the order of the rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

State = tuple[Any, Any, Any, Any]


def begin(parameters: Any) -> State:
    """The state before the first step: parameters, both moments, the step's number."""
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return parameters, zeros, zeros, jnp.float32(1)


def step_of(
    objective: Callable[..., Any], learning_rate: float
) -> Callable[[State, Any], tuple[State, None]]:
    """The function of a step from state and batch, as `lax.scan` takes it.

    Parameters
    ----------
    objective : the loss from the parameters and the arrays of a batch
    """

    def mean(m: Any, g: Any) -> Any:
        return 0.9 * m + 0.1 * g

    def mean_of_squares(v: Any, g: Any) -> Any:
        return 0.999 * v + 0.001 * g * g

    def step(state: State, batch: Any) -> tuple[State, None]:
        parameters, m, v, t = state
        g = jax.grad(objective)(parameters, *batch)
        m = jax.tree.map(mean, m, g)
        v = jax.tree.map(mean_of_squares, v, g)
        rate = learning_rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)

        def moved(w: Any, m: Any, v: Any) -> Any:
            return w - rate * m / (jnp.sqrt(v) + 1e-8)

        parameters = jax.tree.map(moved, parameters, m, v)
        return (parameters, m, v, t + 1), None

    return step


def scan_of(
    step: Callable[[State, Any], tuple[State, None]], batches: Any
) -> Callable[[State], State]:
    """The jitted function of an epoch: a step on each batch of the stacked arrays."""

    @jax.jit
    def scan(state: State) -> State:
        state, _ = jax.lax.scan(step, state, batches)
        return state

    return scan
