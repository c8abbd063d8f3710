"""Losses and links far out, beside decimal arithmetic, and beside scikit-learn's functions."""

from decimal import Decimal
from itertools import product
from typing import Any

import numba
import numpy as np
import precise
import pytest
from loss_cases import CASES, constants_of, options_of, outputs_for, settings_of
from scipy.optimize import minimize
from sklearn import _loss
from sklearn.linear_model import GammaRegressor, TweedieRegressor
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from fastmlp import MLP, Adam, Quantile, Status, Tweedie
from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import block_of, call
from fastmlp.rules.losses import LINKS, LOSSES, SKLEARN_LOSSES, Loss, Smoothed, in_dtype

FAR: dict[str, Loss] = CASES | {f"tweedie {k}": Tweedie(k).loss for k in (1.001, 1.9, 1.999)}
MOST_ROUNDINGS, N_ROWS = 8, 40
SIZES = (1e-6, 0.5, 3.0, 30.0, 88.0, 177.0, 709.0, 1e4)
RAW = np.array([0.0, *SIZES, *(-size for size in SIZES)])
TARGETS = {
    "real": (0.0, 1.0, -3.0, 1e6, -1e6),
    "unit": (0.0, 1e-6, 0.5, 1.0),
    "count": (0.0, 1.0, 5.0, 1e6),
    "positive": (1e-30, 1.0, 1e6),
    "classes": (0.0, 0.25, 1.0),
}
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@numba.njit
def invoke(address: Any, arguments: Any) -> None:
    call(address, arguments)


def run(factory: Any, rule: Any, options: Any, arrays: Any, *counts: int) -> None:
    block = block_of(factory, str(arrays[0].dtype), rule, **options)
    invoke(block.address, (*(array.ctypes.data for array in arrays), *counts))


def rows_of(name: str, dtype: str) -> tuple[Any, Any]:
    """Outputs, shape (n_rows, n), and targets, in columns."""
    loss, rng = FAR[name], np.random.default_rng(0)
    if loss.by_row:
        n = outputs_for(name, 3)
        n_targets = n if loss.targets == "classes" else n // loss.per_target
        outputs: Any = rng.choice(RAW, (N_ROWS, n))
        targets: Any = rng.choice(TARGETS[loss.targets], (N_ROWS, n_targets))
    else:
        outputs, targets = np.split(np.array([*product(RAW, TARGETS[loss.targets])]), 2, axis=1)
    return np.asfortranarray(outputs.astype(dtype)), np.asfortranarray(targets.astype(dtype))


def plain(loss: Loss, outputs: Any, targets: Any) -> Any:
    """Values and slopes of all rows, uncompiled: shape (n_rows, 1 + n)."""
    slopes, values = np.empty_like(outputs), np.empty(len(outputs))
    constants = in_dtype(loss.constants, outputs.dtype.type)
    if loss.by_row:
        loss.rule(outputs, targets, slopes, values, *constants)
    else:
        for r, pair in enumerate(zip(outputs[:, 0], targets[:, 0], strict=True)):
            values[r], slopes[r] = loss.rule(*pair, *constants)
    return np.column_stack([values, slopes])


def compiled(loss: Loss, outputs: Any, targets: Any) -> Any:
    slopes, values = np.empty_like(outputs), np.empty(len(outputs))
    arrays, counts = (outputs, targets, slopes, values), (*outputs.shape, targets.shape[1])
    settings = settings_of(loss, outputs.dtype)
    run(elementwise.loss_loop, loss.rule, options_of(loss), arrays, settings, *counts)
    return np.column_stack([values, slopes])


def decimals(numbers: Any) -> list[Any]:
    return [Decimal(float(n)) if np.ndim(n) == 0 else decimals(n) for n in numbers]


def half_unit(dtype: str) -> Decimal:
    return Decimal(float(np.finfo(dtype).eps)) / 2


def moved(numbers: list[Decimal], unit: Decimal) -> list[list[Decimal]]:
    """Rows of which one number each has a rounding error."""
    each = enumerate(numbers)
    return [[*numbers[:j], n * (1 + unit), *numbers[j + 1 :]] for j, n in each if n]


