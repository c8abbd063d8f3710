"""The recipe of training: all contestants do the same work."""

import numpy as np
import pytest

from benchmarks.conftest import run_of
from benchmarks.peers import PEERS, trainers
from benchmarks.workloads import Recipe, Workload

# Three epochs of 16 steps: of eight in a call there are two.
NET = Workload((20, 64, 32, 6), 16, 256, "relu", "cross_entropy")
NAMES = [name for name in trainers("recipe") if name != "fastmlp"]
PARAMETERS = [(name, i) for name in NAMES for i in range(5)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_without_dropout_all_end_in_the_same_place(
    name: str, variant: int, dtype: str
) -> None:
    """Average, schedule and clipping have no random numbers in them."""
    recipe = Recipe(dropout=0)
    workload = NET._replace(dtype=dtype, n_rows=3 * NET.n_rows, recipe=recipe)
    ours = run_of("fastmlp", workload, 0)
    theirs = run_of(name, workload, variant)
    for run in (ours, theirs):
        run.steps(workload.n_steps)
    error = np.abs(ours.parameters() - theirs.parameters()).max()
    print(f"{PEERS[name].title}, {theirs.variant}, {dtype}: {error:.1e}")
    # PyTorch adds 1e-6 to the norm.
    if dtype == "float32":
        assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-5)
        assert error < 3e-4
    else:
        assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-8)
        assert error < 1e-8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_with_dropout_all_reach_the_same_loss(name: str, variant: int) -> None:
    workload = NET._replace(n_rows=6400, recipe=Recipe())
    ours = run_of("fastmlp", workload, 0)
    theirs = run_of(name, workload, variant)
    undropped = run_of("fastmlp", workload._replace(recipe=Recipe(dropout=0)), 0)
    for run in (ours, theirs, undropped):
        run.epochs(3)
    assert ours.loss() == pytest.approx(theirs.loss(), rel=0.05)
    assert min(ours.loss(), theirs.loss()) > 1.1 * undropped.loss()


def test_the_average_and_the_schedule() -> None:
    average = 0.0
    weights = Recipe()
    trained = [3.0, 1.0, 4.0]
    for k, number in enumerate(trained, 1):
        average += weights.weight(k) * (number - average)
    shares = 0.99 ** np.arange(3)[::-1]
    assert average == pytest.approx(shares @ trained / shares.sum())
    assert [weights.rate(0.5, step, 4) for step in (0, 2, 4)] == pytest.approx(
        [0.5, 0.25, 0]
    )
