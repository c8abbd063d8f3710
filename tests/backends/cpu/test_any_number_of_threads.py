"""The same bits on any number of threads, serial or parallel; and steps that allocate nothing."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from conditions import needs_threads, only_compiled
from nets import PENALTY_SETS, Net, orders, train
from pairwise import all_pairs

from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import partition, plan
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.threads import limits
from fastmlp.rules.optimizers import OPTIMIZERS, SGD

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
# Uncompiled no team gathers, and nothing is shared.
SHARED = ["rows"] if numba.config.DISABLE_JIT else ["rows", "panels"]
SPLIT_LAYERS = [0, 1, 2]
each_share = pytest.mark.parametrize("shared", SHARED)
SIZES = (17, 33, 20, 5) if numba.config.DISABLE_JIT else (17, 90, 33, 5)
# Rows of a fit and of a batch, and of a call without steps.
N_ROWS, BATCH, N_AT_ONCE = (37, 20, 45) if numba.config.DISABLE_JIT else (130, 70, 200)
each_split_layer = pytest.mark.parametrize("split_layer", SPLIT_LAYERS)
each_activation = pytest.mark.parametrize("activation", ["relu", "tanh"])

SAME_BITS_ON = """
import hashlib, itertools
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.threads import limits
from fastmlp.backends.cpu.trainers.trainer import TRAININGS
from fastmlp.backends.cpu.engine import Engine
from fastmlp.rules.optimizers import OPTIMIZERS

dispatch.pays = lambda work, n_threads: n_threads > 1
rng = np.random.default_rng(0)
sizes, rules = (17, 170, 90, 5), {"loss": "cross_entropy", "penalties": {"l2": 0.1, "l1": 0.1}}
net = Net(sizes, dtype="float32", **rules)
parameters, data = net.draw(rng, 200, weighted=True)
order = orders(rng, 2, 200)
launches, pieces = ((0, 1 << 60) if limits.parallel_is_safe() else (0,)), (1, 1 << 60)
each = itertools.product(launches, pieces, (False, True), (0, 1, 2), (1, 2, 3, 4))
for dispatch.REGION_SECONDS, dispatch.PIECE_FLOPS, by_panels, layer, n_threads in each:
    partition.panels_pay = lambda *sizes: by_panels
    partition.split_layer_of = lambda step: layer
    TRAININGS.clear()
    engine = Engine(net.network, 1)
    engine.n_threads = n_threads
    run = train(net, parameters, data, OPTIMIZERS["adam"](0.03), order, 70, n_threads=n_threads)
    out = np.empty((200, 5), np.float32)
    engine.predict(parameters, data.x, out)
    loss, gradient = engine.loss_and_gradient(parameters, data)
    losses = np.array([engine.loss(parameters, data), loss, *run.losses])
    bits = b"".join(a.tobytes() for a in (run.parameters, run.moments, out, gradient, losses))
    # A long line through a pipe may lose some of it where the process is stopped and goes on.
    print(hashlib.sha256(bits).hexdigest())
"""

ALLOCATIONS = """
import numba
import numpy as np
from nets import Net
from numba.core.runtime import rtsys
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.rules.optimizers import OPTIMIZERS

numba.njit(lambda: np.empty(3))()  # shows that allocations are counted
net = Net((3, 5, 2), penalties={"l2": 0.1, "l1": 0.1})
parameters, data = net.draw(np.random.default_rng(0), 40, weighted=True)
optimizer, moments = OPTIMIZERS["adam"](0.01), Moments(net.network)
engine = Engine(net.network, 1)
trainer = engine.trainer(parameters, moments, optimizer, data, 4)
order = np.arange(40)[None]
for n_steps in (10, 10, 1000):
    coefficients, losses = optimizer.coefficients(1, np.full(n_steps, 0.01)), np.zeros(n_steps)
    before = rtsys.get_allocation_stats()
    assert trainer.run(order, coefficients, losses, 0, n_steps) == n_steps
    after = rtsys.get_allocation_stats()
    print(after.alloc - before.alloc, after.mi_alloc - before.mi_alloc, after.alloc)
"""


def force_a_team(monkeypatch: pytest.MonkeyPatch, shared: str, split_layer: int) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    monkeypatch.setattr(partition, "panels_pay", lambda *sizes: shared == "panels")
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A serial and a parallel engine for a net, however small the work."""

    def engines(net: Net, shared: str = "rows", split_layer: int = 0) -> tuple[Engine, Engine]:
        force_a_team(monkeypatch, shared, split_layer)
        return Engine(net.network, 1), Engine(net.network, 2)

    return engines


