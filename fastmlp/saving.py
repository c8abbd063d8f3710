"""Files of everything that can be kept: nets, and fitted estimators."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fastmlp.model import MLP, unpacked
from fastmlp.network import resolve
from fastmlp.serialization import model_state, safetensors_file
from fastmlp.validation import scalars

# What is kept beside nets, and the room that makes files of it.
ESTIMATORS = {
    "MLPClassifier": "estimators.mlp",
    "MLPRegressor": "estimators.mlp",
    "MLPEnsembleClassifier": "estimators.ensemble",
    "MLPEnsembleRegressor": "estimators.ensemble",
    "MLPSearchCV": "estimators.search",
}


def save(model: Any, path: str | os.PathLike[str], *, include_training_state: bool = False) -> None:
    """Write a net or a fitted estimator to a safetensors file, for `load`.

    Needs the extra `safetensors`. The file is written whole or not at all. It holds names and
    numbers, no code: rules of your own are kept by their names, and `load` is given them again.

    Of an estimator, it holds the parameters, with a RandomState's state, what `fit` left, and what
    `set_output` was told; not attributes of your own, nor requests for metadata. Of an ensemble it
    holds all members, of a search the settings, `cv_results_` and the best estimator.

    Parameters
    ----------
    model : MLP, MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor or \
    MLPSearchCV
        An estimator must be fitted, and of just that class.
    path : path
    include_training_state : bool
        Add the optimizer's state, and of a net the generator's, so that `fit` or `partial_fit` on
        the loaded model goes on with the same bits.

    Raises
    ------
    TypeError
        Where the model is something else, or another argument not what it must be.
    ImportError
        Where safetensors is not installed.
    OSError
        Where the file cannot be written; one that was there before is as it was.
    ValueError
        Where a rule of your own has no name, as a lambda, another setting cannot be written, a
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
        raise TypeError(f"fastmlp.save: model must be one of fastmlp's {known}, got {model!r}")
    scalars.path("fastmlp.save", "path", path)
    scalars.boolean("fastmlp.save", "include_training_state", include_training_state)
    if room is None:
        return model.save(path, include_training_state=include_training_state)
    packer = import_module(f"fastmlp.{room}.archive")
    safetensors_file.write(path, packer.pack(model, training=include_training_state))


def load(
    path: str | os.PathLike[str],
    *,
    rules: Mapping[str, Any] | None = None,
    n_threads: int | None = None,
) -> Any:
    """Return the net or the estimator that a file holds.

    Nothing in the file is run, and it takes no more memory than its own size allows: a file from
    anywhere is a model or a `FileError`. Files of every released version load.

    Parameters
    ----------
    path : path
    rules : mapping of str to callable, Loss or Optimizer, optional
        Your own rules that the model was made with, by their names; objects by their class's.
    n_threads : int, optional
        As for `MLP`; of an estimator, its `n_jobs`.

    Returns
    -------
    MLP, MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor or MLPSearchCV

    Raises
    ------
    FileError
        A ValueError, where the file is damaged, of a later version, or names a rule that is neither
        fastmlp's nor among `rules`.
    TypeError, ValueError
        Where an argument is not what it must be.
    OSError
        Where there is no file, or it cannot be read.
    ImportError
        Where safetensors is not installed, or it is an estimator and scikit-learn is not.

    Examples
    --------
    >>> import fastmlp
    >>> try:
    ...     fastmlp.load("README.md")
    ... except (fastmlp.FileError, OSError) as error:
    ...     print("no model")
    no model
    """
    scalars.path("fastmlp.load", "path", path)
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
        raise ImportError(
            f"{os.fspath(path)} holds an estimator, which needs scikit-learn: "
            "pip install 'fastmlp[sklearn]'"
        ) from error
    with safetensors_file.refusing(path):
        return unpacker.unpack(content, own, n_threads)


def _room_of(model: Any) -> str | None:
    """Return where files are made of it; of what is not imported yet, there is nothing."""
    for name, room in ESTIMATORS.items():
        if type(model) is getattr(sys.modules.get(f"fastmlp.{room}"), name, None):
            return room
    return None
