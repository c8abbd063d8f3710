"""Assembly as tests read it: its innermost loops, and that of a kernel for another processor."""

import re
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm

from fastmlp.compiler.translator import translate

LABEL = re.compile(r"^(\.LBB\w+):")
# A jump of x86, or a branch of Arm, to a label.
JUMP = re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s+#\d+,)\s+(\.LBB\w+)$")


def innermost(text: str) -> list[str]:
    """The loops of an assembly with no loop in them: from a label to a jump back to it."""
    lines, places, spans = text.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for i, line in enumerate(lines):
        if label := LABEL.match(line):
            places[label[1]] = i
        elif (jump := JUMP.match(line)) and jump[1] in places:
            spans.append((places[jump[1]], i))
    return [
        "\n".join(lines[first : last + 1])
        for first, last in spans
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans)
    ]


def assembly_for(loop: FunctionType, triple: str, cpu: str, features: str) -> str:
    """The machine code of a function of integers for another processor, optimized as a kernel."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, 3)
    module: Any = translate(loop, "kernel")
    module.triple, module.data_layout = triple, str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    options = llvm.create_pipeline_tuning_options()
    options.speed_level, options.loop_unrolling = 2, False
    options.loop_vectorization = options.slp_vectorization = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed))
