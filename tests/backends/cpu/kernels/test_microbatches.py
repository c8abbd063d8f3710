"""Microbatches: pieces of a chunk that one thread takes through both phases."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import CASES, outputs_for
from nets import PENALTY_SETS, Net, distance, oracle_gradient, orders, train
from pairwise import all_pairs
from panelled import INTERPRETED

from fastmlp.backends.cpu import tuning
from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.partition import microbatch_rows, rows_by_microbatches
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.network.spec import make_layout
from fastmlp.rules.optimizers import OPTIMIZERS

N_ROWS = 203
layouts = st.lists(st.integers(1, 60), min_size=2, max_size=4).map(
    lambda sizes: make_layout(tuple(sizes))
)
DTYPES = ["float32", "float64"]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microbatches of 56 rows of a batch of 203, though the work is little."""
    monkeypatch.setattr(partition, "MICROBATCH_FLOPS", 0)


@given(layouts, st.integers(1, 10**7))
@settings(derandomize=True, deadline=None)
def test_lots_are_whole_strips_and_four_or_a_multiple(layout: Any, n_rows: int) -> None:
    rows = microbatch_rows(layout, n_rows)
    if rows:
        assert 6 * layout.n_weights * n_rows >= tuning.MICROBATCH_FLOPS
        assert rows % STRIP_ROWS == 0
        n_lots = -(-n_rows // rows)
        assert n_lots <= max(4, -(-4 * n_rows // tuning.MIN_CHUNK_ROWS))
        assert rows * sum(layout.sizes) > 8 * layout.n_weights


@given(layouts, st.integers(1, 10**7), st.integers(1, 10**6))
@settings(derandomize=True, deadline=None)
def test_chunks_are_whole_lots_or_the_batch(layout: Any, n_rows: int, n_packed: int) -> None:
    small = microbatch_rows(layout, n_rows)
    if small:
        rows = rows_by_microbatches(layout, n_rows, small, n_packed)
        assert rows == n_rows or rows % small == 0
        assert rows <= small or -(-rows // small) * n_packed <= tuning.CHUNK_NUMBERS


def test_a_large_batch_of_a_small_net_is_cut_and_no_other() -> None:
    assert microbatch_rows(make_layout((4, 32, 16, 4)), 10_000) == 1256
    assert microbatch_rows(make_layout((4, 32, 16, 4)), 1000) == 0  # 4 MFLOP
    assert microbatch_rows(make_layout((784, 512, 512, 10)), 10_000) == 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("dtype", "loss", "penalties"),
    [(*case.values(),) for case in all_pairs(dtype=DTYPES, loss=[*CASES], penalties=PENALTY_SETS)],
    ids=str,
)
def test_loss_and_gradient_are_the_oracles(
    dtype: str, loss: str, penalties: dict[str, float], rng: Any
) -> None:
    net = Net((5, 20, outputs_for(loss, 3)), "tanh", loss, penalties=penalties, dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    objective = Engine(net.network, 1).objective(data)
    assert objective._session.partition.microbatch_rows
    expected_value, expected = oracle_gradient(net, parameters, data)
    # Buffers are used again, by the same Python where nothing is compiled.
    for _ in range(1 if INTERPRETED else 2):
        value, gradient = objective(parameters)
        assert value == pytest.approx(expected_value, rel=TOLERANCE[dtype])
        assert distance(gradient, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("dtype", "optimizer", "batch_size", "n_at_once"),
    [
        (*case.values(),)
        for case in all_pairs(
            dtype=DTYPES, optimizer=["adam", "sgd"], batch_size=[N_ROWS, 180], n_at_once=[1, 3, 8]
        )
    ],
)
def test_training_by_lots_is_training_at_once_to_rounding(
    dtype: str,
    optimizer: str,
    batch_size: int,
    n_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
    rng: Any,
) -> None:
    net = Net((5, 20, 3), "tanh", penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order, rule = orders(rng, 3, N_ROWS), OPTIMIZERS[optimizer](0.01)
    whole = train(net, parameters, data, rule, order, batch_size)
    monkeypatch.setattr(partition, "MICROBATCH_FLOPS", 0)
    small = microbatch_rows(make_layout(net.sizes), batch_size)
    per_row = 6 * make_layout(net.sizes).n_weights
    monkeypatch.setattr(partition, "CHUNK_FLOPS", per_row * small * n_at_once)
    microbatches = train(net, parameters, data, rule, order, batch_size)
    n_chunks = [-(-n // (small * n_at_once)) for n in (batch_size, N_ROWS - batch_size)]
    assert microbatches.stopped == 3 * sum(n_chunks)
    near = 10 * TOLERANCE[dtype]
    for one, other in zip(microbatches[:3], whole[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=10 * near, atol=near)


@pytest.mark.usefixtures("always")
@each_dtype
def test_the_bits_do_not_depend_on_who_takes_which(
    dtype: str, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    monkeypatch.setattr(cost_model, "pays", lambda work, n_threads: n_threads > 1)
    net = Net((5, 20, 3), "tanh", penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order, adam = orders(rng, 3, N_ROWS), OPTIMIZERS["adam"](0.01)
    runs: list[Any] = []
    slopes = []
    for n_threads in (1, 2, 3, 5):
        runs.append(train(net, parameters, data, adam, order, 180, n_threads=n_threads))
        engine = Engine(net.network, 1)
        engine.n_threads = n_threads
        slopes.append(engine.loss_and_gradient(parameters, data))
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            assert np.array_equal(one, other)
    for value, gradient in slopes[1:]:
        assert value == slopes[0][0]
        assert np.array_equal(gradient, slopes[0][1])


@pytest.mark.usefixtures("always")
def test_rows_by_index_and_rows_of_weight_0(rng: Any) -> None:
    net = Net((5, 20, 3), "tanh", dtype="float64")
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    data.weight[150:] = 0
    rows = rng.permutation(N_ROWS)
    objective = Engine(net.network, 1).objective(data._replace(rows=rows))
    value, gradient = objective(parameters)
    expected_value, expected = oracle_gradient(net, parameters, data)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert distance(gradient, expected) < 1e-12
