"""Training by the engine, with rates per layer and frozen layers:
the oracle's, in any cuts.
"""

from itertools import pairwise
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from nets import (
    FORMS,
    PENALTY_SETS,
    Net,
    Run,
    distance,
    oracle_run,
    orders,
    split,
    take_form,
    train,
)
from pairwise import crossed

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.first_layer import SparseRows
from fastmlp.backends.cpu.session import Moments
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizer_protocol import EMA, Optimizer, coefficients_of
from fastmlp.rules.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    Custom,
    Nadam,
    RMSprop,
    ScheduleFreeAdamW,
)
from fastmlp.rules.updates import groups_of

RULE_FORMS: list[Any] = [
    *(kind(0.03) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9),
    SGD(0.03, momentum=0.9, nesterov=True),
    *(kind(0.03, clipvalue=0.02) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9, clipvalue=0.02),
    SGD(0.03, clipnorm=0.2),
    Adam(0.03, global_clipnorm=0.3),
    Adam(0.03, average=EMA(0.8)),
    SGD(0.03, average=EMA(0.9), clipvalue=0.02),
    SGD(0.03, momentum=0.9, average=EMA(0.95)),
    ScheduleFreeAdamW(0.03, warmup_steps=5, weight_decay=0.1),
    AdamW(0.03, weight_decay=0.5, decay_biases=False),
]
each_form = pytest.mark.parametrize("optimizer", RULE_FORMS, ids=repr)
N_ROWS, N_EPOCHS = 20, 3
CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")


def assert_same_bits(run: Run, other: Run) -> None:
    assert np.array_equal(run.parameters, other.parameters)
    assert np.array_equal(run.moments, other.moments)


