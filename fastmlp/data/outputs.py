"""Rows to predict, batch by batch, from files,
tables, sources and memory; their predictions.

Predictions of files and tables leave as a stream of Arrow or a file.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import memory, warn
from fastmlp.data import arrow
from fastmlp.data.arrow import ARROW_FILES, ROWS
from fastmlp.data.columns import names_in, require_target
from fastmlp.data.sources import Piece, Source, is_source, opened
from fastmlp.network import spec
from fastmlp.network.spec import ComputeDTypes
from fastmlp.serialization import files
from fastmlp.validation import Array, frames, messages, scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.frames import is_lazy, is_table
from fastmlp.validation.messages import listed

T = TypeVar("T")
# Libraries whose tables in memory can be sliced by rows.
FRAMES = ("pandas", "polars", "pyarrow")


def blocks_of(X: Any, who: str) -> Iterator[Piece]:
    """Yield X of each block of rows.

    X is a source, of blocks of (X, ...) or of X; a list of such blocks;
    or rows in memory: an array, a list of rows, a frame.
    """
    if is_source(X):
        pieces = opened(X, who).blocks(0, mixed=False)
    elif isinstance(X, list | tuple) and _is_block(X[0] if X else None):
        pieces = (Piece(f"block {i}", None, block) for i, block in enumerate(X))
    else:
        yield Piece("", None, X)
        return
    for piece in pieces:
        content = piece.content
        yield piece._replace(
            content=content[0] if isinstance(content, tuple) else content
        )


def _is_block(value: Any) -> bool:
    first = value[0] if isinstance(value, tuple) and value else value
    return not isinstance(first, list | tuple) and np.ndim(first) == 2


class PredictBatch(NamedTuple):
    """Rows to predict.

    Attributes
    ----------
    rows : array, frame or Arrow table
    where : name of the rows in errors; "" for rows in memory
    kept : record batch of the columns to keep, or None
    """

    rows: Any
    where: arrow.Place
    kept: Any = None


def names_of_model(model: Any) -> frames.Names:
    """Names of the columns a model was trained on, or None."""
    for attribute in ("feature_names", "_read_names", "feature_names_in_"):
        names = getattr(model, attribute, None)
        if names is not None:
            return tuple(names)
    return None


def batches_of(
    X: Any, names: frames.Names, rows: int, who: str, texts: Collection[str] = ()
) -> Iterator[PredictBatch]:
    """Yield the rows of X in order, in batches of at most `rows`.

    Parameters
    ----------
    X : array, frame, table, source as `fit` takes it, path or list of paths
    names : of the columns of X, if known
    rows : int of 1 or more
    texts : columns read as texts from CSV
    """
    if arrow.instead_of(X):
        raise arrow.no_table(X, "expected rows, files or a table,", who)
    streamed = is_table(X) and not _is_in_memory(X)
    if arrow.paths_of(X) is not None or streamed or is_lazy(X):
        yield from named_batches(X, Choice(names, (), texts), rows, who)
        return
    if is_source(X):
        source_names = getattr(X, "feature_names", None)
    else:
        source_names = None
    if names is None or source_names is None:
        order = None
    else:
        order = _order(tuple(source_names), names, who)
    for piece in blocks_of(X, who):
        content = frames.selected(piece.content, names, who)
        for part in _slices(content, rows):
            ordered = part if order is None else np.take(part, order, axis=1)
            yield PredictBatch(ordered, arrow.Place(piece.name))


def _order(
    source_names: tuple[str, ...], names: tuple[str, ...], who: str
) -> list[int] | None:
    """Indices of the model's columns in a source, None for equal order."""
    missing = [repr(name) for name in names if name not in source_names]
    if missing:
        raise ValueError(
            f"{who}: the source lacks the columns {listed(missing)}; it has "
            f"{listed(list(map(repr, source_names)))}"
        )
    if source_names == names:
        return None
    return [source_names.index(name) for name in names]


