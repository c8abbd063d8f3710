"""Memory maps that are passed as arrays: large ones are read in blocks."""

from typing import Any

import numpy as np

from fastmlp._process import memory
from fastmlp._process.warnings import warn
from fastmlp.data.blocks import Blocks


def in_blocks(X: Any, y: Any, sample_weight: Any, who: str) -> tuple[Any, Any, Any]:
    """Return blocks in the place of a memory map of more than half the memory that is available.

    Rows in random order would be a fault of a page each, where the file is not in memory.
    """
    if not isinstance(X, np.memmap) or y is None or X.ndim != 2 or X.nbytes <= memory.SMALL:
        return X, y, sample_weight
    available = memory.available()
    if available is None or X.nbytes <= available // 2:
        return X, y, sample_weight
    warn(
        f"{who}: X is a memory map of {memory.readable(X.nbytes)}, and "
        f"{memory.readable(available)} of memory are available: it is read in blocks, whose rows "
        "are mixed in buffers; pass Blocks.from_memmap(X, y) to choose them",
        UserWarning,
    )
    return Blocks.from_memmap(X, y, sample_weight), None, None
