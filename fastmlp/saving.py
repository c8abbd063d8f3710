"""`save` and `load`: files of nets and of fitted estimators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from fastmlp.archives import ARCHIVES, archive_of, is_known
from fastmlp.model import MLP, unpacked
from fastmlp.network import resolve
from fastmlp.serialization import files, model_state
from fastmlp.serialization.files import Content
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import needs

if TYPE_CHECKING:
    from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor
    from fastmlp.estimators.search import MLPSearchCV
    from fastmlp.tabular.models import TabularMLPClassifier, TabularMLPRegressor

    OfTables: TypeAlias = TabularMLPClassifier | TabularMLPRegressor
    Model: TypeAlias = MLP | MLPClassifier | MLPRegressor | MLPSearchCV | OfTables


@explained
def save(
    model: Model, path: str | os.PathLike[str], *, include_training_state: bool = False
) -> None:
    """Write a net or a fitted estimator to a safetensors file, for `load`.

    Needs the extra `safetensors`. The file holds names and numbers without code, and is
    written whole or not at all. Your rules are stored by name, and passed to `load`
    again.

    An estimator's file holds parameters, with a RandomState's state, fitted attributes
    and the setting of `set_output`, but not your attributes, nor metadata requests. A
    search's file holds settings, `cv_results_` and the best estimator. The file of a
    model of tables holds its columns and the nets of the ensemble.

    Parameters
    ----------
    model : MLP, MLPClassifier, MLPRegressor, MLPSearchCV, TabularMLPClassifier or \
    TabularMLPRegressor
        An estimator must be fitted, and not of a subclass.
    path : path
    include_training_state : bool
        Add the optimizer's state, and a net's generator, so that `fit` or `partial_fit`
        on the loaded model goes on with the same bits.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ImportError
        If safetensors is not installed.
    OSError
        If the file cannot be written; an old file is unchanged.
    ValueError
        If your rule has no name, as a lambda, a setting cannot be written, a parameter
        is not finite, or an estimator is not fitted.

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
    kind = type(model).__name__
    if not isinstance(model, MLP) and not is_known(type(model)):
        known = ", ".join(("MLP", *ARCHIVES))
        hint = "; save its net_" if hasattr(model, "net_") else ""
        raise TypeError(
            f"fastmlp.save: model must be one of fastmlp's {known}, got {model!r}{hint}"
        )
    scalars.path("fastmlp.save", "path", path, mode="w")
    files.check_ending(path, "fastmlp.save")
    scalars.boolean("fastmlp.save", "include_training_state", include_training_state)
    if isinstance(model, MLP):
        model.save(path, include_training_state=include_training_state)
        return
    packed = archive_of(kind).pack(model, training=include_training_state)
    files.write(path, Content(kind, *packed))


@explained
def load(
    path: str | os.PathLike[str],
    *,
    rules: Mapping[str, Any] | None = None,
    n_threads: int | None = None,
) -> Any:
    """Return the net or the estimator in a file.

    Nothing in the file is run, and memory is bounded by its size. A file from any
    source gives a model or a `FileError`. Files of fastmlp 0.3 and later load.

    Parameters
    ----------
    path : path
    rules : mapping of str to callable, Loss or Optimizer, optional
        The model's user-defined rules by name; objects by class name.
    n_threads : int, optional
        As for `MLP`; an estimator's `n_jobs`.

    Returns
    -------
    MLP, MLPClassifier, MLPRegressor, MLPSearchCV,
    TabularMLPClassifier or TabularMLPRegressor

    Raises
    ------
    FileError
        A ValueError: the file is damaged, of a later version, or names an unknown rule.
    TypeError, ValueError
        If an argument has the wrong type or value.
    OSError
        If the file cannot be read.
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
    content = files.read(path)
    if content.kind == model_state.KIND:
        with files.refusing(path):
            return unpacked(content, own, n_threads)
    with files.refusing(path):
        scalars.known("file", "kind", content.kind, (model_state.KIND, *ARCHIVES))
    try:
        unpacker = archive_of(content.kind)
    except ModuleNotFoundError as error:
        holder = f"{os.fspath(path)} holds an estimator, which"
        raise ImportError(needs(holder, "scikit-learn")) from error
    with files.refusing(path):
        return unpacker.unpack(content, own, n_threads)
