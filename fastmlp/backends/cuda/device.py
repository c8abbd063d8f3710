"""The CUDA module, of numba-cuda,
its successor or Numba's simulator; GPUs, and arrays on them.

Kernels use what the three modules have in common, and take `cuda` from here,
where all private parts of the module are used.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import config, types

from fastmlp._process.memory import readable
from fastmlp.backends.protocol import Data
from fastmlp.validation import Array, arrays
from fastmlp.validation.gaps import Form
from fastmlp.validation.heads import HeadForms, weighted_targets
from fastmlp.validation.messages import NUMBA_CUDA, needs

Function = Callable[..., Any]
SIMULATED = bool(config.ENABLE_CUDASIM)
SCALARS: dict[str, Any] = {
    name: getattr(types, name) for name in ("int32", "float32", "float64")
}
# The oldest compute capability of the compiler for CUDA 13; the tests compile for it.
OLDEST_CAPABILITY = (7, 5)


class _Simulated:
    """The module `cuda` of kernels in the simulator.

    The simulator replaces the module in a function's globals during a call: with
    functions of other modules, one thread would restore it during another thread's
    call.
    """

    def __getattr__(self, name: str) -> Any:
        kernels = importlib.import_module("numba.cuda.simulator.kernel")
        return getattr(kernels._get_kernel_context(), name)


def _module() -> Any:
    """Numba's module, deprecated and without a compiler, comes last."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        return importlib.import_module("numba_cuda_mlir.cuda")
    return importlib.import_module("numba.cuda")


NUMBA_MODULE: Any = _module()
cuda: Any = _Simulated() if SIMULATED else NUMBA_MODULE


def device_function(function: Function) -> Any:
    """A function that kernels call, inlined: local arrays stay in registers,
    and the compiler knows which arrays are in shared memory.
    """
    if SIMULATED:
        return function
    return NUMBA_MODULE.jit(device=True, forceinline=True)(function)


def _unsigned(i: Any) -> Any:
    return np.uint64(i)


# For a signed index, the compiler adds the test for -1, the last element,
# to every access: a third of the instructions of the innermost loops.
unsigned = int if SIMULATED else device_function(_unsigned)


@device_function
def is_finite(x: Any) -> Any:
    # For an infinity or a NaN, the difference is NaN.
    return x - x == 0


def _on_host(argument: Any) -> Any:
    """A kernel's argument; the simulator's arrays as arrays of NumPy."""
    if isinstance(argument, tuple):
        return argument._make(map(_on_host, argument))  # type: ignore[attr-defined]
    array = getattr(argument, "_item", argument)
    return getattr(array, "_ary", array)


def kernel(function: Function) -> Any:
    """A kernel, which compiles at its first launch."""
    if not SIMULATED:
        return NUMBA_MODULE.jit(function)

    def simulated(*arguments: Any) -> None:
        # Compiled code never warns of an overflow.
        with np.errstate(all="ignore"):
            function(*map(_on_host, arguments))

    return NUMBA_MODULE.jit(simulated)


def private_driver() -> Any:
    """The private part of the module that calls the driver."""
    return importlib.import_module(f"{NUMBA_MODULE.__name__}.cudadrv.driver")


def synchronize() -> None:
    NUMBA_MODULE.synchronize()


def configure(
    dispatcher: Any, arguments: tuple[Any, ...], blocks: Any, n_threads: int
) -> Any:
    """A kernel with its launch configuration, compiled for these arguments; `blocks`:
    their number, or numbers along x and y. A rule that does not compile raises a
    TypeError.
    """
    if SIMULATED:
        return dispatcher[blocks, n_threads]
    if not dispatcher.overloads:
        compiled_for(dispatcher, arguments)
    return _configured(dispatcher, blocks, n_threads)


@cache
def _configured(dispatcher: Any, blocks: Any, n_threads: int) -> Any:
    # The module warns of grids of few blocks, as a small net has.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dispatcher[blocks, n_threads]


def type_of(argument: Any) -> Any:
    return device_function(_unsigned).typeof_pyval(argument)


