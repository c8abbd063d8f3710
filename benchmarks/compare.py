"""fastmlp beside its peers, or beside itself, in turns: `python -m benchmarks.compare`."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import (
    checkouts,
    cold_start,
    estimators,
    machine,
    machines,
    many,
    mixed,
    page,
    race,
    recipe,
    report,
    stream,
)
from benchmarks.contestant import Contestant
from benchmarks.peers import PEERS, missing
from benchmarks.picture import draw
from benchmarks.scores import heats
from benchmarks.workloads import BY_NAME, WORKLOADS

PARTS = ("train", "recipe", "predict", "estimators", "many", "stream", "machines", "mixed", "cold")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    add = parser.add_argument
    add("--workloads", nargs="+", metavar="NAME", help="parts of names; default: all")
    add("--peers", nargs="+", choices=[p for p in PEERS if p != "fastmlp"], help="default: all")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add(
        "--checkouts",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="time the fastmlp of one checkout, then of another, by default this one; no peers",
    )
    add(
        "--threads",
        nargs="+",
        type=int,
        help="one number or several; default: 2, of checkouts 1 and 2",
    )
    add(
        "--repeats",
        "--turns",
        type=int,
        help="turns of each contestant on a workload; default: 7, of checkouts 9",
    )
    add(
        "--passes",
        type=int,
        help="over all workloads, minutes apart, with the turns shared; default: 2, of checkouts 3",
    )
    add("--minutes", type=float, default=20, help="bounds the timed turns; compiling is on top")
    add("--quick", action="store_true", help="few rows, 3 repeats: to try it, not to compare")
    add("--mkl-shim", action="store_true", help="have PyTorch's MKL take this for an Intel CPU")
    add("--json", type=Path, help="where the results go, or come from")
    add("--variants", type=Path, metavar="JSON", help="in mixed, those that an earlier run chose")
    add("--from-json", action="store_true", help="render an earlier run's results again")
    add("--picture", type=Path, help="draw the ratios to a file")
    add("--pages", action="store_true", help="rewrite docs/benchmarks.md, and README's figures")
    return parser


def checked(words: list[str] | None) -> argparse.Namespace:
    """Return the options; what would fail, or lose its results, after an hour is refused here."""
    parser = arguments()
    options = parser.parse_args(words)
    if options.from_json:
        if not options.json:
            parser.error("--from-json needs --json FILE")
        if not options.json.is_file():
            parser.error(f"there is no file {options.json}")
    two = min(2, machine.cores())
    if options.threads is None:
        options.threads = sorted({1, two}) if options.checkouts else [two]
    if options.repeats is None:
        options.repeats = checkouts.TURNS if options.checkouts else 7
    if options.passes is None:
        options.passes = checkouts.PASSES if options.checkouts else 2
    if options.checkouts:
        _check_checkouts(parser, options)
    if not all(1 <= n <= machine.cores() for n in options.threads):
        parser.error(f"--threads: from 1 to {machine.cores()}, the cores of this process")
    for name in ("repeats", "passes", "minutes"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0")
    if options.variants and not options.variants.is_file():
        parser.error(f"there is no file {options.variants}")
    for path in filter(None, (options.json, options.picture)):
        if not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent}")
    if options.picture and not options.from_json and "train" not in options.parts:
        parser.error("--picture shows training: --parts leaves it out")
    return options


def _check_checkouts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if len(options.checkouts) > 2:
        parser.error("--checkouts takes one folder or two")
    for folder in options.checkouts:
        if not (folder / "fastmlp" / "__init__.py").is_file():
            parser.error(f"there is no fastmlp in {folder}")
    for name in ("peers", "picture", "pages", "mkl_shim"):
        if getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} does not go with --checkouts")


def chosen_workloads(parts: list[str] | None) -> list[Any]:
    """Return the workloads whose names contain one of these; none if they are of other parts."""
    chosen = [w for w in WORKLOADS if race.asked_for(w.name, parts)]
    others = [*stream.BY_NAME, *machines.BY_NAME]
    if not chosen and not any(part in name for part in parts or () for name in others):
        raise SystemExit(f"no such workload; there are {', '.join([*BY_NAME, *others])}")
    return chosen


def say(text: str) -> None:
    """Show what is going on, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def start(names: list[str], threads: list[int], *, shim: bool) -> list[Contestant]:
    """Start everyone; each sleeps until its turn."""
    present = [name for name in names if not missing(name)]
    return [Contestant(name, n, shim=shim) for n in threads for name in present]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that was asked for."""
    if options.checkouts:
        return checkouts.measure(options, chosen_workloads(options.workloads), say)
    begin = time.perf_counter()
    names = ["fastmlp", *(options.peers or [name for name in PEERS if name != "fastmlp"])]
    results: dict[str, Any] = {
        "quick": options.quick,
        "mkl_shim": options.mkl_shim,
        "machine": machine.describe(),
        "skipped": {name: why for name in names if (why := missing(name))},
        "training": [],
        "recipe": {},
        "predictions": [],
        "estimators": [],
        "many": {},
        "streams": [],
        "machines": [],
        "mixed": {},
        "cold_starts": [],
        "peers": {},
        "peaks": [],
    }
    contestants = start(names, options.threads, shim=options.mkl_shim)
    try:
        _race(options, contestants, results)
    except KeyboardInterrupt:
        results["interrupted"] = True
        say("interrupted: what there is so far follows")
    finally:
        for contestant in contestants:
            contestant.close()
    results["idle_cpu"] = sum(contestant.idle_cpu for contestant in contestants)
    if "cold" in options.parts and "interrupted" not in results:
        say("cold starts")
        results["cold_starts"] = cold_start.measure(names, 1 if options.quick else 5)
    results["seconds"] = time.perf_counter() - begin
    return results


def _race(
    options: argparse.Namespace, contestants: list[Contestant], results: dict[str, Any]
) -> None:
    workloads = chosen_workloads(options.workloads)
    repeats = 3 if options.quick else options.repeats
    passes = 1 if options.quick else options.passes
    seconds = 0 if options.quick else 60 * options.minutes / max(len(workloads), 1)
    effort = race.Effort(-(-repeats // passes), seconds / passes, options.quick)
    trainers = [c for c in contestants if PEERS[c.name].trains]
    results["peers"] = {c.name: c.about for c in reversed(contestants)}
    results["peaks"] = race.peaks(contestants, options.quick)
    for line in report.machine_lines(results):
        print(line, flush=True)
    by_workload: dict[str, Any] = {}
    for workload in passes * workloads if "train" in options.parts else []:
        earlier = by_workload.get(workload.name)
        records = race.train(workload, trainers, effort, say, earlier)
        by_workload[workload.name] = records
        results["training"] = [r for group in by_workload.values() for r in group]
        for heat in heats({**results, "training": records}):
            print("\n".join(report.heat_lines(heat)), flush=True)
    for _ in range(passes if "recipe" in options.parts else 0):
        results["recipe"] = recipe.measure(
            contestants, options.workloads, effort, say, results["recipe"]
        )
    for n_rows in race.N_ROWS if "predict" in options.parts else ():
        results["predictions"] += race.predict(
            contestants, n_rows, effort._replace(repeats=repeats), say
        )
    for threads in options.threads if "estimators" in options.parts else []:
        group = [c for c in contestants if c.n_threads == threads]
        results["estimators"] += estimators.race(group, min(repeats, 3), options.quick, say)
    if "many" in options.parts:
        results["many"] = many.race(contestants, min(repeats, 5), options.quick, say)
    if "stream" in options.parts:
        whole = effort._replace(repeats=repeats)
        results["streams"] = stream.measure(contestants, options.workloads, whole, say)
    if "machines" in options.parts:
        libraries = [contestant.name for contestant in contestants]
        whole = effort._replace(repeats=repeats)
        results["machines"] = machines.measure(libraries, options.workloads, whole, say)
    ours = [c for c in contestants if c.name == "fastmlp"]
    if "mixed" in options.parts:
        # They are closed with the others.
        contestants += [c.twin() for c in contestants if PEERS[c.name].mixed]
        if options.variants:
            results["mixed"] = mixed.chosen(json.loads(options.variants.read_text()))
    for _ in range(passes if "mixed" in options.parts else 0):
        pairs = [c for c in contestants if PEERS[c.name].mixed]
        results["mixed"] = mixed.measure(pairs, options.workloads, effort, say, results["mixed"])
    results["peaks"] += race.peaks(ours, options.quick)


def main(words: list[str] | None = None) -> None:
    """Measure or load, print, and write what was asked for."""
    options = checked(words)
    if options.from_json:
        results = json.loads(options.json.read_text())
    else:
        results = measure(options)
        print("\n" + "=" * 40 + " all of it")
    for line in (checkouts.lines if "checkouts" in results else report.all_lines)(results):
        print(line)
    if options.json and not options.from_json:
        options.json.write_text(json.dumps(results, indent=1))
    if results.get("interrupted"):
        raise SystemExit("interrupted: no picture and no tables are written of part of a run")
    if options.picture:
        draw(results, options.picture)
    if options.pages:
        page.rewrite(results, options.picture)


if __name__ == "__main__":
    main()