@pytest.mark.few(24)
@crossed(
    optimizer=RULE_FORMS,
    penalties=PENALTY_SETS,
    batch_size=[1, 7, N_ROWS],
    weighted=[False, True],
)
def test_training_is_that_of_the_oracle(
    optimizer: Any,
    penalties: dict[str, float],
    batch_size: int,
    weighted: bool,
    rng: np.random.Generator,
) -> None:
    net = Net(penalties=penalties)
    parameters, data = net.draw(rng, N_ROWS, weighted=weighted)
    order = orders(rng, N_EPOCHS, N_ROWS)
    rates = np.geomspace(0.03, 0.01, N_EPOCHS * -(-N_ROWS // batch_size))
    run = train(net, parameters, data, optimizer, order, batch_size, rates=rates)
    losses, after = oracle_run(
        net, parameters, data, optimizer, order, batch_size, rates
    )
    assert distance(run.parameters, after) <= 1e-10
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    assert (run.stopped, run.diverged) == (N_EPOCHS * -(-N_ROWS // batch_size), False)


@each_form
def test_float32_follows_float64(optimizer: Any, rng: np.random.Generator) -> None:
    wide = Net()
    narrow = Net(dtype="float32")
    parameters, data = narrow.draw(rng, N_ROWS)
    exact = Data(*(a.astype(np.float64) for a in data[:3]))
    order = orders(rng, N_EPOCHS, N_ROWS)
    run = train(narrow, parameters, data, optimizer, order, 7)
    expected = train(wide, parameters.astype(np.float64), exact, optimizer, order, 7)
    assert run.parameters.dtype == np.float32
    assert distance(run.parameters, expected.parameters) <= 1e-4
    np.testing.assert_allclose(run.losses, expected.losses, rtol=1e-4)


def test_one_order_serves_every_epoch(rng: np.random.Generator) -> None:
    net = Net()
    order = orders(rng, 1, N_ROWS)
    parameters, data = net.draw(rng, N_ROWS)
    again = np.repeat(order, N_EPOCHS, axis=0)
    expected = train(net, parameters, data, SGD(0.03), again, 7)
    moments = Moments(net.network)
    trainer = Engine(net.network, 1).trainer(parameters, moments, SGD(0.03), data, 7)
    losses = np.zeros(N_EPOCHS)
    trainer.run(order, np.full((9, 1), 0.03), losses, 0, 9)
    trainer.store()
    assert np.array_equal(parameters, expected.parameters)
    assert np.array_equal(losses, expected.losses)


@pytest.mark.few(12)
@each_form
@pytest.mark.parametrize("sizes", [(3, 5, 2), (20, 9, 33, 17, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_penalty_and_the_step_in_one_have_the_bits_of_one_after_the_other(
    optimizer: Any,
    sizes: tuple[int, ...],
    dtype: str,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net(sizes, penalties={"l2": 0.1}, dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS)
    order = orders(rng, 2, N_ROWS)
    in_one = train(net, parameters, data, optimizer, order, 7)
    monkeypatch.setattr(
        "fastmlp.backends.cpu.kernels.rule_blocks.penalised_optimizer", lambda *rules: 0
    )
    apart = train(net, parameters, data, optimizer, order, 7)
    assert_same_bits(in_one, apart)
    assert np.array_equal(in_one.losses, apart.losses)


@each_form
def test_training_cut_anywhere_has_the_same_bits(
    optimizer: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.backends.cpu.tuning.CHUNK_NUMBERS", 0)
    monkeypatch.setattr("fastmlp.backends.cpu.tuning.MIN_CHUNK_ROWS", 4)
    net = Net(penalties={"l2": 0.1})
    parameters, data = net.draw(rng, 13, weighted=True)
    # Batches of 10 and 3 rows in chunks of 4: three units and one an epoch.
    order = orders(rng, 2, 13)
    whole = train(net, parameters, data, optimizer, order, 10)
    assert whole.stopped == 8
    for cut in range(1, 8):
        parts = train(net, parameters, data, optimizer, order, 10, cuts=(cut,))
        assert_same_bits(parts, whole)
        assert np.array_equal(parts.losses, whole.losses)


@pytest.mark.parametrize(
    ("n_rows", "n_epochs", "n_chunks"), [(50, 1, 7), (59, 2, 7 + 2)]
)
def test_training_in_chunks_is_training_at_once_to_rounding(
    n_rows: int,
    n_epochs: int,
    n_chunks: int,
    rng: np.random.Generator,
    monkeypatch: Any,
) -> None:
    net = Net((5, 17, 3), penalties=PENALTY_SETS[-1])
    parameters, data = net.draw(rng, n_rows, weighted=True)
    order = orders(rng, n_epochs, n_rows)
    adam = OPTIMIZERS["adam"](0.03)
    whole = train(net, parameters, data, adam, order, 50)
    monkeypatch.setattr("fastmlp.backends.cpu.tuning.CHUNK_NUMBERS", 0)
    monkeypatch.setattr("fastmlp.backends.cpu.tuning.MIN_CHUNK_ROWS", 7)
    chunks = train(net, parameters, data, adam, order, 50)
    assert whole.stopped == n_epochs * -(-n_rows // 50)
    assert chunks.stopped == n_epochs * n_chunks  # 50 = 6 * 8 + 2 rows, and 9 = 8 + 1
    if n_epochs == 1:
        n = net.network.layout.n_weights
        assert np.array_equal(chunks.parameters[:n], whole.parameters[:n])
        assert np.array_equal(chunks.moments[:, :n], whole.moments[:, :n])
    # Biases' slopes are sums of eight chains a chunk,
    # so they, and then all, differ by rounding.
    np.testing.assert_allclose(
        chunks.parameters, whole.parameters, rtol=1e-11, atol=1e-14
    )
    np.testing.assert_allclose(chunks.moments, whole.moments, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(chunks.losses, whole.losses, rtol=1e-13)


def test_a_batch_without_weight_takes_no_step(rng: np.random.Generator) -> None:
    net = Net(penalties={"l2": 0.1})
    order = np.arange(N_ROWS)[None]
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    data.weight[5:10] = 0
    run = train(net, parameters, data, SGD(0.03, momentum=0.9), order, 5)
    kept = np.delete(np.arange(N_ROWS), np.s_[5:10])
    fewer = Data(*(a[kept] for a in data[:3]))
    expected = train(net, parameters, fewer, SGD(0.03, momentum=0.9), order[:, :15], 5)
    assert_same_bits(run, expected)
    assert np.array_equal(run.losses, expected.losses)
    assert not run.diverged


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch_size", "found_in"), [(5, 9), (N_ROWS, 2)])
def test_divergence_stops_at_the_parameters_of_the_start_of_the_epoch(
    dtype: str, batch_size: int, found_in: int, rng: np.random.Generator
) -> None:
    net = Net(dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS)
    order = np.repeat(np.arange(N_ROWS)[None], 4, axis=0)
    per_epoch = N_ROWS // batch_size
    # The third epoch's first step spoils the weights:
    # its next batch finds out, or its end.
    rates = np.repeat([0.01, 0.01, np.inf, 0.01], per_epoch)
    adam = OPTIMIZERS["adam"](0.01)
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of inf - inf
        run = train(net, parameters, data, adam, order, batch_size, rates=rates)
    before = train(net, parameters, data, adam, order[:2], batch_size)
    assert before.moments.all()
    assert (run.diverged, run.stopped) == (True, found_in)
    assert np.array_equal(run.parameters, before.parameters)
    assert np.array_equal(run.losses[:2], before.losses)
    assert not run.moments.any()


def test_training_goes_on_after_a_divergence(rng: np.random.Generator) -> None:
    net = Net(activation="identity")
    order = np.arange(N_ROWS)[None]
    parameters, data = net.draw(rng, N_ROWS)
    start = parameters.copy()
    moments = Moments(net.network)
    losses = np.zeros(1)
    trainer = Engine(net.network, 1).trainer(parameters, moments, SGD(), data, 5)
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of each overflow
        assert trainer.run(order, np.full((4, 1), 1e200), losses, 0, 4) < 4
    trainer.store()
    assert np.array_equal(parameters, start)
    assert trainer.run(order, np.full((4, 1), 0.03), losses, 0, 4) == 4
    trainer.store()
    assert np.array_equal(
        parameters, train(net, start, data, SGD(0.03), order, 5).parameters
    )


def test_weights_edited_before_a_load_count(rng: np.random.Generator) -> None:
    net = Net((3, 5, 5, 2))
    order = np.arange(N_ROWS)[None]
    parameters, data = net.draw(rng, N_ROWS)
    edited = rng.normal(size=parameters.size)
    expected = train(net, edited, data, SGD(0.03), order, 5)
    moments = Moments(net.network)
    losses = np.zeros(1)
    trainer = Engine(net.network, 1).trainer(parameters, moments, SGD(), data, 5)
    trainer.run(order, np.full((4, 1), 0.03), losses, 0, 4)
    parameters[:] = edited
    trainer.load()
    trainer.run(order, np.full((4, 1), 0.03), losses, 0, 4)
    trainer.store()
    assert np.array_equal(parameters, expected.parameters)


def sign_descent(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return (w - rate if g > 0 else w + rate), m, v


def test_an_optimizer_of_your_own_is_compiled_and_used(
    rng: np.random.Generator,
) -> None:
    net = Net()
    own = Custom(sign_descent, 0.25)
    parameters, data = net.draw(rng, N_ROWS)
    assert isinstance(own, Optimizer)
    run = train(net, parameters, data, own, np.arange(N_ROWS)[None], N_ROWS)
    np.testing.assert_allclose(abs(run.parameters - parameters), 0.25, rtol=1e-12)


def test_unguarded_training_minds_no_nan(rng: np.random.Generator) -> None:
    net = Net()
    order = np.arange(N_ROWS)[None]
    losses = np.zeros(3)
    parameters, data = net.draw(rng, N_ROWS)
    rates = np.full((3, 1), 0.03)
    engine = Engine(net.network, 1)
    rates[1] = np.inf
    moments = engine.moments()
    trainer = engine.trainer(parameters, moments, SGD(), data, N_ROWS, guarded=False)
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of inf - inf
        assert trainer.run(order, rates, losses, 0, 3) == 3
    trainer.store()
    assert not trainer.diverged
    assert np.isfinite(losses).tolist() == [True, True, False]
    assert not np.isfinite(parameters).all()


def test_an_epochs_loss_by_rows_or_by_weights(rng: np.random.Generator) -> None:
    net = Net()
    order = np.arange(N_ROWS)[None]
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    batches = [slice(i, min(i + 8, N_ROWS)) for i in range(0, N_ROWS, 8)]
    engine = Engine(net.network, 1)
    parts = [type(data)(*(array[batch] for array in data[:3])) for batch in batches]
    means = [engine.loss_and_gradient(parameters, part)[0] for part in parts]
    for by_rows in (False, True):
        losses = np.zeros(1)
        moments = engine.moments()
        trainer = engine.trainer(
            parameters.copy(), moments, SGD(), data, 8, by_rows=by_rows
        )
        trainer.run(
            order, np.zeros((len(batches), 1)), losses, 0, trainer.units_per_epoch
        )
        shares = [len(part.x) if by_rows else part.weight.sum() for part in parts]
        assert losses[0] == pytest.approx(np.average(means, weights=shares))


@pytest.mark.parametrize("clip", [{}, *({name: 0.5} for name in CLIPS)], ids=str)
@pytest.mark.parametrize(
    ("array", "value"), [("x", np.nan), ("x", np.inf), ("y", np.nan)]
)
def test_a_number_that_is_not_finite_is_a_divergence(
    array: str, value: float, clip: dict[str, Any], rng: np.random.Generator
) -> None:
    net = Net(activation="relu")
    parameters, data = net.draw(rng, N_ROWS)
    getattr(data, array)[3] = value
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of inf - inf
        run = train(net, parameters, data, SGD(0.03, **clip), orders(rng, 1, N_ROWS), 7)
    assert run.diverged
    assert np.array_equal(run.parameters, parameters)


CASES: dict[str, Any] = {
    "slower front": ((0.1, 0.1), (1, 1), (1, 1)),
    "slower biases": ((1, 0.1), (1, 0.1), (1, 0.1)),
    "frozen front": ((0, 0), (0.5, 0.25), (1, 1)),
    "only the outputs": ((0, 0), (0, 0), (2, 2)),
    "frozen outputs": ((1, 1), (1, 1), (0, 0)),
    "weights here, biases there": ((0, 1), (1, 0), (0, 0.5)),
}
GROUP_OPTIMIZERS: list[Any] = [
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
GROUP_SIZES = (5, 9, 6, 2)
GROUP_ROWS = 20
GROUP_EPOCHS = 1 if INTERPRETED else 2
each_case = pytest.mark.parametrize("case", CASES)


def assert_oracles(
    net: Net, optimizer: Any, batch_size: int, n_threads: int = 1
) -> None:
    """Train as the oracle does; what is frozen keeps its bits,
    and its state its zeros.
    """
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, GROUP_ROWS, weighted=True)
    order = orders(rng, GROUP_EPOCHS, GROUP_ROWS)
    run = train(
        net, parameters, data, optimizer, order, batch_size, n_threads=n_threads
    )
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
        w[:] = of_weights
        b[:] = of_biases
    return weights, biases


@each_case
@pytest.mark.parametrize("penalties", [{}, {"l2": 0.3}, PENALTY_SETS[-1]], ids=str)
def test_training_by_groups_is_that_of_the_oracle(
    case: str, penalties: dict[str, float]
) -> None:
    net = Net(GROUP_SIZES, penalties=penalties, layer_rates=CASES[case])
    for optimizer in GROUP_OPTIMIZERS[4::4] if INTERPRETED else GROUP_OPTIMIZERS:
        for batch_size in (1, 7):
            assert_oracles(net, optimizer, batch_size)


@pytest.mark.few(12)
@each_case
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_step(
    form: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_form(form, monkeypatch)
    batch_size = 1 if form == "single row" else GROUP_ROWS
    sizes = (17, 33, 40, 5)
    clips: list[Any] = [{}, {"global_clipnorm": 0.1}, {"clipnorm": 0.1}]
    for penalties, clip in zip(({"l2": 0.3}, {}, PENALTY_SETS[-1]), clips, strict=True):
        net = Net(sizes, penalties=penalties, layer_rates=CASES[case])
        assert_oracles(
            net, AdamW(0.03, decay_biases=False, **clip), batch_size, n_threads=2
        )


@each_case
@pytest.mark.parametrize(
    "clip", [{}, {"clipnorm": 0.3}, {"global_clipnorm": 0.3}], ids=str
)
def test_sparse_rows_train_as_dense_ones(clip: Any, case: str) -> None:
    net = Net(GROUP_SIZES, penalties={"l2": 0.3}, layer_rates=CASES[case])
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, GROUP_ROWS)
    data.x[rng.uniform(size=data.x.shape) < 0.7] = 0
    rows = scipy.sparse.csr_array(data.x)
    sparse = data._replace(
        x=SparseRows(rows.data, rows.indices, rows.indptr, GROUP_SIZES[0])
    )
    order = orders(rng, 2, GROUP_ROWS)
    adam = Adam(0.03, **clip)
    results = []
    groups = groups_of(adam, net.network.factors).groups
    for each in (data, sparse):
        engine = Engine(net.network, 1)
        flat = parameters.copy()
        losses = np.zeros(2)
        moments = engine.moments(sparse=each is sparse)
        trainer = engine.trainer(flat, moments, adam, each, 7)
        trainer.run(
            order, coefficients_of(adam, 1, np.full(6, 0.03), groups), losses, 0, 6
        )
        trainer.store()
        results.append((flat, moments.flat(), losses))
    for dense, other in zip(*results, strict=True):
        # A norm is summed in another order.
        np.testing.assert_allclose(other, dense, rtol=0, atol=1e-13 if clip else 0)


@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_the_backward_pass_ends_above_the_lowest_layer_that_trains(lowest: int) -> None:
    rates = tuple((float(i == lowest), float(i == lowest)) for i in range(3))
    net = Net(GROUP_SIZES, "relu", layer_rates=rates)
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, GROUP_ROWS)
    engine = Engine(net.network, 1)
    trainer = Trainer(engine, parameters, engine.moments(), SGD(0.03), data, GROUP_ROWS)
    session = trainer.session
    session.workspace.deltas.fill(np.nan)
    trainer.run(orders(rng, 1, GROUP_ROWS), np.full((1, 1), 0.03), np.zeros(1), 0, 1)
    ends = [
        *session.plan.layers.deltas,
        session.plan.layers.deltas[-1] + 8 * GROUP_ROWS,
    ]
    panels = session.workspace.deltas
    start = session.plan.layers.deltas[0]
    computed = [
        not np.isnan(panels[(low - start) // 8 : (high - start) // 8][:8]).any()
        for low, high in pairwise(ends)
    ]
    assert computed == [i >= lowest for i in range(3)]
