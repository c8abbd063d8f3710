"""The parameters of an estimator: one flat vector, whose views stand in coefs_ and intercepts_."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.buffer_pool import Idle
from fastmlp._process.locks import Guard, publish
from fastmlp.network.parameter_layout import bias_views, make_layout, weight_views

Array = NDArray[Any]


class Parameters:
    """A flat vector and its views.

    The lists `coefs_` and `intercepts_` are what counts: where a user has put arrays of their own
    into them, these are gathered anew for each call, and written back after a training.

    Attributes
    ----------
    flat : (n_parameters,) array
    coefs, intercepts : views into it, shape (n_in, n_out) and (n_out,) each
    quick : what predicts a few rows again, or None
    idle : Idle, what predicts more rows again
    guard : Guard, for whoever predicts while they are trained

    Raises
    ------
    ValueError
        Where the arrays are not those of layers one after the other.
    """

    def __init__(self, coefs: Sequence[Array], intercepts: Sequence[Array], dtype: Any) -> None:
        self.layout = make_layout(sizes_of(coefs))
        biases = biases_of(intercepts, self.layout.sizes[1:])
        parts = [np.ravel(part) for part in (*coefs, *biases)]
        self.flat = np.concatenate(parts).astype(dtype, copy=False)
        self.coefs = weight_views(self.layout, self.flat)
        self.intercepts = bias_views(self.layout, self.flat)
        self.quick: Any = None
        self.idle, self.guard = Idle(), Guard()

    def stand_in(self, coefs: Sequence[Array], intercepts: Sequence[Array]) -> bool:
        """Whether these lists hold the views, and no other arrays."""
        if len(coefs) != len(self.coefs) or len(intercepts) != len(self.intercepts):
            return False
        for mine, its in zip(self.coefs, coefs, strict=True):
            if mine is not its:
                return False
        return all(mine is its for mine, its in zip(self.intercepts, intercepts, strict=True))

    def assign(self, coefs: Sequence[Array], intercepts: Sequence[Array]) -> None:
        """Take these numbers over."""
        self.take(np.concatenate([np.ravel(part) for part in (*coefs, *intercepts)]))

    def take(self, numbers: Array) -> None:
        """Take these numbers over, shape (n_parameters,), all at once for those who predict."""
        with self.guard.whole:
            publish(np.ascontiguousarray(numbers, self.flat.dtype), self.flat)

    def write_back(self, coefs: list[Array], intercepts: list[Array]) -> None:
        """Write the numbers into these lists' arrays, or the views where that cannot be."""
        for mine, its in ((self.coefs, coefs), (self.intercepts, intercepts)):
            for i, view in enumerate(mine):
                if its[i] is view:
                    continue
                if can_hold(its[i], view):
                    its[i][...] = view
                else:
                    its[i] = view


def sizes_of(coefs: Sequence[Array]) -> tuple[int, ...]:
    """Return the sizes of the layers between which these matrices stand.

    What does not fit together would have kernels read past the end of the flat vector.
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
    """Return the biases of layers of these widths; one number stands for all of a layer."""
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
    """Whether numbers that are written into the array are those of the view."""
    return (
        isinstance(array, np.ndarray)
        and (array.dtype, array.size) == (view.dtype, view.size)
        and array.flags.writeable
    )


def dtype_of(*arrays: Array) -> np.dtype[Any]:
    """Return the precision to compute with these arrays in: float32 where all are no wider."""
    kind = np.result_type(*arrays)
    if kind in (np.dtype(np.float16), np.dtype(np.float32)):
        return np.dtype(np.float32)
    return np.dtype(np.float64)
