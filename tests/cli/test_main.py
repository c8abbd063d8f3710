"""The command: what it prints, what it leaves, and its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import fastmlp
from fastmlp import MLP, SGD
from fastmlp.cli.demo import DemoOutcome, Digits, _draw_losses, run_demo
from fastmlp.cli.info import format_info, info
from fastmlp.cli.main import main
from fastmlp.compiler import cache
from fastmlp.compiler.jit import INTERPRETED

PNG = b"\x89PNG\r\n\x1a\n"
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fastmlp {fastmlp.__version__}\n"


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == format_info() + "\n"
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info()


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "fastmlp", "info"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("fastmlp ")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_ends_the_command_in_silence(buffered: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "fastmlp", "info"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


@needs_compiler
def test_demo_saves_the_picture_that_it_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    assert main(["demo", "--epochs", "2", "--seed", "3", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_bytes().startswith(PNG)
    assert f"Picture: {path}\n" in printed
    assert "2 epochs, float32, seed 3" in printed
    assert re.search(r"fastmlp +\d+\.\d %", printed)
    assert re.search(r"scikit-learn +\d+\.\d %", printed)


@needs_compiler
def test_demo_reads_97_percent_of_the_held_out_digits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in range(3):
        assert run_demo(tmp_path / "picture.png", seed=seed) >= 0.97


@pytest.mark.parametrize(("last", "told"), [(0.01, "(logarithmic scale)"), (1.0, "loss by epoch")])
def test_the_title_of_the_demos_picture_tells_the_scale(last: float, told: str) -> None:
    figure = Figure()
    digits = np.array([3, 7])
    data = Digits(np.zeros((2, 64)), digits, np.zeros((2, 64)), digits)
    outcome = DemoOutcome("fastmlp", 1.0, 0.5, [2.0, last], digits)
    _draw_losses(figure.subplots(), outcome, outcome, data)
    assert figure.axes[0].get_title(loc="left").endswith(told)


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib",) * 2])
def test_missing_extra_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"fastmlp: the demo needs {package}: pip install {package}\n"


def test_the_extra_of_the_demo_is_enough_for_the_readme() -> None:
    """Its first command installs `demo`; its code saves a net."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (demo,) = project["optional-dependencies"]["demo"]
    assert {"plot", "safetensors", "sklearn"} <= set(re.split(r"[],[]", demo))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be an integer of 1 or more, got '0'"),
        (["--epochs", "two"], "must be an integer of 1 or more, got 'two'"),
        (["--seed", "-1"], "argument --seed"),
        (["--seed", str(2**32)], "must be at most 4294967295, got '4294967296'"),
        (["--output", "demo.txt"], "must end in .png, .pdf, .svg, got 'demo.txt'"),
        (["--output", "no/such/folder/demo.png"], "there is no folder 'no/such/folder'"),
    ],
)
def test_wrong_argument_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_no_command_prints_the_help_and_is_no_success(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert main([]) == 2
    assert capsys.readouterr() == ("", told)
    assert all(command in told for command in ("demo", "info", "warmup"))


def test_warmup_says_where_the_code_lies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastmlp.cli.warmup.warmup", lambda report, **_: report("part") or 1.25)
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: Path("somewhere"))
    assert main(["warmup"]) == 0
    assert capsys.readouterr().out == "part\n1.2 s, kept in somewhere\n"


def test_warmup_of_a_shared_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()

    def compile_all(**_: Any) -> float:
        done.append("warmup")
        return 1.25

    monkeypatch.setattr(cache, "share", lambda: done.append("share"))
    monkeypatch.setattr("fastmlp.cli.warmup.warmup", compile_all)
    monkeypatch.setattr(cache, "folder", lambda: Path("/somewhere"))
    assert main(["warmup", "--shared"]) == 0
    assert done == ["share", "warmup"]
    assert capsys.readouterr().out == "1.2 s, kept in /somewhere\n"


def test_warmup_of_mixed_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []

    def keep(report: Any, compute_dtype: Any) -> float:
        told.append(compute_dtype)
        return 1.0

    monkeypatch.setattr("fastmlp.cli.warmup.warmup", keep)
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: Path("somewhere"))
    for options in ([], ["--compute-dtype", "bfloat16"]):
        assert main(["warmup", *options]) == 0
    assert told == [None, "bfloat16"]
    for options, words in (
        (["--compute-dtype", "bfloat"], "'bfloat', did you mean 'bfloat16'?"),
        (["--mixed-precision"], "there is no option --mixed-precision, did you mean"),
    ):
        with pytest.raises(SystemExit):
            main(["warmup", *options])
        assert words in capsys.readouterr().err


def test_warmup_without_a_cache_folder_is_refused_before_it_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastmlp.cli.warmup.warmup", lambda report, **_: report("part") or 1.25)
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: None)
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "fastmlp: warmup has no cache folder to keep code in; the cache is off (FASTMLP_CACHE=0)\n"
    )


def test_warmup_that_could_not_keep_all_code_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "failures", [])

    def store(report: Any, compute_dtype: Any) -> float:
        cache._write_whole(tmp_path / "no" / "folder" / "file.code", b"code")
        return 1.25

    monkeypatch.setattr("fastmlp.cli.warmup.warmup", store)
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: tmp_path)
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastmlp: warmup could not keep all code: [Errno 2] No")


def interrupt(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@needs_compiler
@pytest.mark.parametrize(
    "moment",
    [
        "fastmlp.cli.demo._DemoProgress.__call__",
        "sklearn.neural_network.MLPClassifier._update_no_improvement_count",
    ],
)
def test_ctrl_c_in_a_fit_ends_the_demo(
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(moment, interrupt)
    path = tmp_path / "picture.png"
    assert main(["demo", "--output", str(path)]) == 130
    assert capsys.readouterr().err == "fastmlp: interrupted\n"
    assert not path.exists()


def test_ctrl_c_in_a_fit_ends_the_warmup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rates(steps: Any, total: int) -> Any:
        interrupt()
        return np.ones(len(steps))

    nets = [MLP((2, 2), optimizer=SGD(rates))]
    monkeypatch.setattr("fastmlp.cli.warmup._parts", lambda dtype: [("nets", nets)] * 2)
    assert main(["warmup"]) == 130
    assert capsys.readouterr() == ("float32: nets\n", "fastmlp: interrupted\n")


def test_importing_the_command_imports_nothing_heavy() -> None:
    heavy = "{'sklearn', 'matplotlib', 'scipy', 'tqdm'}"
    script = f"import sys, fastmlp.cli.main; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
