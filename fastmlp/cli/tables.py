"""The commands train, predict, score, show and export, and their files."""

import argparse
import atexit
import glob
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

import fastmlp
from fastmlp import CSVFile, predict_arrow, predict_parquet
from fastmlp.cli.options import EXPORTS, OUTPUTS
from fastmlp.cli.parser import CommandError, UsageError, printable
from fastmlp.extend import messages, read_table, scalars
from fastmlp.report import MEASURES_OF_CLASSES, MEASURES_OF_NUMBERS, scores_of
from fastmlp.typing import Array

Task = Literal["classification", "regression"]
MODEL = ".safetensors"
CSV = (".csv", ".csv.gz")
# The command's words for words in errors of Python's API.
IN_COMMANDS = {
    r"^(TabularMLP\w+\.(fit|predict|predict_proba)|fastmlp\.load): ": r"{}: ",
    r"^(predict_arrow|predict_parquet|html_report): ": r"{}: ",
    r"\bsample_weight(_val)?\b": "--weight",
    r"\b[Xy]_val\b": "--valid",
    r"\by(?= (must|has|holds)\b)": "the target",
    r"\btime_limit\b": "--time-limit",
}
# Errors that are reported in words of the command.
REPORTED = (ValueError, TypeError, NotImplementedError, MemoryError, FileNotFoundError)
# Folds if no rows are held out.
N_FOLDS = 5
# Integers with more values are numbers, unless --task says otherwise.
MOST_INTEGER_CLASSES = 20
# Time limit of a fit that begins too late: one epoch.
SHORTEST = 1e-3
# A target with more classes, in number and in share of the rows, is an id or free text.
ID_LEVELS, ID_SHARE = 20, 0.5
# Column of predictions beside a target.
PREDICTION = "fastmlp: prediction"
# Levels and classes on a line.
MOST_SHOWN = 8
# Columns of a model whose importances are computed in `train`: 1,000 take minutes.
MOST_IMPORTANCES = 200
# Functions whose keywords are options without defaults here.
KEYWORDS = ("prefix", "tests", "test_data", "dtype", "gradient", "fortran", "opset")
# Metrics by task, which `score` prints without --metric.
METRICS: dict[Task, dict[str, Any]] = {
    "classification": MEASURES_OF_CLASSES,
    "regression": MEASURES_OF_NUMBERS,
}
DEFAULTS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
METRIC_SYNONYMS = {
    "accuracy": "acc",
    "balanced_accuracy": "bacc uar macro_recall balanced_accuracy_score",
    "f1": "f1_score f1_macro",
    "log_loss": "cross_entropy logloss nll",
    "auc": "roc_auc auroc roc_auc_score",
    "average_precision": "ap auprc pr_auc average_precision_score",
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error l1",
    "r2": "r2_score",
}


