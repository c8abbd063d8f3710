"""Compiled forms of `fastmlp.rules.elementary`: fused multiply-adds without branches or calls.

The C library's functions are calls, and a loop with a call in it does not vectorise. Here an
argument is reduced to a short interval, a polynomial is evaluated there (see `coefficients`), and
special values are selected at the end. Every function covers the whole range of its precision:
denormals are kept, infinities and NaN follow NumPy.

The reductions follow Cody & Waite (1980) and fdlibm (Sun Microsystems, 1993). The errors were
measured at every float32, and at 20 million float64 of every scale (exp and expm1 at 170 million),
in units in the last place (ulp) of the result.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from fastmlp.compiler.coefficients import FLOAT32, FLOAT64, Coefficients
from fastmlp.compiler.intrinsics import fma
from fastmlp.compiler.jit import inlined
from fastmlp.rules import elementary

Form = Callable[..., Any]
COEFFICIENTS: dict[Any, Coefficients] = {np.float32: FLOAT32, np.float64: FLOAT64}

# Exact operations that the compiled forms use, without a body in Python: see `native.emitters`.


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a if the condition holds, else b; both are computed."""
    raise NotImplementedError


def copysign(a: Any, b: Any) -> Any:
    raise NotImplementedError


def polynomial(x: Any, coefficients: Any) -> Any:
    """Return sum_j c_j x^j by Horner's rule, every step fused."""
    raise NotImplementedError


def scaled(x: Any, t: Any) -> Any:
    """Return x 2^n, for t = n + magic; x and the result must be normal numbers."""
    raise NotImplementedError


def octave(x: Any) -> Any:
    """Return k + magic + bias, for the k that brings 2^-k x into [sqrt(1/2), sqrt(2)).

    x must be a normal number above 0. The exponent's bias is 127 or 1023.
    """
    raise NotImplementedError


# The compiled forms by their functions: ``form(scalar_type)``.
FORMS: dict[Any, Callable[[Any], FunctionType]] = {}


def _compiled(function: Form) -> Callable[[Form], Form]:
    """Register `form(scalar, coefficients)` as the maker of the compiled form of `function`."""

    def register(form: Form) -> Form:
        FORMS[function] = cache(lambda scalar: form(scalar, COEFFICIENTS[scalar]))
        return form

    return register


@cache
def _reduction(scalar: Any, c: Coefficients) -> Form:
    """Make the reduction x = n log(2) + r with abs(r) <= log(2) / 2: returns n + magic, n, r."""
    magic, log2_e, ln2, ln2_low = c.magic, c.log2_e, -c.ln2, -c.ln2_low

    def reduction(x: Any) -> Any:
        t = fma(x, log2_e, magic)
        n = t - magic
        return t, n, fma(n, ln2_low, fma(n, ln2, x))

    return inlined(reduction)


@cache
def _exp_below(scalar: Any, c: Coefficients) -> Form:
    """Make exp(x) for x <= 0. 2^n may be denormal, so it is 2^54 2^n, times 2^-54 at the end."""
    reduction, lowest, q, one = _reduction(scalar, c), c.lowest, c.exp, scalar(1)
    up, down = scalar(2.0**54), scalar(2.0**-54)

    def exp_below(x: Any) -> Any:
        t, _, r = reduction(where(x < lowest, lowest, x))
        value = fma(r * r, polynomial(r, q), r) + one
        return value * scaled(up, t) * down

    return inlined(exp_below)


@cache
def _log_near(scalar: Any, c: Coefficients) -> Form:
    """Make k log(2) + log(1 + f), for f in the polynomial's interval, small terms added first."""
    p, ln2, ln2_low, half = c.log, c.ln2, c.ln2_low, scalar(0.5)

    def log_near(k: Any, f: Any) -> Any:
        square = f * f
        small = fma(f * square, polynomial(f, p), k * ln2_low)
        return fma(k, ln2, f + fma(-half, square, small))

    return inlined(log_near)


@_compiled(elementary.exp)
def _exp(scalar: Any, c: Coefficients) -> Form:
    """exp(x) = 2^n exp(r), with 2^n in two factors: it may be infinite or denormal if exp is not.

    Largest error: 1.05 ulp in float32, 1.03 in float64.
    """
    reduction, lowest, highest, q, one = (
        _reduction(scalar, c),
        c.lowest,
        c.highest,
        c.exp,
        scalar(1),
    )
    up, down, half, two = scalar(2.0**54), scalar(2.0**-54), scalar(0.5), scalar(2)
    zero = scalar(0)

    def exp(x: Any) -> Any:
        low = where(x < lowest, lowest, x)
        t, _, r = reduction(where(low > highest, highest, low))
        value = fma(r * r, polynomial(r, q), r) + one
        below = x < zero
        return value * scaled(where(below, up, half), t) * where(below, down, two)

    return exp


