"""From a fitted ensemble to the content of a file and back: its members, one after the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.ensemble.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor
from fastmlp.estimators.mlp import archive
from fastmlp.estimators.with_client import PARAMETERS
from fastmlp.serialization import codec
from fastmlp.serialization.safetensors_file import Content, FileError, arrays_at, content_of, inside

KINDS: dict[str, type[Any]] = {
    "MLPEnsembleClassifier": MLPEnsembleClassifier,
    "MLPEnsembleRegressor": MLPEnsembleRegressor,
}


def pack(ensemble: Any, *, training: bool) -> Content:
    """Return the content of a file, with the members' training states if `training`.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the ensemble is not fitted. It is a ValueError.
    ValueError
        If a parameter is not finite, or a setting has no name.
    """
    check_is_fitted(ensemble)
    header = {
        "parameters": archive.parameters_of(ensemble, but=PARAMETERS),
        "n_features": int(ensemble.n_features_in_),
        **archive.feature_names_of(ensemble),
    }
    if isinstance(ensemble, MLPEnsembleClassifier):
        header["labels"] = codec.of_classes(ensemble.classes_)
    members: list[Any] = []
    arrays: dict[str, Any] = {}
    for i, member in enumerate(ensemble.estimators_):
        header_of_member, inner_arrays = inside(
            archive.pack(member, training=training), f"members.{i}"
        )
        members.append(header_of_member)
        arrays |= inner_arrays
    return Content(type(ensemble).__name__, header | {"members": members}, arrays)


def unpack(content: Content, own: Mapping[str, Any], n_threads: int | None) -> Any:
    """Return the ensemble in a file's content, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the content is not that of an ensemble.
    """
    header, arrays = content.header, content.arrays
    parameters = archive.parameters_from(header["parameters"], own, n_threads)
    ensemble: Any = KINDS[content.kind](**parameters)
    ensemble._validate_params()
    if len(header["members"]) != ensemble.n_members:
        raise FileError(f"{len(header['members'])} members of {ensemble.n_members}")
    members = []
    of_members = arrays_at(arrays, "members")
    for i, stored in enumerate(header["members"]):
        inner = content_of(stored, of_members.get(str(i), {}))
        if inner.kind != ensemble.member.__name__:
            raise FileError(f"a member of kind {inner.kind!r} in a file of {content.kind!r}")
        members.append(archive.unpack(inner, own, n_threads))
    ensemble.estimators_ = members
    ensemble.n_iter_ = np.array([member.n_iter_ for member in members])
    ensemble.n_features_in_ = members[0].n_features_in_
    if "labels" in header:
        ensemble.classes_ = codec.classes_from(header["labels"])
    archive.take_feature_names(ensemble, header, ensemble.n_features_in_)
    _check(ensemble, header["n_features"])
    return ensemble


def _check(ensemble: Any, n_features: Any) -> None:
    """Raise if the members cannot have been fitted to the same data."""
    members = ensemble.estimators_
    if any(member.n_features_in_ != n_features for member in members):
        raise FileError(f"a member does not take {n_features!r} features")
    if not isinstance(ensemble, MLPEnsembleClassifier):
        if len({member.n_outputs_ for member in members}) > 1:
            raise FileError("members with different numbers of outputs")
        return
    several = {member._label_binarizer.y_type_.startswith("multilabel") for member in members}
    known = all(np.isin(member.classes_, ensemble.classes_).all() for member in members)
    if len(several) > 1 or not known:
        raise FileError("a member knows labels that the ensemble does not")
    if not np.array_equal(np.unique(ensemble.classes_), ensemble.classes_):
        raise FileError("labels must be sorted, and each there once")
