"""Record batches of files and tables, pass by pass, and as one table in memory, if they fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory
from fastmlp.data.arrow import source_of
from fastmlp.data.batches import ROWS, Choice, records_of
from fastmlp.data.blocks import Blocks
from fastmlp.data.columns import Place, require_target
from fastmlp.data.sources import has_blocks
from fastmlp.validation.suggestions import listed, suggestion

Array = NDArray[Any]
T = TypeVar("T")
# Numbers of rows, by the number of their batch.
Places = dict[int, list[int]]
# A fit grew by 4 to 7 bytes for each byte of the columns, 300,000 rows of 20 and of 10 numbers.
TIMES = 16
LARGER = "MLPClassifier and MLPRegressor with target= read larger ones in parts, and so does the "
LARGER += "command fastmlp train --model plain"


class TableBatch(NamedTuple):
    """A record batch, its number in a pass, and what errors call it."""

    number: int
    rows: Any
    where: str

    def column(self, name: str) -> Any:
        """Return a column of Arrow's."""
        return self.rows.column(name)

    def part(self, mask: Array | None) -> "TableBatch":
        """Return some of the rows, by a mask of shape (n_rows,)."""
        if mask is None:
            return self
        import pyarrow

        return self._replace(rows=self.rows.filter(pyarrow.array(mask)))


class ChosenBatches:
    """Record batches of files or of a table, in their order; each iteration is a pass.

    Parameters
    ----------
    data : what `records_of` takes
    names : of the columns that are inputs
    texts : those of them that are texts in CSV, whatever they look like
    others : names of columns to read that are no inputs
    """

    def __init__(
        self,
        data: Any,
        names: Sequence[str],
        texts: Sequence[str],
        who: str,
        others: Sequence[str] = (),
    ) -> None:
        self._given, self._who = data, who
        self._choice = Choice(tuple(names), others, texts, nulls=True)

    def __iter__(self) -> Iterator[TableBatch]:
        each = records_of(self._given, self._choice, ROWS, self._who)
        for i, (rows, place) in enumerate(each):
            if rows.num_rows:
                yield TableBatch(i, rows, place.by(self._who))


class TrainingBatches:
    """Record batches of files or of a table to train on; each iteration is a pass.

    Parameters
    ----------
    data : what `source_of` takes
    inputs : columns to read; None: all but the others
    others : columns to read that are no inputs: integers in CSV stay what they are
    """

    def __init__(
        self,
        data: Any,
        who: str,
        inputs: Sequence[str] | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self._who = who
        if inputs is None:
            self._source = source_of(data, list(others), who, encoder=_with_place)
        else:
            beside = [name for name in dict.fromkeys(others) if name not in inputs]
            self._source = source_of(data, beside, who, list(inputs), _with_place)
        known = getattr(self._source, "feature_names", None)
        self.names: tuple[str, ...] = () if known is None else tuple(known)

    def __iter__(self) -> Iterator[TableBatch]:
        source = self._source
        if has_blocks(source):
            pairs = (source.read(i) for i in range(len(source.block_sizes)))
        else:
            pairs = iter(source() if callable(source) else source)
        for i, (rows, place) in enumerate(pairs):
            if rows.num_rows:
                yield TableBatch(i, rows, place.by(self._who))

    def part(
        self, encode: Callable[[TableBatch], Any], mask: "Mask", sizes: dict[int, int], seed: int
    ) -> Any:
        """Return a source of encoded rows: those that a mask has of each batch.

        Parameters
        ----------
        sizes : how many rows each batch has of the part, by its number
        """
        source = self._source
        if not has_blocks(source):
            return lambda: (made(encode, batch, mask(batch)) for batch in self)

        def read(i: int) -> Any:
            rows, place = source.read(i)
            batch = TableBatch(i, rows, place.by(self._who))
            return made(encode, batch, mask(batch))

        of_all = tuple(sizes.get(i, 0) for i in range(len(source.block_sizes)))
        return Blocks(of_all, read, seed)


Mask = Callable[[TableBatch], Array | None]


def made(make: Callable[[TableBatch], T], batch: TableBatch, mask: Array | None) -> T:
    """Return the result for a part of a batch; errors count rows of the batch, not of the part."""
    try:
        return make(batch.part(mask))
    except ValueError:
        make(batch)
        raise


def drawn(fraction: float, seed: int, kept: Places, *, held_out: bool) -> Mask:
    """Return the mask of rows that are held out, a fraction of all drawn at random, or of the
    others; `kept` are rows that are never held out."""

    def mask(batch: TableBatch) -> Array:
        numbers = np.random.default_rng([seed, batch.number]).random(batch.rows.num_rows)
        out = numbers < fraction
        out[kept.get(batch.number, [])] = False
        return out if held_out else ~out

    return mask


def everything(batch: TableBatch) -> None:
    """Return the mask of all rows."""


def require(names: Sequence[str], known: Sequence[str], who: str) -> None:
    """Check that there are columns of these names.

    Raises
    ------
    ValueError
        If there are not; the message has all that are missing.
    """
    missing = [name for name in names if name not in known]
    if missing:
        others = [name for name in known if name not in names]
        suggested = [f"{name!r}{suggestion(name, others).rstrip(';')}" for name in missing]
        one, several = "there is no column", f"{len(missing)} columns are missing:"
        lacks = f"{one if len(missing) == 1 else several} {listed(suggested)}"
        raise ValueError(f"{who}: {lacks}; known: {listed([*map(repr, known)], 20)}")


def whole(table: Any) -> Any:
    """Return a table of Arrow as one record batch."""
    import pyarrow

    columns = [column.combine_chunks() for column in table.columns]
    return pyarrow.record_batch(columns, schema=table.schema)


def _with_place(batch: Any, place: Place) -> tuple[Any, Place]:
    return batch, place


class TooLarge(Exception):
    """A table that does not fit into memory with its inputs; the message says how large it is."""


class MemoryBudget:
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


def held(batches: Iterable[TableBatch], room: MemoryBudget) -> list[TableBatch]:
    """Return the batches of a pass, in memory.

    Raises
    ------
    TooLarge
        If they do not fit there.
    """
    kept = list[TableBatch]()
    for batch in batches:
        room.take(batch.rows.nbytes)
        kept.append(batch)
    return kept


def read(data: Any, beside: list[str], who: str, target: str | None) -> Any:
    """Return files, or what a query has, as a table of Arrow.

    Parameters
    ----------
    data : what `source_of` takes
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

    room, rows = MemoryBudget(memory.available()), list[Any]()
    try:
        for batch in TrainingBatches(data, who, None, beside):
            if target is not None:
                require_target(batch.column(target), target, batch.where)
            room.take(batch.rows.nbytes)
            rows.append(pyarrow.Table.from_batches([batch.rows]))
    except TooLarge as error:
        message = f"the table has {error}, too many to train on in memory"
        raise MemoryError(f"{who}: {message}; {LARGER}") from None
    if not rows:
        raise ValueError(f"{who}: there are no rows")
    return pyarrow.concat_tables(rows, promote_options="permissive")
