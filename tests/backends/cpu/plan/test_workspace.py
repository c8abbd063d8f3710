"""Buffers and the optimizer's state: rows of a chunk,
what is allocated, and who may go on.
"""

import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fitting import in_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from panelled import INTERPRETED

from fastmlp import MLP, SGD, Adam, AdamW
from fastmlp.backends.cpu import dispatch, trainer, tuning
from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing
from fastmlp.backends.cpu.plan.partition import chunk_rows
from fastmlp.backends.cpu.plan.plan import aligned, make_workspace
from fastmlp.backends.cpu.session import Moments, Session
from fastmlp.backends.cpu.tuning import ALIGNMENT, APART_BYTES, ROW_BLOCK, STRIP_ROWS
from fastmlp.network.spec import Layout, make_layout

# Targets of one kind serve each loss.
pytestmark = pytest.mark.filterwarnings("ignore:rows of y are one-hot")

layouts = st.lists(st.integers(1, 5000), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
for_every_layout = settings(derandomize=True, deadline=None)


@for_every_layout
@given(layouts, st.integers(0, 10**9), st.booleans())
def test_a_chunk_has_a_row_and_is_bounded(
    layout: Layout, n_rows: int, train: bool
) -> None:
    rows = chunk_rows(layout, n_rows, train=train)
    assert 1 <= rows <= max(1, n_rows)
    # All rows, or no small part.
    assert rows == max(1, n_rows) or rows >= tuning.MIN_CHUNK_ROWS // 2
    if rows > tuning.MIN_CHUNK_ROWS and not train:
        # A quarter more, where that saves a short last chunk.
        whole = (rows - 1) * 4 / 5
        assert whole * sum(layout.sizes) <= tuning.CHUNK_NUMBERS
        assert whole * 6 * layout.n_weights <= tuning.CHUNK_FLOPS


@for_every_layout
@given(layouts, st.integers(1, 10**5), st.booleans())
def test_chunks_are_about_equal(layout: Layout, n_rows: int, train: bool) -> None:
    rows = chunk_rows(layout, n_rows, train=train)
    n_chunks = -(-n_rows // rows)
    assert rows * n_chunks - n_rows < STRIP_ROWS * n_chunks


def test_a_batch_a_little_over_a_chunk_is_one_chunk() -> None:
    assert chunk_rows(make_layout((1024, 2048, 2048, 1000)), 512, train=True) == 512


@given(st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
def test_buffers_are_zeros_that_begin_on_a_cache_line(n: int, dtype: type) -> None:
    numbers = aligned(n, dtype)
    assert numbers.shape == (n,)
    assert numbers.dtype == dtype
    assert numbers.ctypes.data % ALIGNMENT == 0 or n == 0
    assert not numbers.any()


@pytest.mark.parametrize("rows", [1, 11, 128, 5000])
@pytest.mark.parametrize(("n_out", "n_targets"), [(2, 1), (2, 6), (1, 1), (900, 900)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_part_of_a_team_has_a_desk_for_a_block_of_rows(
    rows: int, n_out: int, n_targets: int, dtype: type
) -> None:
    layout = make_layout((3, n_out))
    size = np.dtype(dtype).itemsize
    most = min(rows, ROW_BLOCK)
    alone = make_workspace(layout, rows, n_targets, dtype, 4, train=True)
    buffers = make_workspace(layout, rows, n_targets, dtype, 4, train=True, parts=3)
    assert buffers.row_losses.dtype == np.float64
    assert buffers.output_bytes % ALIGNMENT == 0
    # Room for a vector after the columns, and between what two threads write.
    used = max((most * n_out + 4) * size, most * n_targets * size, most * 8)
    assert used <= alone.output_bytes <= buffers.output_bytes - APART_BYTES
    for name in ("raw", "value", "slope", "loss_slope", "targets", "row_losses"):
        assert getattr(alone, name).nbytes == alone.output_bytes
        assert getattr(buffers, name).nbytes == 3 * buffers.output_bytes


SPACINGS = [CLOSE, Spacing(16, 0), Spacing(16, 1), Spacing(32, 2)]
RNG = np.random.default_rng(0)
N_ROWS = 70 if INTERPRETED else 200
X = RNG.normal(size=(N_ROWS, 20)).astype(np.float32)
Y = RNG.normal(size=(N_ROWS, 2)).astype(np.float32)


def trained(n_threads: int) -> list[Any]:
    """The net's state after each of several trainings, which pack it differently."""
    net = MLP((20, 40, 70, 2), optimizer=Adam(0.01), seed=0, n_threads=n_threads)
    seen = []
    for batch_size in (64, 1, 40, 3):
        net.fit(X, Y, epochs=1, batch_size=batch_size)
        seen.append(net.parameters.tobytes())
    net.apply_gradient(net.loss_and_gradient(X, Y)[1])
    seen.append(net.parameters.tobytes())
    net = copy.deepcopy(net)
    net.fit(X, Y, epochs=1, batch_size=64)
    return [*seen, net.parameters.tobytes()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("first", SPACINGS)
@pytest.mark.parametrize("second", SPACINGS)
def test_an_arrangement_moves_every_number(
    dtype: Any, first: Spacing, second: Spacing
) -> None:
    network = Net((20, 40, 70, 2), dtype=dtype).network
    state = RNG.normal(size=(2, network.layout.n_parameters)).astype(dtype)
    moments = Moments(network, state)
    for spacing in (first, second):
        moments.arrange(spacing)
        assert moments.spacing == spacing
        assert np.array_equal(moments.flat(), state)
    assert np.count_nonzero(moments.m) == np.count_nonzero(state[0])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_state_that_has_taken_no_step_is_zeros(spacing: Spacing) -> None:
    network = Net((20, 40, 70, 2), dtype="float32").network
    moments, apart = Moments(network), Moments(network)
    apart.arrange(spacing)
    assert not moments.flat().any()
    assert not apart.flat().any()
    assert len(apart.m) == len(apart.v) >= len(moments.m)
    assert (len(apart.m) > len(moments.m)) == (spacing != CLOSE)


def test_trainings_on_one_thread_and_on_two_share_a_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    assert trained(1) == trained(2)


ROWS, BATCH = 50, 8
CONSTANT = ("identity", "zeros")
KINDS: list[dict[str, Any]] = [
    {"loss": "mse", "optimizer": SGD(0.01)},
    {"loss": "cross_entropy", "optimizer": SGD(0.01, 0.9, nesterov=True), "l2": 1e-3},
    {"loss": "mse", "optimizer": Adam(0.01), "activation": "sigmoid", "l1": 1e-3},
    {"loss": "binary_cross_entropy", "optimizer": AdamW(0.01), "activation": "tanh"},
    {"loss": "huber", "optimizer": Adam(0.01), "activation": "gelu"},
]
CLIPPED = [
    SGD(0.01, clipnorm=0.1),
    SGD(0.01, clipnorm=0.01),
    SGD(0.01, global_clipnorm=0.01),
]


@pytest.fixture(autouse=True)
def kept() -> Iterator[Any]:
    trainer.TRAININGS.clear()
    yield trainer.TRAININGS
    trainer.TRAININGS.clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    seen: list[Session] = []
    original = trainer.Trainer._new_session

    def counted(self: Any, *arguments: Any) -> Session:
        seen.append(original(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(trainer.Trainer, "_new_session", counted)
    return seen


def net_of(kind: dict[str, Any], dtype: Any = "float32", **options: Any) -> MLP:
    return MLP((3, 20, 2), dtype=dtype, seed=0, n_threads=1, **kind, **options)


def rows_of(net: MLP, rng: Any, n: int = ROWS) -> tuple[Any, Any]:
    x = rng.normal(size=(n, 3)).astype(net.dtype)
    y = (x[:, :2] > 0).astype(net.dtype)
    y[:, 1] = 1 - y[:, 0]
    return x, y


def fitted(
    net: MLP, x: Any, y: Any, batch_size: int = BATCH
) -> tuple[Any, list[float]]:
    history = net.fit(x, y, epochs=3, batch_size=batch_size)
    return net.parameters.copy(), history.loss


def spoil(session: Session) -> None:
    for name, buffer in session.workspace._asdict().items():
        if isinstance(buffer, np.ndarray) and name not in CONSTANT:
            buffer.fill(np.nan)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [BATCH, ROWS])
def test_another_net_of_its_kind_gets_the_same_bits_in_spoilt_buffers(
    kind: dict[str, Any],
    dtype: str,
    batch_size: int,
    kept: Any,
    made: list[Session],
    rng: Any,
) -> None:
    net = net_of(kind, dtype)
    x, y = rows_of(net, rng)
    expected, losses = fitted(net, x, y, batch_size)
    spoil(made[0])
    again, twin_losses = fitted(net_of(kind, dtype), x, y, batch_size)
    assert len(made) == 1
    assert np.array_equal(again, expected)
    assert twin_losses == losses


def test_batches_in_several_chunks_sum_their_gradient_anew(
    kept: Any, made: list[Session], rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.backends.cpu.tuning.CHUNK_NUMBERS", 64 * 25)
    net = net_of(KINDS[1])
    x, y = rows_of(net, rng, 200)
    expected, _ = fitted(net, x, y, 200)
    assert made[0].rows < 200
    # The gradient is one of the buffers.
    buffers = [it for it in made[0].workspace if isinstance(it, np.ndarray)]
    assert kept.n_bytes == sum(it.nbytes for it in (*buffers, made[0]._gradient))
    spoil(made[0])
    made[0]._gradient.fill(np.nan)
    again, _ = fitted(net_of(KINDS[1]), x, y, 200)
    assert len(made) == 1
    assert np.array_equal(again, expected)


def test_fewer_rows_more_rows_and_weights_may_follow(
    made: list[Session], rng: Any
) -> None:
    net, fresh = net_of(KINDS[2]), net_of(KINDS[2])
    for n, weight in ((50, None), (20, np.arange(20.0)), (90, None)):
        x, y = rows_of(net, rng, n)
        net.fit(x, y, epochs=2, batch_size=BATCH, sample_weight=weight)
    assert len(made) == 1
    fresh.fit(x, y, epochs=1, batch_size=BATCH)
    assert len(made) == 1


def test_after_a_training_that_diverged(made: list[Session], rng: Any) -> None:
    x, y = rows_of(net_of(KINDS[0]), rng)
    expected, _ = fitted(net_of(KINDS[0]), x, y)
    with pytest.warns(RuntimeWarning, match="diverged"):
        net_of(KINDS[0]).fit(x * 1e18, y, epochs=3, batch_size=BATCH)
    again, _ = fitted(net_of(KINDS[0]), x, y)
    assert len(made) == 1
    assert np.array_equal(again, expected)


@pytest.mark.parametrize(
    "other",
    [
        {"activation": "tanh"},
        {"l2": 0.1},
        {"loss": "mae"},
        {"dtype": "float64"},
        {"n_threads": 2},
    ],
    ids=str,
)
def test_what_differs_makes_its_own(
    other: dict[str, Any], made: list[Session], rng: Any
) -> None:
    options: dict[str, Any] = {"optimizer": Adam(0.01), "n_threads": 1}
    for each in (options, {**options, **other}):
        net = MLP((3, 5, 2), seed=0, **each)
        fitted(net, *rows_of(net, rng))
    assert len(made) == (1 if other == {"n_threads": 2} and net.n_threads == 1 else 2)


def test_strengths_and_optimizers_are_those_of_the_net(
    made: list[Session], rng: Any
) -> None:
    options: list[dict[str, Any]] = [
        {"optimizer": optimizer, "l2": l2}
        for optimizer in (Adam(0.01), SGD(0.01), SGD(0.01, 0.9), AdamW(0.02), *CLIPPED)
        for l2 in (0.1, 10.0)
    ]
    x, y = rows_of(net_of(KINDS[0]), rng)
    expected = []
    for each in options:
        trainer.TRAININGS.clear()
        expected.append(fitted(MLP((3, 20, 2), seed=0, **each), x, y))
    made.clear()
    trainer.TRAININGS.clear()
    for each, (parameters, losses) in zip(options, expected, strict=True):
        again, its_losses = fitted(MLP((3, 20, 2), seed=0, **each), x, y)
        assert np.array_equal(again, parameters)
        assert its_losses == losses
    assert len(made) == 1


@pytest.mark.slow
def test_rows_and_state_are_let_go(kept: Any, rng: Any) -> None:
    net = net_of(KINDS[2])
    x, y = rows_of(net, rng)
    gone = []
    for array in (x, y):
        gone.append(weakref.ref(array))
    fitted(net, x, y)
    assert kept.n_bytes > 0
    gone.append(weakref.ref(net))
    del net, x, y, array
    gc.collect()
    assert [it() for it in gone] == [None] * 3


def test_a_fit_that_is_stopped_by_an_error_leaves_nothing(kept: Any, rng: Any) -> None:
    def fail(report: Any) -> None:
        raise ArithmeticError("mine")

    net = net_of(KINDS[2])
    with pytest.raises(ArithmeticError, match="mine"):
        net.fit(*rows_of(net, rng), epochs=3, batch_size=BATCH, callbacks=[fail])
    assert kept.n_bytes == 0


def test_threads_do_not_share_what_is_in_use(rng: Any) -> None:
    x, y = rows_of(net_of(KINDS[3]), rng)
    expected, _ = fitted(net_of(KINDS[3]), x, y)
    wrong: list[int] = []

    def train(i: int) -> None:
        for _ in range(10):
            again, _ = fitted(net_of(KINDS[3]), x, y)
            if not np.array_equal(again, expected):
                wrong.append(1)

    in_threads(train, 3)
    assert not wrong
