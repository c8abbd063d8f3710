"""Optimizers, schedules, averages, clipping and masks:
papers, known answers, any split.
"""

import pydoc
import re
from dataclasses import asdict, fields
from typing import Any

import naive
import numpy as np
import pytest

from fastmlp import EMA, SGD, SWA, Adam, AdamW, Cosine, ScheduleFreeAdamW
from fastmlp.rules import dropout
from fastmlp.rules.dropout import LOW, Dropout, mask, noise, numbers_of, philox_of
from fastmlp.rules.optimizer_protocol import (
    Optimizer,
    OptimizerSettings,
    average_start,
    coefficients_of,
    gradient_rule_of,
    n_coefficients_of,
    norm_limit_of,
)
from fastmlp.rules.optimizers import OPTIMIZERS, Custom, Nadam, RMSprop
from fastmlp.rules.schedules import (
    SCHEDULES,
    Constant,
    Exponential,
    InverseScaling,
    OneCycle,
    StepDecay,
    Warmup,
)
from fastmlp.rules.updates import GRADIENT_RULES, NORM_LIMITS, clip, norm_factor

# Every optimizer as it comes, and the forms that other settings call for.
FORMS: list[Any] = [kind(0.05) for kind in OPTIMIZERS.values()] + [
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    RMSprop(0.05, rho=0.99, momentum=0.9, epsilon=1e-3),
    Adam(0.05, beta_1=0.8, beta_2=0.99, epsilon=1e-2),
    Adam(0.05, beta_1=0.0, beta_2=0.0),
    AdamW(0.05, weight_decay=0.3),
    Nadam(0.05, beta_1=0.99, momentum_decay=0.1),
    Nadam(0.05, beta_1=0.0),
    ScheduleFreeAdamW(0.05, beta_1=0.6, warmup_steps=30),
]
RATES = np.geomspace(0.1, 0.01, 100)
each_form = pytest.mark.parametrize("optimizer", FORMS, ids=repr)


def run(optimizer: Any, w: Any, slopes: Any, rates: Any) -> Any:
    """Parameters after one step for each row of slopes,
    shape (n_steps, n_parameters).
    """
    m = np.zeros_like(w)
    v = np.zeros_like(w)
    path = np.empty_like(slopes)
    coefficients = optimizer.coefficients(1, rates).astype(w.dtype)
    for i, row in enumerate(coefficients):
        for j in range(w.size):
            w[j], m[j], v[j] = optimizer.rule(w[j], slopes[i, j], m[j], v[j], *row)
        path[i] = w
    return path


@each_form
def test_fifty_steps_are_those_of_the_paper(
    optimizer: Any, rng: np.random.Generator
) -> None:
    slopes = rng.normal(size=(50, 4)) * [1e-3, 0.1, 1, 100]
    w = rng.normal(size=4)
    path = run(optimizer, w.copy(), slopes, RATES[:50])
    name = optimizer.rule.__name__.removeprefix("sgd_")
    state: Any = {}
    for i in range(50):
        settings = {**asdict(optimizer), "learning_rate": RATES[i]}
        w, state = naive.step(name, settings, i + 1, w, slopes[i], state)
        np.testing.assert_allclose(path[i], w, rtol=1e-12, atol=1e-12)


@each_form
@pytest.mark.parametrize("first", [1, 2, 50, 1000])
def test_coefficients_do_not_depend_on_how_steps_are_split(
    optimizer: Any, first: int
) -> None:
    whole = optimizer.coefficients(first, RATES)
    parts = (
        optimizer.coefficients(first, RATES[:37]),
        optimizer.coefficients(first + 37, RATES[37:]),
    )
    assert np.array_equal(whole, np.concatenate(parts))


@each_form
@pytest.mark.parametrize("first", [1, 10**6, 10**12])
def test_coefficients_are_finite_however_long_the_training(
    optimizer: Any, first: int
) -> None:
    coefficients = optimizer.coefficients(first, RATES)
    assert coefficients.shape[0] == len(RATES)
    assert coefficients.dtype == np.float64
    assert np.isfinite(coefficients).all()


