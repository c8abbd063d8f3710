"""Examples run, print what they found, and stay short."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastmlp.compiler.jit import INTERPRETED

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {
        "xor",
        "digits",
        "regression_error_bars",
        "probabilities",
        "lbfgs",
        "pipeline",
        "many_nets",
    }


@needs_compiler
@each_example
def test_runs_and_prints(path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path), "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 2
    assert "nan" not in result.stdout


@each_example
def test_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60
