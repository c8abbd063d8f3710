"""Losses of whole rows of outputs, beside `fastmlp.rules.losses.cross_entropy`.

Each takes outputs and slopes, shape (n_rows, n), targets, shape (n_rows, n_targets), and values,
shape (n_rows,), and writes slopes and values. Loops over rows are innermost: they vectorise.
"""

from typing import Any

from fastmlp.rules.elementary import exp, log, log1p, probabilities
from fastmlp.rules.links import LEAST_LOG_VARIANCE


def quantiles(raw: Any, target: Any, slope: Any, value: Any, levels: Any) -> None:
    """L = mean_j of (1 - q_j) e_j if e_j > 0, else -q_j e_j, with e_j = p_j - y: the pinball losses
    of one target at several levels q_j, one output each. Koenker & Bassett (1978)."""
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
    """L = mean over targets of (s + (m - y)^2 exp(-s)) / 2, with a pair of outputs (m, s) for each:
    the mean and the logarithm of the variance. Nix & Weigend (1994).

    Below s = `LEAST_LOG_VARIANCE` the loss goes on as a line in s: value and slopes stay finite.
    """
    n_rows, n_targets = target.shape
    one, half = type(raw[0, 0])(1), type(raw[0, 0])(0.5)
    least = type(one)(LEAST_LOG_VARIANCE)
    share = one / type(one)(n_targets)
    for r in range(n_rows):
        value[r] = 0.0
    for t in range(n_targets):
        for r in range(n_rows):
            error, s = raw[r, 2 * t] - target[r, t], raw[r, 2 * t + 1]
            kept = least if s < least else s
            below, precision = s - kept, exp(-kept)
            square = error * error * precision
            rise = half * (one - square)
            value[r] += half * (kept + square) + rise * below
            slope[r, 2 * t] = error * precision * (one - below) * share
            slope[r, 2 * t + 1] = rise * share
    for r in range(n_rows):
        value[r] /= n_targets


def focal(raw: Any, target: Any, slope: Any, value: Any, focus: Any) -> None:
    """L = -sum_j y_j (1 - p_j)^g log p_j, with p = softmax(raw) and g = focus; a target of one
    column is a class label. Lin et al. (2017); with g = 0 it is the cross-entropy.

    1 - p_j is the sum of the other terms where p_j may be close to 1. With t_j = p_j dL/dp_j the
    slope by raw_k is t_k - p_k sum_j t_j: the first turn sums, the second writes. A label has one
    term, and needs one turn: 12.3 -> 11.3 us (16-64-64-2@64).
    """
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    g, has_labels = type(one)(focus), target.shape[1] == 1
    probabilities(raw, slope, value)
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        rest = type(one)(value[r])
        log_total, label = log1p(rest), int(target[r, 0])
        total, loss = zero, zero
        first, stop, n_turns = (label, label + 1, 1) if has_labels else (0, n, 2)
        for turn in range(n_turns):
            for j in range(first, stop):
                p, t = slope[r, j], zero
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


def smoothed_cross_entropy(raw: Any, target: Any, slope: Any, value: Any, smoothing: Any) -> None:
    """L = -sum_j z_j log p_j, with p = softmax(raw) and z = (1 - s) y + s / n, s the smoothing; a
    target of one column is a class label. Szegedy et al. (2016)."""
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    s, has_labels = type(one)(smoothing), target.shape[1] == 1
    even, kept = s / type(one)(n), one - s
    probabilities(raw, slope, value)
    for r in range(n_rows):
        value[r] = log1p(type(one)(value[r]))
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        label = int(target[r, 0])
        mass, loss, rest = zero, zero, type(one)(value[r])
        for j in range(n):
            y = (one if j == label else zero) if has_labels else target[r, j]
            z = kept * y + even
            mass += z
            loss += z * (rest + (peak - raw[r, j]))
        for j in range(n):
            y = (one if j == label else zero) if has_labels else target[r, j]
            slope[r, j] = slope[r, j] * mass - (kept * y + even)
        value[r] = loss
