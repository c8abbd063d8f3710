"""Named columns of files and tables, and sources made of them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from fastmlp.data import arrow
from fastmlp.data.sources import Block, BlockWithGaps
from fastmlp.validation import Array, frames, messages
from fastmlp.validation.frames import is_lazy, is_table
from fastmlp.validation.gaps import with_nan
from fastmlp.validation.messages import suggestion


def missing_in(column: Any) -> tuple[int, int]:
    """Number of missing values of an Arrow column, including NaN, and the first row."""
    import pyarrow.compute as compute

    missing = compute.is_null(column, nan_is_null=True)
    return int(compute.sum(missing).as_py() or 0), int(
        compute.index(missing, True).as_py()
    )


def require_target(column: Any, name: str, where: arrow.Place) -> None:
    """Raise ValueError if a target is missing, with the number and the first row."""
    n, first = missing_in(column)
    if n:
        raise ValueError(f"{where}: {messages.lacking(name, n, where.row(first))}")


class NamedColumns(NamedTuple):
    """Names of the columns of rows.

    Attributes
    ----------
    target : one name, for y of shape (n_rows,), or several, for a column each
    weight : a name, or None
    """

    features: tuple[str, ...]
    target: str | tuple[str, ...]
    weight: str | None

    @property
    def names(self) -> list[str]:
        if self.weight is None:
            weights = []
        else:
            weights = [self.weight]
        return list(dict.fromkeys([*self.features, *self.targets, *weights]))

    @property
    def targets(self) -> list[str]:
        if isinstance(self.target, str):
            return [self.target]
        return list(self.target)

    @property
    def wanted(self) -> "ColumnNames":
        return ColumnNames(self.target, self.features, self.weight)

    def block(self, batch: Any, where: arrow.Place) -> Any:
        """Rows of a record batch; errors name them `where`.

        Features must be numbers without nulls. Labels in y may be texts.
        Nulls among numbers of y are NaN in a `BlockWithGaps`.
        """
        try:
            X = frames.numbers(batch.select(list(self.features)), None, where, "X")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}{messages.A_TABLE}") from None
        y = self._y(batch, where)
        gaps = self._gaps(batch, where)
        parts = [X, y]
        if self.weight is not None:
            name = "sample_weight"
            weights = frames.numbers(batch.select([self.weight]), None, where, name)
            parts.append(weights[:, 0])
        if gaps is None:
            return tuple(parts)
        return BlockWithGaps(parts, gaps)

    def _gaps(self, batch: Any, where: arrow.Place) -> ValueError | None:
        """The error of a fit that knows all targets, if a target is missing."""
        for name in self.targets:
            n, first = missing_in(batch.column(name))
            if n:
                lacking = messages.lacking(name, n, where.row(first), fits=True)
                return ValueError(f"{where}: {lacking}")
        return None

    def _y(self, batch: Any, where: arrow.Place) -> Array:
        """Targets or labels; NaN for missing numbers."""
        alone = isinstance(self.target, str)
        y = _labels(batch.column(self.target)) if alone else None
        if y is not None:
            require_target(batch.column(self.target), str(self.target), where)
            return y
        table = batch.select(self.targets)
        numbers = with_nan(table, str(where))
        if numbers is None:
            for name in self.targets:
                require_target(batch.column(name), name, where)
            numbers = frames.numbers(table, None, where, "y")
        return numbers[:, 0] if alone else numbers


class ColumnNames(NamedTuple):
    """Names of columns from the caller. Without `features`, all others are features."""

    target: Any
    features: Any = None
    weight: Any = None


def columns_of(schema: Any, column_names: ColumnNames, who: str) -> NamedColumns:
    """Columns of a table by name; each must exist once."""
    (target, features, weight), known = column_names, list(schema.names)
    several = not isinstance(target, str)
    targets = names_in(target, "target", known, who)
    if weight is None:
        weights = []
    else:
        weights = names_in(weight, "weight", known, who)
    others = [name for name in known if name not in (*targets, *weights)]
    if features is None:
        chosen = others
    else:
        chosen = names_in(features, "features", known, who)
    if not chosen:
        raise ValueError(f"{who}: there are no columns beside target={target!r}")
    within = next((name for name in chosen if name in targets), None)
    if within is not None:
        raise ValueError(
            f"{who}: the column {within!r} is the target, and among the features"
        )
    wanted_names = {*chosen, *targets, *weights}
    if twice := frames.repeated(name for name in known if name in wanted_names):
        raise ValueError(
            f"{who}: there are several columns of the name {twice}; {messages.RENAME}"
        )
    return NamedColumns(tuple(chosen), tuple(targets) if several else target, weight)


def names_in(value: Any, what: str, known: list[str], who: str) -> list[str]:
    """The names in `value`, a name or several, each one of `known`."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(one, str) for one in names
    ):
        short = names is None or isinstance(names, str | int | float | list | tuple)
        if short:
            shown = repr(value)
        else:
            shown = messages.a_kind(value)
        raise TypeError(
            f"{who}: {what} must be a column's name, or several, got {shown}"
        )
    for name in names:
        if name not in known:
            shown = ", ".join(map(repr, known[:20])) + (
                ", ..." if len(known) > 20 else ""
            )
            raise ValueError(
                f"{who}: there is no column {name!r}{suggestion(name, known)} known: "
                f"{shown}"
            )
    return list(names)


