"""From a `Pack` to plain data and arrays, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmlp.estimators.mlp.archive import arrays_at, content_of, inside
from fastmlp.model import core_of, unpacked
from fastmlp.serialization import model_state
from fastmlp.serialization.safetensors_file import FileError
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack.outputs import LOSSES, Outputs
from fastmlp.tabular.pack.pack import Array, Member, Pack
from fastmlp.tabular.pack.prior import Recipe

PLAIN = ("extra_weights", "residuals")


def state_of(pack: Pack) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a pack as JSON and as arrays, for a file.

    Raises
    ------
    ValueError
        If a parameter of a net is not finite.
    """
    arrays = {name: getattr(pack, name) for name in PLAIN}
    encodings, members = [], []
    for i, encoding in enumerate(pack.encodings):
        encodings.append(encoding.to_json())
        arrays |= {f"encodings.{i}.{name}": each for name, each in encoding.arrays.items()}
    for i, member in enumerate(pack.members):
        engine, state = core_of(member.net)
        saved = model_state.pack(model_state.capture(engine.network, state, training=False))
        net, its = inside(saved, f"members.{i}")
        told = member._replace(net=None, recipe=None)._asdict()  # type: ignore[arg-type]
        members.append(told | {"net": net, "recipe": member.recipe._asdict()})
        arrays |= its
    header = {
        "outputs": pack.outputs._asdict(),
        "encodings": encodings,
        "members": members,
        "validation_score": pack.validation_score,
        "n_trained": pack.n_trained,
    }
    return header, arrays


def from_state(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Pack:
    """Return the pack of `state_of`, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If it is not that of a pack.
    """
    outputs = _outputs(header["outputs"])
    of_encodings, of_members = (arrays_at(arrays, name) for name in ("encodings", "members"))
    encodings = [
        Encoding.from_state(told, of_encodings.get(str(i), {}))
        for i, told in enumerate(header["encodings"])
    ]
    members = []
    for i, told in enumerate(header["members"]):
        net = unpacked(content_of(told["net"], of_members.get(str(i), {})), {}, None)
        recipe = Recipe(**told["recipe"])
        recipe = recipe._replace(hidden=tuple(recipe.hidden))
        member = Member(**{**told, "net": net, "recipe": recipe})
        _check(member, encodings, outputs)
        members.append(member)
    extra_weights, residuals = (_vector(arrays[name], name) for name in PLAIN)
    if (np.diff(residuals) < 0).any():
        raise FileError("residuals must ascend")
    score, n_trained = header["validation_score"], header["n_trained"]
    if type(score) is not float or type(n_trained) is not int:
        raise FileError("validation_score and n_trained must be numbers")
    return Pack(
        outputs,
        encodings,
        members,
        extra_weights=extra_weights,
        validation_score=score,
        residuals=residuals,
        n_trained=n_trained,
    )


def _outputs(told: Mapping[str, Any]) -> Outputs:
    found = Outputs(**told)
    found = found._replace(bias=tuple(found.bias))
    numbers = (found.center, found.scale, found.low, found.high, *found.bias)
    if found.task not in LOSSES or type(found.n_outputs) is not int:
        raise FileError(f"outputs of an unknown task: {found.task!r}, {found.n_outputs!r}")
    if not all(type(one) is float and np.isfinite(one) for one in numbers) or found.scale <= 0:
        raise FileError("outputs must have finite numbers, and a scale above 0")
    return found


def _check(member: Member, encodings: list[Encoding], outputs: Outputs) -> None:
    """Raise if a member does not suit the rest."""
    place, weight = member.encoding, member.weight
    if type(place) is not int or not 0 <= place < len(encodings):
        raise FileError(f"a member with the encoding {place!r} of {len(encodings)}")
    sizes = member.net.layer_sizes
    if (sizes[0], sizes[-1]) != (encodings[place].n_inputs, outputs.n_outputs):
        raise FileError(f"a net of {sizes} for {encodings[place].n_inputs} inputs")
    if type(weight) is not float or not 0 < weight <= 1:
        raise FileError(f"a weight must be in (0, 1], got {weight!r}")


def _vector(found: Array, name: str) -> Array:
    if found.ndim != 1 or found.dtype != np.float64 or not np.isfinite(found).all():
        raise FileError(f"{name} must be a vector of finite numbers")
    return found
