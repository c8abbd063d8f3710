"""Checks of the arguments of a fit."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.validation import scalars
from fastmlp.validation.calls import misfit

ValidationData = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]


def callbacks(given: Any, who: str) -> tuple[Callable[..., Any], ...]:
    """Check callbacks: a function, or a sequence of functions."""
    several = isinstance(given, Iterable) and not callable(given)
    functions: tuple[Any, ...] = tuple(given) if several else (given,)
    for function in functions:
        wrong = misfit(function, 1) if callable(function) else _of_events(function)
        if wrong or not callable(function):
            raise TypeError(
                f"{who}: callbacks must be functions of one argument, the Report of an epoch, got "
                f"{function!r}{wrong}"
            )
    return functions


def _of_events(given: object) -> str:
    """Return what to add to a message about an object whose methods are called at events."""
    events = [name for name in dir(given) if name.startswith("on_")]
    if not events:
        return ""
    return (
        f"; in the place of {', '.join(events[:3])} write a function: def log(report): "
        "print(report.epoch, report.loss); see 'How do I show progress, and log a fit?'"
    )


def validation_pair(given: object, who: str) -> tuple[Any, Any, Any]:
    """Return (X, y, sample_weight or None) from validation data of two or three parts."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        hint = f"; use validation_split={given!r}" if isinstance(given, float) else ""
        raise TypeError(
            f"{who}: validation_data must be (X, y) or (X, y, sample_weight), "
            f"got {type(given).__name__}{hint}"
        )
    return (*given, None)[:3]


def validates(validation_data: object, validation_split: object, who: str) -> bool:
    """Return True if a fit has rows to validate on; check that they are given in one way."""
    if validation_data is not None and validation_split is not None:
        raise ValueError(f"{who}: give validation_data or validation_split, not both")
    return validation_data is not None or validation_split is not None


def checkpoint(path: object, every: object, resume: object, who: str) -> int | timedelta:
    """Check the path and the interval of checkpoints; return the interval."""
    scalars.boolean(who, "resume", resume)
    if path is None and resume:
        raise ValueError(f"{who}: resume=True needs checkpoint=, the file to go on from")
    if path is not None:
        scalars.path(who, "checkpoint", path)
    if isinstance(every, timedelta):
        if every < timedelta(0):
            raise ValueError(f"{who}: checkpoint_every must be 0 or more, got {every!r}")
        return every
    if isinstance(every, float):
        raise TypeError(
            f"{who}: checkpoint_every must be a number of epochs, an integer, or a time: "
            f"datetime.timedelta(seconds={every!r})"
        )
    return scalars.positive_integer(who, "checkpoint_every", every)


def ranks(communicator: object, average_every: object, device: str, who: str) -> None:
    """Check the arguments of a fit on several ranks."""
    if average_every is not None:
        scalars.positive_integer(who, "average_every", average_every)
        if communicator is None:
            raise ValueError(f"{who}: average_every is for several ranks: give communicator=")
    if communicator is not None and device != "cpu":
        raise ValueError(f"{who}: communicator is for nets on the CPU, and this one is on {device}")


def rates(given: object, n_steps: int, schedule: object) -> NDArray[np.float64]:
    """Check the rates that a learning-rate schedule returned; return them as float64."""
    try:
        array = np.asarray(given, np.float64)
        good = array.shape == (n_steps,) and np.isfinite(array).all() and (array >= 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"learning-rate schedule {schedule!r} must return {n_steps} finite rates of 0 or more, "
            f"got {given!r}"
        )
    return array
