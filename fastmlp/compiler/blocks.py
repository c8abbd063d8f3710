"""Compiled blocks: kernels, and rules in loops over memory,
as machine code with an address.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from threading import RLock
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastmlp._process.locks import deferred
from fastmlp._process.memory import immortal
from fastmlp.compiler import jit
from fastmlp.compiler.cache import CodeCache, executable
from fastmlp.compiler.jit import COMPILER, INTERPRETED, NoSource, Unsupported, is_entry
from fastmlp.compiler.target import SHIPPED_NAMES, Host, pair_target, target


class NativeCode:
    """The machine code of a function of integers without a result.

    Parameters
    ----------
    on : the processor, if it is not `target()`
    light : True for kernels, whose loops are not unrolled; rules gain by unrolling

    Attributes
    ----------
    entry : callable from Python; it releases the GIL
    """

    def __init__(
        self,
        function: FunctionType,
        cache: CodeCache | None,
        on: Host | None = None,
        *,
        light: bool,
    ) -> None:
        self._function, self._on, self._light = function, on or target(), light
        stored = cache.load() if cache else None
        where, content = stored or _compiled(function, cache, self._on, light=light)
        if "entry" in where:
            self.address = executable(content, where["slots"]) + where["entry"]
        else:
            from fastmlp.compiler.native.objects import load_by_llvm

            self.address = load_by_llvm(content, self._on)
        self.entry: Callable[..., Any]
        if is_entry(function):
            self.entry = _builtin(self.address, function.__name__)
        else:
            words = [ctypes.c_int64] * jit.n_words(function)
            self.entry = ctypes.CFUNCTYPE(None, *words)(self.address)

    def inspect_llvm(self) -> str:
        from fastmlp.compiler.native.objects import optimize

        return str(optimize(self._function, self._on, light=self._light))


class _Method(ctypes.Structure):
    """Python's description of a built-in function."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_METH_FASTCALL = 0x80


def _builtin(address: int, name: str) -> Callable[..., Any]:
    """A call of Python's built-in function takes 0.02 us, by ctypes 1 us."""
    method = immortal(_Method(name.encode(), address, _METH_FASTCALL, None))
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 3)
    make = kind(("PyCFunction_NewEx", ctypes.pythonapi))
    function: Callable[..., Any] = make(ctypes.addressof(method), None, None)
    return function


@contextmanager
def _without_collections() -> Iterator[None]:
    """Garbage collections would look through hundreds of thousands of live nodes and
    instructions.

    The lock of blocks is held, so threads come here one after the other.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _compiled(
    function: FunctionType, cache: CodeCache | None, on: Host, *, light: bool
) -> tuple[dict[str, Any], bytes]:
    with _without_collections():
        from fastmlp.compiler.native.objects import compile_object

        try:
            where, content = compile_object(function, on, light=light)
        except Unsupported:
            raise
        except Exception as error:  # an unknown name, or another llvmlite
            raise Unsupported(str(error)) from error
    if cache:
        cache.save(where, content)
    return where, content


Loop = Any
Factory = Callable[..., Loop]
# The arguments of `block_of`: a factory, a dtype, a rule or None, and options.
Key = tuple[Factory, DTypeLike, Any, dict[str, Any]]

_blocks: dict[Any, "Block"] = {}
_lock = RLock()


# Seconds that a fork waits for other threads' compilations: a kernel takes 3 s at most.
FORK_PATIENCE = 10.0
# The lock of blocks, and owners of further locks once they are imported,
# in the order of acquisition: every call of LLVM takes the last.
_OWNERS = (
    ("numba.core.compiler_lock", attrgetter("global_compiler_lock")),
    ("llvmlite.binding.ffi", attrgetter("lib._lock")),
)
_taken: list[Any] = []


def _owners() -> list[Any]:
    imported = [
        (sys.modules[module], get) for module, get in _OWNERS if module in sys.modules
    ]
    owners = []
    for module, get in imported:
        with suppress(AttributeError):  # of another version, or half imported
            owners.append(get(module))
    return [owner for owner in owners if hasattr(owner, "_lock")]


def _take_locks() -> None:
    """Acquire all compiler locks before a fork:
    no other thread holds one in the child.
    """
    with deferred():
        locks = [_lock, *(owner._lock for owner in _owners())]
        _taken[:] = [lock for lock in locks if lock.acquire(timeout=FORK_PATIENCE)]


def _give_locks() -> None:
    with deferred():
        for lock in reversed(_taken):
            lock.release()


def _give_locks_in_child() -> None:
    """Release the locks; replace those that other threads did not release in time."""
    global _lock
    _give_locks()
    _lock = _lock if _lock in _taken else RLock()
    for owner in _owners():
        if owner._lock not in _taken:
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
    on : the processor, if it is not `target()`
    light : True for kernels and drivers, whose loops are not unrolled
    ours : True if the translator may compile it
        The translator does not check indices, and a user's rule may use negative ones.

    Attributes
    ----------
    entry : callable by Python, one frame less than the block itself
    """

    def __init__(
        self,
        loop: Loop,
        cache: CodeCache | None,
        on: Host | None = None,
        *,
        light: bool = False,
        ours: bool = True,
    ) -> None:
        self._code: Any = None
        self.entry: Callable[..., None]
        self.address: int
        if INTERPRETED:
            self.address = len(jit.interpreted)
            flat = _of_words(loop)
            jit.interpreted.append(flat)
            # Compiled code never warns of an overflow.
            self.entry = np.errstate(all="ignore")(
                _alone(flat) if is_entry(loop) else flat
            )
            return
        if ours and COMPILER == "translator":
            try:
                self._code = NativeCode(loop, cache, on, light=light)
                self.address = self._code.address
                self.entry = self._code.entry
                return
            except NoSource:
                pass
            except Unsupported as error:
                # Numba's code takes Python's state,
                # which the team's workers do not have.
                raise RuntimeError(
                    f"the translator does not compile {loop.__qualname__}: "
                    f"{': '.join(error.args[::-1])}; FASTMLP_COMPILER=numba has Numba "
                    f"compile all"
                ) from error
        from fastmlp.compiler import by_numba

        if is_entry(loop):
            self.address, self.entry = 0, by_numba.dispatcher(loop)
            return
        self._code = code = by_numba.compile_block(loop, cache)
        self.address = code.address
        self.entry = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * jit.n_words(loop))(
            code.address
        )

    def __call__(self, *arguments: int) -> None:
        """Run the block without the GIL; a call costs 1 us."""
        self.entry(*arguments)


