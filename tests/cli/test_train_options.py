"""Options of train: kinds of models, presets, the time limit, and packages that are missing."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from small_tables import drawn

import fastmlp
from fastmlp.cli.main import main
from fastmlp.cli.options import MODELS, PRESETS, Parser, add_train
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.pack import settings
from fastmlp.tabular.plain.training import TrainSettings

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
TRAIN = ["train", "a.csv", "--target", "y"]


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, preset in settings.PRESETS.items():
        few = preset._replace(n_members=2, epochs=2)
        monkeypatch.setitem(settings.PRESETS, name, few)
    X, y = drawn()
    pd.DataFrame(X).assign(y=y).to_csv("a.csv", index=False)


def test_presets_are_those_of_the_estimators() -> None:
    assert {*PRESETS} == {*settings.PRESETS}


def test_each_setting_has_an_option_of_its_name_and_default() -> None:
    parser = Parser()
    add_train(parser)
    options = vars(parser.parse_args([]))
    assert options.pop("task") == "auto"
    defaults = {"target": None, **TrainSettings._field_defaults}
    del defaults["task"], defaults["ends"]
    assert {name: options[name] for name in defaults} == defaults


@pytest.mark.parametrize("model", MODELS)
def test_an_old_word_of_preset_is_that_of_model(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--model", model, "--dry-run"]) == 0
    now = capsys.readouterr()
    assert f'model = "{model}"\npreset = "balanced"\n' in now.out
    assert now.err == ""
    assert main([*TRAIN, "--preset", model, "--dry-run"]) == 0
    before = capsys.readouterr()
    assert before.out == now.out
    assert before.err == f"note: --preset {model} is now --model {model}\n"
    Path("run.toml").write_text(f'preset = "{model}"\n')
    assert main([*TRAIN, "--config", "run.toml", "--dry-run"]) == 0
    assert capsys.readouterr() == before
    for other in MODELS:
        assert main([*TRAIN, "--config", "run.toml", "--model", other, "--dry-run"]) == 0
        assert f'model = "{other}"\n' in capsys.readouterr().out


def test_a_preset_is_of_a_pack_and_hidden_of_a_net(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--model", "plain", "--preset", "best"]) == 2
    assert "argument --preset: needs --model tabular" in capsys.readouterr().err
    assert main([*TRAIN, "--preset", "best", "--hidden", "8"]) == 2
    assert "argument --hidden: needs --model plain" in capsys.readouterr().err
    assert main([*TRAIN, "--model", "plain", "--dry-run"]) == 0
    Path("run.toml").write_text(capsys.readouterr().out)
    assert main(["train", "--config", "run.toml", "--preset", "fast"]) == 2


@needs_compiler
def test_a_preset_reaches_the_estimator() -> None:
    assert main([*TRAIN, "--preset", "fast", "--quiet"]) == 0
    assert fastmlp.load("model.safetensors").preset == "fast"
    assert main([*TRAIN, "--quiet", "--force"]) == 0
    assert fastmlp.load("model.safetensors").preset == "balanced"


def test_a_wrong_use_is_said_before_an_output_that_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("model.safetensors").touch()
    for wrong in (["--ignore", "y"], ["--hidden", "8"]):
        assert main([*TRAIN, *wrong]) == 2
        assert "exists" not in capsys.readouterr().err
    assert main(TRAIN) == 1
    assert "exists" in capsys.readouterr().err


@needs_compiler
@pytest.mark.parametrize("model", MODELS)
def test_the_time_limit_counts_from_the_start_of_the_command(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[float] = []
    seconds = TrainSettings.seconds
    # As if the command had begun to read 50 s ago.
    earlier = SimpleNamespace(monotonic=lambda: time.monotonic() - 50)
    monkeypatch.setattr("fastmlp.cli.tables.time", earlier)

    def noted(self: TrainSettings, say: Callable[[str], object]) -> float | None:
        left = seconds(self, say)
        assert left is not None
        limits.append(left)
        return left

    monkeypatch.setattr(TrainSettings, "seconds", noted)
    assert main([*TRAIN, "--model", model, "--epochs", "2", "--time-limit", "90"]) == 0
    assert 0 < limits[0] <= 40
    assert "--time-limit was over" not in capsys.readouterr().err
    arguments = ["--model", model, "--epochs", "2", "--time-limit", "40", "--force"]
    assert main([*TRAIN, *arguments]) == 0
    assert 0 < limits[1] < 1
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
    assert sklearn.startswith("1 fastmlp: --model tabular needs scikit-learn: pip install")
    assert sklearn.endswith("or use --model plain")
    assert safetensors.startswith("1 fastmlp: a model file needs safetensors: pip install")
    assert pyarrow.startswith("1 fastmlp: fastmlp train needs pyarrow: pip install")
