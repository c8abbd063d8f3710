"""Examples run, print what they found, and stay short."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastmlp.compiler.jit import INTERPRETED

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# What an example shows beside fastmlp; its own warnings are not ours.
PACKAGES = {
    "tensorboard_events": "tensorboard",
    "mlflow_run": "mlflow",
    "predict_files": "pyarrow",
    "river_stream": "river",
}
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


@pytest.mark.slow
@needs_compiler
@each_example
def test_runs_and_prints(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported what it needs;
    with packages whose warnings are not ours in one of its own.
    """
    package = PACKAGES.get(path.stem)
    if package:
        # The small form of MLflow has no database.
        needed = "sqlalchemy" if package == "mlflow" else package
        if not (find_spec(package) and find_spec(needed)):
            pytest.skip(f"{package} is not installed")
        command = [sys.executable, str(path), "--quick"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        printed = result.stdout
    else:
        monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
        # As Python does with a script's folder.
        monkeypatch.syspath_prepend(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 2
    assert "nan" not in printed


@each_example
def test_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 150
