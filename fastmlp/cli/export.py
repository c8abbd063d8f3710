"""The command export: a model as a file that other programs predict by."""

import argparse
import inspect
from functools import partial
from pathlib import Path
from typing import Any

from fastmlp.cli.options import Parser, UsageError, at_least

# The function of fastmlp that writes files of an ending; its keywords are the options that it has.
WRITERS = {".h": "to_c", ".c": "to_c", ".onnx": "to_onnx"}


# Keywords of these functions; the options of their names have no defaults here.
KEYWORDS = ("prefix", "tests", "test_data", "dtype", "gradient", "opset")


def add_export(export: Parser) -> None:
    """Add the options of `export`."""
    export.argument_default = argparse.SUPPRESS
    export.description = (
        "Write a model of fastmlp.save as C source without dependencies, which tests itself: "
        "cc -DMODEL_TEST_MAIN -x c model.h && ./a.out; or as an ONNX graph, for its runtimes"
    )
    add = export.add_argument
    add("model", metavar="MODEL", help="a file of fastmlp.save, or of train")
    add("output", metavar="OUT", help=f"a file to write: {', '.join(WRITERS)}")
    prefix = "C: the start of all names in the file; default: model"
    add("--prefix", metavar="NAME", help=prefix)
    tests = "C: rows that the file tests itself on, or 0; default: 10"
    add("--tests", type=partial(at_least, 0), metavar="N", help=tests)
    data = "C: a table whose first rows are the test rows; default: drawn rows"
    add("--test-data", metavar="FILE", help=data)
    dtype = "precision of the numbers; default: float32 in ONNX, else the model's"
    add("--dtype", choices=("float32", "float64"), help=dtype)
    add("--gradient", action="store_true", help="C: also derivatives with respect to inputs")
    opset = "ONNX: the version of the operators; default: 17"
    add("--opset", type=partial(at_least, 0), metavar="N", help=opset)
    add("--force", action="store_true", default=False, help="overwrite OUT")


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
    known = inspect.signature(writer).parameters
    settings = {name: value for name, value in vars(arguments).items() if name in KEYWORDS}
    for name in settings.keys() - known.keys():
        raise UsageError(f"argument --{name.replace('_', '-')}: is not for {ending} files")
    with telling("export"):
        model = fastmlp.load(arguments.model)
        if "test_data" in settings:
            n = max(1, settings.get("tests", known["tests"].default))
            settings["test_data"] = _rows(model, settings["test_data"], n)
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
