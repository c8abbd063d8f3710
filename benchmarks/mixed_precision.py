"""Training in bfloat16 mixed precision and in float32, beside PyTorch and JAX in both:
python -m benchmarks.mixed_precision"""

import argparse
import math
import sys
from statistics import median
from typing import Any

from benchmarks import peak, race
from benchmarks.contestant import Contestant
from benchmarks.peers import missing
from benchmarks.workloads import BY_NAME, MIXED, Workload

PEERS = ("fastmlp", "torch", "compile", "jax")
DTYPES = ("float32", "bfloat16")


def measured(
    load: Workload, contestants: list[Contestant], effort: race.Effort
) -> dict[tuple[str, str], float]:
    """Return milliseconds a step by contestant and dtype, medians of turns of all."""
    loads = (BY_NAME[load.name.removesuffix(" in bfloat16")], load)
    found: dict[tuple[str, str], list[float]] = {}
    records: list[Any] = [None, None]
    # By dtype in turns: of one contestant only one run is there at a time.
    for _ in range(2):
        for i, dtype in enumerate(DTYPES):
            records[i] = race.train(loads[i], contestants, effort, say, records[i])
            for record in records[i]:
                found[record["contestant"], dtype] = record["step_seconds"]
    return {key: median(each) * 1e3 for key, each in found.items() if each}


def say(words: str) -> None:
    """Tell what is going on."""
    print(words, file=sys.stderr, flush=True)


def row_of(load: Workload, names: list[str], times: dict[tuple[str, str], float]) -> str:
    """Return a row of the table: times, the two ratios, and the rate."""
    ours = times["fastmlp", "bfloat16"]
    others = [ms for (name, _), ms in times.items() if name != "fastmlp"]
    cells = [
        " / ".join(f"{times.get((name, dtype), math.nan):.3g}" for dtype in DTYPES)
        for name in names
    ]
    fastest = f"{min(others) / ours:.2f}" if others else "-"
    rate = f"{load.flops / ours / 1e6:.0f}"
    own = f"{times['fastmlp', 'float32'] / ours:.2f}"
    name = load.name.removesuffix(" in bfloat16")
    return f"| {' | '.join([name, *cells, own, fastest, rate])} |"


def main() -> None:
    """Print a table in Markdown: ms a step in float32 / in bfloat16, by contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10, help="of a workload in one dtype")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workloads", nargs="*", default=[""])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    given = parser.parse_args()
    names = [name for name in given.peers if not missing(name)]
    contestants = [Contestant(name, given.threads) for name in names]
    effort = race.Effort(given.repeats, given.seconds / 2, False)
    peaks = {dtype: peak.peak(dtype, given.threads) for dtype in ("float32", "bfloat16")}
    print("peaks:", ", ".join(f"{dtype} {rate:.0f} GFLOP/s" for dtype, rate in peaks.items()))
    for contestant in contestants:
        print(f"{contestant.title}: {contestant.about}")
    columns = ["net@batch", *names, "own float32", "fastest peer", "GFLOP/s"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for load in MIXED:
        if any(part in load.name for part in given.workloads):
            print(row_of(load, names, measured(load, contestants, effort)), flush=True)


if __name__ == "__main__":
    main()
