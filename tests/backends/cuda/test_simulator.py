"""The CUDA backend without a GPU: its kernels in Numba's simulator, against the CPU backend.

The simulator replaces the compiler for a whole process.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest

FOLDER = Path(__file__).parent / "simulated"
ROOT = FOLDER.parents[3]
# The simulator runs Python and NumPy: DISABLE_JIT and BOUNDSCHECK change nothing.
plain = numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK


@pytest.mark.skipif(bool(plain), reason="the simulator runs plain Python in any case")
def test_the_kernels_do_in_the_simulator_what_the_cpu_does() -> None:
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        # The limit of fast tests is one of compiled code.
        "PYTEST_ADDOPTS": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 180
