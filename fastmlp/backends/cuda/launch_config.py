"""Kernels with their launch configuration: blocks, threads and dynamic shared memory."""

import warnings
from functools import cache
from typing import Any

from fastmlp.backends.cuda import adapter

# The shared memory that every block may have without a request.
DEFAULT_SHARED_BYTES = 48 * 1024


def synchronize() -> None:
    """Wait until all launches have ended."""
    adapter.MODULE.synchronize()


def configured(
    dispatcher: Any,
    arguments: tuple[Any, ...],
    n_blocks: int,
    n_threads: int,
    shared_bytes: int = 0,
) -> Any:
    """Return a kernel with its launch configuration, compiled for these arguments.

    Raises
    ------
    TypeError
        If a rule does not compile for a GPU.
    """
    if adapter.SIMULATED:
        return dispatcher[n_blocks, n_threads, 0, shared_bytes]
    if not dispatcher.overloads:
        compiled_for(dispatcher, arguments)
    return _configured(dispatcher, n_blocks, n_threads, shared_bytes)


@cache
def _configured(dispatcher: Any, n_blocks: int, n_threads: int, shared_bytes: int) -> Any:
    # The module warns of grids of few blocks, as a small net has.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dispatcher[n_blocks, n_threads, 0, shared_bytes]


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


def allow_shared_bytes(dispatcher: Any, arguments: tuple[Any, ...], n_bytes: int) -> None:
    """Allow a kernel's launches with these arguments so much dynamic shared memory.

    More than 48 KiB needs a request for each function; the module has no public call for it.
    """
    if adapter.SIMULATED or n_bytes <= DEFAULT_SHARED_BYTES:
        return
    private = adapter.private_driver()
    attributes = private.binding.CUfunction_attribute
    attribute = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    function = compiled_for(dispatcher, arguments)._codelibrary.get_cufunc()
    # Raises if the driver refuses.
    private.driver.cuKernelSetAttribute(attribute, n_bytes, function.handle, function.device.id)


def max_cooperative_blocks(dispatcher: Any, arguments: tuple[Any, ...], n_threads: int) -> int:
    """Return the number of a kernel's blocks that can be resident at once."""
    if adapter.SIMULATED:
        return 1
    return int(compiled_for(dispatcher, arguments).max_cooperative_grid_blocks(n_threads))