class Expected:
    """A number's terms, and the errors that it may have."""

    def __init__(self, terms: Any, others: Any, dtype: str) -> None:
        limits = np.finfo(dtype)
        unit, (tiny, most) = half_unit(dtype), decimals([limits.tiny, limits.max])
        self.number = sum(terms, Decimal(0))
        self.rounding = unit * sum(map(abs, terms))
        self.rounding += sum(abs(sum(other) - self.number) for other in others)
        # Kernels take numbers below the smallest normal one for 0.
        self.rounding += tiny
        self.overflows = abs(self.number) > most - MOST_ROUNDINGS * self.rounding

    def roundings(self, actual: float) -> float:
        """The error of a number: 0 for an infinity in place of a number beyond the dtype's."""
        if np.isinf(actual) and self.overflows and (actual > 0) == (self.number > 0):
            return 0.0
        if not np.isfinite(actual):
            return np.inf
        return float(abs(Decimal(float(actual)) - self.number) / self.rounding)


def expected_of(name: str, outputs: Any, targets: Any) -> list[Expected]:
    dtype, rule = str(outputs.dtype), FAR[name].rule.__name__
    constants = decimals(in_dtype(FAR[name].constants, outputs.dtype.type))
    unit, raw, y = half_unit(dtype), decimals(outputs), decimals(targets)
    near = [(row, y) for row in moved(raw, unit)] + [(raw, row) for row in moved(y, unit)]
    value, slopes = precise.loss(rule, raw, y, constants)
    others = [precise.loss(rule, z, aims, constants) for z, aims in near]
    return [
        Expected(value, [other for other, _ in others], dtype),
        *(Expected(s, [other[j] for _, other in others], dtype) for j, s in enumerate(slopes)),
    ]


def expected_values(name: str, raw: Any) -> list[Expected]:
    dtype, link = str(raw.dtype), precise.LINKS[name]
    near = [link(row) for row in moved(decimals(raw), half_unit(dtype))]
    values = enumerate(link(decimals(raw)))
    return [Expected([value], [[row[j]] for row in near], dtype) for j, value in values]


@pytest.mark.few(12)
@each_dtype
@pytest.mark.parametrize("name", FAR)
def test_a_loss_is_its_formula_far_out(name: str, dtype: str) -> None:
    outputs, targets = rows_of(name, dtype)
    with np.errstate(over="ignore", invalid="raise", divide="raise"):
        tables = [form(FAR[name], outputs, targets) for form in (plain, compiled)]
    for r, row in enumerate(zip(outputs, targets, strict=True)):
        expected = precise.exact(expected_of, name, *row)
        for table in tables:
            errors = [each.roundings(n) for each, n in zip(expected, table[r], strict=True)]
            assert max(errors) <= MOST_ROUNDINGS, (*row, table[r])


@each_dtype
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_its_formula_far_out(name: str, dtype: str) -> None:
    link, rng = LINKS[name], np.random.default_rng(0)
    raw = np.asfortranarray(rng.choice(RAW, (N_ROWS, 4)).astype(dtype))
    by_loop, by_rule = np.empty_like(raw), np.empty_like(raw)
    with np.errstate(over="ignore"):
        run(elementwise.link_loop, link.rule, {"by_row": link.by_row}, (raw, by_loop), *raw.shape)
        if link.by_row:
            link.rule(raw, by_rule)
        else:
            by_rule[:] = [[link.rule(z) for z in row] for row in raw]
    for r, row in enumerate(raw):
        expected = precise.exact(expected_values, name, row)
        for actual in (by_loop[r], by_rule[r]):
            errors = [each.roundings(n) for each, n in zip(expected, actual, strict=True)]
            assert max(errors) <= MOST_ROUNDINGS, (row, actual)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="takes minutes")