class Choice:
    """The columns to read of files or of a table.

    Parameters
    ----------
    names : of columns of X; None: all but `keep` and `ignore`, in order
    keep : columns to pass on with the predictions
    texts : columns read as texts from CSV
    nulls : True if texts of CSV such as NA are missing, False if they remain texts
    """

    def __init__(
        self,
        names: frames.Names,
        keep: Sequence[str],
        texts: Collection[str] = (),
        *,
        nulls: bool = False,
        ignore: Sequence[str] = (),
    ) -> None:
        self.features: list[str] = list(names or ())
        self.keep: list[str] = list(keep)
        self._texts = texts
        self._nulls = nulls
        self._ignore = ignore

    def __call__(self, schema: Any, who: str) -> arrow.ChosenColumns:
        """Return the columns to read, which must exist once each."""
        kept = names_in(self.keep, "keep", schema.names, who)
        names_in([*self._ignore], "ignore", schema.names, who)
        for name in kept:
            if schema.names.count(name) > 1:
                raise ValueError(
                    f"{who}: there are several columns of the name {name!r}"
                )
        # Without names, the columns of the first file are read in all files.
        out = {*kept, *self._ignore}
        self.features = self.features or [
            name for name in schema.names if name not in out
        ]
        frames.selected(schema.empty_table(), tuple(self.features), who)
        numbers = {*self.features} - {*self._texts}
        all_names = list(dict.fromkeys([*self.features, *kept]))
        return arrow.ChosenColumns(all_names, numbers, self._texts, nulls=self._nulls)


def named_batches(
    data: Any, choice: Choice, rows: int, who: str
) -> Iterator[PredictBatch]:
    table = messages.imported("pyarrow", who).Table
    for batch, where in arrow.records_of(data, choice, rows, who):
        # scikit-learn finds names in a table, but not in a record batch.
        X = table.from_batches([batch.select(choice.features)])
        yield PredictBatch(X, where, batch.select(choice.keep))


def predicted(
    method: Callable[[Any], T], batch: PredictBatch, *, named: bool, who: str
) -> T:
    """The result of a model's method for a batch; notes of errors name the rows.

    `named` is True if the model knows names of columns.
    """
    try:
        if named or not frames.is_frame(batch.rows):
            return method(batch.rows)
        # An estimator without names would warn of names.
        return method(frames.numbers(batch.rows, None, who, "X"))
    except (TypeError, ValueError) as error:
        if batch.where:
            error.add_note(f"in {batch.where}")
        raise


def has_names(X: Any) -> bool:
    return not is_source(X) and (arrow.paths_of(X) is not None or is_table(X))


def _is_in_memory(X: Any) -> bool:
    ours = type(X).__module__.split(".")[0] in FRAMES
    return ours and (hasattr(X, "iloc") or hasattr(X, "slice"))


def _slices(X: Any, rows: int) -> Iterator[Any]:
    """Yield batches of rows;
    an object without a length is left to the model to refuse.
    """
    shape = getattr(X, "shape", None)
    if shape:
        n = shape[0]
    elif hasattr(X, "__len__"):
        n = len(X)
    else:
        n = None
    if n is None:
        yield X
        return
    places = getattr(X, "iloc", X)
    for first in range(0, n, rows):
        yield places[first : first + rows]


# A fit grew by 4 to 7 bytes for each byte of the columns,
# 300,000 rows of 20 and of 10 numbers.
TIMES = 16


def read_table(
    data: Any,
    who: str,
    seed: int,
    *,
    columns: Sequence[str] = (),
    others: Sequence[str] = (),
    ignore: Sequence[str] = (),
    texts: Collection[str] = (),
    target: str | None = None,
    verb: str = "learned from",
    arrays: Sequence[str] = (),
) -> Any:
    """Return files, or the rows of a query, as a table of Arrow.

    Columns that take more than a 16th of the free memory are sampled, with a warning.
    The seed gives each row a number; rows below a share are kept, and the share is
    halved whenever they do not fit. One pass suffices, without a row twice in memory.

    Parameters
    ----------
    data : path or list of paths, table, frame, reader, relation or data set
    columns : columns to read; empty: all but the others and `ignore`
    others : columns to read beside these
    texts : columns read as texts from CSV
    target : column in which no value may be missing
    verb : use of the rows, in the warning
    arrays : names of arrays with a value for each row, which forbid a sample
    """
    import pyarrow

    choose = Choice(tuple(columns) or None, others, texts, nulls=True, ignore=ignore)
    free = memory.available()
    if free is None:
        most = float("inf")
    else:
        most = free // TIMES
    kept = list[tuple[Any, Any]]()
    share = 1.0
    n_rows = 0
    n_bytes = 0
    for number, (rows, place) in enumerate(
        arrow.records_of(data, choose, arrow.ROWS, who)
    ):
        if not rows.num_rows:
            continue
        where = place.by(who)
        if target is not None:
            require_target(rows.column(target), target, where)
        _require_finite(rows, where)
        n_rows += rows.num_rows
        drawn = np.random.default_rng([seed, 3, number]).random(rows.num_rows)
        kept.append(_below(share, rows, drawn))
        n_bytes += kept[-1][0].nbytes
        if arrays and n_bytes > most:
            fit = f"rows are drawn, as {memory.readable(int(most))} of columns fit into memory"
            instead = f"name a column instead of an array: {listed([*arrays])}"
            raise ValueError(f"{who}: {fit}: {instead}")
        while n_bytes > most:
            share /= 2
            kept = [
                pair for pair in (_below(share, *each) for each in kept) if len(pair[1])
            ]
            n_bytes = sum(each.nbytes for each, _ in kept)
    if not n_rows:
        raise ValueError(f"{who}: there are no rows")
    if not kept:
        lack = f"of {memory.readable(free or 0)} that are free no row of the table has a 16th"
        raise MemoryError(f"{who}: {lack}: choose fewer columns")
    table = pyarrow.concat_tables(
        [pyarrow.Table.from_batches([each]) for each, _ in kept],
        promote_options="permissive",
    )
    if share < 1:
        drawn_rows = f"{verb} {table.num_rows:,} of {n_rows:,} rows, drawn by the seed"
        fit = f"{memory.readable(int(most))} of columns fit into memory"
        warn(f"{who}: {drawn_rows}: {fit}", UserWarning)
    return table


