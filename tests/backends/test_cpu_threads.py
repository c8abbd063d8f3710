"""The same bits on any number of threads, serial or parallel; and steps that allocate nothing."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from nets import PENALTY_SETS, Net, orders, train

from fastmlp.backends.cpu import drive, launch
from fastmlp.backends.cpu import engine as engine_module
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.microkernel import ROW_BLOCK
from fastmlp.optimizers import OPTIMIZERS, SGD

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
only_compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="uncompiled kernels are Python and do allocate"
)
needs_threads = pytest.mark.skipif(
    launch.thread_limit() < 2 or not launch.parallel_is_safe(),
    reason="on one CPU, or on Numba's workqueue layer, every launch is serial",
)

SAME_BITS_ON = """
import sys
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import launch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.optimizers import OPTIMIZERS

launch.PARALLEL_FLOPS = 0
rng = np.random.default_rng(0)
net = Net((17, 33, 5), loss="cross_entropy", penalties={"l2": 0.1, "l1": 0.1}, dtype="float32")
parameters, data = net.draw(rng, 200, weighted=True)
order = orders(rng, 2, 200)
for n_threads in (1, 2, 3, 4):
    engine = Engine(net.network, 1)
    engine.n_threads = n_threads
    run = train(net, parameters, data, OPTIMIZERS["adam"](0.03), order, 70, n_threads=n_threads)
    out = np.empty((200, 5), np.float32)
    engine.predict(parameters, data.x, out)
    loss, gradient = engine.loss_and_gradient(parameters, data)
    losses = np.array([engine.loss(parameters, data), loss, *run.losses])
    print(b"".join(a.tobytes() for a in (run.parameters, run.moments, out, gradient, losses)).hex())
"""

ALLOCATIONS = """
import numpy as np
from nets import Net
from numba.core.runtime import rtsys
from fastmlp.backends.cpu import launch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.optimizers import OPTIMIZERS

net = Net((3, 5, 2), penalties={"l2": 0.1, "l1": 0.1})
parameters, data = net.draw(np.random.default_rng(0), 40, weighted=True)
optimizer, moments = OPTIMIZERS["adam"](0.01), np.zeros((2, parameters.size))
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


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A serial and a parallel engine for a net, however small the work."""

    def engines(net: Net) -> tuple[Engine, Engine]:
        monkeypatch.setattr(launch, "PARALLEL_FLOPS", 0)
        serial, parallel = Engine(net.network, 1), Engine(net.network, 2)
        assert serial.launch(1)[0] is drive.SERIAL
        assert parallel.launch(1)[0] is drive.PARALLEL
        return serial, parallel

    return engines


@needs_threads
@each_dtype
def test_loss_and_gradient_have_the_same_bits_in_parallel(
    dtype: str, twins: Any, rng: np.random.Generator
) -> None:
    net = Net((17, 33, 5), penalties=PENALTY_SETS[-1], dtype=dtype)
    serial, parallel = twins(net)
    parameters, data = net.draw(rng, 200, weighted=True)
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
    parameters, data = net.draw(rng, 200)
    outs = [np.empty((200, 5), dtype) for _ in range(2)]
    for engine, out in zip(twins(net), outs, strict=True):
        engine.predict(parameters, data.x, out, raw=raw)
    assert np.array_equal(*outs)


@needs_threads
@pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="uncompiled, it takes minutes and one thread"
)
@each_dtype
@pytest.mark.parametrize("sizes", [(784, 100, 10), (2, 3000, 2)], ids=str)
def test_predictions_of_a_wide_net_have_the_same_bits_in_parallel(
    dtype: str, sizes: tuple[int, ...], twins: Any, rng: np.random.Generator
) -> None:
    # So wide that a chunk is 64 rows: each thread must have as many of its own.
    net = Net(sizes, "relu", dtype=dtype)
    parameters, data = net.draw(rng, 300)
    outs = [np.empty((300, sizes[-1]), dtype) for _ in range(2)]
    for engine, out in zip(twins(net), outs, strict=True):
        engine.predict(parameters, data.x, out)
    assert np.array_equal(*outs)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("width", [3, 784, 100_000])
def test_predictions_have_rows_of_the_buffers_for_every_thread(
    n_threads: int, width: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    made: list[engine_module.Session] = []

    class Recorded(engine_module.Session):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(engine_module, "Session", Recorded)
    net = Net((width, 2))
    parameters, data = net.draw(rng, 1)
    engine = Engine(net.network, 1)
    engine.n_threads = n_threads
    engine.predict(parameters, data.x, np.empty((1, 2)))
    (session,) = made
    assert session.workspace.panel_rows >= n_threads * ROW_BLOCK


@needs_threads
@each_dtype
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_has_the_same_bits_in_parallel(
    dtype: str, name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(launch, "PARALLEL_FLOPS", 0)
    net = Net((17, 33, 5), penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, 130, weighted=True)
    order, optimizer = orders(rng, 2, 130), OPTIMIZERS[name](0.03)
    serial = train(net, parameters, data, optimizer, order, 70)
    parallel = train(net, parameters, data, optimizer, order, 70, n_threads=2)
    assert np.array_equal(serial.parameters, parallel.parameters)
    assert np.array_equal(serial.moments, parallel.moments)
    assert np.array_equal(serial.losses, parallel.losses)


@only_compiled
def test_any_number_of_threads_gives_the_same_bits(python: Callable[..., str]) -> None:
    lines = python(SAME_BITS_ON, NUMBA_NUM_THREADS="4").split()
    assert len(lines) == 4
    assert len(set(lines)) == 1


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
    moments, order = np.zeros((2, parameters.size)), np.arange(40)[None]
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