@each_form
def test_a_slope_of_nan_makes_its_parameter_nan(optimizer: Any) -> None:
    slopes = np.full((1, 1), np.nan)
    path = run(optimizer, np.ones(1), slopes, RATES[:1])
    assert np.isnan(path).all()


@each_form
def test_slopes_of_0_leave_the_decay_alone(optimizer: Any) -> None:
    decay = getattr(optimizer, "weight_decay", 0.0)
    kept = np.prod(1 - RATES[:5] * decay)
    path = run(optimizer, np.ones(1), np.zeros((5, 1)), RATES[:5])
    np.testing.assert_allclose(path[-1], kept, rtol=1e-15)


@each_form
def test_settings_of_an_optimizer_are_frozen(optimizer: Any) -> None:
    assert isinstance(optimizer, Optimizer)
    with pytest.raises(AttributeError, match="learning_rate"):
        optimizer.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_in_the_table_is_that_of_its_class(name: str) -> None:
    assert OPTIMIZERS[name].__name__.lower() == name


def sign_descent(w: Any, g: Any, m: Any, v: Any, rate: Any, shrink: Any) -> Any:
    return shrink * w - rate * np.sign(g), m, v


def test_a_rule_of_ones_own_gets_its_constants() -> None:
    own = Custom(sign_descent, 0.5, constants=(0.25,))
    rows = own.coefficients(1, np.array([0.5, 0.1]))
    assert rows.tolist() == [[0.5, 0.25], [0.1, 0.25]]
    # 0.25 * 4 - 0.5 = 0.5, then 0.25 * 0.5 + 0.5 = 0.625.
    slopes = np.array([[3.0], [-7.0]])
    path = run(own, np.full(1, 4.0), slopes, np.full(2, 0.5))
    assert path.tolist() == [[0.5], [0.625]]


def test_clipvalue_is_the_last_coefficient() -> None:
    plain = Adam(0.01)
    clipped = Adam(0.01, clipvalue=0.5)
    table = coefficients_of(clipped, 3, RATES)
    assert np.array_equal(table[:, :-1], coefficients_of(plain, 3, RATES))
    assert (table[:, -1] == 0.5).all()
    assert gradient_rule_of(plain) == ""
    assert gradient_rule_of(clipped) == "clipvalue"


@pytest.mark.parametrize("kind", [Adam, AdamW, Nadam])
def test_epsilon_hat_is_added_to_the_uncorrected_root(kind: Any) -> None:
    plain = kind(epsilon=1e-3)
    hat = kind(epsilon=1e-3, epsilon_hat=True)
    t = np.arange(5, 105)
    corrected = plain.coefficients(5, RATES)
    uncorrected = hat.coefficients(5, RATES)
    changed = (corrected != uncorrected).any(axis=0)
    (column,) = np.flatnonzero(changed)
    assert (uncorrected[:, column] == 1e-3).all()
    expected = 1e-3 * np.sqrt(1 - 0.999**t)
    np.testing.assert_allclose(corrected[:, column], expected, rtol=1e-12)


def test_adam_with_epsilon_hat_is_that_of_scikit_learn(
    rng: np.random.Generator,
) -> None:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    slopes = rng.normal(size=(50, 4))
    w = rng.normal(size=4)
    theirs = AdamOptimizer([w.copy()], 0.05, epsilon=0.1)
    expected = [w.copy()]
    ours = Adam(epsilon=0.1, epsilon_hat=True)
    path = run(ours, w.copy(), slopes, np.full(50, 0.05))
    for i in range(50):
        theirs.update_params(expected, [slopes[i]])
        np.testing.assert_allclose(path[i], expected[0], rtol=1e-12)


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), Custom])
def test_every_optimizer_documents_the_shared_settings(kind: Any) -> None:
    help_of = pydoc.plain(pydoc.render_doc(kind))
    parameters = help_of.partition("Parameters")[2].partition("Raises")[0]
    for field in fields(OptimizerSettings):
        assert f"\n |  {field.name} : " in parameters