def test_rows_that_are_surely_zero_do_not_end_a_tweedie_fit() -> None:
    X = 50 * np.eye(2, dtype="f")[np.arange(2000) % 2]
    y = np.where(np.arange(2000) % 2, 0.0, 5.0)
    net = MLP((2, 16, 1), loss=Tweedie(1.9), seed=0, optimizer=Adam(0.01))
    assert net.fit(X, y, epochs=20).status is Status.COMPLETED


RAW_OUTPUTS = np.array([0, 1e-3, -1e-3, 1, -1, 30, -30])
PEERS: dict[str, tuple[Any, Any]] = {
    "gamma": (LOSSES["gamma"], _loss.HalfGammaLoss()),
    **{
        f"tweedie {power}": (Tweedie(power).loss, _loss.HalfTweedieLoss(power=power))
        for power in (1.0, 1.1, 1.5, 1.99, 2.0)
    },
    **{
        f"quantile {level}": (Quantile(level).loss, _loss.PinballLoss(quantile=level))
        for level in (0.05, 0.5, 0.9)
    },
}


@pytest.mark.parametrize("target", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("name", PEERS)
def test_value_and_slope_are_scikit_learns(name: str, target: float) -> None:
    loss, peer = PEERS[name]
    y = np.full(len(RAW_OUTPUTS), target)
    pairs = [loss.rule(np.float64(z), np.float64(target), *loss.constants) for z in RAW_OUTPUTS]
    values, slopes = np.array(pairs).T
    constant = peer.constant_to_optimal_zero(y) if "tweedie" in name or name == "gamma" else 0
    scale = np.maximum(1, abs(values))
    expected = peer.loss(y, RAW_OUTPUTS) + constant
    np.testing.assert_allclose(values / scale, expected / scale, atol=1e-12)
    # scikit-learn's slope at a perfect prediction of a quantile is one of the two sides.
    kink = (target == RAW_OUTPUTS) & name.startswith("quantile")
    np.testing.assert_allclose(
        slopes[~kink], peer.gradient(y, RAW_OUTPUTS)[~kink], rtol=1e-12, atol=1e-12
    )


def test_focal_losses_without_focus_are_the_cross_entropies() -> None:
    rng = np.random.default_rng(0)
    raw, y = rng.normal(scale=5, size=(20, 4)), rng.integers(4, size=(20, 1)).astype(float)
    results = []
    for name, more in (("focal", (0.0,)), ("cross_entropy", ())):
        slopes, values = np.empty_like(raw), np.empty(20)
        LOSSES[name].rule(raw, y, slopes, values, *more)
        results.append((slopes, values))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-12, atol=1e-14)
    for z in RAW_OUTPUTS:
        for target in (0.0, 0.3, 1.0):
            pair = np.float64(z), np.float64(target)
            np.testing.assert_allclose(
                LOSSES["binary_focal"].rule(*pair, 0.0),
                LOSSES["binary_cross_entropy"].rule(*pair),
                rtol=1e-12,
                atol=1e-14,
            )


def test_smoothed_labels_are_soft_targets() -> None:
    """As PyTorch's and Keras' label_smoothing: (1 - s) y + s / n."""
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(30, 3)), rng.integers(4, size=30)
    smooth = MLP((3, 5, 4), loss="cross_entropy", label_smoothing=0.2, dtype="float64", seed=0)
    plain = MLP((3, 5, 4), loss="cross_entropy", dtype="float64", seed=0)
    value, slopes = smooth.loss_and_gradient(X, labels)
    expected, gradient = plain.loss_and_gradient(X, 0.8 * np.eye(4)[labels] + 0.05)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-10, atol=1e-14)
    assert smooth._network.loss == Smoothed("cross_entropy", 0.2).loss


