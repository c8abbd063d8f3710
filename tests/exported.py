"""Own activations, compiled functions of a user's that predict,
and C files as shared libraries.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit, prange
from small_models import FEW

from fastmlp import TabularMLPClassifier, jit
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules import elementary
from fastmlp.rules.elementary import exp, expm1, log1p, sqrt

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Wshadow", "-Werror"]
# All of Clang's warnings, but of style.
OF_CLANG = [
    *("-O3", "-march=native", "-Weverything", "-Wno-float-equal", "-Wno-padded"),
    *(
        "-Wno-declaration-after-statement",
        "-Wno-unused-macros",
        "-Wno-used-but-marked-unused",
    ),
    "-Wno-missing-variable-declarations",
]
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: other bits"
)


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
        defines = (
            f"#define {prefix.upper()}_{word}" for word in ("IMPLEMENTATION", "TEST")
        )
        program += [*defines, f'#include "{prefix}.h"']
    (folder / "all.c").write_text("\n".join(program) + "\n")
    command = [
        compiler,
        *WARNINGS,
        *flags,
        "-shared",
        "-fPIC",
        "all.c",
        "-o",
        "all.so",
        "-lm",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=capture, text=True)
    return ctypes.CDLL(str(folder / "all.so"))


def sanitized(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """The lines that C files print which are programs: the first alone,
    and all of them as functions of one; sanitizers look on.
    """
    program = ""
    calls = []
    for prefix, text in texts.items():
        (folder / f"{prefix}.h").write_text(text)
        calls.append(f"{prefix}_main()")
        program += (
            f"#define {prefix.upper()}_TEST_MAIN\n#define main {calls[-1][:-2]}\n"
        )
        program += f'#include "{prefix}.h"\n#undef main\n'
    (folder / "all.c").write_text(
        f"{program}int main(void) {{ return {' | '.join(calls)}; }}\n"
    )
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
    library[f"{prefix}_predict_rows"](
        ctypes.c_size_t(len(rows)), pointer(rows), pointer(out)
    )
    return out


def failures(
    library: ctypes.CDLL, prefix: str, dtype: Any, tolerance: float = 0
) -> int:
    kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    return int(library[f"{prefix}_self_test"](kind(tolerance)))


@njit(nogil=True)
def predict(handle: Any, x: Any, out: Any) -> None:
    jit.predict(handle, x, out)


@njit
def value(handle: Any, x: Any) -> float:
    return jit.value(handle, x)


@njit(parallel=True)
def predict_shared(handle: Any, x: Any, out: Any) -> None:
    for r in prange(len(x)):
        jit.predict(handle, x[r], out[r])


@cache
def digits(n_classes: int) -> Any:
    """A model and its rows; the probabilities of 8 classes and more NumPy sums in
    another order.
    """
    X = np.random.default_rng(0).normal(size=(200, 3))
    y = (X[:, 0] * 9).astype(int) % n_classes
    return TabularMLPClassifier(**FEW).fit(X, y, X_val=X, y_val=y), X


def expected_of(model: Any, X: Any) -> Any:
    """Probabilities of classes, or predicted numbers,
    shape (n_rows, n_outputs), of few rows at a time.
    """
    predict = getattr(model, "predict_proba", model.predict)
    predictions = np.concatenate(
        [predict(X[k : k + 100]) for k in range(0, len(X), 100)]
    )
    return predictions.reshape(len(predictions), -1)


def plain(z: Any) -> Any:
    """Python's numbers make float64 of it."""
    return (2 * z if z > 0 else 0.5 * expm1(z * 2)), (2 if z > 0 else exp(z * 2))


@njit
def helper(z: Any, scale: Any) -> Any:
    return exp(min(z, scale)) * sqrt(abs(z)), abs(z)


def built_of_others(z: Any) -> Any:
    value, slope = helper(z, type(z)(1.25))
    for _ in range(2):
        value = value - elementary.tanh(value) / type(z)(3)
    return value + (z * z + 2) ** -3 + (z / 8) ** 5, slope


def branch(z: Any) -> Any:
    if z > 0:
        return z, 1
    return 0, 0


def of_numpy(z: Any) -> Any:
    return np.sin(z), np.cos(z)


def of_logarithms(z: Any) -> Any:
    value = elementary.log(elementary.softplus(z) + log1p(z * z) + 1)
    return (value if z != 0 else z), (1 if z <= -1 else 0)


def constant(z: Any) -> Any:
    return 0.25, 0
