"""Losses and their links: each takes an output and its target,
and returns its value and its slope.

A loss either takes the net's prediction, after any output activation (`link` is None),
or owns its output link and takes the raw output, as cross-entropy owns softmax. In the
second form value and slope come from one numerically stable formula.

Settings follow a rule's other arguments: `constants` of its row in `LOSSES`.

A loss of whole rows (`by_row`) takes outputs and slopes, shape (n_rows, n), targets,
shape (n_rows, n_targets), and values, shape (n_rows,). The rule writes slopes and
values; loops over rows are innermost, so that they vectorise.

Curvatures are the second derivatives H of a row's loss by its outputs, for
Gauss-Newton. A loss of single outputs has a function of an output and its target. A
loss of whole rows writes a root R of H = R^T R instead, shape (n_rows, n, n) by
columns: ``root[:, q * n + j]`` is R_qj. H is positive semidefinite. If the second
derivative could be 0, as in huber's tails, a parabola that touches the loss gives H.

A link takes one raw output and returns its value, a prediction;
`softmax` takes rows, shape (n_rows, n), and writes their values.

The losses of scikit-learn differ in scale, and clip probabilities in the value. Value
and slope have different scales, so their rules take whole rows: the squared error is a
mean over outputs, its slope is the slope of half the sum.

References
----------
scikit-learn, `sklearn.neural_network`: squared_error,
log_loss and poisson of version 1.9.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp.rules.elementary import (
    exp,
    expm1,
    exponentials,
    log,
    log1p,
    logistic,
    probabilities,
    softplus,
    sqrt,
    tanh,
)
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained, guard, settings

# The logarithm of 1e-6, the least variance that "gaussian_nll" predicts.
LEAST_LOG_VARIANCE = -13.815510557964274


# Names of the links of heads, and the outputs of each.
Parts = tuple[tuple[str, int], ...]


class Link(NamedTuple):
    """A function from raw outputs to predictions, or one for each head.

    Attributes
    ----------
    by_row : True if the function takes whole rows of outputs
    parts : the links of heads; empty without heads
    """

    rule: Callable[..., Any]
    by_row: bool = False
    parts: Parts = ()


def identity(raw: float) -> float:
    return raw


def softmax(raw: Any, value: Any) -> None:
    """Write exp(raw_j) / sum_k exp(raw_k)
    of every row to `value`, both shape (n_rows, n).

    The row's maximum is subtracted first.
    """
    n_rows, n = raw.shape
    exponentials(raw, value)
    for r in range(n_rows):
        total = value[r, 0]
        for j in range(1, n):
            total += value[r, j]
        share = type(total)(1) / total
        for j in range(n):
            value[r, j] *= share


def ascending(raw: Any, value: Any) -> None:
    """Write every row's numbers in ascending order to `value`,
    both shape (n_rows, n).
    """
    n_rows, n = raw.shape
    for j in range(n):
        for r in range(n_rows):
            value[r, j] = raw[r, j]
    for i in range(1, n):
        for j in range(i, 0, -1):
            for r in range(n_rows):
                low, high = value[r, j - 1], value[r, j]
                value[r, j - 1] = high if high < low else low
                value[r, j] = low if high < low else high


def deviation(raw: float) -> float:
    """The standard deviation of the logarithm of a variance,
    at least `LEAST_LOG_VARIANCE`.

    Rules call no other rules, so `mean_and_deviation` repeats the formula.
    """
    half = type(raw)(0.5)
    least = type(raw)(LEAST_LOG_VARIANCE)
    return exp(half * (least if raw < least else raw))


def mean_and_deviation(raw: Any, value: Any) -> None:
    """For each pair of raw outputs (mean, s), write the mean and the standard deviation
    exp(s / 2), s at least `LEAST_LOG_VARIANCE`; both shape (n_rows, 2 n).
    """
    n_rows, n = raw.shape
    half = type(raw[0, 0])(0.5)
    least = type(raw[0, 0])(LEAST_LOG_VARIANCE)
    for j in range(0, n, 2):
        for r in range(n_rows):
            value[r, j] = raw[r, j]
    for j in range(1, n, 2):
        for r in range(n_rows):
            value[r, j] = exp(half * (least if raw[r, j] < least else raw[r, j]))


LinkName = Literal["identity", "sigmoid", "exp", "softmax", "sorted", "mean_std"]
LINKS: dict[str, Link] = {
    "identity": Link(identity),
    "sigmoid": Link(logistic),
    "exp": Link(exp),
    "softmax": Link(softmax, by_row=True),
    "sorted": Link(ascending, by_row=True),
    "mean_std": Link(mean_and_deviation, by_row=True),
}


def link_slices(parts: Parts) -> list[tuple[str, int, int]]:
    """The name, first output and number of outputs of each link of heads.

    Examples
    --------
    >>> link_slices((("softmax", 3), ("identity", 1)))
    [('softmax', 0, 3), ('identity', 3, 1)]
    """
    ends = accumulate(n for _, n in parts)
    return [(name, end - n, n) for (name, n), end in zip(parts, ends, strict=True)]


def link_name(link: Link) -> str:
    """The name of a net's link, which is not of heads."""
    return next(name for name, known in LINKS.items() if known == link)


