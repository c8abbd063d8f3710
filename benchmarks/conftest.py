"""Benchmarks under pytest-benchmark: libraries take turns,
and their turns are a test's rounds.

A test asks the fixture `race` for a work. The first test of a group, of which all
parameters but the library are the same, has all libraries of the group that were
selected take turns, each in a process of its own. Each test then replays its library's
turns, by a clock that they advance.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, pages
from benchmarks.peers import Unsupported, load, missing, title
from benchmarks.race import BEFORE, Race, Settings
from benchmarks.scores import Record, counted
from benchmarks.workloads import Workload

# Collecting doctests would import libraries that need not be there.
collect_ignore_glob = ["peers/*_*.py"]
# What `--quick` measures, and in which order; no group begins later, of five minutes.
QUICK = (
    "test_train[16-64-64-2@64-",
    "test_first_fit[again-",
    "test_predict[16-64-64-2@64-1-rows-",
    "test_fit_estimator[digits-defaults-",
    "test_train[784-128-10@128-",
    "test_predict[16-64-64-2@64-1000-rows-",
    "test_predict_estimator[1-rows-float64",
    "test_step[2-4-1@4-",
    "test_train[128-1024-1024-10@512-f64-",
    "test_predict[784-512-512-10@128-16-",
)
QUICK_SECONDS = 240.0
QUICK_TURNS = 5
TRIAL_SECONDS = 3.0
TIMEOUT = 3600
# Of the cores, above which figures are those of a machine that does other work.
BUSY = 0.25
_elapsed = [0.0]
_load = os.getloadavg()[0]


def seconds_of_turns() -> float:
    """The clock of replayed turns."""
    return _elapsed[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of fastmlp")
    add = group.addoption
    add("--quick", action="store_true", help="some of all benchmarks, in five minutes")
    add("--threads", type=int, default=min(2, machine.cores()), help="of a library")
    add("--turns", type=int, default=7, help="of each library; a turn is a round")
    checkout = "race the fastmlp of another checkout with this one; no peers"
    add("--checkout", type=Path, metavar="FOLDER", help=checkout)
    cpu = "CPU seconds of libraries' processes: beside other work, of 1 thread"
    add("--cpu-time", action="store_true", help=cpu)
    shim = "have PyTorch's MKL take this for an Intel CPU"
    add("--mkl-shim", action="store_true", help=shim)
    add("--wheel", type=Path, help="of fastmlp, whose first fit is measured, too")


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption
    if not 1 <= option("threads", 1) <= machine.cores():
        raise pytest.UsageError(f"--threads: from 1 to {machine.cores()}")
    if option("turns", 1) < 1:
        raise pytest.UsageError("--turns must be above 0")
    folder = option("checkout", None)
    if folder and not (folder / "fastmlp" / "__init__.py").is_file():
        raise pytest.UsageError(f"there is no fastmlp in {folder}")


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each library of a benchmark is a test;
    it is the last parameter, which changes first.
    """
    marker = metafunc.definition.get_closest_marker("libraries")
    if marker is None:
        return
    if not metafunc.config.getoption("checkout", None):
        metafunc.parametrize("library", [*marker.args])
        return
    names = []
    for name in marker.args:
        if name.partition("-")[0] == "fastmlp":
            names += [name.replace("fastmlp", BEFORE), name]
    metafunc.parametrize("library", names)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    for item in items:
        if not item.get_closest_marker("libraries"):
            continue
        if "race" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=seconds_of_turns))
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        item.add_marker(pytest.mark.timeout(TIMEOUT))
    if config.getoption("quick", False):
        chosen = [item for item in items if _rank(item) < len(QUICK)]
        left_out = [item for item in items if _rank(item) == len(QUICK)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = sorted(chosen, key=_rank)


def _rank(item: pytest.Item) -> int:
    """The place of a benchmark among those of `--quick`, which others come after."""
    for place, name in enumerate(QUICK):
        if item.name.startswith(name):
            return place
    return len(QUICK)


@pytest.fixture(scope="session")
def contestants(pytestconfig: pytest.Config) -> Iterator[Race]:
    """The race of all groups, which begins now."""
    race = Race(_settings(pytestconfig.getoption))
    yield race
    race.close()


def _settings(option: Callable[[str], Any]) -> Settings:
    """The settings that the options of pytest ask for."""
    if option("benchmark_disable"):
        return Settings()
    settings = Settings(
        threads=option("threads"),
        turns=option("turns"),
        cpu_time=option("cpu_time"),
        quick=False,
        shim=option("mkl_shim"),
    )
    if option("checkout"):
        settings = settings._replace(checkout=option("checkout").resolve())
    if option("quick"):
        settings = settings._replace(
            turns=min(settings.turns, QUICK_TURNS),
            until=time.perf_counter() + QUICK_SECONDS,
            trial_seconds=TRIAL_SECONDS,
        )
    return settings


def group_of(item: Any) -> tuple[Any, ...]:
    """The test of an item, and its parameters but the library."""
    parameters = item.callspec.id.removesuffix(item.callspec.params["library"])
    return item.path, item.originalname, parameters.removesuffix("-")


@pytest.fixture
def race(
    request: pytest.FixtureRequest, benchmark: Any, library: str, contestants: Race
) -> Callable[..., None]:
    """A function that has the libraries of a group take turns,
    and replays those of this one.

    Its arguments are the work's class, the seconds of a turn,
    the operations and rows of a unit, and what the work is made of.
    """
    item: Any = request.node
    items: list[Any] = request.session.items

    def run(
        work: type,
        *,
        seconds: float = 0.2,
        flops: float = 0,
        rows: int = 0,
        **asked: Any,
    ) -> None:
        if why := missing(library):
            pytest.skip(f"{title(library)}: {why}")
        group = group_of(item)
        if group not in contestants.groups:
            present = _selected(items, group)
            name = f"{work.__module__}.{work.__qualname__}"
            contestants.groups[group] = contestants.run(present, name, seconds, asked)
        record = contestants.groups[group][library]
        if reason := record.get("unsupported"):
            pytest.skip(f"{title(library)}: {reason}")
        assert "error" not in record, f"{title(library)}: {record['error']}"
        threads = contestants.settings.threads
        verb = item.originalname.removeprefix("test_").replace("_", " ")
        parameters = group[2]
        work_name = f"{verb} {parameters}".strip()
        benchmark.group = f"{work_name}, {counted(threads)}"
        benchmark.extra_info |= {"verb": verb, "work": parameters, "library": library}
        benchmark.extra_info |= facts(record, threads, flops, rows)
        replay(benchmark, record["seconds"])

    return run


def _selected(items: list[Any], group: tuple[Any, ...]) -> list[str]:
    """The libraries of a group whose tests were selected, and that are installed."""
    names = []
    for item in items:
        if item.get_closest_marker("libraries") and group_of(item) == group:
            name = item.callspec.params["library"]
            if not missing(name):
                names.append(name)
    return names


def facts(record: Record, threads: int, flops: float, rows: int) -> Record:
    """What stands in a benchmark's `extra_info`."""
    turns = sorted(record["seconds"])
    seconds = turns[len(turns) // 2]
    known = {key: value for key, value in record.items() if key != "seconds"}
    known |= {"threads": threads, **machine.stamp()}
    if flops:
        known["gflops"] = 1e-9 * flops / seconds
    if rows:
        known["rows_per_second"] = rows / seconds
    return known


def replay(benchmark: Any, turns: list[float]) -> None:
    """Have each turn be a round."""
    left = iter(turns)

    def advance() -> None:
        _elapsed[0] += next(left)

    _elapsed[0] = 0.0
    benchmark.pedantic(advance, rounds=len(turns), iterations=1)


def pytest_benchmark_update_machine_info(machine_info: Record) -> None:
    machine_info["described"] = machine.describe()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Each group's fastest peer, in turns of the same rounds,
    and what else the machine did.
    """
    session = getattr(config, "_benchmarksession", None)
    if not session or not session.benchmarks:
        return
    timed = [bench.as_dict() for bench in session.benchmarks]
    terminalreporter.section("the time of others over fastmlp's, by rounds")
    for line in pages.summary(timed):
        terminalreporter.write_line(line)
    if _load > BUSY * machine.cores():
        terminalreporter.write_line(
            f"The machine did other work too, of a load of {_load:.1f} as the run "
            "began: times are too long, and ratios uncertain."
        )


def run_of(name: str, workload: Workload, variant: int = 0) -> Any:
    """A contestant's run in one of its variants;
    the test is skipped where there is none.
    """
    if reason := missing(name):
        pytest.skip(reason)
    module = load(name)
    variants = module.VARIANTS[workload.form]
    if variant >= len(variants):
        pytest.skip("no such variant")
    try:
        return module.make(workload, variants[variant])
    except Unsupported as unsupported:
        pytest.skip(str(unsupported))
