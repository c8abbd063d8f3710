"""Rows on the device: copied from the host, or used in place."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.cuda import adapter, finite
from fastmlp.backends.cuda.adapter import Card
from fastmlp.rules.losses import Loss

Array = NDArray[Any]


class Rows(NamedTuple):
    """Validated rows, on the host or on the device.

    Attributes
    ----------
    x : shape (n_rows, n_features)
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike; on the host
    rows : int64, which of the rows to work on, and in which order; None: all of them
    """

    x: Any
    y: Any
    weight: Array
    rows: NDArray[np.int64] | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows to work on."""
        return len(self.x if self.rows is None else self.rows)

    @property
    def mass(self) -> float:
        """The number of rows to work on, or the sum of their weights."""
        if not self.weight.size:
            return float(self.n_rows)
        weight = self.weight if self.rows is None else self.weight[self.rows]
        return float(weight.sum(dtype=np.float64))

    def gathered(self) -> "Rows":
        """Return data whose rows are all to be worked on; unless they are already, a host copy."""
        if self.rows is None:
            return self
        weight = self.weight[self.rows] if self.weight.size else self.weight
        return Rows(to_host(self.x)[self.rows], to_host(self.y)[self.rows], weight)


def features(x: Any, n_features: int, dtype: np.dtype[Any], who: str) -> Any:
    """Return X as `validation.features` does; an array on the device is used in place.

    Raises
    ------
    TypeError, ValueError
        If X is invalid. On a device it must have the net's dtype and be C-contiguous.
    """
    if not adapter.is_device_array(x):
        return validation.features(x, n_features, dtype, who)
    _check_form(x, dtype, who, "X")
    array = adapter.adopted(x, f"{who}: X")
    if array.ndim != 2 or array.shape[1] != n_features or array.shape[0] == 0:
        # Raises the error of arrays on the host.
        validation.features(np.zeros(array.shape, dtype), n_features, dtype, who)
    if not finite.all_finite(array):
        # Raises the error that names the number.
        validation.features(to_host(array), n_features, dtype, who)
    return array


def targets(y: Any, n_rows: int, n_outputs: int, loss: Loss, dtype: np.dtype[Any], who: str) -> Any:
    """Return y as `validation.targets` does; an array on the device of the right form stays there.

    It is checked in a copy on the host. Labels of another dtype are converted there.
    """
    if not adapter.is_device_array(y):
        return validation.targets(y, n_rows, n_outputs, loss, dtype, who)
    array = adapter.adopted(y, f"{who}: y")
    table = validation.targets(to_host(array), n_rows, n_outputs, loss, dtype, who)
    as_is = array.dtype == dtype and tuple(array.shape) == table.shape and _contiguous(y, array)
    return array if as_is else table


def weights(given: Any, n_rows: int, dtype: np.dtype[Any], who: str) -> Array:
    """Return sample weights on the host."""
    if adapter.is_device_array(given):
        given = to_host(adapter.adopted(given, f"{who}: sample_weight"))
    return validation.weights(given, n_rows, dtype, who)


def out_array(out: Any, shape: tuple[int, int], dtype: np.dtype[Any], who: str) -> Any:
    """Return `out`, an array on the device, after checking it."""
    _check_form(out, dtype, who, "out")
    if out.__cuda_array_interface__["data"][1]:
        raise ValueError(f"{who}: out must be writeable")
    array = adapter.adopted(out, f"{who}: out")
    if tuple(array.shape) != shape:
        raise ValueError(f"{who}: out must have shape {shape}, got {tuple(array.shape)}")
    return array


def to_host(array: Any) -> Array:
    """Return an array on the host: itself, or a copy of an array on the device."""
    if isinstance(array, np.ndarray) or not hasattr(array, "copy_to_host"):
        return np.asarray(array)
    copy: Array = array.copy_to_host()
    return copy


def to_device(card: Card, array: Any) -> Any:
    """Return an array on the device: itself, or a copy of an array on the host."""
    if hasattr(array, "copy_to_host"):
        return array
    return card.copied(np.ascontiguousarray(array))


def _check_form(given: Any, dtype: np.dtype[Any], who: str, name: str) -> None:
    interface = given.__cuda_array_interface__
    kind = np.dtype(interface["typestr"])
    if kind != dtype:
        raise TypeError(
            f"{who}: {name} on a device is used as it is and must be {dtype}, got {kind}; "
            "convert it there"
        )
    if not _contiguous(given, None):
        raise ValueError(f"{who}: {name} on a device is used as it is and must be C-contiguous")


def _contiguous(given: Any, array: Any) -> bool:
    interface = given.__cuda_array_interface__
    strides = interface.get("strides")
    if strides is None:
        return True
    shape, size = tuple(interface["shape"]), np.dtype(interface["typestr"]).itemsize
    expected = tuple(int(size * np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    return tuple(strides) == expected