Pair = tuple[float, float]
Targets = Literal["real", "unit", "count", "positive", "classes"]
# Numbers, or tuples of numbers.
Constants = tuple[Any, ...]


@explained
class Loss(NamedTuple):
    """A loss: its rule and how a net uses it.

    Parameters
    ----------
    rule : callable
        ``rule(output, target) -> (value, slope)`` on scalars or, with `by_row`,
        ``rule(outputs, targets, slopes, values)`` on rows: the first three have shape
        (n_rows, n), `values` has shape (n_rows,), and the rule writes `slopes` and
        `values`. Columns are contiguous: inner loops over rows vectorise.
    link : str, optional
        The name of the inverse link that the loss owns. None:
        the loss takes the prediction, and the net may have any output activation.
    targets : {"real", "unit", "count", "positive", "classes"}
        The targets that are accepted: any number, numbers in [0, 1], numbers of 0 or
        more, numbers above 0, or class labels (integers, or one-hot rows).
    by_row : bool
        True if `rule` takes whole rows.
    over_outputs : {"mean", "sum"}
        How the values of a row's outputs are combined.
    constants : tuple of float
        Settings: what `rule` takes after its other arguments, in the net's dtype.
    per_target : int of 1 or more
        Outputs of the net for each column of the targets.
        More than 1 asks for `by_row`.
    curvature : callable, optional
        The second derivative of the loss by the output, 0 or more,
        for `LevenbergMarquardt`: ``curvature(output, target, *constants)``.

    Raises
    ------
    TypeError, ValueError
        By `MLP`, if a part is invalid.

    Examples
    --------
    >>> from fastmlp import MLP, Loss
    >>> def squared_log_error(raw, target):
    ...     error = raw - target
    ...     return error * error, error + error
    >>> net = MLP((2, 4, 1), loss=Loss(squared_log_error, link="exp", over_outputs="sum"))
    >>> net
    MLP((2, 4, 1), activation='relu', output_activation='exp', loss='squared_log_error', ...)
    """

    rule: Callable[..., Any]
    link: LinkName | None = None
    targets: Targets = "real"
    by_row: bool = False
    over_outputs: Literal["mean", "sum"] = "mean"
    constants: Constants = ()
    per_target: int = 1
    curvature: Callable[..., Any] | None = None


guard(Loss, Loss._fields, "make another: loss = loss._replace({})")


def of_output_gradient(raw: Any, target: Any) -> tuple[Any, Any]:
    """L = raw - raw, which is 0, or not finite where an output is not;
    its slope is the target.
    """
    return raw - raw, target


# The gradient by the raw outputs stands in the targets' place.
OUTPUT_GRADIENT = Loss(of_output_gradient, over_outputs="sum")


class Head(NamedTuple):
    """A slice of a net's outputs with a loss.

    Attributes
    ----------
    name : given by the user, or "head_0", "head_1", ...
    weight : of its loss in the sum
    """

    loss: Loss
    n_outputs: int
    name: str
    weight: float = 1.0

    @property
    def n_targets(self) -> int:
        """Columns of the head's targets: one for class labels."""
        if self.loss.targets == "classes":
            return 1
        return self.n_outputs // self.loss.per_target


def sum_of_heads(outputs: Any, targets: Any, slopes: Any, values: Any) -> None:
    """Stand for the losses of a net's heads, which kernels call one by one."""
    raise NotImplementedError


# The loss of a net with heads: `Network.heads` has theirs.
JOINT = Loss(sum_of_heads, by_row=True)


def joint_link(heads: Iterable[Head]) -> Link:
    """The links of heads, as one; the identity if all of them are."""
    parts = tuple((head.loss.link or "identity", head.n_outputs) for head in heads)
    if all(name == "identity" for name, _ in parts):
        return LINKS["identity"]
    return Link(identity, by_row=True, parts=parts)


