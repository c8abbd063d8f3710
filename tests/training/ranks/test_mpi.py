"""Fits on the ranks of a real MPI, in processes of their own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked import SHARES, in_batches, made, on_ranks, rows_of

from fastmlp import MLP, load
from fastmlp.compiler.jit import INTERPRETED

pytest.importorskip("mpi4py")
SCRIPT = Path(__file__).with_name("script.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
pytestmark = [
    pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec"),
    pytest.mark.skipif(INTERPRETED, reason="messages are the same in plain Python"),
    pytest.mark.timeout(180),
]
# Ranks that wait for one that is gone would take them.
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels, which processes then load: four at once, beside ranks that spin while
    they wait, would take a minute."""

    def fit(communicator: Any) -> None:
        for every in (None, 3):
            options: Any = {"epochs": 1, "batch_size": 300, "average_every": every}
            made().fit(*rows_of(communicator.Get_rank()), communicator=communicator, **options)

    on_ranks(4, fit)


def job(what: str, folder: Path, module: tuple[str, ...] = ("-m", "mpi4py")) -> dict[str, Any]:
    """Return the command of the script on four ranks, which yield their core while they wait."""
    as_root = ["--oversubscribe", "--allow-run-as-root"]
    ranks = [str(MPIEXEC), *as_root, "-n", "4", sys.executable, *module]
    folders = SCRIPT.parents[3], SCRIPT.parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {"args": [*ranks, str(SCRIPT), what, str(folder)], "env": environment, "text": True}


def run(*values: Any) -> "subprocess.CompletedProcess[str]":
    """Run a job to its end."""
    return subprocess.run(**job(*values), capture_output=True, timeout=SECONDS)


def train(what: str, folder: Path) -> None:
    done = run(what, folder)
    assert done.returncode == 0, done.stderr


def parameters_of(what: str, folder: Path) -> bytes:
    """Return the parameters of a fit, which are the same on all ranks."""
    first, *others = ((folder / f"{what}{rank}").read_bytes() for rank in range(4))
    assert others == [first] * 3
    return first


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of fits one after another: four processes start in 10 s of a core."""
    folder = tmp_path_factory.mktemp("ranks")
    train("plain,average,whole", folder)
    return folder


@pytest.fixture(scope="module")
def killed(trained: Path) -> int:
    """Return the status with which a job ends of which a rank is killed."""
    return run("kill", trained).returncode


@pytest.fixture(scope="module")
def resumed(trained: Path, killed: int) -> Path:
    """Return the folder with a fit resumed, and one of before again, both by other processes."""
    assert load(trained / "fit.safetensors").n_steps == 4 * 6
    train("resume,again", trained)
    return trained


def alone() -> MLP:
    """The net trained in one process, on the same batches."""
    order = in_batches(SHARES, 300)
    X, y = (np.concatenate(parts)[order] for parts in zip(*map(rows_of, range(4)), strict=True))
    net = made()
    net.fit(X, y, epochs=6, batch_size=300, shuffle=False)
    return net


def test_ranks_are_equal_by_bits_and_to_one_process(trained: Path) -> None:
    result = np.frombuffer(parameters_of("plain", trained))
    np.testing.assert_allclose(result, alone().parameters, rtol=1e-10, atol=1e-10)


def test_twice_the_same_bits(resumed: Path) -> None:
    assert parameters_of("average", resumed) == parameters_of("again", resumed)


def test_a_killed_rank_ends_the_job(trained: Path, killed: int) -> None:
    assert killed != 0
    assert not list(trained.glob("kill*"))


def test_a_resumed_fit_has_the_bits_of_a_whole_one(resumed: Path) -> None:
    assert parameters_of("resume", resumed) == parameters_of("whole", resumed)


def wait_until(happens: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as it happens, and False if it does not."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_terminated_job_leaves_no_rank_and_a_resumed_fit_has_its_bits(
    trained: Path, tmp_path: Path
) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(**job("wait", tmp_path) | quiet) as process:
        try:
            waits = (tmp_path / "waits").exists
            assert wait_until(lambda: waits() or process.poll() is not None, SECONDS)
            assert process.poll() is None
            # Rank 0 would sleep for a minute, and the others wait for it.
            process.terminate()
            assert process.wait(30) != 0
        finally:
            process.kill()
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(4)]
    # mpiexec may end before them.
    assert wait_until(lambda: not any(map(lives, pids)), 30)
    assert not list(tmp_path.glob("wait[0-9]"))
    assert load(tmp_path / "fit.safetensors").n_steps == 4 * 6
    train("resume", tmp_path)
    assert parameters_of("resume", tmp_path) == parameters_of("whole", trained)


@pytest.mark.parametrize("module", [("-m", "mpi4py"), ()])
def test_an_error_in_a_callback_ends_the_job(tmp_path: Path, module: tuple[str, ...]) -> None:
    done = run("raise", tmp_path, module)
    assert done.returncode != 0
    assert "MLP.fit on rank 0 of 4 ends all ranks" in done.stderr
    assert "ValueError: of a callback" in done.stderr
    assert not list(tmp_path.glob("raise*"))
