"""Contestants in turns: a workload's repeats are interleaved, so that all meet the same weather."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks import peak
from benchmarks.contestant import Contestant
from benchmarks.workloads import Workload

Say = Callable[[str], None]
PREDICTED = "16-64-64-2@64"
# What the first pass found is what is told, and counts for the turns' lengths.
KEPT = ("variant", "tried", "first_seconds", "loss", "epoch_seconds")
N_ROWS = (1, 32, 1_000, 100_000)
PREDICT_SECONDS = 0.02


class Effort(NamedTuple):
    """How much to measure.

    Attributes
    ----------
    repeats : turns of each contestant
    workload_seconds : bounds the turns of one workload; preparing comes on top
    quick : few rows, first variants only
    """

    repeats: int
    workload_seconds: float
    quick: bool

    def turn_seconds(self, n_contestants: int) -> float:
        """Return how long a turn should take."""
        return min(max(self.workload_seconds / (self.repeats * n_contestants), 0.02), 0.5)


def asked_for(name: str, parts: Sequence[str] | None) -> bool:
    """Return True if a workload's name contains one of the parts, or there are none."""
    return not parts or any(part in name for part in parts)


def train(
    workload: Workload,
    contestants: list[Contestant],
    effort: Effort,
    say: Say,
    earlier: list[Any] | None = None,
) -> list[Any]:
    """Return one record per contestant: seconds per step by repeat, or why there are none.

    With the records of an earlier pass, the same variants go on where those end.
    """
    return turns([(contestant, workload) for contestant in contestants], effort, say, earlier)


def turns(
    entries: list[tuple[Contestant, Workload]],
    effort: Effort,
    say: Say,
    earlier: list[Any] | None = None,
) -> list[Any]:
    """Do as `train` does, of contestants that each have a workload of their own; all of them have
    as many steps an epoch."""
    records = earlier or [
        {"contestant": c.name, "threads": c.n_threads, "workload": load.name, "step_seconds": []}
        for c, load in entries
    ]
    for (contestant, workload), record in zip(entries, records, strict=True):
        _prepare(workload, contestant, record, effort, say)
    pairs = zip(entries, records, strict=True)
    ready = [(contestant, r) for (contestant, _), r in pairs if "epoch_seconds" in r]
    workload = entries[0][1]
    steps = workload.quick().n_steps if effort.quick else workload.n_steps
    for repeat in range(effort.repeats):
        for contestant, record in rotated(ready, repeat):
            n = max(1, int(effort.turn_seconds(len(ready)) / record["epoch_seconds"]))
            reply = contestant.ask("turn", n=n)
            if "seconds" in reply:
                record["step_seconds"].append(reply["seconds"] / (n * steps))
    return records


def _prepare(
    workload: Workload, contestant: Contestant, record: dict[str, Any], effort: Effort, say: Say
) -> None:
    """Choose a variant, or make the chosen one again; add what is known to the record."""
    if record.keys() & {"unsupported", "error"}:
        return
    say(f"{workload.name}: preparing {contestant.title}, threads {contestant.n_threads}")
    request = {"workload": workload.name, "quick": effort.quick, "all_variants": not effort.quick}
    reply = contestant.ask("prepare", **request, variant=record.get("variant"))
    record.update({**reply, **{key: record[key] for key in KEPT if key in record}})


def rotated(items: list[Any], by: int) -> Iterable[Any]:
    """Another one begins each time: being first is not always the same one's luck."""
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def predict(contestants: list[Contestant], n_rows: int, effort: Effort, say: Say) -> list[Any]:
    """Return one record per contestant and way to predict: seconds a call by repeat."""
    ready: list[tuple[Contestant, dict[str, Any]]] = []
    for contestant in contestants:
        say(f"predict {n_rows} rows: preparing {contestant.title}")
        reply = contestant.ask("predictors_of", workload=PREDICTED, n_rows=n_rows)
        key = {"contestant": contestant.name, "threads": contestant.n_threads, "n_rows": n_rows}
        ways = reply.get("names", [])
        ready += [(contestant, {**key, "way": way, "seconds": []}) for way in ways]
    calls = [_calls(contestant, record["way"]) for contestant, record in ready]
    for repeat in range(effort.repeats):
        for (contestant, record), n in rotated([*zip(ready, calls, strict=True)], repeat):
            reply = contestant.ask("predict", name=record["way"], calls=n)
            record["seconds"] += [reply["seconds"]] if "seconds" in reply else []
    return [record for _, record in ready]


def _calls(contestant: Contestant, way: str) -> int:
    """Return how many predictions take a turn."""
    seconds = contestant.ask("predict", name=way, calls=10).get("seconds", PREDICT_SECONDS)
    return max(3, int(PREDICT_SECONDS / seconds))


def peaks(contestants: list[Contestant], quick: bool) -> list[dict[str, Any]]:
    """Return the FMA peaks, by dtype and threads, and each library's own sgemm."""
    records = []
    for contestant in contestants:
        key = {"contestant": contestant.name, "threads": contestant.n_threads}
        if contestant.name == "fastmlp":
            for dtype in peak.dtypes():
                reply = contestant.ask("peak", dtype=dtype, threads=contestant.n_threads)
                records.append({**key, "what": f"fma {dtype}", **reply})
        reply = contestant.ask("sgemm", size=512 if quick else 2048)
        if reply.get("gflops"):
            records.append({**key, "what": "sgemm", **reply})
    return records
