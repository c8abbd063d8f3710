"""Classes that `save` and `load` take beside nets, and the modules that pack them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Classes that are saved beside nets, by name: `pack` and `unpack`, or a module's name.
ARCHIVES: dict[str, Any] = {
    **dict.fromkeys(
        ("MLPClassifier", "MLPRegressor", "MLPSearchCV"), "fastmlp.estimators.archive"
    ),
    **dict.fromkeys(
        ("TabularMLPClassifier", "TabularMLPRegressor"), "fastmlp.tabular.archive"
    ),
}
_registered: set[type] = set()


def register(*kinds: type, archive: Any) -> None:
    """Let `save` and `load` take objects of classes.

    Parameters
    ----------
    kinds : classes, which files name by class name
    archive : module or class, or the name of a module that is imported on first use
        ``pack(model, training=)`` returns a header of JSON and arrays by name.
        ``unpack(content, own, n_threads)`` returns the model of ``content.kind``,
        ``content.header`` and ``content.arrays``; `own` has the user's rules by name.
    """
    for kind in kinds:
        ARCHIVES[kind.__name__] = archive
        _registered.add(kind)
    if of_tables := [kind for kind in kinds if hasattr(kind, "_onnx_values")]:
        # Files of nets do not need graphs.
        from fastmlp.export import onnx

        onnx.register(*of_tables)


def archive_of(kind: str) -> Any:
    """The `pack` and `unpack` of a class, by its name."""
    archive = ARCHIVES[kind]
    if isinstance(archive, str):
        return import_module(archive)
    return archive


def is_known(kind: type) -> bool:
    """True for a class that has an archive, without imports."""
    archive = str(ARCHIVES.get(kind.__name__, "")).removesuffix("archive")
    return kind in _registered or (
        bool(archive) and kind.__module__.startswith(archive)
    )
