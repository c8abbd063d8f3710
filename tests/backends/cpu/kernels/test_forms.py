"""Forms of a step: by rows, panels, halves and microbatches, by single rows, and the plain one."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from conditions import only_compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import CASES, draw_targets, outputs_for
from nets import PENALTY_SETS, Net, distance, oracle_gradient, orders, scene, train
from pairwise import all_pairs
from panelled import INTERPRETED

from fastmlp import EMA, MLP, SGD, Adam
from fastmlp.backends.cpu import session, tuning
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.forward_backward import EVALUATE, TRAIN
from fastmlp.backends.cpu.kernels.shared_layers import forward_backward_by_panels
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.plan.partition import microbatch_rows, rows_by_microbatches
from fastmlp.backends.cpu.plan.records import FEATURES, BlockAddresses, Layer, Watch
from fastmlp.backends.cpu.plan.records import Net as NetRecord
from fastmlp.backends.cpu.trainer import TRAININGS, Trainer
from fastmlp.backends.cpu.tuning import LEAST_PACKED, STRIP_ROWS
from fastmlp.compiler import COMPILER, block_of
from fastmlp.network.spec import make_layout
from fastmlp.rules.optimizer_protocol import coefficients_of
from fastmlp.rules.optimizers import OPTIMIZERS

DTYPES = ["float32", "float64"]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(5, 19, 1), (5, 19, 20, 2), (5, 19, 33)], ids=str)
def test_rows_have_the_same_errors_by_strips(
    sizes: tuple[int, ...], activation: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a team begins in the middle of a panel of errors transposed."""
    at = scene(monkeypatch, Net(sizes, activation, dtype=dtype), 45)  # six strips
    assert at.session.plan.layers[-1].is_transposed == (sizes[-1] < 3)

    def in_parts(n_parts: int) -> Any:
        block = at.session.blocks["forward_backward"]
        return lambda: block(0, at.net, n_parts, TRAIN, 0)

    assert len({at.gradient(in_parts(n_parts)) for n_parts in (1, 2, 4, 6, 9)}) == 1


