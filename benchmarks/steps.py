"""Steps that are called from Python, beside the step inside a fit and the peers' steps.

Beside them what else is short: a fit of one batch, `partial_fit` of one, a small estimator's fit,
the prediction of a row of a table, and a stream whose rows are learned one at a time.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS, one_step, titles
from benchmarks.peers.one_step import FIT, INSIDE, OURS, PARTIAL_FIT, RATES, SIZES
from benchmarks.race import Part, Race, timed
from benchmarks.scores import Quartiles, Record, digits, grouped, over, quartiles, ways
from benchmarks.workloads import CE, Workload

PAGE = DOCS / "steps.md"
COLUMNS = ("jax", "torch", "compile", "keras", "sklearn")
SECONDS = 0.05
NETS = (
    Workload((8, 64, 64, 2), 64, 6_400),
    Workload((2, 4, 1), 4, 8_000, "sigmoid"),
    Workload((4, 64, 64, 1), 1, 2_000),
    # Longer than a step that holds the GIL, and shorter than one that asks for a team.
    Workload((16, 64, 64, 2), 128, 12_800),
    Workload((784, 128, 10), 128, 12_800, loss=CE),
)
BY_NAME = {load.name: load for load in NETS}
STREAM = "stream"
TASKS = (*BY_NAME, "iris", "table row", STREAM)


class ShortCall(NamedTuple):
    """A call beside a peer's: how it is found in the records."""

    title: str
    task: str
    way: str
    peer: str | None


CALLS = (
    ShortCall("`train_on_batch`, 1 to 64 rows in turn", "8-64-64-2@64", SIZES, None),
    ShortCall("`train_on_batch`, another rate each", "8-64-64-2@64", RATES, None),
    ShortCall("`fit` of one batch, 8-64-64-2@64", "8-64-64-2@64", FIT, None),
    ShortCall("`partial_fit` of one batch", "8-64-64-2@64", PARTIAL_FIT, "sklearn"),
    ShortCall("`MLPClassifier.fit`, iris, `max_iter=1`", "iris", FIT, "sklearn"),
    ShortCall(
        "`TabularMLPRegressor.predict`, one row", "table row", "predict", "lightgbm"
    ),
)


class Work:
    """In a contestant's process: its ways of a task."""

    def __init__(self, worker: Any, quick: bool, task: str) -> None:
        self.clock = worker.clock
        self.ways = one_step.ways(worker.name, BY_NAME.get(task, task), quick)
        for way in self.ways.values():
            way.run(1)
        facts = {
            name: {"mae": way.mae, "units": way.units}
            for name, way in self.ways.items()
        }
        self.about = {"ways": facts}

    def turn(self, name: str, calls: int) -> Record:
        """The seconds of a step or of a row, of many calls after some."""
        way = self.ways[name]
        way.run(calls // 10)
        return {
            "seconds": timed(partial(way.run, calls), self.clock)[0]
            / (calls * way.units)
        }


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    """A record per task, contestant and way: seconds by turn."""
    records = []
    for task in filter(race.asked_for, TASKS):
        few = race.only(one_step.makers(BY_NAME.get(task, task)))
        records += few.ways("steps", SECONDS, task=task)
    return records


class StepsOfTask(NamedTuple):
    """The records of a task at a number of threads that have turns."""

    name: str
    records: list[Record]

    def ours(self, way: str) -> Record | None:
        """fastmlp's record of a way."""
        ours = (
            r for r in self.records if r["contestant"] == "fastmlp" and r["way"] == way
        )
        return next(ours, None)

    def us(self, way: str) -> str:
        """Microseconds of a way of fastmlp's."""
        record = self.ours(way)
        return digits(1e6 * quartiles(record["seconds"]).median) if record else "-"

    def fastest(self, peer: str, way: str) -> tuple[Quartiles, Record] | None:
        """The least of a peer's times over a way of fastmlp's, by turn, and its record."""
        ours = self.ours(way)
        theirs = [r for r in self.records if r["contestant"] == peer]
        ratios = (
            [(over(r["seconds"], ours["seconds"]), r) for r in theirs] if ours else []
        )
        return min(ratios, key=lambda pair: pair[0].median, default=None)

    def cell(self, peer: str, way: str) -> str:
        """A peer's least ratio."""
        fastest = self.fastest(peer, way)
        return fastest[0].cell if fastest else "-"


def tasks_of(results: Record, threads: int) -> dict[str, StepsOfTask]:
    """The tasks that have turns, by name."""
    records = [r for r in results["steps"] if r["seconds"] and r["threads"] == threads]
    groups = grouped(records, "task")
    return {name: StepsOfTask(name, group) for name, group in groups.items()}


def table(results: Record, threads: int) -> Iterator[str]:
    """Steps of nets, short calls and the stream, for the page."""
    tasks = tasks_of(results, threads)
    yield from _nets([task for name, task in tasks.items() if name in BY_NAME])
    yield from _calls(tasks)
    yield from _stream(tasks.get(STREAM, StepsOfTask(STREAM, [])))


def _nets(tasks: list[StepsOfTask]) -> Iterator[str]:
    rows = []
    for task in tasks:
        step, inside = task.ours(OURS), task.ours(INSIDE)
        ratio = (
            over(step["seconds"], inside["seconds"]).cell if step and inside else "-"
        )
        cells = [task.name, task.us(OURS), task.us(INSIDE), ratio]
        rows.append([*cells, *(task.cell(name, OURS) for name in COLUMNS)])
    heads = ["net@batch", f">`{OURS}`", ">inside `fit`", ">ratio"]
    yield from Table([*heads, *titles(COLUMNS)], rows).under(
        f"Microseconds of a call of `{OURS}`, and of a step inside a long `fit`; the ratio of "
        f"the two; and each peer's time over that of `{OURS}`: medians (and quartiles) of turns."
    )
    for name in COLUMNS:
        fastest = [pair[1] for task in tasks if (pair := task.fastest(name, OURS))]
        if fastest:
            yield ways(f"{PEERS[name].title}, the fastest of its ways", fastest)


def _calls(tasks: dict[str, StepsOfTask]) -> Iterator[str]:
    rows = []
    for call in (call for call in CALLS if call.task in tasks):
        task = tasks[call.task]
        peer = (
            (PEERS[call.peer].title, task.cell(call.peer, call.way))
            if call.peer
            else ("-", "-")
        )
        rows.append((call.title, task.us(call.way), *peer))
    text = "Other short calls, microseconds, and a peer's time over fastmlp's:"
    yield from Table(("call", ">fastmlp, us", "beside", ">ratio"), rows).under(text)


def _stream(task: StepsOfTask) -> Iterator[str]:
    rows = []
    for r in sorted(task.records, key=lambda r: quartiles(r["seconds"]).median):
        us = 1e6 * quartiles(r["seconds"]).median
        cells = digits(us), f"{1e6 / us:,.0f}", f"{r['mae']:.3f}"
        rows.append((PEERS[r["contestant"]].title, r["way"], *cells))
    heads = ("by", "learner", ">us a row", ">rows a second", ">mean absolute error")
    yield from Table(heads, rows).under(
        "A stream of river's, TrumpApproval: each row is predicted, then learned. The mean "
        "absolute error of all predictions is in points of approval."
    )


PART = Part("steps", "steps", measure, table, PAGE)
