"""Elementary functions of one scalar, in the precision of their argument.

Rules (activations, losses, links, penalties, optimizers) are written in these, so that every
backend may bring its own form of them and the rules stay as they are. Uncompiled they take
NumPy scalars; compiled they take float32 or float64 and never widen. Your own rules may use
them too.
"""

import math

import numpy as np


def exp(x: float) -> float:
    """Exponential function."""
    return np.exp(x)


def expm1(x: float) -> float:
    """``exp(x) - 1``, exact near zero."""
    return np.expm1(x)


def log(x: float) -> float:
    """Natural logarithm."""
    return np.log(x)


def log1p(x: float) -> float:
    """``log(1 + x)``, exact near zero."""
    return np.log1p(x)


def sqrt(x: float) -> float:
    """Square root."""
    return np.sqrt(x)


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return np.tanh(x)


def erf(x: float) -> float:
    """Error function."""
    return type(x)(math.erf(x))


def logistic(x: float) -> float:
    """``1 / (1 + exp(-x))``, without overflow on either side."""
    one = type(x)(1)
    e = np.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


def softplus(x: float) -> float:
    """``log(1 + exp(x))``, without overflow."""
    zero = type(x)(0)
    return (zero if x < zero else x) + np.log1p(np.exp(-abs(x)))


FUNCTIONS = (exp, expm1, log, log1p, sqrt, tanh, erf, logistic, softplus)
