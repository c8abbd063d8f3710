"""The layout of a net's parameters in one flat vector: all weights, then all biases."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]


class Layout(NamedTuple):
    """Sizes of the layers and offsets into the flat vector of parameters.

    The weights of layer i begin at ``weights[i]``, a C-contiguous (n_in, n_out) matrix; its biases
    begin at ``biases[i]``, shape (n_out,).
    """

    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    n_weights: int
    n_parameters: int

    @property
    def n_layers(self) -> int:
        """Number of layers with weights."""
        return len(self.sizes) - 1


class Views(list[Vector]):
    """A list of views of a flat vector. Setting an item writes to the vector.

    Parameters
    ----------
    views : iterable of arrays
    name : str, default "views"
        The name of the list in messages.

    Examples
    --------
    >>> import numpy as np
    >>> flat = np.zeros(3)
    >>> views = Views([flat[:1], flat[1:]])
    >>> views[1] = 7.0
    >>> flat
    array([0., 7., 7.])
    """

    def __init__(self, views: Iterable[Vector], name: str = "views") -> None:
        super().__init__(views)
        self._name = name

    def __setitem__(self, place: Any, numbers: Any) -> None:
        views, several = self[place], isinstance(place, slice)
        pairs = zip(views, numbers, strict=True) if several else [(views, numbers)]
        for view, its in pairs:
            try:
                view[...] = its
            except ValueError as error:
                shape = f"{self._name}[{place!r}] has the shape {view.shape}"
                raise ValueError(
                    f"{shape}, got numbers of shape {np.shape(its)}: {error}"
                ) from None

    def __reduce__(self) -> Any:
        """Make a copy, or a pickle, a plain list: its arrays are not views of the net's vector."""
        return list, (list(self),)


def make_layout(sizes: tuple[int, ...]) -> Layout:
    """Return the layout of a net with layers of these sizes.

    Examples
    --------
    >>> make_layout((2, 4, 1)).n_parameters
    17
    """
    shapes = list(pairwise(sizes))
    offsets = [0]
    for n_in, n_out in shapes:
        offsets.append(offsets[-1] + n_in * n_out)
    for _, n_out in shapes:
        offsets.append(offsets[-1] + n_out)
    n = len(shapes)
    return Layout(sizes, tuple(offsets[:n]), tuple(offsets[n:-1]), offsets[n], offsets[-1])


def spread(layout: Layout, weights: Sequence[float], biases: Sequence[float]) -> Vector:
    """Return one number a layer for its weights, and one for its biases, as numbers of parameters.

    Examples
    --------
    >>> spread(make_layout((1, 2, 1)), [1, 2], [3, 4])
    array([1, 1, 2, 2, 3, 3, 4])
    """
    sizes = [n_in * n_out for n_in, n_out in pairwise(layout.sizes)]
    return np.repeat([*weights, *biases], [*sizes, *layout.sizes[1:]])


def weight_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Return the weight matrices, shape (n_in, n_out) each, as views of `flat`."""
    shapes = pairwise(layout.sizes)
    return [
        flat[start : start + n_in * n_out].reshape(n_in, n_out)
        for start, (n_in, n_out) in zip(layout.weights, shapes, strict=True)
    ]


def bias_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Return the bias vectors, shape (n_out,) each, as views of `flat`."""
    return [
        flat[start : start + n_out]
        for start, n_out in zip(layout.biases, layout.sizes[1:], strict=True)
    ]
