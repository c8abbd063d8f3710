"""The same training on the CPU and in the simulator."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from nets import Net, orders
from numpy.typing import NDArray

from fastmlp import MLP
from fastmlp.backends.cpu.engine import Engine as CPU
from fastmlp.backends.cuda import training as cuda_trainer
from fastmlp.backends.cuda.engine import Engine as GPU
from fastmlp.backends.protocol import Data
from fastmlp.network.state import n_slots_of
from fastmlp.rules.optimizer_protocol import coefficients_of, is_averaged, lag_of
from fastmlp.rules.optimizers import Adam
from fastmlp.rules.updates import groups_of

Array = NDArray[Any]
N_ROWS, BATCH = 7, 4


def net(device: str = "cuda", **settings: Any) -> MLP:
    """A classifier of two classes by three columns."""
    usual: dict[str, Any] = {
        "loss": "cross_entropy",
        "dtype": "float64",
        "optimizer": Adam(0.05),
    }
    usual |= {"l2": 0.1, "seed": 1, "device": device}
    return MLP((3, 4, 2), activation="tanh", **usual | settings)


class Run(NamedTuple):
    parameters: Array
    moments: Array
    losses: Array
    reached: int
    diverged: bool


def gpu(net: Net) -> GPU:
    return GPU(net.network, 0)


def trained(
    engine: Any,
    parameters: Array,
    data: Any,
    optimizer: Any,
    order: Array,
    *,
    batch: int = BATCH,
    cuts: tuple[int, ...] = (),
    epochs: int | None = None,
    **options: Any,
) -> Run:
    """Train for an epoch for each row of `order`, or for so many epochs in the only
    order, in calls that end at `cuts` and at the end.
    """
    epochs = epochs or len(order)
    parameters = parameters.copy()
    moments = engine.moments(n_slots=n_slots_of(optimizer))
    if is_averaged(optimizer):
        moments.begin(parameters, lag_of(optimizer))
    trainer = engine.trainer(parameters, moments, optimizer, data, batch, **options)
    end = trainer.units_per_epoch * epochs
    groups = groups_of(optimizer, engine.network.factors).groups
    coefficients = coefficients_of(
        optimizer, 1, np.full(end, optimizer.learning_rate), groups
    )
    losses = np.zeros(epochs)
    reached = 0
    trainer.begin()
    for first, last in pairwise([0, *cuts, end]):
        if reached == first:
            reached = trainer.run(order, coefficients[first:last], losses, first, last)
    trainer.store()
    assert reached == trainer.reached
    return Run(parameters, moments.flat(), losses, reached, trainer.diverged)


def pair(
    net: Net,
    optimizer: Any = None,
    *,
    weighted: bool = False,
    epochs: int = 1,
    n_orders: int | None = None,
) -> tuple[Run, Run]:
    optimizer = optimizer or Adam(0.03)
    rng = np.random.default_rng(0)
    parameters, data = net.draw(rng, N_ROWS, weighted=weighted)
    order = orders(rng, n_orders or epochs, N_ROWS)
    on_cpu = trained(
        CPU(net.network, 1), parameters, data, optimizer, order, epochs=epochs
    )
    rows = Data(*data)
    on_gpu = trained(gpu(net), parameters, rows, optimizer, order, epochs=epochs)
    return on_cpu, on_gpu


def assert_alike(on_cpu: Run, on_gpu: Run, tolerance: float = 1e-10) -> None:
    for name in ("parameters", "moments", "losses"):
        expected = getattr(on_cpu, name)
        got = getattr(on_gpu, name)
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(
            got, expected, rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert (on_gpu.reached, on_gpu.diverged) == (on_cpu.reached, on_cpu.diverged)


def launches_of(most_steps: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(cuda_trainer, "MOST_STEPS", most_steps)