def _below(share: float, rows: Any, drawn: Any) -> tuple[Any, Any]:
    """Rows whose number is below the share, and those numbers."""
    import pyarrow

    mask = drawn < share
    if mask.all():
        return (rows, drawn)
    return (rows.filter(pyarrow.array(mask)), drawn[mask])


def _require_finite(rows: Any, where: arrow.Place) -> None:
    """Raise for an infinite number here, where its row in the file is known."""
    import pyarrow.compute as compute

    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if (
            str(column.type) in ("float", "double")
            and compute.any(compute.is_inf(column)).as_py()
        ):
            first = where.row(compute.index(compute.is_inf(column), True).as_py())
            raise ValueError(
                f"{where}: the column {name!r} is infinite in {first}; make NaN of it"
            )


ArraysByName = dict[str, Array]


class PredictionColumns:
    """Makes columns of predictions from batches.

    `named` is True if the model, an MLP or estimator, knows names of columns.
    """

    def __init__(
        self,
        model: Any,
        output: str,
        probabilities: bool,
        dtype: Any,
        named: bool,
        who: str,
    ) -> None:
        self._model = model
        self._output = output
        self._named = named
        self._who = who
        self._probabilities = probabilities
        self._link = getattr(model, "_link", None)
        if dtype is None:
            self._dtypes = {}
        else:
            self._dtypes = {"compute_dtype": dtype}
        self._several: bool | None = None

    def __call__(self, batch: PredictBatch) -> ArraysByName:
        rows, n = batch.rows, None
        no_rows = batch.kept is not None and not batch.rows.num_rows
        if no_rows and not hasattr(self._model, "schema_"):
            # scikit-learn refuses an empty batch.
            # Predictions of zeros have the same dtypes.
            rows = _zeros_like(batch.rows)
            n = 0
        batch = batch._replace(rows=rows)
        columns = predicted(self._columns, batch, named=self._named, who=self._who)
        return {name: values[:n] for name, values in columns.items()}

    def _columns(self, rows: Any) -> ArraysByName:
        model = self._model
        if hasattr(model, "predict_proba"):
            return self._of_classifier(rows)
        values = model.predict(rows, **self._dtypes)
        n_outputs = 1 if values.ndim == 1 else values.shape[1]
        if self._link == "softmax":
            return self._of_classes(values, np.arange(n_outputs))
        if self._link == "sigmoid" and n_outputs == 1:
            return self._of_classes(np.hstack([1 - values, values]), np.arange(2))
        if self._link == "sigmoid":
            return self._of_labels(values, np.arange(n_outputs))
        if n_outputs == 1:
            return {self._output: values.reshape(-1)}
        return _each(self._output, values, np.arange(n_outputs))

    def _of_classifier(self, rows: Any) -> ArraysByName:
        model = self._model
        probabilities = model.predict_proba(rows)
        classes = model.classes_
        if self._several is None:
            self._several = np.ndim(model.predict(rows[:1])) == 2
        if self._several:
            return self._of_labels(probabilities, classes)
        if len(classes) == 1:
            # scikit-learn has two columns of probabilities for one class.
            return {self._output: model.predict(rows)}
        return self._of_classes(probabilities, classes)

    def _of_classes(self, probabilities: Array, classes: Array) -> ArraysByName:
        labels = classes[probabilities.argmax(axis=1)]
        if self._probabilities:
            each = _each("probability", probabilities, classes)
        else:
            each = {}
        return {**each, self._output: labels}

    def _of_labels(self, probabilities: Array, labels: Array) -> ArraysByName:
        above = (probabilities > 0.5).astype(np.int64)
        columns = _each("probability", probabilities, labels)
        return {**columns, **_each(self._output, above, labels)}


