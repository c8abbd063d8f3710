"""Checks of single numbers: what passes, and the exact words where it does not."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp.validation import scalars

Check = Callable[[str, str, object], Any]
POSITIVE, NON_NEGATIVE, FRACTION, INTEGER = (
    (scalars.positive, "a finite number above 0"),
    (scalars.non_negative, "a finite number of 0 or more"),
    (scalars.fraction, "a number in [0, 1)"),
    (scalars.positive_integer, "an integer of 1 or more"),
)
NUMBERS = [POSITIVE, NON_NEGATIVE, FRACTION, INTEGER]


def words(expected: str, value: object) -> str:
    return f"^{re.escape(f'Adam: beta_1 must be {expected}, got {value!r}')}$"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (scalars.positive, 1e-300),
        (scalars.positive, 3),
        (scalars.positive, np.float32(0.5)),
        (scalars.non_negative, 0),
        (scalars.non_negative, 1e300),
        (scalars.fraction, 0.0),
        (scalars.fraction, np.nextafter(1.0, 0.0)),
        (scalars.positive_integer, 1),
        (scalars.positive_integer, np.int64(7)),
    ],
)
def test_a_good_number_comes_back(check: Check, value: Any) -> None:
    assert check("Adam", "beta_1", value) == value


@pytest.mark.parametrize("check", [scalars.positive, scalars.non_negative, scalars.fraction])
def test_a_real_number_comes_back_as_a_float(check: Check) -> None:
    assert type(check("Adam", "beta_1", np.float32(0.5))) is float


def test_an_integer_comes_back_as_an_int() -> None:
    assert type(scalars.positive_integer("Adam", "beta_1", np.int64(7))) is int


@pytest.mark.parametrize(("check", "expected"), NUMBERS)
@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 0.5j])
def test_what_is_no_number_is_a_type_error(check: Check, expected: str, value: Any) -> None:
    with pytest.raises(TypeError, match=words(expected, value)):
        check("Adam", "beta_1", value)


@pytest.mark.parametrize(("check", "expected"), [POSITIVE, NON_NEGATIVE, FRACTION])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, -np.inf])
def test_a_number_out_of_range_is_a_value_error(check: Check, expected: str, value: Any) -> None:
    with pytest.raises(ValueError, match=words(expected, value)):
        check("Adam", "beta_1", value)


@pytest.mark.parametrize(
    ("pair", "value"), [(POSITIVE, 0.0), (FRACTION, 1.0), (INTEGER, 0), (INTEGER, -3)]
)
def test_the_open_end_of_a_range_is_out_of_it(pair: tuple[Check, str], value: float) -> None:
    check, expected = pair
    with pytest.raises(ValueError, match=words(expected, value)):
        check("Adam", "beta_1", value)


def test_a_whole_float_is_no_integer() -> None:
    with pytest.raises(TypeError, match=words("an integer of 1 or more", 3.0)):
        scalars.positive_integer("Adam", "beta_1", 3.0)


@pytest.mark.parametrize("value", [None, 5, b"net"])
def test_what_is_no_path_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=words("a path, a str or os.PathLike", value)):
        scalars.path("Adam", "beta_1", value)


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_comes_back(value: bool) -> None:
    assert scalars.boolean("Adam", "beta_1", value) is value


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_number_is_no_boolean(value: Any) -> None:
    with pytest.raises(TypeError, match=words("True or False", value)):
        scalars.boolean("Adam", "beta_1", value)


def test_a_known_name_passes() -> None:
    table = {"tanh": 1, "relu": 2}
    passed: Any = scalars.known
    assert [passed("MLP", "activation", name, table) for name in table] == [None, None]


@pytest.mark.parametrize("name", ["slu", "", None, ["relu"]])
def test_an_unknown_name_is_told_the_known_ones_in_order(name: Any) -> None:
    message = f"MLP: unknown activation {name!r}; known: relu, tanh"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scalars.known("MLP", "activation", name, {"tanh": 1, "relu": 2})
