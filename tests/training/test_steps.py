"""Single steps of the user's own loop:
to the bit those of `fit`, whatever happens between them.
"""

import copy
import dataclasses
import gc
import itertools
import os
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import naive
import numpy as np
import pytest
from fitting import in_threads, kept_by, state_of
from small_models import reloaded

from fastmlp import (
    EMA,
    MLP,
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    Nadam,
    OneCycle,
    RMSprop,
    ScheduleFreeAdamW,
    StepDecay,
    Warmup,
)
from fastmlp._process import memory
from fastmlp.backends.cpu import dispatch, limits, quick_step, tuning
from fastmlp.backends.cpu.dispatch import Autotuner, Runner
from fastmlp.backends.cpu.trainer import TRAININGS, Trainer
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.losses import OUTPUT_GRADIENT
from fastmlp.rules.optimizer_protocol import is_averaged
from fastmlp.training import steps

RATES: list[Any] = [
    0.01,
    Constant(0.02),
    Cosine(0.05, n_steps=7),
    Exponential(0.03, every=2),
    InverseScaling(0.05),
    StepDecay(0.03, every=2),
    Warmup(Cosine(0.05, n_steps=9), n_steps=3),
    OneCycle(0.05, n_steps=8),
]
OPTIMIZERS: list[Callable[..., Any]] = [
    SGD,
    Adam,
    AdamW,
    RMSprop,
    Nadam,
    ScheduleFreeAdamW,
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"clipvalue": 0.01},
    {"clipnorm": 0.05},
    {"global_clipnorm": 0.05},
    {"average": EMA(0.8)},
]
SHAPES = [(3, 7, 4, 2), (3, 2), (3, 40, 33, 3), (3, 20, 1)]
LOSSES = [
    "mse",
    "cross_entropy",
    "binary_cross_entropy",
    "poisson",
    "gaussian_nll",
    "huber",
]
SIZES = [1, 2, 5, 8, 33, 64]
N_SEEDS, N_STEPS = (3, 3) if INTERPRETED else (40, 12)


def drawn_optimizer(rng: np.random.Generator) -> Any:
    kind = OPTIMIZERS[rng.integers(len(OPTIMIZERS))]
    settings = CHANGES[rng.integers(len(CHANGES))]
    if kind is ScheduleFreeAdamW:
        return kind(0.01)
    if kind is SGD and rng.random() < 0.5:
        momentum = {"momentum": 0.9}
    else:
        momentum = {}
    rate = RATES[rng.integers(len(RATES))]
    return kind(rate, **momentum, **settings)


def drawn_net(rng: np.random.Generator) -> MLP:
    settings: dict[str, Any] = {}
    sizes = list(SHAPES[rng.integers(len(SHAPES))])
    loss = LOSSES[rng.integers(len(LOSSES))]
    if loss == "cross_entropy":
        sizes[-1] = 3
    if loss == "gaussian_nll":
        sizes[-1] = 2
    if rng.random() < 0.3 and len(sizes) > 2:
        settings |= {
            "dropout": [0.3, Cosine(0.5, n_steps=5)][rng.integers(2)],
            "input_noise": 0.1,
        }
    if rng.random() < 0.3:
        settings |= {"l2": 0.1, "l1": 0.01}
    if rng.random() < 0.3:
        settings["layer_rates"] = [
            *rng.choice([0.0, 0.5, 1.0], len(sizes) - 2).tolist(),
            2.0,
        ]
    dtype = ["float32", "float64"][rng.integers(2)]
    if dtype == "float32" and rng.random() < 0.2:
        settings["compute_dtype"] = "bfloat16"
    settings["activation"] = ["relu", "tanh", "gelu"][rng.integers(3)]
    settings |= {"loss": loss, "dtype": dtype, "optimizer": drawn_optimizer(rng)}
    return MLP(sizes, seed=int(rng.integers(100)), **settings)


def drawn_rows(net: MLP, rng: np.random.Generator, sizes: Any = SIZES) -> Any:
    n = rng.choice(sizes)
    dtype = net.dtype if rng.random() < 0.8 else np.dtype(np.float64)
    X = rng.uniform(-1, 1, (n, net.layer_sizes[0])).astype(dtype)
    loss = net._loss_name
    n_outputs = net.layer_sizes[-1]
    if loss == "cross_entropy":
        y = rng.integers(3, size=n).astype(
            [np.int64, np.int32, np.int8][rng.integers(3)]
        )
        y = y if rng.random() < 0.6 else np.eye(3, dtype=dtype)[y]
    else:
        width = n_outputs // 2 if loss == "gaussian_nll" else n_outputs
        y = rng.uniform(0, 1, (n, width)).astype(dtype)
        y = y[:, 0] if width == 1 and rng.random() < 0.5 else y
    weights = rng.uniform(0.1, 2, (2, n)).astype(dtype)
    return (
        X,
        y,
        [None, None, weights[0], np.asfortranarray(weights)[0]][rng.integers(4)],
    )


