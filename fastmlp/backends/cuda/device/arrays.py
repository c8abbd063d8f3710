"""Arrays on the host or on the GPU: validation, copies, and other libraries' arrays."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.cuda.device import adapter
from fastmlp.backends.cuda.device.adapter import (
    configured,
    cuda,
    is_finite,
    kernel,
    synchronize,
    unsigned,
)
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.protocol import Data
from fastmlp.rules.losses import Loss

Array = NDArray[Any]
N_BLOCKS, N_THREADS = (2, 8) if adapter.SIMULATED else (512, 256)


def is_device_array(array: Any) -> bool:
    """Return True if an object has the CUDA array interface."""
    return hasattr(array, "__cuda_array_interface__")


def adopted(array: Any, name: str) -> Any:
    """Return a view of another library's array on the current GPU, without a copy.

    It waits for work on the array that its library has started.

    Raises
    ------
    ValueError
        If the array is on another GPU; the message begins with `name`.
    """
    interface = array.__cuda_array_interface__
    if adapter.SIMULATED:
        return np.asarray(_HostMemory(interface))
    address, current = interface["data"][0], adapter.MODULE.current_context().device.id
    device = _device_of(address) if address else current
    if device != current:
        raise ValueError(
            f"{name} lies on cuda:{device}, the net on cuda:{current}: move one of them"
        )
    if "stream" not in interface:
        # Version 2 of the interface, which is PyTorch's, does not name the stream to wait for.
        synchronize()
    return adapter.MODULE.as_cuda_array(array)


def _device_of(address: int) -> int:
    private = adapter.private_driver()
    ordinal = private.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    pointer = private.binding.CUdeviceptr(address)
    return int(private.driver.cuPointerGetAttribute(ordinal, pointer))


class _HostMemory:
    """Host memory by its address: the simulator's device arrays are host arrays."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


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
    on_device = adopted(y, f"{who}: y") if is_device_array(y) else None
    host = y if on_device is None else to_host(on_device)
    table = validation.targets(host, n_rows, n_outputs, loss.targets, dtype, who, loss.per_target)
    if on_device is None:
        return table
    same = on_device.dtype == dtype and tuple(on_device.shape) == table.shape
    return on_device if same and _contiguous(y) else table


def weights(weight: Any, n_rows: int, dtype: np.dtype[Any], who: str) -> Array:
    """Return sample weights, checked as by `validation.weights`, on the host."""
    if is_device_array(weight):
        weight = to_host(adopted(weight, f"{who}: sample_weight"))
    return validation.weights(weight, n_rows, dtype, who)


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


def _check_layout(array: Any, dtype: np.dtype[Any], who: str, name: str) -> None:
    interface = array.__cuda_array_interface__
    kind = np.dtype(interface["typestr"])
    if kind != dtype:
        raise TypeError(
            f"{who}: {name} on a device is used as it is and must be {dtype}, got {kind}; "
            "convert it there"
        )
    if not _contiguous(array):
        raise ValueError(f"{who}: {name} on a device is used as it is and must be C-contiguous")


def _contiguous(array: Any) -> bool:
    interface = array.__cuda_array_interface__
    strides = interface.get("strides")
    if strides is None:
        return True
    shape, size = tuple(interface["shape"]), np.dtype(interface["typestr"]).itemsize
    expected = tuple(int(size * np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    return tuple(strides) == expected


def host_bytes(data: Data) -> int:
    """Return the bytes of x and y that are on the host and must be copied to the GPU."""
    return sum(a.nbytes for a in (data.x, data.y) if isinstance(a, np.ndarray))


def gathered(data: Data) -> Data:
    """Return the rows in use as all rows, copied to the host if `rows` is a subset."""
    if data.rows is None:
        return data
    weight = data.weight[data.rows] if data.weight.size else data.weight
    return Data(to_host(data.x)[data.rows], to_host(data.y)[data.rows], weight)


@cache
def _finite_kernel() -> Any:
    """Make the kernel ``check_finite(x, non_finite)``; ``non_finite[0]`` becomes 1 or stays 0."""

    def check_finite(x: Any, non_finite: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, N_BLOCKS * N_THREADS
        n_columns = x.shape[1]
        for q in range(first, x.shape[0] * n_columns, n_all):
            r = q // n_columns
            if not is_finite(x[unsigned(r), unsigned(q - r * n_columns)]):
                non_finite[0] = 1.0

    return kernel(check_finite)


def all_finite(x: Any) -> bool:
    """Return True if all numbers of a matrix on the GPU are finite."""
    non_finite = adapter.MODULE.to_device(np.zeros(1))
    configured(_finite_kernel(), (x, non_finite), N_BLOCKS, N_THREADS)(x, non_finite)
    return not non_finite.copy_to_host()[0]
