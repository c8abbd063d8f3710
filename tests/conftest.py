"""Fixtures that every test may use."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fastmlp

TESTS = Path(__file__).parent
# A background job of a shell ignores Ctrl-C, as would tests that send one, and their processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
FOLDERS = [Path(fastmlp.__file__).parents[1], TESTS, TESTS / "backends", TESTS / "soak"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the drills of tests/soak at full size")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full size."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same state in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def python() -> Callable[..., str]:
    """Run a script in a fresh process that shares the cache of this one; return what it prints."""

    def run(script: str, *arguments: object, timeout: float = 120, **environment: str) -> str:
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))} | environment
        # -P: the folder that the tests run in must not come before PYTHONPATH.
        command = [sys.executable, "-P", "-W", "error", "-c", script, *map(str, arguments)]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
