"""Predictions of files and tables, as a stream of Arrow or a file."""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmlp.data.arrow import ARROW_FILES, ROWS
from fastmlp.data.batches import (
    Choice,
    PredictBatch,
    batches_of,
    has_names,
    named_batches,
    names_of_model,
    predicted,
)
from fastmlp.data.sources import Source
from fastmlp.network import spec
from fastmlp.network.spec import ComputeDTypes
from fastmlp.serialization import files
from fastmlp.validation import Array, messages, scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import listed

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
        model = getattr(self._model, "best_estimator_", self._model)
        weights = getattr(model, "decision_weights_", 1.0)
        labels = classes[(probabilities * weights).argmax(axis=1)]
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
            "same names: rename them, or give predict_arrow or predict_parquet output= "
            "another name"
        )
    kept = {name: batch.kept.column(name) for name in keep}
    return pyarrow.RecordBatch.from_pydict(kept | columns)
