"""Compiled forms of `fastmlp.rules.elementary`:
fused multiply-adds without branches or calls.

The C library's functions are calls, and a loop with a call in it does not vectorise.
Here an argument is reduced to a short interval, a polynomial is evaluated there (see
`Coefficients`), and special values are selected at the end. Every function covers the
whole range of its precision: denormals are kept, infinities and NaN follow NumPy.

The reductions follow Cody & Waite (1980) and fdlibm (Sun Microsystems, 1993). Errors,
in units in the last place (ulp), were measured at every float32 and at 20 million
float64 of every scale (exp and expm1: 170 million).

The polynomials are minimax, by Remez' algorithm at 50 digits, weighted for the
function's relative error. The comment behind each states that error, before rounding.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from fastmlp.compiler.jit import fma, inlined
from fastmlp.rules import elementary

LN2 = 0.6931471805599453


def magic(dtype: Any) -> Any:
    """Return the number whose last bit is worth 1:
    adding it rounds a small number to an integer.

    The integer is in the sum's last bits; `scaled` uses it as an exponent.
    The factor 1.5, not 1, keeps the sum's exponent for negative integers.
    """
    kind = np.dtype(dtype).type
    return kind(1.5 * 2.0 ** np.finfo(kind).nmant)


class Coefficients(NamedTuple):
    """All constants of one precision: numbers,
    and polynomials from the constant term up.

    Parameters
    ----------
    bias : the exponent's bias, which `octave` adds
    log2_e, ln2, ln2_low : 1 / log(2), and log(2) in two parts
    tiny : the smallest normal number
    lowest, highest : below and above them exp is 0 and infinite
    expm1_lowest : below it expm1 is -1
    tanh_highest, erf_highest : above them tanh and erf are 1
    erf_split : the argument at which erf changes polynomials
    exp : q of exp(r) = 1 + r + r^2 q(r), abs(r) <= log(2) / 2
    log : p of log(1 + f) = f - f^2 / 2 + f^3 p(f), sqrt(1/2) <= 1 + f <= sqrt(2)
    erf_near : p of erf(x) = x + x p(x^2), x up to `erf_split`
    erf_far : q of erf(x) = 1 - exp(q(x)), x from `erf_split` to `erf_highest`
    """

    magic: Any
    bias: Any
    log2_e: Any
    ln2: Any
    ln2_low: Any
    tiny: Any
    lowest: Any
    highest: Any
    expm1_lowest: Any
    tanh_highest: Any
    erf_highest: Any
    erf_split: Any
    exp: Any
    log: Any
    erf_near: Any
    erf_far: Any


def _in_precision(scalar: Any, **constants: Any) -> Coefficients:
    common = {
        "magic": magic(scalar),
        "bias": magic(scalar) + scalar(1 - np.finfo(scalar).minexp),
        "log2_e": scalar(1.4426950408889634),
        "ln2": scalar(LN2),
        "erf_split": scalar(1),
        "tiny": np.finfo(scalar).tiny,
    }
    rounded = {
        name: tuple(map(scalar, value)) if isinstance(value, tuple) else scalar(value)
        for name, value in constants.items()
    }
    return Coefficients(**common, **rounded)


FLOAT32_COEFFICIENTS = _in_precision(
    np.float32, ln2_low=-1.9046542e-09, lowest=-104, highest=89, expm1_lowest=-40,
    tanh_highest=9.1, erf_highest=4,
    exp=(  # 2^-26.2
        0.5, 0.1666654348373413, 0.04166628047823906, 0.008366609923541546,
        0.001394645543769002,
    ),
    log=(  # 2^-27.3
        0.33333316445350647, -0.25000813603401184, 0.20002293586730957, -0.1662445217370987,
        0.14180950820446014, -0.13129599392414093, 0.1288372427225113, -0.07859750837087631,
    ),
    erf_near=(  # 2^-24.6
        0.12837912142276764, -0.37612324953079224, 0.11280181258916855,
        -0.026711327955126762, 0.004917557816952467, -0.0005631412489585967,
    ),
    erf_far=(  # 2^-29.8
        -0.0003415189275983721, -1.127089262008667, -0.6381447911262512,
        -0.1031067743897438, 0.021838070824742317, -0.002947659930214286,
        0.00018637932953424752,
    ),
)  # fmt: skip

FLOAT64_COEFFICIENTS = _in_precision(
    np.float64, ln2_low=2.3190468138462996e-17, lowest=-746, highest=710, expm1_lowest=-60,
    tanh_highest=19.1, erf_highest=6,
    exp=(  # 2^-55.6
        0.5000000000000006, 0.16666666666666688, 0.04166666666657327, 0.008333333333313684,
        0.0013888888932514958, 0.00019841269904826198, 2.480150427186661e-05,
        2.7557226454196832e-06, 2.762639817088416e-07, 2.511492370973555e-08,
    ),
    log=(  # 2^-59.3
        0.33333333333333476, -0.24999999999999234, 0.19999999999939314,
        -0.16666666666829916, 0.14285714294572396, -0.12499999990602782,
        0.11111110480826099, -0.09999999937244826, 0.09090934275756256,
        -0.08333359006583685, 0.07691711330300406, -0.07141767722512879,
        0.06674958750990323, -0.06272136268487036, 0.0582169969948298,
        -0.053151391224849895, 0.05384829217125657, -0.06287718356170156,
        0.05788970126618156, -0.0249729293332827,
    ),
    erf_near=(  # 2^-56.9
        0.12837916709551256, -0.3761263890318352, 0.112837916709442, -0.026866170643113415,
        0.005223977606130842, -0.0008548325929766244, 0.0001205529358693695,
        -1.4924712439534814e-05, 1.6447132699786621e-06, -1.6206318752969208e-07,
        1.3710988704190523e-08, -7.779462971761597e-10,
    ),
    erf_far=(  # 2^-59.5
        -1.796969558783672e-07, -1.128377328458867, -0.636628492847203,
        -0.10274724027242474, 0.019078130194082145, 0.0002805278877330952,
        -0.0017690465790463044, 0.0006412144338846263, -4.485237958117818e-05,
        -7.034957202296967e-05, 4.5029615491191615e-05, -1.6511136868359252e-05,
        4.326246717717087e-06, -8.503993362429878e-07, 1.2567578177905148e-07,
        -1.3623137106879431e-08, 1.0253992961486053e-09, -4.7944625125039864e-11,
        1.0492385763800457e-12,
    ),
)  # fmt: skip

Form = Callable[..., Any]
COEFFICIENTS: dict[Any, Coefficients] = {
    np.float32: FLOAT32_COEFFICIENTS,
    np.float64: FLOAT64_COEFFICIENTS,
}

# Exact operations without a body in Python: see `native.operands`.


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds, else b; both are computed."""
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


