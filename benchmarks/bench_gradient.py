"""Gradients: the loss and its gradient by all parameters,
and derivatives by the inputs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.race import Ways, repeated
from benchmarks.workloads import BY_NAME, WORKLOADS, forward, sized

N_ROWS = 20_000
# Nets of which derivatives by the inputs are taken.
SMOOTH: dict[str, tuple[tuple[int, ...], Any]] = {
    "16-64-64-1-relu": ((16, 64, 64, 1), "relu"),
    "16-64-64-1-tanh": ((16, 64, 64, 1), "tanh"),
    "8-32-32-3-tanh": ((8, 32, 32, 3), "tanh"),
}


class Work(Ways):
    """The gradient on the first batch, once it has been computed."""

    def __init__(self, worker: Any, quick: bool, workload: str) -> None:
        net = sized(BY_NAME[workload], quick)
        variants = worker.module.VARIANTS["plain"]
        # Variants of torch.compile have one gradient, which compiles long.
        if quick or worker.name == "compile":
            few = variants[:1]
        else:
            few = variants
        ways = {}
        for name in few:
            run = worker.module.make(net, name)
            run.gradient()
            ways[name] = repeated(run.gradient)
        super().__init__(worker, quick, ways)


class ByInputs(Ways):
    """Derivatives of all outputs by all inputs, of many rows in one call.

    PyTorch's and JAX's are `vmap(jacrev)`; the net and the rows are constants here.
    """

    def __init__(self, worker: Any, quick: bool, net: str) -> None:
        from fastmlp import MLP, jacobian

        sizes, activation = SMOOTH[net]
        model = MLP(sizes, activation=activation, seed=0)
        n = 100 if quick else N_ROWS
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, sizes[0])).astype(np.float32)
        ours = jacobian(model, x)
        call: Callable[[], Any]
        if worker.name == "torch":
            call = of_torch(model, activation, x)
        elif worker.name == "jax":
            call = of_jax(model, activation, x)
        else:
            call = partial(jacobian, model, x, out=np.empty_like(ours))
        super().__init__(worker, quick, {"jacobian": repeated(call)})
        error = np.abs(call() - ours).max() / np.abs(ours).max()
        self.about["difference"] = float(error)


def of_torch(net: Any, activation: str, x: Any) -> Callable[[], Any]:
    """A call that derives the rows by PyTorch."""
    import torch

    weights = [torch.from_numpy(w.copy()) for w in net.weights]
    biases = [torch.from_numpy(b.copy()) for b in net.biases]
    layers = list(zip(weights, biases, strict=True))
    predict = partial(forward, layers, activation=getattr(torch, activation))
    derive: Any = torch.func.vmap(torch.func.jacrev(predict))
    rows = torch.from_numpy(x)
    return lambda: derive(rows).numpy()


def of_jax(net: Any, activation: str, x: Any) -> Callable[[], Any]:
    """A call that derives the rows by JAX, jitted."""
    import jax

    weights = [jax.numpy.array(w) for w in net.weights]
    biases = [jax.numpy.array(b) for b in net.biases]
    layers = list(zip(weights, biases, strict=True))
    predict = partial(forward, layers, activation=getattr(jax.nn, activation))
    derive = jax.jit(jax.vmap(jax.jacrev(predict)))
    rows = jax.numpy.array(x)
    return lambda: np.asarray(derive(rows).block_until_ready())


@pytest.mark.libraries("fastmlp", "numpy", "torch", "compile", "jax")
@pytest.mark.parametrize("net", [net.name for net in WORKLOADS])
def test_gradient(race: Race, net: str) -> None:
    load = BY_NAME[net]
    race(Work, flops=load.flops, rows=load.batch, workload=net)


@pytest.mark.libraries("fastmlp", "torch", "jax")
@pytest.mark.parametrize("net", SMOOTH)
def test_gradient_by_inputs(race: Race, net: str) -> None:
    race(ByInputs, rows=N_ROWS, net=net)