def compiled_for(dispatcher: Any, arguments: tuple[Any, ...]) -> Any:
    """A kernel's form for these arguments;
    a rule that does not compile raises a TypeError.
    """
    try:
        return dispatcher.compile(tuple(map(dispatcher.typeof_pyval, arguments)))
    except (
        Exception
    ) as error:  # The compiler raises errors of many classes, even KeyError.
        if "CUDA_ERROR" in str(error) or type(error).__name__.upper().startswith(
            "CUDA"
        ):
            # An error of the driver: the rules have compiled.
            raise
        raise TypeError(
            "a rule of this net does not compile for a GPU; it must be a function of "
            "scalars that "
            f"calls only functions of fastmlp.rules.elementary and of math: {error}"
        ) from error


def max_cooperative_blocks(
    dispatcher: Any, arguments: tuple[Any, ...], n_threads: int
) -> int:
    """A kernel's blocks that can be resident at once."""
    if SIMULATED:
        return 1
    return int(
        compiled_for(dispatcher, arguments).max_cooperative_grid_blocks(n_threads)
    )


def installed() -> bool:
    """True also in the simulator."""
    return SIMULATED or any(
        find_spec(name) for name in ("numba_cuda", "numba_cuda_mlir")
    )


# The process that first used a device: CUDA does not work in processes forked from it.
_first_user: int | None = None


def note_use() -> None:
    global _first_user
    _first_user = os.getpid()


def require(index: int, who: str = "MLP") -> None:
    """Raise an ImportError without a CUDA module,
    a RuntimeError without the driver or the device.
    """
    if SIMULATED:
        return
    if not installed():
        needed = needs(f'{who}: device="cuda"', "numba-cuda")
        raise ImportError(f'{needed}, or use device="cpu"')
    if _first_user not in (None, os.getpid()):
        raise RuntimeError(
            f"{who}: this process was forked from one that had used a GPU, where CUDA "
            f"does not "
            'work: start it by multiprocessing\'s "spawn"'
        )
    n_devices = count(who)
    if index >= n_devices:
        known = ", ".join(f"cuda:{i}" for i in range(n_devices))
        raise RuntimeError(
            f"{who}: the device cuda:{index} does not exist; known: {known}"
            if known
            else f"{who}: the NVIDIA driver sees no device: check nvidia-smi, or use "
            f'device="cpu"'
        )
    reason = _why_unusable(index)
    if reason:
        raise RuntimeError(f"{who}: {reason}")


def count(who: str = "MLP") -> int:
    """Devices that the driver sees;
    a RuntimeError without the driver, or its answer.
    """
    if SIMULATED:
        return 1
    try:
        return len(NUMBA_MODULE.gpus)
    except Exception as error:  # The class differs between versions of the module.
        message = " ".join(str(error).split()) or repr(error)
        if "CUDA_ERROR_NO_DEVICE" in message:
            return 0
        first = message.removeprefix("Error at driver init: ").partition(".")[0]
        raise RuntimeError(
            f'{who}: device="cuda" needs the NVIDIA driver, which does not load '
            f"({first}): "
            'install it, see that nvidia-smi runs, or use device="cpu"'
        ) from error


def _why_unusable(index: int) -> str | None:
    capability = tuple(NUMBA_MODULE.gpus[index].compute_capability)
    if capability < OLDEST_CAPABILITY:
        own, oldest = (
            ".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY)
        )
        return (
            f"cuda:{index} has compute capability {own}, and fastmlp's kernels need "
            f"{oldest} or "
            'more; use device="cpu"'
        )
    driver, package = _versions()
    if driver < package:
        return (
            f"the NVIDIA driver is for CUDA {driver}, and the package for CUDA "
            f"{package}: install "
            f'a newer driver, or pip install "numba-cuda[cu{driver}]=={NUMBA_CUDA}.*"'
        )
    return None


def _versions() -> tuple[int, int]:
    package = importlib.import_module("cuda.bindings").__version__.partition(".")[0]
    return int(private_driver().driver.get_version()[0]), int(package)


