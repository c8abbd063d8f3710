"""Losses and links by decimal arithmetic of 60 digits: the oracle far out and at bounds.

A function returns its results as lists of terms, whose sum is the number: what a sum in floating
point may lose is in proportion to its terms. Outputs and targets are those of one row.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

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
    return x + x * x / 2 if abs(x) < SMALL else x.exp() - 1


def log1p(x: Decimal) -> Decimal:
    return x - x * x / 2 if abs(x) < SMALL else (1 + x).ln()


def logistic(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp()) if x > 0 else x.exp() / (1 + x.exp())


def softplus(x: Decimal) -> Decimal:
    return max(x, D(0)) + log1p((-abs(x)).exp())


def power(base: Decimal, exponent: Decimal) -> Decimal:
    """0^0 is 1, as for a focal loss without focus."""
    return base**exponent if base or not exponent else D(not exponent)


def softmax(raw: Row) -> tuple[Row, Row, Row]:
    """The probabilities p, 1 - p, and log p."""
    peak = max(raw)
    terms = [(z - peak).exp() for z in raw]
    total, top = sum(terms, D(0)), raw.index(peak)
    rest = sum(terms[:top] + terms[top + 1 :], D(0))
    others = [(rest if j == top else total - t) / total for j, t in enumerate(terms)]
    return [t / total for t in terms], others, [z - peak - log1p(rest) for z in raw]


def sign(x: Decimal) -> Decimal:
    return D((x > 0) - (x < 0))


def mse(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [(p - y) ** 2], [2 * (p - y)]


def mae(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [abs(p - y)], [sign(p - y)]


def huber(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    e = p - y
    near = abs(e) <= 1
    return [e * e / 2 if near else abs(e) - D("0.5")], [e if near else sign(e)]


def binary_cross_entropy(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    return [y * softplus(-z), (1 - y) * softplus(z)], [logistic(z), -y]


def smoothed_binary(z: Decimal, y: Decimal, s: Decimal) -> tuple[Terms, Terms]:
    return binary_cross_entropy(z, (1 - s) * y + s / 2)


def poisson(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    own = y * (y.ln() - z) if y else D(0)
    return [z.exp(), -y, own], [z.exp(), -y]


def log_cosh(p: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    size = abs(p - y)
    below = (-2 * size).exp()
    return [size, log1p(below) - D(2).ln()], [-sign(p - y) * expm1(-2 * size) / (1 + below)]


def quantile(p: Decimal, y: Decimal, q: Decimal) -> tuple[Terms, Terms]:
    e = p - y
    return [(1 - q) * e if e > 0 else -q * e], [1 - q if e > 0 else -q if e < 0 else D(0)]


def gamma(z: Decimal, y: Decimal) -> tuple[Terms, Terms]:
    distance = z - y.ln()
    change = expm1(-distance)
    return [distance, change], [-change]


def tweedie(z: Decimal, y: Decimal, k: Decimal) -> tuple[Terms, Terms]:
    a, b = k - 1, 2 - k
    rising, falling = (b * z).exp(), y * (-a * z).exp()
    own = (b * y.ln()).exp() if y else D(0)
    return [rising / b, falling / a, -own / (a * b)], [rising, -falling]


def binary_focal(z: Decimal, y: Decimal, g: Decimal) -> tuple[Terms, Terms]:
    p, q, by_p, by_q = logistic(z), logistic(-z), softplus(-z), softplus(z)
    yes, no = y * power(q, g), (1 - y) * power(p, g)
    return [yes * by_p, no * by_q], [no * (p + g * q * by_q), -yes * (q + g * p * by_p)]


def as_row(raw: Row, y: Row) -> Row:
    """A class label as a one-hot row."""
    return [D(j == int(y[0])) for j in range(len(raw))] if len(y) == 1 else y


def cross_entropy(raw: Row, y: Row) -> Result:
    row, (p, _, log_p) = as_row(raw, y), softmax(raw)
    slopes = [[share * sum(row), -own] for share, own in zip(p, row, strict=True)]
    return [-own * each for own, each in zip(row, log_p, strict=True)], slopes


def smoothed_cross_entropy(raw: Row, y: Row, s: Decimal) -> Result:
    return cross_entropy(raw, [(1 - s) * own + s / len(raw) for own in as_row(raw, y)])


def focal(raw: Row, y: Row, g: Decimal) -> Result:
    row, (p, q, log_p) = as_row(raw, y), softmax(raw)
    value, own = [], []
    for j, share in enumerate(row):
        value.append(-share * power(q[j], g) * log_p[j])
        ratio = log_p[j] / q[j] if q[j] else D(-1)
        own.append(share * power(q[j], g) * (g * p[j] * ratio - 1))
    return value, [[own[k], *(-p[k] * each for each in own)] for k in range(len(raw))]


def gaussian_nll(raw: Row, y: Row) -> Result:
    least, value, slopes = D("-13.815510557964274"), [], []
    for j, own in enumerate(y):
        error, s, n = raw[2 * j] - own, raw[2 * j + 1], len(y)
        kept = max(s, least)
        below, precision = s - kept, (-kept).exp()
        square = error * error * precision
        value += [kept / 2 / n, square / 2 / n, below / 2 / n, -square * below / 2 / n]
        slopes += [[error * precision * (1 - below) / n], [D(1) / 2 / n, -square / 2 / n]]
    return value, slopes


def quantiles(raw: Row, y: Row, levels: Row) -> Result:
    pairs = [quantile(p, y[0], q) for p, q in zip(raw, levels, strict=True)]
    n = len(raw)
    return [t / n for value, _ in pairs for t in value], [[t / n for t in s] for _, s in pairs]


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
LINKS: dict[str, Callable[[Row], Row]] = {
    "identity": lambda raw: raw,
    "sigmoid": lambda raw: [logistic(z) for z in raw],
    "exp": lambda raw: [z.exp() for z in raw],
    "softmax": lambda raw: softmax(raw)[0],
    "sorted": sorted,
    "mean_std": lambda raw: [
        (max(z, D("-13.815510557964274")) / 2).exp() if j % 2 else z for j, z in enumerate(raw)
    ],
}


def loss(rule: str, outputs: Row, targets: Row, constants: Any) -> Result:
    """A rule's result for one row, or for one number of it, by the rule's name."""
    if rule in BY_ROW:
        result: Result = BY_ROW[rule](outputs, targets, *constants)
        return result
    value, slope = BY_NUMBER[rule](*outputs, *targets, *constants)
    return value, [slope]
