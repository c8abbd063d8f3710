"""C files as shared libraries, which tests call."""

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp.compiler.jit import INTERPRETED

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Wshadow", "-Werror"]
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: other bits")


def built(
    folder: Path,
    texts: Mapping[str, str],
    flags: Sequence[str],
    compiler: str = "gcc",
    *,
    capture: bool = False,
) -> ctypes.CDLL:
    """A shared library of several C files, which stand in one program."""
    program = []
    for prefix, text in texts.items():
        (folder / f"{prefix}.h").write_text(text)
        defines = (f"#define {prefix.upper()}_{word}" for word in ("IMPLEMENTATION", "TEST"))
        program += [*defines, f'#include "{prefix}.h"']
    (folder / "all.c").write_text("\n".join(program) + "\n")
    command = [compiler, *WARNINGS, *flags, "-shared", "-fPIC", "all.c", "-o", "all.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True, capture_output=capture, text=True)
    return ctypes.CDLL(str(folder / "all.so"))


def sanitized(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """The lines that C files print which are programs: the first alone, and all of them as
    functions of one; sanitizers look on."""
    program, calls = "", []
    for prefix, text in texts.items():
        (folder / f"{prefix}.h").write_text(text)
        calls.append(f"{prefix}_main()")
        program += f"#define {prefix.upper()}_TEST_MAIN\n#define main {calls[-1][:-2]}\n"
        program += f'#include "{prefix}.h"\n#undef main\n'
    (folder / "all.c").write_text(f"{program}int main(void) {{ return {' | '.join(calls)}; }}\n")
    first = next(iter(texts))
    flags = ["-O0", "-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    printed = ""
    for file in (["-x", "c", f"-D{first.upper()}_TEST_MAIN", f"{first}.h"], ["all.c"]):
        command = ["gcc", *WARNINGS, *flags, *file, "-o", "all", "-lm"]
        subprocess.run(command, cwd=folder, check=True)
        printed += subprocess.check_output([folder / "all"], text=True)
    return printed.splitlines()


def pointer(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)


def predictions(library: ctypes.CDLL, prefix: str, rows: Any, n_outputs: int) -> Any:
    out = np.empty((len(rows), n_outputs), rows.dtype)
    library[f"{prefix}_predict_rows"](ctypes.c_size_t(len(rows)), pointer(rows), pointer(out))
    return out


def failures(library: ctypes.CDLL, prefix: str, dtype: Any, tolerance: float = 0) -> int:
    kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    return int(library[f"{prefix}_self_test"](kind(tolerance)))
