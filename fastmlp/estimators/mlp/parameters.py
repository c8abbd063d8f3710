"""The state of an estimator's net; `coefs_` and `intercepts_` hold views of its parameters.

The two lists are public: if a user has put other arrays into them, their numbers are gathered for
each call, and written back after training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import make_layout
from fastmlp.network.state import NetState
from fastmlp.rules import updates
from fastmlp.rules.optimizers import Custom

Array = NDArray[Any]
# The optimizer of a net before its fit sets the solver's; L-BFGS has none.
NO_OPTIMIZER = Custom(updates.sgd)


def state_from(coefs: Sequence[Array], intercepts: Sequence[Array], dtype: Any) -> NetState:
    """Return a net with a copy of these weights and biases.

    Raises
    ------
    ValueError
        If the shapes of the arrays do not fit together as layers.
    """
    layout = make_layout(sizes_of(coefs))
    biases = biases_of(intercepts, layout.sizes[1:])
    return NetState(layout, flat_of(coefs, biases).astype(dtype, copy=False), NO_OPTIMIZER)


def flat_of(coefs: Sequence[Array], intercepts: Sequence[Array]) -> Array:
    """Return all weights, then all biases, in one new vector."""
    return np.concatenate([np.ravel(part) for part in (*coefs, *intercepts)])


def stand_in(state: NetState, coefs: Sequence[Array], intercepts: Sequence[Array]) -> bool:
    """Return True if these lists hold the views of the state and no other arrays."""
    if len(coefs) != len(state.weights) or len(intercepts) != len(state.biases):
        return False
    for mine, its in zip(state.weights, coefs, strict=True):
        if mine is not its:
            return False
    return all(mine is its for mine, its in zip(state.biases, intercepts, strict=True))


def write_back(state: NetState, coefs: list[Array], intercepts: list[Array]) -> None:
    """Write the parameters into the arrays of these lists; an array that cannot hold them is
    replaced by the view."""
    for views, its in ((state.weights, coefs), (state.biases, intercepts)):
        for i, view in enumerate(views):
            if its[i] is view:
                continue
            if can_hold(its[i], view):
                its[i][...] = view
            else:
                its[i] = view


def take_slots(state: NetState, before: NetState | None) -> None:
    """Copy the optimizer's state of another net, if it has the same layers."""
    if before is not None and before.layout == state.layout:
        state.optimizer, state.averaged_from = before.optimizer, before.averaged_from
        state.set_slots(before.slots())


def sizes_of(coefs: Sequence[Array]) -> tuple[int, ...]:
    """Return the sizes of the layers that these matrices connect.

    Shapes that do not fit together raise: kernels would read past the end of the flat vector.
    """
    shapes = [np.shape(coef) for coef in coefs]
    for i, shape in enumerate(shapes):
        if len(shape) != 2:
            raise ValueError(f"coefs_[{i}] must be an array of two dimensions, got {coefs[i]!r}")
        if i and shape[0] != shapes[i - 1][1]:
            raise ValueError(
                f"coefs_[{i}] has {shape[0]} rows, but coefs_[{i - 1}] has {shapes[i - 1][1]} "
                "columns"
            )
    return (shapes[0][0], *(shape[1] for shape in shapes))


def biases_of(intercepts: Sequence[Array], widths: Sequence[int]) -> list[Array]:
    """Return the biases of layers of these widths; one number counts for all units of a layer."""
    if len(intercepts) != len(widths):
        raise ValueError(
            f"there are {len(widths)} arrays in coefs_, but {len(intercepts)} in intercepts_"
        )
    biases = []
    for i, (bias, width) in enumerate(zip(intercepts, widths, strict=True)):
        shape = np.shape(bias)
        if shape not in ((width,), (1, width), (1,), ()):
            raise ValueError(
                f"intercepts_[{i}] has the shape {shape}, but coefs_[{i}] has {width} columns"
            )
        biases.append(bias if shape == (width,) else np.broadcast_to(bias, (1, width)))
    return biases


def can_hold(array: Any, view: Array) -> bool:
    """Return True if the array holds all numbers of the view that are written to it."""
    return (
        isinstance(array, np.ndarray)
        and (array.dtype, array.size) == (view.dtype, view.size)
        and array.flags.writeable
    )


def dtype_of(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype to compute in: float32 if no array is wider, else float64."""
    kind = np.result_type(*arrays)
    if kind in (np.dtype(np.float16), np.dtype(np.float32)):
        return np.dtype(np.float32)
    return np.dtype(np.float64)
