"""Settings of a fit that decide how its source is read."""

from dataclasses import dataclass
from typing import Any

from fastmlp._process import memory
from fastmlp.validation import scalars

# A buffer has so many batches at least.
LEAST_BATCHES = 16
# Where the memory that is available is not known.
DEFAULT_BYTES = 1 << 30


@dataclass(frozen=True)
class Reading:
    """The settings of a fit that decide how its source is read.

    Attributes
    ----------
    buffer_rows : rows to hold in memory and to mix; None: those that an eighth of the memory holds
    shuffle : bool, mix blocks and rows
    steps_per_epoch : steps after which an epoch ends; None: at the end of the source
    class_weight : mapping of classes to numbers, or None
    validation_split : must be None
    target : the columns of y, where the source is files or a table
    """

    epochs: int
    batch_size: int
    shuffle: bool
    buffer_rows: int | None = None
    steps_per_epoch: int | None = None
    class_weight: Any = None
    validation_split: Any = None
    target: Any = None

    @property
    def rows_per_epoch(self) -> int | None:
        """The rows after which an epoch ends; None: at the end of the source."""
        steps = self.steps_per_epoch
        return None if steps is None else int(steps) * self.batch_size

    def rows_of_a_buffer(self, n_rows: int | None, row_bytes: int, who: str) -> int:
        """Return the rows of a buffer: all of an epoch, or a multiple of the batch size.

        Parameters
        ----------
        n_rows : int, of an epoch, or None if that is not known

        Raises
        ------
        TypeError, ValueError
            If a setting has a wrong type or value.
        """
        buffer_rows, batch = self.buffer_rows, self.batch_size
        least = LEAST_BATCHES * batch
        if buffer_rows is not None:
            most = scalars.positive_integer(who, "buffer_rows", buffer_rows)
        else:
            available = memory.available()
            n_bytes = DEFAULT_BYTES if available is None else available // 8
            most = max(least, n_bytes // row_bytes)
        if n_rows is not None and n_rows <= most:
            return n_rows
        if most < least:
            raise ValueError(
                f"{who}: buffer_rows must be {LEAST_BATCHES} times the batch size or more, "
                f"{least}, got {buffer_rows}"
            )
        return most // batch * batch
