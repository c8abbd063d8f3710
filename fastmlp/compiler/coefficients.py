"""The constants of the compiled elementary functions, in both precisions.

The polynomials are minimax polynomials, computed by Remez' algorithm at 50 digits, with a weight
that minimises the relative error of the function's value. The comment behind each states that
error, before rounding.
"""

from typing import Any, NamedTuple

import numpy as np

LN2 = 0.6931471805599453


def magic(dtype: Any) -> Any:
    """Return the number whose last bit is worth 1: adding it rounds a small number to an integer.

    The last bits of the sum are that integer, which `scaled` uses as an exponent. The factor 1.5,
    not 1, keeps the sum's exponent for negative integers.
    """
    kind = np.dtype(dtype).type
    return kind(1.5 * 2.0 ** np.finfo(kind).nmant)


class Coefficients(NamedTuple):
    """All constants of one precision: numbers, and polynomials from the constant term up.

    Parameters
    ----------
    magic : float
        See `magic`.
    bias : float
        The exponent's bias, which `octave` adds.
    log2_e, ln2, ln2_low : float
        1 / log(2), and log(2) in two parts.
    tiny : float
        The smallest normal number.
    lowest, highest : float
        Below and above them exp is 0 and infinite.
    expm1_lowest : float
        Below it expm1 is -1.
    tanh_highest, erf_highest : float
        Above them tanh and erf are 1.
    erf_split : float
        The argument at which erf changes from one polynomial to the other.
    exp : tuple of float
        q of exp(r) = 1 + r + r^2 q(r), abs(r) <= log(2) / 2.
    log : tuple of float
        p of log(1 + f) = f - f^2 / 2 + f^3 p(f), sqrt(1/2) <= 1 + f <= sqrt(2).
    erf_near : tuple of float
        p of erf(x) = x + x p(x^2), x up to `erf_split`.
    erf_far : tuple of float
        q of erf(x) = 1 - exp(q(x)), x from `erf_split` to `erf_highest`.
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
        "tiny": np.finfo(scalar).tiny,
    }
    rounded = {
        name: tuple(map(scalar, value)) if isinstance(value, tuple) else scalar(value)
        for name, value in constants.items()
    }
    return Coefficients(**common, **rounded)


FLOAT32 = _in_precision(
    np.float32,
    ln2=LN2,
    ln2_low=-1.9046542e-09,
    lowest=-104,
    highest=89,
    expm1_lowest=-40,
    tanh_highest=9.1,
    erf_highest=4,
    erf_split=1,
    exp=(  # 2^-26.2
        0.5,
        0.1666654348373413,
        0.04166628047823906,
        0.008366609923541546,
        0.001394645543769002,
    ),
    log=(  # 2^-27.3
        0.33333316445350647,
        -0.25000813603401184,
        0.20002293586730957,
        -0.1662445217370987,
        0.14180950820446014,
        -0.13129599392414093,
        0.1288372427225113,
        -0.07859750837087631,
    ),
    erf_near=(  # 2^-24.6
        0.12837912142276764,
        -0.37612324953079224,
        0.11280181258916855,
        -0.026711327955126762,
        0.004917557816952467,
        -0.0005631412489585967,
    ),
    erf_far=(  # 2^-29.8
        -0.0003415189275983721,
        -1.127089262008667,
        -0.6381447911262512,
        -0.1031067743897438,
        0.021838070824742317,
        -0.002947659930214286,
        0.00018637932953424752,
    ),
)

FLOAT64 = _in_precision(
    np.float64,
    ln2=LN2,
    ln2_low=2.3190468138462996e-17,
    lowest=-746,
    highest=710,
    expm1_lowest=-60,
    tanh_highest=19.1,
    erf_highest=6,
    erf_split=1,
    exp=(  # 2^-55.6
        0.5000000000000006,
        0.16666666666666688,
        0.04166666666657327,
        0.008333333333313684,
        0.0013888888932514958,
        0.00019841269904826198,
        2.480150427186661e-05,
        2.7557226454196832e-06,
        2.762639817088416e-07,
        2.511492370973555e-08,
    ),
    log=(  # 2^-59.3
        0.33333333333333476,
        -0.24999999999999234,
        0.19999999999939314,
        -0.16666666666829916,
        0.14285714294572396,
        -0.12499999990602782,
        0.11111110480826099,
        -0.09999999937244826,
        0.09090934275756256,
        -0.08333359006583685,
        0.07691711330300406,
        -0.07141767722512879,
        0.06674958750990323,
        -0.06272136268487036,
        0.0582169969948298,
        -0.053151391224849895,
        0.05384829217125657,
        -0.06287718356170156,
        0.05788970126618156,
        -0.0249729293332827,
    ),
    erf_near=(  # 2^-56.9
        0.12837916709551256,
        -0.3761263890318352,
        0.112837916709442,
        -0.026866170643113415,
        0.005223977606130842,
        -0.0008548325929766244,
        0.0001205529358693695,
        -1.4924712439534814e-05,
        1.6447132699786621e-06,
        -1.6206318752969208e-07,
        1.3710988704190523e-08,
        -7.779462971761597e-10,
    ),
    erf_far=(  # 2^-59.5
        -1.796969558783672e-07,
        -1.128377328458867,
        -0.636628492847203,
        -0.10274724027242474,
        0.019078130194082145,
        0.0002805278877330952,
        -0.0017690465790463044,
        0.0006412144338846263,
        -4.485237958117818e-05,
        -7.034957202296967e-05,
        4.5029615491191615e-05,
        -1.6511136868359252e-05,
        4.326246717717087e-06,
        -8.503993362429878e-07,
        1.2567578177905148e-07,
        -1.3623137106879431e-08,
        1.0253992961486053e-09,
        -4.7944625125039864e-11,
        1.0492385763800457e-12,
    ),
)