def _each(name: str, values: Array, classes: Array) -> ArraysByName:
    return {
        f"{name}_{each}": np.ascontiguousarray(column)
        for each, column in zip(classes, values.T, strict=True)
    }


def _zeros_like(rows: Any) -> Any:
    import pyarrow

    return pyarrow.table({name: [0.0] for name in rows.schema.names})


WriterOf = Callable[[Any, Any], Any]


@explained
def predict_arrow(
    model: Any,
    source: "ArrayLike | Source",
    *,
    keep: str | Sequence[str] = (),
    output: str = "prediction",
    batch_rows: int = ROWS,
    probabilities: bool = True,
    compute_dtype: ComputeDTypes | None = None,
) -> Any:
    """Return predictions of files or of a table as a stream of Arrow record batches.

    One batch is in memory at a time. polars, DuckDB, pandas and pyarrow can read the
    stream, once. The first batch is predicted at once, later ones when they are read.
    The extra `arrow` is needed.

    A regressor's column is `output`, or ``prediction_0`` and so on for several outputs.
    A classifier has a column ``probability_<class>`` for each class, and labels in
    `output`. A net has them for the classes 0, 1 and so on, if its loss has the link
    softmax, or sigmoid with one output. Several labels a row have columns
    ``probability_<label>`` and ``prediction_<label>``.

    Parameters
    ----------
    model : MLP or fitted estimator
        Columns are found by name;
        a model without names takes all columns but `keep`, in order.
    source : path or list of paths, table or frame, or array or source as `predict_batches` takes it
        Parquet, Arrow or CSV files, or an object with ``__arrow_c_stream__``, such as a
        frame of pandas or polars, a table of pyarrow, or a relation of DuckDB.
    keep : str or sequence of str
        Columns to pass on before the predictions.
    output : str, default "prediction"
    batch_rows : int of 1 or more, default 65536
        Maximum number of rows of a batch.
    probabilities : bool, default True
        False leaves out the probabilities of classes.
    compute_dtype : "bfloat16", or a sequence of "bfloat16" and "float32", one per layer, optional
        As for `MLP.predict`; for an `MLP`, such as an estimator's ``net_``.

    Returns
    -------
    pyarrow.RecordBatchReader

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or a column is missing or not numeric.
        Later batches raise when they are read.
    ImportError
        If pyarrow is not installed.
    OSError
        If a file cannot be read.

    See Also
    --------
    fastmlp.predict_parquet : writes the predictions to a file.

    Examples
    --------
    >>> import pyarrow
    >>> from fastmlp import MLP, predict_arrow
    >>> table = pyarrow.table({"id": ["x", "y"], "b": [1.0, 2.0], "a": [3.0, 4.0]})
    >>> net = MLP((2, 8, 3), loss="cross_entropy", seed=0)
    >>> net.feature_names = ["a", "b"]
    >>> predict_arrow(net, table, keep="id").read_all().column_names
    ['id', 'probability_0', 'probability_1', 'probability_2', 'prediction']
    """
    form = (output, batch_rows, probabilities, compute_dtype)
    return _reader(model, source, keep, *form, "predict_arrow")


