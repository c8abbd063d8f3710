"""The disk cache under processes that start together, damage, and homes of every kind."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import pytest

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

FIT = """
import numpy as np
from fastmlp import MLP
from fastmlp.compiler import cache
X = np.arange(30.0).reshape(10, 3) % 7
net = MLP((3, 4, 1), seed=0)
net.fit(X, X[:, 0], epochs=2, batch_size=4)
print(net.parameters.tobytes().hex(), cache.folder() is not None)
"""


def test_four_processes_that_start_at_once_on_an_empty_cache(
    python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
    if not soak:
        pytest.skip("20 s a round; a smaller one is in tests/compiler/test_code_cache.py: --soak")
    for i in range(5):
        home = {"NUMBA_CACHE_DIR": str(tmp_path / str(i))}
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(python, FIT, timeout=500, **home) for _ in range(4)]
        assert len({run.result() for run in runs}) == 1
        assert not list((tmp_path / str(i)).rglob("tmp*"))


HOMES: dict[str, Callable[[Path], dict[str, str]]] = {
    "read-only": lambda folder: {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/1"},
    "not there": lambda folder: {"HOME": str(folder / "no" / "home")},
    "a file": lambda folder: {"HOME": __file__},
    "relative": lambda folder: {"HOME": "", "XDG_CACHE_HOME": ""},
}


@pytest.mark.parametrize("home", HOMES)
def test_a_home_of_any_kind_is_no_failure(home: str, tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    variables |= {"FASTMLP_CACHE": "1", **HOMES[home](tmp_path)}
    script = "from fastmlp.compiler import cache; print(cache.folder())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "~").exists()


NO_HOME = """
import os, sys
os.setgroups([])
os.setuid(54321)  # nobody's: no entry, hence no home
from fastmlp.compiler import cache
print(cache.folder())
"""


def test_a_user_without_a_home_has_no_folder(tmp_path: Path, python: Any) -> None:
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root may become another user")
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    if "Permission" in done.stderr or "No module named" in done.stderr:
        pytest.skip("another user may not read this installation")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"
    assert list(tmp_path.iterdir()) == []
