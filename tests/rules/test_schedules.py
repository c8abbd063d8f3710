"""Schedules: their shape, their ends, and that they do not depend on how steps are split."""

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from fastmlp.rules.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    StepDecay,
    Warmup,
    rates_of,
)

TOTAL = 3000  # longer than the default steps of a decay and of a warm-up
STEPS = np.arange(TOTAL)
each_schedule = pytest.mark.parametrize("kind", SCHEDULES.values())


@each_schedule
def test_rates_are_one_float64_for_each_step(kind: Any) -> None:
    rates = kind(0.1)(STEPS, TOTAL)
    assert rates.shape == STEPS.shape
    assert rates.dtype == np.float64
    assert (rates >= 0).all()


@each_schedule
def test_rates_do_not_depend_on_how_steps_are_split(kind: Any) -> None:
    whole = kind(0.1)(STEPS, TOTAL)
    parts = [kind(0.1)(part, TOTAL) for part in np.split(STEPS, [37, 38, 1000, 2500])]
    assert np.array_equal(whole, np.concatenate(parts))


@each_schedule
def test_the_highest_rate_is_the_one_that_was_asked_for(kind: Any) -> None:
    assert kind(0.1)(STEPS, TOTAL).max() == pytest.approx(0.1, rel=1e-15, abs=0)


@each_schedule
def test_rates_rise_to_one_peak_and_then_never_again(kind: Any) -> None:
    rates = kind(0.1)(STEPS, TOTAL)
    peak = rates.argmax()
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()


@pytest.mark.parametrize(
    "kind", [kind for kind in SCHEDULES.values() if kind not in (OneCycle, Warmup)]
)
def test_a_schedule_that_does_not_warm_up_starts_at_its_rate(kind: Any) -> None:
    assert kind(0.1)(STEPS, TOTAL)[0] == 0.1


@each_schedule
def test_a_fit_without_steps_has_no_rates(kind: Any) -> None:
    assert kind(0.1)(STEPS[:0], 0).shape == (0,)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (Constant(0.5), 2999, 0.5),
        (StepDecay(1.0, factor=0.5, every=10), 9, 1.0),
        (StepDecay(1.0, factor=0.5, every=10), 10, 0.5),
        (Exponential(1.0, factor=0.25, every=10), 5, 0.5),
        (InverseScaling(1.0, power=2.0), 3, 1 / 16),  # (3 + 1)^-2
        (Cosine(1.0, final_rate=0.2), 1500, 0.6),  # half way between 1 and 0.2
        (Cosine(1.0, n_steps=100, final_rate=0.2), 2000, 0.2),
        (OneCycle(1.0), 0, 1 / 25),
        (OneCycle(1.0), 900, 1.0),  # three tenths of 3000
        (OneCycle(1.0), 3000, 1 / 250_000),
        (OneCycle(1.0, n_steps=200, warm=0.25), 50, 1.0),
        (OneCycle(1.0, n_steps=200, warm=0.25), 2000, 1 / 250_000),
        (OneCycle(1.0, warm=0.0), 0, 1.0),
    ],
)
def test_rate_of_a_step(schedule: Any, step: int, rate: float) -> None:
    assert schedule(np.array([step]), TOTAL) == pytest.approx(rate, rel=1e-12, abs=0)


@each_schedule
def test_warm_up_is_a_line_to_the_first_rate_and_then_the_schedule(kind: Any) -> None:
    rates = Warmup(kind(0.1), n_steps=100)(STEPS, TOTAL)
    later = kind(0.1)(np.arange(TOTAL - 100), TOTAL - 100)
    np.testing.assert_allclose(rates[:100], later[0] * np.arange(1, 101) / 100, rtol=1e-15)
    assert np.array_equal(rates[100:], later)


@each_schedule
def test_rates_of_a_schedule_are_its_own(kind: Any) -> None:
    assert np.array_equal(rates_of(kind(0.1), STEPS, TOTAL), kind(0.1)(STEPS, TOTAL))


def test_rates_of_a_number_are_that_number() -> None:
    assert rates_of(0.1, STEPS[:3], TOTAL).tolist() == [0.1, 0.1, 0.1]


SETTINGS = [(kind, name) for kind in SCHEDULES.values() for name in asdict(kind(0.1))]


@pytest.mark.parametrize(("kind", "name"), SETTINGS)
def test_every_setting_is_checked(kind: Any, name: str) -> None:
    start = re.escape(f"{kind.__name__}: {name} must be a")
    with pytest.raises(ValueError, match=f"^{start}.*, got -1$"):
        kind(**{next(iter(asdict(kind(0.1)))): 0.1, name: -1})
    with pytest.raises(TypeError, match=f"^{start}.*, got 'high'$"):
        kind(**{next(iter(asdict(kind(0.1)))): 0.1, name: "high"})


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (Constant, "learning_rate", 0.0, "a finite number above 0"),
        (StepDecay, "every", 0, "an integer of 1 or more"),
        (Exponential, "factor", 0.0, "a finite number above 0"),
        (InverseScaling, "power", np.nan, "a finite number of 0 or more"),
        (Cosine, "final_rate", np.inf, "a finite number of 0 or more"),
        (OneCycle, "warm", 1.0, "a number in [0, 1)"),
        (Warmup, "schedule", 0.0, "a finite number above 0 or a schedule"),
    ],
)
def test_words_of_a_bad_setting(kind: Any, name: str, value: float, expected: str) -> None:
    message = f"{kind.__name__}: {name} must be {expected}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(**{next(iter(asdict(kind(0.1)))): 0.1, name: value})