class Card:
    n_multiprocessors: int

    def __init__(self, index: int) -> None:
        note_use()
        self.index = index
        if SIMULATED:
            self.n_multiprocessors = 1
            return
        self.n_multiprocessors = int(NUMBA_MODULE.gpus[index].MULTIPROCESSOR_COUNT)

    def current(self) -> AbstractContextManager[Any]:
        """Allocations and launches in this context go to this GPU."""
        if SIMULATED:
            return nullcontext()
        return NUMBA_MODULE.gpus[self.index]

    def free_bytes(self) -> int:
        if SIMULATED:
            return 1 << 40
        with self.current():
            return int(NUMBA_MODULE.current_context().get_memory_info()[0])

    def reclaim(self) -> None:
        """Return freed memory to the driver:
        the module keeps up to ten freed arrays, or a fifth of the memory.
        """
        if SIMULATED:
            return
        with self.current():
            # Another library's memory manager, such as RMM's, may have no such list.
            manager = getattr(NUMBA_MODULE.current_context(), "memory_manager", None)
            freed = getattr(manager, "deallocations", None)
            if freed is not None:
                freed.clear()

    def require_bytes(self, n_bytes: int, who: str) -> None:
        """Raise a MemoryError, with the bytes needed and free,
        unless `n_bytes` are free.
        """
        if n_bytes > self.free_bytes():
            self.reclaim()
        if n_bytes > (free := self.free_bytes()):
            raise MemoryError(
                f"{who}: this takes {readable(n_bytes)} of the memory of "
                f"cuda:{self.index}, where {readable(free)} are free; use a smaller "
                f"batch_size or fewer rows, or free some "
                "there"
            )

    def empty(self, shape: Any, dtype: Any) -> Any:
        """An uninitialised array on the GPU, or a MemoryError."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._allocated(lambda: NUMBA_MODULE.device_array(shape, dtype), n_bytes)

    def copied(self, array: Any) -> Any:
        """A copy of a host array on the GPU, or a MemoryError."""
        return self._allocated(lambda: NUMBA_MODULE.to_device(array), array.nbytes)

    def _allocated(self, allocate: Callable[[], Any], n_bytes: int) -> Any:
        try:
            return allocate()
        except Exception as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise MemoryError(
                f"cuda:{self.index} has no room for {readable(n_bytes)} in one piece: "
                f"use a "
                "smaller batch_size or fewer rows, or free some there"
            ) from error


@cache
def card_of(index: int) -> Card:
    """The GPU with this number, which `require` has checked."""
    return Card(index)


N_BLOCKS, N_THREADS = (2, 8) if SIMULATED else (512, 256)


def is_device_array(array: Any) -> bool:
    return hasattr(array, "__cuda_array_interface__")


def adopted(array: Any, name: str) -> Any:
    """A view of another library's array on the current GPU, without a copy.

    The call waits for work on the array that its library has started.
    An array on another GPU raises a ValueError that begins with `name`.
    """
    interface = array.__cuda_array_interface__
    if SIMULATED:
        return np.asarray(_HostMemory(interface))
    address = interface["data"][0]
    current = NUMBA_MODULE.current_context().device.id
    device = _device_of(address) if address else current
    if device != current:
        raise ValueError(
            f"{name} lies on cuda:{device}, the net on cuda:{current}: move one of them"
        )
    if "stream" not in interface:
        # Version 2 of the interface, PyTorch's, does not name the stream to wait for.
        synchronize()
    return NUMBA_MODULE.as_cuda_array(array)


def _device_of(address: int) -> int:
    private = private_driver()
    ordinal = private.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    pointer = private.binding.CUdeviceptr(address)
    return int(private.driver.cuPointerGetAttribute(ordinal, pointer))


class _HostMemory:
    """Host memory by its address: the simulator's device arrays are host arrays."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def features(x: Any, n_features: int, dtype: np.dtype[Any], who: str) -> Any:
    """X, checked as by `arrays.features`; an X on the GPU stays there,
    must have the net's dtype and be C-contiguous.
    """
    if not is_device_array(x):
        return arrays.features(x, n_features, dtype, who)
    _check_layout(x, dtype, who, "X")
    array = adopted(x, f"{who}: X")
    if array.ndim != 2 or array.shape[1] != n_features or array.shape[0] == 0:
        # Raises the error of an array on the host.
        arrays.features(np.zeros(array.shape, dtype), n_features, dtype, who)
    if not all_finite(array):
        # Raises an error that names the first such number.
        arrays.features(to_host(array), n_features, dtype, who)
    return array


