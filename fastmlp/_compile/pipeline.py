"""Numba's compiler with two changes: full-width vectors, and no work on leaves by themselves."""

from types import MethodType
from typing import Any

from numba._dynfunc import make_function
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

# On processors with AVX-512, LLVM keeps to half a register unless it is told; where vectors are
# shorter this changes nothing. llvmlite lists no such attribute, but prints it.
FULL_WIDTH = '"prefer-vector-width"="512"'


class FullWidth(Lower):  # type: ignore[misc]
    """Numba's lowering, the attribute set on the function."""

    def pre_lower(self) -> None:
        set.add(self.function.attributes, FULL_WIDTH)
        super().pre_lower()


def _new_library(state: Any) -> Any:
    """Make the library that Numba would make, which optimizes functions only once all are linked.

    Numba does it before, too, to save memory: 0.3 s of a first fit.
    """

    def lay_out(library: Any, module: Any) -> None:
        module.data_layout = library.codegen._data_layout

    library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
    library.enable_object_caching()
    library._optimize_functions = MethodType(lay_out, library)
    return library


@register_pass(mutates_CFG=True, analysis_only=False)
class FullWidthLowering(NativeLowering):  # type: ignore[misc]
    """The pass that lowers a block, or what becomes part of one."""

    _name = "fastmlp_full_width_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _new_library(state)
        return bool(super().run_pass(state))

    @property
    def lowering_class(self) -> Any:
        return FullWidth


@register_pass(mutates_CFG=True, analysis_only=False)
class LeafLowering(NativeLowering):  # type: ignore[misc]
    """The pass that lowers a leaf, and leaves it to the callers that it is linked into.

    Numba optimizes every function and makes machine code of it, which nobody calls: 0.6 s of a
    first fit.
    """

    _name = "fastmlp_leaf_lowering"

    def run_pass(self, state: Any) -> bool:
        def finalize(library: Any) -> None:
            library._finalize_dynamic_globals()
            library._finalized = True

        state.library = library = _new_library(state)
        library._optimize_final_module = MethodType(lambda library: None, library)
        library._finalize_final_module = MethodType(finalize, library)
        state.flags.no_compile = True
        super().run_pass(state)
        self._register(state)
        return True

    def _register(self, state: Any) -> None:
        """Make the leaf known to callers, as Numba does with what it has compiled."""
        made, library = state["cr"], state.library
        name, module = made.fndesc.qualname, made.fndesc.lookup_module()
        function = make_function(module, name, "a leaf", 0, made.env, (library,))
        state.targetctx.insert_user_function(function, made.fndesc, [library])
        state["cr"] = made._replace(cfunc=function)


class Compiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler with one of these passes in the place of its own."""

    lowering: Any = FullWidthLowering

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (self.lowering if step is NativeLowering else step, words)
            for step, words in manager.passes
        ]
        manager.finalize()
        return [manager]


class LeafCompiler(Compiler):
    """The compiler of leaves."""

    lowering = LeafLowering
