"""The whole report for the terminal, and the pages of docs, of the parts of `compare`.

A part is a module with `table(results, threads)` for its page in Markdown, which the terminal shows
too, or `lines(results)` for the terminal alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import (
    cold_start,
    estimators,
    machine,
    machines,
    many,
    mixed,
    predictions,
    recipe,
    second,
    steps,
    stream,
    training,
)
from benchmarks.output import between_markers
from benchmarks.peers import PEERS
from benchmarks.scores import Record, counted, peak_of, reason

LISTS = (
    *("training", "predictions", "estimators", "streams"),
    *("machines", "steps", "cold_starts", "peaks"),
)
DICTS = ("recipe", "many", "mixed", "second", "peers", "skipped")
# In the terminal: each contestant; tables by the number of threads; tables of one number.
LINES = (training, recipe, estimators)
BY_THREADS = (recipe, predictions, many, stream, mixed, steps)
ALONE = (machines, cold_start)
# The parts of docs/benchmarks.md; the others have pages of their own.
TABLES = (training, predictions, many, cold_start)


def empty() -> Record:
    """Results of no part."""
    return {**{name: [] for name in LISTS}, **{name: {} for name in DICTS}}


def machine_lines(results: Record) -> Iterator[str]:
    """The machine, the libraries, the peaks."""
    m = results["machine"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores; {m['caches']}; governor {m['governor']}"
    yield f"Python {m['python']}, fastmlp {m['fastmlp']}, load before {m['load']:.2f}"
    yield f"PyTorch's MKL {'with' if results.get('mkl_shim') else 'without'} the shim (--mkl-shim)"
    for name, about in {**results["peers"], **results["skipped"]}.items():
        yield f"  {PEERS[name].title}: {about}"
    for r in results["peaks"]:
        title = "peak of registers" if r["what"].startswith("fma") else PEERS[r["contestant"]].title
        yield f"  {r['what']}, {counted(r['threads'])}: {r.get('gflops', 0):.0f} GFLOP/s, {title}"


def all_lines(results: Record) -> Iterator[str]:
    """The whole report."""
    results = {**empty(), **results}
    yield from machine_lines(results)
    for part in LINES:
        yield from part.lines(results)
    for threads in dict.fromkeys(r["threads"] for r in results["peaks"]):
        tables = [line for part in BY_THREADS for line in part.table(results, threads)]
        yield from [f"\n{counted(threads)}", *tables] if tables else []
    for part in ALONE:
        yield from part.table(results)
    yield from second.table(results) if results["second"] else []
    yield from _failures(results)
    yield from training.mean_lines(results)
    idle = results["idle_cpu"]
    yield f"\nCPU that waiting contestants used: {idle:.2f} s of {results['seconds']:.0f} s"


def _failures(results: Record) -> Iterator[str]:
    """Those that have no result, and why."""
    lists = [results[name] for name in ("streams", "machines", "steps", "cold_starts")]
    lists += [results["mixed"].get("training", []), results["many"].get("sweeps", [])]
    lists += [results["recipe"].get("prices", [])]
    for r in (r for records in lists for r in records if r.keys() & {"error", "unsupported"}):
        what = next(
            (r[k] for k in ("workload", "stream", "sweep", "name", "task") if k in r),
            "a new process",
        )
        name = r.get("contestant", "fastmlp")
        yield f"  {what}: {PEERS[name].title if name in PEERS else name}: {reason(r)}"


def pages(results: Record, picture: Path | None) -> dict[Path, str]:
    """The text of each page whose parts have results."""
    results = {**empty(), **results}
    threads = max((r["threads"] for r in results["training"]), default=1)
    texts: dict[Path, str] = {}
    if results["training"]:
        intro = [_intro(results, threads), *_picture(picture, training.PAGE)]
        tables = (line for part in TABLES for line in part.table(results, threads))
        texts[training.PAGE] = "\n".join([*intro, *tables])
        shown = [f"{line.lstrip()}\n" for line in _picture(picture, training.README)]
        texts[training.README] = "\n".join([*shown, training.summary(results, threads)])
    for part, name in (
        *((recipe, "recipe"), (stream, "streams")),
        *((mixed, "mixed"), (steps, "steps")),
    ):
        if results[name]:
            threads = part.most_threads(results)
            lines = [_intro(results, threads), *part.table(results, threads)]
            texts[part.PAGE] = "\n".join(lines)
    if results["second"]:
        texts[second.PAGE] = "\n".join([_intro(results, 1), *second.table(results)])
    if results["machines"]:
        lines = [_intro(results, 1), *machines.table(results, 1)]
        texts[machines.PAGE] = "\n".join(lines)
    return texts


def rewrite(results: Record, picture: Path | None) -> None:
    """Write the pages of the parts that have results."""
    for page, text in pages(results, picture).items():
        between_markers(page, text)
    if results.get("second"):
        second.draw(results)


def _picture(picture: Path | None, page: Path) -> Iterator[str]:
    if picture:
        shown = os.path.relpath(picture, page.parent)
        yield f"\n![Time of the peers over fastmlp's, by workload]({shown})"


def _intro(results: Record, threads: int) -> str:
    intro = machine.measured(results["machine"], counted(threads))
    if results.get("mkl_shim") and "torch" in results["peers"]:
        intro += (
            "\nPyTorch's MKL was told to take this processor for Intel's (`--mkl-shim`): its sgemm "
            f"ran at {_sgemm(results, threads)}."
        )
    if results.get("quick"):
        intro += "\n\n**A quick run: few rows and repeats, to try the suite, not to compare.**"
    return intro


def _sgemm(results: Record, threads: int) -> str:
    """PyTorch's and NumPy's GFLOP/s, beside the peak."""
    rates = {
        r["contestant"]: r["gflops"]
        for r in results["peaks"]
        if r["what"] == "sgemm" and r["threads"] == threads
    }
    peak = peak_of(results, "float32", threads)
    beside = f", NumPy's at {rates['numpy']:.0f}" if "numpy" in rates else ""
    return f"{rates.get('torch', float('nan')):.0f} GFLOP/s{beside}, of {peak:.0f}"