@each_dtype
def test_a_loss_alone_computes_no_deltas(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = scene(monkeypatch, Net((17, 90, 33, 5), "relu", dtype=dtype), 45, by_panels=True)
    by_panels = block_of(forward_backward_by_panels, dtype)
    losses = at.session.plan.strip_losses[:6]
    at.gradient(lambda: by_panels(0, at.net, 2, TRAIN, 0))
    trained = losses.copy()
    at.session.workspace.deltas.fill(7)
    losses.fill(0)
    by_panels(0, at.net, 2, EVALUATE, 0)
    assert losses.tobytes() == trained.tobytes()
    assert (at.session.workspace.deltas == 7).all()


@only_compiled
@each_dtype
@pytest.mark.parametrize("split_layer", [0, 1, 2])
@pytest.mark.skipif(LEAST_PACKED[0] > 96, reason="packs no rows")
def test_packed_rows_change_no_bits(
    split_layer: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net((130, 100, 98, 3), "relu", dtype=dtype)
    at = scene(monkeypatch, net, 133, split_layer=split_layer, by_panels=True)
    by_rows, by_panels = at.session.blocks["forward_backward"], forward_backward_by_panels
    blocks, ways = at.session.plan.blocks[0], (by_rows, block_of(by_panels, dtype))

    def bits() -> set[Any]:
        return {at.gradient(partial(way, 0, at.net, 3, TRAIN, 0)) for way in ways}

    assert blocks.packed_product
    packed, blocks.packed_product = bits(), 0
    assert len(packed) == 1
    assert packed == bits()


TOLERANCE = {"float64": 1e-10, "float32": 2e-5}


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize(
    ("sizes", "split_layer"),
    [
        ((40, 33), 1),
        ((70, 19, 3), 1),
        ((37, 12, 2), 1),
        ((5, 70, 40, 3), 2),
        ((3, 33, 17), 2),
        ((130, 100, 98, 3), 1),
        ((130, 100, 98, 3), 2),
    ],
)
@pytest.mark.parametrize("n_rows", [1, 7, 37 if INTERPRETED else 133])
def test_gradient_by_halves_is_that_of_the_oracle(
    n_rows: int,
    sizes: tuple[int, ...],
    split_layer: int,
    activation: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    net = Net(sizes, activation, penalties={"l2": 0.1}, dtype=dtype)
    parameters, data = net.draw(rng, n_rows, weighted=True)
    value, gradient = Engine(net.network, 1).loss_and_gradient(parameters, data)
    expected, slopes = oracle_gradient(net, parameters, data)
    assert gradient.dtype == net.dtype
    assert value == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)
    assert distance(gradient, slopes) <= TOLERANCE[dtype]


BATCH = 203
layouts = st.lists(st.integers(1, 60), min_size=2, max_size=4).map(
    lambda sizes: make_layout(tuple(sizes))
)
TOLERANCE_OF_LOTS = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microbatches of 56 rows of a batch of 203, though the work is little."""
    monkeypatch.setattr(partition, "MICROBATCH_FLOPS", 0)


@pytest.mark.slow
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


@pytest.mark.few(12)
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
    parameters, data = net.draw(rng, BATCH, weighted=True)
    objective = Engine(net.network, 1).objective(data)
    assert objective.session.partition.microbatch_rows
    expected_value, expected = oracle_gradient(net, parameters, data)
    # Buffers are used again, by the same Python where nothing is compiled.
    for _ in range(1 if INTERPRETED else 2):
        value, gradient = objective(parameters)
        assert value == pytest.approx(expected_value, rel=TOLERANCE_OF_LOTS[dtype])
        assert distance(gradient, expected) < TOLERANCE_OF_LOTS[dtype]


@pytest.mark.parametrize(
    ("dtype", "optimizer", "batch_size", "n_at_once"),
    [
        (*case.values(),)
        for case in all_pairs(
            dtype=DTYPES, optimizer=["adam", "sgd"], batch_size=[BATCH, 180], n_at_once=[1, 3, 8]
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
    parameters, data = net.draw(rng, BATCH, weighted=True)
    order, rule = orders(rng, 3, BATCH), OPTIMIZERS[optimizer](0.01)
    whole = train(net, parameters, data, rule, order, batch_size)
    monkeypatch.setattr(partition, "MICROBATCH_FLOPS", 0)
    small = microbatch_rows(make_layout(net.sizes), batch_size)
    per_row = 6 * make_layout(net.sizes).n_weights
    monkeypatch.setattr(partition, "CHUNK_FLOPS", per_row * small * n_at_once)
    microbatches = train(net, parameters, data, rule, order, batch_size)
    n_chunks = [-(-n // (small * n_at_once)) for n in (batch_size, BATCH - batch_size)]
    assert microbatches.stopped == 3 * sum(n_chunks)
    near = 10 * TOLERANCE_OF_LOTS[dtype]
    for one, other in zip(microbatches[:3], whole[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=10 * near, atol=near)


@pytest.mark.usefixtures("always")
def test_rows_by_index_and_rows_of_weight_0(rng: Any) -> None:
    net = Net((5, 20, 3), "tanh", dtype="float64")
    parameters, data = net.draw(rng, BATCH, weighted=True)
    data.weight[150:] = 0
    rows = rng.permutation(BATCH)
    objective = Engine(net.network, 1).objective(data._replace(rows=rows))
    value, gradient = objective(parameters)
    expected_value, expected = oracle_gradient(net, parameters, data)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert distance(gradient, expected) < 1e-12


FEW_ROWS, RATE = 6, 1e-5
# The last layer of few outputs, or not; a hidden one; the only one; more than two panels of units;
# more than four.
SHAPES = [(5, 40, 19, 2), (5, 19, 20), (20, 3, 9, 3), (40, 1), (3, 7), (35, 70, 33, 1), (9, 90, 2)]
SHAPES = SHAPES[:3] if INTERPRETED else SHAPES
each_shape = pytest.mark.parametrize("sizes", SHAPES, ids=str)
each_optimizer = pytest.mark.parametrize("kind", ["sgd", "adam"])


def trainer_of(net: Net, optimizer: Any, parameters: Any, data: Any, **options: Any) -> Trainer:
    moments = Moments(net.network, None)
    return Trainer(Engine(net.network, 1), parameters, moments, optimizer, data, 1, **options)


def trained(net: Net, optimizer: Any, fill: float | None) -> list[Any]:
    """Parameters and losses after an epoch; with anything in place of the padding."""
    rng = np.random.default_rng(2)
    parameters, data = net.draw(rng, FEW_ROWS)
    trainer = trainer_of(net, optimizer, parameters, data)
    session = trainer.session
    if fill is not None:
        packed, copies = session.workspace.parameters, session.workspace.copies
        session.load(np.ones_like(parameters))
        # Past the last number is room for what is read and never used.
        ours, theirs = packed == 0, copies == 0
        ours[np.flatnonzero(packed)[-1] + 1 :] = False
        session.load(parameters)
        packed[ours], copies[theirs] = fill, fill
    losses, rates = np.zeros(1), RATE * np.linspace(1, 2, FEW_ROWS)
    trainer.begin()
    order = rng.permutation(FEW_ROWS)[None]
    trainer.run(order, coefficients_of(optimizer, 1, rates), losses, 0, FEW_ROWS)
    trainer.store()
    return [parameters, losses]


@each_dtype
@each_shape
@each_optimizer
def test_nothing_reads_the_padding(dtype: str, sizes: tuple[int, ...], kind: str) -> None:
    net, optimizer = Net(sizes, "sigmoid", dtype=dtype), OPTIMIZERS[kind]()
    plain, filled = (trained(net, optimizer, fill) for fill in (None, np.nan))
    assert [it.tobytes() for it in filled] == [it.tobytes() for it in plain]


@pytest.mark.parametrize("loss", [name for name in CASES if outputs_for(name, 3) == 3])
def test_a_fit_learns_by_any_loss_and_has_the_same_bits_with_threads(loss: Any, rng: Any) -> None:
    n_rows = 20 if INTERPRETED else 60
    X, y = rng.normal(size=(n_rows, 7)), draw_targets(loss, rng, n_rows, 3)
    fits = []
    for n_threads in (1, 2):
        net = MLP((7, 20, 3), loss=CASES[loss], optimizer=SGD(0.003), seed=1, n_threads=n_threads)
        fits.append((net.fit(X, y, epochs=5, batch_size=1).loss, net.parameters.tobytes()))
    assert fits[0] == fits[1]
    assert fits[0][0][-1] < fits[0][0][0]


SIZES = (12, 20, 3)
# Settings of a net that use a feature.
USES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "noise": {"input_noise": 0.1},
    "clipping by norm": {"optimizer": Adam(global_clipnorm=0.1)},
    "an average": {"optimizer": Adam(average=EMA(0.9))},
    "pairs": {"compute_dtype": ["bfloat16", "float32"], "dtype": "float32"},
}


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    ended: list[bool] = []
    rest = session.Session.rest

    def noted(ending: session.Session) -> None:
        ended.append(ending.plain)
        plan = ending.plan
        tables = (plan.net, NetRecord), (plan.layers, Layer), (plan.blocks, BlockAddresses)
        assert not (ending.plain and any(Watch(*table).sees() for table in tables))
        rest(ending)

    monkeypatch.setattr(session.Session, "rest", noted)
    return ended


def fitted(settings: dict[str, Any], fit: dict[str, Any]) -> bytes:
    X = np.random.default_rng(3).standard_normal((90, SIZES[0]))
    net = MLP(SIZES, **{"seed": 1, "n_threads": 1, **settings})
    net.fit(X, np.tanh(X[:, : SIZES[-1]]), **{"epochs": 2, "batch_size": 32, **fit})
    return bytes(net.parameters.tobytes() + net.predict(X).tobytes())


@pytest.mark.parametrize("seed", range(12))
def test_it_has_the_bits_of_the_general_form(
    seed: int, forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    settings = {
        "activation": str(rng.choice(["relu", "tanh", "identity"])),
        "optimizer": [Adam(), SGD(0.01), SGD(0.01, momentum=0.9)][rng.integers(3)],
        "dtype": str(rng.choice(["float32", "float64"])),
        "l2": float(rng.choice([0, 0.01])),
        "n_threads": int(rng.integers(1, 3)),
    }
    fit = {"batch_size": int(rng.choice([1, 5, 8, 33, 90]))}
    plain = fitted(settings, fit)
    # A kept session looks again only where something has changed.
    monkeypatch.setattr(TRAININGS, "take", lambda key: None)
    monkeypatch.setattr(Watch, "sees", lambda self: True)
    assert fitted(settings, fit) == plain
    assert forms == [COMPILER == "translator", False]


@pytest.mark.parametrize("name", USES)
def test_a_feature_in_use_takes_the_general_form(name: str, forms: list[bool]) -> None:
    fitted(USES[name], {})
    assert forms == [False]


def test_a_kept_session_changes_its_form_with_its_rows(
    forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"optimizer": Adam()}
    first = fitted(settings, {})
    monkeypatch.setattr(session, "prefetches_rows_of", lambda x, rows: True)
    assert fitted(settings, {}) == first
    fitted({"optimizer": Adam(global_clipnorm=0.1)}, {})
    monkeypatch.undo()
    assert fitted(settings, {}) == first
    assert forms[:3] == [COMPILER == "translator", False, False]


@pytest.mark.parametrize("kind", FEATURES)
def test_each_field_counts(kind: Any) -> None:
    table = np.zeros(3, kind.dtype)
    for name in set(kind.dtype.names) - set(FEATURES[kind]):
        table[name] = 1
    watch = Watch(table, kind)
    assert not watch.sees()
    for name in FEATURES[kind]:
        table[name][-1] = 1
        assert watch.sees()
        table[name][-1] = 0
