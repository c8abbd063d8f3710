"""Numba compiles users' rules, functions that the translator declines, and all blocks
with FASTMLP_COMPILER=numba; and our functions inside code that Numba compiles
elsewhere.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import FunctionType, SimpleNamespace
from typing import Any

from fastmlp._process import locks

# A half-imported Numba cannot be imported again: of 40 imports that Ctrl-C interrupted,
# 37 ended in an AttributeError at the next import.
with locks.deferred():
    import numba

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.runtime import rtsys
from numba.core.typed_passes import NativeLowering
from numba.core.typing.templates import make_intrinsic_template
from numba.extending import overload, register_jitable, typeof_impl
from numba.np.arrayobj import make_array, populate_array

from fastmlp.compiler import elementary, jit, memory
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.jit import (
    COMPILER,
    EMITTED,
    flush_denormals,
    mark_of,
    restore_denormals,
)
from fastmlp.compiler.memory import RecordType

# The import registers functions that both compilers emit.
from fastmlp.compiler.native.operands import word_of
from fastmlp.compiler.native.translator import FULL_WIDTH
from fastmlp.rules import elementary as rules


class FullWidth(Lower):
    """`FULL_WIDTH` is set on the function."""

    def pre_lower(self) -> None:
        set.add(self.function.attributes, FULL_WIDTH)
        super().pre_lower()


@register_pass(mutates_CFG=True, analysis_only=False)
class FullWidthLowering(NativeLowering):
    """Lowers a block, or a function that is inlined in one."""

    _name = "fastmlp_full_width_lowering"

    @property
    def lowering_class(self) -> Any:
        return FullWidth


class Compiler(CompilerBase):
    """Numba's compiler with this lowering pass."""

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (FullWidthLowering if step is NativeLowering else step, words)
            for step, words in manager.passes
        ]
        manager.finalize()
        return [manager]


OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Functions that a block calls are inlined: LLVM does not inline a long function that is
# called twice, and a loop with a call does not vectorise. mish, float64: 23 -> 4 ns a
# number.
INLINED: dict[str, Any] = {
    "error_model": "numpy",
    "forceinline": True,
    "pipeline_class": Compiler,
}


def inline(rule: Any) -> None:
    """A rule that the user has compiled stays as it is."""
    if isinstance(rule, FunctionType):
        register_jitable(**INLINED)(rule)


class Stored:
    """A `CodeCache` with the interface that Numba expects:
    of C functions, for one signature.
    """

    def __init__(self, cache: CodeCache) -> None:
        # Not the translator's file.
        self._cache = CodeCache(f"{cache.name} by Numba")

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The stored library of a C function and its symbol's name, or None.

        `numba.cfunc` reads these two fields of a compile result, and no others.
        """
        # Numba would refresh the whole context here,
        # which imports SciPy without need: 0.3 s.
        rtsys.initialize(context)
        stored = self._cache.load()
        if stored is None:
            return None
        words, content = stored
        parts = content[: words["size"]], content[words["size"] :]
        library = context.codegen().unserialize_library(
            (words["library"], "object", parts)
        )
        return SimpleNamespace(
            library=library,
            fndesc=SimpleNamespace(llvm_cfunc_wrapper_name=words["symbol"]),
        )

    def save_overload(self, signature: Any, result: Any) -> None:
        """On failure change nothing."""
        if result.lifted or result.library.has_dynamic_globals:
            return
        name, _, (code, bitcode) = result.library.serialize_using_object_code()
        symbol = result.fndesc.llvm_cfunc_wrapper_name
        words = {"symbol": symbol, "library": name, "size": len(code)}
        self._cache.save(words, code + bitcode)


def c_function(
    function: Any, kinds: tuple[Any, Any], cache: CodeCache | None, **options: Any
) -> Any:
    """Compile a C function of these types of arguments and result, or load its code."""
    code: Any = CFunc(function, kinds, {}, {"error_model": "numpy"}, **options)
    if cache is not None:
        code._cache = Stored(cache)
    # `__enter__` of Numba's lock itself is one step: in Numba's wrapper, Ctrl-C could
    # come between acquiring it and entering the block, and leave it locked.
    with getattr(global_compiler_lock, "_lock", global_compiler_lock), locks.deferred():
        code.compile()
    return code


def compile_block(loop: Any, cache: CodeCache | None) -> Any:
    # A homogeneous tuple would be an LLVM array,
    # so a NamedTuple's words are passed one by one.
    arguments = (
        types.intp
        if kind is None
        else types.NamedTuple([types.intp] * len(kind._fields), kind)
        for kind in jit.argument_kinds(loop)
    )
    if COMPILER == "numba":
        # Code from the disk cache names functions of the threads' runtime.
        from numba.np.ufunc.parallel import _launch_threads

        _launch_threads()
    return c_function(
        loop, (tuple(arguments), types.void), cache, pipeline_class=Compiler
    )


def dispatcher(function: Any) -> Any:
    """Python calls the result with objects; the first call compiles it."""
    return numba.njit(error_model="numpy")(function)


_TYPE = "fastmlp_type"


@typeof_impl.register(FunctionType)
def _typeof_function(function: Any, context: Any) -> Any:
    """The type of a function of ours, made once; None for others."""
    if _TYPE not in function.__dict__:
        if function in EMITTED:
            made: Any = _template(function, *_of_emitted(function))
        elif mark_of(function) or _is_rule(function):
            # The type holds no reference.
            function.__dict__["fastmlp_dispatcher"] = made = dispatcher_of(function)
            made = types.Dispatcher(made)
        else:
            return None
        function.__dict__[_TYPE] = made
    return function.__dict__[_TYPE]


def _is_rule(function: Any) -> bool:
    module = function.__module__ or ""
    return module.startswith("fastmlp.rules.") and module != rules.__name__


def dispatcher_of(function: Any) -> Any:
    """Numba's function for one of ours, by its mark; a rule is inlined."""
    mark = mark_of(function)
    if mark == "parallel":
        return _parallel(function)
    return numba.njit(**(OPTIONS if mark == "function" else INLINED))(function)


