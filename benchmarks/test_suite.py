"""The suite itself: its arithmetic, its tables, its picture, and its sleeping contestants."""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    compare,
    estimators,
    gpu,
    grid,
    kinds,
    many,
    peak,
    race,
    scores,
    second,
    training,
)
from benchmarks.conftest import Ours, record, short_race
from benchmarks.output import BEGIN, END, ROOT
from benchmarks.race import HOLDS, Contestant, cores_first, cpu_seconds, environment
from benchmarks.workloads import BY_NAME, MIXED, RECIPES, WORKLOADS
from docs.tools import times


def test_names_are_unique_and_batches_fill_the_rows() -> None:
    assert len(BY_NAME) == len(WORKLOADS + RECIPES + MIXED)
    assert all(w.n_rows == w.n_steps * w.batch for w in WORKLOADS)
    assert all(w.quick().n_rows % w.quick().batch == 0 for w in WORKLOADS)


def test_operations_of_a_step() -> None:
    # Forward and gradient of both layers, delta of the second: 2 a weight and row each.
    assert BY_NAME["2-4-1@4"].flops == 2 * 4 * (2 * 8 + 2 * 4 + 4)


def test_ratios_are_those_of_interleaved_repeats(results: dict[str, Any]) -> None:
    won, lost = training.heats(results)
    assert won.fastest_peer and lost.fastest_peer and lost.ours  # noqa: PT018
    assert won.fastest_peer.contestant == "jax"
    assert won.fastest_peer.ratio == pytest.approx((4, 4, 4))
    assert lost.fastest_peer.ratio == pytest.approx((0.25, 0.25, 0.25))
    assert lost.absent == [("sklearn", "has no such rule")]
    assert lost.ours.percent_of_peak == pytest.approx(
        100 * lost.workload.flops / 4e-4 / 200e9, rel=1e-6
    )
    means = training.geometric_means([won, lost], 2)
    assert means["fastest peer"] == pytest.approx((1, 2))
    assert [*means] == ["jax", "fastest peer"]


def test_the_fastest_peer_is_that_of_the_same_rounds(results: dict[str, Any]) -> None:
    heat = training.heats(results)[0]
    (jax,) = [s for s in heat.scores if s.contestant == "jax"]
    # Its median is of slower rounds.
    near = jax._replace(
        contestant="torch",
        us=scores.Quartiles(*(10 * x for x in jax.us)),
        ratio=scores.Quartiles(*(x / 2 for x in jax.ratio)),
    )
    assert heat.ours is not None
    both = heat._replace(scores=[heat.ours, jax, near])
    assert both.fastest_peer == near
    assert heat._replace(scores=[near, jax]).fastest_peer == jax


def test_records_are_grouped_in_their_order() -> None:
    records = [{"a": 2, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 3}]
    assert [*scores.grouped(records, "a").items()] == [
        (2, records[::2]),
        (1, records[1:2]),
    ]
    assert scores.grouped(records, "a", "b")[2, 3] == records[2:]


def test_report_marks_the_fastest_peer_and_shows_losses(
    results: dict[str, Any],
) -> None:
    text = "\n".join(compare.all_lines(results))
    assert len(re.findall(r"^\* +JAX", text, flags=re.MULTILINE)) == 2
    assert "0.25" in text
    assert "scikit-learn - has no such rule" in text
    assert "ONNX Runtime: not installed: onnx" in text


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """README and the page of the figures of all kinds, in another folder."""
    readme, tables = tmp_path / "README.md", tmp_path / "benchmarks.md"
    slow = f"{BEGIN}\n{END}\n".replace("benchmarks", "slow")
    for path, text in ((readme, "before\n"), (tables, slow)):
        path.write_text(f"{text}{BEGIN}\nold\n{END}\nafter\n")
    parts = [
        p._replace(page=tables if p.page == training.PAGE else None)
        for p in compare.PARTS
    ]
    monkeypatch.setattr(compare, "PARTS", tuple(parts))
    monkeypatch.setattr(training, "PAGE", tables)
    monkeypatch.setattr(kinds, "README", readme)
    monkeypatch.setattr(kinds, "FOLDER", tmp_path)
    monkeypatch.setattr(times, "PICTURE", tmp_path / "times.svg")
    return readme, tables


