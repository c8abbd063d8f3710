"""fastmlp beside its peers, or beside itself, in turns: `python -m benchmarks.compare`.

A part is a module with a `PART`, which stands in the list `PARTS` here.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    checkouts,
    estimators,
    first_seconds,
    kinds,
    machine,
    machines,
    many,
    mixed,
    output,
    peak,
    predictions,
    recipe,
    second,
    steps,
    stream,
    training,
    yours,
)
from benchmarks.output import between_markers, say
from benchmarks.peers import PEERS, missing
from benchmarks.race import Contestant, Part, Race, asked_for, untimed
from benchmarks.scores import Record, counted, failed, peak_of, reason
from benchmarks.workloads import BY_NAME, WORKLOADS

# In the order in which they are measured, and shown.
PARTS: tuple[Part, ...] = (
    *(
        training.PART,
        recipe.PART,
        predictions.PART,
        predictions.DRAWN_PART,
        estimators.PART,
    ),
    *(
        many.PART,
        stream.PART,
        machines.PART,
        mixed.PART,
        steps.PART,
        first_seconds.PART,
    ),
    second.PART,
)
NAMES = [part.name for part in PARTS]
# That tell records apart.
FACTS = (
    "contestant",
    "threads",
    *checkouts.FACTS,
    "stream",
    "target",
    "peer",
    "seed",
    "dtype",
)
# Of one thread, of processes of their own, or with a table for each number.
ALONE = (machines.PART, first_seconds.PART, second.PART, predictions.DRAWN_PART)


def arguments() -> argparse.ArgumentParser:
    page = "docs/benchmarks.md, README's figures, and the pages of other parts; of --quick another"
    parser = output.parser_of("benchmarks.compare", __doc__, page)
    add = parser.add_argument
    add("--workloads", nargs="+", metavar="NAME", help="parts of names; default: all")
    add(
        "--peers",
        nargs="+",
        choices=[p for p in PEERS if PEERS[p].module][1:],
        help="default: all",
    )
    add("--parts", nargs="+", choices=NAMES, help="default: all")
    checkout = "time the fastmlp of one checkout, then of another, by default this one; no peers"
    add("--checkouts", nargs="+", type=Path, metavar="FOLDER", help=checkout)
    threads = "one number or several; default: 2, of checkouts 1 and 2"
    add("--threads", nargs="+", type=int, help=threads)
    repeats = "turns of each contestant on a workload; default: 7, of checkouts 9"
    add("--repeats", "--turns", type=int, help=repeats)
    passes = "over all workloads, minutes apart, with the turns shared; default: 2, of checkouts 3"
    add("--passes", type=int, help=passes)
    add(
        "--minutes",
        type=float,
        help="bounds the timed turns, by 20; compiling is on top",
    )
    own = f"in five minutes: {len(yours.NETS)} nets, predictions, estimators, new processes; with"
    add(
        "--quick", action="store_true", help=f"{own} --pages the figures go beside ours"
    )
    add(
        "--smoke",
        action="store_true",
        help="few rows, 3 repeats: to try it, not to compare",
    )
    add(
        "--cpu-time",
        action="store_true",
        help="CPU seconds, of 1 thread: beside other work",
    )
    add(
        "--mkl-shim",
        action="store_true",
        help="have PyTorch's MKL take this for an Intel CPU",
    )
    add(
        "--variants",
        type=Path,
        metavar="JSON",
        help="of training: those that an earlier run chose",
    )
    return parser


def checked(words: list[str] | None) -> argparse.Namespace:
    """The options; a run that would fail, or lose its results, after an hour ends here."""
    parser = arguments()
    options = output.parsed(parser, words)
    two = min(2, machine.cores())
    usual: dict[str, Any] = {"threads": [two], "repeats": 7, "passes": 2}
    usual |= {"parts": NAMES, "minutes": 20.0}
    if options.quick:
        _check_quick(parser, options)
        usual |= yours.USUAL
    if options.checkouts:
        _check_checkouts(parser, options)
        turns = {"repeats": checkouts.TURNS, "passes": checkouts.PASSES}
        usual |= {"threads": sorted({1, two}), **turns}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not all(1 <= n <= machine.cores() for n in options.threads):
        parser.error(
            f"--threads: from 1 to {machine.cores()}, the cores of this process"
        )
    for name in ("repeats", "passes", "minutes"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0")
    if options.variants and not options.variants.is_file():
        parser.error(f"there is no file {options.variants}")
    return options


def _check_checkouts(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> None:
    if len(options.checkouts) > 2:
        parser.error("--checkouts takes one folder or two")
    for folder in options.checkouts:
        if not (folder / "fastmlp" / "__init__.py").is_file():
            parser.error(f"there is no fastmlp in {folder}")
    for name in ("peers", "pages", "mkl_shim", "quick"):
        if getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} does not go with --checkouts")


def _check_quick(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if others := {*(options.parts or ())} - {*yours.USUAL["parts"]}:
        parser.error(
            f"--quick has no {', '.join(sorted(others))}; leave it out for these parts"
        )
    if options.pages and not os.access(yours.YOURS.parent, os.W_OK):
        parser.error(
            f"--pages writes to {yours.YOURS.parent}, which cannot be written to"
        )


def chosen_workloads(names: list[str] | None) -> list[Any]:
    """The workloads whose names contain one of these; none if they are of other parts."""
    chosen = [w for w in WORKLOADS if asked_for(w.name, names)]
    others = [
        *predictions.DRAWN,
        *stream.BY_NAME,
        *machines.BY_NAME,
        *steps.TASKS,
        *second.TARGETS,
    ]
    if not chosen and not any(asked_for(name, names) for name in others):
        raise SystemExit(
            f"no such workload; there are {', '.join([*BY_NAME, *others])}"
        )
    return chosen


def race_of(options: argparse.Namespace, *shared: int) -> Race:
    """A race without contestants; its workloads share the minutes with others."""
    workloads, passes = len(chosen_workloads(options.workloads)), options.passes
    repeats = 3 if options.smoke else -(-options.repeats // passes)
    seconds = 60 * options.minutes / max(workloads, 1) / passes
    for n in shared:
        seconds /= n
    return Race(
        [],
        options.workloads,
        repeats,
        0 if options.smoke else seconds,
        options.smoke,
        say,
    )


def measure(options: argparse.Namespace) -> Record:
    """Run all parts that the options name."""
    options.passes = 1 if options.smoke else options.passes
    shown = yours.PARTS if options.quick else PARTS
    chosen = [part for part in shown if part.name in options.parts]
    if options.checkouts:
        return checkouts.measure(
            options, chosen, race_of(options, len(options.threads))
        )
    begin = time.perf_counter()
    names = [
        "fastmlp",
        *(options.peers or [name for name in PEERS if name != "fastmlp"]),
    ]
    names = [name for name in names if PEERS[name].alone in ("", *options.parts)]
    results: Record = {
        **empty(),
        "quick": options.smoke,
        "visit": options.quick,
        "mkl_shim": options.mkl_shim,
        "cpu_time": options.cpu_time,
        "machine": machine.describe(),
        "skipped": {name: why for name in names if (why := missing(name))},
    }
    race = start(names, options)
    if options.quick:
        race = race._replace(
            trial_seconds=yours.TRIAL_SECONDS, until=begin + yours.SECONDS
        )
    everyone = [*race.contestants, *race.twins]
    try:
        _race(options, chosen, race, results)
    except KeyboardInterrupt:
        results["interrupted"] = True
        say("interrupted: the results so far follow")
    finally:
        for contestant in everyone:
            contestant.close()
    results["idle_cpu"] = sum(contestant.idle_cpu for contestant in everyone)
    results["seconds"] = time.perf_counter() - begin
    return joined(output.earlier(options), results)


def joined(old: Record, new: Record) -> Record:
    """A run's results, and those of an earlier one of the same code and processor."""
    if any(
        old.get("machine", {}).get(fact) != new["machine"][fact]
        for fact in ("fastmlp", "cpu")
    ):
        return new
    parts = {part.key: _joined(old[part.key], new[part.key]) for part in PARTS}
    sums = {key: old[key] + new[key] for key in ("peaks", "idle_cpu", "seconds")}
    return {**new, **parts, **sums, "peers": {**old["peers"], **new["peers"]}}


