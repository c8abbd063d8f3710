"""Averages: their gains, their settings on every optimizer, and Keras' words for them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp import EMA, SGD, SWA, Adam, AdamW, Cosine, ScheduleFreeAdamW
from fastmlp.rules.optimizers import average_start, coefficients_of, is_averaged, lag_of
from fastmlp.serialization import codec


def averaged(gains: Any, path: Any) -> Any:
    """The average after each step of a path."""
    average, seen = np.full_like(path[0], 7.0), []
    for gain, w in zip(gains, path, strict=True):
        average = average + (w - average) * gain
        seen.append(average)
    return np.array(seen)


def test_an_ema_is_that_of_keras_without_its_bias(rng: np.random.Generator) -> None:
    path, m = rng.normal(size=(50, 3)), 0.9
    got = averaged(EMA(m).gains(np.arange(1, 51)), path)
    # Keras, from zeros: average <- m average + (1 - m) w; Adam's correction divides by 1 - m^k.
    keras = np.zeros(3)
    for k, w in enumerate(path, start=1):
        keras = m * keras + (1 - m) * w
        np.testing.assert_allclose(got[k - 1], keras / (1 - m**k), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [1e-12, 0.5, 0.999, 1 - 1e-12])
def test_gains_of_an_ema_are_exact(momentum: float) -> None:
    gains = EMA(momentum).gains(np.array([1, 2, 10**15]))
    assert gains[0] == 1
    assert gains[1] == pytest.approx(1 / (1 + momentum), rel=1e-12)
    assert gains[2] == pytest.approx(1 - momentum, rel=1e-3)


def test_swa_is_the_mean_of_the_last_part(rng: np.random.Generator) -> None:
    path, optimizer = rng.normal(size=(40, 3)), SGD(0.1, average=SWA(0.75))
    origin = average_start(optimizer, 100, 140, 0)
    gains = coefficients_of(optimizer, 101, np.ones(40), averaged_from=origin)[:, -1]
    got = averaged(gains, path)
    np.testing.assert_allclose(got[:31], path[:31], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(got[-1], path[30:].mean(axis=0), rtol=1e-14)


def test_the_gain_is_the_last_of_a_steps_row() -> None:
    plain, both = Adam(0.01, clipvalue=1.0), Adam(0.01, clipvalue=1.0, average=EMA(0.9))
    rates = np.full(5, 0.01)
    table = coefficients_of(both, 11, rates, averaged_from=8)
    assert np.array_equal(table[:, :-1], coefficients_of(plain, 11, rates))
    assert np.array_equal(table[:, -1], EMA(0.9).gains(np.arange(3, 8)))


def test_schedule_free_rows_do_not_depend_on_how_steps_are_split() -> None:
    optimizer, rates = ScheduleFreeAdamW(warmup_steps=20), np.full(60, 0.0025)
    whole = optimizer.coefficients(6, rates, averaged_from=5)
    parts = [optimizer.coefficients(6, rates[:9], 5), optimizer.coefficients(15, rates[9:], 5)]
    assert np.array_equal(whole, np.concatenate(parts))
    # The share of z: the square of its rate by the sum of those since step 5.
    squares = np.minimum(np.arange(6, 66) / 20, 1) ** 2
    np.testing.assert_allclose(whole[:, -2], squares / np.cumsum(squares), rtol=1e-12)


def test_the_words_of_keras_are_an_average() -> None:
    assert Adam(0.01, use_ema=True) == Adam(0.01, average=EMA(0.99))
    assert SGD(use_ema=True, ema_momentum=0.9) == SGD(average=EMA(0.9))
    assert Adam(use_ema=False) == Adam()
    assert repr(Adam(use_ema=True)).endswith("average=EMA(momentum=0.99))")


@pytest.mark.parametrize("average", [EMA(0.9), SWA(), SWA(start=0)], ids=repr)
def test_an_average_is_in_files(average: Any) -> None:
    optimizer = AdamW(Cosine(0.1), average=average, clipvalue=1.0)
    spelled = codec.of_optimizer(optimizer)
    assert codec.optimizer_from(spelled, {}) == optimizer
    assert hash(optimizer) != hash(AdamW(Cosine(0.1), clipvalue=1.0))
    assert "average" not in codec.of_optimizer(AdamW())


def test_which_optimizers_average() -> None:
    assert [is_averaged(each) for each in (Adam(), Adam(average=SWA()), ScheduleFreeAdamW())] == [
        False,
        True,
        True,
    ]
    assert lag_of(ScheduleFreeAdamW(beta_1=0.8)) == pytest.approx(0.25)


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: EMA(1.0), ValueError, "EMA: momentum must be a number in (0, 1), got 1.0"),
    (lambda: EMA("high"), TypeError, "EMA: momentum must be a number in (0, 1), got 'high'"),  # type: ignore[arg-type]
    (lambda: SWA(1.0), ValueError, "SWA: start must be a number in [0, 1), got 1.0"),
    (
        lambda: Adam(average=0.99),  # type: ignore[arg-type]
        TypeError,
        "Adam: average must be EMA(momentum), SWA(start) or None, got 0.99; did you mean "
        "EMA(0.99)?",
    ),
    (
        lambda: SGD(average="swa"),  # type: ignore[arg-type]
        TypeError,
        "SGD: average must be EMA(momentum), SWA(start) or None, got 'swa'; did you mean SWA()?",
    ),
    (
        lambda: SGD(average=EMA),  # type: ignore[arg-type]
        TypeError,
        "SGD: average must be EMA(momentum), SWA(start) or None, got <class "
        "'fastmlp.rules.averages.EMA'>; did you mean EMA()?",
    ),
    (
        lambda: EMA(decay=0.9),  # type: ignore[call-arg]
        TypeError,
        "EMA: got an unexpected keyword argument 'decay': the decay is its momentum: "
        "EMA(momentum=0.99); known: momentum",
    ),
    (
        lambda: Adam(use_ema=True, average=EMA()),
        ValueError,
        "Adam: give average or use_ema=True, not both",
    ),
    (
        lambda: Adam(ema_momentum=0.9),
        ValueError,
        "Adam: ema_momentum needs use_ema=True; or give average=EMA(0.9)",
    ),
    (
        lambda: Adam(use_ema=True, ema_momentum=2),
        ValueError,
        "Adam: ema_momentum must be a number in (0, 1), got 2",
    ),
    (
        lambda: ScheduleFreeAdamW(average=EMA()),
        ValueError,
        "ScheduleFreeAdamW: it averages by itself, got average=EMA(momentum=0.99): leave it out, "
        "or use AdamW with it",
    ),
    (
        lambda: ScheduleFreeAdamW(Cosine(0.01)),  # type: ignore[arg-type]
        TypeError,
        "ScheduleFreeAdamW: learning_rate must be a finite number above 0, got "
        "Cosine(learning_rate=0.01, n_steps=None, final_rate=0.0): the average takes the place of "
        "a schedule; use warmup_steps, or AdamW with the schedule",
    ),
    (
        lambda: ScheduleFreeAdamW(warmup_steps=-1),
        ValueError,
        "ScheduleFreeAdamW: warmup_steps must be an integer of 0 or more, got -1",
    ),
    (
        lambda: ScheduleFreeAdamW(beta_1=0),
        ValueError,
        "ScheduleFreeAdamW: beta_1 must be a number in (0, 1), got 0",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), WRONG, ids=[words for _, _, words in WRONG])
def test_the_words_of_an_error(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        call()