def test_pages_are_rewritten_between_their_markers(
    results: dict[str, Any], places: tuple[Path, Path]
) -> None:
    readme, tables = places
    for _ in range(2):
        compare.rewrite(results)
    for path in places:
        text = path.read_text()
        assert text.endswith("\nafter\n")
        assert "old" not in text
    assert (
        "AVX2 the fastest other library takes 1.00 times as long per"
        in readme.read_text()
    )
    assert "over 2 nets (JAX 1.00)" in readme.read_text()
    assert (
        "\nMeasured with fastmlp 0.1.0, 2026-01-01, 2 cores of A CPU."
        in readme.read_text()
    )
    assert "**0.25x** (0.25 to 0.25), JAX" in text
    assert text.count("geometric mean") == text.count("Measured on") == 1
    compare.rewrite({**results, "mkl_shim": True})
    sentence = "(`--mkl-shim`): its sgemm ran at nan GFLOP/s, NumPy's at 190, of 200."
    assert sentence in tables.read_text()
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="once each"):
        compare.rewrite(results)


def test_a_run_replaces_its_parts_of_its_own_kind(
    results: dict[str, Any], places: tuple[Path, Path]
) -> None:
    readme, tables = places
    compare.rewrite(results)
    wide = {**results, "machine": {**results["machine"], "cpu": "B CPU, AVX-512"}}
    compare.rewrite({**wide, "training": []})
    text = tables.read_text()
    assert (
        text.index("## With AVX2") < text.index("## With AVX-512") < text.index("B CPU")
    )
    assert (
        "- **Training steps, 2 threads, AVX2**: 1 of 2: 0.25 (JAX, 784-128-10@128)."
        in text
    )
    assert "- **Predictions by 16-64-64-2, 2 threads, AVX-512**: 0 of 1." in text
    assert "AVX-512" not in readme.read_text()
    compare.rewrite({**results, "predictions": [], "training": results["training"][:3]})
    assert "over 1 nets (JAX 4.00" in readme.read_text()
    assert (
        "- **Predictions by 16-64-64-2, 2 threads, AVX2**: 0 of 1."
        in tables.read_text()
    )
    assert times.PICTURE.read_text().count("<rect") == 5


def test_pages_have_the_figures_that_are_kept() -> None:
    figures, texts = kinds.kept(), (training.PAGE.read_text(), kinds.README.read_text())
    assert [*figures] == [*kinds.KINDS]
    for lines, text in zip((kinds.page, kinds.sentences), texts, strict=True):
        inside = text.split(BEGIN)[1].split(END)[0].split("\n")
        shown = "\n".join(lines(figures)).split("\n")
        assert inside[1:-1] == [line.rstrip() for line in shown]
    assert "\n".join(kinds.slow(figures)) in texts[0]


def test_a_run_adds_to_one_of_the_same_code(results: dict[str, Any]) -> None:
    old = {**compare.empty(), **results}
    again = [{**r, "step_seconds": [1.0]} for r in results["training"][:1]]
    new = {**old, "training": again, "predictions": []}
    both = compare.joined(old, new)
    assert [*both["training"][-1]["step_seconds"]] == [1.0]
    assert len(both["training"]) == len(old["training"])
    assert both["predictions"] == old["predictions"]
    other = {**new, "machine": {**old["machine"], "fastmlp": "0.2.0"}}
    assert compare.joined(old, other) is other


def test_peak_is_a_plausible_number() -> None:
    assert 1 < peak.peak("float32", 1, seconds=0.001) < 1000


