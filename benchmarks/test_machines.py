"""One net over two processes: the contestants do the same; the report and the page."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, machines
from benchmarks.conftest import short_race
from benchmarks.machines import BY_NAME, OURS, SHARED, TORCH

SMALL = next(iter(BY_NAME))


def turn(*seconds: float, way: str = "fit") -> dict[str, Any]:
    return {"way": way, "step_seconds": list(seconds)}


def with_machines(results: dict[str, Any]) -> dict[str, Any]:
    """Results of one workload, in which one contestant could not take part."""
    results["machines"] = [
        {
            "workload": SMALL,
            "contestant": OURS,
            "turns": [turn(2e-3, 9e-3), turn(2e-3)],
        },
        {"workload": SMALL, "contestant": SHARED, "turns": [turn(1e-3), turn(1e-3)]},
        {
            "workload": SMALL,
            "contestant": TORCH,
            "turns": [turn(4e-3, way="DDP"), turn(6e-3)],
        },
        {
            "workload": "other",
            "contestant": TORCH,
            "turns": [],
            "unsupported": "not installed",
        },
    ]
    return results


def test_ratios_are_of_turns(results: dict[str, Any]) -> None:
    findings = machines.findings(with_machines(results))[SMALL]
    assert findings[OURS].steps_a_second == pytest.approx(500)
    medians = [findings[name].ratio.median for name in (OURS, SHARED, TORCH)]
    assert medians == pytest.approx([2.5, 5, 1])


def test_what_is_told(results: dict[str, Any]) -> None:
    text = "\n".join(compare.all_lines(with_machines(results)))
    assert "other: PyTorch, TCP: not installed" in text
    text = compare.pages(with_machines(results))[machines.PAGE]
    ours = "500: **2.50x** (2.25 to 2.75)"
    assert f"| {SMALL} | 200 | {ours} | 1,000: **5.00x** (4.50 to 5.50) |" in text
    assert f"DDP ({SMALL})" in text


def test_shares_are_all_rows() -> None:
    load = BY_NAME[SMALL].quick()
    shares = [machines.share(load, rank, 2) for rank in range(2)]
    for part, whole in zip(zip(*shares, strict=True), load.data(), strict=True):
        assert np.array_equal(np.concatenate(part), whole)


def test_contestants_train_the_same_net() -> None:
    """An epoch in the order of the rows leaves all with the same parameters."""
    workload, samples = "784-128-10@1024", {}
    for name in machines.CONTESTANTS:
        if reason := machines.missing(name):
            pytest.skip(f"{name}: {reason}")
    for name in machines.CONTESTANTS:
        reply = machines.run(name, workload, quick=True)
        assert reply.get("error") is None
        samples[name] = np.array(reply["sample"])
        assert all(seconds > 0 for seconds in reply["step_seconds"])
    assert np.array_equal(samples[OURS], samples[SHARED])
    np.testing.assert_allclose(samples[OURS], samples[TORCH], rtol=1e-3, atol=1e-4)


def test_who_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    named = [SimpleNamespace(name=name) for name in ("fastmlp", "torch")]
    records = machines.measure(short_race(*named), [])
    assert {record["unsupported"] for record in records} == {
        "not installed: mpi4py",
        "not installed: torch",
    }
    monkeypatch.setattr(machines, "find_spec", lambda name: name)
    monkeypatch.setattr(machines, "mpiexec", lambda: None)
    assert machines.missing(OURS) == "there is no mpiexec"
    assert machines.missing(TORCH) is None
