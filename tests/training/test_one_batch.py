"""Fits of one batch in a row: steps of a kept trainer, which nobody can tell from the loop."""

import copy
import inspect
import warnings
from typing import Any

import numpy as np
import pytest
from training.test_steps import WAYS, changed, drawn_net, drawn_rows, go, state_of

from fastmlp import MLP, SGD, Adam, Cosine, Status
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.training import loop, one_batch, steps
from fastmlp.training.one_batch import MOST_VAIN, NOTHING

N_SEEDS, N_FITS = (3, 5) if INTERPRETED else (15, 8)


@pytest.fixture(autouse=True)
def _after_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_batch, "IN_A_ROW", 2)


def by_loop(net: MLP, X: Any, y: Any, **settings: Any) -> Any:
    """A fit that is no single step: it has a time limit."""
    return net.fit(X, y, epochs=1, batch_size=len(X), time_limit=1e6, **settings)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The fits from now on that take the loop."""
    looped: list[Any] = []
    fit = loop.fit

    def counted(*arguments: Any) -> None:
        looped.append(arguments)
        fit(*arguments)

    monkeypatch.setattr(loop, "fit", counted)
    return looped


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_they_are_fits_by_the_loop_to_the_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    go(WAYS[seed % 3], monkeypatch)
    net = drawn_net(rng)
    nets = [net, copy.deepcopy(net)]
    for i in range(N_FITS):
        X, y, _ = drawn_rows(nets[0], rng, [4, 9] if seed % 2 else [6])
        shuffle = bool(rng.integers(2))
        expected = by_loop(nets[0], X, y, shuffle=shuffle)
        history = nets[1].fit(X, y, epochs=1, batch_size=len(X) + i % 2, shuffle=shuffle)
        for name in ("loss", "learning_rate", "status", "validation_loss", "best_epoch"):
            assert getattr(history, name) == getattr(expected, name)
        assert history.seconds > 0
        assert state_of(nets[1]) == state_of(nets[0])
        assert nets[1].predict(X).tobytes() == nets[0].predict(X).tobytes()
        if i % 4 == 3:
            nets = changed(nets, rng)


@pytest.mark.parametrize("way", WAYS)
def test_from_the_third_on_they_take_no_loop(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(way, monkeypatch)
    net, looped = MLP((3, 7, 2), seed=0), counting(monkeypatch)
    X, y = np.ones((6, 3), np.float32), np.ones((6, 2))
    for _ in range(5):
        net.fit(X, y, epochs=1)
    assert len(looped) == 2
    net.fit(X, y, epochs=1, keep_best=False, callbacks=())
    net.fit(X, y, epochs=1, sample_weight=np.ones(6))
    net.fit(X[:4], y[:4], epochs=1)
    net.fit(X, y, epochs=1, batch_size=4)
    net.fit(X, y, epochs=2)
    assert len(looped) == 6
    for _ in range(5):
        net.fit(X, y, epochs=1)
    assert len(looped) == 8
    assert net.n_steps == 6 + 1 + 1 + 2 + 2 + 5


def test_what_is_no_single_step_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, prepared = np.eye(4, 3), np.array([0, 1, 0, 1], np.int8), list[Any]()
    prepare = steps.Steps.prepare

    def counted(*arguments: Any) -> None:
        prepared.append(arguments)
        prepare(*arguments)

    monkeypatch.setattr(steps.Steps, "prepare", counted)
    settings: list[dict[str, Any]] = [
        {"loss": "cross_entropy"},
        {"optimizer": SGD(Cosine(0.1))},
        {"dropout": Cosine(0.1)},
        {"monotonic_cst": [1, 0, 0]},
    ]
    for i, setting in enumerate(settings):
        nets = [MLP((3, 4, 2), seed=0, **setting) for _ in range(2)]
        targets = y if not i else np.eye(4, 2)
        for _ in range(2 * MOST_VAIN + 2):
            by_loop(nets[0], X, targets)
            nets[1].fit(X, targets, epochs=1)
            assert state_of(nets[0]) == state_of(nets[1])
        assert len(prepared) <= MOST_VAIN
        prepared.clear()


@pytest.mark.parametrize("rate", [1e30, 3e38])
def test_a_fit_that_diverges_goes_back(rate: float) -> None:
    """At a parameter that is not finite, or at a loss: that is known before the step."""
    X = np.ones((4, 2), np.float32)
    nets = [MLP((2, 5, 1), optimizer=SGD(rate), initializer="zeros") for _ in range(2)]
    ended = []
    for target in (0, 0, 0, 3, 3, 0, 0, 3, 3):
        histories, seen = [], []
        for net, limit in zip(nets, (1e6, None), strict=True):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                y = np.full(4, target, np.float32)
                more: Any = {} if limit is None else {"time_limit": limit}
                histories.append(net.fit(X, y, epochs=1, **more))
            # In plain Python kernels warn too.
            messages = (str(warning.message) for warning in caught)
            seen.append([message for message in messages if message.startswith("fit")])
        assert seen[0] == seen[1]
        assert histories[0].status is histories[1].status
        assert histories[0].loss == histories[1].loss
        assert state_of(nets[0]) == state_of(nets[1])
        ended.append(histories[0].status)
    assert Status.DIVERGED in ended


def test_errors_and_interrupts_are_those_of_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [MLP((2, 5, 1), optimizer=Adam(0.1), seed=0) for _ in range(2)]
    X, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    for net in nets:
        for _ in range(3):
            net.fit(X, y, epochs=1)
    bad: list[Any] = [
        (X * np.nan, y),
        (X, y[:3]),
        (X[:, :1], y),
        (X, y * np.inf),
        (X, y.astype(str)),
    ]
    for rows in bad:
        with pytest.raises((TypeError, ValueError)) as ours:
            nets[1].fit(*rows, epochs=1)
        with pytest.raises((TypeError, ValueError)) as theirs:
            by_loop(nets[0], *rows)
        assert str(ours.value) == str(theirs.value)
    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, "_quickly", interrupted)
        with pytest.warns(UserWarning, match="interrupted in epoch 0"):
            assert nets[1].fit(X, y, epochs=1).status is Status.INTERRUPTED
    assert by_loop(nets[0], X, y).loss == nets[1].fit(X, y, epochs=1).loss
    with (
        nets[1]._state.lock.training("a test"),
        pytest.raises(RuntimeError, match=r"MLP\.fit: a f"),
    ):
        nets[1].fit(X, y, epochs=1)


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_what_asks_for_nothing_are_the_defaults_of_fit() -> None:
    parameters = inspect.signature(MLP.fit).parameters
    own = {"self", "X", "y", "epochs", "batch_size", "shuffle"}
    defaults = [p.default for name, p in parameters.items() if name not in own]
    assert sorted(map(repr, defaults)) == sorted(map(repr, NOTHING))