def test_workloads_are_chosen_by_parts_of_their_names() -> None:
    assert [w.name for w in compare.chosen_workloads(["17-64"])] == ["17-64-64-6@64"]
    with pytest.raises(SystemExit, match="no such workload"):
        compare.chosen_workloads(["no net"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_contestants_sleep_until_they_are_asked() -> None:
    contestant = Contestant("numpy", 1)
    try:
        request = {"part": "training", "quick": True}
        reply = contestant.ask("make", workload="2-4-1@4", **request)
        assert reply["variant"] == "loop"
        before = cpu_seconds(contestant.process.pid)
        time.sleep(0.2)
        assert cpu_seconds(contestant.process.pid) == before
        assert contestant.ask("turn", n=2)["seconds"] > 0
        assert contestant.idle_cpu == 0
        wrong = contestant.ask("make", workload="?", **request)
        assert "KeyError" in wrong["error"]
    finally:
        contestant.close()
    assert contestant.ask("about") == {"error": "its process has ended"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from-json", "needs --json"),
        ("--from-json --json nowhere.json", "no file nowhere.json"),
        ("--json nowhere/all.json", "no folder nowhere"),
        ("--threads 0", "from 1 to"),
        ("--threads 100000", "from 1 to"),
        ("--repeats 0", "--repeats must be above 0"),
        ("--minutes -1", "--minutes must be above 0"),
        ("--checkouts . . .", "one folder or two"),
        ("--checkouts nowhere", "no fastmlp in nowhere"),
        ("--checkouts . --peers jax", "--peers does not go with"),
        ("--checkouts . --mkl-shim", "--mkl-shim does not go with"),
        ("--checkouts . --turns 0", "--repeats must be above 0"),
    ],
)
def test_wrong_arguments_are_told_at_once(
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        compare.main(words.split())
    assert message in capsys.readouterr().err


def test_what_was_measured_before_an_interruption_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def race_until(
        options: Any, parts: Any, contestants: Any, results: dict[str, Any]
    ) -> None:
        results["training"].append(record("fastmlp", "2-4-1@4", [1e-6]))
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "start", lambda names, options: short_race())
    monkeypatch.setattr(compare, "_race", race_until)
    path = tmp_path / "all.json"
    with pytest.raises(SystemExit, match="interrupted"):
        compare.main(["--json", str(path), "--pages"])
    assert len(json.loads(path.read_text())["training"]) == 1
    assert "2-4-1@4" in capsys.readouterr().out


def test_a_second_pass_goes_on_with_the_first_ones_variant() -> None:
    class Failing(Ours):
        def make(self, part: str, **request: Any) -> dict[str, Any]:
            return {"unsupported": "predicts only"}

    race, workload = short_race(Ours(), Failing()), BY_NAME["8-32-32-1@32"]
    race.contestants[1].name = "another"
    entries = [(contestant, workload) for contestant in race.contestants]
    records = race.train(entries)
    first = {**records[0]}
    again = race.train(entries, records)
    assert [len(r["step_seconds"]) for r in again] == [4, 0]
    assert {**again[0], "step_seconds": []} == {**first, "step_seconds": []}
    assert again[1].keys() & {"error", "unsupported"}


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


def test_estimators_are_compared_turn_by_turn() -> None:
    same = {"data_set": "digits", "dtype": "float64", "threads": 2}
    times = {"fastmlp": [1.0, 2.0, 1.0], "sklearn": [5.0, 8.0, 7.0]}
    records = [
        same | {"what": what, "contestant": name, "seconds": seconds}
        for what in ("defaults", "predict 1")
        for name, seconds in times.items()
    ]
    text = "\n".join(estimators.lines({"estimators": records}))
    assert re.search(r"1e\+03 +5.00x +4.50 to 6.00", text)
    assert "predict 1: median 5.00x, least 5.00x, below 1 in 0 of 1" in text
    assert not list(estimators.lines({"estimators": []}))


def test_both_estimators_take_the_same_epochs() -> None:
    settings = {**estimators.CONFIGURATIONS["early stopping"], "max_iter": 15}
    ours, theirs = (
        estimators.fitted(name, "diabetes", "float64", settings)
        for name in estimators.LIBRARIES
    )
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-9)


def sweep_record(name: str, contestant: str, seconds: list[float]) -> dict[str, Any]:
    key = {"sweep": name, "contestant": contestant, "threads": 2, "seconds": seconds}
    return {**key, "first_seconds": 9.0, "loss": 0.5, "one_thread": [], "alone": []}


