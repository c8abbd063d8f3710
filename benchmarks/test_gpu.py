"""Benchmarks on a card: what must hold, and a run without one."""

from typing import Any

import pytest

from benchmarks import gpu


def test_what_must_hold_on_a_card_stands_beside_what_was_measured() -> None:
    parity: list[Any] = [[{"net": "a", "dtype": "float32", "held": True}]]
    parity += [[{"net": "b", "dtype": "float32", "error": "KeyError()"}]]
    races: list[Any] = [
        {"net": "a", "wanted": {"times a graph": 3.0}, "held": False},
        {},
    ]
    sanitizer: list[Any] = [{"memcheck": {"held": True}}]
    assert gpu.verdicts({"parity": parity, "races": races, "sanitizer": sanitizer}) == {
        "parity: a, float32": True,
        "parity: b, float32": None,
        "race: a": False,
        "memcheck": True,
        "racecheck": None,
    }


def test_a_race_is_held_where_a_graph_is_that_much_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "timed", lambda make, seconds: {"median": make()})
    times = {"fastmlp": 1.0, "PyTorch, eager": 0.1}
    graphs = {"PyTorch, graph of a step": 4.0, "PyTorch, graph of an epoch": 3.0}
    made = {
        name: lambda seconds=seconds: seconds
        for name, seconds in (times | graphs).items()
    }
    monkeypatch.setattr(gpu, "contestants", lambda load: made)
    for wanted, held in ((3.0, True), (3.1, False), (None, True)):
        report = gpu.race(gpu.Load((2, 2, 1), 1, "tanh", wanted=wanted), 1.0)
        assert (report["times a graph"], report["held"]) == (3.0, held)


def test_without_a_card_a_run_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastmlp.backends.cuda.device.installed", lambda: False)
    assert gpu.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("benchmarks.gpu: ")
    assert printed.err.count("\n") == 1
