"""Fixtures that every test may use, and the choice of tests by a call that names none.

Such a call leaves out what is marked slow, half a second of processor time or more, or
nightly. Of a test that is marked few(n) all cases but n, spread evenly, are nightly. In
plain Python and with bounds checks, where a case takes a hundred times as long, three
of each test are not, of a slow one one.
"""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from _pytest.doctest import DoctestModule

import fastmlp

# tells Numba of our functions: tests call them in code of its own
import fastmlp.compiler.by_numba

TESTS = Path(__file__).parent
# These run where Numba simulates CUDA: see backends/cuda/test_device.py.
collect_ignore = [] if numba.config.ENABLE_CUDASIM else ["backends/cuda/simulated"]
# Containers that set it would have every process compile NumPy,
# pandas and each module of tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Threads of OpenMP, as in scikit-learn's trees, that wait for one without a core sleep.
# Else they spin: beside other processes a fit of HistGradientBoostingRegressor took 19
# s, now 3.5.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A background job of a shell ignores Ctrl-C,
# as would tests that send one, and their processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
FOLDERS = [Path(fastmlp.__file__).parents[1], TESTS, TESTS / "backends", TESTS / "soak"]
IN_PLAIN_CODE = any(
    os.environ.get(name, "0") != "0"
    for name in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="slow tests at full size")
    parser.addoption(
        "--golden", action="store_true", help="write the messages that have changed"
    )


def _names_no_test(config: pytest.Config) -> bool:
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run in two processes if no test is named. In `addopts` it would be an error where
    xdist is not installed, and would keep a named test from a debugger.

    Beside xdist pytest-benchmark warns while pytest is configured,
    which would be an error, unless benchmarks are disabled.
    """
    option = config.option
    # A worker that dies ends the run:
    # by `loadfile` the run would wait for its file for ever.
    if getattr(option, "maxworkerrestart", "0") is None:
        option.maxworkerrestart = "0"
    alone = hasattr(config, "workerinput") or not config.pluginmanager.hasplugin(
        "xdist"
    )
    alone = alone or option.usepdb or getattr(option, "benchmark_only", False)
    if _names_no_test(config) and not alone:
        if config.pluginmanager.hasplugin("benchmark"):
            option.benchmark_disable = True
        if option.numprocesses is None:
            option.numprocesses = min(2, os.cpu_count() or 1)
        # Files come by their names; else those of few tests would be last.
        option.dist = "loadfile"
        option.loadscopereorder = False


def pytest_configure(config: pytest.Config) -> None:
    if _names_no_test(config) and not (config.option.markexpr or config.option.soak):
        config.option.markexpr = "not slow and not nightly"
    if getattr(config, "workerinput", {}).get("workerid") == "gw1":
        config.pluginmanager.register(_Backwards())


def pytest_report_header(config: pytest.Config) -> str:
    left_out = config.option.markexpr or "nothing is left out"
    return f"tests: {left_out} (slow: half a second or more; nightly: further cases of a test)"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests; they and their modules live to the end,
    and no garbage is looked for among them, now or later.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[
    None, list[pytest.Collector], list[pytest.Collector]
]:
    """No docstring of the tests has examples: 2.3 s of 21 that looked for them."""
    return [file for file in (yield) if not isinstance(file, DoctestModule)]


class _Backwards:
    """Collect this folder from the last file to the first,
    but keep the order of the tests.

    So does the second of two processes, which finds the bytecode of the first half, as
    the first does of the second: pytest rewrites 55,000 lines of asserts once, not in
    each; 13 s.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if (
            isinstance(collector, pytest.Directory)
            and TESTS in (collector.path / "_").parents
        ):
            report.result.reverse()
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        own = [item for item in items if TESTS in item.path.parents]
        files = [list(file) for _, file in groupby(own, lambda item: item.path)]
        items[: len(own)] = chain(*reversed(files))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark nightly all cases of a test but its few."""
    tests = dict[str, list[pytest.Item]]()
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        few = cases[0].get_closest_marker("few")
        if few:
            n = few.args[0]
        else:
            n = len(cases)
        if IN_PLAIN_CODE:
            n = 1 if cases[0].get_closest_marker("slow") else 3
        # By the golden ratio: steps of one length could take one value of a factor
        # alone.
        for i in sorted(range(len(cases)), key=lambda i: i * 0.618034 % 1)[n:]:
            cases[i].add_marker("nightly")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full size."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same state in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test may save a model."""
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="session")
def process() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a script in a fresh process that shares the cache of this one;
    return how it ended.
    """

    def run(
        script: str, *arguments: object, timeout: float = 120, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        variables = (
            os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}
            | environment
        )
        # -P: the folder that the tests run in must not come before PYTHONPATH.
        command = [
            sys.executable,
            "-P",
            "-W",
            "error",
            "-c",
            script,
            *map(str, arguments),
        ]
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture(scope="session")
def python(process: Callable[..., Any]) -> Callable[..., str]:
    """Run a script by `process` to its end without an error; return what it prints."""

    def run(script: str, *arguments: object, **options: Any) -> str:
        done = process(script, *arguments, **options)
        assert done.returncode == 0, done.stderr
        output: str = done.stdout
        return output

    return run
