"""Rows of a table for the nets of a pack: folds, strips that are predicted at once, inputs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.task_pool import Pool, Task
from fastmlp._process.warnings import warn
from fastmlp.backends.devices import n_threads_of
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.schema import Values
from fastmlp.validation.expanded import Expanded, trusted

Array = NDArray[Any]
# The places of the rows to train on, and of those to validate on.
Fold = tuple[Array, Array]


def folds_of(y: Array, n_folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the number of each row's fold, shape (n_rows,).

    Rows are dealt out in the order of their targets, equal ones at random: each fold has each class
    as often as any other, but for one row, and numbers from all over their range.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1, 1])
    >>> folds = folds_of(y, 2, np.random.default_rng(0))
    >>> [np.bincount(y[folds == k]).tolist() for k in range(2)]
    [[2, 1], [2, 1]]
    """
    shuffled = generator.permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = np.empty(len(y), np.int64)
    folds[order] = np.arange(len(y)) % n_folds
    return folds


def drawn(y: Array, n_folds: int, seed: int) -> list[Fold]:
    """Return the folds of a table, at most one for each row."""
    n = min(n_folds, len(y))
    folds = folds_of(y, n, np.random.default_rng([seed, n]))
    return [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(n)]


def validated(folds: Sequence[Fold]) -> Array:
    """Return the places of the rows that some fold validates on, in their order."""
    return np.sort(np.concatenate([second for _, second in folds]))


Result = TypeVar("Result")
# Most rows of a strip. Its call of a net takes 0.1 ms before and after the arithmetic: 8192 ->
# 32768, 0.89 to 0.92 of the time (100,000 rows of 8 or 20 numbers, 6 nets, 1 thread).
CHUNK = 32768
# Most numbers of a table in a strip that is longer than `ALONE`: encoded they are twice as many.
NUMBERS = 1 << 20
# Most rows that one thread predicts alone; strips for several have half as many at least.
ALONE = 8192


def in_strips(n_rows: int, do: Callable[[slice], Result], n_columns: int = 1) -> list[Result]:
    """The results of a function, strip by strip of a table's rows in order; of one strip at least.

    Strips run on threads side by side: a team of threads for each net would meet at its end.
    """
    if n_rows <= min(ALONE, CHUNK):
        return [do(slice(n_rows))]
    most = min(CHUNK, max(ALONE, NUMBERS // max(n_columns, 1)))
    n_threads = n_threads_of(None)
    strips, pool = _strips(n_rows, most, n_threads), Pool(n_threads)
    ended: list[Any] = pool.run([Task(1, partial(do, strip)) for strip in strips], "")
    if pool.interrupted:
        raise KeyboardInterrupt
    for outcome in ended:
        for message, category in outcome.warnings:
            warn(message, category)
    return [outcome.result for outcome in ended]


def _strips(n_rows: int, most: int, n_threads: int) -> Iterator[slice]:
    """Yield several strips that are about equal, as many for each thread."""
    n = -(-n_rows // most)
    fewest = min(ALONE, CHUNK) // 2
    n = max(n, min(-(-n // n_threads) * n_threads, n_rows // fewest))
    return (slice(i * n_rows // n, (i + 1) * n_rows // n) for i in range(n))


Inputs = NDArray[Any] | Expanded
# Of fewer rows a pack predicts arrays in less time: 1 row in 0.14 ms for 0.73, 400 in 1.9 for 2.1.
# Nets of layers of 64 train on rows in short in 0.3 to 1.0 of the time; a linear one takes 1.5
# times as long, a tenth of theirs: not worth both.
FEWEST_ROWS = 500


def inputs_of(encoding: Encoding, values: Values) -> Inputs:
    """Return the inputs of rows to predict."""
    if len(values.numbers) < FEWEST_ROWS:
        return encoding.transform(values)
    return shortest(encoding.expanded(values))


def joined(first: Expanded, second: Expanded) -> Inputs:
    """Return the inputs of the rows of both."""
    values = np.concatenate([first.values, second.values])
    return shortest(trusted(values, first.kind))


def shortest(rows: Expanded) -> Inputs:
    """Rows in short, or as an array where no column has pieces or levels."""
    return rows if rows.pieces or rows.levels else rows.values