# Compiled forms, ``form(scalar_type)``, by their functions.
COMPILED_FORMS: dict[Any, Callable[[Any], FunctionType]] = {}


def _compiled(function: Form) -> Callable[[Form], Form]:
    """Register `form(scalar,
    coefficients)` as the maker of `function`'s compiled form.
    """

    def register(form: Form) -> Form:
        COMPILED_FORMS[function] = cache(
            lambda scalar: form(scalar, COEFFICIENTS[scalar])
        )
        return form

    return register


@cache
def _reduction(scalar: Any, c: Coefficients) -> Form:
    """Make the reduction x = n log(2) + r with abs(r)
    <= log(2) / 2: returns n + magic, n, r.
    """
    magic = c.magic
    log2_e = c.log2_e
    ln2 = -c.ln2
    ln2_low = -c.ln2_low

    def reduction(x: Any) -> Any:
        t = fma(x, log2_e, magic)
        n = t - magic
        return t, n, fma(n, ln2_low, fma(n, ln2, x))

    return inlined(reduction)


@cache
def _exp_below(scalar: Any, c: Coefficients) -> Form:
    """Make exp(x) for x <= 0. 2^n may be denormal,
    so it is 2^54 2^n, times 2^-54 at the end.
    """
    reduction = _reduction(scalar, c)
    lowest = c.lowest
    q = c.exp
    one = scalar(1)
    up = scalar(2.0**54)
    down = scalar(2.0**-54)

    def exp_below(x: Any) -> Any:
        t, _, r = reduction(where(x < lowest, lowest, x))
        value = fma(r * r, polynomial(r, q), r) + one
        return value * scaled(up, t) * down

    return inlined(exp_below)


