"""The recipe: all contestants do the same work, and the prices' arithmetic and tables."""

from typing import Any

import numpy as np
import pytest

from benchmarks import page, recipe, report
from benchmarks.peers import PEERS, WITH_RECIPE, load, missing
from benchmarks.race import Effort
from benchmarks.recipe import BY_PRICE, LARGE, PRICES, SMALL
from benchmarks.test_suite import record, results
from benchmarks.worker import Worker
from benchmarks.workloads import BY_NAME, RECIPES, Recipe, Workload

__all__ = ["results"]

# Three epochs of 16 steps: of eight in a call there are two.
NET = Workload((20, 64, 32, 6), 16, 256, "relu", "cross_entropy")
PARAMETERS = [(name, i) for name in WITH_RECIPE if name != "fastmlp" for i in range(5)]


def run_of(name: str, workload: Workload, variant: int) -> Any:
    if reason := missing(name):
        pytest.skip(reason)
    module = load(name, "recipe")
    if variant >= len(module.VARIANTS):
        pytest.skip("no such variant")
    return module.make(workload, module.VARIANTS[variant])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_without_dropout_all_end_in_the_same_place(name: str, variant: int, dtype: str) -> None:
    """Average, schedule and clipping have no random numbers in them."""
    workload = NET._replace(dtype=dtype, n_rows=3 * NET.n_rows, recipe=Recipe(dropout=0))
    ours, theirs = run_of("fastmlp", workload, 0), run_of(name, workload, variant)
    for run in (ours, theirs):
        run.steps(workload.n_steps)
    error = np.abs(ours.parameters() - theirs.parameters()).max()
    print(f"{PEERS[name].title}, {theirs.variant}, {dtype}: {error:.1e}")
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-5 if dtype == "float32" else 1e-8)
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
    assert [weights.rate(0.5, step, 4) for step in (0, 2, 4)] == pytest.approx([0.5, 0.25, 0])


def test_workloads_and_aims_are_there() -> None:
    assert {w._replace(recipe=None).name for w in RECIPES} == set(recipe.AIMS)
    assert all(BY_NAME[w.name] is w for w in RECIPES)
    assert all(price.workload in BY_NAME for price in PRICES)
    assert len(BY_PRICE) == len(PRICES)


def told(results: dict[str, Any]) -> dict[str, Any]:
    """Return results with a workload, a price that holds, one that does not, and one of metrics."""
    name = f"{LARGE} with the recipe"
    turns = [{"without": 1.0, "with": 1.0 + x, "prediction": None} for x in (0.0, 0.2, 0.1)]
    metric = [{"without": 1.0, "with": 1.2, "prediction": 0.1}]
    prices = {f"EMA, {LARGE}": turns, f"dropout, {LARGE}": turns, f"metrics, {SMALL}": metric}
    results["recipe"] = {
        "training": [record("fastmlp", name, [1e-3] * 3), record("jax", name, [2e-3] * 3)],
        "prices": [{"name": n, "threads": 2, "turns": found} for n, found in prices.items()],
    }
    results["recipe"]["prices"] += [{"name": PRICES[1].name, "threads": 2, "turns": []}]
    return results


def test_prices_are_told(results: dict[str, Any]) -> None:
    text = "\n".join(report.all_lines(told(results)))
    assert "* JAX                 2,000" in text
    assert "1.100   1.050 - 1.150   1.08  above" in text
    assert "1.100   1.050 - 1.150   1.10\n" in text
    assert "2.000   2.000 - 2.000   1.00  above" in text
    assert f"{PRICES[1].name:<36}       2 no result" in text
    text = "\n".join(page.recipe_lines(told(results), None))
    assert f"| {LARGE} | 1,000 | **2.00x** (2.00 to 2.00), JAX | 2.00x | - | - | 1.3x |" in text
    assert f"| EMA | {LARGE} | 1.100 (1.050 to 1.150) | 1.08 |" in text
    results["recipe"] = {}
    assert "at most |" not in "\n".join(page.recipe_lines(results, None))


class Ours(Worker):
    """A contestant in this process."""

    title, n_threads = "fastmlp", 2

    def ask(self, verb: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self, verb)(**options)
        return answer


def test_prices_of_little() -> None:
    """Every feature is one that fastmlp has."""
    effort = Effort(2, 0, quick=True)
    found = recipe.measure([Ours("fastmlp")], [SMALL], effort, lambda _: None, {})
    assert not found["training"]
    assert len(found["prices"]) == sum(price.workload == SMALL for price in PRICES)
    again = recipe.measure([Ours("fastmlp")], [SMALL], effort, lambda _: None, found)
    for price in again["prices"]:
        assert len(price["turns"]) == 4
        assert np.isfinite(recipe.ratios(price)).all()
