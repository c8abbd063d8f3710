"""Curvatures of losses: the second derivatives H of a row's loss by its outputs, for Gauss-Newton.

A loss of single outputs has a function of an output and its target. A loss of whole rows writes a
root R of H = R^T R instead, shape (n_rows, n, n) by columns: ``root[:, q * n + j]`` is R_qj. H is
positive semidefinite; where a second derivative could be 0, as huber's far from the target, it is
that of the parabola that touches the loss there.
"""

from typing import Any

from fastmlp.rules.elementary import exp, logistic, sqrt, tanh
from fastmlp.rules.links import softmax


def mse(prediction: float, target: float) -> float:
    """2, for (p - y)^2."""
    return type(prediction)(2)


def huber(prediction: float, target: float) -> float:
    """1 within 1 of the target, 1 / abs(p - y) beyond: the weights of Huber (1964)."""
    size, one = abs(prediction - target), type(prediction)(1)
    return one if size <= one else one / size


def log_cosh(prediction: float, target: float) -> float:
    """1 - tanh(p - y)^2."""
    slope, one = tanh(prediction - target), type(prediction)(1)
    return one - slope * slope


def binary_cross_entropy(raw: float, target: float) -> float:
    """p (1 - p), with p = 1 / (1 + exp(-raw))."""
    return logistic(raw) * logistic(-raw)


def smoothed_binary_cross_entropy(raw: float, target: float, smoothing: float) -> float:
    """p (1 - p), as of the labels themselves."""
    return logistic(raw) * logistic(-raw)


def poisson(raw: float, target: float) -> float:
    """exp(raw)."""
    return exp(raw)


def gamma(raw: float, target: float) -> float:
    """y exp(-raw)."""
    return target * exp(-raw)


def tweedie(raw: float, target: float, power: float) -> float:
    """(k - 1) y exp((1 - k) raw) + (2 - k) exp((2 - k) raw), k the power."""
    one = type(raw)(1)
    k = type(raw)(power)
    rest, other = one - k, one + one - k
    return other * exp(other * raw) - rest * target * exp(rest * raw)


def cross_entropy(raw: Any, target: Any, probability: Any, root: Any) -> None:
    """H = s (diag(p) - p p^T) with p = softmax(raw), s the sum of the targets, 1 of a class label;
    R_qj = sqrt(s p_q) ((q = j) - p_j)."""
    n_rows, n = raw.shape
    zero, one = type(raw[0, 0])(0), type(raw[0, 0])(1)
    softmax(raw, probability)
    for q in range(n):
        for j in range(n):
            same = one if q == j else zero
            for r in range(n_rows):
                root[r, q * n + j] = sqrt(probability[r, q]) * (same - probability[r, j])
    if target.shape[1] > 1:
        for r in range(n_rows):
            mass = zero
            for j in range(n):
                mass += target[r, j]
            for i in range(n * n):
                root[r, i] *= sqrt(mass)
