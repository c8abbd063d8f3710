"""A fitted estimator, or a search, as the content of a file, and back."""

from collections.abc import Mapping
from typing import Any, Literal, Required, TypedDict

import numpy as np
from scipy.sparse import csr_array
from sklearn.model_selection._search import _yield_masked_array_for_each_param
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators import to_core
from fastmlp.estimators.common import PARAMETERS, n_threads_of
from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor
from fastmlp.estimators.search import MLPSearchCV
from fastmlp.estimators.training import reset_records
from fastmlp.network import resolve
from fastmlp.network.spec import Network, bias_views, weight_views
from fastmlp.network.state import NetState
from fastmlp.serialization import codec, model_state
from fastmlp.serialization.files import Content, FileError
from fastmlp.validation import Array, scalars

Own = Mapping[str, Any]
ESTIMATORS: dict[str, type[Any]] = {
    "MLPClassifier": MLPClassifier,
    "MLPRegressor": MLPRegressor,
}
FIELDS: dict[str, tuple[str, ...]] = {
    "sgd": ("learning_rate_init", "lr_schedule", "momentum", "nesterov", "power_t"),
    "adam": ("learning_rate_init", *to_core.ADAM_SETTINGS),
}
SGD_SCHEDULES = ("constant", "adaptive", "invscaling")
# Stored fitted attributes; others are results, the best estimator, or derived.
ATTRIBUTES = (
    "best_index_",
    "best_score_",
    "multimetric_",
    "n_splits_",
    "refit_time_",
    "n_resources_",
    "n_candidates_",
    "n_iterations_",
    "n_remaining_candidates_",
    "n_required_iterations_",
    "n_possible_iterations_",
    "min_resources_",
    "max_resources_",
)
RESULTS = "results"
# Types of values in arrays of texts.
TEXT_TYPES = (str, list, tuple)
# A search of two splits has nine numbers per candidate,
# and a net some fifty parameters.
NAMES_A_NUMBER = 8


class Attributes(TypedDict, total=False):
    """Fitted attributes of a file, each if set."""

    n_iter_: Required[int]
    t_: Required[int]
    _no_improvement_count: int
    loss_: float | None
    best_loss_: float | None
    best_validation_score_: float | None
    loss_curve_: Array | None
    validation_scores_: Array | None
    validation_loss_curve_: Array | None


class SavedEstimator(TypedDict, total=False):
    """Fields of a file, beside the arrays of layers and of training.

    `labels` are a classifier's. `books` are the settings of training,
    None without an optimizer.
    """

    layer_sizes: Required[tuple[int, ...]]
    dtype: Required[str]
    parameters: Required[codec.Parameters]
    out_activation: Required[str]
    attributes: Required[Attributes]
    labels: dict[str, Any]
    feature_names: tuple[str, ...]
    transform_output: Literal["default", "pandas", "polars"]
    books: dict[str, Any] | None


def pack(estimator: Any, *, training: bool) -> tuple[Any, dict[str, Array]]:
    """The header and the arrays of a file of an estimator or a search.

    With `training`, the optimizer's slots and the generator are added.
    """
    if isinstance(estimator, MLPSearchCV):
        return _pack_search(estimator, training=training)
    check_is_fitted(estimator)
    state = estimator._live_state()
    if not np.isfinite(state.parameters).all():
        raise ValueError(
            "fastmlp.save: a parameter is not finite; no file would load it"
        )
    network = _network(estimator, state.layout.sizes, state.parameters.dtype)
    there = vars(estimator)
    saved = {
        "layer_sizes": network.layout.sizes,
        "dtype": network.dtype.name,
        "parameters": estimator.get_params(deep=False),
        **_form_of(estimator),
        "attributes": {
            name: there[name]
            for name in codec.declared_fields(Attributes)
            if name in there
        },
    }
    of_training: dict[str, Any] = {}
    if training:
        saved["books"], of_training = _training_of(estimator, network)
    header, arrays = codec.of_fields(SavedEstimator, saved)
    arrays |= model_state.layers_of(network.layout, state.parameters) | of_training
    return header, arrays


