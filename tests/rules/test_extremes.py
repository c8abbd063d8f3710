"""Losses and links far out, beside decimal arithmetic,
and beside scikit-learn's functions.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import numba
import numpy as np
import pytest
from loss_cases import CASES, constants_of, options_of, outputs_for, settings_of
from sklearn import _loss
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from fastmlp import MLP, Adam, Quantile, Status, Tweedie
from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import block_of, call
from fastmlp.rules.losses import LINKS, LOSSES, SKLEARN_LOSSES, Loss, in_dtype

FAR: dict[str, Loss] = CASES | {
    f"tweedie {k}": Tweedie(k).loss for k in (1.001, 1.9, 1.999)
}
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
    loss = FAR[name]
    rng = np.random.default_rng(0)
    if loss.by_row:
        n = outputs_for(name, 3)
        if loss.targets == "classes":
            n_targets = n
        else:
            n_targets = n // loss.per_target
        outputs: Any = rng.choice(RAW, (N_ROWS, n))
        targets: Any = rng.choice(TARGETS[loss.targets], (N_ROWS, n_targets))
    else:
        pairs = np.array([*product(RAW, TARGETS[loss.targets])])
        outputs, targets = np.split(pairs, 2, axis=1)
    outputs = outputs.astype(dtype, order="F")
    targets = targets.astype(dtype, order="F")
    return outputs, targets


def plain(loss: Loss, outputs: Any, targets: Any) -> Any:
    """Values and slopes of all rows, uncompiled: shape (n_rows, 1 + n)."""
    slopes = np.empty_like(outputs)
    values = np.empty(len(outputs))
    constants = in_dtype(loss.constants, outputs.dtype.type)
    if loss.by_row:
        loss.rule(outputs, targets, slopes, values, *constants)
    else:
        for r, pair in enumerate(zip(outputs[:, 0], targets[:, 0], strict=True)):
            values[r], slopes[r] = loss.rule(*pair, *constants)
    return np.column_stack([values, slopes])


def compiled(loss: Loss, outputs: Any, targets: Any) -> Any:
    slopes = np.empty_like(outputs)
    values = np.empty(len(outputs))
    arrays = (outputs, targets, slopes, values)
    counts = (*outputs.shape, targets.shape[1])
    settings = settings_of(loss, outputs.dtype)
    run(elementwise.loss_loop, loss.rule, options_of(loss), arrays, settings, *counts)
    return np.column_stack([values, slopes])


def decimals(numbers: Any) -> list[Any]:
    return [Decimal(float(n)) if np.ndim(n) == 0 else decimals(n) for n in numbers]


def half_unit(dtype: str) -> Decimal:
    return Decimal(float(np.finfo(dtype).eps)) / 2


def moved(numbers: list[Decimal], unit: Decimal) -> list[list[Decimal]]:
    """Rows of which one number each has a rounding error."""
    rows = []
    for j, number in enumerate(numbers):
        if number:
            row = numbers.copy()
            row[j] = number * (1 + unit)
            rows.append(row)
    return rows


class Expected:
    def __init__(self, terms: Any, others: Any, dtype: str) -> None:
        limits = np.finfo(dtype)
        unit = half_unit(dtype)
        (tiny, most) = decimals([limits.tiny, limits.max])
        self.number = sum(terms, Decimal(0))
        self.rounding = unit * sum(map(abs, terms))
        self.rounding += sum(abs(sum(other) - self.number) for other in others)
        # Kernels take numbers below the smallest normal one for 0.
        self.rounding += tiny
        self.overflows = abs(self.number) > most - MOST_ROUNDINGS * self.rounding

    def roundings(self, actual: float) -> float:
        """The error of a number:
        0 for an infinity in place of a number beyond the dtype's.
        """
        if np.isinf(actual) and self.overflows and (actual > 0) == (self.number > 0):
            return 0.0
        if not np.isfinite(actual):
            return np.inf
        error = abs(Decimal(float(actual)) - self.number)
        return float(error / self.rounding)


def assert_within_roundings(expected: list[Expected], actual: Any, *row: Any) -> None:
    for each, number in zip(expected, actual, strict=True):
        assert each.roundings(number) <= MOST_ROUNDINGS, (*row, actual)


def expected_of(name: str, outputs: Any, targets: Any) -> list[Expected]:
    dtype = str(outputs.dtype)
    rule = FAR[name].rule.__name__
    constants = decimals(in_dtype(FAR[name].constants, outputs.dtype.type))
    unit = half_unit(dtype)
    raw = decimals(outputs)
    y = decimals(targets)
    near = [(row, y) for row in moved(raw, unit)]
    near += [(raw, row) for row in moved(y, unit)]
    value, slopes = precise_loss(rule, raw, y, constants)
    near_values = []
    near_slopes = []
    for near_raw, near_y in near:
        other_value, other_slopes = precise_loss(rule, near_raw, near_y, constants)
        near_values.append(other_value)
        near_slopes.append(other_slopes)
    expected = [Expected(value, near_values, dtype)]
    for j, slope in enumerate(slopes):
        others = [other_slopes[j] for other_slopes in near_slopes]
        expected.append(Expected(slope, others, dtype))
    return expected


def expected_values(name: str, outputs: Any) -> list[Expected]:
    dtype = str(outputs.dtype)
    link = PRECISE_LINKS[name]
    raw = decimals(outputs)
    near = [link(row) for row in moved(raw, half_unit(dtype))]
    expected = []
    for j, value in enumerate(link(raw)):
        others = [[row[j]] for row in near]
        expected.append(Expected([value], others, dtype))
    return expected


@pytest.mark.few(12)
@each_dtype
@pytest.mark.parametrize("name", FAR)
def test_a_loss_is_its_formula_far_out(name: str, dtype: str) -> None:
    outputs, targets = rows_of(name, dtype)
    with np.errstate(over="ignore", invalid="raise", divide="raise"):
        by_rule = plain(FAR[name], outputs, targets)
        by_loop = compiled(FAR[name], outputs, targets)
    for r, row in enumerate(zip(outputs, targets, strict=True)):
        expected = exact(expected_of, name, *row)
        assert_within_roundings(expected, by_rule[r], *row)
        assert_within_roundings(expected, by_loop[r], *row)


@each_dtype
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_its_formula_far_out(name: str, dtype: str) -> None:
    link = LINKS[name]
    rng = np.random.default_rng(0)
    raw = np.asfortranarray(rng.choice(RAW, (N_ROWS, 4)).astype(dtype))
    by_loop = np.empty_like(raw)
    by_rule = np.empty_like(raw)
    options = {"by_row": link.by_row}
    arrays = (raw, by_loop)
    with np.errstate(over="ignore"):
        run(elementwise.link_loop, link.rule, options, arrays, 0, *raw.shape)
        if link.by_row:
            link.rule(raw, by_rule)
        else:
            by_rule[:] = [[link.rule(z) for z in row] for row in raw]
    for r, row in enumerate(raw):
        expected = exact(expected_values, name, row)
        assert_within_roundings(expected, by_loop[r], row)
        assert_within_roundings(expected, by_rule[r], row)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="takes minutes")
def test_rows_that_are_surely_zero_do_not_end_a_tweedie_fit() -> None:
    X = 50 * np.eye(2, dtype="f")[np.arange(2000) % 2]
    y = np.where(np.arange(2000) % 2, 0.0, 5.0)
    net = MLP((2, 16, 1), loss=Tweedie(1.9), seed=0, optimizer=Adam(0.01))
    assert net.fit(X, y, epochs=20).status is Status.COMPLETED


RAW_OUTPUTS = np.array([0, 1e-3, -1e-3, 1, -1, 30, -30])
# Our loss and scikit-learn's.
PEERS: dict[str, tuple[Any, Any]] = {
    "gamma": (LOSSES["gamma"], _loss.HalfGammaLoss()),
}
for k in (1.0, 1.1, 1.5, 1.99, 2.0):
    PEERS[f"tweedie {k}"] = (Tweedie(k).loss, _loss.HalfTweedieLoss(power=k))
for q in (0.05, 0.5, 0.9):
    PEERS[f"quantile {q}"] = (Quantile(q).loss, _loss.PinballLoss(quantile=q))


@pytest.mark.parametrize("target", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("name", PEERS)
def test_value_and_slope_are_scikit_learns(name: str, target: float) -> None:
    loss, peer = PEERS[name]
    y = np.full(len(RAW_OUTPUTS), target)
    pairs = [loss.rule(z, y[0], *loss.constants) for z in RAW_OUTPUTS]
    values, slopes = np.array(pairs).T
    if "tweedie" in name or name == "gamma":
        constant = peer.constant_to_optimal_zero(y)
    else:
        constant = 0
    scale = np.maximum(1, abs(values))
    expected = peer.loss(y, RAW_OUTPUTS) + constant
    np.testing.assert_allclose(values / scale, expected / scale, atol=1e-12)
    # scikit-learn's slope at a perfect prediction of a quantile is one of the two
    # sides.
    kink = (target == RAW_OUTPUTS) & name.startswith("quantile")
    expected_slopes = peer.gradient(y, RAW_OUTPUTS)
    np.testing.assert_allclose(
        slopes[~kink], expected_slopes[~kink], rtol=1e-12, atol=1e-12
    )


def test_constants_of_a_loss_are_of_the_dtype() -> None:
    (levels,) = constants_of("three quantiles", "float32")
    assert {type(level) for level in levels} == {np.float32}


def test_a_negative_count_has_a_slope_beside_a_value_of_nan() -> None:
    with np.errstate(invalid="ignore"):
        values, slopes = evaluate("poisson", np.zeros((1, 1)), np.array([[-1.0]]))
    assert np.isnan(values).all()
    assert slopes == 2


SKLEARN_LINKS = {
    None: "identity",
    "exp": "exp",
    "sigmoid": "logistic",
    "softmax": "softmax",
}
# The squared error of scikit-learn#34830, which no release has.
THEIRS = LOSS_FUNCTIONS | {
    "summed_squared_error": lambda y, p: 0.5 * ((y - p) ** 2).sum(axis=1).mean()
}
each_loss = pytest.mark.parametrize("name", SKLEARN_LOSSES)


def draw(name: str, scale: float, dtype: Any) -> tuple[Any, Any]:
    """Raw outputs, shape (20, 4), and targets."""
    rng = np.random.default_rng(0)
    raw = rng.normal(scale=scale, size=(20, 4)).astype(dtype)
    targets = {
        "squared_error": rng.normal(size=(20, 4)),
        "summed_squared_error": rng.normal(size=(20, 4)),
        "poisson": rng.poisson(2.0, size=(20, 4)),
        "binary_log_loss": rng.integers(0, 2, size=(20, 4)),
        "log_loss": rng.integers(0, 4, size=(20, 1)),
    }
    return raw, targets[name].astype(dtype)


def evaluate(name: str, raw: Any, targets: Any) -> tuple[Any, Any]:
    """Values, shape (n_rows,), and slopes."""
    loss = SKLEARN_LOSSES[name]
    slopes = np.empty_like(raw)
    values = np.empty(len(raw))
    if loss.by_row:
        loss.rule(raw, targets, slopes, values)
        return values, slopes
    assert loss.over_outputs == "sum"
    pairs = [loss.rule(*pair) for pair in zip(raw.flat, targets.flat, strict=True)]
    # The rule's own dtype, shape (n_rows, n, 2).
    results = np.array(pairs).reshape(*raw.shape, 2)
    return results[..., 0].sum(axis=1), results[..., 1]


@each_loss
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)]
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_slope_as_sklearn(
    name: str, scale: float, dtype: Any, tolerance: float
) -> None:
    if name == "poisson":
        scale = 1.0
    raw, targets = draw(name, scale, dtype)
    prediction = raw.copy()
    link = SKLEARN_LINKS[SKLEARN_LOSSES[name].link]
    ACTIVATIONS[link](prediction)
    if name == "log_loss":
        expected = np.eye(4, dtype=dtype)[targets[:, 0].astype(int)]
    else:
        expected = targets
    values, slopes = evaluate(name, raw, targets)
    by_row = [
        THEIRS[name](t[None], p[None])
        for t, p in zip(expected, prediction, strict=True)
    ]
    np.testing.assert_allclose(values, by_row, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        slopes, prediction - expected, rtol=tolerance, atol=tolerance
    )
    assert slopes.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["binary_log_loss", "log_loss"])
def test_a_prediction_that_is_certain_is_clipped_as_by_scikit_learn(
    name: str, dtype: Any
) -> None:
    one_hot = np.array([[1, 0]], dtype)
    targets = one_hot if name == "binary_log_loss" else one_hot[:, 1:]
    values, _ = evaluate(name, 1000 * one_hot - 500, targets)
    expected = LOSS_FUNCTIONS[name](one_hot, one_hot)
    assert expected > 0
    np.testing.assert_allclose(values, expected, rtol=1e-6)


D = Decimal
Terms = list[Decimal]
Row = list[Decimal]
# The value's terms, and those of the slope by each output.
Result = tuple[Terms, list[Terms]]
DIGITS = 60
SMALL = D("1e-40")


def exact(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this module with numbers as they are, to 60 digits."""
    with localcontext() as context:
        context.prec = DIGITS
        return function(*arguments)


