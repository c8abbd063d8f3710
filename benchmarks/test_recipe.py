"""The recipe: all contestants do the same work, and the prices' arithmetic and tables."""

import re
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, recipe
from benchmarks.conftest import Ours, record, run_of, short_race
from benchmarks.peers import PEERS
from benchmarks.recipe import LARGE, PRICES, SMALL
from benchmarks.workloads import Recipe, Workload

# Three epochs of 16 steps: of eight in a call there are two.
NET = Workload((20, 64, 32, 6), 16, 256, "relu", "cross_entropy")
NAMES = [
    name for name, peer in PEERS.items() if "recipe" in peer.forms and name != "fastmlp"
]
PARAMETERS = [(name, i) for name in NAMES for i in range(5)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_without_dropout_all_end_in_the_same_place(
    name: str, variant: int, dtype: str
) -> None:
    """Average, schedule and clipping have no random numbers in them."""
    workload = NET._replace(
        dtype=dtype, n_rows=3 * NET.n_rows, recipe=Recipe(dropout=0)
    )
    ours, theirs = run_of("fastmlp", workload, 0), run_of(name, workload, variant)
    for run in (ours, theirs):
        run.steps(workload.n_steps)
    error = np.abs(ours.parameters() - theirs.parameters()).max()
    print(f"{PEERS[name].title}, {theirs.variant}, {dtype}: {error:.1e}")
    assert ours.loss() == pytest.approx(
        theirs.loss(), rel=1e-5 if dtype == "float32" else 1e-8
    )
    # PyTorch adds 1e-6 to the norm.
    assert error < (3e-4 if dtype == "float32" else 1e-8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_with_dropout_all_reach_the_same_loss(name: str, variant: int) -> None:
    workload = NET._replace(n_rows=6400, recipe=Recipe())
    losses = []
    for run in (run_of("fastmlp", workload, 0), run_of(name, workload, variant)):
        run.epochs(3)
        losses.append(run.loss())
    undropped = run_of("fastmlp", workload._replace(recipe=Recipe(dropout=0)), 0)
    undropped.epochs(3)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert min(losses) > 1.1 * undropped.loss()


def test_the_average_and_the_schedule() -> None:
    average, weights, trained = 0.0, Recipe(), [3.0, 1.0, 4.0]
    for k, number in enumerate(trained, 1):
        average += weights.weight(k) * (number - average)
    shares = 0.99 ** np.arange(3)[::-1]
    assert average == pytest.approx(shares @ trained / shares.sum())
    assert [weights.rate(0.5, step, 4) for step in (0, 2, 4)] == pytest.approx(
        [0.5, 0.25, 0]
    )


def with_prices(results: dict[str, Any]) -> dict[str, Any]:
    """Results with a workload, a price that holds, one that does not, and one of metrics."""
    name = f"{LARGE} with the recipe"
    turns = [
        {"without": 1.0, "with": 1.0 + x, "prediction": None} for x in (0.0, 0.2, 0.1)
    ]
    metric = [{"without": 1.0, "with": 1.2, "prediction": 0.1}]
    prices = {
        f"EMA, {LARGE}": turns,
        f"dropout, {LARGE}": turns,
        f"metrics, {SMALL}": metric,
    }
    results["recipe"] = {
        "training": [
            record("fastmlp", name, [1e-3] * 3),
            record("jax", name, [2e-3] * 3),
        ],
        "prices": [{"name": n, "threads": 2, "turns": t} for n, t in prices.items()],
    }
    failed = {"name": PRICES[1].name, "threads": 2, "turns": [], "error": "it ended"}
    results["recipe"]["prices"] += [failed]
    return results


def test_prices_are_told(results: dict[str, Any]) -> None:
    text = "\n".join(compare.all_lines(with_prices(results)))
    assert re.search(r"\* +JAX +2,000", text)
    assert f"{PRICES[1].name}: fastmlp: it ended" in text
    text = compare.pages(with_prices(results))[recipe.PAGE]
    assert (
        f"| {LARGE} | 1,000 | **2.00x** (2.00 to 2.00), JAX | 2.00x | - | - |" in text
    )
    assert f"| EMA | {LARGE} | 1.100 (1.050 to 1.150) |" in text
    results["recipe"] = {}
    assert recipe.PAGE not in compare.pages(results)


def test_prices_of_little() -> None:
    """Every feature is one that fastmlp has."""
    race = short_race(Ours(), names=[SMALL])
    first = recipe.measure(race, {})
    assert not first["training"]
    assert len(first["prices"]) == sum(price.workload == SMALL for price in PRICES)
    again = recipe.measure(race, first)
    for price in again["prices"]:
        assert len(price["turns"]) == 4
        assert np.isfinite(recipe.ratios(price)).all()
