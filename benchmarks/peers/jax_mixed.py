"""JAX in mixed precision: products of bfloat16 that sum in float32, forth and back."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import jax_scan
from benchmarks.peers.jax_scan import ACTIVATIONS, JaxScan, about
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

POLICY = "layers in bfloat16"
VARIANTS = (*jax_scan.VARIANTS, f"{POLICY}, gather ahead")
HALF = jnp.bfloat16


def make(workload: Workload, variant: str = VARIANTS[0]) -> "JaxMixed":
    return JaxMixed(workload, variant)


def _sums(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def product(x: Any, w: Any) -> Any:
    """Return x @ w in float32 of rounded operands; so are those of its derivatives."""
    return _sums(x.astype(HALF), w.astype(HALF))


def _forth(x: Any, w: Any) -> tuple[Any, Any]:
    rounded = x.astype(HALF), w.astype(HALF)
    return _sums(*rounded), (*rounded, jnp.zeros((), x.dtype))


def _back(kept: Any, slope: Any) -> tuple[Any, Any]:
    (x, w, like), slope = kept, slope.astype(HALF)
    return _sums(slope, w.T).astype(like.dtype), _sums(x.T, slope)


product.defvjp(_forth, _back)


class JaxMixed(JaxScan):
    """Inputs are rounded ahead. A layer's outputs are float32; or bfloat16, as biases are, as a
    policy of Flax or jmp has it."""

    def __init__(self, workload: Workload, variant: str) -> None:
        super().__init__(workload, variant.removeprefix(f"{POLICY}, "))
        self.by_policy, self.exact = variant.startswith(POLICY), self.x
        self.x = self.x.astype(HALF)

    def loss(self) -> float:
        return float(super()._objective(self.state[0], self.exact, self.y))

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        act, layers = ACTIVATIONS[self.workload.activation], self._layers(p)
        for i, (w, b) in enumerate(layers):
            if self.by_policy:
                x = x.astype(HALF) @ w.astype(HALF) + b.astype(HALF)
            else:
                x = product(x, w) + b
            x = act(x) if i < len(layers) - 1 else x
        return jax_scan.loss_of(self.workload, x.astype(jnp.float32), y)
