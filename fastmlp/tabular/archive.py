"""Fitted models of tables as the content of a file, and back."""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp import FileError
from fastmlp.extend import codec
from fastmlp.tabular import reports
from fastmlp.tabular.boosted_trees import BoostedTrees
from fastmlp.tabular.encoding import NUMERIC, Encoding
from fastmlp.tabular.models import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.schema import Schema
from fastmlp.typing import Array

TABLE_MODELS: dict[str, type[Any]] = {
    "TabularMLPClassifier": TabularMLPClassifier,
    "TabularMLPRegressor": TabularMLPRegressor,
}
# Parameters that a file cannot hold: estimators, and a client.
NOT_IN_FILES = ("extra_members", "client", "group_timeout")


class SavedTable(NamedTuple):
    """Fields of a file.

    `trees` holds names and arrays of boosted trees,
    whose weights are `pack.extra_weights`.
    """

    parameters: codec.Parameters
    schema: Schema
    leaderboard: tuple[reports.Row, ...]
    pack: Pack
    training: dict[str, Any]
    labels: codec.Labels | None
    trees: tuple[tuple[str, BoostedTrees], ...]


FORMS_OF_TABLES = {
    Encoding: codec.InFile(
        lambda one: (one.to_json(), one.arrays), Encoding.from_state
    ),
    Schema: codec.InFile(
        lambda schema: (schema.to_json(), {}),
        lambda spelled, _: Schema.from_json(spelled),
    ),
    BoostedTrees: codec.InFile(
        lambda trees: ({}, trees.arrays), lambda _, arrays: arrays
    ),
}


def pack(model: Any, *, training: bool) -> tuple[Any, dict[str, Array]]:
    """Return header and arrays of a file: columns, pack and parameters.

    Rows kept for importances are left out.
    """
    check_is_fitted(model)
    others = model._beside
    used = [name for name, member, _ in others if not isinstance(member, BoostedTrees)]
    if used:
        raise ValueError(
            f"fastmlp.save: the ensemble has {', '.join(used)} of extra_members, which "
            "a file of numbers cannot hold: use pickle, or fit without extra_members"
        )
    # Splitters have no name in a file, and row numbers belong to one table.
    left_out = (
        NOT_IN_FILES if isinstance(model.cv, Integral | None) else (*NOT_IN_FILES, "cv")
    )
    parameters = model.get_params(deep=False).items()
    labels = model.classes_ if isinstance(model, TabularMLPClassifier) else None
    board = reports.rows_of(model.leaderboard_)
    saved = SavedTable(
        codec.Parameters({n: each for n, each in parameters if n not in left_out}),
        model.schema_,
        tuple(
            tuple(row[name] for name in reports.LEADERBOARD_COLUMNS) for row in board
        ),
        replace(
            model.pack_,
            extra_weights=np.array([weight for *_, weight in others], np.float64),
        ),
        model.training_,
        None if labels is None else codec.Labels(labels),
        tuple((name, member) for name, member, _ in others),
    )
    return codec.of_fields(SavedTable, saved, FORMS_OF_TABLES)


def unpack(content: Any, own: Mapping[str, Any], n_threads: int | None) -> Any:
    """The fitted model in a file, checked whole before it is returned."""
    saved: SavedTable = codec.fields_from(
        SavedTable, content.header, content.arrays, FORMS_OF_TABLES, own
    )
    model = TABLE_MODELS[content.kind](**saved.parameters)
    if n_threads is not None:
        model.n_jobs = n_threads
    model._validate_params()
    schema = saved.schema
    pack_ = saved.pack
    classes = None
    if isinstance(model, TabularMLPClassifier):
        classes = saved.labels
        if classes is None:
            raise FileError("a classifier has no labels")
    n_features = len(schema.number_names) + len(schema.categorical_names)
    arrays: Any = saved.trees
    members = [(name, BoostedTrees().restore(own, n_features)) for name, own in arrays]
    _check(pack_, schema, classes, members)
    if pack_.sizes is not None:
        _check(pack_.sizes, schema, None, [])
    model._take(schema, pack_, members, classes)
    board = [
        dict(zip(reports.LEADERBOARD_COLUMNS, row, strict=True))
        for row in saved.leaderboard
    ]
    model.leaderboard_ = reports.framed(board)
    model.training_ = saved.training
    metrics = model.training_.get("metrics", [])
    if isinstance(metrics, list):
        named = (model.training_.get("target", ""), *metrics)
    else:
        named = ()
    if not named or not all(isinstance(name, str) for name in named):
        raise FileError("the names of the target and of metrics must be texts")
    _check_counts(model.training_)
    _check_decisions(model.training_, classes)
    return model


