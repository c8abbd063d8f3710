"""Arrays of the user on the host or on the GPU: validation, and copies between the two."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.cuda.card import Card, adopted, is_device_array
from fastmlp.backends.cuda.finite import all_finite
from fastmlp.rules.losses import Loss

Array = NDArray[Any]


def features(x: Any, n_features: int, dtype: np.dtype[Any], who: str) -> Any:
    """Return X, checked as by `validation.features`; an X on the GPU stays there, not copied.

    Raises
    ------
    TypeError, ValueError
        If X is not valid. An X on the GPU must have the net's dtype and be C-contiguous.
    """
    if not is_device_array(x):
        return validation.features(x, n_features, dtype, who)
    _check_layout(x, dtype, who, "X")
    array = adopted(x, f"{who}: X")
    if array.ndim != 2 or array.shape[1] != n_features or array.shape[0] == 0:
        # Raises the error of an array on the host.
        validation.features(np.zeros(array.shape, dtype), n_features, dtype, who)
    if not all_finite(array):
        # Raises an error that names the first such number.
        validation.features(to_host(array), n_features, dtype, who)
    return array


def targets(y: Any, n_rows: int, n_outputs: int, loss: Loss, dtype: np.dtype[Any], who: str) -> Any:
    """Return y, checked as by `validation.targets`.

    A y on the GPU is checked on the host. It stays on the GPU if it needs no conversion.
    """
    how = (n_rows, n_outputs, loss.targets, dtype, who, loss.per_target)
    if not is_device_array(y):
        return validation.targets(y, *how)
    array = adopted(y, f"{who}: y")
    table = validation.targets(to_host(array), *how)
    as_is = array.dtype == dtype and tuple(array.shape) == table.shape and _contiguous(y, array)
    return array if as_is else table


def weights(given: Any, n_rows: int, dtype: np.dtype[Any], who: str) -> Array:
    """Return sample weights, checked as by `validation.weights`, on the host."""
    if is_device_array(given):
        given = to_host(adopted(given, f"{who}: sample_weight"))
    return validation.weights(given, n_rows, dtype, who)


def out_array(out: Any, shape: tuple[int, int], dtype: np.dtype[Any], who: str) -> Any:
    """Return a checked view of `out`, an array on the GPU."""
    _check_layout(out, dtype, who, "out")
    if out.__cuda_array_interface__["data"][1]:
        raise ValueError(f"{who}: out must be writeable")
    array = adopted(out, f"{who}: out")
    if tuple(array.shape) != shape:
        raise ValueError(f"{who}: out must have shape {shape}, got {tuple(array.shape)}")
    return array


def to_host(array: Any) -> Array:
    """Return a host array as it is, or a copy of an array on the GPU."""
    if isinstance(array, np.ndarray) or not hasattr(array, "copy_to_host"):
        return np.asarray(array)
    copy: Array = array.copy_to_host()
    return copy


def to_device(card: Card, array: Any) -> Any:
    """Return an array on the GPU as it is, or a copy of a host array."""
    if hasattr(array, "copy_to_host"):
        return array
    return card.copied(np.ascontiguousarray(array))


def _check_layout(given: Any, dtype: np.dtype[Any], who: str, name: str) -> None:
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