@needs_threads
@each_dtype
@each_activation
@each_share
@each_split_layer
def test_loss_and_gradient_have_the_same_bits_in_parallel(
    split_layer: int, shared: str, activation: str, dtype: str, twins: Any, rng: np.random.Generator
) -> None:
    net = Net(SIZES, activation, penalties=PENALTY_SETS[-1], dtype=dtype)
    serial, parallel = twins(net, shared, split_layer)
    parameters, data = net.draw(rng, N_AT_ONCE, weighted=True)
    assert serial.loss(parameters, data) == parallel.loss(parameters, data)
    value, gradient = serial.loss_and_gradient(parameters, data)
    again, slopes = parallel.loss_and_gradient(parameters, data)
    assert value == again
    assert np.array_equal(gradient, slopes)


@needs_threads
@each_dtype
@pytest.mark.parametrize("raw", [False, True])
def test_predictions_have_the_same_bits_in_parallel(
    dtype: str, raw: bool, twins: Any, rng: np.random.Generator
) -> None:
    net = Net((17, 33, 5), loss="cross_entropy", dtype=dtype)
    parameters, data = net.draw(rng, N_AT_ONCE)
    outs = [np.empty((N_AT_ONCE, 5), dtype) for _ in range(2)]
    for engine, out in zip(twins(net), outs, strict=True):
        engine.predict(parameters, data.x, out, raw=raw)
    assert np.array_equal(outs[0], outs[1])


@needs_threads
@pytest.mark.parametrize(
    ("dtype", "shared", "split_layer", "name"),
    [
        (*case.values(),)
        for case in all_pairs(
            dtype=["float32", "float64"],
            shared=SHARED,
            split_layer=SPLIT_LAYERS,
            name=[*OPTIMIZERS],
        )
    ],
)
def test_training_has_the_same_bits_in_parallel(
    dtype: str,
    shared: str,
    split_layer: int,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    force_a_team(monkeypatch, shared, split_layer)
    net = Net(SIZES, penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order, optimizer = orders(rng, 2, N_ROWS), OPTIMIZERS[name](0.03)
    serial = train(net, parameters, data, optimizer, order, BATCH)
    parallel = train(net, parameters, data, optimizer, order, BATCH, n_threads=2)
    assert np.array_equal(serial.parameters, parallel.parameters)
    assert np.array_equal(serial.moments, parallel.moments)
    assert np.array_equal(serial.losses, parallel.losses)


@each_dtype
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_non_temporal_stores_have_the_same_bits(
    name: str, n_threads: int, dtype: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    force_a_team(monkeypatch, "rows", 0)
    net = Net(SIZES, penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order, optimizer = orders(rng, 2, N_ROWS), OPTIMIZERS[name](0.03)
    arguments = (net, parameters, data, optimizer, order, BATCH)
    cached = train(*arguments)
    monkeypatch.setattr(plan, "NON_TEMPORAL_BYTES", 0)
    non_temporal = train(*arguments, n_threads=n_threads)
    assert np.array_equal(cached.parameters, non_temporal.parameters)
    assert np.array_equal(cached.moments, non_temporal.moments)
    assert np.array_equal(cached.losses, non_temporal.losses)


@only_compiled
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_any_number_of_threads_gives_the_same_bits(layer: str, python: Callable[..., str]) -> None:
    """In regions and by threads of ours; in pieces and in parts; with each layer split, or none; by
    rows and by panels."""
    lines = python(SAME_BITS_ON, NUMBA_NUM_THREADS="4", NUMBA_THREADING_LAYER=layer).split()
    safe = layer == "default" and limits.parallel_is_safe()
    assert len(lines) == (1 + safe) * 2 * 2 * 3 * 4
    assert len(set(lines)) == 3
    assert lines == lines[:12] * (len(lines) // 12)
    assert all(lines[i] == lines[i - i % 4] for i in range(12))


@only_compiled
def test_a_step_of_training_allocates_nothing(python: Callable[..., str]) -> None:
    first, ten, thousand = python(ALLOCATIONS, NUMBA_NRT_STATS="1").splitlines()
    assert ten.split()[:2] == thousand.split()[:2]
    assert int(first.split()[-1]) > 0  # else nothing was counted


@only_compiled
def test_python_allocates_the_same_for_ten_steps_and_for_a_thousand(
    rng: np.random.Generator,
) -> None:
    net = Net()
    parameters, data = net.draw(rng, 40)
    moments, order = Moments(net.network), np.arange(40)[None]
    trainer = Engine(net.network, 1).trainer(parameters, moments, SGD(), data, 4)
    coefficients, losses = np.full((1000, 1), 0.01), np.zeros(1000)
    peaks = []
    trainer.run(order, coefficients, losses, 0, 1000)
    for n_steps in (10, 1000):
        tracemalloc.start()
        trainer.run(order, coefficients[:n_steps], losses, 0, n_steps)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= peaks[0] + 1000  # bytes: one a step would be as many
