"""The rows that each of several ranks has of each batch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def places_of(n_rows: Sequence[int], batch_size: int) -> NDArray[np.int64]:
    """Return where the rows of each batch begin in the order of each rank.

    Each batch has a share of each rank's rows, in proportion to how many it has. All batches have
    `batch_size` rows but the last one.

    Parameters
    ----------
    n_rows : of each rank
    batch_size : int, of all ranks together

    Returns
    -------
    int64, shape (n_ranks, n_batches + 1)

    Examples
    --------
    >>> places_of([4, 0, 2], 3)
    array([[0, 2, 4],
           [0, 0, 0],
           [0, 1, 2]])
    """
    total = sum(n_rows)
    ends = np.arange(-(-total // batch_size) + 1, dtype=np.int64) * batch_size
    # One rank after the other takes its part of what those before it have left. A part grows by
    # 0 or 1 with each row, and so does what is left.
    left, places = np.minimum(ends, total), []
    for n in n_rows:
        places.append(left * n // max(total, 1))
        left, total = left - places[-1], total - n
    return np.stack(places)