def fitted(net: MLP, X: Any, y: Any, weight: Any = None) -> float:
    options: Any = {"epochs": 1, "batch_size": len(X), "shuffle": False}
    return net.fit(X, y, sample_weight=weight, **options).loss[0]


# A step that holds the GIL; one that does not, on one thread; and on a team.
WAYS = ["short", "alone", "long", "team"]
every_way = pytest.mark.usefixtures("way")
ONES = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    kinds = list[str]()
    step = steps.Steps._step

    def counted(self: Any, kind: Any, data: Any, who: str) -> float:
        kinds.append(kind)
        return step(self, kind, data, who)

    monkeypatch.setattr(steps.Steps, "_step", counted)
    return kinds


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    go(request.param, monkeypatch)
    return str(request.param)


def go(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "short":
        monkeypatch.setattr(quick_step, "GIL_LANE_PRODUCTS", 0)
        monkeypatch.setattr(quick_step, "ALONE_FLOPS", 1e12 if way == "alone" else -1)
    if way == "team":
        monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
        monkeypatch.setattr(Autotuner, "wants_team", lambda self: True)


def test_parameters_that_are_all_written_are_seen() -> None:
    """Of an odd number in float32,
    where the words that differ have all bits together.
    """
    rng = np.random.default_rng(0)
    net, X, y = MLP((3, 12, 1), seed=0), *rng.normal(size=(2, 20, 3)).astype(np.float32)
    net.train_on_batch(X, y[:, :1])
    for _ in range(4):
        before = net.parameters.copy()
        written = rng.normal(size=61).astype(np.float32)
        words, others = (flat[:60].view(np.int64) for flat in (before, written))
        assert np.bitwise_or.reduce(words ^ others) == -1
        net.parameters[:] = written
        expected, _ = net.loss_and_gradient(X, y[:, :1])
        assert net.train_on_batch(X, y[:, :1]) == expected


def changed(nets: list[MLP], rng: np.random.Generator) -> list[MLP]:
    kind = rng.integers(18)
    seed = int(rng.integers(1 << 30))
    for i, net in enumerate(nets):
        again = np.random.default_rng(seed)
        n_layers = len(net.layer_sizes) - 1
        if kind == 0:
            net.parameters[:] += again.normal(0, 0.1, len(net.parameters))
        elif kind == 1:
            net.weights[0][0, 0] = 0.5
        elif kind == 2:
            net.optimizer = drawn_optimizer(again)
        elif kind == 3:
            net.trainable = [*(again.random(n_layers - 1) < 0.3).tolist(), True]
        elif kind == 4:
            X, y, weight = drawn_rows(net, again)
            net.fit(X, y, epochs=2, batch_size=4, sample_weight=weight)
        elif kind == 5:
            nets[i] = copy.deepcopy(net)
        elif kind == 6:
            nets[i] = pickle.loads(pickle.dumps(net))
        elif kind == 7:
            _, gradient = net.loss_and_gradient(*drawn_rows(net, again)[:2])
            net.apply_gradient(gradient)
        elif kind == 8:
            net.layer_rates = [
                *again.choice([0, 0.5, 1, 2], n_layers - 1).tolist(),
                1.0,
            ]
        elif kind == 9:
            net.n_threads = 1 + int(again.integers(2))
        elif kind == 10:
            with TemporaryDirectory() as folder:
                nets[i] = reloaded(net, Path(folder) / "net", training=True)
        elif kind == 11:
            rate = float(again.uniform(0.001, 0.01))
            settings: Any = net.optimizer
            net.optimizer = dataclasses.replace(settings, learning_rate=rate)
        elif kind == 12:  # It starts from zeros.
            optimizer = net.optimizer
            net.optimizer = "sgd" if isinstance(optimizer, Adam) else "adam"
            net.optimizer = optimizer
    return nets


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_they_are_fits_of_one_batch_to_the_bit(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    go(WAYS[seed % 3], monkeypatch)
    net = drawn_net(rng)
    nets = [net, copy.deepcopy(net)]
    sizes = rng.choice(SIZES, 2)
    for _ in range(N_STEPS):
        X, y, weight = drawn_rows(nets[0], rng, sizes)
        expected = fitted(nets[0], X, y, weight)
        assert nets[1].train_on_batch(X, y, weight) == expected
        assert state_of(nets[1]) == state_of(nets[0])
        assert nets[1].predict(X).tobytes() == nets[0].predict(X).tobytes()
        nets = changed(nets, rng)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.1)], ids=str)
