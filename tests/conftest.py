"""Fixtures that every test may use, and the choice of tests by a call that names none.

Such a call leaves the drills out, and takes a few cases of each other test, evenly spaced. A drill
takes half a second of processor time or more, with its child processes, or its few cases together
a second. Drills stand in drills.txt: the name of the function, with the parameters if only some
take as long, or the whole node id where two tests have one name.
"""

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pytest
from _pytest.doctest import DoctestModule
from _pytest.runner import runtestprotocol

import fastmlp

TESTS = Path(__file__).parent
# Containers that set it would have every process compile NumPy, pandas and each module of tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Threads of OpenMP, as in scikit-learn's trees, that wait for one without a core sleep. Else they
# spin: beside other processes a fit of HistGradientBoostingRegressor took 19 s, now 3.5.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
# Each case is a page or a program of its own: all are taken where the test is.
WHOLE = {"test_code_runs_in_order_and_gives_what_stands_under_it", "test_runs_and_prints"}
# Cases of a test in a call that names none: of 17,000 cases, which take 570 s of processor time
# with kernels that are compiled, 4,600 are left, which take 190 with an empty cache (AMD EPYC,
# AVX2).
FEW = 4
# Where cases are few, drills have a third of them: at twelve 700 cases of 300 drills took 1,060 of
# 1,330 s, the other 7,700 cases 270.
DRILLS_SHARE = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the drills too, and the others' limit")
    cases = "at most so many cases of a test, a third of a drill; default: all, 4 if none is named"
    parser.addoption("--cases", type=int, metavar="N", help=cases)
    parser.addoption("--draw", metavar="TEXT", help="draw the cases, by this text as the seed")
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
    if option.fast and option.cases is None:
        option.cases = FEW
    if getattr(config, "workerinput", {}).get("workerid") == "gw1":
        config.pluginmanager.register(_Backwards())


def pytest_report_header(config: pytest.Config) -> str | None:
    drills = ", and no drill, which is a slow test: --all runs all" if config.option.fast else ""
    return f"cases of a test: at most {n}{drills}" if (n := config.option.cases) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests; they and their modules live to the end, and no garbage is looked for among
    them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """No docstring of the tests has examples: 2.3 s of 21 that looked for them."""
    return [file for file in (yield) if not isinstance(file, DoctestModule)]


class _Backwards:
    """Collect this folder from the last file to the first, but keep the order of the tests.

    So does the second of two processes, which finds the bytecode of the first half, as the first
    does of the second: pytest rewrites 55,000 lines of asserts once, not in each; 13 s.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, pytest.Directory) and TESTS in (collector.path / "_").parents:
            report.result.reverse()
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        own = [item for item in items if TESTS in item.path.parents]
        files = [list(file) for _, file in groupby(own, lambda item: item.path)]
        items[: len(own)] = chain(*reversed(files))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        names = {item.name, item.nodeid}
        if names & DRILLS or {name.partition("[")[0] for name in names} & DRILLS:
            item.add_marker("drill")
    option, cases = config.option, dict[tuple[str, bool], list[pytest.Item]]()
    for item in items:
        drill = item.get_closest_marker("drill") is not None
        if not (option.fast and drill):
            cases.setdefault((item.nodeid.partition("[")[0], drill), []).append(item)
    few = [_few(of_test, option.cases, option.draw) for of_test in cases.values()]
    taken = {item.nodeid for item in chain(*few)}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in taken])
    items[:] = [item for item in items if item.nodeid in taken]


def _few(cases: list[pytest.Item], n: int | None, draw: str | None) -> list[pytest.Item]:
    """At most n cases of a test, evenly spaced or drawn, of a drill a third of n; None: all."""
    if n is None or cases[0].name.partition("[")[0] in WHOLE:
        return cases
    if cases[0].get_closest_marker("drill"):
        n = -(-n // DRILLS_SHARE)
    if len(cases) <= n:
        return cases
    if draw is None:
        places = {(2 * i + 1) * len(cases) // (2 * n) for i in range(n)}
    else:
        # A text seeds Python's generator by its SHA-512: the same in each process.
        places = set(random.Random(draw + cases[0].nodeid).sample(range(len(cases)), n))
    return [case for i, case in enumerate(cases) if i in places or case.name == KEPT]


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
