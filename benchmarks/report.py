"""Results as text for the terminal."""

from collections.abc import Iterator
from typing import Any

from benchmarks import estimators, machines, many, mixed, recipe, stream
from benchmarks.peers import PEERS
from benchmarks.scores import Heat, counted, geometric_means, heats, quartiles

HEADER = (
    f"  {'contestant':<14} {'us/step':>10} {'quartiles':>17} {'samples/s':>10} {'GFLOP/s':>8} "
    f"{'% peak':>6}  {'/ fastmlp':>9} {'quartiles':>15} {'loss':>8} {'first':>7}  variant"
)


def digits(number: float) -> str:
    """Return a number in three digits, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def heat_lines(heat: Heat) -> Iterator[str]:
    """A workload: every contestant, the fastest peer marked."""
    yield f"\n{heat.workload.description}; {heat.workload.flops / 1e6:.3g} MFLOP a step; " + (
        counted(heat.threads)
    )
    yield HEADER
    for s in sorted(heat.scores, key=lambda score: score.us.median):
        mark = "*" if s is heat.fastest_peer else " "
        iqr = f"{digits(s.us.low)} - {digits(s.us.high)}"
        spread = f"{s.ratio.low:.2f} - {s.ratio.high:.2f}"
        yield (
            f"{mark} {s.title:<14} {digits(s.us.median):>10} {iqr:>17} "
            f"{s.samples_per_second:>10,.0f} {digits(s.gflops):>8} {s.percent_of_peak:>6.1f}  "
            f"{s.ratio.median:>9.2f} {spread:>15} {s.loss:>8.4f} {s.first_seconds:>6.1f}s  "
            f"{s.variant}"
        )
    for name, reason in heat.absent:
        yield f"  {PEERS[name].title:<14} - {reason}"


def mean_lines(results: dict[str, Any]) -> Iterator[str]:
    """Geometric means of all workloads, lost ones included."""
    all_heats = heats(results)
    for threads in dict.fromkeys(heat.threads for heat in all_heats):
        yield f"\ngeometric mean of time over fastmlp's, {counted(threads)}"
        for name, (mean, wins, n) in geometric_means(all_heats, threads).items():
            title = PEERS[name].title if name in PEERS else name
            yield f"  {title:<14} {mean:>6.2f}x   fastmlp ahead on {wins} of {n}"


def speedup_lines(results: dict[str, Any]) -> Iterator[str]:
    """What more threads gain, by contestant."""
    by_key = {(h.workload.name, h.threads): h for h in heats(results)}
    counts = sorted({threads for _, threads in by_key})
    if len(counts) < 2:
        return
    few, many = counts[0], counts[-1]
    names = list(dict.fromkeys(name for name, _ in by_key))
    yield f"\nspeed-up from {few} to {many} threads"
    contestants = [n for n in PEERS if PEERS[n].trains]
    yield f"  {'workload':<26}" + "".join(f"{PEERS[n].title:>15}" for n in contestants)
    for name in names:
        pairs = [(by_key[name, few].of(n), by_key[name, many].of(n)) for n in contestants]
        cells = [f"{a.us.median / b.us.median:.2f}" if a and b else "-" for a, b in pairs]
        yield f"  {name:<26}" + "".join(f"{cell:>15}" for cell in cells)


def prediction_lines(results: dict[str, Any]) -> Iterator[str]:
    """Latency of one row, time of many."""
    for n_rows in dict.fromkeys(r["n_rows"] for r in results["predictions"]):
        yield f"\npredict {n_rows:,} rows of 16-64-64-2, us a call"
        rows = [r for r in results["predictions"] if r["n_rows"] == n_rows and r["seconds"]]
        for r in sorted(rows, key=lambda r: (r["threads"], quartiles(r["seconds"]).median)):
            q = quartiles([1e6 * s for s in r["seconds"]])
            title = PEERS[r["contestant"]].title
            spread = f"({digits(q.low)} - {digits(q.high)})"
            yield (
                f"  {title:<14} {r['way']:<15} {counted(r['threads']):<10} "
                f"{digits(q.median):>10} {spread:>20}"
            )


def cold_lines(results: dict[str, Any]) -> Iterator[str]:
    """New processes."""
    if results["cold_starts"]:
        yield "\na new process, one epoch of 16-64-64-2@64: seconds with an empty and a full cache"
    for r in results["cold_starts"]:
        title = PEERS[r["contestant"]].title
        if "error" in r:
            yield f"  {title:<14} {r['error']}"
            continue
        full = quartiles(r["full"]).median
        yield f"  {title:<14} {r['empty']:>6.2f} {full:>6.2f}   peak memory {r['peak_mb']:,.0f} MB"


def machine_lines(results: dict[str, Any]) -> Iterator[str]:
    """The machine, the libraries, the peaks."""
    m = results["machine"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores; {m['caches']}; governor {m['governor']}"
    yield f"Python {m['python']}, fastmlp {m['fastmlp']}, load before {m['load']:.2f}"
    yield f"PyTorch's MKL {'with' if results.get('mkl_shim') else 'without'} the shim (--mkl-shim)"
    for name, about in results["peers"].items():
        yield f"  {PEERS[name].title}: {about}"
    for r in results["peaks"]:
        title = "peak of registers" if r["what"].startswith("fma") else PEERS[r["contestant"]].title
        yield f"  {r['what']}, {counted(r['threads'])}: {r.get('gflops', 0):.0f} GFLOP/s, {title}"
    for name, reason in results["skipped"].items():
        yield f"  {PEERS[name].title}: {reason}"


def all_lines(results: dict[str, Any]) -> Iterator[str]:
    """The whole report."""
    yield from machine_lines(results)
    for heat in heats(results):
        yield from heat_lines(heat)
    for heat in recipe.heats_of(results):
        yield from heat_lines(heat)
    yield from recipe.lines(results)
    yield from speedup_lines(results)
    yield from prediction_lines(results)
    yield from estimators.lines(results)
    yield from many.lines(results)
    yield from stream.lines(results)
    yield from machines.lines(results)
    yield from mixed.lines(results)
    yield from cold_lines(results)
    yield from mean_lines(results)
    idle = results["idle_cpu"]
    yield f"\nCPU that waiting contestants used: {idle:.2f} s of {results['seconds']:.0f} s"
