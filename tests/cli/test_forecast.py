"""`fastmlp forecast`: what it prints, and what it refuses."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time short fits, once."""
    module = import_module("fastmlp.cluster.forecast")
    monkeypatch.setattr(module, "SECONDS", 1e-3)
    monkeypatch.setattr(module, "TURNS", 1)


@needs_compiler
def test_a_forecast_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    words = "forecast 16-64-64-2 --batch-size 512 --ranks 2,4 --latency 20us --bandwidth 25Gbit"
    assert main([*words.split(), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "16-64-64-2, 5,378 parameters, float32; 512 rows a step"
    assert lines[1].startswith("alone ")
    assert lines[1].endswith(" ms a step, 1 thread: measured here")
    assert lines[2] == "network 20 us, 25 Gbit/s: given"
    assert lines[3].startswith("simulated")
    assert [line.split()[:2] for line in lines[-2:]] == [["2", "256"], ["4", "128"]]


@needs_compiler
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "poisson", "binary_cross_entropy"])
def test_a_forecast_as_json(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"forecast 8-16-3 --batch-size 64 --ranks 2 --json --average-every 4 --loss {loss}"
    assert main(words.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["latency"], result["bandwidth"], result["measured"]) == (30e-6, 10e9, False)
    (row,), (averaged,) = result["each_step"], result["averaged"]
    assert (row["n_ranks"], row["rows"]) == (2, 32)
    assert averaged["n_bytes"] < row["n_bytes"]
    assert row["speed_up"] == pytest.approx(result["alone"] / (row["computing"] + row["messages"]))


def mpiexec() -> str | None:
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


@needs_compiler
@pytest.mark.skipif(find_spec("mpi4py") is None or not mpiexec(), reason="there is no MPI")
def test_ranks_measure_their_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    words = "forecast 4-8-1 --batch-size 64 --ranks 2 --json"
    script = "import sys, fastmlp.cluster.forecast as module; from fastmlp.cli.main import main; "
    script += "module.SECONDS, module.TURNS = 1e-3, 1; main(sys.argv[1:])"
    program = [sys.executable, "-m", "mpi4py", "-c", script, *words.split()]
    command = [str(mpiexec()), "-n", "2", *program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    outcome: Any = json.loads(result.stdout)
    assert outcome["measured"]
    assert 0 < outcome["latency"] != 30e-6
    assert 0 < outcome["bandwidth"] != 10e9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("16", "SIZES: must be numbers of units with hyphens, such as 784-512-512-10, got '16'"),
        ("16-0-2", "SIZES: must be numbers of units with hyphens"),
        ("16-2 --latency 30", "--latency: must be a time such as 30us, 1.5us or 1ms, got '30'"),
        ("16-2 --latency 1.2.3us", "--latency: must be a time"),
        ("16-2 --bandwidth 10", "must be bits or bytes a second such as 10Gbit or 1.2GB, got '10'"),
        ("16-2 --bandwidth 0Gbit", "must be bits or bytes a second"),
        ("16-2 --ranks two", "--ranks: must be numbers of machines with commas, such as 2,4,8"),
        ("16-2 --loss xent", "got 'xent', did you mean 'cross_entropy'?"),
        ("16-2 --latncy 3us", "there is no option --latncy, did you mean '--latency'?"),
    ],
)
def test_what_is_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["forecast", *words.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10Gbit", 10e9), ("1.25GB", 10e9), ("100 Mbit/s", 1e8), ("40Gbps", 4e10), (".5Tb", 5e11)],
)
def test_bandwidths(text: str, bits: float) -> None:
    from fastmlp.cli.forecast import _bandwidth

    assert _bandwidth(text) == pytest.approx(bits)
