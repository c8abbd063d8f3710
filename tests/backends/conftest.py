"""Fresh processes for what changes a process: threads, forks, counters."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fastmlp

FOLDERS = [Path(fastmlp.__file__).parents[1], Path(__file__).parent, Path(__file__).parents[1]]


@pytest.fixture
def python() -> Callable[..., str]:
    """Run a script in a fresh process that shares the cache of this one; return what it prints."""

    def run(script: str, **environment: str) -> str:
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))} | environment
        command = [sys.executable, "-P", "-W", "error", "-c", script]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
