"""The options of the commands, and the types of their values."""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from fastmlp import CSVFile
from fastmlp.cli.parser import Parser
from fastmlp.extend import messages

DATA_FILES = (
    ".parquet, .arrow, .feather, .csv, .csv.gz or .npz files, patterns of them, "
    "or - for CSV"
)
# Endings of predictions, and rows of a batch.
OUTPUTS = (".parquet", ".csv", ".arrow", ".feather", ".ipc")
BATCH_ROWS = 65536
# Presets and losses of estimators that import scikit-learn.
PRESET_NAMES = ("fast", "balanced", "best")
NUMBER_LOSSES = (
    "squared_error",
    "absolute_error",
    "quantile",
    "poisson",
    "gamma",
    "tweedie",
)
PICTURES = (".png", ".pdf", ".svg")
# scikit-learn's largest seed.
MOST_SEED = 2**32 - 1
# Functions of fastmlp that write files of an ending; their keywords are options.
EXPORTS = {".h": "to_c", ".c": "to_c", ".onnx": "to_onnx"}


def add_train(train: Parser) -> None:
    """Add the options of `train`, without an import of scikit-learn."""
    train.description = (
        "Train an ensemble of nets on a table, and write it to a file that predicts "
        "from raw columns. Rows of a table that does not fit into memory are drawn by "
        "the seed. Notes go to standard error, the scores of the held-out rows to "
        "standard output."
    )
    add = train.add_argument
    tasks = ("auto", "classification", "regression")
    add("data", nargs="*", metavar="DATA", help=DATA_FILES)
    _add_encoding(train)
    add(
        "--target",
        metavar="NAME",
        help="the column to predict; needed (.npz: default y)",
    )
    size = "fast, balanced or best: how large the ensemble is; default: balanced"
    preset: Any = {"type": partial(_known, table=PRESET_NAMES), "default": "balanced"}
    add("--preset", **preset, metavar="NAME", help=size)
    add("--task", choices=tasks, default="auto", help="default: auto, by the target")
    loss = f"the loss of a regression: {', '.join(NUMBER_LOSSES)}"
    add("--loss", type=partial(_known, table=NUMBER_LOSSES), metavar="NAME", help=loss)
    scoring = (
        "the score that nets are selected by; also the labels: balanced_accuracy, f1"
    )
    add("--scoring", metavar="NAME", help=scoring)
    valid = "rows to validate on; default: 0.2; with 0, five folds"
    add("--valid", type=_valid, default=0.2, metavar="FILE|FRACTION", help=valid)
    add("--weight", metavar="NAME", help="the column of the rows' weights")
    features = "the columns to learn from; default: all"
    add("--features", type=names, default=(), metavar="A,B", help=features)
    add("--ignore", type=names, default=(), metavar="A,B", help="columns to leave out")
    categorical = "columns of numbers that are categories, as texts are"
    add("--categorical", type=names, default=(), metavar="A,B", help=categorical)
    add("--epochs", type=positive, metavar="N", help="at most; default: 200")
    limit = "limit from the start of the command to the end of training; scores and the file follow"
    add("--time-limit", type=_above_zero, metavar="SECONDS", help=limit)
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="maximum number of threads; default: all",
    )
    add(
        "--output",
        default="model.safetensors",
        metavar="PATH",
        help="default: model.safetensors",
    )
    add("--force", action="store_true", help="overwrite the output")
    add("--json", action="store_true", help="print the scores as JSON")


def add_predict(predict: Parser) -> None:
    predict.description = "Predict the rows of a table: columns are found by name."
    _add_model_and_data(predict)
    add = predict.add_argument
    add(
        "--output",
        metavar="PATH",
        help=f"{', '.join(OUTPUTS)}; default: CSV, to the screen",
    )
    add(
        "--probabilities", action="store_true", help="add the probability of each class"
    )
    add("--keep", type=names, default=(), metavar="A,B", help="columns to copy")
    rows = f"rows to predict at a time, and of a row group; default: {BATCH_ROWS}"
    add("--batch-rows", type=positive, default=BATCH_ROWS, metavar="N", help=rows)
    add("--force", action="store_true", help="overwrite the output")
    _add_encoding(predict)
    add("--threads", type=positive, metavar="N")


def add_score(score: Parser) -> None:
    _add_model_and_data(score)
    metrics = (
        "classes: accuracy, balanced_accuracy, f1, auc, average_precision, log_loss; "
        "numbers: r2, rmse, mae"
    )
    score.add_argument("--metric", type=names, default=(), metavar="A,B", help=metrics)
    score.add_argument("--json", action="store_true", help="print the scores as JSON")
    _add_encoding(score)
    score.add_argument("--threads", type=positive, metavar="N")