def test_a_gaussian_below_the_least_variance_goes_on_as_a_line() -> None:
    rule, y = CASES["gaussian_nll"].rule, np.array([[0.3]])
    ends, middle = np.array([-20.0, -16.0]), -18.0
    values = []
    for s in (*ends, middle):
        raw, slopes, value = np.array([[0.5, s]]), np.empty((1, 2)), np.empty(1)
        rule(raw, y, slopes, value)
        values.append(value[0])
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "peer"),
    [
        ("gamma", GammaRegressor(alpha=0, tol=1e-9, max_iter=10_000)),
        (Tweedie(1.5), TweedieRegressor(power=1.5, alpha=0, link="log", tol=1e-9, max_iter=10_000)),
    ],
    ids=str,
)
def test_a_linear_net_reaches_the_objective_of_a_linear_model(loss: Any, peer: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = rng.gamma(2.0, np.exp(X @ [0.3, -0.2, 0.5]) / 2)
    net = MLP((3, 1), loss=loss, dtype="float64", initializer="zeros")

    def objective(flat: Any) -> Any:
        net.parameters[:] = flat
        return net.loss_and_gradient(X, y)

    result = minimize(objective, np.zeros(4), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    theirs = peer.fit(X, y)
    expected, _ = objective(np.append(theirs.coef_, theirs.intercept_))
    assert result.fun == pytest.approx(expected, abs=1e-6)


def test_constants_are_of_the_nets_dtype() -> None:
    (levels,) = constants_of("three quantiles", "float32")
    assert {type(level) for level in levels} == {np.float32}


SKLEARN_LINKS = {None: "identity", "exp": "exp", "sigmoid": "logistic", "softmax": "softmax"}
each_loss = pytest.mark.parametrize("name", SKLEARN_LOSSES)


def draw(name: str, scale: float, dtype: Any) -> tuple[Any, Any]:
    """Raw outputs, shape (20, 4), and targets."""
    rng = np.random.default_rng(0)
    raw = rng.normal(scale=scale, size=(20, 4)).astype(dtype)
    targets = {
        "squared_error": rng.normal(size=(20, 4)),
        "poisson": rng.poisson(2.0, size=(20, 4)),
        "binary_log_loss": rng.integers(0, 2, size=(20, 4)),
        "log_loss": rng.integers(0, 4, size=(20, 1)),
    }
    return raw, targets[name].astype(dtype)


def evaluate(name: str, raw: Any, targets: Any) -> tuple[Any, Any]:
    """Values, shape (n_rows,), and slopes."""
    loss, slopes, values = SKLEARN_LOSSES[name], np.empty_like(raw), np.empty(len(raw))
    if loss.by_row:
        loss.rule(raw, targets, slopes, values)
        return values, slopes
    pairs = np.array(
        [
            [loss.rule(*pair) for pair in zip(*rows, strict=True)]
            for rows in zip(raw, targets, strict=True)
        ]
    )
    assert loss.over_outputs == "sum"
    return pairs[..., 0].sum(axis=1), pairs[..., 1]


@each_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_slope_are_those_of_scikit_learn(
    name: str, scale: float, dtype: Any, tolerance: float
) -> None:
    raw, targets = draw(name, 1.0 if name == "poisson" else scale, dtype)
    prediction = raw.copy()
    ACTIVATIONS[SKLEARN_LINKS[SKLEARN_LOSSES[name].link]](prediction)
    expected = np.eye(4, dtype=dtype)[targets[:, 0].astype(int)] if name == "log_loss" else targets
    values, slopes = evaluate(name, raw, targets)
    by_row = [
        LOSS_FUNCTIONS[name](t[None], p[None]) for t, p in zip(expected, prediction, strict=True)
    ]
    np.testing.assert_allclose(values, by_row, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slopes, prediction - expected, rtol=tolerance, atol=tolerance)
    assert slopes.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["binary_log_loss", "log_loss"])
def test_a_prediction_that_is_certain_is_clipped_as_by_scikit_learn(name: str, dtype: Any) -> None:
    one_hot = np.array([[1, 0]], dtype)
    targets = one_hot if name == "binary_log_loss" else one_hot[:, 1:]
    values, _ = evaluate(name, 1000 * one_hot - 500, targets)
    expected = LOSS_FUNCTIONS[name](one_hot, one_hot)
    assert expected > 0
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_negative_count_has_no_loss() -> None:
    with np.errstate(invalid="ignore"):
        values, slopes = evaluate("poisson", np.zeros((1, 1)), np.array([[-1.0]]))
    assert np.isnan(values).all()
    assert slopes == 2
