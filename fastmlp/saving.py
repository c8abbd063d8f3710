"""`save` and `load`: files of nets and of fitted estimators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from fastmlp.model import MLP, unpacked
from fastmlp.network import resolve
from fastmlp.serialization import model_state, safetensors_file
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import needs

if TYPE_CHECKING:
    from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor
    from fastmlp.estimators.search import MLPSearchCV
    from fastmlp.tabular.models import TabularMLPClassifier, TabularMLPRegressor

    OfTables: TypeAlias = TabularMLPClassifier | TabularMLPRegressor
    Model: TypeAlias = MLP | MLPClassifier | MLPRegressor | MLPSearchCV | OfTables

# What can be saved beside a net, and the package with its `archive` module.
ESTIMATORS = {
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "MLPSearchCV": "estimators",
    "TabularMLPClassifier": "tabular",
    "TabularMLPRegressor": "tabular",
}


@explained
def save(
    model: Model, path: str | os.PathLike[str], *, include_training_state: bool = False
) -> None:
    """Write a net or a fitted estimator to a safetensors file, for `load`.

    Needs the extra `safetensors`. The file is written whole or not at all. It holds names and
    numbers, no code: rules of your own are stored by name, and you pass them to `load` again.

    For an estimator it holds the parameters, with a RandomState's state, the fitted attributes and
    the setting of `set_output`; not attributes of your own, nor metadata requests. For a search it
    holds the settings, `cv_results_` and the best estimator, for a model of tables its columns and
    the nets of its ensemble.

    Parameters
    ----------
    model : MLP, MLPClassifier, MLPRegressor, MLPSearchCV, TabularMLPClassifier or \
    TabularMLPRegressor
        An estimator must be fitted, and must not be of a subclass.
    path : path
    include_training_state : bool
        Add the optimizer's state, and a net's generator, so that `fit` or `partial_fit` on the
        loaded model goes on with the same bits.

    Raises
    ------
    TypeError
        If the model is something else, or another argument has the wrong type.
    ImportError
        If safetensors is not installed.
    OSError
        If the file cannot be written; a file that was there is unchanged.
    ValueError
        If a rule of your own has no name, as a lambda, another setting cannot be written, a
        parameter is not finite, or an estimator is not fitted.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastmlp
    >>> net = fastmlp.MLP((2, 4, 1), seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> fastmlp.save(net, path)
    >>> bool((fastmlp.load(path).predict([[1, 2]]) == net.predict([[1, 2]])).all())
    True
    """
    room = _room_of(model)
    if room is None and not isinstance(model, MLP):
        known = ", ".join(("MLP", *ESTIMATORS))
        hint = "; save its net_" if hasattr(model, "net_") else ""
        raise TypeError(
            f"fastmlp.save: model must be one of fastmlp's {known}, got {model!r}{hint}"
        )
    scalars.path("fastmlp.save", "path", path, mode="w")
    scalars.boolean("fastmlp.save", "include_training_state", include_training_state)
    if isinstance(model, MLP):
        return model.save(path, include_training_state=include_training_state)
    packer = import_module(f"fastmlp.{room}.archive")
    safetensors_file.write(path, packer.pack(model, training=include_training_state))


@explained
def load(
    path: str | os.PathLike[str],
    *,
    rules: Mapping[str, Any] | None = None,
    n_threads: int | None = None,
) -> Any:
    """Return the net or the estimator in a file.

    Nothing in the file is run, and loading takes memory bounded by the file's size. A file from any
    source gives a model or a `FileError`. Files of fastmlp 0.3 and later load.

    Parameters
    ----------
    path : path
    rules : mapping of str to callable, Loss or Optimizer, optional
        Your own rules that the model was made with, by their names; objects by their class's name.
    n_threads : int, optional
        As for `MLP`; an estimator's `n_jobs`.

    Returns
    -------
    MLP, MLPClassifier, MLPRegressor, MLPSearchCV, TabularMLPClassifier or TabularMLPRegressor

    Raises
    ------
    FileError
        If the file is damaged, of a later version, or names a rule that is neither fastmlp's nor
        in `rules`. It is a ValueError.
    TypeError, ValueError
        If an argument has the wrong type or value.
    OSError
        If there is no file, or it cannot be read.
    ImportError
        If safetensors is not installed, or scikit-learn for an estimator.

    Examples
    --------
    >>> import fastmlp
    >>> try:
    ...     fastmlp.load("README.md")
    ... except (fastmlp.FileError, OSError) as error:
    ...     print("no model")
    no model
    """
    scalars.path("fastmlp.load", "path", path, mode="r")
    if n_threads is not None:
        scalars.positive_integer("fastmlp.load", "n_threads", n_threads)
    own = resolve.own_rules(rules, "fastmlp.load")
    content = safetensors_file.read(path)
    if content.kind == model_state.KIND:
        with safetensors_file.refusing(path):
            return unpacked(content, own, n_threads)
    with safetensors_file.refusing(path):
        scalars.known("file", "kind", content.kind, (model_state.KIND, *ESTIMATORS))
    try:
        unpacker = import_module(f"fastmlp.{ESTIMATORS[content.kind]}.archive")
    except ModuleNotFoundError as error:
        holder = f"{os.fspath(path)} holds an estimator, which"
        raise ImportError(needs(holder, "scikit-learn")) from error
    with safetensors_file.refusing(path):
        return unpacker.unpack(content, own, n_threads)


def _room_of(model: Any) -> str | None:
    """Return the package of an estimator's archive, or None; nothing is imported for the check."""
    kind = type(model)
    room = ESTIMATORS.get(kind.__name__)
    return room if room and kind.__module__.startswith(f"fastmlp.{room}.") else None
