"""The command export: a model as a file that other programs predict by."""

import argparse
import inspect
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from fastmlp.cli.options import Parser, UsageError, at_least

# The function of fastmlp that writes files of an ending; its keywords are the options that it has.
WRITERS = {".h": "to_c", ".c": "to_c", ".onnx": "to_onnx"}


class ExportSettings(NamedTuple):
    """The keywords of `WRITERS`, which are options, and their defaults."""

    prefix: str = "model"
    tests: int = 10
    test_data: Any = None
    dtype: str | None = None
    gradient: bool = False
    opset: int = 17


def add_export(export: Parser) -> None:
    """Add the options of `export`."""
    default = ExportSettings()
    export.description = (
        "Write a model of fastmlp.save as C source without dependencies, which tests itself: "
        "cc -DMODEL_TEST_MAIN -x c model.h && ./a.out; or as an ONNX graph, for its runtimes"
    )
    add = export.add_argument
    add("model", metavar="MODEL", help="a file of fastmlp.save, or of train")
    add("output", metavar="OUT", help=f"a file to write: {', '.join(WRITERS)}")
    prefix = f"of C: the start of all names in it; default: {default.prefix}"
    add("--prefix", default=default.prefix, metavar="NAME", help=prefix)
    tests = f"of C: rows that it tests itself on; 0 for none; default: {default.tests}"
    add("--tests", type=_count, default=default.tests, metavar="N", help=tests)
    data = "of C: a table of such rows: the first are taken; default: rows that are drawn"
    add("--test-data", metavar="FILE", help=data)
    dtype = "precision of its numbers; default: the model's, of ONNX float32"
    add("--dtype", choices=("float32", "float64"), help=dtype)
    add("--gradient", action="store_true", help="of C: derivatives with respect to inputs too")
    opset = f"of ONNX: the version of its operators; default: {default.opset}"
    add("--opset", type=_count, default=default.opset, metavar="N", help=opset)
    add("--force", action="store_true", help="overwrite OUT")


def run_export(arguments: argparse.Namespace) -> None:
    """Load the model and write the file."""
    output = arguments.output
    if (ending := Path(output).suffix.lower()) not in WRITERS:
        raise UsageError(f"argument OUT: must end in {', '.join(WRITERS)}, got {output!r}")

    import fastmlp
    from fastmlp.cli.files import require_new
    from fastmlp.cli.tables import telling

    require_new(output, force=arguments.force, who="export")
    writer = getattr(fastmlp, WRITERS[ending])
    settings = _settings(arguments, inspect.signature(writer).parameters, ending)
    with telling("export"):
        model = fastmlp.load(arguments.model)
        if "test_data" in settings and arguments.tests:
            settings["test_data"] = _rows(model, arguments.test_data, arguments.tests)
        writer(model, output, **settings)


def _rows(model: Any, path: str, n: int) -> Any:
    """The first rows of a file, as `to_c` takes them for a model."""
    from fastmlp.cli.files import data_of
    from fastmlp.data.batches import Choice, named_batches, names_of_model

    texts = getattr(model, "_text_names", ())
    choice = Choice(names_of_model(model), (), texts, nulls=True)
    rows = next(named_batches(data_of([path], "export", texts), choice, n, "export")).rows
    if not rows.num_rows:
        raise ValueError(f"export: {path!r} has no rows")
    return rows


def _settings(arguments: argparse.Namespace, known: Container[str], ending: str) -> dict[str, Any]:
    """The options of a writer that have other values than their defaults; others have none."""
    settings = {}
    for name, default in ExportSettings()._asdict().items():
        value = getattr(arguments, name)
        if value == default:
            continue
        settings[name] = value
        if name not in known:
            raise UsageError(f"argument --{name.replace('_', '-')}: is not for {ending} files")
    return settings


def _count(text: str) -> int:
    return at_least(0, text)
