"""The options of the commands, their parser, whose errors are one line, and files of settings."""

import argparse
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

from fastmlp.data import csv_files
from fastmlp.rules import activations, losses
from fastmlp.validation.suggestions import Synonyms, suggestion

# From an option, or advice, to the words of other programs, without their hyphens.
SYNONYMS = {
    "--target": "t y label label_column response",
    "--preset": "presets quality",
    "--task": "objective problem_type",
    "--valid": "validation validation_split validation_fraction test_size valid_data eval_file",
    "--weight": "weight_column sample_weight weights",
    "--features": "columns x",
    "--ignore": "ignore_column drop exclude",
    "--categorical": "categorical_feature categories",
    "--hidden": "hidden_layer_sizes layers units hidden_layers",
    "--epochs": "e max_iter num_epochs n_epochs iterations",
    "--batch-size": "b bs batch minibatch",
    "--batch-rows": "batch chunk_size chunksize",
    "--learning-rate": "lr eta learning_rate_init",
    "--l2": "alpha weight_decay lambda",
    "--patience": "early_stopping early_stopping_round n_iter_no_change",
    "--time-limit": "time timeout max_time",
    "--seed": "s random_state random_seed",
    "--threads": "j n_jobs num_threads n_threads jobs nthread",
    "--output": "o out output_model output_result model_output f file",
    "--force": "overwrite",
    "--quiet": "q silent",
    "--probabilities": "proba probability predict_proba",
    "--keep": "id id_column",
    "--metric": "scoring eval_metric",
    "--compute-dtype": "mixed_precision precision dtype amp bf16 bfloat16",
    "--prefix": "name",
    "--tests": "n_tests test_rows",
    "--test-data": "data rows calibration_data",
    "--dtype": "precision type",
    "--gradient": "jacobian derivatives",
    "give its value without an option": "data input i m model",
}
# From a command to the words of other programs.
VERBS = {"export": "convert to_c codegen dump"}
CHOICE = re.compile(r"(.*invalid choice: )'?(.*?)'? \(choose from (.*)\)")
FILES = ".parquet, .arrow, .feather, .csv, .csv.gz or .npz files, patterns of them, or - for CSV"
PREDICTIONS = (".parquet", ".arrow", ".feather", ".csv")
# Actions that are no settings.
NO_SETTINGS = ("help", "config", "dry_run")
# Words of `--model`, which `--preset` took before.
MODELS = ("tabular", "plain")
PRESETS = ("fast", "balanced", "best")
# The largest seed that scikit-learn takes.
MOST_SEED = 2**32 - 1


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; a command's options are added when it is used."""

    add_options: Callable[["Parser"], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the command's options, once, and parse."""
        if self.add_options is not None:
            add_options, self.add_options = self.add_options, None
            add_options(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print an error, and exit with code 2."""
        if choice := CHOICE.fullmatch(message):
            start, word, choices = choice.groups()
            known = [each.strip("' ") for each in choices.split(",")]
            verbs = {verb: words for verb, words in VERBS.items() if verb in known}
            message = f"{start}{word!r}{suggestion(word, known, verbs)} known: {', '.join(known)}"
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parsed(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; those that are none are an error of the command's parser."""
    namespace: argparse.Namespace
    namespace, extra = parser.parse_known_args(arguments)
    if extra:
        command: Parser = getattr(namespace, "parser", parser)
        command.error(_unknown(extra, command))
    return namespace


def _unknown(extra: list[str], command: argparse.ArgumentParser) -> str:
    """The message for arguments that a command does not know."""
    first = next((each for each in extra if each.startswith("-")), None)
    if first is None:
        several = "values of one option are separated by commas, without spaces"
        return f"unrecognized arguments: {' '.join(extra)}; {several}"
    word = first.split("=")[0]
    options = [each for each in command._option_string_actions if each.startswith("--")]
    here: dict[str, Any] = {
        key: words for key, words in SYNONYMS.items() if key in options or " " in key
    }
    return f"there is no option {word}{suggestion(word, options, here).rstrip(';')}"


class CommandError(Exception):
    """A file or its data are not what they must be: exit code 1."""


class UsageError(Exception):
    """A wrong option, or one that is missing: exit code 2."""


def add_train(train: Parser) -> None:
    """Add the options of `train`: one for each field of its settings, and the command's own."""
    from fastmlp.tabular.schema.rule import Task

    train.description = (
        "Train a net on a table, and write it to a file that predicts from raw columns."
        " Notes and progress go to standard error, the scores of the held-out rows to standard "
        "output. Options with [plain] are those of --model plain alone."
    )
    add, setting = train.add_argument, partial(_add_setting, train)
    add("data", nargs="*", metavar="DATA", help=FILES)
    _add_encoding(train)
    setting("target", "the column to predict; needed (.npz: default y)")
    model = (
        "tabular: an ensemble of nets on encoded columns, in memory; plain: one net, of tables of"
        " any size; default: tabular, and plain where the table does not fit into memory"
    )
    add("--model", choices=MODELS, help=model)
    setting("preset", "fast, balanced or best: how large the ensemble is", type=_preset)
    setting("task", choices=("auto", *get_args(Task)), default="auto", metavar=None)
    rows = "rows to validate on; default: 0.2; 0 for none: of tabular five folds"
    setting("valid", rows, type=_valid, metavar="FILE|FRACTION")
    setting("weight", "the column of the rows' weights")
    setting("features", "the columns to learn from; default: all")
    setting("ignore", "columns to leave out")
    setting("categorical", "columns of numbers that are names; texts always are")
    setting("hidden")
    setting("activation", type=_activation)
    setting("loss", "default: by the task", type=loss_name)
    setting("epochs", "at most; default: 200, of plain 100")
    batch = "default: auto, a hundredth of the rows, from 16 to 256"
    setting("batch_size", batch, type=lambda text: None if text == "auto" else positive(text))
    setting("learning_rate", "of Adam")
    setting("l2", "strength of the L2 penalty", type=_number)
    setting("patience", "stop after this number of epochs without a lower validation loss")
    limit = "from the command's start to the end of training; scores and the file come after it"
    add("--time-limit", type=_above_zero, metavar="SECONDS", help=limit)
    setting("buffer_rows", "rows to hold in memory; default: what an eighth of it holds")
    setting("seed", type=seed)
    setting("threads", "maximum number of threads; default: all")
    setting("checkpoint", "keep the fit's progress there, and go on from it", metavar="PATH")
    add("--output", default="model.safetensors", metavar="PATH", help="default: model.safetensors")
    add("--force", action="store_true", help="overwrite the output")
    add("--json", action="store_true", help="print the scores as JSON")
    add("--quiet", action="store_true", help="no progress on standard error")
    add("--config", metavar="TOML", help="options from a file; those of the command line win")
    add("--dry-run", action="store_true", help="print all settings as TOML, and train nothing")


def _add_setting(train: Parser, name: str, text: str = "", **own: Any) -> None:
    """Add the option of a field of `TrainSettings`: its name, type and default, and help.

    `text` gets the default, and the kind of model that the option needs; `own` replaces the rest.
    """
    from fastmlp.tabular.plain.training import OF_PACKS, OF_PLAIN, TrainSettings

    annotation = get_type_hints(TrainSettings)[name]
    kinds = get_args(annotation)
    convert, metavar = KINDS.get(kinds[0] if NoneType in kinds else annotation, KINDS[str])
    default = TrainSettings._field_defaults.get(name)
    if default not in (None, ()) and "default" not in text:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text}{'; ' * bool(text)}default: {shown}"
    text = "[plain] " * (name in OF_PLAIN) + "[tabular] " * (name in OF_PACKS) + text
    option = {"type": convert, "metavar": metavar, "default": default, "help": text}
    train.add_argument(f"--{name.replace('_', '-')}", **{**option, **own})


def add_predict(predict: Parser) -> None:
    """Add the options of `predict`."""
    from fastmlp.data.batches import ROWS

    predict.description = "Predict the rows of a table: columns are found by name."
    _add_model_and_data(predict)
    add = predict.add_argument
    add("--output", metavar="PATH", help=f"{', '.join(PREDICTIONS)}; default: CSV, to the screen")
    add("--probabilities", action="store_true", help="of each class too")
    add("--keep", type=names, default=(), metavar="A,B", help="columns to copy")
    rows = f"rows to predict at a time, and of a row group; default: {ROWS}"
    add("--batch-rows", type=positive, default=ROWS, metavar="N", help=rows)
    mixed = "bfloat16: mixed precision, of a model of --model plain"
    add("--compute-dtype", choices=("float32", "bfloat16"), default="float32", help=mixed)
    add("--force", action="store_true", help="overwrite the output")
    _add_encoding(predict)
    add("--threads", type=positive, metavar="N")


def add_score(score: Parser) -> None:
    """Add the options of `score`."""
    _add_model_and_data(score)
    metrics = "accuracy, log_loss, auc; of numbers rmse, mae, r2"
    score.add_argument("--metric", type=names, default=(), metavar="A,B", help=metrics)
    score.add_argument("--json", action="store_true", help="print the scores as JSON")
    _add_encoding(score)
    score.add_argument("--threads", type=positive, metavar="N")


def add_show(show: Parser) -> None:
    """Add the options of `show`."""
    show.add_argument("model", metavar="MODEL", help="a file of fastmlp train")
    show.add_argument("--json", action="store_true", help="print it as JSON")


def _add_model_and_data(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file of fastmlp train")
    parser.add_argument("data", nargs="+", metavar="DATA", help=FILES)


def _add_encoding(parser: Parser) -> None:
    text = "of CSV files, such as cp1252 or utf-16; default: utf-8"
    parser.add_argument("--encoding", type=_encoding, metavar="NAME", help=text)


def names(text: str) -> tuple[str, ...]:
    """Return names that are separated by commas."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def take_config(path: str, parser: argparse.ArgumentParser) -> None:
    """Make the settings of a TOML file the defaults of a command.

    Raises
    ------
    UsageError
        If it is no TOML, or has a key or a value that is none of the command's.
    OSError
        If it cannot be read.
    """
    try:
        config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML: {error}") from None
    known = {one.dest: one for one in parser._actions if one.dest not in NO_SETTINGS}
    for key, value in config.items():
        action = known.get(key.replace("-", "_"))
        if action is None:
            shown = [name.replace("_", "-") for name in known]
            raise UsageError(f"{path}: {key!r} is no option{suggestion(key, shown)} see --help")
        try:
            parser.set_defaults(**{action.dest: _value(value, action)})
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UsageError(f"{path}: {key}: {error}") from None


def _value(value: Any, action: argparse.Action) -> Any:
    """Return the value of an option that a file of settings has."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, got {value!r}")
        return value
    if isinstance(value, bool | dict):
        raise ValueError(f"must be a text, a number or a list of them, got {value!r}")
    if action.dest == "data" or (action.type is names and isinstance(value, list)):
        return tuple(map(str, value if isinstance(value, list) else [value]))
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    convert: Any = action.type or str
    converted = convert(text)
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"must be one of {', '.join(action.choices)}, got {converted!r}")
    return converted


