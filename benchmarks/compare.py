"""fastmlp beside its peers, or beside itself, in turns: `python -m benchmarks.compare`."""

import argparse
import json
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
    output,
    peak,
    predictions,
    recipe,
    report,
    second,
    steps,
    stream,
    training,
)
from benchmarks.contestant import Contestant
from benchmarks.output import say
from benchmarks.peers import PEERS, missing
from benchmarks.picture import draw
from benchmarks.race import Race, asked_for
from benchmarks.scores import Record
from benchmarks.workloads import BY_NAME, WORKLOADS

PARTS = (
    *("train", "recipe", "predict", "estimators", "many"),
    *("stream", "machines", "mixed", "steps", "cold", "second"),
)


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    page = "docs/benchmarks.md, README's figures, and the pages of other parts"
    parser = output.parser_of("benchmarks.compare", __doc__, page)
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
    add("--variants", type=Path, metavar="JSON", help="in mixed, those that an earlier run chose")
    add("--picture", type=Path, help="draw the ratios to a file")
    return parser


def checked(words: list[str] | None) -> argparse.Namespace:
    """The options; a run that would fail, or lose its results, after an hour ends here."""
    parser = arguments()
    options = output.parsed(parser, words)
    two = min(2, machine.cores())
    usual: dict[str, Any] = {"threads": [two], "repeats": 7, "passes": 2}
    if options.checkouts:
        _check_checkouts(parser, options)
        turns = {"repeats": checkouts.TURNS, "passes": checkouts.PASSES}
        usual = {"threads": sorted({1, two}), **turns}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not all(1 <= n <= machine.cores() for n in options.threads):
        parser.error(f"--threads: from 1 to {machine.cores()}, the cores of this process")
    for name in ("repeats", "passes", "minutes"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0")
    if options.variants and not options.variants.is_file():
        parser.error(f"there is no file {options.variants}")
    if options.picture and not options.picture.parent.is_dir():
        parser.error(f"there is no folder {options.picture.parent}")
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
    """The workloads whose names contain one of these; none if they are of other parts."""
    chosen = [w for w in WORKLOADS if asked_for(w.name, parts)]
    others = [*stream.BY_NAME, *machines.BY_NAME, *steps.TASKS, *second.TARGETS]
    if not chosen and not any(asked_for(name, parts) for name in others):
        raise SystemExit(f"no such workload; there are {', '.join([*BY_NAME, *others])}")
    return chosen


def start(names: list[str], threads: list[int], *, shim: bool) -> list[Contestant]:
    """Start the processes of all contestants; each is stopped until its turn."""
    present = [name for name in names if not missing(name)]
    return [Contestant(name, n, shim=shim) for n in threads for name in present]


def measure(options: argparse.Namespace) -> Record:
    """Run all parts that the options name."""
    if options.checkouts:
        return checkouts.measure(options, chosen_workloads(options.workloads), say)
    begin = time.perf_counter()
    names = ["fastmlp", *(options.peers or [name for name in PEERS if name != "fastmlp"])]
    names = [name for name in names if PEERS[name].alone in ("", *options.parts)]
    results: Record = {
        **report.empty(),
        "quick": options.quick,
        "mkl_shim": options.mkl_shim,
        "machine": machine.describe(),
        "skipped": {name: why for name in names if (why := missing(name))},
    }
    contestants = start(names, options.threads, shim=options.mkl_shim)
    try:
        _race(options, contestants, results)
    except KeyboardInterrupt:
        results["interrupted"] = True
        say("interrupted: the results so far follow")
    finally:
        for contestant in contestants:
            contestant.close()
    results["idle_cpu"] = sum(contestant.idle_cpu for contestant in contestants)
    if "cold" in options.parts and "interrupted" not in results:
        say("cold starts")
        results["cold_starts"] = cold_start.measure(names, 1 if options.quick else 5)
    if "second" in options.parts and "interrupted" not in results:
        results["second"] = second.measure(quick=options.quick, targets=options.workloads)
    results["seconds"] = time.perf_counter() - begin
    return results


def _race(options: argparse.Namespace, everyone: list[Contestant], results: Record) -> None:
    """Add the results of each part, of which some have several passes."""
    contestants = [c for c in everyone if not PEERS[c.name].alone]
    parts, workloads = options.parts, chosen_workloads(options.workloads)
    repeats, passes = (3, 1) if options.quick else (options.repeats, options.passes)
    seconds = 0 if options.quick else 60 * options.minutes / max(len(workloads), 1)
    race = Race(contestants, options.workloads, repeats, seconds / passes, options.quick, say)
    one_pass = race._replace(repeats=-(-repeats // passes))
    results["peers"] = {c.name: c.about for c in reversed(everyone)}
    results["peaks"] = peak.measure(contestants, quick=options.quick)
    for line in report.machine_lines(results):
        print(line, flush=True)
    by_workload: dict[str, list[Record]] = {}
    for workload in passes * workloads if "train" in parts else []:
        records = training.measure(one_pass, workload, by_workload.get(workload.name))
        by_workload[workload.name] = records
        results["training"] = [r for group in by_workload.values() for r in group]
        for heat in training.heats({**results, "training": records}):
            print("\n".join(training.heat_lines(heat)), flush=True)
    for _ in range(passes if "recipe" in parts else 0):
        results["recipe"] = recipe.measure(one_pass, results["recipe"])
    for n_rows in predictions.N_ROWS if "predict" in parts else ():
        results["predictions"] += predictions.measure(race, n_rows)
    for threads in options.threads if "estimators" in parts else []:
        group = [c for c in contestants if c.n_threads == threads]
        few = race._replace(contestants=group, repeats=min(repeats, 3))
        results["estimators"] += estimators.measure(few)
    if "many" in parts:
        results["many"] = many.measure(race._replace(repeats=min(repeats, 5)))
    if "stream" in parts:
        results["streams"] = stream.measure(race)
    if "machines" in parts:
        results["machines"] = machines.measure(race, [c.name for c in contestants])
    ours = race.those(["fastmlp"])
    if "mixed" in parts:
        pairs = [c for c in contestants if "mixed" in PEERS[c.name].forms]
        # They are closed with the others.
        everyone += (twins := [c.twin() for c in pairs])
        if options.variants:
            results["mixed"] = mixed.chosen(json.loads(options.variants.read_text()))
        for _ in range(passes):
            both = one_pass._replace(contestants=[*pairs, *twins])
            results["mixed"] = mixed.measure(both, results["mixed"])
    if "steps" in parts:
        results["steps"] = steps.measure(race._replace(contestants=everyone))
    results["peaks"] += peak.measure(ours, quick=options.quick)


def main(words: list[str] | None = None) -> None:
    """Measure or load, print, and write all that the options name."""
    options = checked(words)
    if options.from_json:
        results = output.earlier(options)
    else:
        results = measure(options)
        print("\n" + "=" * 40 + " all of it")
    for line in (checkouts.lines if "checkouts" in results else report.all_lines)(results):
        print(line)
    if not options.from_json:
        output.keep(results, options)
    if results.get("interrupted"):
        raise SystemExit("interrupted: no picture and no tables are written of part of a run")
    if options.picture:
        draw(results, options.picture)
    if options.pages:
        report.rewrite(results, options.picture)


if __name__ == "__main__":
    main()
