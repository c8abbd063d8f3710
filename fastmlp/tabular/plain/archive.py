"""From a `TableModel` to the content of a file and back: the net, and what its columns are."""

from collections.abc import Mapping
from typing import Any

from fastmlp.model import core_of, unpacked
from fastmlp.serialization import model_state
from fastmlp.serialization.safetensors_file import Content, FileError
from fastmlp.tabular.plain.model import Column, TableModel, Target, names_of
from fastmlp.tabular.schema.dates import Parts
from fastmlp.validation import scalars

KIND = "TableModel"
LABELS = (str, bool, int, float)


def pack(model: TableModel, *, training: bool) -> Content:
    """Return the content of a file, with the net's training state if `training`.

    Raises
    ------
    ValueError
        If a parameter is not finite, or a setting has no name.
    """
    engine, state = core_of(model.net)
    net = model_state.pack(model_state.capture(engine.network, state, training=training))
    header = {
        "net": net.header,
        "columns": [column._asdict() for column in model.columns],
        "target": model.target._asdict(),
        "training": model.training,
    }
    return Content(KIND, header, net.arrays)


def unpack(content: Content, own: Mapping[str, Any], n_threads: int | None) -> TableModel:
    """Return the model in a file's content, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the content is not that of such a model.
    """
    header = content.header
    net = unpacked(Content(model_state.KIND, header["net"], content.arrays), own, n_threads)
    columns, target = tuple(map(_column, header["columns"])), _target(header["target"])
    names = [(column.name, column.part) for column in columns]
    if len({*names}) != len(names) or target.name in names_of(columns):
        raise FileError("two columns of one name")
    sizes = (sum(column.n_inputs for column in columns), target.n_outputs)
    if sizes != (net.layer_sizes[0], net.layer_sizes[-1]):
        raise FileError(f"columns of {sizes} inputs and outputs, for layers of {net.layer_sizes}")
    check_training(header["training"])
    return TableModel(columns, target, net, header["training"])


def check_training(training: Any) -> None:
    """Check the report of a training, of a file.

    Raises
    ------
    FileError
        If it is no object, or `left_out` in it is none.
    """
    if not isinstance(training, dict) or not isinstance(training.get("left_out", {}), dict):
        raise FileError("training must be an object, and left_out in it one too")


def _column(fields: Mapping[str, Any]) -> Column:
    column = Column(**fields)
    if type(column.indicates) is not bool:
        raise FileError(f"indicates must be true or false, got {column.indicates!r}")
    if column.part is not None:
        Parts.from_json({"parts": [column.part], "origin": column.origin})
    levels = column.levels
    if levels is not None:
        if not all(isinstance(level, str) for level in levels) or len({*levels}) != len(levels):
            raise FileError(f"levels of {column.name!r} must be texts that differ")
        column = column._replace(levels=tuple(levels))
    _check(column)
    return column


def _target(fields: Mapping[str, Any]) -> Target:
    target = Target(**fields)
    if target.classes is not None:
        kinds, n = {type(label) for label in target.classes}, len(target.classes)
        if n < 2 or len(kinds) != 1 or not kinds <= {*LABELS} or len({*target.classes}) != n:
            raise FileError("classes must be two labels of one type or more, that differ")
        target = target._replace(classes=tuple(target.classes))
    _check(target)
    return target


def _check(column: Column | Target) -> None:
    if not isinstance(column.name, str):
        raise FileError(f"a column's name must be a text, got {column.name!r}")
    numbers = type(column.center) is type(column.scale) is float
    if not numbers or not scalars.is_positive(column.scale) or abs(column.center) == float("inf"):
        raise FileError(
            f"center and scale of {column.name!r} must be finite numbers, scale above 0"
        )