@_compiled(elementary.expm1)
def _expm1(scalar: Any, c: Coefficients) -> Form:
    """expm1(x) = 2^n expm1(r) + (2^n - 1).

    Largest error: 1.31 ulp in float32, 1.54 in float64.
    """
    reduction, lowest, highest, q = _reduction(scalar, c), c.expm1_lowest, c.highest, c.exp
    zero, half, two = scalar(0), scalar(0.5), scalar(2)

    def expm1(x: Any) -> Any:
        low = where(x < lowest, lowest, x)
        t, n, r = reduction(where(low > highest, highest, low))
        square, curve = r * r, polynomial(r, q)
        # 2^n itself would be infinite at the last finite values.
        power = scaled(half, t)
        far = fma(power * square, curve, fma(power, r, power - half)) * two
        near = fma(square, curve, r)
        return copysign(where(n == zero, near, far), x)

    return expm1


@_compiled(elementary.log)
def _log(scalar: Any, c: Coefficients) -> Form:
    """log(2^k (1 + f)) = k log(2) + log(1 + f).

    Largest error: 0.87 ulp in float32, 0.81 in float64.
    """
    log_near, tiny, bias, magic = _log_near(scalar, c), c.tiny, c.bias, c.magic
    up, digits = scalar(2.0**54), scalar(54)
    zero, one, infinity, nan = scalar(0), scalar(1), scalar(np.inf), scalar(np.nan)

    def log(x: Any) -> Any:
        denormal = x < tiny
        normal = where(denormal, x * up, x)
        k = octave(normal) - bias
        f = scaled(normal, magic - k) - one
        value = log_near(k - where(denormal, digits, zero), f)
        inside = where(x < infinity, value, x)
        return where(x > zero, inside, where(x == zero, -infinity, nan))

    return log


@_compiled(elementary.log1p)
def _log1p(scalar: Any, c: Coefficients) -> Form:
    """log(u) for u = 1 + x rounded, with the rounding error added back to the fraction.

    Largest error: 1.42 ulp in float32, 1.3 in float64.
    """
    log_near, bias, magic = _log_near(scalar, c), c.bias, c.magic
    zero, one, infinity, nan = scalar(0), scalar(1), scalar(np.inf), scalar(np.nan)
    far = scalar(64)

    def log1p(x: Any) -> Any:
        u = one + x
        above = x > one
        lost = where(above, one, x) - (u - where(above, x, one))
        k = octave(u) - bias
        # For large k the rounding error does not matter, and 2^-k may be denormal.
        shrink = scaled(one, magic - where(k > far, far, k))
        f = fma(lost, shrink, scaled(u, magic - k) - one)
        inside = copysign(where(x < infinity, log_near(k, f), x), x)
        return where(u > zero, inside, where(u == zero, -infinity, nan))

    return log1p


@_compiled(elementary.tanh)
def _tanh(scalar: Any, c: Coefficients) -> Form:
    """tanh(x) = e / (e + 2), with e = expm1(2 abs(x)).

    Largest error: 2.52 ulp in float32, 2.49 in float64.
    """
    reduction, highest, q = _reduction(scalar, c), c.tanh_highest, c.exp
    one, two = scalar(1), scalar(2)

    def tanh(x: Any) -> Any:
        size = abs(x)
        t, _, r = reduction(two * where(size > highest, highest, size))
        power = scaled(one, t)
        e = fma(power * (r * r), polynomial(r, q), fma(power, r, power - one))
        return copysign(e / (e + two), x)

    return tanh


@_compiled(elementary.erf)
def _erf(scalar: Any, c: Coefficients) -> Form:
    """erf(x) = x + x p(x^2) near 0, 1 - exp(q(x)) beyond.

    Largest error: 1.7 ulp in float32, 1.08 in float64.
    """
    exp_below, split, highest = _exp_below(scalar, c), c.erf_split, c.erf_highest
    p, q, one = c.erf_near, c.erf_far, scalar(1)

    def erf(x: Any) -> Any:
        size = abs(x)
        size = where(size > highest, highest, size)
        near = fma(size, polynomial(size * size, p), size)
        far = one - exp_below(polynomial(size, q))
        return copysign(where(size > split, far, near), x)

    return erf


@_compiled(elementary.logistic)
def _logistic(scalar: Any, c: Coefficients) -> Form:
    """1 / (1 + e), or e / (1 + e) below 0, with e = exp(-abs(x)).

    Largest error: 2.41 ulp in float32, 2.34 in float64.
    """
    exp_below, zero, one = _exp_below(scalar, c), scalar(0), scalar(1)

    def logistic(x: Any) -> Any:
        e = exp_below(-abs(x))
        return where(x < zero, e, one) / (one + e)

    return logistic


@_compiled(elementary.softplus)
def _softplus(scalar: Any, c: Coefficients) -> Form:
    """max(x, 0) + log(1 + e), with e = exp(-abs(x)); 1 + e is halved if it is large.

    Largest error: 1.7 ulp in float32, 1.64 in float64.
    """
    exp_below, log_near = _exp_below(scalar, c), _log_near(scalar, c)
    zero, half, one = scalar(0), scalar(0.5), scalar(1)
    split = scalar(np.sqrt(2) - 1)

    def softplus(x: Any) -> Any:
        e = exp_below(-abs(x))
        large = e > split
        rest = log_near(where(large, one, zero), where(large, (e - one) * half, e))
        return where(x > zero, x, zero) + rest

    return softplus
