"""Two checkouts of fastmlp in turns: `python -m benchmarks.compare --checkouts BEFORE [AFTER]`.

Each checkout has a process of its own for each number of threads, and a folder of its own for
compiled code. All of them run the benchmarks of this checkout, which call nothing of fastmlp that
is not public. On one thread the CPU time of the process is taken, which other processes disturb
less than the wall time.

A pass starts the processes anew, for two of the same code may differ by a few percent as long as
they live: one row's prediction by 5.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import cold_start, estimators, machine, many, predictions, race, steps
from benchmarks.cold_start import Start
from benchmarks.output import ROOT, Table
from benchmarks.race import Contestant, Race
from benchmarks.scores import Record, counted, geometric, reason
from benchmarks.workloads import Workload

TURNS, PASSES = 9, 3
SWEEP = "32 nets"
UNITS = {"us": 1e6, "ms": 1e3}
TITLES = ("", "", ">before", ">after", "", ">ratio", "least to most", ">of least")


class Place(NamedTuple):
    """The folder of a checkout, and that of its compiled code."""

    folder: Path
    cache: Path


class Checkout(Contestant):
    """A contestant that trains by the fastmlp of a folder."""

    def __init__(self, place: Place, n_threads: int) -> None:
        super().__init__("fastmlp", n_threads, checkout=place.folder, cache=place.cache)
        self.place = place
        reply = self.ask("folder")
        if reply.get("folder") != str(place.folder):
            self.close()
            raise SystemExit(f"{self.title} was not imported: {reply}, {self.about}")
        if n_threads == 1:
            self.ask("count_cpu_time")

    @property
    def title(self) -> str:
        """The checkout's name for people."""
        return f"fastmlp of {self.place.folder}"