def targets(
    y: Any,
    weight: Any,
    n_rows: int,
    form: Form | HeadForms,
    dtype: np.dtype[Any],
    who: str,
    **gaps: bool,
) -> tuple[Any, Array]:
    """y and weights of rows, checked as by `weighted_targets`.

    A y on the GPU is checked on the host;
    it stays on the GPU if its dtype and shape fit.
    """
    if isinstance(form, HeadForms):
        raise ValueError(
            f'{who}: device="cuda" does not take heads, a loss for each slice of the '
            'outputs: use a net a loss, or device="cpu"'
        )
    on_device = adopted(y, f"{who}: y") if is_device_array(y) else None
    host = y if on_device is None else to_host(on_device)
    if is_device_array(weight):
        weight = to_host(adopted(weight, f"{who}: sample_weight"))
    table, weight = weighted_targets(host, weight, n_rows, form, dtype, who, **gaps)
    if not form.whole_rows and table.shape[1] == 2 * form.n_targets:
        raise ValueError(
            f'{who}: device="cuda" does not weigh the targets of a row apart '
            "(missing_targets, or sample_weight of two axes): use weights of rows, or "
            'device="cpu"'
        )
    if on_device is None or on_device.dtype != dtype or not _contiguous(y):
        return table, weight
    # Gaps are filled on the host.
    stays = tuple(on_device.shape) == table.shape and not gaps.get("ignore")
    return (on_device if stays else table), weight


def weights(weight: Any, n_rows: int, dtype: np.dtype[Any], who: str) -> Array:
    """Sample weights, checked as by `arrays.weights`, on the host."""
    if is_device_array(weight):
        weight = to_host(adopted(weight, f"{who}: sample_weight"))
    return arrays.weights(weight, n_rows, dtype, who)


def out_array(out: Any, shape: tuple[int, int], dtype: np.dtype[Any], who: str) -> Any:
    _check_layout(out, dtype, who, "out")
    if out.__cuda_array_interface__["data"][1]:
        raise ValueError(f"{who}: out must be writeable")
    array = adopted(out, f"{who}: out")
    if tuple(array.shape) != shape:
        raise ValueError(
            f"{who}: out must have shape {shape}, got {tuple(array.shape)}"
        )
    return array


def to_host(array: Any) -> Array:
    if isinstance(array, np.ndarray) or not hasattr(array, "copy_to_host"):
        return np.asarray(array)
    copy: Array = array.copy_to_host()
    return copy


def to_device(card: Card, array: Any) -> Any:
    if hasattr(array, "copy_to_host"):
        return array
    return card.copied(np.ascontiguousarray(array))


def _check_layout(array: Any, dtype: np.dtype[Any], who: str, name: str) -> None:
    interface = array.__cuda_array_interface__
    kind = np.dtype(interface["typestr"])
    if kind != dtype:
        raise TypeError(
            f"{who}: {name} on a device is used as it is and must be {dtype}, got "
            f"{kind}; "
            "convert it there"
        )
    if not _contiguous(array):
        raise ValueError(
            f"{who}: {name} on a device is used as it is and must be C-contiguous"
        )


def _contiguous(array: Any) -> bool:
    interface = array.__cuda_array_interface__
    strides = interface.get("strides")
    if strides is None:
        return True
    shape = tuple(interface["shape"])
    size = np.dtype(interface["typestr"]).itemsize
    expected = tuple(
        int(size * np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))
    )
    return tuple(strides) == expected


def host_bytes(data: Data) -> int:
    """Bytes of x and y that are on the host and must be copied to the GPU."""
    return sum(a.nbytes for a in (data.x, data.y) if isinstance(a, np.ndarray))


def gather_rows(data: Data) -> Data:
    """The rows in use as all rows, copied to the host if `rows` is a subset."""
    if data.rows is None:
        return data
    weight = data.weight[data.rows] if data.weight.size else data.weight
    return Data(to_host(data.x)[data.rows], to_host(data.y)[data.rows], weight)


@cache
def _finite_kernel() -> Any:
    """The kernel ``check_finite(x, non_finite)``;
    ``non_finite[0]`` becomes 1 or stays 0.
    """

    def check_finite(x: Any, non_finite: Any) -> None:
        first = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x
        n_all = N_BLOCKS * N_THREADS
        n_columns = x.shape[1]
        for q in range(first, x.shape[0] * n_columns, n_all):
            r = q // n_columns
            if not is_finite(x[unsigned(r), unsigned(q - r * n_columns)]):
                non_finite[0] = 1.0

    return kernel(check_finite)


def all_finite(x: Any) -> bool:
    non_finite = NUMBA_MODULE.to_device(np.zeros(1))
    configure(_finite_kernel(), (x, non_finite), N_BLOCKS, N_THREADS)(x, non_finite)
    return not non_finite.copy_to_host()[0]
