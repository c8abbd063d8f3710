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
# The fastest peer's time over fastmlp's, by workload.
AIMS = {"17-64-64-6@64": 2.0, "784-128-10@128": 2.0, LARGE: 1.3}


class Price(NamedTuple):
    """A feature, where it is tried, and the ratio that is to hold.

    Attributes
    ----------
    aim : the most; nan where there is none. For `VALIDATED` predictions of the validation rows, of
        which there is one for ten rows to train on, that an epoch takes longer
    """

    feature: str
    workload: str
    aim: float

    @property
    def name(self) -> str:
        return f"{self.feature}, {self.workload}"


NO_AIM = float("nan")
PRICES = tuple(
    Price(feature, load, aim)
    for feature, aims in {
        "EMA": (1.08, NO_AIM),
        "dropout": (1.10, 1.25),
        "clipvalue": (1.02, 1.02),
        "global_clipnorm": (1.15, 1.15),
        "label_smoothing": (1.05, 1.05),
        "focal": (1.05, 1.05),
        VALIDATED: (1.0, 1.0),
    }.items()
    for load, aim in zip((LARGE, SMALL), aims, strict=True)
)
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
    return {"prices": prices, "training": trained(race, earlier.get("training", []), "recipe")}


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
            cells = digits(heat.ours.us.median), heat.fastest(), *map(heat.ratio, COLUMNS)
            rows.append((name, *cells, f"{AIMS[name]:g}x"))
    heads = ("net@batch", ">fastmlp, us", "fastest peer", *titles(COLUMNS), ">aim")
    yield from Table(heads, rows).under(
        "The recipe, of dropout 0.2, averaged weights, a cosine schedule and a gradient of a "
        "norm of at most 1: microseconds a step, and the peers' time over fastmlp's."
    )
    rows = []
    for r in results["recipe"].get("prices", []):
        if r["turns"] and r["threads"] == threads:
            q, price = quartiles(ratios(r)), BY_PRICE[r["name"]]
            spread = f"{q.median:.3f} ({q.low:.3f} to {q.high:.3f})"
            aim = "-" if np.isnan(price.aim) else f"{price.aim:.2f}"
            rows.append((price.feature, price.workload, spread, aim))
    yield from Table(("feature", "net@batch", ">ratio", ">at most"), rows).under(
        "What a feature costs: the time of a fit over that of the same fit without, medians "
        "(and quartiles) of turns in one process. Of metrics it is what an epoch takes longer, "
        "in predictions of the validation rows, a tenth of those to train on."
    )


PART = Part("recipe", "recipe", measure, table, PAGE, lines, dict, repeated=True)
