"""Checks of single numbers, with one form of message:
caller, expected value, actual value.
"""

import math
import os
from collections.abc import Iterable
from datetime import timedelta
from numbers import Integral, Real
from typing import Literal

from fastmlp.validation.messages import NO_SYNONYMS, Synonyms, shown, suggestion

# Sum and difference of two such integers fit into 64 bits.
LARGEST = 2**62
# `isinstance` of a float and an abstract class: 0.4 us.
REAL = (float, Real)


def real(owner: str, name: str, value: object, expected: str, valid: bool) -> float:
    """Return `value` as a float;
    raise with `expected` in the message unless it is `valid`.
    """
    if isinstance(value, bool) or not isinstance(value, REAL):
        raise TypeError(f"{owner}: {name} must be {expected}, got {shown(value)}")
    if not valid:
        raise ValueError(f"{owner}: {name} must be {expected}, got {shown(value)}")
    return float(value)


def seconds(owner: str, name: str, value: object) -> float | None:
    """A time in seconds, from seconds or a timedelta; None stays None."""
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, timedelta) else value
    expected = "seconds above 0, or a datetime.timedelta"
    return real(owner, name, number, expected, is_positive(number))


def positive(owner: str, name: str, value: object) -> float:
    return real(owner, name, value, "a finite number above 0", is_positive(value))


def non_negative(owner: str, name: str, value: object) -> float:
    return real(
        owner,
        name,
        value,
        "a finite number of 0 or more",
        _compare(value, 0.0, math.inf),
    )


def fraction(owner: str, name: str, value: object) -> float:
    return real(owner, name, value, "a number in [0, 1)", _compare(value, 0.0, 1.0))


def inner_fraction(owner: str, name: str, value: object) -> float:
    valid = _compare(value, 0.0, 1.0, closed=False)
    return real(owner, name, value, "a number in (0, 1)", valid)


def positive_integer(owner: str, name: str, value: object) -> int:
    """Check an integer of 1 or more (NumPy integers too, bool not)."""
    return _integer(owner, name, value, 1)


def non_negative_integer(owner: str, name: str, value: object) -> int:
    """Check an integer of 0 or more (NumPy integers too, bool not)."""
    return _integer(owner, name, value, 0)


def _integer(owner: str, name: str, value: object, least: int) -> int:
    if type(value) is int and least <= value <= LARGEST:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{owner}: {name} must be an integer of {least} or more, got {shown(value)}"
        )
    number = int(value)
    if number < least:
        raise ValueError(
            f"{owner}: {name} must be an integer of {least} or more, got {shown(value)}"
        )
    if number > LARGEST:
        bits = number.bit_length() - 1
        raise ValueError(
            f"{owner}: {name} must be at most 2**62, got a number above 2**{bits}"
        )
    return number


def boolean(owner: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False, got {shown(value)}")
    return value


def path(
    owner: str, name: str, value: object, *, mode: Literal["", "r", "w"] = ""
) -> None:
    """Check a path: a str or an os.PathLike, without the character NUL.

    With the mode "r" the file must exist, with "w" the file's folder.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{owner}: {name} must be a path, a str or os.PathLike, got {shown(value)}"
        )
    if "\0" in os.fsdecode(value):
        raise ValueError(
            f"{owner}: {name} must be a path without the character \\0, got "
            f"{shown(value)}"
        )
    text = os.fsdecode(value)
    if mode == "r" and not os.path.exists(value):
        raise FileNotFoundError(f"{owner}: there is no file {text!r}")
    if mode == "r" and os.path.isdir(value):
        raise IsADirectoryError(
            f"{owner}: {text!r} is a folder; give a file in it, such as "
            f"{os.path.join(text, 'net.safetensors')!r}"
        )
    folder = os.path.dirname(os.path.realpath(text))
    if mode == "w" and not os.path.isdir(folder):
        raise FileNotFoundError(f"{owner}: there is no folder {folder!r} for {text!r}")


def known(
    owner: str,
    kind: str,
    name: object,
    table: Iterable[str],
    synonyms: Synonyms = NO_SYNONYMS,
) -> None:
    """Check that `name` is in `table`;
    the error lists the known names, and suggests one.

    `synonyms` are as for `suggestion`.
    """
    names = list(table)
    if name not in names:
        meant = suggestion(name, names, synonyms)
        raise ValueError(
            f"{owner}: unknown {kind} {name!r}{meant} known: {', '.join(sorted(names))}"
        )


def is_positive(value: object) -> bool:
    return _compare(value, 0.0, math.inf, closed=False)


def is_finite(value: object) -> bool:
    return _compare(value, -math.inf, math.inf, closed=False)


def _compare(value: object, low: float, high: float, closed: bool = True) -> bool:
    """True if low <= value < high, or low < value < high;
    False for NaN and non-numbers.
    """
    if not isinstance(value, REAL):
        return False
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1e308
        return False
    return (low <= number if closed else low < number) and number < high
