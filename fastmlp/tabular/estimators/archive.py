"""From a fitted model of tables to the content of a file and back."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.mlp.archive import parameters_from, parameters_of
from fastmlp.estimators.with_client import PARAMETERS
from fastmlp.model import core_of, unpacked
from fastmlp.serialization import codec, model_state
from fastmlp.serialization.safetensors_file import Content, FileError, arrays_at, content_of, inside
from fastmlp.tabular.encoders.encoding import NUMERIC, Encoding
from fastmlp.tabular.estimators import reports
from fastmlp.tabular.estimators.classifier import TabularMLPClassifier
from fastmlp.tabular.estimators.regressor import TabularMLPRegressor
from fastmlp.tabular.estimators.trees import BoostedTrees
from fastmlp.tabular.pack.outputs import LOSSES, NetOutputs
from fastmlp.tabular.pack.pack import Array, Member, Pack
from fastmlp.tabular.pack.settings import Recipe
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
    pairs = zip(model.extra_members_, model.pack_.extra_weights, strict=True)
    others = [(*pair, weight) for pair, weight in pairs if weight]
    used = [name for name, member, _ in others if not isinstance(member, BoostedTrees)]
    if used:
        raise ValueError(
            f"fastmlp.save: the ensemble has {', '.join(used)} of extra_members, which a file of "
            "numbers cannot hold: use pickle, or fit without extra_members"
        )
    pack_header, arrays = state_of(model.pack_)
    # A splitter of scikit-learn's has no name, and places of rows are of the table.
    left_out = LEFT_OUT if isinstance(model.cv, Integral | None) else (*LEFT_OUT, "cv")
    header = {
        "parameters": parameters_of(model, but=left_out),
        "schema": model.schema_.to_json(),
        "leaderboard": [_plain(row) for row in reports.rows_of(model.leaderboard_)],
        "pack": pack_header,
        "training": model.training_,
    }
    if isinstance(model, TabularMLPClassifier):
        header["labels"] = codec.of_classes(model.classes_)
    kept = {name: array for name, array in arrays.items() if name != "extra_weights"}
    for name, trees, weight in others:
        header["trees"] = {"name": name, "weight": float(weight)}
        kept |= {f"trees.{part}": array for part, array in trees.arrays.items()}
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
    members, weights = _trees(content, schema)
    arrays = {**content.arrays, "extra_weights": np.array(weights)}
    pack_ = from_state(header["pack"], arrays)
    classes = None
    if isinstance(model, TabularMLPClassifier):
        classes = codec.classes_from(header["labels"])
    _check(pack_, schema, classes, members)
    if pack_.sizes is not None:
        _check(pack_.sizes, schema, None, [])
    model._take(schema, pack_, members, classes)
    model.leaderboard_ = reports.framed([_row(row) for row in header["leaderboard"]])
    model.training_ = header["training"]
    if not isinstance(model.training_, dict):
        raise FileError("training must be an object")
    if not isinstance(model.training_.get("target", ""), str):
        raise FileError("the target's name must be a text")
    return model


def _trees(content: Content, schema: Schema) -> tuple[list[tuple[str, BoostedTrees]], list[float]]:
    """The boosted trees of a file with their name, and their weight; files need not have them."""
    fields = content.header.get("trees")
    if fields is None:
        return [], []
    name, weight = fields["name"], fields["weight"]
    if not isinstance(name, str) or type(weight) is not float or not 0 < weight <= 1:
        raise FileError(f"trees must have a name and a weight in (0, 1], got {name!r}, {weight!r}")
    arrays = {part: content.arrays[f"trees.{part}"] for part in BoostedTrees.ARRAYS}
    n_features = len(schema.number_names) + len(schema.categorical_names)
    return [(name, BoostedTrees().restore(arrays, n_features))], [weight]


def _check(
    pack_: Pack, schema: Schema, classes: Any, members: list[tuple[str, BoostedTrees]]
) -> None:
    """Raise if the parts do not suit each other."""
    if (pack_.task == "regression") != (classes is None):
        raise FileError(f"a pack of {pack_.task} in a file of another kind")
    if classes is not None:
        n_classes = max(pack_.outputs.n_outputs, 2)
        if len(classes) != n_classes or not np.array_equal(np.unique(classes), classes):
            raise FileError(f"classes must be {n_classes} labels, sorted, and each there once")
    if not pack_.members and not members:
        raise FileError("a pack without members")
    places = np.arange(0 if classes is None else len(classes))
    for _, trees in members:
        known = np.isin(places, trees.classes_)
        if not np.array_equal(places[known], trees.classes_) or known.any() != bool(len(places)):
            raise FileError("trees must have classes that there are")
    n_numbers, n_categories = len(schema.number_names), len(schema.categorical_names)
    for encoding in pack_.encodings:
        for name, (_, columns) in encoding.parts.items():
            if columns.max() >= (n_numbers if name in NUMERIC else n_categories):
                raise FileError(f"{name}.columns beyond the columns of the table")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the leaderboard for JSON, which has no NaN."""
    return {name: None if value != value else value for name, value in row.items()}


def _row(stored: Mapping[str, Any]) -> dict[str, Any]:
    # Rows of before have no seconds.
    row = {name: {"fit_seconds": None, **stored}[name] for name in reports.COLUMNS}
    name, *numbers = row.values()
    if not isinstance(name, str) or any(
        type(number) not in (float, type(None)) for number in numbers
    ):
        raise FileError("a row of the leaderboard must be a name and numbers")
    return {name: float("nan") if number is None else number for name, number in row.items()}


