"""Learning rates per layer and frozen layers: the oracle's training, in every form of a step."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from conditions import needs_a_team, needs_threads
from nets import PENALTY_SETS, Net, distance, orders, split, train

from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import SGD, Adam, AdamW, Nadam, RMSprop, coefficients_of

CASES: dict[str, Any] = {
    "slower front": ((0.1, 0.1), (1, 1), (1, 1)),
    "slower biases": ((1, 0.1), (1, 0.1), (1, 0.1)),
    "frozen front": ((0, 0), (0.5, 0.25), (1, 1)),
    "only the outputs": ((0, 0), (0, 0), (2, 2)),
    "frozen outputs": ((1, 1), (1, 1), (0, 0)),
    "weights here, biases there": ((0, 1), (1, 0), (0, 0.5)),
}
OPTIMIZERS: list[Any] = [
    SGD(0.03),
    SGD(0.03, momentum=0.9),
    Adam(0.03, clipvalue=0.02),
    AdamW(0.03, weight_decay=0.5),
    AdamW(0.03, weight_decay=0.5, decay_biases=False),
    RMSprop(0.03),
    Nadam(0.03),
    SGD(0.03, clipnorm=0.2),
    AdamW(0.03, decay_biases=False, global_clipnorm=0.3),
]
SIZES, N_ROWS, N_EPOCHS = (5, 9, 6, 2), 20, 1 if INTERPRETED else 2
each_case = pytest.mark.parametrize("case", CASES)


SAME_BITS_ON = """
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.plan import partition
from fastmlp.rules.optimizers import AdamW

dispatch.pays = lambda work, n_threads: n_threads > 1
rates = ((0, 0), (0.5, 0.1), (1, 0))
net = Net((17, 90, 33, 5), "relu", dtype="float32", penalties={"l2": 0.1}, layer_rates=rates)
rng = np.random.default_rng(0)
parameters, data = net.draw(rng, 80, weighted=True)
order, adamw = orders(rng, 1, 80), AdamW(0.03, decay_biases=False)
for split_layer in (0, 2):
    partition.split_layer_of = lambda step: split_layer
    for by_panels, n_threads in ((False, 1), (True, 2), (False, 4), (True, 4)):
        partition.panels_pay = lambda *sizes: by_panels
        run = train(net, parameters, data, adamw, order, 70, n_threads=n_threads)
        print(b"".join(a.tobytes() for a in (run.parameters, run.moments, run.losses)).hex())
"""


def oracle_run(net: Net, parameters: Any, data: Data, optimizer: Any, order: Any, size: int) -> Any:
    """The oracle's losses and flat parameters."""
    assert isinstance(data.x, np.ndarray)
    losses, *after = naive.train(
        *split(net, parameters),
        data.x,
        data.y,
        [np.split(rows, np.arange(size, len(rows), size)) for rows in order],
        optimizer=optimizer.rule.__name__.removeprefix("sgd_"),
        settings=asdict(optimizer),
        sample_weight=data.weight if data.weight.size else None,
        factors=net.layer_rates or None,
        **net.oracle,
    )
    return np.array(losses), naive.flatten(*after)


def assert_oracles(
    net: Net, optimizer: Any, batch_size: int, n_rows: int = N_ROWS, n_threads: int = 1
) -> None:
    """Train as the oracle does; what is frozen keeps its bits, and its state its zeros."""
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, n_rows, weighted=True)
    order = orders(rng, N_EPOCHS, n_rows)
    run = train(net, parameters, data, optimizer, order, batch_size, n_threads=n_threads)
    losses, after = oracle_run(net, parameters, data, optimizer, order, batch_size)
    assert distance(run.parameters, after) <= 1e-10
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    frozen = naive.flatten(*_factors(net)) == 0
    assert np.array_equal(run.parameters[frozen], parameters[frozen])
    assert (run.parameters[~frozen] != parameters[~frozen]).any()
    assert not run.moments[:, frozen].any()


def _factors(net: Net) -> Any:
    weights, biases = split(net, np.zeros(net.network.layout.n_parameters))
    pairs = net.layer_rates or ((1, 1),) * len(weights)
    for w, b, (of_weights, of_biases) in zip(weights, biases, pairs, strict=True):
        w[:], b[:] = of_weights, of_biases
    return weights, biases


@each_case
@pytest.mark.parametrize("penalties", [{}, {"l2": 0.3}, PENALTY_SETS[-1]], ids=str)
def test_training_is_that_of_the_oracle(case: str, penalties: dict[str, float]) -> None:
    net = Net(SIZES, penalties=penalties, layer_rates=CASES[case])
    for optimizer in OPTIMIZERS[4::4] if INTERPRETED else OPTIMIZERS:
        for batch_size in (1, 7):
            assert_oracles(net, optimizer, batch_size)


