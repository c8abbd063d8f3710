"""Steps that are called from Python: all contestants take the same."""

from typing import Any

import numpy as np
import pytest

from benchmarks import bench_heads
from benchmarks.bench_step import GROUPS, jax_step, net_group, torch_step
from benchmarks.peers import missing, one_step
from benchmarks.peers.one_step import FIT, STEPS
from benchmarks.workloads import CE, Workload

NETS = (
    Workload((5, 8, 8, 2), 8, 32, "tanh", dtype="float32"),
    Workload((4, 16, 3), 8, 32, loss=CE),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("load", NETS, ids=lambda load: load.name)
@pytest.mark.parametrize("contestant", STEPS)
def test_ways_take_the_same_steps(contestant: str, load: Workload) -> None:
    """The batches are taken in their order, each by one step of Adam."""
    if reason := missing(contestant):
        pytest.skip(reason)
    expected = one_step.ways("fastmlp", load, quick=False)[FIT]
    assert expected.parameters is not None
    expected.run(9)
    for name, way in one_step.ways(contestant, load, quick=False).items():
        if way.parameters is not None:
            way.run(9)
            difference = np.abs(way.parameters() - expected.parameters())
            assert np.quantile(difference, 0.99) < 3e-4, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("contestant", ["fastmlp", "sklearn", "river"])
def test_learners_of_a_stream_learn(contestant: str) -> None:
    for name in (contestant, "river"):
        if reason := missing(name):
            pytest.skip(reason)
    _, y, unit = one_step.stream_of(quick=True)
    usual = unit * np.abs(y[one_step.FIRST_ROWS :]).mean()
    for way in one_step.ways(contestant, "stream", quick=True).values():
        assert way.units == len(y)
        assert way.mae is not None
        assert way.mae < usual


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "make"), [("jax", jax_step), ("torch", torch_step)])
def test_steps_of_a_group_have_the_same_losses(name: str, make: Any) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    _, sizes, n = GROUPS["100-nets-of-4-16-16-1@16"]
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, k)).astype(np.float32) for k in (sizes[0], sizes[-1]))
    ours, theirs = (made(3, sizes, x, y) for made in (net_group, make))
    for _ in range(3):
        losses = theirs()
    for _ in range(3):
        expected = ours()
    np.testing.assert_allclose(np.ravel(losses), np.ravel(expected), rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_steps_on_two_heads_end_in_the_same_place(name: str) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    sizes = (5, 8, 8, bench_heads.N_CLASSES + 1)
    rows = bench_heads.drawn(sizes, 16)
    ours, theirs = (bench_heads.RUNS[it](sizes, rows) for it in ("fastmlp", name))
    for run in (ours, theirs):
        run.epochs(2)
    for w, expected in zip(theirs.weights(), ours.weights(), strict=True):
        assert np.abs(w - expected).max() < 3e-4
