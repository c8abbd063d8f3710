"""From a fitted search to the content of a file and back: settings, results, best estimator."""

from collections.abc import Mapping
from typing import Any, Required, TypedDict

import numpy as np
from sklearn.model_selection._search import _yield_masked_array_for_each_param
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.mlp import archive
from fastmlp.estimators.mlp.archive import KINDS
from fastmlp.estimators.search.search_cv import MLPSearchCV
from fastmlp.estimators.with_client import PARAMETERS
from fastmlp.serialization import codec
from fastmlp.serialization.safetensors_file import Content, FileError

Own = Mapping[str, Any]
# The fitted attributes that are stored; others are the results, the best estimator, or follow.
ATTRIBUTES = (
    "best_index_", "best_score_", "multimetric_", "n_splits_", "refit_time_", "n_resources_",
    "n_candidates_", "n_iterations_", "n_remaining_candidates_", "n_required_iterations_",
    "n_possible_iterations_", "min_resources_", "max_resources_",
)  # fmt: skip
RESULTS = "results"
# Values that arrays of texts are made of.
WIDE = (str, list, tuple)
# A search of two splits has nine numbers for each candidate, and a net some fifty parameters.
NAMES_A_NUMBER = 8


class SavedSearch(TypedDict, total=False):
    """The fields of a file, beside the arrays of results."""

    searched: Required[str]
    estimator: Required[dict[str, Any]]
    parameters: Required[dict[str, Any]]
    results: Required[dict[str, Any]]
    attributes: Required[dict[str, Any]]
    feature_names: tuple[str, ...]
    best: Content


def pack(search: Any, *, training: bool) -> Content:
    """Return the content of a file, with the best estimator's training state if `training`.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the search is not fitted. It is a ValueError.
    ValueError
        If a parameter is not finite, a setting has no name, or the estimator is not fastmlp's,
        such as a pipeline.
    """
    check_is_fitted(search, "cv_results_")
    if type(search.estimator) not in KINDS.values():
        raise ValueError(
            f"fastmlp.save: a search of {type(search.estimator).__name__} cannot be written to a "
            f"file, only one of {' or '.join(KINDS)}; pickle takes it"
        )
    estimator = search.estimator
    results, of_results = _results_of(search.cv_results_)
    there = vars(search)
    saved: dict[str, Any] = {
        "searched": type(estimator).__name__,
        "estimator": archive.parameters_of(estimator),
        "parameters": archive.parameters_of(search, but=("estimator", *PARAMETERS)),
        "results": results,
        "attributes": {name: codec.of_value(there[name]) for name in ATTRIBUTES if name in there},
        **archive.feature_names_of(search),
    }
    if "best_estimator_" in there:
        saved["best"] = archive.pack(search.best_estimator_, training=training)
    header, arrays = codec.of_fields(SavedSearch, saved, codec.INNER)
    return Content(type(search).__name__, header, arrays | of_results)


def unpack(content: Content, own: Own, n_threads: int | None) -> Any:
    """Return the search in a file's content, after checking every part of it.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the content is not that of a search.
    """
    saved = codec.fields_from(SavedSearch, content.header, content.arrays, codec.INNER)
    estimator = KINDS[saved["searched"]](**archive.parameters_from(saved["estimator"], own, None))
    parameters = archive.parameters_from(saved["parameters"], own, n_threads)
    search = MLPSearchCV(estimator, **parameters)
    search._validate_params()
    search.cv_results_ = results = _results_from(saved["results"], content.arrays)
    for name, value in saved["attributes"].items():
        if name not in ATTRIBUTES:
            raise FileError(f"unknown attribute {name!r}")
        setattr(search, name, codec.value_from(value, own))
    if best := saved.get("best"):
        if best.kind != saved["searched"]:
            raise FileError(f"the best of {saved['searched']!r} is of kind {best.kind!r}")
        search.best_estimator_ = archive.unpack(best, own, n_threads)
        archive.take_feature_names(search, saved, search.best_estimator_.n_features_in_)
    if hasattr(search, "best_index_"):
        search.best_params_ = results["params"][search.best_index_]
    scorers, _ = search._search()._get_scorers()
    search.scorer_ = getattr(scorers, "_scorers", scorers)
    return search


def _results_of(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of `cv_results_`, and its numbers; `param_*` follow from `params`."""
    numbers = {
        name: np.asarray(values)
        for name, values in results.items()
        if name != "params" and not name.startswith("param_")
    }
    _check_sizes(results["params"], sum(values.size for values in numbers.values()))
    header = {
        "names": [[name, name in numbers and numbers[name].dtype.name] for name in results],
        "params": codec.of_value(list(results["params"])),
    }
    arrays = {
        f"{RESULTS}.{name}": values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)
        for name, values in numbers.items()
    }
    return header, arrays


def _check_sizes(candidates: list[dict[str, Any]], n_numbers: int) -> None:
    """Raise if columns of candidates would take more memory than their numbers suggest.

    Of each name there is an array of all candidates, and a text has the length of the longest.
    """
    n, n_names = len(candidates), len({name for candidate in candidates for name in candidate})
    wide = (
        value for candidate in candidates for value in candidate.values() if isinstance(value, WIDE)
    )
    longest = max((len(str(value)) for value in wide), default=0)
    if n * n_names > NAMES_A_NUMBER * n_numbers or 4 * n * longest > codec.MAX_TEXT_BYTES:
        sizes = f"{n_names:,} names, texts of {longest:,} characters and {n_numbers:,} numbers"
        raise FileError(f"{n:,} candidates of {sizes}: their columns would take too much memory")


def _results_from(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    candidates = codec.value_from(header["params"], {})
    if type(candidates) is not list or any(type(candidate) is not dict for candidate in candidates):
        raise FileError("params must be a list of dicts")
    _check_sizes(candidates, sum(candidate.size for candidate in arrays.values()))
    if len({name for name, _ in header["names"]}) != len(header["names"]):
        raise FileError("names of results must differ")
    others = {"params": candidates, **dict(_yield_masked_array_for_each_param(candidates))}
    results: dict[str, Any] = {}
    for name, kind in header["names"]:
        if kind is False:
            results[name] = others[name]
            continue
        numbers, dtype = arrays[f"{RESULTS}.{name}"], np.dtype(kind)
        if numbers.shape != (len(candidates),) or dtype.kind not in "iuf":
            raise FileError(f"{name} must be {len(candidates)} numbers")
        results[name] = numbers.astype(dtype)
    return results
