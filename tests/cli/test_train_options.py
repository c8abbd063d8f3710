"""Options of train: presets, the time limit, and packages that are missing."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pandas as pd
import pytest
from small_tables import drawn

import fastmlp
from fastmlp.cli.main import main
from fastmlp.cli.options import LOSSES, PRESETS
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.pack import settings
from fastmlp.tabular.pack.outputs import Objective

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
TRAIN = ["train", "a.csv", "--target", "y"]


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = drawn()
    pd.DataFrame(X).assign(y=y).to_csv("a.csv", index=False)


def test_presets_and_losses_are_those_of_the_estimators() -> None:
    assert {*PRESETS} == {*settings.PRESETS}
    assert get_args(Objective) == LOSSES


@needs_compiler
def test_a_preset_reaches_the_estimator() -> None:
    assert main([*TRAIN, "--preset", "fast"]) == 0
    assert fastmlp.load("model.safetensors").preset == "fast"
    assert main([*TRAIN, "--force"]) == 0
    assert fastmlp.load("model.safetensors").preset == "balanced"


def test_a_wrong_use_is_said_before_an_output_that_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("model.safetensors").touch()
    assert main([*TRAIN, "--ignore", "y"]) == 2
    assert "exists" not in capsys.readouterr().err
    assert main(TRAIN) == 1
    assert "exists" in capsys.readouterr().err


@needs_compiler
def test_the_time_limit_counts_from_the_start_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each look at the clock is 50 s after the last.
    times = count(0.0, 50.0)
    monkeypatch.setattr("fastmlp.cli.tables.time", SimpleNamespace(monotonic=lambda: next(times)))
    assert main([*TRAIN, "--time-limit", "90"]) == 0
    assert fastmlp.load("model.safetensors").time_limit == 40
    assert "--time-limit was over" not in capsys.readouterr().err
    assert main([*TRAIN, "--time-limit", "40", "--force"]) == 0
    assert 0 < fastmlp.load("model.safetensors").time_limit < 1
    assert "note: --time-limit was over before the training began" in capsys.readouterr().err


def test_packages_are_asked_for_before_anything_is_read(python: Callable[..., str]) -> None:
    script = """
import contextlib, io, sys
from fastmlp.cli.main import main
for module in ("sklearn", "safetensors", "pyarrow"):
    names = [name for name in sys.modules if name.split(".")[0] == module]
    hidden = {name: sys.modules.pop(name) for name in names}
    sys.modules[module] = None
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(["train", "no.csv", "--target", "y"])
    print(code, told.getvalue().strip())
    del sys.modules[module]
    sys.modules |= hidden
"""
    sklearn, safetensors, pyarrow = python(script).splitlines()
    assert sklearn.startswith("1 fastmlp: fastmlp train needs scikit-learn: pip install")
    assert safetensors.startswith("1 fastmlp: a model file needs safetensors: pip install")
    assert pyarrow.startswith("1 fastmlp: fastmlp train needs pyarrow: pip install")
