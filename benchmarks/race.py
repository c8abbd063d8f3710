"""Contestants in turns, which are interleaved: all meet the same slow seconds of a machine."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.scores import Record, counted
from benchmarks.workloads import Workload

Say = Callable[[str], None]
Clock = Callable[[], float]
Entry = tuple[Any, Record]
# A later pass keeps the variant that the first has chosen, and how long a turn is.
KEPT = ("variant", "tried", "first_seconds", "loss", "epoch_seconds")


class Race(NamedTuple):
    """Contestants, and how much of their work is measured.

    Attributes
    ----------
    names : parts of names of the workloads that take part; None: all
    repeats : turns of each contestant
    workload_seconds : bounds the turns of one workload; preparing comes on top
    quick : few rows, first variants only
    """

    contestants: Sequence[Any]
    names: Sequence[str] | None
    repeats: int
    workload_seconds: float
    quick: bool
    say: Say

    def turn_seconds(self, n_contestants: int) -> float:
        """The seconds that a turn should take."""
        return min(max(self.workload_seconds / (self.repeats * n_contestants), 0.02), 0.5)

    def asked_for(self, name: str) -> bool:
        """Return True if a workload's name contains one of the parts, or there are none."""
        return asked_for(name, self.names)

    def those(self, names: Iterable[str]) -> list[Any]:
        """The contestants of these names."""
        return [contestant for contestant in self.contestants if contestant.name in names]

    def prepare(
        self, contestant: Any, record: Record, what: str, part: str, **request: Any
    ) -> list[Entry]:
        """Have a contestant make the work of a part, and add its reply to the record.

        Returns both, or nothing of a contestant that cannot.
        """
        self.say(f"{what}: preparing {contestant.title}, {counted(contestant.n_threads)}")
        reply = contestant.ask("make", part=part, **request)
        record |= {**reply, **{key: record[key] for key in KEPT if key in record}}
        return [] if reply.keys() & {"unsupported", "error"} else [(contestant, record)]


def asked_for(name: str, parts: Sequence[str] | None) -> bool:
    """Return True if a name contains one of the parts, or there are none."""
    return not parts or any(part in name for part in parts)


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The items, beginning with another one for each number: being first may be an advantage."""
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def in_turns(
    entries: Sequence[Any], rounds: int, turn: Callable[..., None], *, seconds: float = math.inf
) -> None:
    """Call `turn` with each entry, a tuple of its arguments, in each round.

    Rounds end after some seconds, but not before two of them.
    """
    end = time.perf_counter() + seconds
    for i in range(rounds):
        if i > 1 and time.perf_counter() > end:
            return
        for entry in rotated(entries, i):
            turn(*entry)


def timed(call: Callable[[], Any], clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """The seconds of a call, and its result."""
    begin = clock()
    result = call()
    return clock() - begin, result


def calls_in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, seconds: float = math.inf
) -> dict[str, list[float]]:
    """The seconds of calls, which take turns in this process, by name and turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    in_turns(
        [(name,) for name in calls],
        rounds,
        lambda name: times[name].append(timed(calls[name])[0]),
        seconds=seconds,
    )
    return times


def key_of(contestant: Any, **more: Any) -> Record:
    """The beginning of a contestant's record."""
    return {"contestant": contestant.name, "threads": contestant.n_threads, **more}


def train(
    race: Race, entries: Sequence[tuple[Any, Workload]], earlier: list[Record] | None = None
) -> list[Record]:
    """Seconds of a step by turn, or the reason that there are none, of each contestant's workload.

    All workloads have the same number of steps. With the records of an earlier pass, the turns go
    on with the same variants.
    """
    records = earlier or [key_of(c, workload=load.name, step_seconds=[]) for c, load in entries]
    ready: list[Entry] = []
    for (contestant, load), record in zip(entries, records, strict=True):
        if not record.keys() & {"unsupported", "error"}:
            request = {"workload": load.name, "quick": race.quick, "all_variants": not race.quick}
            request["variant"] = record.get("variant")
            ready += race.prepare(contestant, record, load.name, "training", **request)
    load = entries[0][1]
    steps = load.quick().n_steps if race.quick else load.n_steps

    def turn(contestant: Any, record: Record) -> None:
        n = max(1, int(race.turn_seconds(len(ready)) / record["epoch_seconds"]))
        reply = contestant.ask("turn", n=n)
        if "seconds" in reply:
            record["step_seconds"].append(reply["seconds"] / (n * steps))

    in_turns(ready, race.repeats, turn)
    return records


def ways_in_turns(
    race: Race, part: str, what: str, seconds: float, *, fewest: int = 1, **request: Any
) -> list[Record]:
    """Seconds a unit by turn, of each contestant and each of its ways, which a reply names.

    A call has one unit, or as many as the reply says.

    Parameters
    ----------
    seconds, fewest : the time of a turn, and the calls that it has at least
    request : goes to the work of the part, and into the records
    """
    entries: list[tuple[Any, Record, int]] = []
    failed = []
    for contestant in race.contestants:
        race.say(f"{what}: preparing {contestant.title}, {counted(contestant.n_threads)}")
        reply = contestant.ask("make", part=part, quick=race.quick, **request)
        for way, facts in reply.get("ways", {}).items():
            once = contestant.ask("turn", name=way, calls=fewest).get("seconds", seconds)
            record = key_of(contestant, way=way, seconds=[], **request, **facts)
            calls = max(fewest, int(seconds / (once * facts.get("units", 1))))
            entries.append((contestant, record, calls))
        if "error" in reply:
            failed.append(key_of(contestant, seconds=[], **request, error=reply["error"]))

    def turn(contestant: Any, record: Record, calls: int) -> None:
        reply = contestant.ask("turn", name=record["way"], calls=calls)
        record["seconds"] += [reply["seconds"]] if "seconds" in reply else []

    in_turns(entries, race.repeats, turn)
    return [*(record for _, record, _ in entries), *failed]