@cache
def _log_near(scalar: Any, c: Coefficients) -> Form:
    """Make k log(2) + log(1 + f), for f in the polynomial's interval,
    small terms added first.
    """
    p = c.log
    ln2 = c.ln2
    ln2_low = c.ln2_low
    half = scalar(0.5)

    def log_near(k: Any, f: Any) -> Any:
        square = f * f
        small = fma(f * square, polynomial(f, p), k * ln2_low)
        return fma(k, ln2, f + fma(-half, square, small))

    return inlined(log_near)


@_compiled(elementary.exp)
def _exp(scalar: Any, c: Coefficients) -> Form:
    """exp(x) = 2^n exp(r), with 2^n in two factors:
    it may be infinite or denormal if exp is not.

    Largest error: 1.05 ulp in float32, 1.03 in float64.
    """
    reduction = _reduction(scalar, c)
    lowest = c.lowest
    highest = c.highest
    q = c.exp
    up, down, zero, half, one, two = map(scalar, (2.0**54, 2.0**-54, 0, 0.5, 1, 2))

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
    reduction = _reduction(scalar, c)
    lowest = c.expm1_lowest
    highest = c.highest
    q = c.exp
    zero = scalar(0)
    half = scalar(0.5)
    two = scalar(2)

    def expm1(x: Any) -> Any:
        low = where(x < lowest, lowest, x)
        t, n, r = reduction(where(low > highest, highest, low))
        square = r * r
        curve = polynomial(r, q)
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
    log_near = _log_near(scalar, c)
    tiny = c.tiny
    bias = c.bias
    magic = c.magic
    up = scalar(2.0**54)
    digits = scalar(54)
    zero = scalar(0)
    one = scalar(1)
    infinity = scalar(np.inf)
    nan = scalar(np.nan)

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
    log_near = _log_near(scalar, c)
    bias = c.bias
    magic = c.magic
    zero = scalar(0)
    one = scalar(1)
    infinity = scalar(np.inf)
    nan = scalar(np.nan)
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
    reduction = _reduction(scalar, c)
    highest = c.tanh_highest
    q = c.exp
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
    exp_below = _exp_below(scalar, c)
    split = c.erf_split
    highest = c.erf_highest
    p = c.erf_near
    q = c.erf_far
    one = scalar(1)

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
    exp_below = _exp_below(scalar, c)
    zero = scalar(0)
    one = scalar(1)

    def logistic(x: Any) -> Any:
        e = exp_below(-abs(x))
        return where(x < zero, e, one) / (one + e)

    return logistic


@_compiled(elementary.softplus)
def _softplus(scalar: Any, c: Coefficients) -> Form:
    """max(x, 0) + log(1 + e), with e = exp(-abs(x)); 1 + e is halved if it is large.

    Largest error: 1.7 ulp in float32, 1.64 in float64.
    """
    exp_below = _exp_below(scalar, c)
    log_near = _log_near(scalar, c)
    zero = scalar(0)
    half = scalar(0.5)
    one = scalar(1)
    split = scalar(np.sqrt(2) - 1)

    def softplus(x: Any) -> Any:
        e = exp_below(-abs(x))
        large = e > split
        rest = log_near(where(large, one, zero), where(large, (e - one) * half, e))
        return where(x > zero, x, zero) + rest

    return softplus
