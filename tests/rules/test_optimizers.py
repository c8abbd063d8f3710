"""Optimizers, uncompiled: rule and coefficients against the papers' formulas."""

import re
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import naive
import numpy as np
import pytest

from fastmlp.rules.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    Custom,
    Nadam,
    Optimizer,
    RMSprop,
    ScheduleFreeAdamW,
    coefficients_of,
    gradient_rule_of,
    norm_limit_of,
)
from fastmlp.rules.optimizers.protocol import OptimizerSettings
from fastmlp.rules.schedules import Cosine
from fastmlp.rules.updates import NORMS

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
# It takes no schedule: it has an average in its place.
SCHEDULED = [kind for kind in OPTIMIZERS.values() if kind is not ScheduleFreeAdamW]
RATES = np.geomspace(0.1, 0.01, 100)
each_form = pytest.mark.parametrize("optimizer", FORMS, ids=repr)


def run(optimizer: Any, w: Any, slopes: Any, rates: Any) -> Any:
    """Parameters after one step for each row of slopes, shape (n_steps, n_parameters)."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    path = np.empty_like(slopes)
    for i, row in enumerate(optimizer.coefficients(1, rates).astype(w.dtype)):
        for j in range(w.size):
            w[j], m[j], v[j] = optimizer.rule(w[j], slopes[i, j], m[j], v[j], *row)
        path[i] = w
    return path


@each_form
def test_fifty_steps_are_those_of_the_paper(optimizer: Any, rng: np.random.Generator) -> None:
    slopes, w = rng.normal(size=(50, 4)) * [1e-3, 0.1, 1, 100], rng.normal(size=4)
    path = run(optimizer, w.copy(), slopes, RATES[:50])
    name = optimizer.rule.__name__.removeprefix("sgd_")
    state: Any = {}
    for i in range(50):
        settings = {**asdict(optimizer), "learning_rate": RATES[i]}
        w, state = naive.step(name, settings, i + 1, w, slopes[i], state)
        np.testing.assert_allclose(path[i], w, rtol=1e-12, atol=1e-12)


@each_form
@pytest.mark.parametrize("first", [1, 2, 50, 1000])
def test_coefficients_do_not_depend_on_how_steps_are_split(optimizer: Any, first: int) -> None:
    whole = optimizer.coefficients(first, RATES)
    parts = (
        optimizer.coefficients(first, RATES[:37]),
        optimizer.coefficients(first + 37, RATES[37:]),
    )
    assert np.array_equal(whole, np.concatenate(parts))


@each_form
@pytest.mark.parametrize("first", [1, 10**6, 10**12])
def test_coefficients_are_finite_however_long_the_training(optimizer: Any, first: int) -> None:
    coefficients = optimizer.coefficients(first, RATES)
    assert coefficients.shape[0] == len(RATES)
    assert coefficients.dtype == np.float64
    assert np.isfinite(coefficients).all()


@each_form
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rule_keeps_the_precision_of_the_parameter(optimizer: Any, dtype: Any) -> None:
    row = optimizer.coefficients(1, RATES[:1]).astype(dtype)[0]
    after = optimizer.rule(*np.array([1, 0.5, 0, 0], dtype), *row)
    assert [type(number) for number in after] == [dtype] * 3


@each_form
def test_float32_follows_float64(optimizer: Any, rng: np.random.Generator) -> None:
    slopes, w = rng.normal(size=(50, 3)), rng.normal(size=3)
    narrow = run(optimizer, w.astype(np.float32), slopes.astype(np.float32), RATES[:50])
    np.testing.assert_allclose(narrow, run(optimizer, w, slopes, RATES[:50]), atol=2e-4)


@each_form
def test_a_nan_slope_makes_a_nan_parameter(optimizer: Any) -> None:
    assert np.isnan(run(optimizer, np.ones(1), np.full((1, 1), np.nan), RATES[:1])).all()


@each_form
def test_no_slope_and_no_decay_is_no_step(optimizer: Any) -> None:
    kept = np.prod(1 - RATES[:5] * getattr(optimizer, "weight_decay", 0.0))
    after = run(optimizer, np.ones(1), np.zeros((5, 1)), RATES[:5])[-1]
    np.testing.assert_allclose(after, kept, rtol=1e-15)


@each_form
def test_it_goes_down_a_bowl(optimizer: Any) -> None:
    w, m, v = np.float64(3), np.float64(0), np.float64(0)
    for row in optimizer.coefficients(1, RATES):
        w, m, v = optimizer.rule(w, w, m, v, *row)  # the slope of w^2 / 2 is w
    assert abs(w) < 2.5


@each_form
def test_it_is_an_optimizer_and_cannot_be_changed(optimizer: Any) -> None:
    assert isinstance(optimizer, Optimizer)
    with pytest.raises(FrozenInstanceError):
        optimizer.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", SCHEDULED)
def test_a_schedule_stands_for_a_learning_rate(kind: Any) -> None:
    assert kind(Cosine(0.1)).learning_rate == Cosine(0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_in_the_table_is_that_of_its_class(name: str) -> None:
    assert OPTIMIZERS[name].__name__.lower() == name


@pytest.mark.parametrize("kind", SCHEDULED)
@pytest.mark.parametrize("value", [0, -0.1, np.nan, np.inf])
def test_words_of_a_bad_learning_rate(kind: Any, value: float) -> None:
    wanted = "a finite number above 0 or a schedule"
    expected = f"{kind.__name__}: learning_rate must be {wanted}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        kind(value)


SETTINGS = [
    (kind, name)
    for kind in OPTIMIZERS.values()
    for name, value in asdict(kind()).items()
    if name not in ("learning_rate", "average", "warmup_steps") and not isinstance(value, bool)
]


@pytest.mark.parametrize(("kind", "name"), SETTINGS)
def test_every_other_number_is_checked_too(kind: Any, name: str) -> None:
    start = re.escape(f"{kind.__name__}: {name} must be a")
    with pytest.raises(ValueError, match=f"^{start}.*, got -0.5$"):
        kind(**{name: -0.5})
    with pytest.raises(TypeError, match=f"^{start}.*, got 'high'$"):
        kind(**{name: "high"})


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (SGD, "momentum", 1.0, "a number in [0, 1)"),
        (RMSprop, "rho", 1.5, "a number in [0, 1)"),
        (Adam, "epsilon", 0.0, "a finite number above 0"),
        (AdamW, "beta_2", 1.0, "a number in [0, 1)"),
        (AdamW, "weight_decay", np.inf, "a finite number of 0 or more"),
        (Nadam, "momentum_decay", np.nan, "a finite number of 0 or more"),
    ],
)
def test_words_of_a_bad_setting(kind: Any, name: str, value: float, expected: str) -> None:
    message = f"{kind.__name__}: {name} must be {expected}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(**{name: value})


def test_words_of_nesterov_without_momentum() -> None:
    message = "SGD: nesterov=True needs a momentum above 0, got momentum=0.0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SGD(nesterov=True)


def test_words_of_a_nesterov_that_is_no_boolean() -> None:
    with pytest.raises(TypeError, match=r"^SGD: nesterov must be True or False, got 1$"):
        SGD(momentum=0.9, nesterov=1)  # type: ignore[arg-type]


def sign_descent(w: Any, g: Any, m: Any, v: Any, rate: Any, shrink: Any) -> Any:
    return shrink * w - rate * np.sign(g), m, v


def test_a_rule_of_your_own_gets_the_rate_and_its_constants() -> None:
    own = Custom(sign_descent, 0.5, constants=(0.25,))
    assert own.coefficients(1, np.array([0.5, 0.1])).tolist() == [[0.5, 0.25], [0.1, 0.25]]
    # 0.25 * 4 - 0.5 = 0.5, then 0.25 * 0.5 + 0.5 = 0.625.
    path = run(own, np.full(1, 4.0), np.array([[3.0], [-7.0]]), np.full(2, 0.5))
    assert path.tolist() == [[0.5], [0.625]]


def test_words_of_a_custom_rule_that_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"^Custom: rule must be a function, got 'adam'$"):
        Custom("adam")  # type: ignore[arg-type]


def test_words_of_a_custom_learning_rate() -> None:
    message = "Custom: learning_rate must be a finite number above 0 or a schedule, got 0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Custom(sign_descent, 0)


@pytest.mark.parametrize("kind", [Adam, AdamW, Nadam])
def test_epsilon_hat_is_added_to_the_uncorrected_root(kind: Any) -> None:
    plain, hat = kind(epsilon=1e-3), kind(epsilon=1e-3, epsilon_hat=True)
    t = np.arange(5, 105)
    tables = [optimizer.coefficients(5, RATES) for optimizer in (plain, hat)]
    changed = [
        j for j in range(tables[0].shape[1]) if not np.array_equal(*(c[:, j] for c in tables))
    ]
    (column,) = changed
    assert (tables[1][:, column] == 1e-3).all()
    np.testing.assert_allclose(tables[0][:, column], 1e-3 * np.sqrt(1 - 0.999**t), rtol=1e-12)


def test_adam_with_epsilon_hat_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    slopes, w = rng.normal(size=(50, 4)), rng.normal(size=4)
    theirs, expected = AdamOptimizer([w.copy()], 0.05, epsilon=0.1), [w.copy()]
    path = run(Adam(epsilon=0.1, epsilon_hat=True), w.copy(), slopes, np.full(50, 0.05))
    for i in range(50):
        theirs.update_params(expected, [slopes[i]])
        np.testing.assert_allclose(path[i], expected[0], rtol=1e-12)


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), Custom])
def test_every_optimizer_documents_the_shared_settings(kind: Any) -> None:
    parameters = kind.__doc__.partition("Parameters")[2].partition("Raises")[0]
    for field in fields(OptimizerSettings):
        assert f"    {field.name} : " in parameters


def test_a_gradient_rule_adds_its_setting_to_the_coefficients() -> None:
    plain, clipped = Adam(0.01), Adam(0.01, clipvalue=0.5)
    table = coefficients_of(clipped, 3, RATES)
    assert np.array_equal(table[:, :-1], coefficients_of(plain, 3, RATES))
    assert (table[:, -1] == 0.5).all()
    assert (gradient_rule_of(plain), gradient_rule_of(clipped)) == ("", "clipvalue")


def test_an_optimizer_shows_the_shared_settings_in_use() -> None:
    assert repr(SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0.0, nesterov=False)"
    clipped = "SGD(learning_rate=0.1, momentum=0.0, nesterov=False, clipvalue=2.0)"
    assert repr(SGD(0.1, clipvalue=2)) == clipped
    assert repr(SGD(0.1, global_clipnorm=1)).endswith(", global_clipnorm=1.0)")
    assert SGD(0.1, clipnorm=1) == SGD(0.1, clipnorm=1.0) != SGD(0.1, global_clipnorm=1.0)


def test_clipping_by_norm_adds_no_coefficient() -> None:
    for name, by_variable in NORMS.items():
        settings: dict[str, Any] = {name: 2}
        clipped = Adam(0.01, **settings)
        assert norm_limit_of(clipped) == (2.0, by_variable)
        plain = coefficients_of(Adam(0.01), 3, RATES)
        assert np.array_equal(coefficients_of(clipped, 3, RATES), plain)
    assert norm_limit_of(Adam(0.01, clipvalue=1.0)) is None


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), Custom])
def test_an_optimizer_clips_in_one_way(kind: Any) -> None:
    rule = (lambda w, g, m, v, rate: (w, m, v),) if kind is Custom else ()
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name}: give clipvalue or clipnorm, not both"):
        kind(*rule, clipvalue=1.0, clipnorm=1.0)
    with pytest.raises(ValueError, match="give clipvalue, clipnorm or global_clipnorm, one of"):
        kind(*rule, clipvalue=1.0, clipnorm=1.0, global_clipnorm=1.0)
    with pytest.raises(ValueError, match=f"{name}: clipnorm must be a finite number above 0"):
        kind(*rule, clipnorm=0)
    with pytest.raises(TypeError, match=f"{name}: global_clipnorm must be a finite number above"):
        kind(*rule, global_clipnorm="1")
