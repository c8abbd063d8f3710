"""Models inside compiled code of the user's own: ``from fastmlp import jit``."""

import ctypes
from typing import Any, Literal

import numpy as np

from fastmlp.backends.cpu.predict.embedded import HANDLE, Owner
from fastmlp.backends.cpu.predict.embedded_calls import (
    SIGNATURES,
    Taker,
    c_function,
    gradient,
    predict,
    value,
)
from fastmlp.backends.cpu.predict.embedded_steps import train_on_batch, train_on_gradient
from fastmlp.backends.cpu.predict.embedded_tables import TableMember, TableOwner, TableScale
from fastmlp.backends.cpu.predict.embedded_vjp import vjp
from fastmlp.export.learner import learner
from fastmlp.export.models import is_a, parts_of
from fastmlp.export.table_parts import TableParts
from fastmlp.model import core_of

__all__ = [
    "HANDLE",
    "compiled",
    "function",
    "gradient",
    "learner",
    "predict",
    "scipy_callable",
    "train_on_batch",
    "train_on_gradient",
    "value",
    "vjp",
]


def __dir__() -> list[str]:
    """Return the public names, without what they are made of."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def compiled(model: Any, *, raw: bool = False, freeze: bool = False) -> Any:
    """A handle of a model, by which compiled code predicts.

    Hand it to compiled functions as an argument. As a global it would be frozen into their cached
    code, and the next process call an address that is no longer valid. A copy of it, or a pickle,
    holds addresses of another array: the functions refuse it with a ValueError. Workers are handed
    the model, and make a handle of their own.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
        Of a model of tables a row is of numbers, NaN where one is missing, and codes of levels, as
        `TabularMLPClassifier.codes` makes them.
    raw : bool
        Predict the outputs before the link.
    freeze : bool
        Predict by a copy of the parameters. Otherwise they are live: a step of the net's is seen by
        the next prediction, and predictions during a fit read parameters while they change. A
        further fit of an estimator makes new parameters, which the handle does not see.

    Returns
    -------
    record array of shape (1,), of the Numba type `HANDLE`
        The same for every model, so that a function is compiled once. It keeps the model's
        parameters alive.

    Raises
    ------
    TypeError, ValueError
        If the model is none of these, or not fitted; for `raw`, if it is one of tables.
    NotImplementedError
        If a model of tables has members of `extra_members`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, out = MLP((2, 8, 3), loss="cross_entropy", seed=0), np.empty(3)
    >>> jit.predict(jit.compiled(net), (0.5, -1.0), out)
    >>> float(out.sum().round(6))
    1.0
    """
    who = "jit.compiled"
    if is_a(model, "TabularMLP", "fastmlp"):
        return table_handle(model, raw=raw, freeze=freeze, who=who)
    parts = parts_of(model, who)
    core = core_of(parts.net)
    network, parameters = core.engine.network, core.state.parameters
    parameters = parameters.copy() if freeze else parameters
    if raw:
        return Owner(
            network.without_output(), parameters, "none", network.layout.sizes[-1]
        ).handle()
    return Owner(network, parameters, parts.completion, parts.n_outputs).handle()


def function(dtype: Literal["float32", "float64"] = "float64") -> Any:
    """A C function that predicts a row: ``void f(void *handle, const T *x, T *out)``.

    It serves all models: its first argument is ``handle.ctypes.data``. Any thread may call it. Keep
    the handle as long as it may be called.

    Parameters
    ----------
    dtype : "float32" or "float64", of x and out

    Returns
    -------
    Numba's CFunc
        Its ``address`` is for C, C++, Rust and Cython, its ``ctypes`` for Python.

    Raises
    ------
    ValueError
        If it is another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> handle = jit.compiled(MLP((2, 8, 1), initializer="zeros"))
    >>> x, out = np.ones(2), np.ones(1)
    >>> jit.function().ctypes(handle.ctypes.data, x.ctypes.data, out.ctypes.data)
    >>> float(out[0])
    0.0
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"jit.function: dtype must be 'float32' or 'float64', got {dtype!r}")
    return c_function(str(dtype))


def scipy_callable(handle: Any, kind: Taker = "quad") -> Any:
    """A model of one output as SciPy's LowLevelCallable, which SciPy calls without Python.

    Parameters
    ----------
    handle : record array of `compiled`; the callable keeps it alive
    kind : "quad", for `scipy.integrate.quad` and `nquad`, or "generic_filter", of `scipy.ndimage`
        The number of variables, or of the footprint's elements, must be that of the model's inputs:
        otherwise quad gets NaN, and generic_filter raises.

    Raises
    ------
    ValueError
        If the model has several outputs, the handle is a copy, or the kind is another.

    Examples
    --------
    >>> from scipy.integrate import quad
    >>> from fastmlp import MLP, jit
    >>> net = MLP((1, 8, 1), initializer="zeros")
    >>> quad(jit.scipy_callable(jit.compiled(net)), 0, 1)[0]
    0.0
    """
    from scipy import LowLevelCallable

    if kind not in SIGNATURES:
        raise ValueError(f"jit.scipy_callable: kind must be one of {[*SIGNATURES]}, got {kind!r}")
    value(handle, np.zeros(handle[0].n_in))
    data: Any = ctypes.c_void_p(handle.ctypes.data)
    data.handle = handle
    return LowLevelCallable(c_function(kind).ctypes, data, signature=SIGNATURES[kind])


def table_handle(model: Any, *, raw: bool, freeze: bool, who: str) -> Any:
    """The handle of a fitted model of tables; the options are those of `jit.compiled`.

    Raises
    ------
    ValueError
        If it is not fitted, or `raw`.
    NotImplementedError
        If a member is neither a net nor boosted trees.
    """
    parts: TableParts = model._table_parts(who)
    if raw:
        raise ValueError(f"{who}: raw=True is for nets, and a model of tables is a mean of some")
    members = []
    for member in parts.members:
        core = core_of(member.net)
        parameters = core.state.parameters
        parameters = parameters.copy() if freeze else parameters
        network = core.engine.network
        members.append(TableMember(network, parameters, member.encoding, member.weight))
    task = "regression" if parts.classes is None else "multiclass"
    if parts.classes is not None and all(net.layer_sizes[-1] == 1 for net in parts.nets):
        task = "binary"
    scale = TableScale(parts.scale, parts.center, parts.low, parts.high)
    n_in, n_out = parts.n_features, parts.n_outputs
    return TableOwner(parts.steps, members, n_in, n_out, task, scale, parts.trees).handle()