def expm1(x: Decimal) -> Decimal:
    if abs(x) < SMALL:
        return x + x * x / 2
    return x.exp() - 1


def log1p(x: Decimal) -> Decimal:
    if abs(x) < SMALL:
        return x - x * x / 2
    return (1 + x).ln()


def logistic(x: Decimal) -> Decimal:
    if x > 0:
        return 1 / (1 + (-x).exp())
    return x.exp() / (1 + x.exp())


def softplus(x: Decimal) -> Decimal:
    return max(x, D(0)) + log1p((-abs(x)).exp())


def power(base: Decimal, exponent: Decimal) -> Decimal:
    """0^0 is 1, as for a focal loss without focus."""
    if base or not exponent:
        return base**exponent
    return D(not exponent)


def softmax(raw: Row) -> tuple[Row, Row, Row]:
    """The probabilities p, 1 - p, and log p."""
    peak = max(raw)
    terms = [(z - peak).exp() for z in raw]
    total = sum(terms, D(0))
    top = raw.index(peak)
    rest = sum(terms[:top] + terms[top + 1 :], D(0))
    p = [term / total for term in terms]
    q = [(total - term) / total for term in terms]
    # Differences of two almost equal numbers would lose the digits of the rest.
    q[top] = rest / total
    log_p = [z - peak - log1p(rest) for z in raw]
    return p, q, log_p