def measure(options: argparse.Namespace, workloads: list[Workload], say: race.Say) -> Record:
    """Run all that the options name, in several passes."""
    checkouts: list[Path] = [*options.checkouts, ROOT]
    folders = [path.resolve() for path in checkouts[:2]]
    results: Record = {
        "machine": machine.describe(),
        "checkouts": [{"folder": str(path), "commit": machine.commit_of(path)} for path in folders],
        "records": [],
    }
    passes = 1 if options.quick else options.passes
    repeats = 3 if options.quick else -(-options.repeats // passes)
    seconds = 60 * options.minutes / max(len(workloads), 1) / len(options.threads) / passes
    race = Race([], options.workloads, repeats, seconds, options.quick, say)
    by_name: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as room:
        places = [Place(path, Path(room, str(i))) for i, path in enumerate(folders)]
        try:
            for _ in range(passes):
                for record in _pass(options, workloads, places, race):
                    known = by_name.setdefault(record["what"], record)
                    if known is not record:
                        _add(known, record)
                    results["records"] = [*by_name.values()]
                    say("  ".join(map(str, cells(known))))
        except KeyboardInterrupt:
            results["interrupted"] = True
            say("interrupted: the results so far follow")
    return results


def _pass(
    options: argparse.Namespace, workloads: list[Workload], places: list[Place], race_: Race
) -> Iterator[Record]:
    """Start all processes, take the turns of a pass, and yield the comparisons."""
    parts = options.parts
    with ExitStack() as stack:
        races = [
            race_._replace(
                contestants=[stack.enter_context(closing(Checkout(place, n))) for place in places]
            )
            for n in options.threads
        ]
        for load in workloads if "train" in parts else ():
            for this in races:
                records = race.train(this, [(c, load) for c in this.contestants])
                yield _of_pair("train", load.name, "us", records, "step_seconds")
        for n_rows in predictions.N_ROWS if "predict" in parts else ():
            for this in races:
                rows = "1 row" if n_rows == 1 else f"{n_rows:,} rows"
                yield from _by_way("predict", rows, predictions.measure(this, n_rows))
        for name in steps.TASKS if "steps" in parts else ():
            for this in races:
                yield from _by_way("steps", name, steps.measure(this, name))
        for task in estimators.tasks(quick=True) if "estimators" in parts else ():
            for this in races:
                yield _estimator(task, this)
        for this in races if "many" in parts else ():
            yield _of_pair("many", SWEEP, "ms", many.sweep_in_turns(this, SWEEP), "seconds")
    if "cold" in parts:
        yield from _cold(places, race_)


def _of_pair(part: str, what: str, unit: str, records: list[Record], name: str) -> Record:
    """The comparison of two contestants' records, whose seconds go by a name."""
    reasons = [reason(r) for r in records if r.keys() & {"error", "unsupported"}]
    what = f"{part} {what}, {counted(records[0]['threads'])}"
    if len(records) < 2:
        reasons.append("only one of the checkouts can do it")
    seconds = [r[name] for r in records]
    return {"part": part, "what": what, "unit": unit, "seconds": seconds, "errors": reasons}


def _add(known: Record, record: Record) -> None:
    """Add the turns of another pass."""
    known["errors"] += record["errors"]
    for times, more in zip(known["seconds"], record["seconds"], strict=False):
        times += more


def _by_way(part: str, what: str, records: list[Record]) -> Iterator[Record]:
    for way in dict.fromkeys(r.get("way", "") for r in records):
        pair = [r for r in records if r.get("way", "") == way]
        yield _of_pair(part, f"{what}, {way}", "us", pair, "seconds")


def _estimator(task: Record, this: Race) -> Record:
    errors: list[str] = []
    pair = {str(i): contestant for i, contestant in enumerate(this.contestants)}
    times = estimators.task_in_turns(this, task, pair, errors)
    n_threads = this.contestants[0].n_threads
    records: list[Record] = [{"threads": n_threads, "seconds": times[name]} for name in pair]
    records[0] |= {"error": errors[0]} if errors else {}
    unit = "ms" if task["function"] == estimators.FIT else "us"
    what = f"{task['what']}, {task['request']['name']}"
    return _of_pair("estimators", what, unit, records, "seconds")


def _cold(places: list[Place], this: Race) -> Iterator[Record]:
    """New processes, once each checkout's bytecode and compiled code are there."""
    this.say("cold starts")
    fit = cold_start.fit_of("fastmlp")
    for place in places:
        _start(fit, place)
    starts: dict[str, Callable[[Place], Start]] = {
        "import": lambda place: _start("import fastmlp", place),
        "first fit, full cache": lambda place: _start(fit, place),
        "first fit, empty cache": lambda place: _start_with_empty_cache(fit, place),
    }
    for what, start in starts.items():
        taken: list[list[Start]] = [[] for _ in places]

        def turn(place: Place, times: list[Start], start: Callable[..., Start] = start) -> None:
            times.append(start(place))

        race.in_turns([*zip(places, taken, strict=True)], this.repeats, turn)
        for clock, name in (("wall time", "seconds"), ("CPU time", "cpu_seconds")):
            records = [
                {"threads": cold_start.N_THREADS, name: [getattr(s, name) for s in times]}
                for times in taken
            ]
            yield _of_pair("cold", f"{what}, {clock}", "ms", records, name)


def _start(command: str, place: Place) -> Start:
    return cold_start.launch(command, place.cache, place.folder)


def _start_with_empty_cache(command: str, place: Place) -> Start:
    with tempfile.TemporaryDirectory() as cache:
        return _start(command, place._replace(cache=Path(cache)))


def ratios(record: Record) -> Any:
    """The time after over the time before, of each round of turns."""
    if record["errors"]:
        return np.zeros(0)
    before, after = record["seconds"]
    n = min(len(before), len(after))
    return np.array(after[:n]) / np.array(before[:n])


def cells(record: Record) -> tuple[str, ...]:
    """A comparison: median times, the median ratio, the least and the most, and the ratio of the
    least times. A star: the same checkout was the faster in every round."""
    changes = ratios(record)
    if not len(changes):
        return ("", record["what"], *(record["errors"] or ["no result"])[:1])
    before, after = (UNITS[record["unit"]] * np.array(times) for times in record["seconds"])
    return (
        "*" if changes.min() > 1 or changes.max() < 1 else "",
        record["what"],
        _digits(np.median(before)),
        _digits(np.median(after)),
        record["unit"],
        f"{np.median(changes):.3f}",
        f"{changes.min():.3f} to {changes.max():.3f}",
        f"{after.min() / before.min():.3f}",
    )


def lines(results: Record) -> Iterator[str]:
    """The whole report."""
    m, records = results["machine"], results["records"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores, load before {m['load']:.2f}"
    for name, checkout in zip(("before", "after"), results["checkouts"], strict=True):
        yield f"{name}: {checkout['folder']}, {checkout['commit'] or 'no commit'}"
    rows = [*map(cells, records)]
    yield from Table(TITLES, [row for row in rows if len(row) == len(TITLES)]).text()
    yield from ("  ".join(row) for row in rows if len(row) < len(TITLES))
    yield "geometric means of the median ratios"
    for part in dict.fromkeys(r["part"] for r in records):
        medians = [np.median(ratios(r)) for r in records if r["part"] == part and len(ratios(r))]
        if medians:
            yield f"  {part:<10} {geometric(medians):.3f} of {len(medians)}"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 1_000 else f"{number:.4g}"