@explained
def predict_parquet(
    model: Any,
    source: "ArrayLike | Source",
    path: str | os.PathLike[str],
    *,
    keep: str | Sequence[str] = (),
    output: str = "prediction",
    batch_rows: int = ROWS,
    probabilities: bool = True,
    compute_dtype: ComputeDTypes | None = None,
) -> int:
    """Write predictions of files or of a table to a file. The extra `arrow` is needed.

    One batch is in memory at a time. The file has another name until it is complete;
    after an error the old file is unchanged.

    Parameters
    ----------
    model, source, keep, output, probabilities, compute_dtype
        As for `predict_arrow`.
    path : path
        The ending decides the format: .parquet, .csv, .arrow, .feather or .ipc.
    batch_rows : int of 1 or more, default 65536
        Maximum number of rows of a batch, and of a row group of the file.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    TypeError, ValueError, ImportError
        As from `predict_arrow`, or if the path has another ending.
    OSError
        If a file cannot be read or written.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastmlp import MLP, predict_parquet
    >>> path = os.path.join(tempfile.mkdtemp(), "predictions.parquet")
    >>> predict_parquet(MLP((2, 8, 1), seed=0), np.zeros((1000, 2)), path)
    1000
    """
    who = "predict_parquet"
    scalars.path(who, "path", path, mode="w")
    writer_of = WRITERS.get(Path(os.fspath(path)).suffix.lower())
    if writer_of is None:
        got = os.fspath(path)
        raise ValueError(f"{who}: path must end in {', '.join(WRITERS)}, got {got!r}")
    form = (output, batch_rows, probabilities, compute_dtype)
    reader = _reader(model, source, keep, *form, who)
    n = 0
    with files.writing(path) as file, writer_of(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            n += batch.num_rows
    return n


def _parquet(file: Any, schema: Any) -> Any:
    """Floats seldom repeat; without their dictionary:
    336 -> 145 ns a row (20-16-1, 2 columns).
    """
    from pyarrow.parquet import ParquetWriter

    floats = ("float", "double", "halffloat")
    repeated = [field.name for field in schema if str(field.type) not in floats]
    return ParquetWriter(file, schema, use_dictionary=repeated)


def _arrow(file: Any, schema: Any) -> Any:
    import pyarrow

    return pyarrow.ipc.new_file(file, schema)


def _csv(file: Any, schema: Any) -> Any:
    import pyarrow.csv

    return pyarrow.csv.CSVWriter(file, schema)


WRITERS: dict[str, WriterOf] = {
    ".parquet": _parquet,
    ".csv": _csv,
    **dict.fromkeys(ARROW_FILES, _arrow),
}


def _reader(
    model: Any,
    source: Any,
    keep: Any,
    output: Any,
    rows: Any,
    proba: bool,
    dtype: Any,
    who: str,
) -> Any:
    keep = [keep] if isinstance(keep, str) else keep
    if not isinstance(keep, Iterable) or not all(
        isinstance(name, str) for name in keep
    ):
        raise TypeError(
            f"{who}: keep must be a column's name, or several, got {keep!r}"
        )
    pyarrow = messages.imported("pyarrow", who)
    keep = list(dict.fromkeys(keep))
    scalars.positive_integer(who, "batch_rows", rows)
    scalars.boolean(who, "probabilities", proba)
    if not isinstance(output, str):
        raise TypeError(f"{who}: output must be a column's name, got {output!r}")
    if not hasattr(model, "predict") or isinstance(model, type):
        raise TypeError(
            f"{who}: model must be an MLP or a fitted estimator, got {model!r}"
        )
    _check_precision(model, dtype, who)
    names = names_of_model(model)
    if has_names(source):
        choice = Choice(names, keep, getattr(model, "_text_names", ()))
        batches = named_batches(source, choice, rows, who)
    elif keep:
        raise ValueError(
            f"{who}: keep={keep!r} needs files or a table, whose columns have names"
        )
    else:
        batches = batches_of(source, names, rows, who)
    outputs = PredictionColumns(model, output, proba, dtype, names is not None, who)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{who}: there are no rows")
    begun = _table(outputs, first, keep, who)
    # Batches get the types of the first; files may differ.
    more = (_table(outputs, batch, keep, who).cast(begun.schema) for batch in batches)
    return pyarrow.RecordBatchReader.from_batches(begun.schema, chain([begun], more))


def _check_precision(model: Any, compute_dtype: Any, who: str) -> None:
    if compute_dtype is None:
        return
    if not hasattr(model, "predict_raw"):
        if hasattr(model, "net_"):
            instead = "its net_"
        else:
            instead = "compute_dtype=None"
        raise TypeError(
            f"{who}: compute_dtype={compute_dtype!r} needs an MLP, got {model!r}: use "
            f"{instead}"
        )
    spec.compute_dtype(compute_dtype, model.layer_sizes, model.dtype, who)


def _table(
    outputs: PredictionColumns, batch: PredictBatch, keep: list[str], who: str
) -> Any:
    import pyarrow

    columns = {name: pyarrow.array(values) for name, values in outputs(batch).items()}
    twice = [name for name in columns if name in keep]
    if twice:
        raise ValueError(
            f"{who}: the columns {listed(twice)} are kept, and predictions have the "
            f"same names: "
            "rename them, or give predict_arrow or predict_parquet output= another name"
        )
    kept = {name: batch.kept.column(name) for name in keep}
    return pyarrow.RecordBatch.from_pydict(kept | columns)
