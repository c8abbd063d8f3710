"""Files and queries as tables in memory, if they fit there with a fit of them."""

from typing import Any

from fastmlp._process import memory
from fastmlp.data.columns import require_target
from fastmlp.tabular.batches import Batches

# A fit grew by 4 to 7 bytes for each byte of the columns, 300,000 rows of 20 and of 10 numbers.
TIMES = 16
LARGER = "MLPClassifier and MLPRegressor with target= read larger ones in parts, and so does the "
LARGER += "command fastmlp train --model plain"


class TooLarge(Exception):
    """A table that does not fit into memory with its inputs; the message says how large it is."""


class Room:
    """How many bytes of columns still fit; None: it is not known."""

    def __init__(self, available: int | None) -> None:
        self._left = None if available is None else available // TIMES
        self._most = self._left

    def take(self, n_bytes: int) -> None:
        """Take bytes of it.

        Raises
        ------
        TooLarge
            If they do not fit.
        """
        if self._left is None or self._most is None:
            return
        self._left -= n_bytes
        if self._left < 0:
            raise TooLarge(f"more than {memory.readable(self._most)} of columns")


def read(given: Any, beside: list[str], who: str, target: str | None) -> Any:
    """Return files, or what a query has, as a table of Arrow.

    Parameters
    ----------
    given : what `source_of` takes
    beside : names of columns that are no inputs: integers in CSV stay what they are
    target : the one of them in which no value may be missing

    Raises
    ------
    MemoryError
        If the columns take more than a 16th of the memory that is free.
    TypeError, ValueError, ImportError, OSError
        If there are no rows or no such columns, or they cannot be read.
    """
    import pyarrow

    room, rows = Room(memory.available()), list[Any]()
    try:
        for batch in Batches(given, who, None, beside):
            if target is not None:
                require_target(batch.column(target), target, batch.where)
            room.take(batch.rows.nbytes)
            rows.append(pyarrow.Table.from_batches([batch.rows]))
    except TooLarge as error:
        told = f"the table has {error}, too many to train on in memory"
        raise MemoryError(f"{who}: {told}; {LARGER}") from None
    if not rows:
        raise ValueError(f"{who}: there are no rows")
    return pyarrow.concat_tables(rows, promote_options="permissive")
