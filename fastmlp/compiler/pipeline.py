"""Numba's compiler with full-width vectors, for code that the translator declines."""

from typing import Any

from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

from fastmlp.compiler.translator import FULL_WIDTH


class FullWidth(Lower):
    """Numba's lowering, with `FULL_WIDTH` set on the function."""

    def pre_lower(self) -> None:
        set.add(self.function.attributes, FULL_WIDTH)
        super().pre_lower()


@register_pass(mutates_CFG=True, analysis_only=False)
class FullWidthLowering(NativeLowering):
    """The pass that lowers a block, or a function that is inlined in one."""

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