def takes_whole_rows(loss: Loss) -> bool:
    """True if the targets of a row have one loss, which has no parts by target."""
    return loss.targets == "classes" or (loss.by_row and loss.per_target == 1)


def are_weighted(loss: Loss, n_outputs: int, width: int) -> bool:
    """True if rows of targets, `width` numbers wide,
    have a factor beside each target.
    """
    return not takes_whole_rows(loss) and width == 2 * (n_outputs // loss.per_target)


def range_of(targets: Targets, dtype: Any) -> tuple[float, float]:
    """The least and the most number of a kind of targets."""
    numbers = np.finfo(dtype)
    largest = float(numbers.max)
    least = {"real": -largest, "positive": float(numbers.tiny)}.get(targets, 0.0)
    return least, 1.0 if targets == "unit" else largest


def in_dtype(constants: Constants, scalar: Callable[[Any], Any]) -> Constants:
    return tuple(
        tuple(map(scalar, c)) if isinstance(c, tuple) else scalar(c) for c in constants
    )


def mse(prediction: float, target: float) -> Pair:
    """L = (p - y)^2, the squared error."""
    error = prediction - target
    return error * error, error + error


def mae(prediction: float, target: float) -> Pair:
    """L = abs(p - y), the absolute error, with slope 0 at p = y."""
    error = prediction - target
    zero, one = type(error)(0), type(error)(1)
    return abs(error), (one if error > zero else -one if error < zero else zero)


def huber(prediction: float, target: float) -> Pair:
    """L = (p - y)^2 / 2 within 1 of the target,
    abs(p - y) - 1/2 beyond. Huber (1964).
    """
    error = prediction - target
    one, half = type(error)(1), type(error)(0.5)
    inside = -one if error < -one else one if error > one else error
    return inside * (error - half * inside), inside


def binary_cross_entropy(raw: float, target: float) -> Pair:
    """L = -y log p - (1 - y) log(1 - p), with p = 1 / (1 + exp(-raw)).

    The sum y softplus(-raw) + (1 - y) softplus(raw)
    keeps digits that softplus(raw) - y raw cancels.
    """
    one = type(raw)(1)
    return target * softplus(-raw) + (one - target) * softplus(raw), logistic(
        raw
    ) - target


def poisson(raw: float, target: float) -> Pair:
    """L = y log(y / p) - y + p, with p = exp(raw):
    half the Poisson deviance, 0 at p = y.

    NaN for negative y.
    """
    zero, one = type(raw)(0), type(raw)(1)
    p = exp(raw)
    return p - target + target * (
        log(target if target != zero else one) - raw
    ), p - target


def log_cosh(prediction: float, target: float) -> Pair:
    """L = log cosh(p - y), from expm1(-2 abs(p - y)), which cannot overflow.

    Near p = y the value has an error of about eps abs(p - y); the slope is exact.
    """
    error = prediction - target
    zero, two = type(error)(0), type(error)(2)
    size = abs(error)
    below = expm1(-(size + size))
    slope = -below / (two + below)
    return size + log1p(below / two), (-slope if error < zero else slope)


def quantile(prediction: float, target: float, level: float) -> Pair:
    """L = (1 - q) e above the target, -q e below,
    with e = p - y: the pinball loss of level q.

    The slope is 0 at e = 0. Koenker & Bassett (1978).
    """
    error = prediction - target
    zero, one = type(error)(0), type(error)(1)
    below = type(error)(level)
    above = one - below
    value = above * error if error > zero else -below * error
    return value, (above if error > zero else -below if error < zero else zero)


def gamma(raw: float, target: float) -> Pair:
    """L = log(p / y) + y / p - 1, with p = exp(raw):
    half the gamma deviance, 0 at p = y.

    NaN for negative y; infinite for y = 0.
    """
    distance = raw - log(target)
    change = expm1(-distance)
    return distance + change, -change


def tweedie(raw: float, target: float, power: float) -> Pair:
    """L = p^(2-k) / (2-k) + y p^(1-k) / (k-1) - y^(2-k) / ((k-1) (2-k)), with p =
    exp(raw) and a power k between 1 and 2: half the Tweedie deviance, 0 at p = y.

    NaN for negative y. Near p = y the terms of the value cancel, with an error of about
    eps y^(2-k) / ((k-1) (2-k)); the slope has no such error. Jorgensen (1987).
    """
    zero = type(raw)(0)
    one = type(raw)(1)
    two = type(raw)(2)
    k = type(raw)(power)
    low, high = k - one, two - k
    # A target of 0 must not meet an infinite power.
    rising = exp(high * raw)
    falling = target * exp(-low * (raw if target != zero else zero))
    own = exp(high * log(target if target != zero else one))
    constant = (own if target != zero else zero) / (low * high)
    return rising / high + falling / low - constant, rising - falling


def binary_focal(raw: float, target: float, focus: float) -> Pair:
    """L = -y (1 - p)^g log p - (1 - y) p^g log(1 - p),
    with p = 1 / (1 + exp(-raw)) and g = focus.

    Lin et al. (2017); with g = 0 it is the binary cross-entropy. The powers are taken
    of log p = -softplus(-raw) and log(1 - p) = -softplus(raw), which are finite.
    """
    one = type(raw)(1)
    g = type(raw)(focus)
    p = logistic(raw)
    q = logistic(-raw)
    by_p = softplus(-raw)
    by_q = softplus(raw)
    positive = target * exp(-g * by_q)
    negative = (one - target) * exp(-g * by_p)
    slope = negative * (p + g * q * by_q) - positive * (q + g * p * by_p)
    return positive * by_p + negative * by_q, slope


def smoothed_binary_cross_entropy(raw: float, target: float, smoothing: float) -> Pair:
    """L = `binary_cross_entropy` of the target (1 - s)
    y + s / 2. Szegedy et al. (2016).
    """
    one = type(raw)(1)
    s = type(raw)(smoothing)
    y = (one - s) * target + type(raw)(0.5) * s
    return y * softplus(-raw) + (one - y) * softplus(raw), logistic(raw) - y


def cross_entropy(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -sum_j y_j log p_j, with p = softmax(raw);
    a target of one column is a class label.

    log sum_j exp(raw_j) is computed as peak + log1p(sum of the other terms), which
    keeps the digits of a small loss; the peak is subtracted from the target's output
    before any term is added.
    """
    n_rows, n = raw.shape
    one = type(raw[0, 0])(1)
    probabilities(raw, slope, value)
    for r in range(n_rows):
        value[r] = log1p(type(one)(value[r]))
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        if target.shape[1] == 1:
            label = int(target[r, 0])
            slope[r, label] -= one
            value[r] += peak - raw[r, label]
        else:
            mass = type(one)(0)
            loss = type(one)(0)
            rest = type(one)(value[r])
            for j in range(n):
                mass += target[r, j]
                loss += target[r, j] * (rest + (peak - raw[r, j]))
            for j in range(n):
                slope[r, j] = slope[r, j] * mass - target[r, j]
            value[r] = loss


def quantiles(raw: Any, target: Any, slope: Any, value: Any, levels: Any) -> None:
    """L = mean_j of (1 - q_j) e_j if e_j > 0, else -q_j e_j, with e_j = p_j - y: the
    pinball losses of one target at several levels q_j, one output each. Koenker &
    Bassett (1978).
    """
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    share = one / type(one)(n)
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        below = type(one)(levels[j])
        above = one - below
        for r in range(n_rows):
            error = raw[r, j] - target[r, 0]
            value[r] += above * error if error > zero else -below * error
            side = above if error > zero else -below if error < zero else zero
            slope[r, j] = side * share
    for r in range(n_rows):
        value[r] /= n


def gaussian_nll(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = mean over targets of (s + (m - y)^2 exp(-s)) / 2, with a pair of outputs
    (m, s) for each: the mean and the logarithm of the variance. Nix & Weigend (1994).

    Below s = `LEAST_LOG_VARIANCE` the loss goes on as a line in s:
    value and slopes stay finite.
    """
    n_rows, n_targets = target.shape
    one, half = type(raw[0, 0])(1), type(raw[0, 0])(0.5)
    least = type(one)(LEAST_LOG_VARIANCE)
    share = one / type(one)(n_targets)
    for r in range(n_rows):
        value[r] = 0.0
    for t in range(n_targets):
        for r in range(n_rows):
            error = raw[r, 2 * t] - target[r, t]
            s = raw[r, 2 * t + 1]
            kept = least if s < least else s
            below = s - kept
            precision = exp(-kept)
            square = error * error * precision
            rise = half * (one - square)
            value[r] += half * (kept + square) + rise * below
            slope[r, 2 * t] = error * precision * (one - below) * share
            slope[r, 2 * t + 1] = rise * share
    for r in range(n_rows):
        value[r] /= n_targets


def focal(raw: Any, target: Any, slope: Any, value: Any, focus: Any) -> None:
    """L = -sum_j y_j (1 - p_j)^g log p_j, with p = softmax(raw) and g = focus; a target
    of one column is a class label. Lin et al. (2017); with g = 0 it is the
    cross-entropy.

    1 - p_j is the sum of the other terms where p_j may be close to 1. With t_j = p_j
    dL/dp_j the slope by raw_k is t_k - p_k sum_j t_j: the first turn sums, the second
    writes. A label has one term, and needs one turn: 12.3 -> 11.3 us (16-64-64-2@64).
    """
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    g = type(one)(focus)
    has_labels = target.shape[1] == 1
    probabilities(raw, slope, value)
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        rest = type(one)(value[r])
        log_total = log1p(rest)
        label = int(target[r, 0])
        total, loss = zero, zero
        first, stop, n_turns = (label, label + 1, 1) if has_labels else (0, n, 2)
        for turn in range(n_turns):
            for j in range(first, stop):
                p = slope[r, j]
                t = zero
                y = one if has_labels else target[r, j]
                if y != zero:
                    q = rest / (one + rest) if raw[r, j] == peak else one - p
                    log_p = (raw[r, j] - peak) - log_total
                    power = exp(g * log(q)) if q > zero else one if g == zero else q
                    t = y * power * (g * p * (log_p / q if q > zero else -one) - one)
                    if turn == 0:
                        loss -= y * power * log_p
                        total += t
                if turn == 1:
                    slope[r, j] = t - p * total
        if has_labels:
            for j in range(n):
                slope[r, j] = (total if j == label else zero) - slope[r, j] * total
        value[r] = loss


def smoothed_cross_entropy(
    raw: Any, target: Any, slope: Any, value: Any, smoothing: Any
) -> None:
    """L = -sum_j z_j log p_j, with p = softmax(raw) and z = (1 - s) y + s / n,
    s the smoothing; a target of one column is a class label. Szegedy et al. (2016).
    """
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    s = type(one)(smoothing)
    has_labels = target.shape[1] == 1
    even = s / type(one)(n)
    kept = one - s
    probabilities(raw, slope, value)
    for r in range(n_rows):
        value[r] = log1p(type(one)(value[r]))
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        label = int(target[r, 0])
        mass = zero
        loss = zero
        rest = type(one)(value[r])
        for j in range(n):
            y = (one if j == label else zero) if has_labels else target[r, j]
            z = kept * y + even
            mass += z
            loss += z * (rest + (peak - raw[r, j]))
        for j in range(n):
            y = (one if j == label else zero) if has_labels else target[r, j]
            slope[r, j] = slope[r, j] * mass - (kept * y + even)
        value[r] = loss


def mse_curvature(prediction: float, target: float) -> float:
    """2, for (p - y)^2."""
    return type(prediction)(2)


def huber_curvature(prediction: float, target: float) -> float:
    """1 within 1 of the target, 1 / abs(p - y) beyond: the weights of Huber (1964)."""
    size = abs(prediction - target)
    one = type(prediction)(1)
    return one if size <= one else one / size


def log_cosh_curvature(prediction: float, target: float) -> float:
    """1 - tanh(p - y)^2."""
    slope = tanh(prediction - target)
    one = type(prediction)(1)
    return one - slope * slope


def binary_cross_entropy_curvature(raw: float, target: float) -> float:
    """p (1 - p), with p = 1 / (1 + exp(-raw))."""
    return logistic(raw) * logistic(-raw)


def smoothed_binary_cross_entropy_curvature(
    raw: float, target: float, smoothing: float
) -> float:
    """p (1 - p)."""
    return logistic(raw) * logistic(-raw)


def poisson_curvature(raw: float, target: float) -> float:
    """exp(raw)."""
    return exp(raw)


def gamma_curvature(raw: float, target: float) -> float:
    """y exp(-raw)."""
    return target * exp(-raw)


def tweedie_curvature(raw: float, target: float, power: float) -> float:
    """(k - 1) y exp((1 - k) raw) + (2 - k) exp((2 - k) raw), k the power."""
    one = type(raw)(1)
    k = type(raw)(power)
    rest = one - k
    other = one + one - k
    return other * exp(other * raw) - rest * target * exp(rest * raw)


def cross_entropy_curvature(raw: Any, target: Any, probability: Any, root: Any) -> None:
    """H = s (diag(p) - p p^T) with p = softmax(raw), s the sum of the targets,
    1 of a class label; R_qj = sqrt(s p_q) ((q = j) - p_j).
    """
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    softmax(raw, probability)
    for q in range(n):
        for j in range(n):
            same = one if q == j else zero
            for r in range(n_rows):
                root[r, q * n + j] = sqrt(probability[r, q]) * (
                    same - probability[r, j]
                )
    if target.shape[1] > 1:
        for r in range(n_rows):
            mass = zero
            for j in range(n):
                mass += target[r, j]
            for i in range(n * n):
                root[r, i] *= sqrt(mass)


def half_squared_error(prediction: Any, target: Any, slope: Any, value: Any) -> None:
    """L = mean_j (p_j - y_j)^2 / 2 with slope p_j - y_j,
    which lacks the mean's 1 / n.
    """
    n_rows, n = prediction.shape
    half = type(prediction[0, 0])(0.5)
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            error = prediction[r, j] - target[r, j]
            slope[r, j] = error
            value[r] += half * error * error
    for r in range(n_rows):
        value[r] /= n


def half_square(prediction: float, target: float) -> Pair:
    """L = (p - y)^2 / 2, summed over outputs: from scikit-learn#34830 on."""
    error = prediction - target
    return type(error)(0.5) * error * error, error


def clipped_log_loss(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -sum_j y_j log p_j + (1 - y_j) log(1 - p_j),
    with p = 1 / (1 + exp(-raw)), y 0 or 1.

    In the value, p is clipped to [eps, 1 - eps], eps the spacing of numbers at 1.
    """
    n_rows, n = raw.shape
    one = type(raw[0, 0])(1)
    eps = np.finfo(raw.dtype).eps
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            p = logistic(raw[r, j])
            slope[r, j] = p - target[r, j]
            p = min(max(p, eps), one - eps)
            value[r] -= log(p if target[r, j] > 0 else one - p)


def clipped_cross_entropy(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -log p_y, with p = softmax(raw)
    and the class y, the one column of the targets.

    In the value, p is clipped to [eps, 1 - eps], eps the spacing of numbers at 1.
    """
    n_rows, n = raw.shape
    one = type(raw[0, 0])(1)
    eps = np.finfo(raw.dtype).eps
    exponentials(raw, slope)
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            value[r] += slope[r, j]
    for j in range(n):
        for r in range(n_rows):
            slope[r, j] /= type(one)(value[r])
    for r in range(n_rows):
        label = int(target[r, 0])
        value[r] = min(max(slope[r, label], eps), one - eps)
        slope[r, label] -= one
    # A separate loop, so that the logarithms vectorise.
    for r in range(n_rows):
        value[r] = -log(type(one)(value[r]))


NumberLossName = Literal[
    "mse",
    "mae",
    "huber",
    "poisson",
    "log_cosh",
    "quantile",
    "gamma",
    "tweedie",
    "gaussian_nll",
]
ClassLossName = Literal[
    "binary_cross_entropy", "cross_entropy", "binary_focal", "focal"
]
LossName = NumberLossName | ClassLossName
LOSSES: dict[str, Loss] = {
    "mse": Loss(mse, curvature=mse_curvature),
    "mae": Loss(mae),
    "huber": Loss(huber, curvature=huber_curvature),
    "binary_cross_entropy": Loss(
        binary_cross_entropy,
        link="sigmoid",
        targets="unit",
        curvature=binary_cross_entropy_curvature,
    ),
    "cross_entropy": Loss(
        cross_entropy,
        link="softmax",
        targets="classes",
        by_row=True,
        over_outputs="sum",
        curvature=cross_entropy_curvature,
    ),
    "poisson": Loss(poisson, link="exp", targets="count", curvature=poisson_curvature),
    "log_cosh": Loss(log_cosh, curvature=log_cosh_curvature),
    "quantile": Loss(quantile, constants=(0.5,)),
    "gamma": Loss(gamma, link="exp", targets="positive", curvature=gamma_curvature),
    "tweedie": Loss(
        tweedie,
        link="exp",
        targets="count",
        constants=(1.5,),
        curvature=tweedie_curvature,
    ),
    "binary_focal": Loss(
        binary_focal, link="sigmoid", targets="unit", constants=(2.0,)
    ),
    "focal": Loss(
        focal,
        link="softmax",
        targets="classes",
        by_row=True,
        over_outputs="sum",
        constants=(2.0,),
    ),
    "gaussian_nll": Loss(gaussian_nll, link="mean_std", by_row=True, per_target=2),
}
# Words of other libraries, by name or by sentence of advice.
LOSS_SYNONYMS = {
    "mse": "mean_squared_error squared_error squared l2 rmse",
    "mae": "mean_absolute_error absolute_error absolute l1",
    "huber": "smooth_l1",
    "binary_cross_entropy": "bce bce_with_logits binary_crossentropy binary_log_loss "
    "log_loss deviance sigmoid logistic",
    "cross_entropy": "ce xent nll negative_log_likelihood log_loss deviance softmax "
    "kl_div categorical_cross_entropy sparse_categorical_cross_entropy",
    "poisson": "poisson_nll half_poisson poisson_deviance",
    "log_cosh": "logcosh",
    "quantile": "pinball check quantile_error",
    "gamma": "half_gamma gamma_deviance reg_gamma",
    "tweedie": "half_tweedie tweedie_deviance reg_tweedie",
    "binary_focal": "binary_focal_crossentropy sigmoid_focal focal_loss",
    "focal": "categorical_focal_crossentropy softmax_focal focal_loss",
    "gaussian_nll": "gaussian gaussian_negative_log_likelihood heteroscedastic "
    "beta_nll",
    "write it as a function loss(prediction, target) -> (value, slope)": "hinge squared_hinge",
}


SKLEARN_LOSSES: dict[str, Loss] = {
    "squared_error": Loss(half_squared_error, by_row=True),
    "summed_squared_error": Loss(half_square, over_outputs="sum"),
    "poisson": Loss(poisson, link="exp", targets="count", over_outputs="sum"),
    "binary_log_loss": Loss(
        clipped_log_loss, link="sigmoid", targets="unit", by_row=True
    ),
    "log_loss": Loss(
        clipped_cross_entropy, link="softmax", targets="classes", by_row=True
    ),
}


class LossSettings:
    """A loss with settings: a dataclass, which `MLP` takes as `loss`.

    Attributes
    ----------
    kind : name in `LOSSES` and in files
    """

    kind: str

    @property
    def loss(self) -> Loss:
        return LOSSES[self.kind]._replace(constants=tuple(vars(self).values()))


@settings
class Quantile(LossSettings):
    """The pinball loss, whose least mean is at quantiles of the targets.

    With one level each output is the quantile of a column of y. With several levels y
    has one column, and the net an output for each level; predictions are sorted, so
    that quantiles do not cross.

    Parameters
    ----------
    levels : float or sequence of float, default 0.5
        Levels in (0, 1), in ascending order.

    Raises
    ------
    TypeError, ValueError
        If the levels are not that.

    References
    ----------
    Koenker & Bassett, Regression quantiles, 1978.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Quantile
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> net = MLP((1, 16, 3), loss=Quantile([0.1, 0.5, 0.9]), seed=0)
    >>> history = net.fit(X, X[:, 0] ** 2, epochs=5)
    >>> net.predict(X).shape
    (200, 3)
    """

    kind = "quantile"
    levels: Any = 0.5

    def __post_init__(self) -> None:
        numbers: Any = (self.levels,) if isinstance(self.levels, Real) else self.levels
        if isinstance(numbers, str | bytes) or not isinstance(numbers, Iterable):
            raise TypeError(
                f"Quantile: levels must be a number in (0, 1), or several, got "
                f"{self.levels!r}"
            )
        levels = tuple(
            scalars.inner_fraction("Quantile", "levels", level) for level in numbers
        )
        if not levels or any(low >= high for low, high in pairwise(levels)):
            raise ValueError(
                f"Quantile: levels must be one or more, in ascending order, got "
                f"{self.levels!r}"
            )
        object.__setattr__(self, "levels", levels[0] if len(levels) == 1 else levels)

    @property
    def loss(self) -> Loss:
        if isinstance(self.levels, float):
            return Loss(quantile, constants=(self.levels,))
        n = len(self.levels)
        return Loss(
            quantiles, "sorted", by_row=True, constants=(self.levels,), per_target=n
        )


@settings
class Tweedie(LossSettings):
    """Half the Tweedie deviance,
    for targets of 0 or more with many zeros, such as claims.

    The net predicts the mean, exp of its raw output.

    Parameters
    ----------
    power : float from 1 to 2, default 1.5
        The variance is in proportion to the mean to this power:
        1 is "poisson", 2 is "gamma", for targets above 0.

    Raises
    ------
    TypeError, ValueError
        If the power is not that.

    References
    ----------
    Jorgensen, Exponential dispersion models, 1987.

    Examples
    --------
    >>> from fastmlp import MLP, Tweedie
    >>> MLP((2, 4, 1), loss=Tweedie(1.7))
    MLP((2, 4, 1), activation='relu', output_activation='exp', loss=Tweedie(power=1.7), ...)
    """

    kind = "tweedie"
    power: float = 1.5

    def __post_init__(self) -> None:
        valid = scalars.is_finite(self.power) and 1 <= self.power <= 2
        power = scalars.real(
            "Tweedie", "power", self.power, "a number from 1 to 2", valid
        )
        object.__setattr__(self, "power", power)

    @property
    def loss(self) -> Loss:
        limits = {1.0: "poisson", 2.0: "gamma"}
        return LOSSES[limits[self.power]] if self.power in limits else super().loss


@settings
class Focal(LossSettings):
    """The focal loss of several classes: the cross-entropy times (1 - p)^gamma,
    p the probability of the right class.

    Rows that are already right count little.
    `class_weight` of `MLP.fit` takes the place of alpha elsewhere.

    Parameters
    ----------
    gamma : float of 0 or more, default 2.0
        0 is the cross-entropy.

    Raises
    ------
    TypeError, ValueError
        If gamma is not that.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017.

    Examples
    --------
    >>> from fastmlp import MLP, Focal
    >>> net = MLP((2, 4, 3), loss=Focal(1.5))
    """

    kind = "focal"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "gamma", scalars.non_negative("Focal", "gamma", self.gamma)
        )


@settings
class BinaryFocal(LossSettings):
    """The focal loss of two classes, or of several labels at once: see `Focal`.

    Parameters
    ----------
    gamma : float of 0 or more, default 2.0
        0 is the binary cross-entropy.

    Raises
    ------
    TypeError, ValueError
        If gamma is not that.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017.

    Examples
    --------
    >>> from fastmlp import MLP, BinaryFocal
    >>> net = MLP((2, 4, 1), loss=BinaryFocal(1.5))
    """

    kind = "binary_focal"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "gamma", scalars.non_negative("BinaryFocal", "gamma", self.gamma)
        )


@settings
class Smoothed(LossSettings):
    """`MLP`'s `loss` and `label_smoothing` together."""

    kind: str
    label_smoothing: float

    def __post_init__(self) -> None:
        scalars.known("MLP", "loss for label_smoothing", self.kind, SMOOTHED)

    @property
    def loss(self) -> Loss:
        rule, of_rule = SMOOTHED[self.kind]
        constants = (self.label_smoothing,)
        return LOSSES[self.kind]._replace(
            rule=rule, constants=constants, curvature=of_rule
        )

    def __str__(self) -> str:
        return f"{self.kind}, label_smoothing={self.label_smoothing!r}"

    def __repr__(self) -> str:
        return f"{self.kind!r}, label_smoothing={self.label_smoothing!r}"


# Rules that smooth labels, and their curvatures, by the loss that is smoothed.
SMOOTHED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (smoothed_cross_entropy, cross_entropy_curvature),
    "binary_cross_entropy": (
        smoothed_binary_cross_entropy,
        smoothed_binary_cross_entropy_curvature,
    ),
}
# By their names in files.
SETTINGS_BY_KIND: dict[str, Callable[..., LossSettings]] = {
    **{
        each.kind: each
        for each in LossSettings.__subclasses__()
        if each is not Smoothed
    },
    **{name: partial(Smoothed, name) for name in SMOOTHED},
}


def spelled(loss: Loss) -> Any:
    """Return the argument of `MLP` for a loss: its name,
    or a loss with settings; None: custom.
    """
    for name, known in LOSSES.items():
        if known == loss:
            return name
    for kind in SETTINGS_BY_KIND.values() if len(loss.constants) == 1 else ():
        try:
            settings = kind(*loss.constants)
        except (TypeError, ValueError):
            continue
        if settings.loss == loss:
            return settings
    return None


def of_settings(settings: LossSettings) -> dict[str, Any]:
    values = {
        name: _as_json(value)
        for name, value in vars(settings).items()
        if name != "kind"
    }
    return {**values, "name": settings.kind}


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def unsmoothed(loss: Loss) -> Loss:
    for name, (rule, _) in SMOOTHED.items():
        if rule is loss.rule:
            return LOSSES[name]._replace(over_outputs=loss.over_outputs)
    return loss
