"""All contestants do the same work: ten steps from the same start end in the same place."""

from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import QUICK
from benchmarks.peers import PEERS, TRAINERS, load, missing
from benchmarks.peers.run import Unsupported
from benchmarks.workloads import WORKLOADS, Workload

LIMIT = 5e7 if QUICK else 1e9
SMALL = [w for w in WORKLOADS if w.flops < LIMIT and w.dtype == "float32"]
# Compiling takes some 20 s each: one workload of every rule and loss.
COMPILED = ["8-32-32-1@32", "784-100-100-10@200", "28-300x5-1@100", "100-512x3-1@256"]
VARIANTS = [
    (name, i) for name in TRAINERS if name != "fastmlp" for i in range(1 if name == "numpy" else 3)
]


def after_ten_steps(name: str, workload: Workload, variant: int) -> Any:
    module = load(name)
    if variant >= len(module.VARIANTS):
        pytest.skip("no such variant")
    run = module.make(workload, module.VARIANTS[variant])
    run.steps(10)
    return run.parameters()


def differences(name: str, variant: int, workload: Workload, dtype: str) -> Any:
    """Sizes of the differences of all parameters between a contestant and fastmlp."""
    n_rows = workload.batch * (10 if workload.shuffle else 1)
    short = workload._replace(n_rows=n_rows, dtype=dtype)
    theirs = after_ten_steps(name, short, variant)
    return np.abs(theirs - after_ten_steps("fastmlp", short, 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_ten_steps(name: str, variant: int, workload: Workload, dtype: str) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    if name == "compile" and workload.name not in COMPILED:
        pytest.skip("takes long to compile")
    try:
        error = differences(name, variant, workload, dtype)
    except Unsupported as reason:
        pytest.skip(str(reason))
    most = np.quantile(error, 0.99)
    print(f"{PEERS[name].title}, {workload.name}, {dtype}: {error.max():.1e}, 99 % {most:.1e}")
    # In float32 Adam makes whole steps, of either sign, of a gradient that is rounding noise.
    assert most < 3e-4
    if dtype == "float64":
        # scikit-learn has its epsilon at another place.
        assert error.max() < (2e-3 if name == "sklearn" else 1e-9)
