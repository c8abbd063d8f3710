"""The training recipe: the price of each of its parts, and all of it beside the peers'.

A price is the time of a fit with a feature over that of the same fit without, in turns in one
process of fastmlp's: each turn makes a new net, and every other begins with the feature.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS
from benchmarks.scores import Record, counted, digits, quartiles, reason
from benchmarks.training import Heat, heat_lines, heats
from benchmarks.workloads import RECIPES

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
    aim: float = float("nan")

    @property
    def name(self) -> str:
        """The feature and the workload."""
        return f"{self.feature}, {self.workload}"


PRICES = (
    Price("EMA", LARGE, 1.08),
    Price("EMA", SMALL),
    Price("dropout", LARGE, 1.10),
    Price("dropout", SMALL, 1.25),
    Price("clipvalue", LARGE, 1.02),
    Price("clipvalue", SMALL, 1.02),
    Price("global_clipnorm", LARGE, 1.15),
    Price("global_clipnorm", SMALL, 1.15),
    Price("label_smoothing", LARGE, 1.05),
    Price("label_smoothing", SMALL, 1.05),
    Price("focal", LARGE, 1.05),
    Price("focal", SMALL, 1.05),
    Price(VALIDATED, LARGE, 1.0),
    Price(VALIDATED, SMALL, 1.0),
)
BY_PRICE = {price.name: price for price in PRICES}


def measure(this: race.Race, earlier: Record) -> Record:
    """The prices, and a record per workload and contestant; another pass adds its turns."""
    ours = {c.n_threads: c for c in this.those(["fastmlp"])}
    prices = earlier.get("prices") or [
        {"name": price.name, "threads": n_threads, "turns": []}
        for n_threads in ours
        for price in PRICES
        if this.asked_for(price.workload)
    ]
    for record in prices:
        _price(ours[record["threads"]], record, this)
    peers = [c for c in this.contestants if "recipe" in PEERS[c.name].forms]
    training = []
    for workload in (w for w in RECIPES if this.asked_for(w.name)):
        known = [r for r in earlier.get("training", []) if r["workload"] == workload.name]
        training += race.train(this, [(contestant, workload) for contestant in peers], known)
    return {"prices": prices, "training": training}


def _price(contestant: Any, record: Record, this: race.Race) -> None:
    """Take the turns of a price; an error ends them, and goes into the record."""
    this.say(f"price of {record['name']}, {counted(record['threads'])}")
    reply = contestant.ask("prepare_price", name=record["name"], quick=this.quick)
    for i in range(this.repeats * (1 if this.quick else TURNS_EACH)):
        if "error" not in reply:
            reply = contestant.ask("price", featured=[bool(i % 2), not i % 2])
            record["turns"] += [reply] if "with" in reply else []
    record |= {"error": reply["error"]} if "error" in reply else {}


def ratios(record: Record) -> Any:
    """A price's ratios by turn: of seconds an epoch; for metrics the seconds that an epoch takes
    longer, over those of a prediction."""
    turns = record["turns"]
    if BY_PRICE[record["name"]].feature == VALIDATED:
        return np.array([(t["with"] - t["without"]) / t["prediction"] for t in turns])
    return np.array([t["with"] / t["without"] for t in turns])


def heats_of(results: Record) -> list[Heat]:
    """The workloads with the recipe."""
    return heats({**results, "training": results["recipe"].get("training", [])})


def most_threads(results: Record) -> int:
    """The number of threads that the page shows."""
    return max((heat.threads for heat in heats_of(results)), default=1)


def lines(results: Record) -> Iterator[str]:
    """All of it, for the terminal."""
    for heat in heats_of(results):
        yield from heat_lines(heat)
    records, rows = results["recipe"].get("prices", []), []
    for r in (r for r in records if r["turns"]):
        q, aim = quartiles(ratios(r)), BY_PRICE[r["name"]].aim
        without = f"{1e6 * np.median([t['without'] for t in r['turns']]):.0f}"
        verdict = "above" if q.median > aim else ""
        spread = f"{q.low:.3f} - {q.high:.3f}"
        rows.append(
            (r["name"], r["threads"], without, f"{q.median:.3f}", spread, _aim(aim), verdict)
        )
    if records:
        yield "\nprices: time of a fit with a feature over that without, medians and quartiles"
        titles = ("feature", ">threads", ">us/epoch", ">ratio", ">quartiles", ">aim", "")
        yield from Table(titles, rows).text()
    for r in (r for r in records if not r["turns"]):
        yield f"{r['name']}, {counted(r['threads'])}: {reason(r)}"


def table(results: Record, threads: int) -> Iterator[str]:
    """The recipe beside the peers', and the prices, for the page."""
    rows: list[tuple[Any, ...]] = []
    for heat in heats_of(results):
        if heat.threads == threads and heat.ours:
            name = heat.workload._replace(recipe=None).name
            cells = digits(heat.ours.us.median), heat.fastest(), *map(heat.ratio, COLUMNS)
            rows.append((name, *cells, f"{AIMS[name]:g}x"))
    if rows:
        yield (
            "\nThe recipe, of dropout 0.2, averaged weights, a cosine schedule and a gradient of a "
            "norm of at most 1: microseconds a step, and the peers' time over "
            "fastmlp's.\n"
        )
        peers = [f">{PEERS[name].title}" for name in COLUMNS]
        titles = ("net@batch", ">fastmlp, us", "fastest peer", *peers, ">aim")
        yield from Table(titles, rows).markdown()
    rows = []
    for r in results["recipe"].get("prices", []):
        if r["turns"] and r["threads"] == threads:
            q, price = quartiles(ratios(r)), BY_PRICE[r["name"]]
            spread = f"{q.median:.3f} ({q.low:.3f} to {q.high:.3f})"
            rows.append((price.feature, price.workload, spread, _aim(price.aim)))
    if rows:
        yield (
            "\nWhat a feature costs: the time of a fit over that of the same fit without, medians "
            "(and quartiles) of turns in one process. Of metrics it is what an epoch takes longer, "
            "in predictions of the validation rows, a tenth of those to train on.\n"
        )
        yield from Table(("feature", "net@batch", ">ratio", ">at most"), rows).markdown()


def _aim(aim: float) -> str:
    return "-" if np.isnan(aim) else f"{aim:.2f}"
