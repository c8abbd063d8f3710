"""scikit-learn's optimizer objects as JSON values, and back."""

from collections.abc import Mapping
from typing import Any

from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fastmlp.estimators.mlp import solvers
from fastmlp.serialization import codec
from fastmlp.serialization.safetensors_file import FileError
from fastmlp.validation import scalars

FIELDS: dict[str, tuple[str, ...]] = {
    "sgd": ("learning_rate_init", "lr_schedule", "momentum", "nesterov", "power_t"),
    "adam": ("learning_rate_init", *solvers.SETTINGS),
}
SGD_SCHEDULES = ("constant", "adaptive", "invscaling")


def of_optimizer(optimizer: Any) -> dict[str, Any]:
    """Return the JSON form of an optimizer object, without its state."""
    if isinstance(optimizer, solvers.CoreOptimizer):
        return {"kind": "core", "core": codec.of_optimizer(optimizer.core), "t": optimizer.t}
    kind = "sgd" if isinstance(optimizer, SGDOptimizer) else "adam"
    told = {name: _plain(name, getattr(optimizer, name)) for name in FIELDS[kind]}
    now = {"learning_rate": float(optimizer.learning_rate), "t": solvers.steps_of(optimizer)}
    return {"kind": kind, **told, **now}


def optimizer_from(spelled: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Return the optimizer object of a JSON form.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the form is not valid.
    """
    kind, t = spelled["kind"], count(spelled["t"], "t")
    scalars.known("file", "kind of optimizer", kind, [*FIELDS, "core"])
    if kind == "core":
        optimizer = solvers.CoreOptimizer(codec.optimizer_from(spelled["core"], own))
        optimizer.t = t
        return optimizer
    settings = {name: spelled[name] for name in FIELDS[kind]}
    scalars.positive("file", "learning_rate_init", settings["learning_rate_init"])
    optimizer = _sgd(settings) if kind == "sgd" else AdamOptimizer([], **settings)
    optimizer.learning_rate = scalars.non_negative(
        "file", "learning_rate", spelled["learning_rate"]
    )
    optimizer.t = t
    solvers.core_of(optimizer)
    return optimizer


def count(value: Any, name: str) -> int:
    """Check a number of steps, rows or epochs."""
    if type(value) is not int or not 0 <= value <= scalars.LARGEST:
        raise FileError(f"{name} must be an integer of 0 or more, got {value!r}")
    return value


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
