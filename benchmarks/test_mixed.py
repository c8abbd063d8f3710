"""Mixed precision: all contestants round the same operands."""

from typing import Any

import numpy as np
import pytest

from benchmarks import bench_peak as peak
from benchmarks.conftest import run_of
from benchmarks.peers import PEERS, trainers
from benchmarks.workloads import Rule, Workload, flat

NET = Workload((96, 128, 64, 6), 32, 320, "tanh", "cross_entropy", Rule("sgd", 0.01))
NAMES = [name for name in trainers("mixed") if name != "fastmlp"]
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
    plain = change("fastmlp", 0, None)
    ours = change("fastmlp", 0, "bfloat16")
    size = np.linalg.norm(plain)
    assert 1e-3 < np.linalg.norm(ours - plain) / size < 0.01
    theirs = change(name, variant, "bfloat16")
    error = np.linalg.norm(theirs - plain) / size
    print(f"{PEERS[name].title}, variant {variant}: {error:.1e}")
    assert error < 0.01


def test_a_pair_counts_as_two_multiply_adds() -> None:
    if not peak.multiplies_pairs():
        pytest.skip("this processor has no products of bfloat16")
    assert peak.fma_loop("bfloat16")[1] == 2 * peak.fma_loop("float32")[1]
