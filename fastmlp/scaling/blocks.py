"""Blocks of rows from what a user gives: an array, a frame, a stream, or blocks in storage."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def blocks_of(given: Any, who: str) -> Iterator[Any]:
    """Yield X of each block of rows.

    Parameters
    ----------
    given : one of
        - an array, a list of rows, or a frame: one block
        - an object with `block_sizes` and ``read(i)``, which returns (X, ...) or X
        - a function of no arguments, or an iterable, that gives (X, ...) or X for each block

    Raises
    ------
    TypeError
        If it is none of them.
    """
    if hasattr(given, "block_sizes") and hasattr(given, "read"):
        blocks: Iterable[Any] = (given.read(i) for i in range(len(given.block_sizes)))
    elif callable(given):
        blocks = given()
    elif _is_stream(given):
        blocks = given
    else:
        blocks = [given]
    if not isinstance(blocks, Iterable):
        raise TypeError(f"{who}: the function must return an iterator, got {blocks!r}")
    for block in blocks:
        yield block[0] if isinstance(block, tuple) else block


def _is_stream(given: Any) -> bool:
    """Return True for an iterable of blocks; rows, as a list of lists, are no blocks."""
    if hasattr(given, "__next__"):
        return True
    arrays = ("__array__", "__arrow_c_stream__", "__cuda_array_interface__", "toarray")
    if not isinstance(given, Iterable) or any(hasattr(given, name) for name in arrays):
        return False
    if not isinstance(given, list | tuple):
        return True
    first: Any = given[0] if given else None
    first = first[0] if isinstance(first, tuple) and first else first
    return not isinstance(first, list | tuple) and np.ndim(first) == 2
