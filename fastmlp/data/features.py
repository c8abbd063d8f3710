"""Blocks of X: of a source, as `fit` takes it, or rows in memory as one block."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.data.sources import Piece, is_source, opened


def blocks_of(given: Any, who: str) -> Iterator[Piece]:
    """Yield X of each block of rows.

    Parameters
    ----------
    given : one of
        - a source, of blocks of (X, ...) or of X
        - a list of such blocks
        - rows in memory: an array, a list of rows, a frame
    """
    if is_source(given):
        pieces = opened(given, who).blocks(0, mixed=False)
    elif isinstance(given, list | tuple) and _is_block(given[0] if given else None):
        pieces = (Piece(f"block {i}", None, block) for i, block in enumerate(given))
    else:
        yield Piece("", None, given)
        return
    for piece in pieces:
        content = piece.content
        yield piece._replace(content=content[0] if isinstance(content, tuple) else content)


def _is_block(given: Any) -> bool:
    """Return True for a block of rows, False for one row."""
    first = given[0] if isinstance(given, tuple) and given else given
    return not isinstance(first, list | tuple) and np.ndim(first) == 2
