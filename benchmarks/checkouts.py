"""Two checkouts of fastmlp in turns: `python -m benchmarks.compare --checkouts BEFORE [AFTER]`.

Each checkout has a process of its own for each number of threads, and a folder of its own for
compiled code. All of them run the benchmarks of this checkout, which call nothing of fastmlp that
is not public. What one thread does is timed by its process's CPU time, which other processes
disturb less than the wall time.

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

from benchmarks import cold_start, estimators, machine, many, race
from benchmarks.cold_start import Start
from benchmarks.contestant import ROOT, Contestant
from benchmarks.race import Effort, Say
from benchmarks.scores import counted
from benchmarks.workloads import Workload

TURNS, PASSES = 9, 3
SWEEP = "32 nets"
UNITS = {"us": 1e6, "ms": 1e3}
HEADER = f"  {'':<50} {'before':>8} {'after':>8}     ratio  least to most   of least"

Record = dict[str, Any]
Pair = list[Contestant]


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
        """Its name for people."""
        return f"fastmlp of {self.place.folder}"


def measure(options: argparse.Namespace, workloads: list[Workload], say: Say) -> dict[str, Any]:
    """Run everything that was asked for."""
    given: list[Path] = [*options.checkouts, ROOT]
    folders = [path.resolve() for path in given[:2]]
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "checkouts": [{"folder": str(path), "commit": machine.commit_of(path)} for path in folders],
        "records": [],
    }
    passes = 1 if options.quick else options.passes
    repeats = 3 if options.quick else -(-options.repeats // passes)
    seconds = 60 * options.minutes / len(workloads) / len(options.threads) / passes
    effort = Effort(repeats, seconds, options.quick)
    by_name: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as room:
        places = [Place(path, Path(room, str(i))) for i, path in enumerate(folders)]
        try:
            for _ in range(passes):
                for record in _pass(options, workloads, places, effort, say):
                    known = by_name.setdefault(record["what"], record)
                    if known is not record:
                        _add(known, record)
                    results["records"] = [*by_name.values()]
                    say(line(known))
        except KeyboardInterrupt:
            results["interrupted"] = True
            say("interrupted: what there is so far follows")
    return results


def _pass(
    options: argparse.Namespace,
    workloads: list[Workload],
    places: list[Place],
    effort: Effort,
    say: Say,
) -> Iterator[Record]:
    """Start everybody, take the turns of a pass, and yield the comparisons."""
    with ExitStack() as stack:
        pairs: list[Pair] = [
            [stack.enter_context(closing(Checkout(place, n))) for place in places]
            for n in options.threads
        ]
        for workload in workloads if "train" in options.parts else ():
            for pair in pairs:
                records = race.train(workload, pair, effort, say)
                yield _of_pair("train", workload.name, "us", records, "step_seconds")
        for n_rows in race.N_ROWS if "predict" in options.parts else ():
            for pair in pairs:
                yield from _predict(n_rows, pair, effort, say)
        for task in estimators.tasks(quick=True) if "estimators" in options.parts else ():
            for pair in pairs:
                yield _estimator(task, pair, effort, say)
        for pair in pairs if "many" in options.parts else ():
            records = many.sweep_in_turns(SWEEP, pair, effort.repeats, effort.quick, say)
            yield _of_pair("many", SWEEP, "ms", records, "seconds")
    if "cold" in options.parts:
        yield from _cold(places, effort.repeats, say)


def _of_pair(part: str, what: str, unit: str, records: list[Record], name: str) -> Record:
    """Return the comparison of two contestants' records, whose seconds go by a name."""
    reasons = [text for r in records if (text := r.get("error") or r.get("unsupported"))]
    what = f"{part} {what}, {counted(records[0]['threads'])}"
    seconds = [r[name] for r in records]
    if len(records) < 2:
        reasons.append("only one of the checkouts can do it")
    return {"part": part, "what": what, "unit": unit, "seconds": seconds, "errors": reasons}


def _add(known: Record, record: Record) -> None:
    """Add the turns of another pass."""
    known["errors"] += record["errors"]
    for times, more in zip(known["seconds"], record["seconds"], strict=False):
        times += more


