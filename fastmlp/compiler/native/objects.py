"""Machine code: LLVM's passes, its objects, and images made of them."""

import struct
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from fastmlp._process.memory import immortal
from fastmlp.compiler import cache as stored
from fastmlp.compiler.cache import address_of
from fastmlp.compiler.jit import hints_of, setting
from fastmlp.compiler.native.operands import check_instructions
from fastmlp.compiler.native.translator import translate
from fastmlp.compiler.target import Host

SYMBOL = "block"
# Functions of Python that entries call, for LLVM's loader, which finds C's by itself.
_OF_PYTHON = ("PyLong_AsSsize_t", "PyFloat_FromDouble", "PyBool_FromLong")
# Functions that were translated in this process, in order.
TRANSLATED: list[str] = []


@cache
def machine(name: str, features: str) -> Any:
    """LLVM's target machine, whose code runs wherever it lies."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    level = min(int(setting("OPT", 3)), 3)
    kind = llvm.Target.from_triple(llvm.get_process_triple())
    # Objects that LLVM loads have the options that Numba asks for.
    static = "static" if kind.name.startswith("x86") else "default"
    options: Any = {"reloc": static, "codemodel": "jitdefault", "jit": True}
    if stored.LOADS:
        options = {"reloc": "pic", "codemodel": "small"}
    return kind.create_target_machine(cpu=name, features=features, opt=level, **options)


def optimized(function: FunctionType, host: Host, *, light: bool) -> Any:
    """`light`: loops are not unrolled."""
    made = translate(function, SYMBOL)
    check_instructions(made, host)
    on = machine(*host)
    made.triple, made.data_layout = llvm.get_process_triple(), str(on.target_data)
    module = llvm.parse_assembly(str(made), llvm.create_context())
    module.verify()
    (_optimize_control if hints_of(function).control else _optimize)(
        module, on, light=light
    )
    return module


def compiled(
    function: FunctionType, host: Host, *, light: bool
) -> tuple[dict[str, Any], bytes]:
    """Machine code: where its entry and its slots are, and an image; or an object of LLVM's."""
    content: bytes = machine(*host).emit_object(optimized(function, host, light=light))
    TRANSLATED.append(function.__name__)
    return linked(content) if stored.LOADS else ({}, content)


def _optimize(module: Any, on: Any, *, light: bool) -> None:
    """Kernels take only the vectorisers among passes that lengthen code: 1.6 -> 1.0 s of
    compilation."""
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
    "always_inliner", "sroa", "simplify_cfg", "instruction_combine", "new_gvn", "jump_threading",
    "loop_rotate", "instruction_combine", "simplify_cfg", "global_dead_code_eliminate",
)  # fmt: skip


def _optimize_control(module: Any, on: Any, *, light: bool) -> None:
    """The few passes that a block of control needs; 0.62 -> 0.35 of the time of all."""
    passes = llvm.create_new_module_pass_manager()
    for name in CONTROL_PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(
        module, llvm.create_pass_builder(on, llvm.create_pipeline_tuning_options())
    )


def loaded_by_llvm(content: bytes, host: Host) -> int:
    for name in _OF_PYTHON:
        llvm.add_symbol(name, address_of(name))
    empty = llvm.parse_assembly("", llvm.create_context())
    engine = llvm.create_mcjit_compiler(empty, machine(*host))
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    # An engine unmaps the code that it has loaded.
    address: int = immortal(engine).get_function_address(SYMBOL)
    return address


class _Section(NamedTuple):
    """A section of an ELF object, by the fields of its header."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int

    @property
    def is_kept(self) -> bool:
        """Code and constants; not x86-64's tables for unwinding, which C++ reads."""
        return self.kind == _BITS and bool(self.flags & _ALLOCATED)


_BITS, _RELOCATIONS, _ALLOCATED = 1, 4, 2
# Relocations: distances to a place, directly or of a function, to a slot, and of 64 bits.
_PC32, _PLT32, _PC64 = 2, 4, 24
_SLOTS = (9, 41, 42)
_JUMP = b"\xff\x25"  # to the address in a slot at a distance, which follows


def linked(content: bytes) -> tuple[dict[str, Any], bytes]:
    """An image of an x86-64 object, and the offsets of its function and its slots."""
    (start,), (n,) = (
        struct.unpack_from("<Q", content, 40),
        struct.unpack_from("<H", content, 60),
    )
    headers = (
        struct.unpack_from("<IIQQQQIIQQ", content, start + 64 * i) for i in range(n)
    )
    sections = [_Section(*header) for header in headers]
    image, places = bytearray(), dict[int, int]()
    table = next(section for section in sections if section.kind == 2)
    symbols = [
        struct.unpack_from("<IBBHQQ", content, table.offset + i)
        for i in range(0, table.size, table.entry_size)
    ]
    names = sections[table.link].offset

    def name_of(symbol: Any) -> str:
        first = names + symbol[0]
        return content[first : content.index(b"\0", first)].decode()

    for i, section in enumerate(sections):
        if section.is_kept:
            image += bytes(-len(image) % max(section.align, 1))
            places[i] = len(image)
            image += content[section.offset : section.offset + section.size]
    slots: dict[str, int] = {}
    image += bytes(-len(image) % 8)

    def slot_of(name: str) -> int:
        """Return the offset of a function's slot; a jump to its address follows."""
        if name not in slots:
            slots[name] = len(image)
            image.extend(bytes(8) + _JUMP + struct.pack("<i", -14) + bytes(2))
        return slots[name]

    for section in sections:
        if section.kind != _RELOCATIONS or section.info not in places:
            continue
        for i in range(0, section.size, section.entry_size):
            offset, info, addend = struct.unpack_from(
                "<QQq", content, section.offset + i
            )
            symbol, kind = symbols[info >> 32], info & 0xFFFFFFFF
            place = places[section.info] + offset
            if symbol[3] in places:
                to = places[symbol[3]] + symbol[4]
            elif kind in (_PLT32, *_SLOTS) and symbol[3] == 0:
                to = slot_of(name_of(symbol)) + (8 if kind == _PLT32 else 0)
            else:
                raise ValueError(f"a relocation of kind {kind} to {name_of(symbol)!r}")
            if kind not in (_PC32, _PLT32, _PC64) and not (
                kind in _SLOTS and symbol[3] == 0
            ):
                raise ValueError(f"a relocation of kind {kind}")
            form = "<q" if kind == _PC64 else "<i"
            struct.pack_into(form, image, place, to + addend - place)
    main = next(symbol for symbol in symbols if name_of(symbol) == SYMBOL)
    return {"entry": places[main[3]] + main[4], "slots": slots}, bytes(image)