def _check_decisions(training: dict[str, Any], classes: Array | None) -> None:
    if "decision_weights" not in training:
        return
    weights = training["decision_weights"]
    n = 0 if classes is None else len(classes)
    are_numbers = isinstance(weights, list) and {*map(type, weights)} == {float}
    if not are_numbers or len(weights) != n or not 0 < min(weights) <= max(weights):
        raise FileError(
            f"decision_weights must be a number above 0 for each of {n} classes, got "
            f"{weights!r}"
        )


def _check_counts(training: dict[str, Any]) -> None:
    """Refuse numbers of rows and losses that are not numbers."""
    for name in ("rows", "validation_rows"):
        n = training.get(name, 0)
        if type(n) is not int or n < 0:
            raise FileError(f"{name} must be an integer of 0 or more, got {n!r}")
    for name in ("scores", "importances"):
        numbers = training.get(name, {})
        if isinstance(numbers, dict):
            kinds = {*map(type, numbers.values())}
        else:
            kinds = {dict}
        if not kinds <= {float}:
            raise FileError(f"{name} must be numbers by name, got {numbers!r}")
    distilled = training.get("distilled", {"loss": 0.0, "ensemble_loss": 0.0})
    for name in ("loss", "ensemble_loss"):
        if type(distilled[name]) is not float:
            raise FileError(f"{name} must be a number, got {distilled[name]!r}")


def _check(
    pack_: Pack, schema: Schema, classes: Any, members: list[tuple[str, BoostedTrees]]
) -> None:
    """Refuse a file whose numbers, classes and columns do not fit one another."""
    outputs = pack_.outputs
    numbers = (outputs.center, outputs.scale, outputs.low, outputs.high, *outputs.bias)
    if not np.isfinite(numbers).all() or outputs.scale <= 0:
        raise FileError("outputs must have finite numbers, and a scale above 0")
    for member in pack_.members:
        _check_member(member, pack_)
    for name in ("extra_weights", "residuals", "row_weights"):
        vector = getattr(pack_, name)
        if (
            vector.ndim != 1
            or vector.dtype != np.float64
            or not np.isfinite(vector).all()
        ):
            raise FileError(f"{name} must be a vector of finite numbers")
    if (np.diff(pack_.residuals) < 0).any():
        raise FileError("residuals must ascend")
    if (
        len(pack_.row_weights) not in (0, len(pack_.residuals))
        or (pack_.row_weights < 0).any()
    ):
        raise FileError("row_weights must be those of the residuals, and none below 0")
    weights = pack_.extra_weights
    if len(weights) != len(members) or not ((weights > 0) & (weights <= 1)).all():
        raise FileError("extra_weights must be those of the trees, each in (0, 1]")
    if (pack_.task == "regression") != (classes is None):
        raise FileError(f"a pack of {pack_.task} in a file of another kind")
    if classes is not None:
        n_classes = max(pack_.outputs.n_outputs, 2)
        if len(classes) != n_classes or not np.array_equal(np.unique(classes), classes):
            raise FileError(
                f"classes must be {n_classes} labels, sorted, and each there once"
            )
    if not pack_.members and not members:
        raise FileError("a pack without members")
    places = np.arange(0 if classes is None else len(classes))
    for _, trees in members:
        known = np.isin(places, trees.classes_)
        if not np.array_equal(places[known], trees.classes_) or known.any() != bool(
            len(places)
        ):
            raise FileError("trees must have classes that there are")
    n_numbers = len(schema.number_names)
    n_categories = len(schema.categorical_names)
    for encoding in pack_.encodings:
        for name, (_, columns) in encoding.parts.items():
            if columns.max() >= (n_numbers if name in NUMERIC else n_categories):
                raise FileError(f"{name}.columns beyond the columns of the table")


def _check_member(member: Member, pack_: Pack) -> None:
    place = member.encoding
    curve = member.curve
    sizes = member.net.layer_sizes
    if curve.dtype != np.float64 or curve.ndim != 2 or curve.shape[1] < 2:
        raise FileError("a member's curve must have two columns of numbers, or more")
    if not 0 <= place < len(pack_.encodings):
        raise FileError(
            f"a member with the encoding {place!r} of {len(pack_.encodings)}"
        )
    n_inputs = pack_.encodings[place].n_inputs
    if (sizes[0], sizes[-1]) != (n_inputs, pack_.outputs.n_outputs):
        raise FileError(f"a net of {sizes} for {n_inputs} inputs")
    if not 0 < member.weight <= 1:
        raise FileError(f"a weight must be in (0, 1], got {member.weight!r}")