def _predict(n_rows: int, pair: Pair, effort: Effort, say: Say) -> Iterator[Record]:
    records = race.predict(pair, n_rows, effort, say)
    for way in dict.fromkeys(r["way"] for r in records):
        its = [r for r in records if r["way"] == way]
        rows = "1 row" if n_rows == 1 else f"{n_rows:,} rows"
        yield _of_pair("predict", f"{rows}, {way}", "us", its, "seconds")


def _estimator(task: Record, pair: Pair, effort: Effort, say: Say) -> Record:
    what = f"{task['what']}, {task['request']['name']}"
    say(f"estimators: {what}")
    records: list[Record] = [{"threads": c.n_threads, "seconds": []} for c in pair]
    # The first turn compiles, or fills the caches.
    for repeat in range(effort.repeats + 1):
        for contestant, record in race.rotated([*zip(pair, records, strict=True)], repeat):
            reply = contestant.ask(task["verb"], **task["request"])
            record |= {"error": reply["error"]} if "error" in reply else {}
            if repeat and "seconds" in reply:
                record["seconds"].append(reply["seconds"])
    unit = "ms" if task["verb"] == "fit_estimator" else "us"
    return _of_pair("estimators", what, unit, records, "seconds")


def _cold(places: list[Place], repeats: int, say: Say) -> Iterator[Record]:
    """New processes, once each checkout's bytecode and compiled code are there."""
    say("cold starts")
    fit = cold_start.fit_of("fastmlp")
    for place in places:
        _start(fit, place)
    starts: dict[str, Callable[[Place], Start]] = {
        "import": lambda place: _start("import fastmlp", place),
        "first fit, full cache": lambda place: _start(fit, place),
        "first fit, empty cache": lambda place: _start_with_empty_cache(fit, place),
    }
    for what, start in starts.items():
        found: list[list[Start]] = [[] for _ in places]
        for repeat in range(repeats):
            for place, those in race.rotated([*zip(places, found, strict=True)], repeat):
                those.append(start(place))
        for clock, name in (("wall time", "seconds"), ("CPU time", "cpu_seconds")):
            records = [
                {"threads": cold_start.N_THREADS, name: [getattr(s, name) for s in those]}
                for those in found
            ]
            yield _of_pair("cold", f"{what}, {clock}", "ms", records, name)


def _start(command: str, place: Place) -> Start:
    return cold_start.launch(command, place.cache, place.folder)


def _start_with_empty_cache(command: str, place: Place) -> Start:
    with tempfile.TemporaryDirectory() as cache:
        return _start(command, place._replace(cache=Path(cache)))


def ratios(record: Record) -> Any:
    """Return the time after over the time before, of each round of turns."""
    if record["errors"]:
        return np.zeros(0)
    before, after = record["seconds"]
    n = min(len(before), len(after))
    return np.array(after[:n]) / np.array(before[:n])


def line(record: Record) -> str:
    """One comparison: the median times, the median ratio, the least and the most, and the ratio of
    the least times. A star: the same checkout was the faster in every round."""
    found = ratios(record)
    if not len(found):
        return f"  {record['what']:<50} {(record['errors'] or ['no result'])[0]}"
    before, after = (UNITS[record["unit"]] * np.array(times) for times in record["seconds"])
    star = "*" if found.min() > 1 or found.max() < 1 else " "
    return (
        f"{star} {record['what']:<50} {_digits(np.median(before)):>8} "
        f"{_digits(np.median(after)):>8} {record['unit']}  {np.median(found):.3f}  "
        f"{found.min():.3f} to {found.max():.3f}  {after.min() / before.min():.3f}"
    )


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The whole report."""
    m, records = results["machine"], results["records"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores, load before {m['load']:.2f}"
    for name, checkout in zip(("before", "after"), results["checkouts"], strict=True):
        yield f"{name}: {checkout['folder']}, {checkout['commit'] or 'no commit'}"
    yield HEADER
    yield from map(line, records)
    yield "geometric means of the median ratios"
    for part in dict.fromkeys(r["part"] for r in records):
        medians = [np.median(ratios(r)) for r in records if r["part"] == part and len(ratios(r))]
        if medians:
            yield f"  {part:<10} {np.exp(np.mean(np.log(medians))):.3f} of {len(medians)}"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 1_000 else f"{number:.4g}"
