"""Contestants for the suite; FASTMLP_BENCH_QUICK=1 leaves out large nets and most rows."""

import os
from typing import Any

import pytest

from benchmarks.peers import PEERS, load, missing
from benchmarks.peers.run import Unsupported
from benchmarks.samples import results_of_two
from benchmarks.scores import Record
from benchmarks.workloads import WORKLOADS, Workload

# Collecting doctests would import libraries that need not be there.
collect_ignore_glob = ["peers/*_*.py"]
QUICK = os.environ.get("FASTMLP_BENCH_QUICK") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "peer" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def run_of(name: str, workload: Workload, variant: int = 0) -> Any:
    """A contestant's run in one of its variants; the test is skipped where there is none."""
    if reason := missing(name):
        pytest.skip(reason)
    module = load(name)
    variants = module.VARIANTS[workload.form]
    if variant >= len(variants):
        pytest.skip("no such variant")
    try:
        return module.make(workload, variants[variant])
    except Unsupported as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=WORKLOADS, ids=lambda w: w.name)
def workload(request: pytest.FixtureRequest) -> Workload:
    if QUICK and request.param.flops > 5e7:
        pytest.skip("above 50 MFLOP a step, and FASTMLP_BENCH_QUICK is set")
    return request.param.quick() if QUICK else request.param


@pytest.fixture(params=[name for name in PEERS if not PEERS[name].alone])
def peer(request: pytest.FixtureRequest) -> str:
    if reason := missing(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def results() -> Record:
    """Two workloads, one of them lost to JAX; scikit-learn lacks an option."""
    return results_of_two()


@pytest.fixture
def run(workload: Workload, peer: str) -> Any:
    """The contestant's first variant, ready to train."""
    if not PEERS[peer].trains:
        pytest.skip("predicts only")
    return run_of(peer, workload)
