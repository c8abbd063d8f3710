"""From a fitted model of tables to the content of a file and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.mlp import label_codec
from fastmlp.estimators.mlp.archive import parameters_from, parameters_of
from fastmlp.estimators.with_client import PARAMETERS
from fastmlp.serialization.safetensors_file import Content, FileError
from fastmlp.tabular.encoders.encoding import NUMERIC
from fastmlp.tabular.estimators import reports
from fastmlp.tabular.estimators.classifier import TabularMLPClassifier
from fastmlp.tabular.estimators.regressor import TabularMLPRegressor
from fastmlp.tabular.pack import archive
from fastmlp.tabular.pack.pack import Pack
from fastmlp.tabular.plain.archive import check_training
from fastmlp.tabular.schema import Schema

KINDS: dict[str, type[Any]] = {
    "TabularMLPClassifier": TabularMLPClassifier,
    "TabularMLPRegressor": TabularMLPRegressor,
}
# Parameters that a file cannot hold: estimators, and a client.
LEFT_OUT = ("extra_members", *PARAMETERS)


def pack(model: Any, *, training: bool) -> Content:
    """Return the content of a file: the columns, the pack and the parameters.

    Rows that were kept for importances are not in it, nor states of training, which there are not.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the model is not fitted. It is a ValueError.
    ValueError
        If the ensemble has members of `extra_members`, or a setting has no name.
    """
    check_is_fitted(model)
    used = [
        name
        for (name, _), weight in zip(model.extra_members_, model.pack_.extra_weights, strict=True)
        if weight
    ]
    if used:
        raise ValueError(
            f"fastmlp.save: the ensemble has {', '.join(used)} of extra_members, which a file of "
            "numbers cannot hold: use pickle, or fit without extra_members"
        )
    told, arrays = archive.state_of(model.pack_)
    # A splitter of scikit-learn's has no name, and places of rows are of the table.
    left_out = LEFT_OUT if isinstance(model.cv, int | None) else (*LEFT_OUT, "cv")
    header = {
        "parameters": parameters_of(model, but=left_out),
        "schema": model.schema_.to_json(),
        "leaderboard": [_plain(row) for row in reports.rows_of(model.leaderboard_)],
        "pack": told,
        "training": model.training_,
    }
    if isinstance(model, TabularMLPClassifier):
        header["labels"] = label_codec.of_classes(model.classes_)
    kept = {name: array for name, array in arrays.items() if name != "extra_weights"}
    return Content(type(model).__name__, header, kept)


def unpack(content: Content, own: Mapping[str, Any], n_threads: int | None) -> Any:
    """Return the model in a file's content, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the content is not that of such a model.
    """
    header = content.header
    model = KINDS[content.kind](**parameters_from(header["parameters"], own, n_threads))
    model._validate_params()
    schema = Schema.from_json(header["schema"])
    arrays = {**content.arrays, "extra_weights": np.empty(0)}
    found = archive.from_state(header["pack"], arrays)
    classes = None
    if isinstance(model, TabularMLPClassifier):
        classes = label_codec.classes_from(header["labels"])
    _check(found, schema, classes)
    model._take(schema, found, [], classes)
    model.leaderboard_ = reports.framed([_row(row) for row in header["leaderboard"]])
    model.training_ = header["training"]
    check_training(model.training_)
    if not isinstance(model.training_.get("target", ""), str):
        raise FileError("the target's name must be a text")
    return model


def _check(found: Pack, schema: Schema, classes: Any) -> None:
    """Raise if the parts do not suit each other."""
    if (found.task == "regression") != (classes is None):
        raise FileError(f"a pack of {found.task} in a file of another kind")
    if classes is not None:
        n_classes = max(found.outputs.n_outputs, 2)
        if len(classes) != n_classes or not np.array_equal(np.unique(classes), classes):
            raise FileError(f"classes must be {n_classes} labels, sorted, and each there once")
    if not found.members:
        raise FileError("a pack without members")
    n_numbers, n_categories = len(schema.number_names), len(schema.categorical_names)
    for encoding in found.encodings:
        for name, (_, columns) in encoding.parts.items():
            if columns.max() >= (n_numbers if name in NUMERIC else n_categories):
                raise FileError(f"{name}.columns beyond the columns of the table")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the leaderboard for JSON, which has no NaN."""
    return {name: None if value != value else value for name, value in row.items()}


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: told[name] for name in reports.COLUMNS}
    name, *numbers = found.values()
    if not isinstance(name, str) or any(type(one) not in (float, type(None)) for one in numbers):
        raise FileError("a row of the leaderboard must be a name and numbers")
    return {name: float("nan") if one is None else one for name, one in found.items()}
