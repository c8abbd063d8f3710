"""The commands train, predict, score and show: models of tables."""

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastmlp
from fastmlp.cli.files import data_of, require_new, write_rows
from fastmlp.cli.options import PREDICTIONS, CommandError, UsageError
from fastmlp.data.arrow import imported
from fastmlp.data.outputs import Form, reader_of
from fastmlp.serialization import safetensors_file
from fastmlp.tabular import TableModel
from fastmlp.tabular.plain.model import names_of
from fastmlp.tabular.plain.packing import FittedTable, estimators, train_pack_of
from fastmlp.tabular.plain.scores import score
from fastmlp.tabular.plain.training import EPOCHS, OF_PACKS, OF_PLAIN, TrainSettings, train
from fastmlp.tabular.schema import reasons
from fastmlp.tabular.schema.batches import ChosenBatches, TooLarge
from fastmlp.training.history import Report
from fastmlp.validation.suggestions import count

MODEL = ".safetensors"
# From the words of an error of Python's API to those of the command's options.
IN_OPTIONS = {
    r"^(MLP|TabularMLP\w+)\.fit: (validation_data: )?|^fit_many: nets\[\d+\]: ": "train: ",
    "sample_weight": "--weight",
    "resume=False starts over": "remove the file to start over",
}
# Seconds between two lines of progress.
EVERY = 1.0
# Levels and classes of a line.
MOST_SHOWN = 8


