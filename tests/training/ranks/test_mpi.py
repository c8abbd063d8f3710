"""Fits on the ranks of a real MPI, in processes of their own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked import SHARES, in_batches, made, on_ranks, rows_of

from fastmlp import MLP, load

pytest.importorskip("mpi4py")
SCRIPT = Path(__file__).with_name("script.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
pytestmark = [
    pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec"),
    pytest.mark.timeout(180),
]
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels, which processes then load: four at once, beside ranks that spin while
    they wait, would take a minute."""

    def fit(communicator: Any) -> None:
        for every in (None, 3):
            how: Any = {"epochs": 1, "batch_size": 300, "average_every": every}
            made().fit(*rows_of(communicator.Get_rank()), communicator=communicator, **how)

    on_ranks(4, fit)


def run(
    what: str, folder: Path, module: tuple[str, ...] = ("-m", "mpi4py")
) -> "subprocess.CompletedProcess[str]":
    """Run the script on four ranks, which yield their core while they wait."""
    as_root = ["--oversubscribe", "--allow-run-as-root"]
    ranks = [str(MPIEXEC), *as_root, "-n", "4", sys.executable, *module]
    folders = SCRIPT.parents[3], SCRIPT.parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [*ranks, str(SCRIPT), what, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def parameters_of(what: str, folder: Path) -> bytes:
    """Run the script; return the parameters, which are the same on all ranks."""
    done = run(what, folder)
    assert done.returncode == 0, done.stderr
    first, *others = ((folder / f"{what}{rank}").read_bytes() for rank in range(4))
    assert others == [first] * 3
    return first


def alone() -> MLP:
    """The net trained in one process, on the same batches."""
    order = in_batches(SHARES, 300)
    X, y = (np.concatenate(parts)[order] for parts in zip(*map(rows_of, range(4)), strict=True))
    net = made()
    net.fit(X, y, epochs=6, batch_size=300, shuffle=False)
    return net


def test_ranks_are_equal_by_bits_and_to_one_process(tmp_path: Path) -> None:
    found = np.frombuffer(parameters_of("plain", tmp_path))
    np.testing.assert_allclose(found, alone().parameters, rtol=1e-10, atol=1e-10)


def test_twice_the_same_bits(tmp_path: Path) -> None:
    assert parameters_of("average", tmp_path) == parameters_of("average", tmp_path)


def test_a_killed_rank_ends_the_job_and_a_resumed_fit_has_its_bits(tmp_path: Path) -> None:
    whole = parameters_of("whole", tmp_path)
    done = run("kill", tmp_path)
    killed = time.time() - (tmp_path / "fit.safetensors").stat().st_mtime
    assert done.returncode != 0
    # The last checkpoint was written in the epoch before the kill.
    assert killed < 10
    assert not list(tmp_path.glob("kill*"))
    assert load(tmp_path / "fit.safetensors").n_steps == 4 * 6
    assert parameters_of("resume", tmp_path) == whole


@pytest.mark.parametrize("module", [("-m", "mpi4py"), ()])
def test_an_error_in_a_callback_ends_the_job(tmp_path: Path, module: tuple[str, ...]) -> None:
    done = run("raise", tmp_path, module)
    assert done.returncode != 0
    assert "MLP.fit on rank 0 of 4 ends all ranks" in done.stderr
    assert "ValueError: of a callback" in done.stderr
    assert not list(tmp_path.glob("raise*"))