def test_a_repr_shows_the_settings_in_use() -> None:
    assert repr(SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0.0, nesterov=False)"
    clipped = "SGD(learning_rate=0.1, momentum=0.0, nesterov=False, clipvalue=2.0)"
    assert repr(SGD(0.1, clipvalue=2)) == clipped
    assert repr(SGD(0.1, global_clipnorm=1)).endswith(", global_clipnorm=1.0)")


def test_optimizers_of_equal_settings_are_equal() -> None:
    limited = SGD(0.1, clipnorm=1)
    assert limited == SGD(0.1, clipnorm=1.0)
    assert limited != SGD(0.1, global_clipnorm=1.0)


@pytest.mark.parametrize(("name", "by_variable"), NORM_LIMITS.items())
def test_a_limit_of_norms_adds_no_coefficient(name: str, by_variable: bool) -> None:
    settings: dict[str, Any] = {name: 2}
    limited = Adam(0.01, **settings)
    assert norm_limit_of(limited) == (2.0, by_variable)
    plain = coefficients_of(Adam(0.01), 3, RATES)
    assert np.array_equal(coefficients_of(limited, 3, RATES), plain)


def test_clipvalue_is_not_a_limit_of_norms() -> None:
    assert norm_limit_of(Adam(0.01, clipvalue=1.0)) is None


def test_rows_of_coefficients_have_the_bits_of_the_optimizers() -> None:
    adam = Adam(clipvalue=0.5)
    rates = np.geomspace(0.1, 0.01, 5)
    expected = np.column_stack([adam.coefficients(7, rates), np.full(5, 0.5)])
    assert coefficients_of(adam, 7, rates).tobytes() == expected.tobytes()
    assert n_coefficients_of(adam) == 5


SCHEDULE_FREE = ScheduleFreeAdamW(warmup_steps=20)
EQUAL_RATES = np.full(60, 0.0025)


def test_coefficients_of_an_average_do_not_depend_on_how_steps_are_split() -> None:
    whole = SCHEDULE_FREE.coefficients(6, EQUAL_RATES, averaged_from=5)
    first = SCHEDULE_FREE.coefficients(6, EQUAL_RATES[:9], averaged_from=5)
    second = SCHEDULE_FREE.coefficients(15, EQUAL_RATES[9:], averaged_from=5)
    assert np.array_equal(whole, np.concatenate([first, second]))


def test_z_weighs_the_square_of_its_rate_by_the_sum_since_the_average() -> None:
    coefficients = SCHEDULE_FREE.coefficients(6, EQUAL_RATES, averaged_from=5)
    squares = np.minimum(np.arange(6, 66) / 20, 1) ** 2
    expected = squares / np.cumsum(squares)
    np.testing.assert_allclose(coefficients[:, -2], expected, rtol=1e-12)


def averaged(gains: Any, path: Any) -> Any:
    average = np.full_like(path[0], 7.0)
    seen = []
    for gain, w in zip(gains, path, strict=True):
        average = average + (w - average) * gain
        seen.append(average)
    return np.array(seen)


def test_an_ema_is_that_of_keras_with_adams_correction(
    rng: np.random.Generator,
) -> None:
    path = rng.normal(size=(50, 3))
    m = 0.9
    ours = averaged(EMA(m).gains(np.arange(1, 51)), path)
    # Keras begins at zeros; the correction divides by 1 - m^k.
    keras = np.zeros(3)
    for k, w in enumerate(path, start=1):
        keras = m * keras + (1 - m) * w
        corrected = keras / (1 - m**k)
        np.testing.assert_allclose(ours[k - 1], corrected, rtol=1e-12, atol=1e-12)


