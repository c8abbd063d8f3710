"""Changes of a gradient, and the random numbers of dropout and noise, uncompiled."""

from typing import Any

import naive
import numpy as np
import pytest

from fastmlp import Cosine
from fastmlp.rules import dropout
from fastmlp.rules.dropout import LOW, Dropout, mask, noise, numbers_of, philox_of
from fastmlp.rules.updates import GRADIENT_RULES, clip, norm_factor


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_that_of_numpy(dtype: Any) -> None:
    slopes = np.array([-np.inf, -3, -0.5, -0.0, 0, 1e-30, 0.5, 0.6, np.inf], dtype)
    clipped = np.array([clip(g, dtype(0.5)) for g in slopes], dtype)
    assert np.array_equal(clipped, np.clip(slopes, -0.5, 0.5))


@pytest.mark.parametrize("rule", GRADIENT_RULES.values(), ids=GRADIENT_RULES)
def test_nan_of_the_gradient_stays_nan(rule: Any) -> None:
    assert np.isnan(rule(np.float64(np.nan), np.float64(0.5)))


def test_a_norm_is_scaled_down_to_its_limit() -> None:
    assert [norm_factor(norm, 2.0) for norm in (0.0, 1.0, 2.0, 8.0)] == [1.0, 1.0, 1.0, 0.25]


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_makes_nan(norm: float) -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(norm_factor(np.float64(norm), 2.0))
        assert np.isnan(norm_factor(norm, 2.0))


KEY = (0xDEADBEEF, 0x12345678)


@pytest.mark.parametrize("step", [0, 7, 2**33 + 5])
def test_masks_and_noise_are_those_of_the_oracle(step: int) -> None:
    for layer in (-1, 0, 3):
        result = mask(KEY, step, layer, (5, 19), 0.3)
        assert (result == naive.mask(KEY, step, layer, (5, 19), 0.3)).all()
    result = noise(KEY, step, (5, 19), 0.5)
    np.testing.assert_allclose(result, 0.5 * naive.noise(KEY, step, (5, 19)), atol=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_as_many_units_are_dropped_as_asked_for(rate: float) -> None:
    masks = np.stack([mask(KEY, step, 0, (1000, 100), rate) for step in range(10)])
    kept, n = masks > 0, masks.size
    assert abs(kept.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / n)
    # Exact for the rate in use, that of 16 bits.
    used = float(dropout.thresholds(np.array(rate))) / 65536
    assert abs(used - rate) <= 8e-6
    assert masks.max() == 1 / (1 - used)


def test_decisions_do_not_depend_on_each_other() -> None:
    """Neighbouring units, rows, steps and layers; inputs and the first layer; two keys."""
    shape = (1000, 1000)
    one = mask(KEY, 0, 0, shape, 0.5) - 1
    others = [
        mask(KEY, 1, 0, shape, 0.5),
        mask(KEY, 0, 1, shape, 0.5),
        mask(KEY, 0, -1, shape, 0.5),
        mask(KEY, 2**32, 0, shape, 0.5),
        mask((KEY[0] + 1, KEY[1]), 0, 0, shape, 0.5),
    ]
    pairs = [(one, other - 1) for other in others]
    pairs += [(one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[:, 8:], one[:, :-8])]
    for a, b in pairs:
        assert abs((a * b).mean()) < 4e-3


def test_noise_is_normal() -> None:
    drawn = noise(KEY, 3, (1000, 1000), 1.0)
    n = drawn.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean() - moment) < 4 * np.sqrt(variance / n)
    for a, b in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
        assert abs((a * b).mean()) < 4e-3
    assert abs((drawn < 1.0).mean() - 0.841345) < 4 * np.sqrt(0.8413 * 0.1587 / n)


def test_the_numbers_of_a_step_are_exact_in_float32() -> None:
    rule = Dropout((0.25, Cosine(0.5)), inputs=0.999999, noise=2.5)
    steps = np.array([0, 5, 2**40 + 2**17 + 1])
    table = numbers_of(rule, KEY, steps, 10).astype(np.float32).astype(np.float64)
    pieces = [0xBEEF, 0xDEAD, 0x5678, 0x1234]
    assert (table[:, :4] == pieces).all()
    assert (table[:, 4] + table[:, 5] * 2.0**16 + table[:, 6] * 2.0**32 == steps).all()
    # A rate of almost 1 still keeps one unit of 65,536.
    assert (table[:, dropout.INPUTS : dropout.INPUTS + 2] == [65535, 65536]).all()
    assert (table[:, dropout.NOISE] == 2.5).all()
    assert table[:, dropout.HIDDEN].tolist() == [0.25 * 65536] * 3
    assert table[:, dropout.HIDDEN + 2].tolist() == [0.5 * 65536, 0.25 * 65536, 0]


@pytest.mark.parametrize("value", [1.0, -0.1, np.nan])
def test_a_schedule_out_of_range_is_an_error_at_its_step(value: float) -> None:
    def rates(steps: np.ndarray, total: int) -> np.ndarray:
        return np.where(steps == 4, value, 0.5)

    with pytest.raises(ValueError, match=r"dropout, .*must return 3 rates in \[0, 1\).* at step 4"):
        numbers_of(Dropout((rates,)), KEY, np.arange(3, 6), 10)


FULL = 0xFFFFFFFF
# Counter, key, output: kat_vectors of Random123.
ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), ANSWERS)
def test_the_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    philox = philox_of(lambda function: function)
    words = philox(*map(np.uint64, (*counter, *key)))
    assert [int(word & LOW) for word in words] == expected
    arrays = [np.array([word]) for word in counter]
    assert np.ravel(naive.philox(arrays, (key[0], key[1]))).tolist() == expected
