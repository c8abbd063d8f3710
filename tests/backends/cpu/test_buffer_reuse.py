"""The buffers of a fit serve the next one of such a net, which does not notice."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fitting import in_threads

from fastmlp import MLP, SGD, Adam, AdamW
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.trainers import trainer

ROWS, BATCH = 50, 8
CONSTANT = ("identity", "zeros")
KINDS: list[dict[str, Any]] = [
    {"loss": "mse", "optimizer": SGD(0.01)},
    {"loss": "cross_entropy", "optimizer": SGD(0.01, 0.9, nesterov=True), "l2": 1e-3},
    {"loss": "mse", "optimizer": Adam(0.01), "activation": "sigmoid", "l1": 1e-3},
    {"loss": "binary_cross_entropy", "optimizer": AdamW(0.01), "activation": "tanh"},
    {"loss": "huber", "optimizer": Adam(0.01), "activation": "gelu"},
]


CLIPPED = [SGD(0.01, clipnorm=0.1), SGD(0.01, clipnorm=0.01), SGD(0.01, global_clipnorm=0.01)]


@pytest.fixture(autouse=True)
def kept() -> Iterator[Any]:
    """The sessions of ended fits: none before each test and after it."""
    trainer.TRAININGS.clear()
    yield trainer.TRAININGS
    trainer.TRAININGS.clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions of trainings that were made."""
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


def fitted(net: MLP, x: Any, y: Any, batch_size: int = BATCH) -> tuple[Any, list[float]]:
    history = net.fit(x, y, epochs=3, batch_size=batch_size)
    return net.parameters.copy(), history.loss


def spoil(session: Session) -> None:
    """Leave in the buffers what a training leaves that went wrong."""
    for name, buffer in session.workspace._asdict().items():
        if isinstance(buffer, np.ndarray) and name not in CONSTANT:
            buffer.fill(np.nan)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [BATCH, ROWS])
def test_another_net_of_its_kind_gets_the_same_bits_in_spoilt_buffers(
    kind: dict[str, Any], dtype: str, batch_size: int, kept: Any, made: list[Session], rng: Any
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
    monkeypatch.setattr("fastmlp.backends.cpu.plan.partition.CHUNK_NUMBERS", 64 * 25)
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


def test_fewer_rows_more_rows_and_weights_may_follow(made: list[Session], rng: Any) -> None:
    net, fresh = net_of(KINDS[2]), net_of(KINDS[2])
    for n, weight in ((50, None), (20, np.arange(20.0)), (90, None)):
        x, y = rows_of(net, rng, n)
        net.fit(x, y, epochs=2, batch_size=BATCH, sample_weight=weight)
    assert len(made) == 1
    fresh.fit(x, y, epochs=1, batch_size=BATCH)
    assert len(made) == 1


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
def test_what_differs_makes_its_own(other: dict[str, Any], made: list[Session], rng: Any) -> None:
    options: dict[str, Any] = {"optimizer": Adam(0.01), "n_threads": 1}
    for each in (options, {**options, **other}):
        net = MLP((3, 5, 2), seed=0, **each)
        fitted(net, *rows_of(net, rng))
    assert len(made) == (1 if other == {"n_threads": 2} and net.n_threads == 1 else 2)


def test_strengths_and_optimizers_are_those_of_the_net(made: list[Session], rng: Any) -> None:
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


def test_after_a_training_that_diverged(made: list[Session], rng: Any) -> None:
    x, y = rows_of(net_of(KINDS[0]), rng)
    expected, _ = fitted(net_of(KINDS[0]), x, y)
    with pytest.warns(RuntimeWarning, match="diverged"):
        net_of(KINDS[0]).fit(x * 1e18, y, epochs=3, batch_size=BATCH)
    again, _ = fitted(net_of(KINDS[0]), x, y)
    assert len(made) == 1
    assert np.array_equal(again, expected)


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
