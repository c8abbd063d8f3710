"""Compiled blocks: kernels, and rules in loops over memory, as machine code with an address."""

import ctypes
import gc
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import RLock
from types import FunctionType, MethodType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import ffi
from numba import types
from numba.core import cgutils, event
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import register_jitable
from numpy.typing import DTypeLike

from fastmlp._process import signals
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.intrinsics import emitted
from fastmlp.compiler.jit import COMPILER, INLINED, INTERPRETED, Compiler, numbas_lock
from fastmlp.compiler.native.operands import Unsupported
from fastmlp.compiler.native.translator import translate
from fastmlp.compiler.source import grouped, hints_of, n_words, parameters_of

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
        with global_compiler_lock, _without_collections():
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


@contextmanager
def _without_collections() -> Iterator[None]:
    """Switch Python's garbage collector off, and on again if it was on: hundreds of thousands of
    nodes and instructions are alive, which it would look through again and again.

    The compiler's lock is held, so threads come here one after the other.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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
            optimize = _optimize_control if hints_of(function).control else _optimize
            library = _library(translate(function, symbol), symbol, partial(optimize, light=light))
        except Unsupported:
            raise
        except Exception as error:  # an unknown name, or a Numba with other private parts
            raise Unsupported(str(error)) from error
    if cache:
        cache.save(_codegen(), (symbol, library.serialize_using_object_code()))
    return library, symbol


def _library(module: Any, symbol: str, optimize: Callable[[Any, Any], None]) -> Any:
    """Return the library of a module, optimized once: Numba would optimize three times, for the
    sake of its reference counts."""

    def lay_out(library: Any, module: Any) -> None:
        module.data_layout = library.codegen._data_layout

    def optimize_whole(library: Any) -> None:
        optimize(library._final_module, library.codegen)

    library = _codegen().create_library(symbol)
    library.enable_object_caching()
    library._optimize_functions = MethodType(lay_out, library)
    library._optimize_final_module = MethodType(optimize_whole, library)
    module.triple = llvm.get_process_triple()
    library.add_ir_module(module)
    library.finalize()
    return library


def _optimize(module: Any, codegen: Any, *, light: bool) -> None:
    """Run LLVM's passes. Of those that make code longer, kernels keep the vectorisers alone: 1.6 ->
    1.0 s of compilation."""
    options = llvm.create_pipeline_tuning_options()
    options.speed_level = min(int(numba.config.OPT), 2) if light else int(numba.config.OPT)
    options.loop_vectorization = bool(numba.config.LOOP_VECTORIZE)
    options.slp_vectorization = bool(numba.config.SLP_VECTORIZE)
    options.loop_unrolling = not light
    builder = llvm.create_pass_builder(codegen._tm, options)
    builder.getModulePassManager().run(module, builder)


# The passes of blocks of control, by the names of llvmlite's methods.
CONTROL_PASSES = (
    "always_inliner", "sroa", "simplify_cfg", "instruction_combine", "new_gvn", "jump_threading",
    "loop_rotate", "instruction_combine", "simplify_cfg", "global_dead_code_eliminate",
)  # fmt: skip


def _optimize_control(module: Any, codegen: Any, *, light: bool) -> None:
    """Run the few passes that a block of control needs; 0.62 -> 0.35 of the time of all."""
    passes = llvm.create_new_module_pass_manager()
    for name in CONTROL_PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, llvm.create_pass_builder(codegen._tm, llvm.create_pipeline_tuning_options()))


Loop = Any
Factory = Callable[..., Loop]

# The address 0 means that there is no block.
_interpreted: list[Loop] = [None]
_blocks: dict[Any, "Block"] = {}
_lock = RLock()


# Seconds that a fork waits for compilations in other threads: a kernel takes 3 s at most.
PATIENCE = 10.0
_OWNERS: list[Any] = [global_compiler_lock, getattr(ffi.lib, "_lock", None)]
_taken: list[Any] = []


def _locks() -> list[Any]:
    """Return the compiler locks in the order of acquisition; every call of LLVM takes the last."""
    others = [getattr(owner, "_lock", None) for owner in _OWNERS]
    return [_lock, *(lock for lock in others if lock is not None)]


def _take_locks() -> None:
    """Acquire all compiler locks before a fork, so that no other thread holds one in the child."""
    with signals.deferred():
        _taken[:] = [lock for lock in _locks() if lock.acquire(timeout=PATIENCE)]


def _give_locks() -> None:
    with signals.deferred():
        for lock in reversed(_taken):
            lock.release()


def _give_locks_in_child() -> None:
    """Release the locks, and replace those that other threads did not release in time."""
    global _lock
    _give_locks()
    _lock = _lock if _lock in _taken else RLock()
    for owner in _OWNERS:
        if hasattr(owner, "_lock") and owner._lock not in _taken:
            owner._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_take_locks,
        after_in_parent=_give_locks,
        after_in_child=_give_locks_in_child,
    )


class Block:
    """A compiled block; keep a reference to it as long as its address may be called.

    Parameters
    ----------
    loop : function of integers without a result
        An argument that is annotated as a NamedTuple takes its integers one by one.
    cache : CodeCache or None
    light : bool
        True for kernels and drivers, whose loops are not unrolled: they take longer to compile than
        unrolling gains.
    ours : bool
        True if the translator may compile it. It does not check indices, and a rule of the user's
        own may use negative ones.

    Attributes
    ----------
    address : int
    entry : callable, the same for Python, called directly: one frame less than the block itself
    """

    def __init__(
        self, loop: Loop, cache: CodeCache | None, *, light: bool = False, ours: bool = True
    ) -> None:
        self._code: Any = None
        self.entry: Callable[..., None]
        self.address: int
        if INTERPRETED:
            self.address = len(_interpreted)
            flat = _of_words(loop)
            _interpreted.append(flat)
            # As compiled code, which never warns of an overflow.
            self.entry = np.errstate(all="ignore")(flat)
            return
        if ours and COMPILER == "translator":
            with suppress(Unsupported):
                self._code = NativeCode(loop, cache, light=light)
                self.address, self.entry = self._code.address, self._code.entry
                return
        self._code = code = compiled_by_numba(loop, cache)
        self.address = code.address
        self.entry = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n_words(loop))(code.address)

    def __call__(self, *arguments: int) -> None:
        """Run the block with addresses and counts, without the GIL; a call costs 1 us."""
        self.entry(*arguments)


def _of_words(loop: Loop) -> Loop:
    """Return a loop as a function of integers, without NamedTuples of them."""
    return (lambda *words: loop(*grouped(loop, words))) if any(parameters_of(loop)) else loop


def compiled_by_numba(loop: Loop, cache: CodeCache | None) -> Any:
    """Compile a block by Numba: the translator declines it, or must not compile it."""
    # The words of a NamedTuple are passed one by one: a homogeneous tuple would be an LLVM array.
    arguments = (
        types.intp if kind is None else types.NamedTuple([types.intp] * len(kind._fields), kind)
        for kind in parameters_of(loop)
    )
    kind = (tuple(arguments), types.void)
    if COMPILER == "numba":
        # Code from the disk cache names functions of the threads' runtime.
        from numba.np.ufunc.parallel import _launch_threads

        _launch_threads()
    code: Any = CFunc(loop, kind, {}, {"error_model": "numpy"}, pipeline_class=Compiler)
    if cache is not None:
        code._cache = cache
    code.compile()
    return code


def block_of(
    factory: Factory,
    dtype: DTypeLike,
    rule: Callable[..., Any] | None = None,
    **options: Any,
) -> Block:
    """Return the block that `factory` makes, compiled once per process, dtype and rule.

    Parameters
    ----------
    factory : callable
        ``factory(scalar_type, **options)``, or ``factory(scalar_type, rule, **options)``, returns
        a function that takes integers only.
    rule : callable, optional
        A rule of the library or of the user. The code cache stores the library's rules and
        factories only: no key would notice every change of the functions that a user's rule calls.

    Raises
    ------
    TypeError
        If the rule does not compile.
    """
    key = (factory, np.dtype(dtype), rule, tuple(sorted(options.items())))
    block = _blocks.get(key)
    if block is not None:
        return block
    # The locks are acquired before signals are deferred: Ctrl-C works while other threads compile.
    with _lock, numbas_lock(), signals.deferred():
        if key not in _blocks:
            _blocks[key] = _compile(factory, np.dtype(dtype), rule, options)
        return _blocks[key]


def _compile(factory: Factory, dtype: np.dtype[Any], rule: Any, options: dict[str, Any]) -> Block:
    settings = sorted(options.items())
    if rule is None:
        key = f"{factory.__module__}.{factory.__name__}:{dtype}:{settings}"
        cache = CodeCache(key) if is_ours(factory) else None
        return Block(factory(dtype.type, **options), cache, light=True)
    name = getattr(rule, "__qualname__", repr(rule))
    words = (
        f"the rule {name!r} does not compile; it must be a function of scalars that calls only "
        "compiled functions, NumPy's and those of fastmlp.rules.elementary"
    )
    compiled = isinstance(rule, numba.core.dispatcher.Dispatcher)
    if not (compiled or isinstance(rule, FunctionType)):
        raise TypeError(f"{words}: it is a {type(rule).__name__}")
    if not compiled:
        register_jitable(**INLINED)(rule)
    cache = None
    if is_ours(rule) and is_ours(factory):
        cache = CodeCache(
            f"{factory.__module__}.{factory.__name__}:{dtype}:{rule.__module__}.{name}:{settings}"
        )
    try:
        loop = factory(dtype.type, rule, **options)
        return Block(loop, cache, ours=cache is not None)
    except Exception as error:  # Numba raises errors of many kinds, AssertionError among them.
        raise TypeError(f"{words}: {error}") from error


def is_ours(function: Any) -> bool:
    """Return True if the library defines this function at module level: the fingerprint covers it.

    A function made inside a factory or by the user is not covered.
    """
    module = sys.modules.get(function.__module__ or "")
    ours = (function.__module__ or "").split(".")[0] == "fastmlp"
    return ours and getattr(module, function.__name__, None) is function


def call(address: Any, arguments: Any) -> None:
    """Call the block at `address` with a tuple of integers, and of NamedTuples of integers."""
    _interpreted[address](*flattened(arguments))


def flattened(arguments: tuple[Any, ...]) -> list[Any]:
    """Return a tuple's integers, and those of tuples in it, one after the other."""
    parts = (flattened(item) if isinstance(item, tuple) else [item] for item in arguments)
    return [word for part in parts for word in part]


@emitted(call)
def _call(typing_context: Any, address: Any, arguments: Any) -> Any:
    signature = types.void(address, arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        parts = list(_unpacked(builder, values[1]))
        function = ir.FunctionType(ir.VoidType(), [part.type for part in parts])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), parts)
        return context.get_dummy_value()

    return signature, generate


def _unpacked(builder: Any, packed: Any) -> Iterator[Any]:
    for value in cgutils.unpack_tuple(builder, packed):
        nested = isinstance(value.type, (ir.LiteralStructType, ir.ArrayType))
        yield from _unpacked(builder, value) if nested else (value,)