def test_swa_is_the_mean_of_the_last_parameters(rng: np.random.Generator) -> None:
    path = rng.normal(size=(40, 3))
    optimizer = SGD(0.1, average=SWA(0.75))
    origin = average_start(optimizer, 100, 140, 0)
    gains = coefficients_of(optimizer, 101, np.ones(40), averaged_from=origin)[:, -1]
    ours = averaged(gains, path)
    np.testing.assert_allclose(ours[:31], path[:31], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(ours[-1], path[30:].mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize("momentum", [1e-12, 0.5, 0.999, 1 - 1e-12])
def test_gains_of_an_ema_are_exact(momentum: float) -> None:
    gains = EMA(momentum).gains(np.array([1, 2, 10**15]))
    assert gains[0] == 1
    assert gains[1] == pytest.approx(1 / (1 + momentum), rel=1e-12)
    assert gains[2] == pytest.approx(1 - momentum, rel=1e-3)


TOTAL = 3000  # longer than the default steps of a decay and of a warm-up
STEPS = np.arange(TOTAL)
each_schedule = pytest.mark.parametrize("kind", SCHEDULES.values())


@each_schedule
def test_rates_are_one_float64_a_step(kind: Any) -> None:
    schedule = kind(0.1)
    rates = schedule(STEPS, TOTAL)
    assert rates.shape == STEPS.shape
    assert rates.dtype == np.float64
    assert (rates >= 0).all()
    assert schedule(STEPS[:0], 0).shape == (0,)


@each_schedule
def test_rates_do_not_depend_on_how_steps_are_split(kind: Any) -> None:
    schedule = kind(0.1)
    whole = schedule(STEPS, TOTAL)
    parts = np.split(STEPS, [37, 38, 1000, 2500])
    rates = [schedule(part, TOTAL) for part in parts]
    assert np.array_equal(whole, np.concatenate(rates))


@each_schedule
def test_rates_rise_to_one_peak(kind: Any) -> None:
    rates = kind(0.1)(STEPS, TOTAL)
    peak = rates.argmax()
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()


@each_schedule
def test_a_warm_up_is_a_line_before_the_schedule(kind: Any) -> None:
    rates = Warmup(kind(0.1), n_steps=100)(STEPS, TOTAL)
    later = kind(0.1)(np.arange(TOTAL - 100), TOTAL - 100)
    line = later[0] * np.arange(1, 101) / 100
    np.testing.assert_allclose(rates[:100], line, rtol=1e-15)
    assert np.array_equal(rates[100:], later)


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


SETTINGS = [
    (kind, name)
    for kind in (*OPTIMIZERS.values(), *SCHEDULES.values())
    for name, value in asdict(kind(0.1)).items()
    if name not in ("average", "warmup_steps") and not isinstance(value, bool)
]
each_setting = pytest.mark.parametrize(("kind", "name"), SETTINGS)


def with_setting(kind: Any, name: str, value: Any) -> Any:
    """Make an optimizer or a schedule whose first setting, its rate, is valid."""
    first = next(iter(asdict(kind(0.1))))
    return kind(**{first: 0.1, name: value})


@each_setting
def test_a_setting_below_0_is_an_error(kind: Any, name: str) -> None:
    start = re.escape(f"{kind.__name__}: {name} must be a")
    with pytest.raises(ValueError, match=f"^{start}.*, got -1$"):
        with_setting(kind, name, -1)


@each_setting
def test_a_setting_that_is_a_text_is_an_error(kind: Any, name: str) -> None:
    start = re.escape(f"{kind.__name__}: {name} must be a")
    with pytest.raises(TypeError, match=f"^{start}.*, got 'high'$"):
        with_setting(kind, name, "high")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_that_of_numpy(dtype: Any) -> None:
    slopes = np.array([-np.inf, -3, -0.5, -0.0, 0, 1e-30, 0.5, 0.6, np.inf], dtype)
    clipped = np.array([clip(g, dtype(0.5)) for g in slopes], dtype)
    assert np.array_equal(clipped, np.clip(slopes, -0.5, 0.5))


@pytest.mark.parametrize("rule", GRADIENT_RULES.values(), ids=GRADIENT_RULES)
def test_nan_of_the_gradient_stays_nan(rule: Any) -> None:
    assert np.isnan(rule(np.float64(np.nan), np.float64(0.5)))


@pytest.mark.parametrize(
    ("norm", "factor"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (8.0, 0.25)]
)
def test_a_norm_is_scaled_to_the_limit(norm: float, factor: float) -> None:
    assert norm_factor(norm, 2.0) == factor


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_makes_nan(norm: float) -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(norm_factor(np.float64(norm), 2.0))
        assert np.isnan(norm_factor(norm, 2.0))


KEY = (0xDEADBEEF, 0x12345678)
each_step = pytest.mark.parametrize("step", [0, 7, 2**33 + 5])


@each_step
@pytest.mark.parametrize("layer", [-1, 0, 3])
def test_a_mask_is_that_of_the_oracle(step: int, layer: int) -> None:
    result = mask(KEY, step, layer, (5, 19), 0.3)
    expected = naive.mask(KEY, step, layer, (5, 19), 0.3)
    assert (result == expected).all()


@each_step
def test_noise_is_that_of_the_oracle(step: int) -> None:
    result = noise(KEY, step, (5, 19), 0.5)
    expected = 0.5 * naive.noise(KEY, step, (5, 19))
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_decisions_do_not_depend_on_each_other() -> None:
    """Neighbouring units, rows, steps and layers;
    inputs and the first layer; two keys.
    """
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
    pairs.append((one[1:], one[:-1]))
    pairs.append((one[:, 1:], one[:, :-1]))
    pairs.append((one[:, 8:], one[:, :-8]))
    for a, b in pairs:
        assert abs((a * b).mean()) < 4e-3


def test_the_numbers_of_a_step_are_exact_in_float32() -> None:
    rule = Dropout((0.25, Cosine(0.5)), inputs=0.999999, noise=2.5)
    steps = np.array([0, 5, 2**40 + 2**17 + 1])
    table = numbers_of(rule, KEY, steps, 10).astype(np.float32).astype(np.float64)
    pieces = [0xBEEF, 0xDEAD, 0x5678, 0x1234]
    assert (table[:, :4] == pieces).all()
    low, middle, high = table[:, 4:7].T
    assert (low + middle * 2.0**16 + high * 2.0**32 == steps).all()
    # A rate of almost 1 still keeps one unit of 65,536.
    inputs = table[:, dropout.INPUTS : dropout.INPUTS + 2]
    assert (inputs == [65535, 65536]).all()
    assert (table[:, dropout.NOISE] == 2.5).all()
    constant = table[:, dropout.HIDDEN] / 65536
    assert constant.tolist() == [0.25, 0.25, 0.25]
    falling = table[:, dropout.HIDDEN + 2] / 65536
    assert falling.tolist() == [0.5, 0.25, 0]


@pytest.mark.parametrize("value", [1.0, -0.1, np.nan])
def test_a_schedule_out_of_range_is_an_error_at_its_step(value: float) -> None:
    def rates(steps: np.ndarray, total: int) -> np.ndarray:
        return np.where(steps == 4, value, 0.5)

    message = r"dropout, .*must return 3 rates in \[0, 1\).* at step 4"
    with pytest.raises(ValueError, match=message):
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
def test_the_known_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    philox = philox_of(lambda function: function)
    words = philox(*map(np.uint64, (*counter, *key)))
    assert [int(word & LOW) for word in words] == expected


@pytest.mark.parametrize(("counter", "key", "expected"), ANSWERS)
def test_the_oracle_has_the_known_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    words = [np.array([word]) for word in counter]
    numbers = naive.philox(words, (key[0], key[1]))
    assert np.ravel(numbers).tolist() == expected