def _parallel(function: Any) -> Any:
    """Compile a kernel twice: a parallel form for Numba's threads, and a serial one.

    A parallel region of one thread would still cost a launch.
    """
    # A call without a team uses the first thread's buffers, even if a thread of a team
    # makes the call.
    serial = numba.njit(**OPTIONS)(_with(function, thread_number=_first_thread))
    shared = numba.njit(**OPTIONS, parallel=True)(_with(_flushing(function)))

    def kernel(team: Any, *arguments: Any) -> None:
        if team != 0:
            shared(team, *arguments)
        else:
            serial(team, *arguments)

    return numba.njit(**OPTIONS)(kernel)


def _with(function: Any, **names: Any) -> Any:
    """Return the function with other names of its module, and with Numba's `prange`."""
    names = {**function.__globals__, "prange": numba.prange, **names}
    parts = function.__code__, names, function.__name__, function.__defaults__
    return FunctionType(*parts, function.__closure__)


FLUSH = "before = flush_here()"
RESTORE = "restore_here(before)"


class _Restoring(ast.NodeTransformer):
    """Restores the mode before each `continue` of a loop, inner loops' excepted."""

    def visit_For(self, node: ast.For) -> ast.For:
        return node

    def visit_While(self, node: ast.While) -> ast.While:
        return node

    def visit_Continue(self, node: ast.Continue) -> list[ast.stmt]:
        return [*ast.parse(RESTORE).body, node]


class _Flushing(ast.NodeTransformer):
    def visit_For(self, node: ast.For) -> ast.For:
        if isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "prange":
            body = ast.Module(node.body, [])
            _Restoring().visit(body)
            (first,), (last,) = ast.parse(FLUSH).body, ast.parse(RESTORE).body
            node.body = [first, *body.body, last]
        return node


def _flushing(function: Any) -> Any:
    """Return the function with `prange` loops that flush denormals:
    Numba's threads do not.

    Without sources, as in a frozen program, return the function itself.
    """
    try:
        definition = _Flushing().visit(deepcopy(jit.definition_of(function)))
    except jit.Unsupported:
        return function
    definition.decorator_list = []
    names = {"flush_here": flush_denormals, "restore_here": restore_denormals}
    names.update(jit.names_of(function))
    exec(
        compile(ast.Module([definition], []), function.__code__.co_filename, "exec"),
        names,
    )
    return names[function.__name__]


@numba.njit
def _first_thread() -> int:
    return 0


def _template(function: Any, define: Any, literal: bool) -> Any:
    return types.Function(
        make_intrinsic_template(
            function, define, function.__name__, prefer_literal=literal
        )
    )


