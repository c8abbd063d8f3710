"""Two checkouts in turns: their arithmetic, their processes, and a short run of everything."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import checkouts, compare, predictions, steps
from benchmarks.checkouts import Checkout
from benchmarks.conftest import Ours
from benchmarks.output import ROOT


def record(
    before: list[float], after: list[float], errors: list[str] | None = None
) -> Any:
    seconds = [before, after]
    key = {"part": "train", "what": "train 2-4-1@4, 1 thread"}
    return {**key, "seconds": seconds, "errors": errors or []}


@pytest.fixture
def results() -> dict[str, Any]:
    both = [
        {"folder": "/before", "commit": "650fc56"},
        {"folder": "/after", "commit": None},
    ]
    machine = {"date": "2026-01-01", "cpu": "A CPU", "cores": 2, "load": 0.0}
    return {"machine": machine, "checkouts": both, "records": []}


def test_ratios_are_those_of_the_same_round(results: dict[str, Any]) -> None:
    rounds = record([1e-6, 4e-6, 2e-6], [2e-6, 2e-6, 2e-6, 9e-6])
    assert checkouts.ratios(rounds).tolist() == [2, 0.5, 1]
    results["records"] = [rounds, record([1e-6], [4e-6])]
    text = "\n".join(checkouts.lines(results))
    assert "  train 2-4-1@4, 1 thread" in text
    assert re.search(r"us +1.000 +0.500 to 2.000 +2.000", text)
    assert "train      2.000 of 2" in text
    assert "before: /before, 650fc56\nafter: /after, no commit" in text


def test_a_star_marks_who_was_faster_in_every_round() -> None:
    slower, faster = record([1, 1], [1.1, 1.3]), record([1, 1], [0.9, 0.8])
    assert checkouts.cells(slower)[0] == checkouts.cells(faster)[0] == "*"
    assert checkouts.cells(record([1, 1], [0.9, 1.1]))[0] == ""


def test_what_failed_is_told(results: dict[str, Any]) -> None:
    results["records"] = [record([1], [], ["MemoryError: of one"]), record([], [])]
    text = "\n".join(checkouts.lines(results))
    assert "MemoryError: of one" in text
    assert "no result" in text


def test_passes_add_their_turns() -> None:
    known = record([1.0], [2.0])
    checkouts.add(known, record([3.0], [3.0], ["an error"]))
    assert known["seconds"] == [[1, 3], [2, 3]]
    assert known["errors"] == ["an error"]


def copy_of(tmp_path: Path) -> Path:
    """A checkout with the fastmlp of this one, and with benchmarks that cannot run."""
    folder = tmp_path / "checkout"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "__init__.py").write_text(
        "raise ImportError('the wrong benchmarks')"
    )
    (folder / "fastmlp").symlink_to(ROOT / "fastmlp")
    return folder


def test_a_checkout_brings_fastmlp_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTMLP_PREBUILT", "0")
    folder = copy_of(tmp_path)
    checkout = Checkout(folder, tmp_path / "cache", 1)
    try:
        assert checkout.ask("folder") == {"folder": str(folder)}
        assert checkout.title == f"fastmlp of {folder}"
        request = {"workload": "2-4-1@4", "quick": True}
        assert np.isfinite(checkout.ask("make", part="training", **request)["loss"])
    finally:
        checkout.close()
    assert list((tmp_path / "cache").rglob("*.code"))


def test_a_checkout_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    (tmp_path / "fastmlp").mkdir()
    (tmp_path / "fastmlp" / "__init__.py").write_text(
        "raise ImportError('half a checkout')"
    )
    with pytest.raises(SystemExit, match="half a checkout"):
        Checkout(tmp_path, tmp_path / "cache", 1)


def test_a_short_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two checkouts in this process, whose code is compiled."""
    monkeypatch.setattr(checkouts, "Checkout", lambda folder, cache, n_threads: Ours())
    for part in (predictions, steps):
        monkeypatch.setattr(part, "SECONDS", 1e-4)
    folder, kept = copy_of(tmp_path), tmp_path / "all.json"
    words = ["--checkouts", str(ROOT), str(folder), "--smoke", "--threads", "1"]
    words += ["--workloads", "2-4-1@4", "--parts", "train", "predict", "many", "steps"]
    compare.main([*words, "--json", str(kept)])
    text = capsys.readouterr().out
    expected = [
        "train 2-4-1@4",
        "512-10@128, 16, out=",
        "many 32 nets",
        "steps 2-4-1@4, fit",
    ]
    assert [what for what in expected if what not in text] == []
    compare.main(["--from-json", "--json", str(kept)])
    assert capsys.readouterr().out.strip() in text


def test_checkouts_have_more_turns_and_both_numbers_of_threads() -> None:
    options = compare.checked(["--checkouts", str(ROOT)])
    assert (options.repeats, options.passes) == (checkouts.TURNS, checkouts.PASSES)
    assert options.threads[0] == 1
    alone = compare.checked([])
    assert (alone.repeats, alone.passes, len(alone.threads)) == (7, 2, 1)
