"""Mixed precision: all contestants round the same operands; the report and the page."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, bfloat16, compare, mixed, peak
from benchmarks.conftest import MACHINE, Ours, record, run_of, short_race
from benchmarks.peers import PEERS
from benchmarks.workloads import BY_NAME, MIXED, Rule, Workload, flat

NET = Workload((96, 128, 64, 6), 32, 320, "tanh", "cross_entropy", Rule("sgd", 0.01))
NAME = "32-256-256-10@256"
NAMES = [name for name, peer in PEERS.items() if "mixed" in peer.forms and name != "fastmlp"]
PARAMETERS = [(name, i) for name in NAMES for i in range(4)]


def change(name: str, variant: int, precision: str | None) -> Any:
    """The change of the parameters by ten steps."""
    run = run_of(name, NET._replace(compute_dtype=precision), variant)
    run.steps(10)
    assert np.isfinite(run.loss())
    return run.parameters() - flat(NET.start())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_ten_steps_are_those_of_float32_but_for_rounding(name: str, variant: int) -> None:
    plain, ours = change("fastmlp", 0, None), change("fastmlp", 0, "bfloat16")
    size = np.linalg.norm(plain)
    assert 1e-3 < np.linalg.norm(ours - plain) / size < 0.01
    theirs = change(name, variant, "bfloat16")
    error = np.linalg.norm(theirs - plain) / size
    print(f"{PEERS[name].title}, variant {variant}: {error:.1e}")
    assert error < 0.01


def with_mixed(results: dict[str, Any]) -> dict[str, Any]:
    """Results of a net on which PyTorch in bfloat16 is the fastest peer."""
    half = f"{NAME} in bfloat16"
    results["mixed"] = {
        "training": [
            record("fastmlp", NAME, [3e-3] * 3),
            record("torch", NAME, [6e-3] * 3),
            record("fastmlp", half, [2e-3] * 3),
            record("torch", half, [2.5e-3] * 3),
            {**record("jax", half, []), "error": "it ended"},
        ],
        "kernels": ["matmul, brg_matmul:avx512_core_bf16, src:bf16 wei:bf16 dst:bf16"],
    }
    peaks = results["peaks"]
    peaks.append({"contestant": "fastmlp", "threads": 2, "what": "fma bfloat16", "gflops": 400.0})
    return results


def test_nets_in_mixed_precision_are_told(results: dict[str, Any]) -> None:
    text = "\n".join(compare.all_lines(with_mixed(results)))
    assert f"{NAME} in bfloat16: JAX: it ended" in text
    page = compare.pages(results, None)[mixed.PAGE]
    text = "\n".join(mixed.table(results, 2))
    assert text in page
    share = BY_NAME[NAME].flops / 2e-3 / 400e9
    assert (
        f"| {NAME} | 3 | 2 | {share:.0%}, aim 74% | **1.50x** (1.50 to 1.50); 1.50x | 1.15x | "
        in text
    )
    assert "**1.25x** (1.25 to 1.25); 1.25x, PyTorch, bfloat16 | - |" in text
    assert f"| {NAME} | - | - | - | - | 1.25x | 3.00x |" in text
    assert f"| {NAME} | 0.500, 0.500 | -, - | -, - | 0.500, 0.500 |" in text
    assert "    matmul, brg_matmul" in text
    again = mixed.chosen(results)["training"]
    assert [r["step_seconds"] for r in again] == [[]] * 5
    results["mixed"] = {}
    assert not list(mixed.table(results, 2))


def test_nets_have_aims_and_are_float32s() -> None:
    assert {mixed.plain(workload).name for workload in MIXED} == set(mixed.AIMS)
    assert all(BY_NAME[w.name] is w and mixed.plain(w).name in BY_NAME for w in MIXED)


def test_turns_of_little() -> None:
    race = short_race(Ours(), names=[NAME])._replace(twins=[Ours()])
    again = mixed.measure(race, mixed.measure(race, {}))
    assert [len(r["step_seconds"]) for r in again["training"]] == [4, 4]
    (group,) = mixed.groups({"mixed": again, "quick": True})
    assert group.name == NAME
    assert np.isfinite(group.ratio("fastmlp", "float32")).all()
    assert group.fastest_peer() is None


def test_a_pair_counts_as_two_multiply_adds() -> None:
    if not peak.multiplies_pairs():
        pytest.skip("this processor has no products of bfloat16")
    assert peak.fma_loop("bfloat16")[1] == 2 * peak.fma_loop("float32")[1]
    assert 1 < peak.peak("bfloat16", 1, seconds=0.001) < 10_000


def test_losses_and_scores_are_told() -> None:
    pytest.importorskip("sklearn")
    results = {"machine": MACHINE, **accuracy.measure(Namespace(quick=True), {})}
    assert len(results["records"]) == 6
    text = "\n".join(accuracy.lines(results))
    assert "| digits | 64-256-256-10 | 1,347 | 2 | " in text
    plain, mixed_losses = accuracy.of(results, "digits", "training")
    assert (plain != mixed_losses).all()
    assert mixed_losses == pytest.approx(plain, rel=0.05)
    for r in results["records"]:
        r["training"] = {"float32": 2.0, "bfloat16": 2.1, "nudged": 2.2}[r["kind"]]
    assert accuracy.change(results, "digits", "training") == pytest.approx((0.05, 0))
    assert accuracy.change(results, "digits", "training", "nudged") == pytest.approx((0.1, 0))
    text = "\n".join(accuracy.lines(results))
    assert "at most 1% on 0 of 1" in text
    assert "Of the others' training losses 0 change" in text
    results["records"][0]["training"] = 2.15
    assert "Of the others' training losses 1 change" in "\n".join(accuracy.lines(results))


def test_predictions_and_models_of_tables_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(bfloat16, "PREDICTED", (((64, 64, 10), 50),))
    monkeypatch.setattr(bfloat16, "SECONDS", 0.0)
    monkeypatch.setattr(bfloat16, "FITTED", (("diabetes", "fast", 1),))
    path = tmp_path / "found.json"
    for part in bfloat16.PARTS:
        bfloat16.main(["--parts", part, "--json", str(path)])
    results = json.loads(path.read_text())
    (rows,), (fits,) = results["rows"], results["tables"]
    assert len(rows["float32"]) == len(rows["bfloat16"]) >= 2
    assert 0 < rows["error"] < 0.02
    (losses,) = fits["loss"]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    rows |= {"float32": [2.0, 3.0], "bfloat16": [1.0, 4.0]}
    fits |= {"float32": [2.0, 4.0], "bfloat16": [1.0, 3.0], "loss": [[1.0, 1.1]] * 2, "rows": 9}
    text = "\n".join(bfloat16.lines(results))
    assert f"| 64-64-10 | 50 | 25 | 50 | **2.00x** | {rows['error']:.1e} |" in text
    assert "| diabetes | 9 | fast | 2 | 3.00 s | 2.00 s | **1.50x** | 1 | +10.00% |" in text
