"""Rows to predict, a batch at a time, of all that a model may be asked about."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastmlp import validation
from fastmlp.data.arrow import imported, instead_of, is_lazy, is_table, no_table, paths_of
from fastmlp.data.columns import names_in
from fastmlp.data.csv_files import Chosen
from fastmlp.data.features import blocks_of
from fastmlp.data.records import records_of
from fastmlp.data.sources import is_source
from fastmlp.validation import frames
from fastmlp.validation.suggestions import listed

T = TypeVar("T")
# The most rows of a batch, where nothing else is said.
ROWS = 65536
# Libraries whose tables in memory have slices of rows.
FRAMES = ("pandas", "polars", "pyarrow")


class Batch(NamedTuple):
    """Rows to predict.

    Attributes
    ----------
    rows : array, frame or table of Arrow's
    where : what errors call them; "" for rows in memory
    kept : record batch of the columns to keep, or None
    """

    rows: Any
    where: str
    kept: Any = None


def names_of_model(model: Any) -> validation.Names:
    """Return the names of the columns that a model was trained on, or None."""
    for attribute in ("feature_names", "feature_names_in_"):
        found = getattr(model, attribute, None)
        if found is not None:
            return tuple(found)
    return None


def batches_of(given: Any, names: validation.Names, rows: int, who: str) -> Iterator[Batch]:
    """Yield the rows of X in their order, at most so many at a time.

    Parameters
    ----------
    given : array, frame, table, source as `fit` takes it, path or list of paths
    names : names of the columns of X, where they are known
    rows : int of 1 or more
    """
    if instead_of(given):
        raise no_table(given, "expected rows, files or a table,", who)
    streamed = is_table(given) and not _is_in_memory(given)
    if paths_of(given) is not None or streamed or is_lazy(given):
        yield from named_batches(given, Choice(names, ()), rows, who)
        return
    its = getattr(given, "feature_names", None) if is_source(given) else None
    order = None if names is None or its is None else _order(tuple(its), names, who)
    for piece in blocks_of(given, who):
        content = validation.named(piece.content, names, who)[0]
        for part in _slices(content, rows):
            yield Batch(part if order is None else np.take(part, order, axis=1), piece.name)


def _order(its: tuple[str, ...], names: tuple[str, ...], who: str) -> list[int] | None:
    """Return the places of the model's columns in those of a source; None: they are the same."""
    missing = [repr(name) for name in names if name not in its]
    if missing:
        raise ValueError(
            f"{who}: the source lacks the columns {listed(missing)}; it has "
            f"{listed(list(map(repr, its)))}"
        )
    return None if its == names else [its.index(name) for name in names]


class Choice:
    """Chooses the columns to read of files or of a table: those of X, and those to keep.

    Parameters
    ----------
    names : of the columns of X; None: all but those to keep, in their order
    keep : names of the columns to keep
    texts : columns that are texts in CSV, whatever they look like
    nulls : bool, texts of CSV such as NA are missing; else they are passed on as they are
    """

    def __init__(
        self,
        names: validation.Names,
        keep: Sequence[str],
        texts: Collection[str] = (),
        *,
        nulls: bool = False,
    ) -> None:
        self.features, self.keep, self._texts = list(names or ()), list(keep), texts
        self._nulls = nulls

    def __call__(self, schema: Any, who: str) -> Chosen:
        """Return the columns to read of a schema.

        Raises
        ------
        ValueError
            If one is missing, or there are several of its name.
        """
        kept = names_in(self.keep, "keep", schema.names, who)
        for name in kept:
            if schema.names.count(name) > 1:
                raise ValueError(f"{who}: there are several columns of the name {name!r}")
        # Of all files; without names of features they are those of the first.
        self.features = self.features or [name for name in schema.names if name not in kept]
        validation.named(schema.empty_table(), tuple(self.features), who)
        numbers = {*self.features} - {*self._texts}
        all_names = list(dict.fromkeys([*self.features, *kept]))
        return Chosen(all_names, numbers, self._texts, nulls=self._nulls)


def named_batches(given: Any, choice: Choice, rows: int, who: str) -> Iterator[Batch]:
    """Yield the rows of files or of a table, at most so many at a time."""
    table = imported(who).Table
    for batch, where in records_of(given, choice, rows, who):
        # A table: scikit-learn finds no names in a record batch.
        X = table.from_batches([batch.select(choice.features)])
        yield Batch(X, where, batch.select(choice.keep))


def predicted(method: Callable[[Any], T], batch: Batch, *, named: bool, who: str) -> T:
    """Return what a model's method has of a batch; its errors have a note that names the rows.

    Parameters
    ----------
    named : bool, the model knows names of columns
    """
    try:
        if named or not frames.is_frame(batch.rows):
            return method(batch.rows)
        # To an estimator that knows no names they would be a warning.
        return method(frames.numbers(batch.rows, None, who, "X"))
    except (TypeError, ValueError) as error:
        if batch.where:
            error.add_note(f"in {batch.where}")
        raise


def has_names(given: Any) -> bool:
    """Return True for files, tables and frames, whose columns have names."""
    return not is_source(given) and (paths_of(given) is not None or is_table(given))


def _is_in_memory(given: Any) -> bool:
    ours = type(given).__module__.split(".")[0] in FRAMES
    return ours and (hasattr(given, "iloc") or hasattr(given, "slice"))


def _slices(given: Any, rows: int) -> Iterator[Any]:
    """Yield so many rows at a time; what has no length is yielded whole: the model refuses it."""
    shape = getattr(given, "shape", None)
    n = shape[0] if shape else len(given) if hasattr(given, "__len__") else None
    if n is None:
        yield given
        return
    places = getattr(given, "iloc", given)
    for first in range(0, n, rows):
        yield places[first : first + rows]