def as_toml(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Return all settings as TOML; those that are not given are left out."""
    import json

    lines = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.dest in NO_SETTINGS or value is None:
            continue
        shown = list(value) if isinstance(value, tuple) else value
        lines.append(f"{action.dest.replace('_', '-')} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines)


def settle_model(arguments: argparse.Namespace) -> str | None:
    """Set the kind of model; return a note if `--preset` named it, as it did once."""
    preset = arguments.preset
    if preset not in MODELS:
        arguments.model = arguments.model or MODELS[0]
        return None
    arguments.model, arguments.preset = arguments.model or preset, "balanced"
    return f"note: --preset {preset} is now --model {preset}"


def _preset(text: str) -> str:
    return text if text in MODELS else _known(text, PRESETS, {})


def _activation(text: str) -> str:
    return _known(text, activations.RULES, activations.SYNONYMS)


def loss_name(text: str) -> str:
    """Return the name of a loss; what is none is an error of the command line."""
    return _known(text, losses.LOSSES, losses.SYNONYMS)


def _known(text: str, table: Iterable[str], synonyms: Synonyms) -> str:
    """Check that a word is one of those in a table."""
    if text not in table:
        message = f"got {text!r}{suggestion(text, table, synonyms)} known: {', '.join(table)}"
        raise argparse.ArgumentTypeError(message)
    return text


def _encoding(text: str) -> str:
    try:
        return csv_files.known(text, "encoding")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("encoding: ")) from None


def at_least(least: int, text: str) -> int:
    """An integer of an option that must not be less."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """An integer of 1 or more."""
    return at_least(1, text)


def seed(text: str) -> int:
    """A seed that scikit-learn takes too."""
    if (number := at_least(0, text)) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SEED}, got {text!r}")
    return number


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        message = f"must be numbers of units with commas, such as 128,128, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return tuple(map(int, parts))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, got {text!r}")
    return number


def _above_zero(text: str) -> float:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return number


def _valid(text: str) -> Any:
    try:
        fraction = float(text)
    except ValueError:
        if not text.endswith("%"):
            return text
        fraction = -1.0
    if not 0 <= fraction < 1:
        message = f"must be a file, or a fraction in [0, 1) such as 0.2, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return fraction


# Of the type of a setting: the converter of its option's text, and a word for its value.
KINDS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "NAME"),
    int: (positive, "N"),
    float: (_above_zero, "X"),
    tuple[int, ...]: (_sizes, "N,N"),
    tuple[str, ...]: (names, "A,B"),
}
