"""The commands train, predict, score, show and export."""

import argparse
import inspect
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp.cli.files import data_of, require_new, write_rows
from fastmlp.cli.options import EXPORTS, CommandError, UsageError, printable
from fastmlp.data.arrow import ROWS, Place, imported
from fastmlp.data.batches import Choice, PredictBatch, named_batches, names_of_model, predicted
from fastmlp.data.columns import require_target
from fastmlp.data.outputs import WRITERS, Form, reader_of
from fastmlp.extend import read_table
from fastmlp.serialization import safetensors_file
from fastmlp.tabular import schema
from fastmlp.tabular.arrow_tables import decoded, is_number, numbers, places
from fastmlp.validation import scalars
from fastmlp.validation.messages import listed, needs

Array = NDArray[Any]
MODEL = ".safetensors"
# Words of the command for words in errors of Python's API.
IN_COMMANDS = {
    r"^(TabularMLP\w+\.(fit|predict|predict_proba)|fastmlp\.load): ": r"{}: ",
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
MOST_CLASSES = 20
# Time limit of a fit that begins too late: one epoch.
SHORTEST = 1e-3
# Levels and classes that a line shows.
MOST_SHOWN = 8
# Keywords of these functions; the options of their names have no defaults here.
KEYWORDS = ("prefix", "tests", "test_data", "dtype", "gradient", "opset")
# Arguments: sklearn.metrics; places of classes and probabilities, or numbers and predictions.
METRICS: dict[schema.Task, dict[str, Callable[[Any, Array, Array], float]]] = {
    "classification": {
        "accuracy": lambda metrics, codes, p: metrics.accuracy_score(codes, p.argmax(axis=1)),
        "log_loss": lambda metrics, codes, p: metrics.log_loss(
            codes, p, labels=np.arange(p.shape[1])
        ),
        "auc": lambda metrics, codes, p: metrics.roc_auc_score(
            codes,
            p[:, 1] if p.shape[1] == 2 else p,
            multi_class="ovr",
            labels=np.arange(p.shape[1]),
        ),
    },
    "regression": {
        "rmse": lambda metrics, y, result: metrics.root_mean_squared_error(y, result),
        "mae": lambda metrics, y, result: metrics.mean_absolute_error(y, result),
        "r2": lambda metrics, y, result: metrics.r2_score(y, result),
    },
}
DEFAULTS: dict[schema.Task, tuple[str, ...]] = {
    "classification": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
SYNONYMS = {
    "accuracy": "acc",
    "log_loss": "cross_entropy logloss nll",
    "auc": "roc_auc auroc roc_auc_score",
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error l1",
    "r2": "r2_score",
}


@contextmanager
def telling(who: str) -> Iterator[None]:
    """Make errors of the data a `CommandError`, and write warnings to standard error."""
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        # Ctrl-C ends the command, which reports it.
        warnings.filterwarnings("ignore", ".*fit interrupted", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {_told(message, who)}")
        try:
            yield
        except REPORTED as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise CommandError(f"{_told(error, who)}{notes}") from error


def _told(message: object, who: str) -> str:
    text = str(message)
    for words, ours in IN_COMMANDS.items():
        text = re.sub(words, ours.format(who), text)
    return text


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def run_train(arguments: argparse.Namespace) -> None:
    """Train, write the model, and print the scores of the rows that were held out."""
    limit, output, who = arguments.time_limit, arguments.output, "train"
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
    # Packages for the end of the command are checked before it reads.
    imported("fastmlp train")
    safetensors_file.safetensors()
    try:
        from fastmlp import TabularMLPClassifier, TabularMLPRegressor
    except ImportError as error:
        raise ImportError(needs("fastmlp train", "scikit-learn")) from error
    with telling(who):
        data = data_of(arguments.data, who, encoding=arguments.encoding)
        others = [target, *([arguments.weight] if arguments.weight else [])]
        chosen = {"columns": arguments.features, "others": others, "ignore": arguments.ignore}
        table = read_table(data, who, arguments.seed, target=target, **chosen)
        task = _task_of(table[target], target, arguments.task)
        if arguments.loss is not None and task == "classification":
            raise UsageError("argument --loss: needs a regression")
        table, valid, rows = _divided(table, others, task, arguments)
        options = {"loss": arguments.loss} if arguments.loss is not None else {}
        kind: Any = TabularMLPClassifier if task == "classification" else TabularMLPRegressor
        model = kind(
            preset=arguments.preset,
            max_iter=arguments.epochs,
            time_limit=_seconds_until(ends),
            categorical_features=[*arguments.categorical],
            cv=N_FOLDS if valid is None else None,
            random_state=arguments.seed,
            n_jobs=arguments.threads,
            **options,
        )
        of_valid = {"X_val": valid, "sample_weight_val": arguments.weight}
        fit = {"target": target, "sample_weight": arguments.weight}
        with _rows_of_table(*rows):
            model.fit(table, **fit, **(of_valid if valid is not None else {}))
        model.training_["seed"] = arguments.seed
        fastmlp.save(model, output)
        # Number of nets, score and columns.
        say(str(model.summary()).splitlines()[-1])
        scores = {} if valid is None else _scores(model, valid, f"{who}: --valid")
    say(f"model: {output}")
    _print_scores(scores, as_json=arguments.json)


def _task_of(column: Any, name: str, asked: Any) -> schema.Task:
    import pyarrow.compute as compute
    import pyarrow.types as kinds

    task, type_, labels = asked, column.type, compute.unique(column)
    n, first, of_numbers = len(labels), labels[0].as_py(), is_number(type_)
    if n == 1:
        raise ValueError(f"train: the target {name!r} has one value, {first!r}")
    if asked == "auto":
        few = kinds.is_integer(type_) and n <= MOST_CLASSES
        as_classes = few or kinds.is_boolean(type_) or not of_numbers
        task = "classification" if as_classes else "regression"
        other = "regression" if as_classes else "classification"
        into = f", {n} classes" if as_classes else ""
        hint = f" (guessed; else --task {other})" if of_numbers else ""
        say(f"task: {task} of {name!r}{into}{hint}")
    if task == "regression" and not of_numbers:
        raise TypeError(f"train: the target {name!r} holds {type_}; a regression needs numbers")
    if task == "classification" and not isinstance(first, str | bool | int | float):
        raise TypeError(f"train: the target {name!r} holds {type_}, and not classes")
    if task == "classification" and n > max(schema.ID_LEVELS, schema.ID_SHARE * len(column)):
        hint = "; for numbers: --task regression" * of_numbers
        raise ValueError(
            f"train: the target {name!r} has {n} classes in {len(column)} rows, as an id or free "
            f"text has: name another column to predict{hint}"
        )
    return "regression" if task == "regression" else "classification"


def _divided(
    table: Any, others: list[str], task: schema.Task, arguments: argparse.Namespace
) -> tuple[Any, Any, list[Any]]:
    """Return the rows to train on, the rows to validate on, and their places in the table.

    The second are None for folds. There are places if both parts are of the table.
    """
    valid, seed = arguments.valid, arguments.seed
    if not valid:
        say(f"{table.num_rows} rows to train on")
        return table, None, []
    if isinstance(valid, str):
        data = data_of([valid], "train", encoding=arguments.encoding)
        columns = [name for name in table.column_names if name not in others]
        chosen: Any = {"columns": columns, "others": others, "texts": _text_names(table)}
        verb = {"target": others[0], "verb": "validated on"}
        rows = read_table(data, "train: --valid", seed, **chosen, **verb)
        say(f"{table.num_rows} rows to train on, {rows.num_rows} to validate on")
        return table, rows, []
    out = np.random.default_rng([seed, 0]).random(table.num_rows) < valid
    if task == "classification":
        labels, first, codes, counts = np.unique(
            np.asarray(table[others[0]]),
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        # A class whose rows are all held out keeps the first for training.
        out[first[np.bincount(codes[out], minlength=len(labels)) == counts]] = False
        if single := labels[counts == 1].tolist():
            names = listed([*map(repr, single)])
            say(f"note: classes of one row are trained on, and not validated on: {names}")
    n, n_out = len(out), int(out.sum())
    if n_out in (0, n):
        raise ValueError(
            f"train: {n} rows leave {n - n_out} to train on and {n_out} to validate on; --valid "
            "takes a file, or 0 for five folds"
        )
    say(f"{n - n_out} rows to train on, {n_out} held out")
    return table.filter(~out), table.filter(out), [np.flatnonzero(~out), np.flatnonzero(out)]


def _text_names(table: Any) -> list[str]:
    """Return the columns of a table that CSV holds as texts, whatever they look like."""
    kinds = {field.name: getattr(field.type, "value_type", field.type) for field in table.schema}
    words = ("string", "date", "time")
    return [name for name, kind in kinds.items() if any(word in str(kind) for word in words)]


@contextmanager
def _rows_of_table(*places: Any) -> Iterator[None]:
    """Make errors of a fit count the rows of the table, not of a part."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        rows = places["_val" in text] if places else range(0)
        error.args = (re.sub(r"(?<=row )\d+", lambda one: _at(rows, one[0]), text),)
        raise


def _at(rows: Any, row: str) -> str:
    return str(rows[int(row)]) if int(row) < len(rows) else row


def _seconds_until(ends: float | None) -> float | None:
    left = None if ends is None else ends - time.monotonic()
    if left is not None and left <= 0:
        say(
            "note: --time-limit was over before the training began; it trains for one epoch at most"
        )
    return left if left is None else max(left, SHORTEST)


def _scores(model: Any, data: Any, who: str, names: Any = ()) -> dict[str, float]:
    target = model.training_["target"]
    choice = Choice(model._read_names, [target], model._text_names, nulls=True)
    return score(model, named_batches(data, choice, ROWS, who), target, who, names)


def run_predict(arguments: argparse.Namespace) -> None:
    """Predict the rows of a table, and write them to a file or to standard output."""
    output, who = arguments.output, "predict"
    if output is not None:
        if not output.lower().endswith(tuple(WRITERS)):
            ends = ", ".join(WRITERS)
            raise UsageError(f"argument --output: must end in {ends}, got {output!r}")
        require_new(output, force=arguments.force, who=who)
    with telling(who):
        model = _loaded(arguments)
        if arguments.probabilities and not hasattr(model, "classes_"):
            raise UsageError("argument --probabilities: the model predicts numbers")
        form = Form([*arguments.keep], rows=arguments.batch_rows)
        form = form._replace(probabilities=arguments.probabilities)
        reading = {"encoding": arguments.encoding, "nulls": False}
        data = data_of(arguments.data, who, model._text_names, **reading)
        write_rows(reader_of(model, data, form, who), output)


def run_score(arguments: argparse.Namespace) -> None:
    """Print the scores of a model on a table."""
    with telling("score"):
        model = _loaded(arguments)
        if "target" not in model.training_:
            raise ValueError(f"{arguments.model}: the model was fitted to a y without a name")
        encoding = arguments.encoding
        data = data_of(arguments.data, "score", model._text_names, encoding=encoding)
        scores = _scores(model, data, "score", arguments.metric)
    _print_scores(scores, as_json=arguments.json)


def _print_scores(scores: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(scores))
        return
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.6g}")


def _loaded(arguments: argparse.Namespace) -> Any:
    path = arguments.model
    others = getattr(arguments, "data", ())
    if not path.endswith(MODEL) and any(each.endswith(MODEL) for each in others):
        raise UsageError(f"MODEL comes before DATA, got {path!r} and {', '.join(others)}")
    model = fastmlp.load(path, n_threads=getattr(arguments, "threads", None))
    if not hasattr(model, "schema_"):
        raise ValueError(f"{path}: holds a {type(model).__name__}, not a model of fastmlp train")
    return model


def run_show(arguments: argparse.Namespace) -> None:
    """Print the columns of a model, the record of its training, and its members."""
    with telling("show"):
        model = _loaded(arguments)
    schema, training, task = model.schema_, model.training_, task_of(model)
    target, classes = training.get("target"), getattr(model, "classes_", np.array([])).tolist()
    if arguments.json:
        content = {
            "task": task,
            "target": target,
            "classes": classes or None,
            "schema": schema.to_json(),
            "members": [[str(one.recipe), one.weight, one.score] for one in model.members_],
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
            kind = f"{schema.dates[name].kind}, as {', '.join(schema.dates[name].names)}"
        lines.append(f"  {name}: {kind}")
    shown = sorted(training.keys() - {"scores", "target"})
    width = max(map(len, shown), default=0)
    lines += [f"{name:<{width}} {training[name]}" for name in shown]
    for line in (*lines, "", *str(model.summary()).split("\n")):
        print(printable(line))


def _listed(values: Any) -> str:
    return listed([*map(str, values)], MOST_SHOWN)


def task_of(model: Any) -> schema.Task:
    return "classification" if hasattr(model, "classes_") else "regression"


def score(
    model: Any, batches: Iterable[PredictBatch], target: str, who: str, names: Sequence[str] = ()
) -> dict[str, float]:
    """Return the scores of all rows by metric, by default `DEFAULTS`.

    Targets and predictions of all rows stay in memory, and the columns of one batch.

    Parameters
    ----------
    batches : rows with the column of the target among the kept ones
    """
    from sklearn import metrics

    task = task_of(model)
    known, method = METRICS[task], model.predict if task == "regression" else model.predict_proba
    for name in names:
        scalars.known(who, "metric", name, known, SYNONYMS)
    targets, predictions = list[Array](), list[Array]()
    for batch in batches:
        if batch.rows.num_rows:
            column, where = batch.kept.column(target), batch.where.by(who)
            targets.append(_targets(model, column, target, where))
            predictions.append(predicted(method, batch, named=True, who=who))
    if not targets:
        raise ValueError(f"{who}: there are no rows")
    y, values = np.concatenate(targets), np.concatenate(predictions).astype(np.float64)
    if task == "classification":
        values /= values.sum(axis=1, keepdims=True)
    return {name: float(known[name](metrics, y, values)) for name in names or DEFAULTS[task]}


def _targets(model: Any, column: Any, name: str, where: Place) -> Array:
    """Return an Arrow column as numbers, or as places of classes, shape (n_rows,)."""
    import pyarrow

    require_target(column, name, where)
    if not hasattr(model, "classes_"):
        return numbers(column, name, where)
    classes = tuple(model.classes_.tolist())
    codes = places(decoded(column).cast(pyarrow.array(classes).type), classes)
    if (codes < 0).any():
        unknown = column[int(np.argmax(codes < 0))].as_py()
        raise ValueError(
            f"{where}: the target {name!r} has the class {unknown!r}, which training did "
            f"not have; known: {', '.join(map(repr, classes[:20]))}"
        )
    return codes


def run_export(arguments: argparse.Namespace) -> None:
    """Load the model and write the file."""
    output = arguments.output
    if (ending := Path(output).suffix.lower()) not in EXPORTS:
        raise UsageError(f"argument OUT: must end in {', '.join(EXPORTS)}, got {output!r}")
    require_new(output, force=arguments.force, who="export")
    writer = getattr(fastmlp, EXPORTS[ending])
    known = inspect.signature(writer).parameters
    settings = {name: value for name, value in vars(arguments).items() if name in KEYWORDS}
    for name in settings.keys() - known.keys():
        raise UsageError(f"argument --{name.replace('_', '-')}: is not for {ending} files")
    with telling("export"):
        model = fastmlp.load(arguments.model)
        if "test_data" in settings:
            n = max(1, settings.get("tests", known["tests"].default))
            settings["test_data"] = _test_rows(model, settings["test_data"], n)
        writer(model, output, **settings)


def _test_rows(model: Any, path: str, n: int) -> Any:
    texts = getattr(model, "_text_names", ())
    choice = Choice(names_of_model(model), (), texts, nulls=True)
    rows = next(named_batches(data_of([path], "export", texts), choice, n, "export")).rows
    if not rows.num_rows:
        raise ValueError(f"export: {path!r} has no rows")
    return rows
