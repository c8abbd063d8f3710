"""benchmarks.gpu in the simulator, so that its first run on a GPU does not fail."""

import json
from typing import Any

import pytest

from benchmarks import gpu

LOAD = gpu.Load((2, 2, 1), 1, "tanh")


def test_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARITY_STEPS", 1)
    report = gpu.parity([LOAD])
    held = [(row["dtype"], row["held"]) for row in report]
    assert held == [("float32", True), ("float64", True)]
    assert all(json.dumps(row) for row in report)


def test_contestants_train() -> None:
    for load in (LOAD, LOAD._replace(n_nets=2)):
        ours = [make for name, make in gpu.contestants(load).items() if "fastmlp" in name]
        for make in ours:
            make()(1)


def test_what_must_hold_stands_beside_what_was_measured() -> None:
    parity: list[Any] = [[{"net": "a", "dtype": "float32", "held": True}]]
    parity += [[{"net": "b", "dtype": "float32", "error": "KeyError()"}]]
    races: list[Any] = [{"net": "a", "wanted": {"times a graph": 3.0}, "held": False}, {}]
    sanitizer: list[Any] = [{"memcheck": {"held": True}}]
    assert gpu.verdicts({"parity": parity, "races": races, "sanitizer": sanitizer}) == {
        "parity: a, float32": True,
        "parity: b, float32": None,
        "race: a": False,
        "memcheck": True,
        "racecheck": None,
    }


def test_a_race_is_held_where_a_graph_is_that_much_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(make: Any, seconds: float) -> Any:
        return {"median": make()}

    monkeypatch.setattr(gpu, "timed", timed)
    times = {"fastmlp": 1.0, "PyTorch, eager": 0.1}
    graphs = {"PyTorch, graph of a step": 4.0, "PyTorch, graph of an epoch": 3.0}
    made = {name: lambda seconds=seconds: seconds for name, seconds in (times | graphs).items()}
    monkeypatch.setattr(gpu, "contestants", lambda load: made)
    for wanted, held in ((3.0, True), (3.1, False), (None, True)):
        report = gpu.race(LOAD._replace(wanted=wanted), 1.0)
        assert (report["times a graph"], report["held"]) == (3.0, held)
