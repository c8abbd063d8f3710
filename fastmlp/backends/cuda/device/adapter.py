"""The CUDA module, of numba-cuda, its successor or Numba's simulator; kernels, and launches.

Kernels use what the three have in common, and take `cuda` from here. Code that needs private parts
of the module is here and in `card`.
"""

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import config, types

Function = Callable[..., Any]
SIMULATED = bool(config.ENABLE_CUDASIM)
SCALARS: dict[str, Any] = {name: getattr(types, name) for name in ("int32", "float32", "float64")}


class _Simulated:
    """The module `cuda` of kernels in the simulator.

    The simulator replaces the module in a function's globals during a call. With many threads in
    functions of other modules, one thread would restore it during another thread's call.
    """

    def __getattr__(self, name: str) -> Any:
        kernels = importlib.import_module("numba.cuda.simulator.kernel")
        return getattr(kernels._get_kernel_context(), name)


def _module() -> Any:
    """Return the CUDA module; Numba's own, deprecated and without a compiler, comes last."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        return importlib.import_module("numba_cuda_mlir.cuda")
    return importlib.import_module("numba.cuda")


MODULE: Any = _module()
cuda: Any = _Simulated() if SIMULATED else MODULE


def device_function(function: Function) -> Any:
    """Make a function that kernels call. It is inlined, so that its local arrays stay in registers
    and the compiler knows which arrays are in shared memory."""
    if SIMULATED:
        return function
    return MODULE.jit(device=True, forceinline=True)(function)


def _unsigned(i: Any) -> Any:
    return np.uint64(i)


# An index that is not negative. For a signed index, the compiler adds the test for -1, the last
# element, to every access: a third of the instructions of the innermost loops.
unsigned = int if SIMULATED else device_function(_unsigned)


def _is_finite(x: Any) -> Any:
    # For an infinity or a NaN, the difference is NaN.
    return x - x == 0


is_finite = device_function(_is_finite)


def _on_host(argument: Any) -> Any:
    """Return a kernel's argument, its arrays of the simulator as arrays of NumPy."""
    if isinstance(argument, tuple):
        return argument._make(map(_on_host, argument))  # type: ignore[attr-defined]
    array = getattr(argument, "_item", argument)
    return getattr(array, "_ary", array)


def kernel(function: Function) -> Any:
    """Make a kernel, which compiles at its first launch."""
    if not SIMULATED:
        return MODULE.jit(function)

    def simulated(*arguments: Any) -> None:
        # Compiled code never warns of an overflow.
        with np.errstate(all="ignore"):
            function(*map(_on_host, arguments))

    return MODULE.jit(simulated)


def private_driver() -> Any:
    """Return the private part of the module that calls the driver."""
    return importlib.import_module(f"{MODULE.__name__}.cudadrv.driver")


def synchronize() -> None:
    """Wait until all launches have ended."""
    MODULE.synchronize()


def configured(dispatcher: Any, arguments: tuple[Any, ...], blocks: Any, n_threads: int) -> Any:
    """Return a kernel with its launch configuration, compiled for these arguments; `blocks` is
    their number, or their numbers along x and y.

    Raises
    ------
    TypeError
        If a rule does not compile for a GPU.
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
    """Return the type of a kernel's argument."""
    return device_function(_unsigned).typeof_pyval(argument)


def compiled_for(dispatcher: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a kernel's compiled form for these arguments.

    Raises
    ------
    TypeError
        If a rule does not compile for a GPU.
    """
    try:
        return dispatcher.compile(tuple(map(dispatcher.typeof_pyval, arguments)))
    except Exception as error:  # The compiler raises errors of many classes, even KeyError.
        if "CUDA_ERROR" in str(error) or type(error).__name__.upper().startswith("CUDA"):
            # An error of the driver: the rules have compiled.
            raise
        raise TypeError(
            "a rule of this net does not compile for a GPU; it must be a function of scalars that "
            f"calls only functions of fastmlp.rules.elementary and of math: {error}"
        ) from error


def max_cooperative_blocks(dispatcher: Any, arguments: tuple[Any, ...], n_threads: int) -> int:
    """Return the number of a kernel's blocks that can be resident at once."""
    if SIMULATED:
        return 1
    return int(compiled_for(dispatcher, arguments).max_cooperative_grid_blocks(n_threads))