def _joined(old: Any, new: Any) -> Any:
    """Records of both, of those with the same facts the new one."""
    if isinstance(new, dict):
        return {
            key: _joined(old.get(key, []), new.get(key, [])) for key in {**old, **new}
        }
    facts = [_facts(record) for record in new]
    return [record for record in old if not new or _facts(record) not in facts] + new


def _facts(record: Any) -> Any:
    return [record.get(name) for name in FACTS] if isinstance(record, dict) else record


def start(names: list[str], options: argparse.Namespace) -> Race:
    """A race of one pass; its contestants' processes are started, and stopped until their turn."""
    present = [name for name in names if not missing(name)]
    contestants = [
        Contestant(name, n, shim=options.mkl_shim)
        for n in options.threads
        for name in present
    ]
    both = [
        c
        for c in contestants
        if "mixed" in PEERS[c.name].forms and "mixed" in options.parts
    ]
    twins = [contestant.twin() for contestant in both]
    [c.ask("count_cpu_time") for c in (*contestants, *twins) if options.cpu_time]
    return race_of(options)._replace(contestants=contestants, twins=twins)


def _race(
    options: argparse.Namespace, chosen: list[Part], one_pass: Race, results: Record
) -> None:
    """Add the results of each part, of which some have several passes."""
    results["peers"] = {c.name: c.about for c in reversed(one_pass.contestants)}
    results["peaks"] = peak.measure(one_pass)
    print("\n".join(machine_lines(results)), flush=True)
    if options.variants:
        ran = json.loads(options.variants.read_text())
        results["training"] = untimed(ran["training"])
        results["mixed"] = {"training": untimed(ran["mixed"].get("training", []))}
    whole = one_pass if options.smoke else one_pass._replace(repeats=options.repeats)
    for part in chosen:
        race, passes = (one_pass, options.passes) if part.repeated else (whole, 1)
        if options.quick and part is not training.PART:
            race = race._replace(quick=True)
        for _ in range(passes):
            results[part.key] = part.measure(race, results[part.key])
        print("\n".join(part.lines(results)), flush=True)
    results["peaks"] += peak.measure(one_pass.only(["fastmlp"]))