def _labels(column: Any) -> Array | None:
    """A text column as an array of objects, None for another column."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        values = column.dictionary_decode()
    else:
        values = column
    is_text = kinds.is_string(values.type) or kinds.is_large_string(values.type)
    if not (is_text or str(values.type) == "string_view"):
        return None
    texts: Array = values.to_numpy(zero_copy_only=False)
    return texts


class ParquetGroups:
    """The row groups of Parquet files."""

    noun = "row group"

    def __init__(self) -> None:
        import pyarrow.parquet

        self._open = pyarrow.parquet.ParquetFile
        self._metadata: dict[str, Any] = {}

    def sizes(self, path: str) -> tuple[Any, list[int]]:
        with self._open(path) as file:
            self._metadata[path] = metadata = file.metadata
            numbers = range(metadata.num_row_groups)
            return file.schema_arrow, [metadata.row_group(i).num_rows for i in numbers]

    def read(
        self, path: str, group: int, names: list[str], rows: int, piece: int
    ) -> Any:
        with self._open(path, metadata=self._metadata[path], pre_buffer=True) as file:
            # pyarrow's threads would compete with training.
            batches = file.iter_batches(rows, [group], names, use_threads=False)
            return next(islice(batches, piece, None))


class ArrowGroups:
    """The record batches of Arrow files, with the methods of `ParquetGroups`."""

    noun = "batch"

    def sizes(self, path: str) -> tuple[Any, list[int]]:
        with arrow.arrow_file(path, lambda _: []) as (file, _):
            numbers = range(file.num_record_batches)
            return file.schema, [file.get_batch(i).num_rows for i in numbers]

    def read(
        self, path: str, group: int, names: list[str], rows: int, piece: int
    ) -> Any:
        with arrow.arrow_file(path, lambda _: names) as (file, _):
            return file.get_batch(group).slice(piece * rows, rows)


class FileBlocks:
    """Groups of rows of files, or pieces of at most `rows` rows, as blocks."""

    def __init__(
        self,
        groups: ParquetGroups | ArrowGroups,
        paths: list[str],
        column_names: ColumnNames,
        rows: int | None,
        who: str,
    ) -> None:
        self._groups = groups
        # File, group, rows of a piece, piece, and the first row in the file.
        self._places: list[tuple[str, int, int, int, int]] = []
        sizes = list[int]()
        for path in paths:
            with arrow.naming(path):
                schema, group_rows = groups.sizes(path)
                self._columns = columns_of(schema, column_names, f"{who}: {path}")
            # Without names of features,
            # the columns of the first file are read in all files.
            column_names, before = self._columns.wanted, 0
            for group, n in enumerate(group_rows):
                most = rows or max(n, 1)
                for piece, first in enumerate(range(0, n, most)):
                    self._places.append((path, group, most, piece, before + first))
                    sizes.append(min(most, n - first))
                before += n
        self.block_sizes: tuple[int, ...] = tuple(sizes)
        self.feature_names: tuple[str, ...] = self._columns.features

    def read(self, i: int) -> Block:
        path, group, rows, piece, first = self._places[i]
        with arrow.naming(path):
            batch = self._groups.read(path, group, self._columns.names, rows, piece)
        place = arrow.Place(f"{self._groups.noun} {group} of {path}", first)
        return self._columns.block(batch, place)


class TableBlocks:
    """Slices of a table in memory as blocks."""

    def __init__(
        self, batches: list[tuple[Any, arrow.Place]], columns: NamedColumns
    ) -> None:
        self._batches = batches
        self._columns = columns
        self.feature_names: tuple[str, ...] = columns.features
        self.block_sizes: tuple[int, ...] = tuple(
            batch.num_rows for batch, _ in batches
        )

    def read(self, i: int) -> Block:
        return self._columns.block(*self._batches[i])


def table_blocks(X: Any, column_names: ColumnNames, rows: int, who: str) -> TableBlocks:
    messages.imported("pyarrow", who)
    table = arrow.reader_of_table(X, rows).read_all()
    columns = columns_of(table.schema, column_names, who)
    batches = []
    n = 0
    for batch in table.select(columns.names).to_batches(max_chunksize=rows):
        batches.append((batch, arrow.Place(f"rows {n} to {n + batch.num_rows - 1}", n)))
        n += batch.num_rows
    return TableBlocks(batches, columns)


class Passes:
    """Begins passes over the batches of X, as for `records_of`.

    `schema` has the columns of X, or None if they are known with the first batch.
    """

    def __init__(
        self, X: Any, column_names: ColumnNames, who: str, schema: Any
    ) -> None:
        self._X = X
        self._column_names = column_names
        self._who = who
        if schema is None:
            self._columns = None
        else:
            self._columns = columns_of(schema, column_names, who)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return None if self._columns is None else self._columns.features

    def _choose(self, schema: Any, who: str) -> arrow.ChosenColumns:
        if self._columns is None:
            wanted = self._column_names
        else:
            wanted = self._columns.wanted
        columns = columns_of(schema, wanted, who)
        self._columns = self._columns or columns
        return arrow.ChosenColumns(
            columns.names, columns.names, labels=columns.targets, nulls=True
        )

    def __call__(self) -> Iterator[Block]:
        for batch, where in arrow.records_of(
            self._X, self._choose, arrow.ROWS, self._who
        ):
            assert self._columns is not None
            if batch.num_rows:
                yield self._columns.block(batch, where)


class ReadOnce:
    """An iterator over the blocks of an Arrow reader."""

    instead = "pass reader.read_all(), which is a table in memory, its files,"

    def __init__(self, reader: Any, begin: Passes) -> None:
        self.kind: str = type(reader).__name__
        self._blocks = begin()
        self.feature_names: tuple[str, ...] | None = begin.feature_names

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        return next(self._blocks)


def source_of(
    X: Any, target: Any, who: str, features: Sequence[str] | None = None
) -> Any:
    """Source of files or tables, by the name or names of the target.

    Without `features`, all other columns are features.
    """
    column_names = ColumnNames(target, features)
    paths = arrow.paths_of(X)
    if paths is not None:
        return _of_paths(arrow.expanded(paths, who), column_names, who)
    if is_lazy(X) or not is_table(X):
        raise arrow.no_table(X, "target= goes with paths, a table or a frame;", who)
    in_memory = type(X).__module__.split(".")[0] in ("pandas", "polars")
    if in_memory or isinstance(X, messages.imported("pyarrow", who).Table):
        return table_blocks(X, column_names, arrow.ROWS, who)
    # A relation of DuckDB lacks a schema.
    schema = getattr(X, "schema", None)
    is_known = isinstance(getattr(schema, "names", None), list)
    begin = Passes(X, column_names, who, schema if is_known else None)
    if hasattr(X, "read_next_batch"):
        return ReadOnce(X, begin)
    return begin


def _of_paths(paths: list[str], column_names: ColumnNames, who: str) -> Any:
    by_kind: dict[str | None, str] = {}
    for path in paths:
        by_kind.setdefault(arrow.ending_of(path), path)
    if len(by_kind) > 1 or None in by_kind:
        shown = ", ".join(Path(path).name or repr(path) for path in by_kind.values())
        raise ValueError(
            f"{who}: files must be of one kind of {', '.join(arrow.FILE_ENDINGS)}, got {shown}"
        )
    (end,) = by_kind
    messages.imported("pyarrow", who)
    if end == ".parquet":
        return FileBlocks(ParquetGroups(), paths, column_names, None, who)
    if end in arrow.ARROW_FILES:
        return FileBlocks(ArrowGroups(), paths, column_names, arrow.ROWS, who)
    with arrow.naming(paths[0]):
        return Passes(paths, column_names, who, arrow.csv_schema(paths[0], who))