@contextmanager
def telling() -> Iterator[None]:
    """Make errors of the data a `CommandError`, and write warnings to standard error."""
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        # Ctrl-C ends the command, which says so.
        warnings.filterwarnings("ignore", ".*fit interrupted", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            yield
        except (ValueError, TypeError, NotImplementedError, MemoryError) as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise CommandError(f"{error}{notes}") from error


def say(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def run_train(arguments: argparse.Namespace) -> None:
    """Train, write the model, and print the scores of the rows that were held out."""
    limit = arguments.time_limit
    ends = None if limit is None else time.monotonic() + limit
    options = vars(arguments)
    if not arguments.data:
        raise UsageError("the following arguments are required: DATA; see fastmlp train --help")
    if arguments.target is None:
        if not all(path.lower().endswith(".npz") for path in arguments.data):
            raise UsageError(
                "the following arguments are required: --target; see fastmlp train --help"
            )
        options["target"] = "y"
    output = arguments.output
    if not output.endswith(MODEL):
        raise UsageError(f"argument --output: must end in {MODEL}, got {output!r}")
    fields: Any = {name: options[name] for name in TrainSettings._fields if name in options}
    settings = TrainSettings(**fields, ends=ends)
    settings = settings._replace(task=None if arguments.task == "auto" else arguments.task)
    _check_options(settings, arguments.model)
    require_new(output, force=arguments.force, who="train")
    _require_packages(arguments.model)
    with telling(), in_options():
        if isinstance(arguments.valid, str):
            settings = settings._replace(
                valid=data_of([arguments.valid], "train", encoding=arguments.encoding)
            )
        data = data_of(arguments.data, "train", encoding=arguments.encoding)
        options = _trained(data, settings, arguments, output)
    say(f"model: {output}")
    _print_scores(options.get("scores", {}), as_json=arguments.json)


def _trained(
    data: Any, settings: TrainSettings, arguments: argparse.Namespace, output: str
) -> dict[str, Any]:
    """Train and write a model; return the record of its training."""
    if arguments.model == "tabular":
        try:
            ensemble = train_pack_of(data, settings, say, "train")
        except TooLarge as error:
            say(f"note: --model plain, as the table does not fit into memory: {error}")
        else:
            fastmlp.save(ensemble, output)
            # How many nets there are, their score, the columns.
            say(str(ensemble.summary()).splitlines()[-1])
            return FittedTable(ensemble, output).training
    progress = _Progress(settings.epochs or EPOCHS, quiet=arguments.quiet)
    model = train(data, settings, say, progress, "train")
    fastmlp.save(model, output)
    _tell_end(model)
    return model.training


def _check_options(settings: TrainSettings, model: str) -> None:
    """Check that no option is of the other kind of model, and that the target is not ignored."""
    names, other = (OF_PLAIN, "plain") if model == "tabular" else (OF_PACKS, "tabular")
    for name in names:
        if getattr(settings, name) != TrainSettings._field_defaults[name]:
            option = name.replace("_", "-")
            raise UsageError(f"argument --{option}: needs --model {other}")
    if settings.target in settings.ignore:
        raise UsageError(f"argument --ignore: {settings.target!r} is the target")


def _require_packages(model: str) -> None:
    """Import all that the command needs at its end too, before it reads."""
    imported("fastmlp train")
    safetensors_file.safetensors()
    if model == "tabular":
        estimators()


@contextmanager
def in_options() -> Iterator[None]:
    """Raise errors of a fit in words of the command: of its options, not of arguments."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for words, ours in IN_OPTIONS.items():
            text = re.sub(words, ours, text)
        error.args = (text,)
        raise


class _Progress:
    """A callback that writes the losses, at most once a second, and those of the last epoch."""

    def __init__(self, epochs: int, *, quiet: bool) -> None:
        self._epochs, self._quiet, self._last = epochs, quiet, 0.0

    def __call__(self, report: Report) -> None:
        now, epoch = time.monotonic(), report.epoch + 1
        if self._quiet or (epoch not in (1, self._epochs) and now - self._last < EVERY):
            return
        self._last = now
        held_out = report.validation_loss
        validation = "" if held_out is None else f"  validation loss {held_out:.4g}"
        say(f"epoch {epoch:>4}  loss {report.loss:.4g}{validation}")


def _tell_end(model: TableModel) -> None:
    training = model.training
    best = f", the best is {training['best_epoch']}" if "best_epoch" in training else ""
    why = fastmlp.Status[training["status"]].value
    say(f"{count(training['epochs'], 'epoch')}{best}: {why}")


def run_predict(arguments: argparse.Namespace) -> None:
    """Predict the rows of a table, and write them to a file or to standard output."""
    output, who = arguments.output, "predict"
    if output is not None:
        if not output.lower().endswith(PREDICTIONS):
            ends = ", ".join(PREDICTIONS)
            raise UsageError(f"argument --output: must end in {ends}, got {output!r}")
        require_new(output, force=arguments.force, who=who)
    with telling():
        model = _loaded(arguments)
        if arguments.probabilities and model.classes_ is None:
            raise UsageError("argument --probabilities: the model predicts numbers")
        form = Form([*arguments.keep], rows=arguments.batch_rows)
        form = form._replace(probabilities=arguments.probabilities)
        if arguments.compute_dtype != "float32":
            if isinstance(model, FittedTable):
                raise UsageError("argument --compute-dtype: needs a model of --model plain")
            form = form._replace(compute_dtype=arguments.compute_dtype)
        reading = {"encoding": arguments.encoding, "nulls": False}
        data = data_of(arguments.data, who, model.text_names, **reading)
        reader = reader_of(model, data, form, who)
        write_rows(reader, output)


def run_score(arguments: argparse.Namespace) -> None:
    """Print the scores of a model on a table."""
    with telling():
        model = _loaded(arguments)
        encoding = arguments.encoding
        data = data_of(arguments.data, "score", model.text_names, encoding=encoding)
        read = names_of(model.columns)
        rows = ChosenBatches(data, read, model.text_names, "score", [model.target.name])
        scores = score(model, rows, "score", arguments.metric)
    _print_scores(scores, as_json=arguments.json)


def _print_scores(scores: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(scores))
        return
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.6g}")


def run_show(arguments: argparse.Namespace) -> None:
    """Print what a model was trained on, and its layers."""
    with telling():
        model = _loaded(arguments)
    if isinstance(model, FittedTable):
        show_ensemble(model, as_json=arguments.json)
    else:
        show_net(model, as_json=arguments.json)


def _loaded(arguments: argparse.Namespace) -> TableModel | FittedTable:
    path = arguments.model
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path!r}")
    others = getattr(arguments, "data", ())
    if not path.endswith(MODEL) and any(each.endswith(MODEL) for each in others):
        raise UsageError(f"MODEL comes before DATA, got {path!r} and {', '.join(others)}")
    model = fastmlp.load(path, n_threads=getattr(arguments, "threads", None))
    if hasattr(model, "schema_"):
        return FittedTable(model, path)
    if not isinstance(model, TableModel):
        raise ValueError(f"{path}: holds a {type(model).__name__}, not a model of fastmlp train")
    return model


def show_net(model: TableModel, *, as_json: bool) -> None:
    """Print the columns of a net, the record of its training, and its layers."""
    content: dict[str, Any] = {
        "task": model.task,
        "target": model.target._asdict(),
        "columns": [column._asdict() for column in model.columns],
        "layer_sizes": list(model.net.layer_sizes),
        "training": model.training,
    }
    if as_json:
        print(json.dumps(content))
        return
    _show_task(model)
    print(f"columns   {len(model.feature_names)}")
    for column in model.columns:
        kind = f"center {column.center:.6g}, scale {column.scale:.6g}"
        if column.levels is not None:
            kind = f"levels {_listed(column.levels)}"
        part = "" if column.part is None else f"{column.part}, "
        print(f"  {column.name}: {part}{kind}{', and whether missing' * column.indicates}")
    for one in reasons(model.training.get("left_out", {})):
        print(f"left out: {one}")
    _show_training(model.training)
    print(f"\n{model.net.summary()}")


def show_ensemble(model: FittedTable, *, as_json: bool) -> None:
    """Print the columns of an ensemble, the record of its training, and its members."""
    ensemble, schema = model.model, model.model.schema_
    if as_json:
        content = {
            "task": model.task,
            "target": model.training.get("target"),
            "classes": None if model.classes_ is None else model.classes_.tolist(),
            "schema": schema.to_json(),
            "members": [[str(one.recipe), one.weight, one.score] for one in ensemble.members_],
            "validation_score": ensemble.validation_score_,
            "training": model.training,
        }
        print(json.dumps(content))
        return
    _show_task(model)
    print(f"columns   {len(schema.read_names)}")
    for name in schema.read_names:
        kind = "numbers"
        if name in schema.levels:
            kind = f"levels {_listed(schema.levels[name])}"
        elif name in schema.dates:
            kind = f"{schema.dates[name].kind}, as {', '.join(schema.dates[name].names)}"
        print(f"  {name}: {kind}")
    _show_training(model.training)
    print(f"\n{ensemble.summary()}")


def _show_task(model: TableModel | FittedTable) -> None:
    known = "target" in model.training or isinstance(model, TableModel)
    print(f"task      {model.task}{f' of {model.target.name!r}' if known else ''}")
    if model.classes_ is not None:
        print(f"classes   {_listed(model.classes_.tolist())}")


def _show_training(training: dict[str, Any]) -> None:
    for name in sorted(training.keys() - {"scores", "target", "left_out"}):
        print(f"{name:<9} {training[name]}")


def _listed(values: Any) -> str:
    shown = ", ".join(map(str, values[:MOST_SHOWN]))
    return shown + (f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else "")