def _of_emitted(function: Any) -> Any:
    form = EMITTED[function]

    def define(typing_context: Any, *kinds: Any) -> Any:
        """Return the signature of a call with these types and the generator of its
        code; None, and Numba refuses the call, where constants or floats of one type
        are needed.
        """
        if form.constant and not all(
            isinstance(kind, types.IntegerLiteral) for kind in kinds
        ):
            return None
        if form.alike and not all(
            kind == kinds[0] and isinstance(kind, types.Float) for kind in kinds
        ):
            return None

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if form.constant:
                values = [kind.literal_value for kind in kinds]
            else:
                values = [
                    _values_of(builder, *pair)
                    for pair in zip(values, signature.args, strict=True)
                ]
            made = form.generate(builder, *values)
            if form.result is None:
                return context.get_dummy_value()
            return word_of(builder, made)

        wide = kinds if form.constant else map(_wide, kinds)
        if type(form.result) is int:
            return kinds[form.result](*wide), generate
        if form.result is None:
            result = types.void
        else:
            result = from_dtype(form.result)
        return result(*wide), generate

    of_python = inspect.signature(function)
    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # Numba reads the arguments' names; the first is its context.
    define.__signature__ = of_python.replace(  # type: ignore[attr-defined]
        parameters=[first, *of_python.parameters.values()]
    )
    return define, form.constant


def _wide(kind: Any) -> Any:
    return types.int64 if isinstance(kind, types.Integer) else kind


def _values_of(builder: Any, value: Any, kind: Any) -> Any:
    if not isinstance(kind, types.BaseTuple):
        return value
    make: Callable[..., Any] = getattr(kind, "instance_class", None) or (
        lambda *parts: parts
    )
    return make(*cgutils.unpack_tuple(builder, value))


def _ours(function: Any, *, literal: bool = False) -> Callable[[Any], Any]:
    def register(define: Any) -> Any:
        function.__dict__[_TYPE] = _template(function, define, literal)
        return define

    return register


@_ours(jit.call)
def _call(typing_context: Any, address: Any, arguments: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        parts = list(_unpacked(builder, values[1]))
        function = ir.FunctionType(ir.VoidType(), [part.type for part in parts])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), parts)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


def _unpacked(builder: Any, packed: Any) -> Iterator[Any]:
    for value in cgutils.unpack_tuple(builder, packed):
        nested = isinstance(value.type, (ir.LiteralStructType, ir.ArrayType))
        yield from _unpacked(builder, value) if nested else (value,)


@_ours(memory.row)
def _row(typing_context: Any, address: Any, n: Any, dtype: Any) -> Any:
    return types.Array(dtype.dtype, 1, "C")(types.intp, types.intp, dtype), _view


@_ours(memory.records_at)
def _records_at(typing_context: Any, address: Any, n: Any, kind: Any) -> Any:
    return types.Array(kind.dtype, 1, "C")(types.intp, types.intp, kind), _view


@_ours(memory.rows)
def _rows(
    typing_context: Any, address: Any, n_rows: Any, width: Any, dtype: Any
) -> Any:
    words = types.intp, types.intp, types.intp
    return types.Array(dtype.dtype, 2, "C")(*words, dtype), _view


def _view(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Build a view of the result's type from an address, a shape, and a dtype."""
    kind = signature.return_type
    (address, *shape, _) = values
    array = make_array(kind)(context, builder)
    number = context.get_data_type(kind.dtype)
    size = cgutils.intp_t(context.get_abi_sizeof(number))
    strides = [size]
    for n in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], n))
    data = builder.inttoptr(address, number.as_pointer())
    populate_array(array, data, shape, strides, size, None)
    return array._getvalue()


@_ours(memory.coefficients_at, literal=True)
def _coefficients_at(typing_context: Any, address: Any, n: Any, dtype: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None
    kind, count = dtype.dtype, n.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], context.get_value_type(kind).as_pointer())
        numbers = [builder.load(cgutils.gep(builder, pointer, i)) for i in range(count)]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(kind, count)(types.intp, n, dtype), generate


@typeof_impl.register(RecordType)
def _typeof_record(kind: RecordType, context: Any) -> Any:
    return types.DType(from_dtype(kind.dtype))


@_ours(memory.record_at)
def _record_at(typing_context: Any, address: Any, kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer: ir.Type = context.get_value_type(signature.return_type)
        return builder.inttoptr(values[0], pointer)

    return kind.dtype(types.intp, kind), generate


@overload(jit.thread_number)
def _thread_number() -> Any:
    return lambda: numba.get_thread_id()


NUMPY_SCALARS = {types.float32: np.float32, types.float64: np.float64}


def _choose(function: Any, form: Any) -> None:
    @overload(function, strict=False, jit_options=INLINED)
    def choose(x: Any) -> Any:
        # Integers use the function's Python body.
        return form(NUMPY_SCALARS[x]) if x in NUMPY_SCALARS else function


for _function, _form in elementary.COMPILED_FORMS.items():
    _choose(_function, _form)
for _function in (rules.sqrt, rules.exponentials, rules.probabilities):
    register_jitable(**INLINED)(_function)
