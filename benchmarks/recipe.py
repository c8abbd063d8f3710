"""The training recipe: the price of each of its parts, and all of it beside the peers'.

A price is the time of a fit with a feature over that of the same fit without, in turns in one
process of fastmlp's: each turn makes a new net, and every other begins with the feature.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peers import titles
from benchmarks.race import Part, Race
from benchmarks.scores import Record, digits, quartiles
from benchmarks.training import Heat, heat_lines, heats
from benchmarks.training import measure as trained

PAGE = DOCS / "recipe.md"

SMALL, LARGE = "16-64-64-2@64", "784-512-512-10@128"
# Turns of a price for each of a contestant's on a workload: 2 % more must be seen.
TURNS_EACH = 4
VALIDATED = "metrics"
COLUMNS = ("jax", "compile", "torch")


class Price(NamedTuple):
    """A feature, and where it is tried."""

    feature: str
    workload: str

    @property
    def name(self) -> str:
        return f"{self.feature}, {self.workload}"


FEATURES = (
    "EMA",
    "dropout",
    "clipvalue",
    "global_clipnorm",
    "label_smoothing",
    "focal",
    VALIDATED,
)
PRICES = tuple(Price(feature, load) for feature in FEATURES for load in (LARGE, SMALL))
BY_PRICE = {price.name: price for price in PRICES}


def measure(race: Race, earlier: Record) -> Record:
    """The prices, and a record per workload and contestant; another pass adds its turns."""
    ours = {c.n_threads: c for c in race.only(["fastmlp"]).contestants}
    prices = earlier.get("prices") or [
        {"name": price.name, "threads": n_threads, "turns": []}
        for n_threads in ours
        for price in PRICES
        if race.asked_for(price.workload)
    ]

    def turn(contestant: Any, record: Record) -> None:
        reply = contestant.ask("turn", featured=first_with_it[len(record["turns"]) % 2])
        record["turns"] += [reply] if "with" in reply else []
        record |= {"error": reply["error"]} if "error" in reply else {}

    first_with_it = [False, True], [True, False]
    often = race._replace(repeats=race.repeats * (1 if race.quick else TURNS_EACH))
    for record in prices:
        work = ours[record["threads"]], record, {"name": record["name"]}
        often.take_turns("peers.fastmlp_nets", [work], turn)
    return {
        "prices": prices,
        "training": trained(race, earlier.get("training", []), "recipe"),
    }


def ratios(record: Record) -> Any:
    """A price's ratios by turn: of seconds an epoch; for metrics the seconds that an epoch takes
    longer, over those of a prediction."""
    turns = record["turns"]
    if BY_PRICE[record["name"]].feature == VALIDATED:
        return np.array([(t["with"] - t["without"]) / t["prediction"] for t in turns])
    return np.array([t["with"] / t["without"] for t in turns])


def heats_of(results: Record) -> list[Heat]:
    return heats({**results, "training": results["recipe"].get("training", [])})


def lines(results: Record) -> Iterator[str]:
    for heat in heats_of(results):
        yield from heat_lines(heat)


def table(results: Record, threads: int) -> Iterator[str]:
    """The recipe beside the peers', and the prices, for the page."""
    rows: list[tuple[Any, ...]] = []
    for heat in heats_of(results):
        if heat.threads == threads and heat.ours:
            name = heat.workload._replace(recipe=None).name
            cells = (
                digits(heat.ours.us.median),
                heat.fastest(),
                *map(heat.ratio, COLUMNS),
            )
            rows.append((name, *cells))
    heads = ("net@batch", ">fastmlp, us", "fastest peer", *titles(COLUMNS))
    yield from Table(heads, rows).under(
        "The recipe, of dropout 0.2, averaged weights, a cosine schedule and a gradient of a "
        "norm of at most 1: microseconds a step, and the peers' time over fastmlp's."
    )
    rows = []
    for r in results["recipe"].get("prices", []):
        if r["turns"] and r["threads"] == threads:
            q, price = quartiles(ratios(r)), BY_PRICE[r["name"]]
            spread = f"{q.median:.3f} ({q.low:.3f} to {q.high:.3f})"
            rows.append((price.feature, price.workload, spread))
    yield from Table(("feature", "net@batch", ">ratio"), rows).under(
        "What a feature costs: the time of a fit over that of the same fit without, medians "
        "(and quartiles) of turns in one process. Of metrics it is what an epoch takes longer, "
        "in predictions of the validation rows, a tenth of those to train on."
    )


PART = Part("recipe", "recipe", measure, table, PAGE, lines, dict, repeated=True)