def test_many_nets_are_compared_and_told(results: dict[str, Any]) -> None:
    ours = sweep_record("32 nets", "fastmlp", [0.32, 0.16, 0.32])
    ours |= {"one_thread": [0.304], "alone": [0.008]}
    lost = {**sweep_record("32 nets", "torch", []), "error": "no memory"}
    jax = {**sweep_record("32 nets", "jax", [1.6, 1.6, 1.6]), "way": "vmap"}
    search = {"seconds": 2.0, "scores": [[0.5, 0.6]] * grid.FOLDS, "best": {"alpha": 1}}
    slow = {**search, "seconds": 30.0, "scores": [[0.5, 0.7]] * grid.FOLDS}
    results["many"] = {
        "sweeps": [ours, jax, lost],
        "grids": [{"threads": 2, "quick": False, "fastmlp": search, "sklearn": slow}],
    }
    assert "32 nets: PyTorch: no memory" in "\n".join(compare.all_lines(results))
    text = "\n".join(many.table(results, 2))
    assert (
        "Many nets"
        in dict(kinds.digest(results, [many.PART], ""))["many"]["groups"][0][0]
    )
    assert "| JAX, vmap | 50 | 7 % | 5.00x |" in text
    assert "own fit on one: 1.25; 2 threads over one: 1.90x" in text
    assert "15.00x; 5 scores differ." in text
    assert not list(many.table(compare.empty(), 2))


def test_second_order_fits_are_told(results: dict[str, Any]) -> None:
    key = {"target": "like MGH17, 1-4-1", "seed": 10, "seconds": 0.02}
    fits: list[dict[str, Any]] = [{**key, "peer": "torch", "error": "it ended"}]
    for peer in ("lm", "adam"):
        reply = Ours().ask(
            "make", part="second", what="fit", quick=True, peer=peer, **key
        )
        fits.append({**key, "peer": peer, **reply["result"]})
    results["second"] = {"fits": fits, "kernels": [{"error": "no SciPy"}]}
    assert "like MGH17, 1-4-1: PyTorch: it ended" in "\n".join(
        compare.all_lines(results)
    )
    text = compare.pages(results)[second.PAGE]
    assert (
        f"| like MGH17, 1-4-1 | {fits[1]['test']:.1e} | nan | {fits[2]['test']:.1e} |"
        in text
    )
    assert "LAPACK" not in text


WAYS = [
    ("jax", "32 nets", "vmap"),
    ("jax", "32 nets", "a net on each core"),
    ("jax", "1,000 nets", "vmap"),
    ("jax", "1,000 nets", "a net on each core"),
    ("torch", "32 nets", None),
    ("sklearn", "32 nets", None),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "sweep", "way"), WAYS)
def test_many_nets_of_all_end_in_the_same_place(
    name: str, sweep: str, way: str | None
) -> None:
    pytest.importorskip(name)
    theirs = many.make(name, sweep, True, **({"way": way} if way else {}))
    ours = many.make("fastmlp", sweep, True)
    for nets in (ours, theirs):
        nets.train(1, shuffle=False)
    if name == "sklearn":  # it draws its own start
        assert theirs.losses == pytest.approx(ours.losses, rel=0.2)
        return
    errors = np.abs(ours.parameters() - theirs.parameters())
    assert errors.shape == ours.parameters().shape
    # In float32 Adam makes whole steps, of either sign, of a gradient that is rounding noise.
    assert np.quantile(errors, 0.99) < 3e-4
    assert [way for way in many.ways(name) if way] == [
        w for n, s, w in WAYS if n == name and w
    ][:2]
    if sweep == "32 nets":  # fastmlp's losses have the penalty in them
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)


def test_both_searches_find_the_same() -> None:
    workers = (race.Worker(name) for name in ("fastmlp", "sklearn"))
    ours, theirs = (
        grid.Work(worker, quick=True).turn(quick=True) for worker in workers
    )
    assert ours["best"] == theirs["best"]
    assert np.allclose(ours["scores"], theirs["scores"])


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
