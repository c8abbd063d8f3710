"""A visitor's run: what it compares, what it leaves out, and that it changes no page of ours."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import compare, training, yours
from benchmarks.conftest import Ours, short_race
from benchmarks.output import BEGIN, DOCS, END, ROOT
from benchmarks.peers import load
from benchmarks.race import OVER
from benchmarks.workloads import BY_NAME


@pytest.fixture
def visit(results: dict[str, Any]) -> dict[str, Any]:
    """A run of fastmlp, JAX and PyTorch, in which the estimators were begun too late."""
    task = {"what": "lbfgs", "data_set": "digits", "dtype": "float64", "threads": 2}
    late = {**task, "contestant": "sklearn", "seconds": []}
    starts = {"fastmlp": (2.0, 0.45), "jax": (0.1, 0.1), "numpy": (0.01, 0.01)}
    cold = [
        {"contestant": name, "empty": [[empty, 1, 100]], "again": [[again, 1, 100]]}
        for name, (empty, again) in starts.items()
    ]
    changes = {"cold_starts": cold, "estimators": [{**late, "unsupported": OVER}]}
    end = {"visit": True, "idle_cpu": 0.0, "seconds": 100.0}
    return {**compare.empty(), **results, **changes, **end}


def test_nets_are_named_one_by_one() -> None:
    for name in yours.NETS:
        assert [w for w in BY_NAME if name in w and BY_NAME[w].form == "plain"] == [
            name
        ]


def test_a_run_compares_with_the_fastest_peer(visit: dict[str, Any]) -> None:
    by_what = yours.comparisons(visit)
    won, lost, empty, again, _ = map(yours.cells, by_what.values())
    assert (won, lost[1:]) == (("20 us", "JAX", "4.00x"), ("JAX", "**0.25x**"))
    assert "Predictions by 16-64-64-2: 1 row" in by_what
    assert (empty[2], again) == ("**0.05x**", ("450 ms", "JAX", "**0.22x**"))


def test_a_page_has_losses_and_what_was_left_out(visit: dict[str, Any]) -> None:
    text = "\n".join(yours.lines(visit))
    assert (
        "Left out: ONNX Runtime (not installed: onnx); of the part `estimators`" in text
    )
    assert re.search(
        r"in [12] of 5 comparisons, and less time in [34], in bold: .*784-128-10", text
    )
    assert "| Training steps: 784-128-10@128 | 400 us | JAX | **0.25x** |" in text
    assert "other work" not in text
    visit["machine"]["load"] = 3.0
    assert "load of 3.0" in "\n".join(yours.lines(visit))


def test_figures_stand_beside_ours(visit: dict[str, Any]) -> None:
    fewer = {**visit, "cold_starts": []}
    text = "\n".join(yours.lines(visit, fewer))
    assert (
        "| Training steps: 784-128-10@128 | 400 us | JAX | **0.25x** | 400 us | JAX | **0.25x** |"
        in text
    )
    assert re.search(r"process: compiled before \|.* - \| - \| - \|", text)


def test_a_visitor_changes_no_page(
    visit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        path: path.read_bytes() for path in [*DOCS.glob("*.md"), ROOT / "README.md"]
    }
    page, kept = tmp_path / "page.md", tmp_path / "quick.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(yours, "PAGE", page)
    monkeypatch.setattr(yours, "ROOT", tmp_path)
    monkeypatch.setattr(yours, "OURS", kept)
    monkeypatch.setattr(yours, "YOURS", tmp_path / "yours.md")
    monkeypatch.setattr(compare, "measure", lambda options: visit)
    compare.main(["--quick", "--pages"])
    assert "Ours:" not in yours.YOURS.read_text()
    compare.main(["--quick", "--pages", "--json", str(kept)])
    assert "784-128-10@128" in page.read_text()
    assert json.loads(kept.read_text()) == visit
    compare.main(["--quick", "--pages"])
    text = yours.YOURS.read_text()
    assert text.startswith(yours.TITLE)
    assert "fastest peer, ours" in text
    assert "Ours: Measured on 2026-01-01" in text
    assert before == {path: path.read_bytes() for path in before}


def test_a_quick_run_has_parts_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    options = compare.checked(["--quick"])
    assert options.parts == ["train", "cold", "predict", "estimators"]
    assert (options.repeats, options.passes, options.minutes) == (5, 1, 0.6)
    assert compare.checked(["--quick", "--workloads", "2-4-1"]).workloads == ["2-4-1"]
    assert compare.checked([]).parts == compare.NAMES
    with pytest.raises(SystemExit):
        compare.checked(["--quick", "--parts", "many"])
    assert "--quick has no many" in capsys.readouterr().err


def test_no_work_begins_when_the_time_is_over() -> None:
    race = short_race(Ours(), names=["2-4-1@4"])._replace(until=-math.inf)
    (late,) = training.measure(race, [])
    assert (late["step_seconds"], late["unsupported"]) == ([], OVER)
    (record,) = race.ways("predictions", 0.01, n_rows=1)
    assert record["unsupported"] == OVER


def test_further_variants_are_tried_within_the_time() -> None:
    def make(workload: Any, variant: str) -> Any:
        return load("fastmlp").make(workload, "fit")

    worker = Ours()
    worker.module = SimpleNamespace(VARIANTS={"plain": ("first", "second")}, make=make)
    for seconds, tried in ((math.inf, ["first", "second"]), (0.0, ["first"])):
        worker.make("training", workload="2-4-1@4", quick=False, trial_seconds=seconds)
        assert [*worker.work.about["tried"]] == tried
