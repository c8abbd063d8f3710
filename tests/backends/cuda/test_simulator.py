"""The CUDA backend without a card: its kernels in Numba's simulator, against the CPU backend.

The simulator is switched on for a whole process, and then nothing is left of the compiler.
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
# It is Python and NumPy already: uncompiled, or with bounds checked, nothing changes.
plain = numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK


@pytest.mark.skipif(bool(plain), reason="the simulator runs plain Python in any case")
def test_the_kernels_do_in_the_simulator_what_the_cpu_does() -> None:
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
    told = re.search(r"(\d+) passed", done.stdout)
    assert told
    assert int(told[1]) > 180
