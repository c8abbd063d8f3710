"""Machine code of translated blocks: compiled by Numba's LLVM, stored in the code cache."""

import ctypes
import secrets
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.operands import Unsupported
from fastmlp.compiler.source import n_words
from fastmlp.compiler.translator import translate

# The kind of the event that Numba's recorders receive for each translated block.
EVENT = "fastmlp:translate"


class NativeCode:
    """The machine code of a function of integers without a result.

    Parameters
    ----------
    function : function
    cache : CodeCache or None
    light : bool
        If True, loops are not unrolled: rules gain by unrolling, kernels do not.

    Attributes
    ----------
    address : int
    entry : callable from Python; it releases the GIL

    Raises
    ------
    Unsupported
        If the translator declines the function: Numba compiles it, or reports an error.
    """

    def __init__(self, function: FunctionType, cache: CodeCache | None, *, light: bool) -> None:
        with global_compiler_lock:
            self._library, symbol = _loaded(cache) or _compiled(function, cache, light=light)
            self.address: int = self._library.get_pointer_to_function(symbol)
        words = [ctypes.c_int64] * n_words(function)
        self.entry: Callable[..., None] = ctypes.CFUNCTYPE(None, *words)(self.address)

    def inspect_llvm(self) -> str:
        """Return the optimized LLVM code, if it was compiled in this process."""
        text: str = self._library.get_llvm_str()
        return text


def _codegen() -> Any:
    return cpu_target.target_context.codegen()


def _loaded(cache: CodeCache | None) -> tuple[Any, str] | None:
    stored = cache.load(_codegen()) if cache else None
    if stored is None:
        return None
    symbol, state = stored
    return _codegen().unserialize_library(state), symbol


def _compiled(function: FunctionType, cache: CodeCache | None, *, light: bool) -> tuple[Any, str]:
    # Two processes may compile the same function, and a third load both: symbols must differ.
    symbol = f"{function.__name__}.{secrets.token_hex(8)}"
    with event.trigger_event(EVENT, data={"name": symbol}):
        try:
            library = _library(translate(function, symbol), symbol, light=light)
        except Unsupported:
            raise
        except Exception as error:  # an unknown name, or a Numba with other private parts
            raise Unsupported(str(error)) from error
    if cache:
        cache.save(_codegen(), (symbol, library.serialize_using_object_code()))
    return library, symbol


def _library(module: Any, symbol: str, *, light: bool) -> Any:
    """Return the library of a module, optimized once: Numba would optimize three times, for the
    sake of its reference counts."""

    def lay_out(library: Any, module: Any) -> None:
        module.data_layout = library.codegen._data_layout

    def optimize(library: Any) -> None:
        builder = _pass_builder(library.codegen, light=light)
        builder.getModulePassManager().run(library._final_module, builder)

    library = _codegen().create_library(symbol)
    library.enable_object_caching()
    library._optimize_functions = MethodType(lay_out, library)
    library._optimize_final_module = MethodType(optimize, library)
    module.triple = llvm.get_process_triple()
    library.add_ir_module(module)
    library.finalize()
    return library


def _pass_builder(codegen: Any, *, light: bool) -> Any:
    """Return LLVM's pass builder. Of the passes that make code longer, kernels keep the vectorisers
    alone: 1.6 -> 1.0 s of compilation."""
    options = llvm.create_pipeline_tuning_options()
    options.speed_level = min(int(numba.config.OPT), 2) if light else int(numba.config.OPT)
    options.loop_vectorization = bool(numba.config.LOOP_VECTORIZE)
    options.slp_vectorization = bool(numba.config.SLP_VECTORIZE)
    options.loop_unrolling = not light
    return llvm.create_pass_builder(codegen._tm, options)
