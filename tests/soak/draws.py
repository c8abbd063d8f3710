"""What calls are drawn from: arguments of every kind, right and wrong."""

import math
import warnings
from dataclasses import fields
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from fastmlp import Loss
from fastmlp.rules.activations import ALIASES
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.optimizers import OPTIMIZERS, Custom
from fastmlp.rules.schedules import SCHEDULES


def square(z: Any) -> Any:
    return z * z, z + z


def descent(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - rate * g, m, v


def wrong_rate(steps: Any, total: Any) -> Any:
    return "fast"


def infinite(generator: Any, shape: Any) -> Any:
    return np.full(shape, np.inf)


JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    0.5,
    -0.5,
    1.0,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    2**31,
    2**62,
    2**63,
    2**64,
    10**400,
    -(10**400),
    1 + 1j,
    "",
    "relu",
    "x",
    b"mse",
    "float32",
    "1",
    [],
    [1],
    [[1]],
    (),
    (3,),
    (3, 1),
    {},
    {"l2": 1},
    {1: 2},
    set(),
    object(),
    object,
    type,
    len,
    print,
    Decimal("0.1"),
    Fraction(1, 3),
    np.float32(0.1),
    np.float64(np.nan),
    np.int8(3),
    np.bool_(True),
    np.zeros(0),
    np.zeros((0, 3)),
    np.ones(3),
    np.ones((3, 3)),
    np.ones((2, 2, 2)),
    np.array(2),
    np.array(["a"]),
    np.array([None]),
    np.array([1 + 1j]),
    np.datetime64("2020-01-01"),
    np.float32,
    np.dtype("f4"),
    timedelta(1),
    slice(3),
    Ellipsis,
    NotImplemented,
    range(3),
    iter([1]),
    lambda: 1,
    lambda z: z,
    lambda z: (z, z),
    square,
    descent,
    wrong_rate,
    infinite,
    Loss(square),
]
junk = st.sampled_from(JUNK)


class Later(NamedTuple):
    """An optimizer or a schedule that is still to be made, which may fail."""

    kind: Any
    rate: Any
    options: dict[str, Any]


def made(value: Any) -> Any:
    if isinstance(value, Later):
        return value.kind(made(value.rate), **value.options)
    return value


def often(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly right, that several arguments may be right at a time."""
    return st.integers(0, 11).flatmap(lambda n: right if n else junk)


numbers = st.one_of(
    st.floats(1e-6, 1e3), st.floats(), st.sampled_from([0, 1, 0.1, 1e30, 1e-30])
)
names = st.sampled_from([*ACTIVATIONS, *ALIASES])


@st.composite
def schedules(draw: Any) -> Any:
    kind = SCHEDULES[draw(st.sampled_from(sorted(SCHEDULES)))]
    options = draw(
        st.dictionaries(
            st.sampled_from(
                ["n_steps", "factor", "every", "power", "final_rate", "warm"]
            ),
            often(st.one_of(st.integers(1, 9), numbers)),
            max_size=1,
        )
    )
    return Later(kind, draw(often(st.floats(1e-5, 1.0))), options)


@st.composite
def optimizers(draw: Any) -> Any:
    if draw(st.booleans()):
        return draw(st.sampled_from([*OPTIMIZERS, descent, Custom(descent)]))
    kind = OPTIMIZERS[draw(st.sampled_from(sorted(OPTIMIZERS)))]
    keys = [
        "momentum",
        "nesterov",
        "rho",
        "epsilon",
        "beta_1",
        "beta_2",
        "weight_decay",
    ]
    options = draw(st.dictionaries(st.sampled_from(keys), often(numbers), max_size=2))
    names = {field.name for field in fields(kind)}
    known = {key: value for key, value in options.items() if key in names}
    return Later(kind, draw(often(st.one_of(numbers, schedules()))), known)


@st.composite
def tables(draw: Any, n_rows: int, width: int) -> Any:
    dtype = draw(
        st.sampled_from(["f4", "f8", "f2", ">f8", "i1", "u8", "?", "O", "c16", "U3"])
    )
    scale = draw(st.sampled_from([0, 1, 1, 1, 1e-45, 1e-310, 1e3, 1e30, 3e38, 1e300]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = (scale * rng.standard_normal((n_rows, width))).astype(dtype)
    shape = draw(
        st.sampled_from(["as it is", "as it is", "F", "strided", "list", "constant"])
    )
    if shape == "F":
        return np.asfortranarray(table)
    if shape == "strided":
        return np.repeat(table, 2, axis=1)[:, ::2]
    if shape == "constant":
        table[:] = table[0]
    return table.tolist() if shape == "list" else table


@st.composite
def targets(draw: Any, n_rows: int, width: int) -> Any:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return draw(
        st.sampled_from(
            [
                rng.uniform(size=(n_rows, width)),
                rng.integers(width, size=n_rows),
                rng.integers(2, size=(n_rows, width)),
                np.eye(width)[rng.integers(width, size=n_rows)],
                np.zeros(n_rows, int),
                rng.standard_normal(n_rows) * 1e30,
                [1.0] * n_rows,
            ]
        )
    )
