"""Fixtures that every test may use, and the drills, which a call that names no test leaves out.

A drill is a test that takes half a second of processor time or more, with its child processes.
Drills stand in drills.txt: the name of the function, with the parameters if only some take as long,
or the whole node id where two tests have one name.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
from _pytest.runner import runtestprotocol

import fastmlp

TESTS = Path(__file__).parent
# A background job of a shell ignores Ctrl-C, as would tests that send one, and their processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
FOLDERS = [Path(fastmlp.__file__).parents[1], TESTS, TESTS / "backends", TESTS / "soak"]

DRILLS = frozenset((TESTS / "drills.txt").read_text(encoding="utf-8").split("\n"))
# In yardsticks of 5 to 11 ms, measured beside the test, as processors differ, and a busy one has
# colder caches and half of each core: 1.5 to 3.3 s, three times what makes a drill and more.
LIMIT = 300
# Beyond the limit, and no drill: without it no fast test finds locks that a forked child inherits.
KEPT = "test_every_scenario_on_every_layer[forks-omp]"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the drills too, and the others' limit")
    parser.addoption("--soak", action="store_true", help="the drills of tests/soak at full size")
    parser.addoption("--golden", action="store_true", help="write the messages that have changed")


def _names_no_test(config: pytest.Config) -> bool:
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run in two processes if no test is named. In `addopts` it would be an error where xdist is
    not installed, and would keep a named test from a debugger."""
    option = config.option
    alone = hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist")
    if _names_no_test(config) and not alone and not option.usepdb:
        if option.numprocesses is None:
            option.numprocesses = min(2, os.cpu_count() or 1)
        # Files come by their names; else those of few tests would be last.
        option.dist, option.loadscopereorder = "loadfile", False


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    option.fast = _names_no_test(config) and not (option.all or option.soak or option.markexpr)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        names = {item.name, item.nodeid}
        if names & DRILLS or {name.partition("[")[0] for name in names} & DRILLS:
            item.add_marker("drill")
    if config.option.fast:
        drills = [item for item in items if item.get_closest_marker("drill")]
        items[:] = [item for item in items if not item.get_closest_marker("drill")]
        config.hook.pytest_deselected(items=drills)


def _processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _yardstick() -> float:
    """Seconds that a fixed piece of Python takes in this process at this moment."""
    start = time.process_time()
    for _ in range(4):
        sorted(map(str, range(10_000)))
    return time.process_time() - start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Function, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Report a test over the limit that is no drill. It runs again, as a test that is the first to
    use a kernel or a package pays for its compilation or import."""
    start = _processor_time()
    result = yield
    seconds = _processor_time() - start
    if not item.config.option.all or item.name == KEPT or item.get_closest_marker("drill"):
        return result
    if seconds < 0.5 or seconds <= LIMIT * (before := _yardstick()):
        return result
    start = _processor_time()
    item._initrequest()
    runtestprotocol(item, log=False, nextitem=nextitem)
    seconds = min(seconds, _processor_time() - start)
    if seconds > LIMIT * max(before, _yardstick()):
        text = f"{seconds:.1f} s of processor time: add {item.name!r} to tests/drills.txt"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "teardown")
        item.ihook.pytest_runtest_logreport(report=report)
    return result


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