def test_biases_that_do_not_decay_are_the_oracles() -> None:
    assert_oracles(Net(SIZES, penalties={"l2": 0.3}), OPTIMIZERS[4], 7)


@each_case
@pytest.mark.parametrize("form", ["chunks", "microbatches", "by rows", "split-K", "by panels"])
def test_every_form_of_a_step(form: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "chunks":
        monkeypatch.setattr(partition, "CHUNK_NUMBERS", 0)
        monkeypatch.setattr(partition, "MIN_CHUNK_ROWS", 4)
    elif form == "microbatches":
        monkeypatch.setattr(partition, "MICROBATCH_FLOPS", 0)
    else:
        force_a_team(monkeypatch, by_panels=form == "by panels", split_layer=form == "split-K")
    n_rows = 60 if form == "microbatches" else 20
    sizes = (17, 33, 40, 5)
    for penalties, limit in ((), 0.1), ({"l2": 0.3}, None):
        net = Net(sizes, penalties=dict(penalties), layer_rates=CASES[case])
        adamw = AdamW(0.03, decay_biases=False, global_clipnorm=limit)
        assert_oracles(net, adamw, n_rows, n_rows, 1 if form == "chunks" else 2)


def force_a_team(
    monkeypatch: pytest.MonkeyPatch, *, by_panels: bool = False, split_layer: int = 0
) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    monkeypatch.setattr(partition, "SHARED_FLOPS", 0)
    monkeypatch.setattr(partition, "panels_pay", lambda *sizes: by_panels)
    monkeypatch.setattr(partition, "split_layer_of", lambda step: int(split_layer))


@needs_threads
@each_case
@pytest.mark.parametrize("split_layer", [0, 2])
@pytest.mark.parametrize("by_panels", [False, True])
@needs_a_team
def test_several_threads_give_the_bits_of_one(
    by_panels: bool, split_layer: int, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_a_team(monkeypatch, by_panels=by_panels, split_layer=split_layer)
    net = Net((17, 90, 33, 5), "relu", penalties={"l2": 0.3}, layer_rates=CASES[case])
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, 130, weighted=True)
    arguments = (net, parameters, data, AdamW(0.03), orders(rng, 2, 130), 70)
    one, two = train(*arguments), train(*arguments, n_threads=2)
    assert np.array_equal(one.parameters, two.parameters)
    assert np.array_equal(one.moments, two.moments)
    assert np.array_equal(one.losses, two.losses)


@needs_a_team
def test_four_threads_give_the_bits_of_one(python: Callable[..., str]) -> None:
    lines = python(SAME_BITS_ON, NUMBA_NUM_THREADS="4").split()
    assert len(lines) == 8
    assert lines[:4] == [lines[0]] * 4
    assert lines[4:] == [lines[4]] * 4


@each_case
def test_sparse_rows_train_as_dense_ones(case: str) -> None:
    net = Net(SIZES, penalties={"l2": 0.3}, layer_rates=CASES[case])
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, N_ROWS)
    data.x[rng.uniform(size=data.x.shape) < 0.7] = 0
    rows = scipy.sparse.csr_array(data.x)
    sparse = data._replace(x=SparseRows(rows.data, rows.indices, rows.indptr, SIZES[0]))
    order, adam, results = orders(rng, 2, N_ROWS), Adam(0.03), []
    groups = groups_of(adam, net.network.factors).groups
    for each in (data, sparse):
        engine, flat, losses = Engine(net.network, 1), parameters.copy(), np.zeros(2)
        moments = engine.moments(sparse=each is sparse)
        trainer = engine.trainer(flat, moments, adam, each, 7)
        trainer.run(order, coefficients_of(adam, 1, np.full(6, 0.03), groups), losses, 0, 6)
        trainer.store()
        results.append((flat, moments.flat(), losses))
    for dense, other in zip(*results, strict=True):
        assert np.array_equal(dense, other)


@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_the_backward_pass_ends_above_the_lowest_layer_that_trains(lowest: int) -> None:
    rates = tuple((float(i == lowest), float(i == lowest)) for i in range(3))
    net = Net(SIZES, "relu", layer_rates=rates)
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, N_ROWS)
    engine = Engine(net.network, 1)
    trainer = Trainer(engine, parameters, engine.moments(), SGD(0.03), data, N_ROWS)
    session = trainer.session
    session.workspace.deltas.fill(np.nan)
    trainer.run(orders(rng, 1, N_ROWS), np.full((1, 1), 0.03), np.zeros(1), 0, 1)
    ends = [*session.plan.layers.deltas, session.plan.layers.deltas[-1] + 8 * N_ROWS]
    panels, start = session.workspace.deltas, session.plan.layers.deltas[0]
    computed = [
        not np.isnan(panels[(low - start) // 8 : (high - start) // 8][:8]).any()
        for low, high in pairwise(ends)
    ]
    assert computed == [i >= lowest for i in range(3)]