def test_a_fit_after_one_that_diverged_is_that_of_a_copy(optimizer: Any) -> None:
    net = MLP((2, 5, 1), optimizer=optimizer, seed=0)
    X = np.ones((4, 2), "f4")
    y = np.ones(4, "f4")
    net.fit(X, y, epochs=1)
    with pytest.warns(RuntimeWarning, match="fit diverged"):
        net.fit(X, y * np.float32(1e38), epochs=1)
    other = copy.deepcopy(net)
    losses = [each.fit(X, y, epochs=3).loss for each in (net, other)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


MANY = [1, 2, 3, 5, 7, 8, 9, 13, 16, 21, 40, 64, 65, 130]


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_any_number_of_rows_has_its_fits_bits(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps, slopes and objectives; few buffers serve them all."""
    rng = np.random.default_rng(seed)
    go(WAYS[seed % 3], monkeypatch)
    if seed % 4 == 1:
        few = {"CACHE_NUMBERS": 0, "MIN_CHUNK_ROWS": 16, "CHUNK_PER_WEIGHT": 0}
        for name, value in {
            **few,
            "MICROBATCH_FLOPS": 20_000 if seed % 8 == 1 else 1e12,
        }.items():
            monkeypatch.setattr(tuning, name, value)
        TRAININGS.clear()
    net = drawn_net(rng)
    other = copy.deepcopy(net)
    for _ in range(2 * N_STEPS):
        X, y, weight = drawn_rows(net, rng, MANY)
        given = rng.normal(size=(len(X), net.layer_sizes[-1]))
        new = copy.deepcopy(other)
        for ours, theirs in zip(net.vjp(X, given), new.vjp(X, given), strict=True):
            assert ours.tobytes() == theirs.tobytes()
        (loss, gradient), (expected, of_new) = (
            each.loss_and_gradient(X, y, weight) for each in (net, new)
        )
        assert (loss, gradient.tobytes()) == (expected, of_new.tobytes())
        assert net.train_on_batch(X, y, weight) == fitted(other, X, y, weight)
        assert state_of(net) == state_of(other)
    # One row, a few and many, of which a layer is split;
    # of labels, and of one-hot targets.
    assert len(net._single_steps()._trainers) <= 6
    TRAININGS.clear()


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_fits_in_a_row_are_those_of_copies_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = drawn_net(rng)
    sizes = rng.choice(SIZES, 2)
    for _ in range(N_STEPS):
        X, y, weight = drawn_rows(net, rng, sizes)
        options: Any = {
            "epochs": int(rng.integers(1, 3)),
            "batch_size": int(rng.choice([2, 64])),
        }
        other = copy.deepcopy(net)
        losses = [
            each.fit(X, y, sample_weight=weight, **options).loss
            for each in (net, other)
        ]
        assert losses[0] == losses[1]
        assert state_of(net) == state_of(other)
        [net] = changed([net], rng)


@pytest.mark.few(12)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_a_function_of_ones_own_is_asked_for_the_step_at_hand_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked = list[list[int]]()
    setting = [0.1, 0.2]

    def of_the_loop(which: int) -> Any:
        def rates(steps: Any, total: int) -> Any:
            asked.append(steps.tolist())
            return np.full(len(steps), setting[which])

        return rates if rng.integers(2) else Warmup(rates, n_steps=1)

    kind: Any = [SGD, Adam][rng.integers(2)]
    settings = [{}, {"dropout": of_the_loop(1)}][rng.integers(2)]
    nets = [
        MLP((3, 5, 2), optimizer=kind(rate), seed=0, **settings)
        for rate in (of_the_loop(0), 1)
    ]
    for step in range(N_STEPS):
        setting[:] = rng.uniform(0.01, 0.1, 2)
        X = rng.normal(size=(8, 3)).astype("f4")
        y = rng.normal(size=(8, 2)).astype("f4")
        X = X if rng.integers(3) else X.tolist()
        nets[1].optimizer = kind(setting[0])
        if settings:
            asked.clear()
        assert nets[0].train_on_batch(X, y) == nets[1].train_on_batch(X, y)
        assert state_of(nets[0]) == state_of(nets[1])
        # Those within a warm-up of one step are a step behind.
        assert {tuple(steps) for steps in asked} <= {(step,), (max(step - 1, 0),)}
        assert asked
        asked.clear()


@pytest.mark.few(12)
@pytest.mark.parametrize(
    "loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_way
def test_after_the_first_they_are_one_call(
    loss: Any, dtype: Any, slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    shape = (3, 9, 2)
    nets = [MLP(shape, loss=loss, dtype=dtype, dropout=0.1, seed=0) for _ in range(2)]
    monkeypatch.setattr(steps, "TABLE_STEPS", 3)
    for turn in range(8):
        for n in (4, 9):
            X = rng.uniform(-1, 1, (n, 3)).astype(dtype)
            y: Any = rng.uniform(0, 1, (n, 2)).astype(dtype)
            if loss == "cross_entropy":
                y = rng.integers(2, size=n, dtype=[np.int32, np.int64][turn % 2])
            weight = rng.uniform(0, 1, n).astype(dtype) if turn % 3 else None
            assert nets[1].train_on_batch(X, y, weight) == fitted(nets[0], X, y, weight)
            assert state_of(nets[1]) == state_of(nets[0])
    assert slow == ["batch"] * 2
    nets[0].parameters[:] = nets[1].parameters[:] = 0.1
    for net in nets:
        net.train_on_gradient(X, np.ones((9, 2), dtype))
    nets[1].train_on_gradient(X, np.ones((9, 2), dtype))
    assert slow == ["batch"] * 2 + ["gradient"] * 2


@every_way
def test_an_average_takes_one_call_until_it_is_written_to(slow: list[str]) -> None:
    rng = np.random.default_rng(0)
    optimizer = Adam(0.01, average=EMA(0.7))
    nets = [MLP((3, 9, 5, 2), optimizer=optimizer, seed=0) for _ in range(2)]
    for turn in range(9):
        X, y = (rng.uniform(-1, 1, (6, width)).astype(np.float32) for width in (3, 2))
        assert nets[1].train_on_batch(X, y) == fitted(nets[0], X, y)
        assert state_of(nets[1]) == state_of(nets[0])
        if turn == 4:
            for net in nets:
                net.weights[1][0, 0] = 0.5
    assert slow == ["batch"] * 2


@pytest.mark.parametrize(
    "loss", ["mse", "cross_entropy", "binary_cross_entropy", "gamma"]
)
@every_way
def test_what_one_call_declines_has_the_errors_of_fits(loss: Any) -> None:
    X = np.ones((4, 3), np.float32)
    good: Any = (
        np.array([0, 1, 0, 1])
        if loss == "cross_entropy"
        else np.full((4, 2), 0.5, "f4")
    )
    net = MLP((3, 5, 2), loss=loss, seed=0)
    other = copy.deepcopy(net)
    bad: list[Any] = [(X * np.nan, good), (X * np.float32(np.inf), good), (X, good[:3])]
    bad += [(X, np.concatenate([good, good])), (X, good, np.ones(5, np.float32))]
    bad += [(X, good, w) for w in (-X[:, 0], 0 * X[:, 0], X[:2, 0], X[:, 0] * np.nan)]
    if loss == "cross_entropy":
        bad += [
            (X, good + 1),
            (X, good - 1),
            (X, (good - 1).astype(np.int32)),
            (X, X[:, 0]),
        ]
    else:
        bad += [(X, good * np.nan), (X, good[:, :1])]
        bad += [(X, good + 1)] * (loss == "binary_cross_entropy")
        bad += [(X, good * 0)] * (loss == "gamma")
    net.train_on_batch(X, good)
    fitted(other, X, good)
    for rows in bad:
        with pytest.raises((TypeError, ValueError)) as ours:
            net.train_on_batch(*rows)
        with pytest.raises((TypeError, ValueError)) as theirs:
            fitted(other, *rows)
        assert str(ours.value).replace("train_on_batch", "fit") == str(theirs.value)
        assert net.train_on_batch(X, good) == fitted(other, X, good)
        assert state_of(net) == state_of(other)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_schedule_after_a_rate_counts_from_its_first_step(kind: Any) -> None:
    net = MLP((2, 5, 1), optimizer=kind(0.1), seed=0)
    X = np.ones((4, 2))
    y = np.ones((4, 1))
    for _ in range(12):
        net.train_on_batch(X, y)
    net.optimizer, before = (
        kind(lambda steps, total: 0.0 * steps),
        net.parameters.copy(),
    )
    net.train_on_batch(X, y)
    assert (net.parameters == before).all()


@pytest.mark.parametrize(
    "form",
    [np.float64, np.float32, np.int64, list],
    ids=["float64", "float32", "int64", "list"],
)
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_functions_rate_has_the_bits_of_the_number(kind: Any, form: Any) -> None:
    def rates(steps: Any, total: Any) -> Any:
        values = np.full(len(steps), 0.3 * (steps[0] + 1))
        if form is list:
            return values.tolist()
        return values.astype(form)

    X, y = ONES
    layer_rates = [0.5, 2.0]
    net, other = (
        MLP((2, 5, 1), optimizer=kind(rate), layer_rates=layer_rates, seed=0)
        for rate in (rates, 1.0)
    )
    for step in range(5):
        number = float(rates(np.array([step]), None)[0])
        if number:
            other.optimizer = kind(number)
        else:
            other.optimizer = kind(lambda *_: [0.0])
        assert net.train_on_batch(X, y) == other.train_on_batch(X, y)
        assert state_of(net) == state_of(other)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.array([np.nan]), "must return 1 finite rates of 0 or more"),
        (np.array([np.inf]), "must return 1 finite rates of 0 or more"),
        (np.array([-0.1]), "must return 1 finite rates of 0 or more"),
        (np.array([0.1, 0.1]), "must return 1 finite rates of 0 or more"),
        (0.1, "must return 1 finite rates of 0 or more"),
        (TypeError("no end"), "needs the number of steps, .* not have: no end"),
    ],
    ids=["nan", "inf", "negative", "two", "a number", "TypeError"],
)
@pytest.mark.parametrize("n_before", [0, 3])
def test_a_functions_wrong_rate_is_refused(
    returned: Any, message: str, n_before: int
) -> None:
    net = MLP((2, 5, 1), optimizer=Adam(lambda *_: rate()), seed=0)
    wrong = [False]

    def rate() -> Any:
        if wrong[0] and isinstance(returned, Exception):
            raise returned
        return returned if wrong[0] else np.full(1, 0.1)

    for _ in range(n_before):
        net.train_on_batch(*ONES)
    wrong[0], before = True, state_of(net)
    with pytest.raises(ValueError, match=message):
        net.train_on_batch(*ONES)
    assert state_of(net) == before


def test_rows_are_not_kept() -> None:
    net = MLP((3, 5, 1), seed=0)
    rows = np.ones((4, 3), np.float32)
    for _ in range(3):
        net.train_on_batch(rows, rows[:, :1].copy())
    reference = weakref.ref(rows)
    del rows
    gc.collect()
    assert reference() is None


def test_a_frame_gives_the_names_of_its_columns() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    nets = [MLP((2, 3, 1), seed=0) for _ in range(2)]
    for rows in (frame, frame[["b", "a"]]):
        expected = nets[1].train_on_batch(frame.values, [1, 2])
        assert nets[0].train_on_batch(rows, [1, 2]) == expected
    assert nets[0].feature_names == ("a", "b")


def raw_gradient(net: MLP, X: Any, y: Any) -> Any:
    error = net.predict_raw(X) - y
    share = net.dtype.type(1 / y.shape[1])
    return (error + error) * share * net.dtype.type(1 / len(X))


@pytest.mark.parametrize("seed", range(4 if INTERPRETED else 16))
def test_the_gradient_of_the_loss_gives_the_step_of_the_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    settings: Any = {"l2": 0.1} if seed % 2 else {"dropout": [0.0, 0.3][seed // 2 % 2]}
    optimizer = drawn_optimizer(rng)
    while is_averaged(optimizer):
        # What the net shows is not what it trains.
        optimizer = drawn_optimizer(rng)
    nets = [
        MLP((3, 7, 5, 2), dtype="float64", optimizer=optimizer, seed=1, **settings)
        for _ in range(2)
    ]
    if settings.get("dropout"):
        # Outputs with dropout are not those of `predict_raw`:
        # a loss whose slope is constant.
        for net in nets:
            net._network = net._network._replace(loss=OUTPUT_GRADIENT)
    for n in (4, 9, 4):
        X, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
        if settings.get("dropout"):
            given = y
        else:
            given = raw_gradient(nets[1], X, y)
        nets[0].train_on_batch(X, n * y if settings.get("dropout") else y)
        nets[1].train_on_gradient(X, given)
        np.testing.assert_allclose(
            nets[1].parameters, nets[0].parameters, rtol=1e-9, atol=1e-12
        )
        assert nets[1].n_steps == nets[0].n_steps


@pytest.mark.few(12)
@pytest.mark.parametrize(
    "sizes", [(3, 2), (3, 7, 2), (3, 20, 19, 4), (3, 40, 30, 20)], ids=str
)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("n_rows", [1, 5, 30 if INTERPRETED else 1200])
def test_vjp_is_that_of_the_complex_step(
    sizes: Any, activation: Any, n_rows: int
) -> None:
    rng = np.random.default_rng(0)
    net = MLP(
        sizes,
        activation=activation,
        dtype="float64",
        seed=0,
        loss="cross_entropy",
        l2=0.3,
    )
    net.parameters[:] = rng.normal(0, 0.5, len(net.parameters))
    X = rng.normal(size=(n_rows, 3))
    given = rng.normal(size=(n_rows, sizes[-1]))
    activations = [activation] * (len(sizes) - 2)
    before = net.parameters.copy()

    def value(flat: Any, x: Any) -> Any:
        weights, biases = naive.unflatten(flat, net.weights, net.biases)
        return (naive.forward(weights, biases, x, activations)[0][-1] * given).sum()

    net.vjp(np.ones_like(X), given)
    gradient, by_inputs = net.vjp(X, given)
    assert gradient.tobytes() == net.vjp(X, given, inputs=False).tobytes()
    assert by_inputs.tobytes() == net.vjp(X, given, parameters=False).tobytes()
    assert gradient.tobytes() == net.vjp(X, given, inputs=False).tobytes()
    for direction in rng.normal(size=(3, len(before))):
        step = value(before + 1e-20j * direction, X.astype(complex)).imag / 1e-20
        np.testing.assert_allclose(gradient @ direction, step, rtol=1e-9)
    for direction in rng.normal(size=(3, *X.shape)):
        step = value(before.astype(complex), X + 1e-20j * direction).imag / 1e-20
        np.testing.assert_allclose((by_inputs * direction).sum(), step, rtol=1e-9)
    assert net.parameters.tobytes() == before.tobytes()
    assert net.n_steps == 0


@pytest.mark.parametrize("n", [1, 4, 200])
@pytest.mark.parametrize(
    "optimizer", [SGD(0.1), Adam(0.1), Adam(0.1, clipnorm=1)], ids=str
)
@every_way
def test_a_loss_that_is_not_finite_takes_no_step(n: int, optimizer: Any) -> None:
    net = MLP((2, 20, 1), optimizer=optimizer, seed=0)
    good = np.ones((n, 2), np.float32)
    huge = np.full((n, 2), 1e30, np.float32)
    net.train_on_batch(good, good[:, 0])
    before = state_of(net)
    with pytest.warns(
        RuntimeWarning, match="MLP.train_on_batch: the loss is inf, no step"
    ) as seen:
        assert net.train_on_batch(huge, huge[:, 0]) == np.inf
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net.train_on_batch(huge, huge[:, 0]) == np.inf
        assert state_of(net) == before
        other = copy.deepcopy(net)
        assert net.train_on_batch(good, good[:, 0]) == other.train_on_batch(
            good, good[:, 0]
        )
    assert state_of(net) == state_of(other)
    net.parameters[:] = 1e38
    net.train_on_gradient(good, good[:, :1])
    assert net.n_steps == 2


@pytest.mark.parametrize("n_before", [0, 1])
@every_way
def test_a_step_whose_gradient_overflows_is_taken_where_a_fit_goes_back(
    n_before: int,
) -> None:
    ours, other = (
        MLP((2, 20, 1), initializer="he_uniform", optimizer=SGD(0.1), seed=0)
        for _ in range(2)
    )
    good = np.ones((4, 2), np.float32)
    huge = good * np.float32(1e19)
    for _ in range(n_before):
        ours.train_on_batch(good, good[:, 0])
        fitted(other, good, good[:, 0])
    before = other.parameters.copy()
    options: Any = {"epochs": 1, "batch_size": 4, "shuffle": False}
    with pytest.warns(RuntimeWarning, match="fit diverged"):
        assert other.fit(huge, good[:, 0], **options).loss == []
    assert other.parameters.tobytes() == before.tobytes()
    with pytest.warns(
        RuntimeWarning, match="parameters are not finite after this step"
    ):
        assert np.isfinite(ours.train_on_batch(huge, good[:, 0]))
    assert not np.isfinite(ours.parameters).all()
    assert ours.n_steps == n_before + 1
    # Once: the next steps, which are not taken, say nothing more.
    assert np.isnan(ours.train_on_batch(good, good[:, 0]))
    assert ours.n_steps == n_before + 1


@pytest.mark.parametrize("n_before", [0, 2])
@pytest.mark.parametrize("name", ["train_on_batch", "train_on_gradient", "vjp"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(), RMSprop()], ids=str)
def test_numbers_that_are_lost_warn_once(
    name: str, n_before: int, optimizer: Any
) -> None:
    net = MLP((2, 20, 1), initializer="he_uniform", optimizer=optimizer, seed=0)
    X, y = ONES
    take = getattr(net, name)
    for _ in range(n_before):
        take(X, y)
    if name == "train_on_batch":
        huge = (X * 1e19, y)
    else:
        huge = (X * 1e19, y * 1e25)
    with pytest.warns(RuntimeWarning, match="not finite") as seen:
        take(*huge)
    assert f"MLP.{name}: " in str(seen[0].message)
    take(X, y)


@every_way
def test_a_net_that_another_thread_trains_is_refused() -> None:
    net = MLP((2, 3, 1), seed=0)
    X, y = ONES
    net.train_on_batch(X, y)
    raised: list[str] = []

    def callback(report: Any) -> None:
        for call in (net.train_on_batch, net.train_on_gradient):
            with pytest.raises(
                RuntimeError, match="a fit of this net is running"
            ) as error:
                call(X, y)
            raised.append(str(error.value).partition(":")[0])

    net.fit(X, y, epochs=1, callbacks=callback)
    assert raised == ["MLP.train_on_batch", "MLP.train_on_gradient"]
    net.train_on_batch(X, y)


@every_way
def test_nets_in_threads_take_their_own_steps() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 2)).astype(np.float32)
    y = rng.normal(size=(8, 1)).astype(np.float32)
    n = 5 if INTERPRETED else 300

    def train(net: MLP) -> None:
        for i in range(n):
            net.train_on_batch(X[: 4 + i % 3], y[: 4 + i % 3])

    nets, alone = ([MLP((2, 5, 1), seed=i) for i in range(4)] for _ in range(2))
    in_threads(lambda i: train(nets[i]), len(nets))
    for net, other in zip(nets, alone, strict=True):
        train(other)
        assert state_of(net) == state_of(other)


@every_way
def test_one_net_in_threads_counts_its_steps() -> None:
    net = MLP((2, 5, 1), seed=0)
    X, y = ONES
    done: list[int] = []

    def train(i: int) -> None:
        for _ in range(20 if INTERPRETED else 500):
            try:
                net.train_on_batch(X, y)
            except RuntimeError:
                continue
            done.append(1)

    in_threads(train, 3)
    assert net.n_steps == len(done)


@pytest.mark.parametrize("way", WAYS[1:], indirect=True)
def test_an_interrupt_after_a_long_step_keeps_it(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = [MLP((2, 5, 1), seed=0) for _ in range(2)]
    X, y = ONES
    for net in nets:
        net.train_on_batch(X, y)
    owner: Any = limits.reserved if way == "alone" else Runner
    name = "__exit__" if way == "alone" else "run"
    run = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> None:
        run(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            nets[0].train_on_batch(X, y)
    nets[1].train_on_batch(X, y)
    for _ in range(2):
        assert state_of(nets[0]) == state_of(nets[1])
        assert nets[0].train_on_batch(X, y) == nets[1].train_on_batch(X, y)


class InterruptAt:
    """A profiler that interrupts at the n-th place of those where Python looks at
    signals, after the end of a function.
    """

    def __init__(self, n: int, after: Callable[..., Any] | None = None) -> None:
        self.left = n
        self._code = None if after is None else after.__code__

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if self._code is not None:
            if event == "return" and frame.f_code is self._code:
                self._code = None
            return
        self.left -= event in ("call", "c_return")
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are thousands of calls")
# One may come in a finalizer, where Python itself drops it.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:fit interrupted"
)
@pytest.mark.parametrize(
    ("take", "n_before", "after"),
    [
        (MLP.train_on_batch, 0, Trainer.run),
        (fitted, 0, Trainer.run),
        (MLP.train_on_batch, 3, None),
    ],
    ids=["the first", "a fit", "new coefficients"],
)
def test_an_interrupt_anywhere_in_a_step_leaves_the_next_ones_as_they_are(
    take: Any, n_before: int, after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "TABLE_STEPS", 2)
    X, y = ONES
    twin = MLP((2, 5, 1), seed=0)
    losses = [twin.train_on_batch(X, y) for _ in range(6)]
    for n in itertools.count(1):
        net = MLP((2, 5, 1), seed=0)
        interrupt = InterruptAt(n, after)
        for _ in range(n_before):
            net.train_on_batch(X, y)
        # An interrupted fit has no loss.
        with suppress(KeyboardInterrupt, IndexError):
            sys.setprofile(interrupt)
            try:
                take(net, X, y)
            finally:
                sys.setprofile(None)
        rest = losses[net.n_steps :]
        assert [net.train_on_batch(X, y) for _ in rest] == rest
        if interrupt.left > 0:
            break
    assert n > 10


@every_way
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on() -> None:
    net = MLP((2, 5, 1), seed=0)
    X, y = ONES
    net.train_on_batch(X, y)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, np.float64(net.train_on_batch(X, y)).tobytes())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    there = np.frombuffer(os.read(reader, 8))[0]
    assert net.train_on_batch(X, y) == there


@pytest.mark.slow
def test_buffers_of_a_net_go_with_it() -> None:
    X, y = ONES
    gc.collect()
    steps.KEPT.clear()
    net = MLP((2, 5, 1), seed=0)
    net.train_on_batch(X, y)
    net.loss_and_gradient(X, y)
    net.vjp(X, y)
    assert steps.KEPT.n_bytes > 0
    del net
    gc.collect()
    assert steps.KEPT.n_bytes == 0


@pytest.mark.slow
def test_buffers_of_a_net_are_counted() -> None:
    X = np.ones((4096, 4), np.float32)
    y = np.ones((4096, 4), np.float32)
    counted = []
    taken = []
    for n_threads in (1, 2):
        MLP((4, 32, 16, 4), n_threads=n_threads).train_on_batch(X, y)
        gc.collect()
        steps.KEPT.clear()
        net = MLP((4, 32, 16, 4), n_threads=n_threads)
        taken.append(kept_by(partial(net.train_on_batch, X, y)))
        counted.append(steps.KEPT.n_bytes)
    assert counted[1] - counted[0] == pytest.approx(
        taken[1] - taken[0], rel=0.1, abs=3e4
    )


@pytest.mark.slow
def test_the_buffers_of_many_nets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 20 if INTERPRETED else 300
    X, y = ONES
    monkeypatch.setattr(steps.KEPT, "_most", 100_000)
    steps.KEPT.clear()
    nets = [MLP((2, 5, 1), seed=i) for i in range(n)]
    first = [net.train_on_batch(X, y) for net in nets]
    assert 0 < steps.KEPT.n_bytes <= 100_000
    again = [net.train_on_batch(X, y) for net in nets]
    assert all(later < before for before, later in zip(first, again, strict=True))
    for size in range(1, 40):
        nets[0].train_on_batch(np.ones((size, 2)), np.ones(size))
    gc.collect()
    assert len(nets[0]._single_steps()._trainers) <= steps.MOST_KEPT_TRAINERS


def test_the_tables_of_numbers_of_rows_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most, n = 8, 20
    monkeypatch.setattr(memory, "MOST_ENTRIES", most)
    X = np.ones((n, 2), np.float32)
    y = np.zeros((n, 1), np.float32)
    net = MLP((2, 3, 1), seed=0)
    for size in range(1, n):
        net.train_on_batch(X[:size], y[:size])
    its: Any = net._single_steps()
    kept = its._ready["batch"], its._engines["batch"]._partitions
    sizes = [it().quick.sizes for it in its._trainers.values() if it() and it().quick]
    assert all(0 < len(table) <= most for table in (*kept, *sizes))
    assert net.n_steps == n - 1


FORMS: dict[str, Callable[[Any], Any]] = {
    "as they are": lambda rows: rows,
    "float64": lambda rows: rows.astype(np.float64),
    "integers": lambda rows: rows.astype(np.int16),
    "columns of a table": lambda rows: np.hstack([rows, rows])[:, : rows.shape[1]],
    "Fortran": np.asfortranarray,
    "reversed": lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
    "swapped bytes": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "read only": lambda rows: np.broadcast_to(rows, rows.shape),
}


@pytest.mark.parametrize("seed", range(3 if INTERPRETED else 12))
def test_rows_of_another_form_take_one_call(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(WAYS[seed % 3], monkeypatch)
    rng = np.random.default_rng(seed)
    forms = list(FORMS.values())
    dtype: Any = rng.choice(["float32", "float64"])
    nets = [MLP((4, 8, 2), dtype=dtype, seed=0) for _ in range(2)]
    for i in range(8):
        x, y = (rng.integers(-3, 4, (6, width)).astype(dtype) for width in (4, 2))
        rows, targets = (forms[rng.integers(len(forms))](each) for each in (x, y))
        if i == 1:
            monkeypatch.setattr(steps.Steps, "_step", None)
        assert nets[0].train_on_batch(rows, targets) == nets[1].train_on_batch(x, y)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
