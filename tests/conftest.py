"""Fixtures that every test may use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fastmlp

TESTS = Path(__file__).parent
FOLDERS = [Path(fastmlp.__file__).parents[1], TESTS, TESTS / "backends"]


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same state in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def python() -> Callable[..., str]:
    """Run a script in a fresh process that shares the cache of this one; return what it prints."""

    def run(script: str, **environment: str) -> str:
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))} | environment
        # -P: the folder that the tests run in must not come before PYTHONPATH.
        command = [sys.executable, "-P", "-W", "error", "-c", script]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