def empty() -> Record:
    return {
        "peers": {},
        "skipped": {},
        "peaks": [],
        **{part.key: part.kind() for part in PARTS},
    }


def machine_lines(results: Record) -> Iterator[str]:
    m = results["machine"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores; {m['caches']}; governor {m['governor']}"
    yield f"Python {m['python']}, fastmlp {m['fastmlp']}, load before {m['load']:.2f}"
    yield f"PyTorch's MKL {'with' if results.get('mkl_shim') else 'without'} the shim (--mkl-shim)"
    for name, about in {**results["peers"], **results["skipped"]}.items():
        yield f"  {PEERS[name].title}: {about}"
    for r in results["peaks"]:
        title = (
            "peak of registers"
            if r["what"].startswith("fma")
            else PEERS[r["contestant"]].title
        )
        yield f"  {r['what']}, {counted(r['threads'])}: {r.get('gflops', 0):.0f} GFLOP/s, {title}"


def all_lines(results: Record) -> Iterator[str]:
    results = {**empty(), **results}
    yield from machine_lines(results)
    for part in PARTS:
        yield from part.lines(results)
    shown = PARTS
    for threads in dict.fromkeys(r["threads"] for r in results["peaks"]):
        tables = [line for part in shown for line in part.table(results, threads)]
        # Tables of one number of threads alone are shown once.
        shown = tuple(part for part in shown if part not in ALONE)
        yield from [f"\n{counted(threads)}", *tables] if tables else []
    for record in filter(
        failed, (r for part in PARTS[1:] for r in _records(results[part.key]))
    ):
        keys = (
            "workload",
            "stream",
            "sweep",
            "name",
            "task",
            "target",
            "what",
            "n_rows",
        )
        what = next((record[key] for key in keys if key in record), "a new process")
        name = record.get("contestant", record.get("peer", "fastmlp"))
        yield f"  {what}: {PEERS[name].title if name in PEERS else name}: {reason(record)}"
    idle = results["idle_cpu"]
    yield f"\nCPU that waiting contestants used: {idle:.2f} s of {results['seconds']:.0f} s"


def _records(results: Any) -> list[Record]:
    """All records of a part's results."""
    lists = [*results.values()] if isinstance(results, dict) else [results]
    records = [record for part in lists if isinstance(part, list) for record in part]
    return [record for record in records if isinstance(record, dict)]


def pages(results: Record) -> dict[Path, str]:
    """The text of each page whose first part has results, but for that of all kinds."""
    results, texts = {**empty(), **results}, dict[Path, str]()
    for page, parts in by_page().items():
        if page != training.PAGE and (n := _threads(results, parts[:1])):
            lines = [line for part in parts for line in part.table(results, n)]
            texts[page] = "\n".join([_intro(results, n), *lines])
    return texts


def by_page() -> dict[Path, list[Part]]:
    shown: dict[Path, list[Part]] = {}
    for part in PARTS:
        if part.page:
            shown.setdefault(part.page, []).append(part)
    return shown


def _threads(results: Record, parts: list[Part]) -> int:
    """The most threads of parts' records; 0 without records."""
    records = [r for part in parts for r in _records(results[part.key])]
    return max((r.get("threads", 1) for r in records), default=0)


def rewrite(results: Record) -> None:
    """Write all pages of which there are results."""
    results = {**empty(), **results}
    for page, text in pages(results).items():
        between_markers(page, text)
    if threads := _threads(results, parts := by_page()[training.PAGE]):
        kinds.keep(results, parts, _intro(results, threads))
    kinds.rewrite()
    for part in PARTS:
        if part.draw and _records(results.get(part.key, [])):
            part.draw(results)


def _intro(results: Record, threads: int) -> str:
    load = results["machine"]["load"]
    clock = f", CPU time beside a load of {load:.0f}" if results.get("cpu_time") else ""
    intro = machine.measured(results, counted(threads) + clock)
    if results.get("mkl_shim") and "torch" in results["peers"]:
        measured = [
            r
            for r in results["peaks"]
            if r["what"] == "sgemm" and r["threads"] == threads
        ]
        rates = {r["contestant"]: r["gflops"] for r in measured}
        beside = f", NumPy's at {rates['numpy']:.0f}" if "numpy" in rates else ""
        intro += (
            "\nPyTorch's MKL was told to take this processor for Intel's (`--mkl-shim`): its sgemm "
            f"ran at {rates.get('torch', float('nan')):.0f} GFLOP/s{beside}, "
            f"of {peak_of(results, 'float32', threads):.0f}."
        )
    if results.get("quick"):
        intro += "\n\n**A short run: few rows and repeats, to try the suite, not to compare.**"
    return intro


def main(words: list[str] | None = None) -> None:
    options = checked(words)
    if options.from_json:
        results = output.earlier(options)
    else:
        results = measure(options)
        print("\n" + "=" * 40 + " all of it")
    for line in (checkouts.lines if "checkouts" in results else all_lines)(results):
        print(line)
    if not options.from_json:
        output.keep(results, options)
    if results.get("interrupted"):
        raise SystemExit("interrupted: no tables are written of part of a run")
    if options.pages and results.get("visit"):
        yours.write(results, options.json)
    elif options.pages:
        rewrite(results)


if __name__ == "__main__":
    main()
