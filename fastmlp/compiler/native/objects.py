"""Machine code: LLVM's passes, its objects, and images made of them (images)."""

from functools import cache
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm

from fastmlp._process.memory import immortal
from fastmlp.compiler import cache as stored
from fastmlp.compiler.cache import address_of
from fastmlp.compiler.jit import hints_of, setting
from fastmlp.compiler.native.images import link_object
from fastmlp.compiler.native.operands import check_instructions
from fastmlp.compiler.native.translator import translate
from fastmlp.compiler.target import Host

SYMBOL = "block"
# Functions of Python that entries call, for LLVM's loader, which finds C's by itself.
_OF_PYTHON = ("PyLong_AsSsize_t", "PyFloat_FromDouble", "PyBool_FromLong")
# Functions that were translated in this process, in order.
TRANSLATED: list[str] = []


def triple_of(host: Host) -> str:
    """An image is made of an object of Linux,
    on macOS too: calls use the same registers.
    """
    if stored.LOADS:
        return f"{host.machine}-unknown-linux-gnu"
    triple: str = llvm.get_process_triple()
    return triple


@cache
def machine(host: Host) -> Any:
    """LLVM's target machine, whose code runs wherever it lies."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    level = min(int(setting("OPT", 3)), 3)
    kind = llvm.Target.from_triple(triple_of(host))
    # Objects that LLVM loads have the options that Numba asks for.
    static = "static" if kind.name.startswith("x86") else "default"
    options: Any = {"reloc": static, "codemodel": "jitdefault", "jit": True}
    features = host.features
    if stored.LOADS:
        options = {"reloc": "pic", "codemodel": "small"}
        # macOS does not preserve this register.
        features += ",+reserve-x18" * (host.machine == "aarch64")
    return kind.create_target_machine(
        cpu=host.name, features=features, opt=level, **options
    )


def optimize(function: FunctionType, host: Host, *, light: bool) -> Any:
    """`light`: loops are not unrolled."""
    made = translate(function, SYMBOL, triple_of(host))
    check_instructions(made, host)
    on = machine(host)
    made.data_layout = str(on.target_data)
    module = llvm.parse_assembly(str(made), llvm.create_context())
    module.verify()
    (_optimize_control if hints_of(function).control else _optimize)(
        module, on, light=light
    )
    return module


def compile_object(
    function: FunctionType, host: Host, *, light: bool
) -> tuple[dict[str, Any], bytes]:
    """Machine code: where its entry and its slots are,
    and an image; or an object of LLVM's.
    """
    content: bytes = machine(host).emit_object(optimize(function, host, light=light))
    TRANSLATED.append(function.__name__)
    if stored.LOADS:
        return link_object(content, SYMBOL)
    return ({}, content)


def _optimize(module: Any, on: Any, *, light: bool) -> None:
    """Kernels take only the vectorisers among passes that lengthen code:
    1.6 -> 1.0 s of compilation.
    """
    options = llvm.create_pipeline_tuning_options()
    level = min(int(setting("OPT", 3)), 3)
    options.speed_level = min(level, 2) if light else level
    options.loop_vectorization = bool(setting("LOOP_VECTORIZE", 1))
    options.slp_vectorization = bool(setting("SLP_VECTORIZE", 0))
    options.loop_unrolling = not light
    builder = llvm.create_pass_builder(on, options)
    builder.getModulePassManager().run(module, builder)


# The passes of control blocks, by llvmlite's methods.
CONTROL_PASSES = (
    "always_inliner",
    "sroa",
    "simplify_cfg",
    "instruction_combine",
    "new_gvn",
    "jump_threading",
    "loop_rotate",
    "instruction_combine",
    "simplify_cfg",
    "global_dead_code_eliminate",
)


def _optimize_control(module: Any, on: Any, *, light: bool) -> None:
    """The few passes that a block of control needs; 0.62 -> 0.35 of the time of all."""
    passes = llvm.create_new_module_pass_manager()
    for name in CONTROL_PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(
        module, llvm.create_pass_builder(on, llvm.create_pipeline_tuning_options())
    )


def load_by_llvm(content: bytes, host: Host) -> int:
    for name in _OF_PYTHON:
        llvm.add_symbol(name, address_of(name))
    empty = llvm.parse_assembly("", llvm.create_context())
    engine = llvm.create_mcjit_compiler(empty, machine(host))
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    # An engine unmaps the code that it has loaded.
    address: int = immortal(engine).get_function_address(SYMBOL)
    return address
