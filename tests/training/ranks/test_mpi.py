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


def job(
    fits: str, folder: Path, n_ranks: int = 4, module: tuple[str, ...] = ("-m", "mpi4py")
) -> dict[str, Any]:
    as_root = ["--oversubscribe", "--allow-run-as-root"]
    ranks = [str(MPIEXEC), *as_root, "-n", str(n_ranks), sys.executable, *module]
    folders = SCRIPT.parents[3], SCRIPT.parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {"args": [*ranks, str(SCRIPT), fits, str(folder)], "env": environment, "text": True}


def run(*values: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**job(*values), capture_output=True, timeout=SECONDS)


def parameters_of(fit: str, folder: Path) -> bytes:
    """The parameters of a fit, which are the same on all ranks."""
    first, *others = ((folder / f"{fit} {rank}").read_bytes() for rank in range(4))
    assert others == [first] * 3
    return first


def wait_until(happens: Callable[[], bool], seconds: float) -> bool:
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


# A job does several fits, one after the other, and ends with the last: four processes start in 5 to
# 10 s of a core. The fits of a job are trained by other processes than those of the next.


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first job, of which a rank is killed in its last fit."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run("plain,average,whole,kill", folder)
    assert (folder / "kills").exists(), done.stderr
    assert done.returncode != 0
    return folder


@pytest.fixture(scope="module")
def ended(killed: Path) -> Path:
    """The folder with the second job, which is terminated in its last fit."""
    folder, quiet = killed, {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert load(folder / "killed").n_steps == 4 * 6
    with subprocess.Popen(**job("resume,again,wait", folder) | quiet) as process:
        try:
            waits = (folder / "waits").exists
            assert wait_until(lambda: waits() or process.poll() is not None, SECONDS)
            assert process.poll() is None
            # Rank 0 would sleep for a minute, and the others wait for it.
            process.terminate()
            assert process.wait(30) != 0
        finally:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def raised(ended: Path) -> "subprocess.CompletedProcess[str]":
    """The third job, which resumes the fit that was terminated, and ends with an error."""
    assert load(ended / "ended").n_steps == 4 * 6
    return run("go on,raise", ended)


def alone() -> MLP:
    order = in_batches(SHARES, 300)
    X, y = (np.concatenate(parts)[order] for parts in zip(*map(rows_of, range(4)), strict=True))
    net = made()
    net.fit(X, y, epochs=6, batch_size=300, shuffle=False)
    return net


@pytest.mark.slow
def test_ranks_are_equal_by_bits_and_to_one_process(killed: Path) -> None:
    result = np.frombuffer(parameters_of("plain", killed))
    np.testing.assert_allclose(result, alone().parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(killed: Path) -> None:
    assert not list(killed.glob("kill [0-9]"))


@pytest.mark.slow
def test_twice_the_same_bits(ended: Path) -> None:
    assert parameters_of("average", ended) == parameters_of("again", ended)


@pytest.mark.slow
def test_a_resumed_fit_has_the_bits_of_a_whole_one(ended: Path) -> None:
    assert parameters_of("resume", ended) == parameters_of("whole", ended)


@pytest.mark.slow
def test_a_terminated_job_leaves_no_rank_and_a_resumed_fit_has_its_bits(
    ended: Path, raised: "subprocess.CompletedProcess[str]"
) -> None:
    pids = [int((ended / f"pid{rank} of wait").read_text()) for rank in range(4)]
    # mpiexec may end before them.
    assert wait_until(lambda: not any(map(lives, pids)), 30)
    assert not list(ended.glob("wait [0-9]"))
    assert parameters_of("go on", ended) == parameters_of("whole", ended), raised.stderr


@pytest.mark.slow
def test_an_error_in_a_callback_ends_the_job(
    ended: Path, raised: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    without_a_module = run("raise", tmp_path, 2, ())
    for n_ranks, done in ((4, raised), (2, without_a_module)):
        assert done.returncode != 0
        assert f"MLP.fit on rank 0 of {n_ranks} ends all ranks" in done.stderr
        assert "ValueError: of a callback" in done.stderr
    assert not [*ended.glob("raise [0-9]"), *tmp_path.glob("raise [0-9]")]
