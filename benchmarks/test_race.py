"""The harness: sleeping contestants, turns that are rounds,
another checkout, and a quick run.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import QUICK
from benchmarks.output import ROOT
from benchmarks.race import (
    HOLDS,
    OVER,
    Contestant,
    Race,
    Settings,
    Worker,
    calls_in,
    cores_first,
    cpu_seconds,
    environment,
)
from benchmarks.workloads import BY_NAME, MIXED, RECIPES, WORKLOADS

WORK = "benchmarks.bench_train.Work"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "benchmarks"]


def called(*words: str) -> str:
    """What a run of benchmarks prints."""
    command = [*PYTEST, "--benchmark-only", *words]
    settings = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_names_are_unique_and_batches_fill_the_rows() -> None:
    assert len(BY_NAME) == len(WORKLOADS + RECIPES + MIXED)
    assert all(w.n_rows == w.n_steps * w.batch for w in WORKLOADS)
    assert all(w.quick().n_rows % w.quick().batch == 0 for w in WORKLOADS)


def test_operations_of_a_step() -> None:
    # Forward and gradient of both layers, delta of the second: 2 a weight and row each.
    assert BY_NAME["2-4-1@4"].flops == 2 * 4 * (2 * 8 + 2 * 4 + 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_contestants_sleep_until_they_are_asked() -> None:
    contestant = Contestant("numpy", 1)
    request = {"key": "numpy", "work": WORK, "seconds": 0.01, "quick": True}
    try:
        assert contestant.ask("make", workload="2-4-1@4", **request)["way"] == "loop"
        before = cpu_seconds(contestant.process.pid)
        time.sleep(0.2)
        assert cpu_seconds(contestant.process.pid) == before
        assert contestant.ask("turn", key="numpy")["seconds"] > 0
        assert contestant.idle_cpu == 0
        wrong = contestant.ask("make", workload="?", **request)
        assert "KeyError" in wrong["error"]
    finally:
        contestant.close()
    assert contestant.ask("about") == {"error": "its process has ended"}


def test_contestants_choose_their_kernels_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*HOLDS, "KEPT"):
        monkeypatch.setenv(name, "Haswell")
    assert environment(2)["KEPT"] == "Haswell"
    assert not set(HOLDS) & set(environment(2))


def test_each_core_comes_before_the_second_thread_of_one() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert sorted(cores_first()) == sorted(os.sched_getaffinity(0))


def test_a_turn_has_as_many_calls_as_its_seconds_allow() -> None:
    asked: list[int] = []

    def turn(calls: int) -> float:
        """A millisecond a call, and a tenth of a second for the first."""
        asked.append(calls)
        return 1e-3 * calls + (0.1 if len(asked) == 1 else 0)

    assert calls_in(turn, 0.5) == 500
    assert asked[0] == 1
    assert max(asked) >= 500 / 8
    assert calls_in(lambda calls: 2.0 * calls, 0.5) == 1


def test_a_work_that_is_not_made_says_why() -> None:
    with closing(Race(Settings())) as race:
        records = race.run(["fastmlp", "onnx"], WORK, 0.1, {"workload": "2-4-1@4"})
    assert len(records["fastmlp"]["seconds"]) == 1
    assert records["onnx"].keys() & {"error", "unsupported"}
    with closing(Race(Settings(until=-1.0))) as race:
        late = race.run(["fastmlp"], WORK, 0.1, {})
    assert late == {"fastmlp": {"unsupported": OVER}}


def test_further_variants_are_tried_within_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    class Module:
        VARIANTS = {"plain": ("first", "second")}  # noqa: RUF012

        @staticmethod
        def make(net: Any, variant: str) -> Any:
            made.append(variant)
            return worker.fit.make(net)

    worker: Any = Worker("fastmlp")
    worker.fit = worker.module
    worker.module = Module
    request = {"key": "", "work": WORK, "seconds": 0, "quick": False}
    for seconds, tried in ((np.inf, ["first", "second"]), (0.0, ["first"])):
        made.clear()
        worker.settle(False, seconds)
        worker.make(workload="2-4-1@4", **request)
        assert made == tried


@pytest.mark.slow
def test_turns_are_rounds_of_pytest_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    chosen = "test_train and 2-4-1 and (fastmlp or numpy)"
    few = ["--threads", "1", "--turns", "2", "--benchmark-json", str(file)]
    text = called("-k", chosen, *few)
    assert "train 2-4-1@4, 1 thread: fastmlp" in text
    ours, theirs = json.loads(file.read_text())["benchmarks"]
    assert ours["group"] == theirs["group"] == "train 2-4-1@4, 1 thread"
    assert len(ours["stats"]["data"]) == ours["stats"]["rounds"] == 2
    assert 0 < ours["stats"]["max"] < theirs["stats"]["min"] < 1
    facts = ours["extra_info"]
    assert facts["gflops"] > 0
    assert facts["rows_per_second"] == pytest.approx(
        4 / ours["stats"]["data"][0], rel=1
    )
    assert facts.keys() >= {"steps", "loss", "version", "processor", "threads"}
    assert "(" in facts["fastmlp"] or facts["fastmlp"]


@pytest.mark.slow
def test_a_checkout_brings_fastmlp_alone(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise ImportError('wrong')")
    (tmp_path / "fastmlp").symlink_to(ROOT / "fastmlp")
    few = ["--threads", "1", "--turns", "2", "--checkout", str(tmp_path)]
    text = called("-k", "test_train and 2-4-1", *few)
    assert "train 2-4-1@4, 1 thread: fastmlp" in text
    assert "us; fastmlp before" in text
    assert "2 passed" in text


def test_a_checkout_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    (tmp_path / "fastmlp").mkdir()
    broken = "raise ImportError('half a checkout')"
    (tmp_path / "fastmlp" / "__init__.py").write_text(broken)
    settings = Settings(quick=False, checkout=tmp_path)
    error = pytest.raises(SystemExit, match="half a checkout")
    with closing(Race(settings)) as race, error:
        race.contestant("before")


@pytest.mark.slow
def test_a_quick_run_names_what_there_is() -> None:
    text = called("--quick", "--collect-only", "-q")
    assert [name for name in QUICK if f"::{name}" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "--threads: from 1 to"),
        (["--turns", "0"], "--turns must be above 0"),
        (["--checkout", "nowhere"], "there is no fastmlp in nowhere"),
    ],
)
def test_wrong_options_are_told(words: list[str], message: str) -> None:
    done = subprocess.run([*PYTEST, *words], cwd=ROOT, capture_output=True, text=True)
    assert message in done.stderr