def add_report(report: Parser) -> None:
    report.description = (
        "Write scores, pictures, columns and the worst rows of a model to one HTML "
        "file, which opens without a network. DATA are rows with the target, not those "
        "of the training."
    )
    add = report.add_argument
    add("model", metavar="MODEL", help="a file of fastmlp.save, or of train")
    add("data", nargs="+", metavar="DATA", help=DATA_FILES)
    add("--target", metavar="NAME", help="the target's column, if MODEL lacks it")
    add("--output", default="report.html", metavar="PATH", help="default: report.html")
    add("--force", action="store_true", help="overwrite the output")
    _add_encoding(report)
    add("--threads", type=positive, metavar="N")


def add_show(show: Parser) -> None:
    show.add_argument("model", metavar="MODEL", help="a file of fastmlp train")
    show.add_argument("--json", action="store_true", help="print it as JSON")


def add_export(export: Parser) -> None:
    """Add the options of `export`, which are keywords of the function that writes."""
    export.argument_default = argparse.SUPPRESS
    export.description = (
        "Write a model of fastmlp.save as an ONNX graph, or as C source without "
        "dependencies. The C source tests itself: cc -DMODEL_TEST_MAIN -x c model.h && "
        "./a.out"
    )
    add = export.add_argument
    add("model", metavar="MODEL", help="a file of fastmlp.save, or of train")
    add("output", metavar="OUT", help=f"a file to write: {', '.join(EXPORTS)}")
    prefix = "C: the start of all names in the file; default: model"
    add("--prefix", metavar="NAME", help=prefix)
    tests = "C: rows that the file tests itself on, or 0; default: 10"
    add("--tests", type=partial(at_least, 0), metavar="N", help=tests)
    data = "C: a table whose first rows are the test rows; default: drawn rows"
    add("--test-data", metavar="FILE", help=data)
    dtype = "precision of the numbers; default: the model's"
    add("--dtype", choices=("float32", "float64"), help=dtype)
    add(
        "--gradient",
        action="store_true",
        help="C: also derivatives with respect to inputs",
    )
    fortran = "C: a module for Fortran beside it, such as net.f90"
    add("--fortran", metavar="FILE", help=fortran)
    opset = "ONNX: the version of the operators; default: 17"
    add("--opset", type=partial(at_least, 0), metavar="N", help=opset)
    add("--force", action="store_true", default=False, help="overwrite OUT")


def add_demo(demo: Parser) -> None:
    add = demo.add_argument
    picture = Path("fastmlp-demo.png")
    add("--epochs", type=positive, default=30, metavar="N", help="default: 30")
    text = f"where to save the picture; default: {picture}"
    add("--output", type=_picture, default=picture, metavar="PATH", help=text)
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")


def add_info(info: Parser) -> None:
    info.add_argument("--json", action="store_true", help="print it as JSON")


def add_warmup(ahead: Parser) -> None:
    add = ahead.add_argument
    mixed = "bfloat16: mixed precision too"
    add("--compute-dtype", choices=["bfloat16"], metavar="DTYPE", help=mixed)
    one = "the dtype of the nets; default: float32 and float64"
    add("--dtype", choices=["float32", "float64"], metavar="DTYPE", help=one)
    shared = "let other users read the cache, which NUMBA_CACHE_DIR names"
    add("--shared", action="store_true", help=shared)


def _add_model_and_data(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file of fastmlp train")
    parser.add_argument("data", nargs="+", metavar="DATA", help=DATA_FILES)


def _add_encoding(parser: Parser) -> None:
    text = "encoding of CSV files, such as cp1252 or utf-16; default: utf-8"
    parser.add_argument("--encoding", type=_encoding, metavar="NAME", help=text)


def names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _known(text: str, table: Iterable[str]) -> str:
    if text not in table:
        message = (
            f"got {text!r}{messages.suggestion(text, table)} known: {', '.join(table)}"
        )
        raise argparse.ArgumentTypeError(message)
    return text


def _encoding(text: str) -> str:
    try:
        return CSVFile("x.csv", text).encoding
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("CSVFile: ")) from None


def at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"must be an integer of {least} or more, got {text!r}"
        )
    return int(text)


def positive(text: str) -> int:
    return at_least(1, text)


def seed(text: str) -> int:
    if (number := at_least(0, text)) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SEED}, got {text!r}")
    return number


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
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


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(
            f"must end in {', '.join(PICTURES)}, got {text!r}"
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path