def unpack(content: Content, own: Own, n_threads: int | None) -> Any:
    if content.kind not in ESTIMATORS:
        return _unpack_search(content, own, n_threads)
    sizes = model_state.sizes_of(content)
    saved = codec.fields_from(SavedEstimator, content.header, content.arrays, own=own)
    estimator = ESTIMATORS[content.kind](**saved["parameters"])
    if n_threads is not None:
        estimator.n_jobs = n_threads
    _take_form(estimator, sizes, saved)
    network = _network(estimator, sizes, resolve.dtype(saved["dtype"]))
    flat = model_state.read_parameters(network, content.arrays)
    estimator.coefs_ = weight_views(network.layout, flat)
    estimator.intercepts_ = bias_views(network.layout, flat)
    estimator._adopt()
    estimator.history_ = None
    _take_attributes(estimator, saved["attributes"])
    if spelled := saved.get("books"):
        _take_training(estimator, network, spelled, content.arrays, own)
    return estimator


def feature_names_of(estimator: Any) -> dict[str, Any]:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return {}
    return {"feature_names": tuple(names.tolist())}


def _network(estimator: Any, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Network:
    estimator._validate_params()
    n_threads_of(estimator.n_jobs)
    return to_core.network_of(estimator, sizes, dtype)


def _form_of(estimator: Any) -> dict[str, Any]:
    form = {"out_activation": estimator.out_activation_}
    if isinstance(estimator, MLPClassifier):
        form["labels"] = of_labels(estimator)
    form |= feature_names_of(estimator)
    if hasattr(estimator, "_sklearn_output_config"):
        form["transform_output"] = estimator._sklearn_output_config["transform"]
    return form


def _take_form(
    estimator: Any, sizes: tuple[int, ...], header: Mapping[str, Any]
) -> None:
    estimator.n_features_in_ = sizes[0]
    estimator.n_outputs_ = sizes[-1]
    estimator.n_layers_ = len(sizes)
    estimator.out_activation_ = header["out_activation"]
    outputs: tuple[str, ...] = ("identity", "exp", "sorted", "mean_std")
    if isinstance(estimator, MLPClassifier):
        outputs = (_take_labels(estimator, header["labels"]),)
    if estimator.out_activation_ not in outputs:
        raise FileError(
            f"out_activation must be {outputs}, got {estimator.out_activation_!r}"
        )
    take_feature_names(estimator, header, sizes[0])
    if "transform_output" in header:
        estimator.set_output(transform=header["transform_output"])


def _take_labels(classifier: Any, spelled: Mapping[str, Any]) -> str:
    classes = codec.classes_from(spelled)
    binarizer = binarizer_from(spelled, classes)
    n_outputs = 1 if binarizer.y_type_ == "binary" else len(classes)
    if classifier.n_outputs_ != n_outputs:
        raise FileError(
            f"{len(classes)} labels of a net with {classifier.n_outputs_} outputs"
        )
    classifier.classes_ = classes
    classifier._label_binarizer = binarizer
    if binarizer.y_type_ == "multiclass":
        return "softmax"
    return "logistic"


def take_feature_names(
    estimator: Any, header: Mapping[str, Any], n_features: int
) -> None:
    if "feature_names" not in header:
        return
    names = header["feature_names"]
    if len(names) != n_features:
        raise FileError(f"{len(names)} names of {n_features} features")
    estimator.feature_names_in_ = np.array(names, object)


def _take_attributes(estimator: Any, attributes: Attributes) -> None:
    if to_core.is_stochastic(estimator.solver):
        reset_records(estimator)
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            if value.ndim != 1 or value.dtype != np.float64:
                raise FileError(f"{name} must be a float64 vector")
            value = value.tolist()
        setattr(
            estimator, name, codec.count(value, name) if type(value) is int else value
        )


def _training_of(estimator: Any, network: Network) -> tuple[Any, dict[str, Any]]:
    optimizer = getattr(estimator, "_optimizer", None)
    if optimizer is None:
        return None, {}
    arrays = {}
    slots = _slots_of(estimator, network)
    if slots is not None:
        arrays["moments"] = slots
    if getattr(estimator, "best_validation_score_", None) is not None:
        best = (*estimator._best_coefs, *estimator._best_intercepts)
        arrays["best"] = np.concatenate([np.ravel(part) for part in best]).astype(
            network.dtype
        )
    stored = of_optimizer(optimizer)
    state = estimator.__dict__.get("_state")
    if state is not None and state.averaged_from:
        stored["averaged_from"] = state.averaged_from
    return stored, arrays


def _slots_of(estimator: Any, network: Network) -> Any:
    state: NetState | None = getattr(estimator, "_state", None)
    if state is None or (state.layout, state.parameters.dtype) != (
        network.layout,
        network.dtype,
    ):
        return None
    return state.slots()


def _take_training(
    estimator: Any,
    network: Network,
    spelled: Any,
    arrays: Mapping[str, Array],
    own: Own,
) -> None:
    layout = network.layout
    estimator._optimizer = optimizer_from(spelled, own)
    state = estimator._live_state()
    flat = state.parameters
    state.optimizer = to_core.averaged(estimator)
    state.set_slots(model_state.moments_of(arrays.get("moments"), flat))
    state.averaged_from = codec.count(spelled.get("averaged_from", 0), "averaged_from")
    if "best" in arrays:
        best = model_state.checked(arrays["best"], "best", flat).copy()
        estimator._best_coefs = weight_views(layout, best)
        estimator._best_intercepts = bias_views(layout, best)


def of_labels(classifier: Any) -> dict[str, Any]:
    binarizer = classifier._label_binarizer
    return codec.of_classes(classifier.classes_) | {
        "several": binarizer.y_type_.startswith("multilabel"),
        "sparse": bool(binarizer.sparse_input_),
    }


def binarizer_from(spelled: Mapping[str, Any], classes: Array) -> Any:
    """The binarizer of these labels, which must be sorted and distinct."""
    several, sparse = spelled["several"], spelled["sparse"]
    if type(several) is not bool or type(sparse) is not bool or sparse > several:
        raise FileError(
            "several and sparse must be true or false, and sparse only with several"
        )
    targets = np.eye(2, len(classes), dtype=int) if several else np.repeat(classes, 2)
    binarizer = LabelBinarizer().fit(csr_array(targets) if sparse else targets)
    if not np.array_equal(binarizer.classes_, classes):
        raise FileError("labels must be sorted, and each there once")
    return binarizer


def of_optimizer(optimizer: Any) -> dict[str, Any]:
    if isinstance(optimizer, to_core.CoreOptimizer):
        return {
            "kind": "core",
            "core": codec.of_optimizer(optimizer.core),
            "t": optimizer.t,
        }
    kind = "sgd" if isinstance(optimizer, SGDOptimizer) else "adam"
    settings = {name: _plain(name, getattr(optimizer, name)) for name in FIELDS[kind]}
    now = {
        "learning_rate": float(optimizer.learning_rate),
        "t": to_core.steps_of(optimizer),
    }
    return {"kind": kind, **settings, **now}


def optimizer_from(spelled: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    kind = spelled["kind"]
    t = codec.count(spelled["t"], "t")
    scalars.known("file", "kind of optimizer", kind, [*FIELDS, "core"])
    if kind == "core":
        optimizer = to_core.CoreOptimizer(codec.optimizer_from(spelled["core"], own))
        optimizer.t = t
        return optimizer
    settings = {name: spelled[name] for name in FIELDS[kind]}
    scalars.positive("file", "learning_rate_init", settings["learning_rate_init"])
    if kind == "sgd":
        optimizer = _sgd(settings)
    else:
        optimizer = AdamOptimizer([], **settings)
    rate = spelled["learning_rate"]
    optimizer.learning_rate = scalars.non_negative("file", "learning_rate", rate)
    optimizer.t = t
    to_core.core_of(optimizer)
    return optimizer


def _sgd(settings: dict[str, Any]) -> SGDOptimizer:
    scalars.known("file", "learning_rate", settings["lr_schedule"], SGD_SCHEDULES)
    scalars.boolean("file", "nesterov", settings["nesterov"])
    scalars.non_negative("file", "power_t", settings["power_t"])
    if scalars.non_negative("file", "momentum", settings["momentum"]) > 1:
        raise FileError(f"momentum must be at most 1, got {settings['momentum']!r}")
    return SGDOptimizer([], **settings)


def _plain(name: str, value: Any) -> Any:
    if name == "nesterov":
        return bool(value)
    return value if name == "lr_schedule" else float(value)


class SavedSearch(TypedDict, total=False):
    """Fields of a file, beside the arrays of results."""

    searched: Required[str]
    estimator: Required[codec.Parameters]
    parameters: Required[codec.Parameters]
    results: Required[dict[str, Any]]
    attributes: Required[dict[str, Any]]
    feature_names: tuple[str, ...]
    best: Content


def _pack_search(search: Any, *, training: bool) -> tuple[Any, dict[str, Array]]:
    """The header and arrays of a search; the best estimator is a file within it."""
    check_is_fitted(search, "cv_results_")
    if type(search.estimator) not in ESTIMATORS.values():
        raise ValueError(
            f"fastmlp.save: a search of {type(search.estimator).__name__} cannot be "
            f"written to a file, only one of {' or '.join(ESTIMATORS)}; pickle takes it"
        )
    estimator = search.estimator
    results, of_results = _results_of(search.cv_results_)
    there = vars(search)
    saved: dict[str, Any] = {
        "searched": type(estimator).__name__,
        "estimator": estimator.get_params(deep=False),
        "parameters": {
            name: value
            for name, value in search.get_params(deep=False).items()
            if name not in ("estimator", *PARAMETERS)
        },
        "results": results,
        "attributes": {
            name: codec.of_value(there[name]) for name in ATTRIBUTES if name in there
        },
        **feature_names_of(search),
    }
    if "best_estimator_" in there:
        best = pack(search.best_estimator_, training=training)
        saved["best"] = Content(saved["searched"], *best)
    header, arrays = codec.of_fields(SavedSearch, saved)
    return header, arrays | of_results


def _unpack_search(content: Content, own: Own, n_threads: int | None) -> Any:
    """The search in a file. Scorers are made anew, since files hold no functions."""
    saved = codec.fields_from(SavedSearch, content.header, content.arrays, own=own)
    estimator = ESTIMATORS[saved["searched"]](**saved["estimator"])
    search = MLPSearchCV(estimator, **saved["parameters"])
    if n_threads is not None:
        search.n_jobs = n_threads
    search._validate_params()
    search.cv_results_ = results = _results_from(saved["results"], content.arrays)
    for name, value in saved["attributes"].items():
        if name not in ATTRIBUTES:
            raise FileError(f"unknown attribute {name!r}")
        setattr(search, name, codec.value_from(value, own))
    if best := saved.get("best"):
        if best.kind != saved["searched"]:
            raise FileError(
                f"the best of {saved['searched']!r} is of kind {best.kind!r}"
            )
        search.best_estimator_ = unpack(best, own, n_threads)
        take_feature_names(search, saved, search.best_estimator_.n_features_in_)
    if hasattr(search, "best_index_"):
        search.best_params_ = results["params"][search.best_index_]
    scorers, _ = search._search()._get_scorers()
    search.scorer_ = getattr(scorers, "_scorers", scorers)
    return search


def _results_of(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    numbers = {
        name: np.asarray(values)
        for name, values in results.items()
        if name != "params" and not name.startswith("param_")
    }
    _check_sizes(results["params"], sum(values.size for values in numbers.values()))
    header = {
        "names": [
            [name, name in numbers and numbers[name].dtype.name] for name in results
        ],
        "params": codec.of_value(list(results["params"])),
    }
    arrays = {
        f"{RESULTS}.{name}": values.astype(
            np.int64 if values.dtype.kind in "iu" else np.float64
        )
        for name, values in numbers.items()
    }
    return header, arrays


def _check_sizes(candidates: list[dict[str, Any]], n_numbers: int) -> None:
    """Raise if columns of candidates would take more memory than the file suggests.

    Texts of a name are an array of all candidates, as wide as the longest.
    """
    n = len(candidates)
    n_names = len({name for candidate in candidates for name in candidate})
    wide = (
        value
        for candidate in candidates
        for value in candidate.values()
        if isinstance(value, TEXT_TYPES)
    )
    longest = max((len(str(value)) for value in wide), default=0)
    if (
        n * n_names > NAMES_A_NUMBER * n_numbers
        or 4 * n * longest > codec.MAX_TEXT_BYTES
    ):
        sizes = f"{n_names:,} names, texts of {longest:,} characters and {n_numbers:,} numbers"
        raise FileError(
            f"{n:,} candidates of {sizes}: their columns would take too much memory"
        )


def _results_from(
    header: Mapping[str, Any], arrays: Mapping[str, Any]
) -> dict[str, Any]:
    """`cv_results_` in the order of the file's names.

    Masked columns of parameters are made anew from the candidates.
    """
    candidates = codec.value_from(header["params"], {})
    if type(candidates) is not list or any(
        type(candidate) is not dict for candidate in candidates
    ):
        raise FileError("params must be a list of dicts")
    _check_sizes(candidates, sum(candidate.size for candidate in arrays.values()))
    if len({name for name, _ in header["names"]}) != len(header["names"]):
        raise FileError("names of results must differ")
    others = {
        "params": candidates,
        **dict(_yield_masked_array_for_each_param(candidates)),
    }
    results: dict[str, Any] = {}
    for name, kind in header["names"]:
        if kind is False:
            results[name] = others[name]
            continue
        numbers = arrays[f"{RESULTS}.{name}"]
        dtype = np.dtype(kind)
        if numbers.shape != (len(candidates),) or dtype.kind not in "iuf":
            raise FileError(f"{name} must be {len(candidates)} numbers")
        results[name] = numbers.astype(dtype)
    return results