def entry_of(factory: Factory, dtype: DTypeLike) -> Callable[..., Any]:
    """The function that `factory` makes; calls from Python hold the GIL.

    Arguments are annotated: integers, and matrices, of which `shape`, `size` and
    `ctypes.data` are read. The result is a float or a bool. Callers check that these
    are arrays of two dimensions.
    """
    return block_of(factory, dtype).entry


def _of_words(loop: Loop) -> Loop:
    """Return a loop as a function of integers, without NamedTuples."""
    if any(jit.argument_kinds(loop)):
        return lambda *ints: loop(*jit.group_words(loop, ints))
    return loop


def _alone(loop: Loop) -> Loop:
    """One thread at a time runs the loop, as compiled entries hold the GIL."""

    def run(*arguments: Any) -> Any:
        with _lock:
            return loop(*arguments)

    return run


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
        ``factory(scalar_type, **options)``, or ``factory(scalar_type, rule,
        **options)``, returns a function that takes integers only.
    rule : callable, optional
        The library's or the user's. The code cache stores the library's rules and
        factories only: a user's rule may call functions whose changes a key would not
        notice.
    """
    key = (factory, np.dtype(dtype), rule, tuple(sorted(options.items())))
    block = _blocks.get(key)
    if block is not None:
        return block
    # The lock is acquired before signals are deferred:
    # Ctrl-C works while other threads compile.
    with _lock, deferred():
        if key not in _blocks:
            _blocks[key] = _compile(factory, np.dtype(dtype), rule, options)
        return _blocks[key]


def _compile(
    factory: Factory, dtype: np.dtype[Any], rule: Any, options: dict[str, Any]
) -> Block:
    if "pairs" in options:
        on = pair_target()
    else:
        on = target()
    made = f"{factory.__module__}.{factory.__name__}:{dtype}"
    settings = sorted(options.items())
    level = SHIPPED_NAMES.get(on, "")
    if rule is None:
        if is_ours(factory):
            cache = CodeCache(f"{made}:{settings}:{on}", level)
        else:
            cache = None
        return Block(factory(dtype.type, **options), cache, on, light=True)
    name = getattr(rule, "__qualname__", repr(rule))
    words = (
        f"the rule {name!r} does not compile; it must be a function of scalars that "
        f"calls only "
        "compiled functions, NumPy's and those of fastmlp.rules.elementary"
    )
    if not isinstance(getattr(rule, "py_func", rule), FunctionType):
        raise TypeError(f"{words}: it is a {type(rule).__name__}")
    if is_ours(rule) and is_ours(factory):
        cache = CodeCache(f"{made}:{rule.__module__}.{name}:{settings}:{on}", level)
        return Block(factory(dtype.type, rule, **options), cache, on)
    if not INTERPRETED:
        from fastmlp.compiler import by_numba

        by_numba.inline(rule)
    try:
        return Block(factory(dtype.type, rule, **options), None, on, ours=False)
    except (
        Exception
    ) as error:  # Numba raises errors of many kinds, AssertionError among them.
        raise TypeError(f"{words}: {error}") from error


def is_ours(function: Any) -> bool:
    """Return True if the library defines this function at module level:
    the fingerprint covers it.
    """
    module = sys.modules.get(function.__module__ or "")
    ours = (function.__module__ or "").split(".")[0] == "fastmlp"
    return ours and getattr(module, function.__name__, None) is function