@contextmanager
def telling(who: str) -> Iterator[None]:
    """Turn errors of the data into a `CommandError`,
    and write warnings to standard error.
    """
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        # Ctrl-C ends the command, which reports it.
        warnings.filterwarnings("ignore", ".*fit interrupted", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(
            f"warning: {_tell(message, who)}"
        )
        try:
            yield
        except REPORTED as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise CommandError(f"{_tell(error, who)}{notes}") from error


def _tell(message: object, who: str) -> str:
    text = str(message)
    for words, ours in IN_COMMANDS.items():
        text = re.sub(words, ours.format(who), text)
    return text


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def run_train(arguments: argparse.Namespace) -> None:
    limit = arguments.time_limit
    output = arguments.output
    who = "train"
    ends = None if limit is None else time.monotonic() + limit
    needed = "the following arguments are required"
    if not arguments.data:
        raise UsageError(f"{needed}: DATA; see fastmlp train --help")
    if arguments.target is None:
        if not all(path.lower().endswith(".npz") for path in arguments.data):
            raise UsageError(f"{needed}: --target; see fastmlp train --help")
        arguments.target = "y"
    if not output.endswith(MODEL):
        raise UsageError(f"argument --output: must end in {MODEL}, got {output!r}")
    target = arguments.target
    for word in ("ignore", "features"):
        if target in getattr(arguments, word):
            raise UsageError(f"argument --{word}: {target!r} is the target")
    require_new(output, force=arguments.force, who=who)
    # Packages for the command's end are checked before it reads.
    messages.imported("pyarrow", "fastmlp train")
    messages.imported("safetensors", "fastmlp train")
    messages.imported("sklearn", "fastmlp train", "scikit-learn")
    from fastmlp import TabularMLPClassifier, TabularMLPRegressor

    with telling(who):
        data = data_of(arguments.data, who, arguments.encoding)
        others = [target, *([arguments.weight] if arguments.weight else [])]
        chosen = {
            "columns": arguments.features,
            "others": others,
            "ignore": arguments.ignore,
        }
        table = read_table(data, who, arguments.seed, target=target, **chosen)
        task = _task_of(table[target], target, arguments.task)
        if arguments.loss is not None and task == "classification":
            raise UsageError("argument --loss: needs a regression")
        _name_identifiers(table, others)
        table, valid, rows = _divided(table, others, task, arguments)
        if arguments.loss is not None:
            options = {"loss": arguments.loss}
        else:
            options = {}
        kind: Any = (
            TabularMLPClassifier if task == "classification" else TabularMLPRegressor
        )
        model = kind(
            preset=arguments.preset,
            max_iter=arguments.epochs,
            time_limit=_seconds_until(ends),
            scoring=arguments.scoring,
            categorical_features=[*arguments.categorical],
            cv=N_FOLDS if valid is None else None,
            random_state=arguments.seed,
            n_jobs=arguments.threads,
            **options,
        )
        of_valid = {"X_val": valid, "sample_weight_val": arguments.weight}
        fit = {"target": target, "sample_weight": arguments.weight}
        # A bar of epochs, candidates and the time left.
        fit["progress"] = sys.stderr.isatty() and find_spec("tqdm") is not None
        with _rows_of_table(*rows):
            model.fit(table, **fit, **(of_valid if valid is not None else {}))
        if valid is None:
            scores = {}
        else:
            scores = _scores(model, valid, f"{who}: --valid")
        names = model.schema_.columns
        # A file holds finite numbers: R2 of one row is not.
        finite = {name: score for name, score in scores.items() if isfinite(score)}
        model.training_ |= {"seed": arguments.seed, "scores": finite}
        if len(names) <= MOST_IMPORTANCES:
            importances = zip(names, model.feature_importances_.tolist(), strict=True)
            model.training_["importances"] = dict(importances)
        fastmlp.save(model, output)
        # Number of nets, score and columns.
        say(str(model.summary()).splitlines()[-1])
    say(f"model: {output}")
    _print_scores(scores, as_json=arguments.json)


def _name_identifiers(table: Any, others: list[str]) -> None:
    """Name columns of whole numbers that differ in each row: CSV has them as floats."""
    import pyarrow.compute as compute

    n = table.num_rows
    for name in table.column_names:
        column = table[name]
        if n <= ID_LEVELS or name in others or not _is_number(column.type):
            continue
        differ = compute.count_distinct(column).as_py() == n
        if differ and compute.all(compute.equal(column, compute.round(column))).as_py():
            say(
                f"note: {name!r} looks like an identifier, with {n} integers in {n} "
                f"rows; --ignore {name} leaves it out"
            )


def _task_of(column: Any, name: str, asked: Any) -> Task:
    """The task of a target column: the one asked for, else by its type and values.

    Other targets are errors: one value, texts for a regression, an id's many classes.
    """
    import pyarrow.compute as compute
    import pyarrow.types as kinds

    task = asked
    type_ = column.type
    labels = compute.unique(column)
    n = len(labels)
    first = labels[0].as_py()
    of_numbers = _is_number(type_)
    if n == 1:
        raise ValueError(f"train: the target {name!r} has one value, {first!r}")
    if asked == "auto":
        few = kinds.is_integer(type_) and n <= MOST_INTEGER_CLASSES
        as_classes = few or kinds.is_boolean(type_) or not of_numbers
        task = "classification" if as_classes else "regression"
        other = "regression" if as_classes else "classification"
        into = f", {n} classes" if as_classes else ""
        hint = f" (guessed; else --task {other})" if of_numbers else ""
        say(f"task: {task} of {name!r}{into}{hint}")
    if task == "regression" and not of_numbers:
        raise TypeError(
            f"train: the target {name!r} holds {type_}; a regression needs numbers"
        )
    if task == "classification" and not isinstance(first, str | bool | int | float):
        raise TypeError(f"train: the target {name!r} holds {type_}, and not classes")
    if task == "classification" and n > max(ID_LEVELS, ID_SHARE * len(column)):
        hint = "; for numbers: --task regression" * of_numbers
        raise ValueError(
            f"train: the target {name!r} has {n} classes in {len(column)} rows, as an "
            f"id or free text has: name another column to predict{hint}"
        )
    return "regression" if task == "regression" else "classification"


def _divided(
    table: Any, others: list[str], task: Task, arguments: argparse.Namespace
) -> tuple[Any, Any, list[Any]]:
    """Training rows, validation rows (None for folds),
    and their indices in the table, if any.
    """
    valid, seed = arguments.valid, arguments.seed
    if not valid:
        say(f"{table.num_rows} rows to train on")
        return table, None, []
    if isinstance(valid, str):
        data = data_of([valid], "train", arguments.encoding)
        columns = [name for name in table.column_names if name not in others]
        chosen: Any = {
            "columns": columns,
            "others": others,
            "texts": _text_names(table),
        }
        verb = {"target": others[0], "verb": "validated on"}
        rows = read_table(data, "train: --valid", seed, **chosen, **verb)
        say(f"{table.num_rows} rows to train on, {rows.num_rows} to validate on")
        return table, rows, []
    out = np.random.default_rng([seed, 0]).random(table.num_rows) < valid
    if task == "classification":
        labels, first, codes, counts = np.unique(
            np.asarray(table[others[0]]),
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        # A class whose rows are all held out keeps the first for training.
        out[first[np.bincount(codes[out], minlength=len(labels)) == counts]] = False
        if single := labels[counts == 1].tolist():
            names = messages.listed([*map(repr, single)])
            say(
                f"note: classes of one row are trained on, and not validated on: "
                f"{names}"
            )
    n = len(out)
    n_out = int(out.sum())
    if n_out in (0, n):
        raise ValueError(
            f"train: {n} rows leave {n - n_out} to train on and {n_out} to validate "
            "on; --valid takes a file, or 0 for five folds"
        )
    say(f"{n - n_out} rows to train on, {n_out} held out")
    return (
        table.filter(~out),
        table.filter(out),
        [np.flatnonzero(~out), np.flatnonzero(out)],
    )


def _text_names(table: Any) -> list[str]:
    """Columns that CSV holds as texts, whatever they look like."""
    kinds = {
        field.name: getattr(field.type, "value_type", field.type)
        for field in table.schema
    }
    words = ("string", "date", "time")
    return [
        name for name, kind in kinds.items() if any(word in str(kind) for word in words)
    ]


@contextmanager
def _rows_of_table(*places: Any) -> Iterator[None]:
    """Make errors of a fit number rows in the table, not in a part."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        if places:
            rows = places["_val" in text]
        else:
            rows = range(0)
        error.args = (re.sub(r"(?<=row )\d+", lambda one: _at(rows, one[0]), text),)
        raise


def _at(rows: Any, row: str) -> str:
    return str(rows[int(row)]) if int(row) < len(rows) else row


def _seconds_until(ends: float | None) -> float | None:
    left = None if ends is None else ends - time.monotonic()
    if left is not None and left <= 0:
        say(
            "note: --time-limit was over before the training began; it trains for one "
            "epoch at most"
        )
    return left if left is None else max(left, SHORTEST)


def _scores(model: Any, data: Any, who: str, names: Any = ()) -> dict[str, float]:
    target = model.training_["target"]
    reader = predict_arrow(model, data, keep=target, output=PREDICTION)
    return score(model, reader, target, who, names)


def run_predict(arguments: argparse.Namespace) -> None:
    output, who = arguments.output, "predict"
    if output is not None:
        if not output.lower().endswith(OUTPUTS):
            ends = ", ".join(OUTPUTS)
            raise UsageError(f"argument --output: must end in {ends}, got {output!r}")
        require_new(output, force=arguments.force, who=who)
    with telling(who):
        model = _load(arguments)
        if arguments.probabilities and not hasattr(model, "classes_"):
            raise UsageError("argument --probabilities: the model predicts numbers")
        data = data_of(arguments.data, who, arguments.encoding)
        form: Any = {"keep": arguments.keep, "batch_rows": arguments.batch_rows}
        form["probabilities"] = arguments.probabilities
        if output is not None:
            predict_parquet(model, data, output, **form)
        else:
            _write_csv(predict_arrow(model, data, **form))


def _write_csv(reader: Any) -> None:
    import pyarrow.csv

    sys.stdout.flush()
    with pyarrow.csv.CSVWriter(sys.stdout.buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def run_score(arguments: argparse.Namespace) -> None:
    with telling("score"):
        model = _load(arguments)
        if "target" not in model.training_:
            raise ValueError(
                f"{arguments.model}: the model was fitted to a y without a name"
            )
        data = data_of(arguments.data, "score", arguments.encoding)
        scores = _scores(model, data, "score", arguments.metric)
    _print_scores(scores, as_json=arguments.json)


def run_report(arguments: argparse.Namespace) -> None:
    output, who = arguments.output, "report"
    if not output.lower().endswith((".html", ".htm")):
        raise UsageError(f"argument --output: must end in .html, got {output!r}")
    require_new(output, force=arguments.force, who=who)
    with telling(who):
        model = fastmlp.load(arguments.model, n_threads=arguments.threads)
        target = arguments.target or getattr(model, "training_", {}).get("target")
        if target is None:
            raise UsageError("argument --target: the model does not name its target")
        data = data_of(arguments.data, who, arguments.encoding)
        columns, texts = _columns_of(model)
        chosen: Any = {"columns": columns, "texts": texts, "verb": "reported on"}
        table = read_table(data, who, 0, others=[target], **chosen)
        # A level of Arrow's stays what it is, such as a fraction or a missing value.
        frame = table.to_pandas(
            types_mapper=messages.imported("pandas", who).ArrowDtype
        )
        # A report of 1,000 columns of NumPy's takes 23 s, of Arrow's 122 s.
        names = getattr(getattr(model, "schema_", None), "numeric_names", ())
        fractions = [name for name in names if frame.dtypes[name].kind == "f"]
        frame = frame.astype(dict.fromkeys(fractions, "float64"))
        fastmlp.html_report(model, frame, target, output)
    say(f"report: {output}")


def _print_scores(scores: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(scores))
        return
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.6g}")


def _load(arguments: argparse.Namespace) -> Any:
    path = arguments.model
    others = getattr(arguments, "data", ())
    if not path.endswith(MODEL) and any(each.endswith(MODEL) for each in others):
        raise UsageError(
            f"MODEL comes before DATA, got {path!r} and {', '.join(others)}"
        )
    model = fastmlp.load(path, n_threads=getattr(arguments, "threads", None))
    if not hasattr(model, "schema_"):
        raise ValueError(
            f"{path}: holds a {type(model).__name__}, not a model of fastmlp train"
        )
    return model


def run_show(arguments: argparse.Namespace) -> None:
    """Print a model's columns, training, importances and members, or all as JSON."""
    with telling("show"):
        model = _load(arguments)
    schema = model.schema_
    training = model.training_
    task = task_of(model)
    target = training.get("target")
    classes = getattr(model, "classes_", np.array([])).tolist()
    if arguments.json:
        content = {
            "task": task,
            "target": target,
            "classes": classes or None,
            "schema": schema.to_json(),
            "members": [
                [str(one.recipe), one.weight, one.score] for one in model.members_
            ],
            "validation_score": model.validation_score_,
            "training": training,
        }
        print(json.dumps(content))
        return
    lines = [f"task      {task}{'' if target is None else f' of {target!r}'}"]
    lines += [f"classes   {_listed(classes)}"] if classes else []
    lines.append(f"columns   {len(schema.read_names)}")
    for name in schema.read_names:
        kind = "numbers"
        if name in schema.levels:
            kind = f"levels {_listed(schema.levels[name])}"
        elif name in schema.dates:
            kind = (
                f"{schema.dates[name].kind}, as {', '.join(schema.dates[name].names)}"
            )
        lines.append(f"  {name}: {kind}")
    shown = sorted(training.keys() - {"scores", "importances", "target"})
    width = max(map(len, shown), default=0)
    lines += [f"{name:<{width}} {training[name]}" for name in shown]
    importances = training.get("importances", {})
    if importances:
        lines.append("importances: the decrease of the score when a column is shuffled")
    for name in sorted(importances, key=importances.__getitem__, reverse=True):
        lines.append(f"  {name}: {importances[name]:.4g}")
    if scores := training.get("scores"):
        lines.append("scores of the rows to validate on")
        lines += [f"  {name}: {value:.6g}" for name, value in scores.items()]
    for line in (*lines, "", *str(model.summary()).split("\n")):
        print(printable(line))


def _listed(values: Any) -> str:
    return messages.listed([*map(str, values)], MOST_SHOWN)


def task_of(model: Any) -> Task:
    if hasattr(model, "classes_"):
        return "classification"
    return "regression"


def score(
    model: Any, reader: Iterable[Any], target: str, who: str, names: Sequence[str] = ()
) -> dict[str, float]:
    """Scores of all rows by metric, by default `DEFAULTS`.

    Targets and predictions of all rows stay in memory, and columns of one batch.
    `reader` has record batches of `predict_arrow` with the target, and predictions as
    `PREDICTION`.
    """
    task = task_of(model)
    for name in names:
        scalars.known(who, "metric", name, METRICS[task], METRIC_SYNONYMS)
    columns = [PREDICTION]
    if task == "classification":
        columns = [f"probability_{each}" for each in model.classes_]
    targets = list[Array]()
    predictions = list[Array]()
    n = 0
    for batch in reader:
        targets.append(_targets(model, batch.column(target), target, who, n))
        predictions.append(
            np.column_stack([batch.column(name).to_numpy() for name in columns])
        )
        n += batch.num_rows
    if not n:
        raise ValueError(f"{who}: there are no rows")
    y = np.concatenate(targets)
    values = np.concatenate(predictions).astype(np.float64)
    if task == "classification":
        values /= values.sum(axis=1, keepdims=True)
    else:
        y = y[:, None]
    weights = getattr(model, "decision_weights_", 1.0)
    return scores_of(y, values, names or DEFAULTS[task], weights)


def _targets(model: Any, column: Any, name: str, who: str, first: int) -> Array:
    """An Arrow column as numbers or class indices, shape (n_rows,)."""
    import pyarrow
    import pyarrow.compute as compute

    missing = compute.is_null(column, nan_is_null=True)
    if "string" in str(column.type):
        missing = compute.or_(missing, compute.equal(column, "")).fill_null(True)
    if n := compute.sum(missing).as_py():
        place = f"row {first + compute.index(missing, True).as_py()}"
        raise ValueError(f"{who}: {messages.lacking(name, n, place)}")
    if not hasattr(model, "classes_"):
        if not _is_number(column.type):
            raise TypeError(
                f"{who}: the target {name!r} must hold numbers, got {column.type}"
            )
        y: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        return y
    classes = pyarrow.array(model.classes_.tolist())
    if hasattr(column, "dictionary_decode"):
        values = column.dictionary_decode()
    else:
        values = column
    places = compute.index_in(values.cast(classes.type), value_set=classes)
    codes: Array = places.fill_null(-1).to_numpy(zero_copy_only=False)
    if (codes < 0).any():
        unknown = column[int(np.argmax(codes < 0))].as_py()
        known = ", ".join(map(repr, classes.to_pylist()[:20]))
        raise ValueError(
            f"{who}: the target {name!r} has the class {unknown!r}, which training did "
            f"not have; known: {known}"
        )
    return codes


def _is_number(kind: Any) -> bool:
    """Booleans count as numbers."""
    import pyarrow.types as kinds

    tests = (kinds.is_floating, kinds.is_integer, kinds.is_decimal, kinds.is_boolean)
    return any(test(kind) for test in tests)


def run_export(arguments: argparse.Namespace) -> None:
    """Write a model by the function of the file's ending.

    An option that this function does not take is a wrong use.
    """
    output = arguments.output
    if (ending := Path(output).suffix.lower()) not in EXPORTS:
        raise UsageError(
            f"argument OUT: must end in {', '.join(EXPORTS)}, got {output!r}"
        )
    for path in filter(None, (output, getattr(arguments, "fortran", None))):
        require_new(path, force=arguments.force, who="export")
    writer = getattr(fastmlp, EXPORTS[ending])
    known = inspect.signature(writer).parameters
    settings = {
        name: value for name, value in vars(arguments).items() if name in KEYWORDS
    }
    for name in settings.keys() - known.keys():
        raise UsageError(
            f"argument --{name.replace('_', '-')}: is not for {ending} files"
        )
    with telling("export"):
        model = fastmlp.load(arguments.model)
        if "test_data" in settings:
            n = max(1, settings.get("tests", known["tests"].default))
            settings["test_data"] = _test_rows(model, settings["test_data"], n)
        writer(model, output, **settings)


def _test_rows(model: Any, path: str, n: int) -> Any:
    columns, texts = _columns_of(model)
    rows = read_table(
        data_of([path], "export"), "export", 0, columns=columns, texts=texts
    )
    return rows.slice(0, n)


def _columns_of(model: Any) -> tuple[Any, Any]:
    """Columns that a model reads, empty if unknown,
    and those that CSV holds as texts.
    """
    if hasattr(model, "schema_"):
        return model.schema_.read_names, model.schema_.text_names
    named = getattr(model, "feature_names", None)
    return getattr(model, "feature_names_in_", () if named is None else named), ()


def data_of(arguments: Sequence[str], who: str, encoding: str | None = None) -> Any:
    """Data of the arguments DATA: paths, or a table;
    CSV is UTF-8 without `encoding`.
    """
    messages.imported("pyarrow", f"fastmlp {who}")
    if list(arguments) == ["-"]:
        return _of_standard_input(encoding)
    if all(path.lower().endswith(".npz") for path in arguments):
        import pyarrow

        paths = (
            file for path in arguments for file in sorted(glob.glob(path)) or [path]
        )
        return pyarrow.concat_tables([_of_arrays(path, who) for path in paths])
    if encoding is None:
        return list(arguments)
    files = [
        os.path.join(each, "*.csv") if os.path.isdir(each) else each
        for each in arguments
    ]
    return [
        CSVFile(each, encoding) if each.lower().endswith(CSV) else each
        for each in files
    ]


def _of_standard_input(encoding: str | None) -> CSVFile:
    """Standard input as a file, which is deleted at exit."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "standard input.csv")
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return CSVFile(path, encoding or "utf-8")


def _of_arrays(path: str, who: str) -> Any:
    """Arrays of a .npz file as a table. Columns of X are x0, x1 and so on."""
    import pyarrow

    columns: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            if array.ndim not in (1, 2):
                raise ValueError(
                    f"{who}: {name!r} has {array.ndim} dimensions, not 1 or 2"
                )
            if array.ndim > 1:
                names = [f"{name.lower()}{j}" for j in range(array.shape[1])]
            else:
                names = [name]
            columns |= dict(zip(names, array.reshape(len(array), -1).T, strict=True))
        return pyarrow.table(columns)


def require_new(path: str, *, force: bool, who: str) -> None:
    """Check that an output can be written, before any work."""
    if os.path.exists(path) and not force:
        raise FileExistsError(f"{who}: {path!r} exists; --force overwrites it")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}: there is no folder {str(Path(path).parent)!r}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{who}: the folder {str(folder)!r} cannot be written to")
