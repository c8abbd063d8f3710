"""Work on a cluster beside the same here: a run of little, and the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cluster
from benchmarks.cluster import Work, merged
from benchmarks.conftest import MACHINE, PAGE
from benchmarks.workloads import Array


def little(client: Any, turn: int) -> list[Array]:
    """Train three small nets on 0.8 MB of rows."""
    from fastmlp import MLP, fit_many

    X = np.random.default_rng(turn).normal(size=(10_000, 20)).astype(np.float32)
    made = [MLP((20, 4, 1), seed=i) for i in range(3)]
    fit_many(made, X, X[:, 0], epochs=1, client=client)
    return [net.parameters for net in made]


def test_a_run_of_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(PAGE)
    monkeypatch.setitem(cluster.WORKS, "nets", Work("three nets", little))
    monkeypatch.setattr(cluster, "N_TASKS", 4)
    monkeypatch.setattr(cluster, "PAGE", page)
    words = ["--parts", "nets", "--turns", "1", "--json", str(results), "--pages"]
    cluster.main(words)
    (record,) = json.loads(results.read_text())["records"]
    assert len(record["here"]) == len(record["there"]) == 1
    # Rows are sent once to each worker that asks for them: to one, or to both, in two calls.
    n_bytes = 10_000 * 21 * 4
    assert n_bytes < record["first"][0] + record["again"][0] < 3 * n_bytes
    assert record["first"][1] > 0
    text = capsys.readouterr().out
    assert "| three nets | " in text
    assert "| three nets | " in page.read_text()
    cluster.main(["--from-json", "--json", str(results)])
    assert capsys.readouterr().out == text


def test_runs_of_parts_are_merged_in_order() -> None:
    record: dict[str, Any] = {"here": [2.0, 4.0], "there": [3.0, 5.0], "again": [1, 2]}
    record["first"] = [2_000_000, 100_000]
    now = {"machine": MACHINE, "versions": {"numpy": "2"}, "milliseconds_a_task": 4.0}
    before = {"records": [record | {"name": name, "here": [9.0]} for name in ("table", "nets")]}
    both = merged(before, {**now, "records": [record | {"name": "nets"}]})
    assert [r["name"] for r in both["records"]] == ["nets", "table"]
    text = "\n".join(cluster.lines(both))
    assert f"| {cluster.WORKS['nets'].title} | 2.00 s | 3.00 s | 1.50 | 2.0 | 0.0 | 0.1 |" in text
    assert "A group without work takes 4.0 ms." in text
