"""Learning rates per layer and frozen layers: the oracle's training, in every form of a step."""

from itertools import pairwise
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from nets import FORMS, PENALTY_SETS, Net, distance, oracle_run, orders, split, take_form, train

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizer_protocol import coefficients_of
from fastmlp.rules.optimizers import SGD, Adam, AdamW, Nadam, RMSprop
from fastmlp.rules.updates import groups_of

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


def assert_oracles(net: Net, optimizer: Any, batch_size: int, n_threads: int = 1) -> None:
    """Train as the oracle does; what is frozen keeps its bits, and its state its zeros."""
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order = orders(rng, N_EPOCHS, N_ROWS)
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
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_step(form: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_form(form, monkeypatch)
    batch_size = 1 if form == "single row" else N_ROWS
    sizes = (17, 33, 40, 5)
    for penalties, limit in ((), 0.1), ({"l2": 0.3}, None):
        net = Net(sizes, penalties=dict(penalties), layer_rates=CASES[case])
        adamw = AdamW(0.03, decay_biases=False, global_clipnorm=limit)
        assert_oracles(net, adamw, batch_size, n_threads=2)


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
