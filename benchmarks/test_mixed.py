"""Mixed precision: all contestants round the same operands; the report and the page."""

from typing import Any

import numpy as np
import pytest

from benchmarks import compare, mixed, peak
from benchmarks.conftest import Ours, record, run_of, short_race
from benchmarks.peers import PEERS
from benchmarks.race import untimed
from benchmarks.workloads import BY_NAME, Rule, Workload, flat

NET = Workload((96, 128, 64, 6), 32, 320, "tanh", "cross_entropy", Rule("sgd", 0.01))
NAME = "32-256-256-10@256"
NAMES = [
    name for name, peer in PEERS.items() if "mixed" in peer.forms and name != "fastmlp"
]
PARAMETERS = [(name, i) for name in NAMES for i in range(4)]


def change(name: str, variant: int, precision: str | None) -> Any:
    """The change of the parameters by ten steps."""
    run = run_of(name, NET._replace(compute_dtype=precision), variant)
    run.steps(10)
    assert np.isfinite(run.loss())
    return run.parameters() - flat(NET.start())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_ten_steps_are_those_of_float32_but_for_rounding(
    name: str, variant: int
) -> None:
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
    peaks.append(
        {"contestant": "fastmlp", "threads": 2, "what": "fma bfloat16", "gflops": 400.0}
    )
    return results


def test_nets_in_mixed_precision_are_told(results: dict[str, Any]) -> None:
    text = "\n".join(compare.all_lines(with_mixed(results)))
    assert f"{NAME} in bfloat16: JAX: it ended" in text
    page = compare.pages(results)[mixed.PAGE]
    text = "\n".join(mixed.table(results, 2))
    assert text in page
    share = BY_NAME[NAME].flops / 2e-3 / 400e9
    assert (
        f"| {NAME} | 3 | 2 | {share:.0%} | **1.50x** (1.50 to 1.50); 1.50x | " in text
    )
    assert "**1.25x** (1.25 to 1.25); 1.25x, PyTorch, bfloat16 |" in text
    assert f"| {NAME} | - | - | - | - | 1.25x | 3.00x |" in text
    assert f"| {NAME} | 0.500, 0.500 | -, - | -, - | 0.500, 0.500 |" in text
    assert "    matmul, brg_matmul" in text
    again = untimed(results["mixed"]["training"])
    assert [r["step_seconds"] for r in again] == [[]] * 5
    results["mixed"] = {}
    assert not list(mixed.table(results, 2))


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