PLAIN = ("extra_weights", "residuals")


def state_of(pack: Pack) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a pack as JSON and as arrays, for a file.

    Raises
    ------
    ValueError
        If a parameter of a net is not finite.
    """
    arrays = {name: getattr(pack, name) for name in (*PLAIN, "row_weights")}
    encodings, members = [], []
    for i, encoding in enumerate(pack.encodings):
        encodings.append(encoding.to_json())
        arrays |= {f"encodings.{i}.{name}": array for name, array in encoding.arrays.items()}
    for i, member in enumerate(pack.members):
        engine, state = core_of(member.net)
        saved = model_state.pack(model_state.capture(engine.network, state, training=False))
        net, net_arrays = inside(saved, f"members.{i}")
        fields = member._asdict()
        if len(curve := fields.pop("curve")):
            arrays[f"curves.{i}.losses"] = curve
        arrays |= net_arrays
        fields |= _plain({"seconds": member.seconds})
        members.append(fields | {"net": net, "recipe": member.recipe._asdict()})
    header = {
        "outputs": pack.outputs._asdict(),
        "encodings": encodings,
        "members": members,
        "validation_score": pack.validation_score,
        "n_trained": pack.n_trained,
        "signed": pack.signed,
    }
    if pack.sizes is not None:
        header["sizes"], of_sizes = state_of(pack.sizes)
        arrays |= {f"sizes.{name}": array for name, array in of_sizes.items()}
    return header, arrays


def from_state(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Pack:
    """Return the pack of `state_of`, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If it is not that of a pack.
    """
    outputs = _outputs(header["outputs"])
    names = ("encodings", "members", "curves")
    of_encodings, of_members, curves = (arrays_at(arrays, name) for name in names)
    encodings = [
        Encoding.from_state(fields, of_encodings.get(str(i), {}))
        for i, fields in enumerate(header["encodings"])
    ]
    members = []
    for i, fields in enumerate(header["members"]):
        net = unpacked(content_of(fields["net"], of_members.get(str(i), {})), {}, None)
        recipe = Recipe(**fields["recipe"])
        recipe = recipe._replace(hidden=tuple(recipe.hidden))
        member = Member(**{**fields, "net": net, "recipe": recipe})
        # Files of before have no curves.
        if (curve := curves.get(str(i))) is not None:
            member = member._replace(curve=curve["losses"])
        if fields.get("seconds") is None:
            member = member._replace(seconds=math.nan)
        _check_member(member, encodings, outputs)
        members.append(member)
    extra_weights, residuals = (_vector(arrays[name], name) for name in PLAIN)
    if (np.diff(residuals) < 0).any():
        raise FileError("residuals must ascend")
    # Files of before have neither signs of residuals, nor their weights and sizes.
    row_weights = _vector(arrays.get("row_weights", np.empty(0)), "row_weights")
    if len(row_weights) not in (0, len(residuals)) or (row_weights < 0).any():
        raise FileError("row_weights must be those of the residuals, and none below 0")
    sizes = None
    if "sizes" in header:
        of_sizes = {n.removeprefix("sizes."): a for n, a in arrays.items() if n[:6] == "sizes."}
        sizes = from_state(header["sizes"], of_sizes)
    score, n_trained = header["validation_score"], header["n_trained"]
    if type(score) is not float or type(n_trained) is not int:
        raise FileError("validation_score and n_trained must be numbers")
    return Pack(
        outputs,
        tuple(encodings),
        tuple(members),
        extra_weights=extra_weights,
        validation_score=score,
        residuals=residuals,
        n_trained=n_trained,
        row_weights=row_weights,
        signed=header.get("signed") is True,
        sizes=sizes,
    )


def _outputs(stored: Mapping[str, Any]) -> NetOutputs:
    outputs = NetOutputs(**stored)
    outputs = outputs._replace(bias=tuple(outputs.bias))
    numbers = (outputs.center, outputs.scale, outputs.low, outputs.high, *outputs.bias)
    if outputs.task not in LOSSES or type(outputs.n_outputs) is not int:
        raise FileError(f"outputs of an unknown task: {outputs.task!r}, {outputs.n_outputs!r}")
    if (
        not all(type(number) is float and np.isfinite(number) for number in numbers)
        or outputs.scale <= 0
    ):
        raise FileError("outputs must have finite numbers, and a scale above 0")
    return outputs


def _check_member(member: Member, encodings: list[Encoding], outputs: NetOutputs) -> None:
    """Raise if a member does not suit the rest."""
    place, weight = member.encoding, member.weight
    curve, seconds = member.curve, member.seconds
    if curve.dtype != np.float64 or curve.shape[1:] != (2,) or type(seconds) is not float:
        raise FileError("a member's curve must have two columns of numbers, and seconds be one")
    if type(place) is not int or not 0 <= place < len(encodings):
        raise FileError(f"a member with the encoding {place!r} of {len(encodings)}")
    sizes = member.net.layer_sizes
    if (sizes[0], sizes[-1]) != (encodings[place].n_inputs, outputs.n_outputs):
        raise FileError(f"a net of {sizes} for {encodings[place].n_inputs} inputs")
    if type(weight) is not float or not 0 < weight <= 1:
        raise FileError(f"a weight must be in (0, 1], got {weight!r}")


def _vector(array: Array, name: str) -> Array:
    if array.ndim != 1 or array.dtype != np.float64 or not np.isfinite(array).all():
        raise FileError(f"{name} must be a vector of finite numbers")
    return array
