"""The same bits on any number of threads, serial or parallel; and steps that allocate nothing."""

import hashlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conditions import count_as_wide, needs_a_team, needs_threads, only_compiled
from nets import FORMS, PENALTY_SETS, Net, orders, take_form, train
from pairwise import all_pairs

from fastmlp import EMA, MLP
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import plan
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.compiler import COMPILER
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from fastmlp.training import loop
from fastmlp.training.options import FitOptions
from fastmlp.training.request import FitRequest

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = (17, 33, 20, 5) if INTERPRETED else (17, 90, 33, 5)
N_ROWS, BATCH = (37, 20) if INTERPRETED else (130, 70)
# Features of a fit: settings of the net.
FEATURES: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": kind(0.03)} for name, kind in OPTIMIZERS.items()},
    "penalties": {"l2": 0.1, "l1": 0.1},
    "softmax": {"loss": "cross_entropy"},
    "clipvalue": {"optimizer": Adam(clipvalue=0.02), "l2": 0.1},
    "clipnorm": {"optimizer": SGD(clipnorm=0.2)},
    "global_clipnorm": {"optimizer": Adam(global_clipnorm=0.3)},
    "average": {"optimizer": Adam(average=EMA(0.9))},
    "dropout": {"dropout": [0.3, 0.1], "input_dropout": 0.1, "input_noise": 0.2},
    "frozen front": {"layer_rates": [0, 0.5, 1], "optimizer": AdamW(decay_biases=False), "l2": 0.3},
    "frozen outputs": {"layer_rates": [{"biases": 0.1}, {"weights": 0}, 0], "l2": 0.3},
    "mixed precision": {"compute_dtype": "bfloat16", "dropout": 0.2},
}

SAME_BITS_ON = """
import hashlib, itertools
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.cpu.engine import Engine
from fastmlp.rules.optimizers import (OPTIMIZERS, AdamW)

dispatch.pays = lambda work, n_threads: n_threads > 1
rng = np.random.default_rng(0)
sizes, rules = (17, 170, 90, 5), {"loss": "cross_entropy", "penalties": {"l2": 0.1, "l1": 0.1}}
nets = [(Net(sizes, dtype="float32", **rules), OPTIMIZERS["adam"](0.03))]
rates = ((0, 0), (0.5, 0.1), (1, 0))
frozen = Net(sizes, "relu", dtype="float32", penalties={"l2": 0.1}, layer_rates=rates)
nets.append((frozen, AdamW(0.03, decay_biases=False)))
order = orders(rng, 2, 200)
each = itertools.product(nets, (1, 1 << 60), (False, True), (0, 1, 2), (1, 2, 3, 4))
for (net, rule), dispatch.PIECE_FLOPS, by_panels, layer, n_threads in each:
    parameters, data = net.draw(np.random.default_rng(1), 200, weighted=True)
    partition.panels_pay = lambda *sizes: by_panels
    partition.split_layer_of = lambda step: layer
    TRAININGS.clear()
    engine = Engine(net.network, 1)
    engine.n_threads = n_threads
    run = train(net, parameters, data, rule, order, 70, n_threads=n_threads)
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
from fastmlp.rules.optimizers import (OPTIMIZERS)

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


def digest(net: MLP, n_threads: int, rows: tuple[Any, ...], batch_size: int) -> str:
    core: Any = core_of(net)
    engine, state = core
    engine.n_threads = n_threads
    data = engine.data(*rows, "MLP.fit")
    fit = FitRequest(data, FitOptions(2, batch_size))
    TRAININGS.clear()
    loop.fit(engine, state, fit)
    value, gradient = engine.loss_and_gradient(net.parameters, data)
    losses = np.array([value, engine.loss(net.parameters, data), *fit.history.loss])
    slots = state.slots()
    arrays = [net.parameters, gradient, losses, *(() if slots is None else slots)]
    for raw in (False, True):
        arrays.append(np.empty((len(rows[0]), SIZES[-1]), net.dtype))
        engine.predict(net.parameters, data.x, arrays[-1], raw=raw)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.few(30)
@needs_threads
@needs_a_team
@pytest.mark.parametrize(
    ("feature", "form", "dtype", "activation"),
    [
        (*case.values(),)
        for case in all_pairs(
            feature=[*FEATURES],
            form=[*FORMS],
            dtype=["float32", "float64"],
            activation=["relu", "tanh"],
        )
    ],
)
def test_several_threads_have_the_bits_of_one(
    feature: str, form: str, dtype: str, activation: str, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    """Each feature of a fit in each form of a step."""
    take_form(form, monkeypatch)
    settings = {"dtype": dtype, "activation": activation, **FEATURES[feature]}
    if feature == "mixed precision":
        if COMPILER == "numba":
            pytest.skip("Numba compiles products of pairs for half a minute")
        settings["dtype"] = "float32"
        count_as_wide(33, monkeypatch)
    n_rows, batch_size = (20, 1) if form == "single row" else (N_ROWS, BATCH)
    x, y = rng.normal(size=(n_rows, SIZES[0])), rng.normal(size=(n_rows, SIZES[-1]))
    rows = x, y.argmax(axis=1) if feature == "softmax" else y, rng.uniform(0.1, 3, n_rows)
    nets = [MLP(SIZES, seed=1, **settings) for _ in range(3)]
    digests = {digest(net, n, rows, batch_size) for net, n in zip(nets, (1, 2, 4), strict=True)}
    assert len(digests) == 1


@each_dtype
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_non_temporal_stores_have_the_same_bits(
    name: str, n_threads: int, dtype: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    take_form("rows", monkeypatch)
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


@pytest.mark.slow
@only_compiled
def test_any_number_of_threads_gives_the_same_bits(python: Callable[..., str]) -> None:
    """In pieces and in parts; with each layer split, or none; by rows and by panels; of a net whose
    first layer is frozen, too."""
    lines = python(SAME_BITS_ON, NUMBA_NUM_THREADS="4").split()
    assert len(lines) == 2 * 2 * 2 * 3 * 4
    half = len(lines) // 2
    for of_net in (lines[:half], lines[half:]):
        assert len(set(of_net)) == 3
        assert of_net == of_net[:12] * (half // 12)
        assert all(of_net[i] == of_net[i - i % 4] for i in range(12))


@pytest.mark.slow
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
