"""The training recipe: what each of its parts costs a fit, and all of it beside the peers'.

A price is the time of a fit with a feature over that of the same fit without, in turns in one
process of fastmlp's: each turn makes a new net, and every other begins with the feature.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.peers import PEERS
from benchmarks.scores import Heat, counted, heats, quartiles
from benchmarks.workloads import RECIPES

SMALL, LARGE = "16-64-64-2@64", "784-512-512-10@128"
# Turns of a price for each of a contestant's on a workload: 2 % more must be seen.
TURNS_EACH = 4
VALIDATED = "metrics"
HEADER = (
    f"  {'feature':<36} {'threads':>7} {'us/epoch':>9} {'ratio':>7} {'quartiles':>15}  {'aim':>5}"
)
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


def measure(
    contestants: list[Any],
    names: list[str] | None,
    effort: race.Effort,
    say: race.Say,
    earlier: dict[str, Any],
) -> dict[str, Any]:
    """Return the prices, and a record per workload and contestant; another pass adds its turns.

    Only workloads are tried whose names contain one of `names`, if there are some.
    """
    ours = {c.n_threads: c for c in contestants if c.name == "fastmlp"}
    prices = earlier.get("prices") or [
        {"name": price.name, "threads": n_threads, "turns": []}
        for n_threads in ours
        for price in PRICES
        if race.asked_for(price.workload, names)
    ]
    for record in prices:
        _price(ours[record["threads"]], record, effort, say)
    peers = [c for c in contestants if PEERS[c.name].recipe]
    training = []
    for workload in (w for w in RECIPES if race.asked_for(w.name, names)):
        known = [r for r in earlier.get("training", []) if r["workload"] == workload.name]
        training += race.train(workload, peers, effort, say, known)
    return {"prices": prices, "training": training}


def _price(contestant: Any, record: dict[str, Any], effort: race.Effort, say: race.Say) -> None:
    """Take the turns of a price, or say why there are none."""
    say(f"price of {record['name']}, {counted(record['threads'])}")
    reply = contestant.ask("prepare_price", name=record["name"], quick=effort.quick)
    if "error" in reply:
        record |= reply
        return
    for i in range(effort.repeats * (1 if effort.quick else TURNS_EACH)):
        reply = contestant.ask("price", featured=[bool(i % 2), not i % 2])
        if "error" in reply:
            record |= reply
            return
        record["turns"].append(reply)


def ratios(record: dict[str, Any]) -> Any:
    """Return a price's ratios by turn: of seconds an epoch, or for metrics what an epoch takes
    longer in predictions."""
    turns = record["turns"]
    if BY_PRICE[record["name"]].feature == VALIDATED:
        return np.array([(t["with"] - t["without"]) / t["prediction"] for t in turns])
    return np.array([t["with"] / t["without"] for t in turns])


def heats_of(results: dict[str, Any]) -> list[Heat]:
    """Return the workloads with the recipe."""
    found = (results.get("recipe") or {}).get("training", [])
    return heats({**results, "training": found})


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The prices; the heats are told by the report."""
    records = (results.get("recipe") or {}).get("prices", [])
    if records:
        yield "\nprices: time of a fit with a feature over that without, medians and quartiles"
        yield HEADER
    for r in records:
        if not r["turns"]:
            yield f"  {r['name']:<36} {r['threads']:>7} {r.get('error', 'no result')}"
            continue
        q, aim = quartiles(ratios(r)), BY_PRICE[r["name"]].aim
        without = 1e6 * np.median([t["without"] for t in r["turns"]])
        spread = f"{q.low:.3f} - {q.high:.3f}"
        yield (
            f"  {r['name']:<36} {r['threads']:>7} {without:>9.0f} {q.median:>7.3f} {spread:>15}  "
            f"{_aim(aim):>5}{'' if np.isnan(aim) or q.median <= aim else '  above'}"
        )


def table(results: dict[str, Any], threads: int) -> Iterator[str]:
    """The prices, in Markdown."""
    records = (results.get("recipe") or {}).get("prices", [])
    shown = [r for r in records if r["turns"] and r["threads"] == threads]
    if shown:
        yield (
            "\nWhat a feature costs: the time of a fit over that of the same fit without, medians "
            "(and quartiles) of turns in one process. Of metrics it is what an epoch takes longer, "
            "in predictions of the validation rows, a tenth of those to train on.\n"
        )
        yield "| feature | net@batch | ratio | at most |\n|---|---|--:|--:|"
    for r in shown:
        q, price = quartiles(ratios(r)), BY_PRICE[r["name"]]
        spread = f"{q.median:.3f} ({q.low:.3f} to {q.high:.3f})"
        yield f"| {price.feature} | {price.workload} | {spread} | {_aim(price.aim)} |"


def _aim(aim: float) -> str:
    return "-" if np.isnan(aim) else f"{aim:.2f}"
