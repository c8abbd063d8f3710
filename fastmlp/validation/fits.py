"""Checks of the arguments of a fit, and weights of classes as weights of rows."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.validation import frames, scalars
from fastmlp.validation.arrays import vector
from fastmlp.validation.calls import misfit

ValidationData = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]


def callbacks(argument: Any, who: str) -> tuple[Callable[..., Any], ...]:
    """Check callbacks: a function, or a sequence of functions."""
    several = isinstance(argument, Iterable) and not callable(argument)
    functions: tuple[Any, ...] = tuple(argument) if several else (argument,)
    for function in functions:
        wrong = misfit(function, 1) if callable(function) else _of_events(function)
        if wrong or not callable(function):
            raise TypeError(
                f"{who}: callbacks must be functions of one argument, the Report of an epoch, got "
                f"{function!r}{wrong}"
            )
    return functions


def _of_events(callback: object) -> str:
    """The end of a message about a callback whose methods are called at events, else ""."""
    events = [name for name in dir(callback) if name.startswith("on_")]
    if not events:
        return ""
    return (
        f"; in the place of {', '.join(events[:3])} write a function: def log(report): "
        "print(report.epoch, report.loss); see 'How do I show progress, and log a fit?'"
    )


def validation_pair(argument: object, who: str) -> tuple[Any, Any, Any]:
    """Return (X, y, sample_weight or None) from validation data of two or three parts."""
    if not isinstance(argument, tuple | list) or len(argument) not in (2, 3):
        hint = f"; use validation_split={argument!r}" if isinstance(argument, float) else ""
        raise TypeError(
            f"{who}: validation_data must be (X, y) or (X, y, sample_weight), "
            f"got {type(argument).__name__}{hint}"
        )
    return (*argument, None)[:3]


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


def rates(returned: object, n_steps: int, schedule: object) -> NDArray[np.float64]:
    """Check the rates that a learning-rate schedule returned; return them as float64."""
    try:
        array = np.asarray(returned, np.float64)
        good = array.shape == (n_steps,) and np.isfinite(array).all() and (array >= 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"learning-rate schedule {schedule!r} must return {n_steps} finite rates of 0 or more, "
            f"got {returned!r}"
        )
    return array


BALANCED = "balanced"


def class_weights(
    class_weight: object, y: Any, sample_weight: Any, accepted: str, n_outputs: int, who: str
) -> NDArray[np.float64]:
    """Return the weights of rows, shape (n_rows,): of the row's class, times `sample_weight`.

    `accepted` is the word for the targets that the loss accepts, `Loss.targets`.

    Raises
    ------
    TypeError, ValueError
        If the weights are no mapping from classes to numbers of 0 or more nor "balanced", or y has
        no classes.
    """
    if not isinstance(class_weight, Mapping) and class_weight != BALANCED:
        kind = ValueError if isinstance(class_weight, str) else TypeError
        raise kind(
            f"{who}: class_weight must be 'balanced', or a mapping of classes to numbers, such as "
            f"{{0: 1.0, 1: 5.0}}, got {class_weight!r}"
        )
    if accepted != "classes" and (accepted, n_outputs) != ("unit", 1):
        raise ValueError(
            f"{who}: class_weight needs a loss of classes, such as 'cross_entropy', or "
            "'binary_cross_entropy' with one output; for other targets use sample_weight"
        )
    labels = _labels(y, who)
    n_classes = n_outputs if accepted == "classes" else 2
    rows = _of_rows(class_weight, labels, n_classes, who)
    if sample_weight is None:
        return rows
    return rows * vector(sample_weight, len(rows), np.dtype(np.float64), "sample_weight", who)


def balanced(counts: Mapping[int, int]) -> dict[int, float]:
    """Return the "balanced" weight of each class, from its number of rows."""
    total = sum(counts.values())
    return {label: total / (len(counts) * n) for label, n in counts.items()}


def class_counts(targets: Iterable[Any], who: str) -> Counter[int]:
    """Return the number of rows of each class, of y in parts.

    Raises
    ------
    TypeError, ValueError
        If y has no classes.
    """
    counts = Counter[int]()
    for y in targets:
        present, n = np.unique(_labels(y, who), return_counts=True)
        counts.update(dict(zip(present.tolist(), n.tolist(), strict=True)))
    return counts


def _labels(y: Any, who: str) -> NDArray[np.int64]:
    """Return the class of each row, from labels or one-hot rows."""
    if hasattr(y, "__cuda_array_interface__"):
        raise TypeError(f"{who}: class_weight needs y in the memory of the host, not of the GPU")
    numbers = frames.numbers_of(y, None, who, "y")
    table = np.asarray(y) if numbers is None else numbers
    if table.dtype.kind not in "fiub" or table.ndim not in (1, 2):
        raise TypeError(
            f"{who}: class_weight needs y of class labels, or of one-hot rows, got dtype "
            f"{table.dtype} and shape {table.shape}"
        )
    columns = table.reshape(len(table), -1)
    if columns.shape[1] > 1:
        labels: Any = columns.argmax(axis=1)
        exact = np.array_equal(columns, np.eye(columns.shape[1])[labels])
    else:
        labels = columns[:, 0]
        exact = bool(np.isfinite(labels).all()) and bool((labels == np.round(labels)).all())
    if not exact:
        raise ValueError(
            f"{who}: class_weight needs class labels or one-hot rows, but y has rows of "
            "probabilities; for those use sample_weight"
        )
    return np.asarray(labels, np.int64)


def _of_rows(
    class_weight: Any, labels: NDArray[np.int64], n_classes: int, who: str
) -> NDArray[np.float64]:
    present, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if class_weight == BALANCED:
        of_classes = len(labels) / (len(present) * counts)
    else:
        numbers = {
            _class(key, n_classes, who): scalars.non_negative(who, f"class_weight[{key!r}]", value)
            for key, value in class_weight.items()
        }
        of_classes = np.array([numbers.get(int(label), 1.0) for label in present])
    return np.asarray(of_classes[place.reshape(-1)], np.float64)


def _class(key: Any, n_classes: int, who: str) -> int:
    whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if not whole or not 0 <= key < n_classes:
        raise ValueError(
            f"{who}: the keys of class_weight must be class labels, integers from 0 to "
            f"{n_classes - 1}, got {key!r}"
        )
    return int(key)