def sign(x: Decimal) -> Decimal:
    return D((x > 0) - (x < 0))


def mse(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [(p - y) ** 2], [2 * (p - y)]


def mae(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [abs(p - y)], [sign(p - y)]


def huber(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    e = p - y
    if abs(e) <= 1:
        return [e * e / 2], [e]
    return [abs(e) - D("0.5")], [sign(e)]


def binary_cross_entropy(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [y * softplus(-z), (1 - y) * softplus(z)], [logistic(z), -y]


def smoothed_binary(z: Decimal, y: Decimal, s: Decimal) -> tuple[Terms, Terms]:
    return binary_cross_entropy(z, (1 - s) * y + s / 2)


def poisson(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    if y:
        own = y * (y.ln() - z)
    else:
        own = D(0)
    return [z.exp(), -y, own], [z.exp(), -y]


def log_cosh(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    size = abs(p - y)
    below = (-2 * size).exp()
    slope = -sign(p - y) * expm1(-2 * size) / (1 + below)
    return [size, log1p(below) - D(2).ln()], [slope]


def quantile(p: Decimal, y: Decimal, q: Decimal) -> tuple[Terms, Terms]:
    e = p - y
    if e > 0:
        return [(1 - q) * e], [1 - q]
    if e < 0:
        return [-q * e], [-q]
    return [D(0)], [D(0)]


def gamma(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    distance = z - y.ln()
    change = expm1(-distance)
    return [distance, change], [-change]


def tweedie(z: Decimal, y: Decimal, k: Decimal) -> tuple[Terms, Terms]:
    a = k - 1
    b = 2 - k
    rising = (b * z).exp()
    falling = y * (-a * z).exp()
    if y:
        own = (b * y.ln()).exp()
    else:
        own = D(0)
    return [rising / b, falling / a, -own / (a * b)], [rising, -falling]


def binary_focal(z: Decimal, y: Decimal, g: Decimal) -> tuple[Terms, Terms]:
    p = logistic(z)
    q = logistic(-z)
    by_p = softplus(-z)
    by_q = softplus(z)
    yes = y * power(q, g)
    no = (1 - y) * power(p, g)
    return [yes * by_p, no * by_q], [no * (p + g * q * by_q), -yes * (q + g * p * by_p)]


def as_row(raw: Row, y: Row) -> Row:
    """A class label as a one-hot row."""
    if len(y) == 1:
        return [D(j == int(y[0])) for j in range(len(raw))]
    return y


def cross_entropy(raw: Row, y: Row) -> Result:
    row = as_row(raw, y)
    (p, _, log_p) = softmax(raw)
    total = sum(row)
    value = [-own * each for own, each in zip(row, log_p, strict=True)]
    slopes = [[share * total, -own] for share, own in zip(p, row, strict=True)]
    return value, slopes


def smoothed_cross_entropy(raw: Row, y: Row, s: Decimal) -> Result:
    return cross_entropy(raw, [(1 - s) * own + s / len(raw) for own in as_row(raw, y)])


def focal(raw: Row, y: Row, g: Decimal) -> Result:
    row = as_row(raw, y)
    (p, q, log_p) = softmax(raw)
    value = []
    own = []
    for j, share in enumerate(row):
        value.append(-share * power(q[j], g) * log_p[j])
        if q[j]:
            ratio = log_p[j] / q[j]
        else:
            ratio = D(-1)
        own.append(share * power(q[j], g) * (g * p[j] * ratio - 1))
    slopes = []
    for k in range(len(raw)):
        from_others = [-p[k] * each for each in own]
        slopes.append([own[k], *from_others])
    return value, slopes


def gaussian_nll(raw: Row, y: Row) -> Result:
    least = D("-13.815510557964274")
    value = []
    slopes = []
    for j, own in enumerate(y):
        error = raw[2 * j] - own
        s = raw[2 * j + 1]
        n = len(y)
        kept = max(s, least)
        below = s - kept
        precision = (-kept).exp()
        square = error * error * precision
        value += [kept / 2 / n, square / 2 / n, below / 2 / n, -square * below / 2 / n]
        slopes += [
            [error * precision * (1 - below) / n],
            [D(1) / 2 / n, -square / 2 / n],
        ]
    return value, slopes


def quantiles(raw: Row, y: Row, levels: Row) -> Result:
    n = len(raw)
    value = []
    slopes = []
    for p, level in zip(raw, levels, strict=True):
        (own_value,), (own_slope,) = quantile(p, y[0], level)
        value.append(own_value / n)
        slopes.append([own_slope / n])
    return value, slopes


BY_NUMBER: dict[str, Any] = {
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
    "smoothed_binary_cross_entropy": smoothed_binary,
    "poisson": poisson,
    "log_cosh": log_cosh,
    "quantile": quantile,
    "gamma": gamma,
    "tweedie": tweedie,
    "binary_focal": binary_focal,
}
BY_ROW: dict[str, Any] = {
    "cross_entropy": cross_entropy,
    "smoothed_cross_entropy": smoothed_cross_entropy,
    "focal": focal,
    "gaussian_nll": gaussian_nll,
    "quantiles": quantiles,
}
PRECISE_LINKS: dict[str, Callable[[Row], Row]] = {
    "identity": lambda raw: raw,
    "sigmoid": lambda raw: [logistic(z) for z in raw],
    "exp": lambda raw: [z.exp() for z in raw],
    "softmax": lambda raw: softmax(raw)[0],
    "sorted": sorted,
    "mean_std": lambda raw: [
        (max(z, D("-13.815510557964274")) / 2).exp() if j % 2 else z
        for j, z in enumerate(raw)
    ],
}


def precise_loss(rule: str, outputs: Row, targets: Row, constants: Any) -> Result:
    """A rule's result for one row, or for one number of it, by the rule's name."""
    if rule in BY_ROW:
        result: Result = BY_ROW[rule](outputs, targets, *constants)
        return result
    value, slope = BY_NUMBER[rule](*outputs, *targets, *constants)
    return value, [slope]
