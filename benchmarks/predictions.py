"""Predictions of 16-64-64-2: the latency of one row, the time of many."""

from collections.abc import Iterator
from typing import Any

from benchmarks.output import Table
from benchmarks.peers import PEERS
from benchmarks.race import Entry, Race, in_turns, key_of
from benchmarks.scores import Record, counted, digits, quartiles

PREDICTED = "16-64-64-2@64"
N_ROWS = (1, 32, 1_000, 100_000)
SECONDS = 0.02


def measure(race: Race, n_rows: int) -> list[Record]:
    """Seconds a call by turn, of each contestant and way to predict."""
    entries: list[Entry] = []
    for contestant in race.contestants:
        race.say(f"predict {n_rows} rows: preparing {contestant.title}")
        reply = contestant.ask("predictors_of", workload=PREDICTED, n_rows=n_rows)
        for way in reply.get("names", []):
            entries.append((contestant, key_of(contestant, n_rows=n_rows, way=way, seconds=[])))
    calls = {id(record): _calls(contestant, record["way"]) for contestant, record in entries}

    def turn(contestant: Any, record: Record) -> None:
        reply = contestant.ask("predict", name=record["way"], calls=calls[id(record)])
        record["seconds"] += [reply["seconds"]] if "seconds" in reply else []

    in_turns(entries, race.repeats, turn)
    return [record for _, record in entries]


def _calls(contestant: Any, way: str) -> int:
    """The number of predictions of a turn."""
    seconds = contestant.ask("predict", name=way, calls=10).get("seconds", SECONDS)
    return max(3, int(SECONDS / seconds))


def lines(results: Record) -> Iterator[str]:
    """All ways, for the terminal."""
    for n_rows in dict.fromkeys(r["n_rows"] for r in results["predictions"]):
        yield f"\npredict {n_rows:,} rows of 16-64-64-2, us a call"
        rows = []
        for r in results["predictions"]:
            if r["n_rows"] == n_rows and r["seconds"]:
                q = quartiles([1e6 * seconds for seconds in r["seconds"]])
                cells = PEERS[r["contestant"]].title, r["way"], counted(r["threads"])
                spread = f"({digits(q.low)} - {digits(q.high)})"
                rows.append((r["threads"], q.median, (*cells, digits(q.median), spread)))
        titles = ("contestant", "way", "threads", ">us", ">quartiles")
        yield from Table(titles, [row for *_, row in sorted(rows)]).text()


def table(results: Record, threads: int) -> Iterator[str]:
    """The best way of each peer, and both of fastmlp's, for the page."""
    sizes = list(dict.fromkeys(r["n_rows"] for r in results["predictions"]))
    best: dict[str, dict[int, float]] = {}
    for r in results["predictions"]:
        if r["seconds"] and r["threads"] == threads:
            title = PEERS[r["contestant"]].title
            key = f"{title}, {r['way']}" if title == "fastmlp" else title
            old = best.setdefault(key, {}).get(r["n_rows"], float("inf"))
            best[key][r["n_rows"]] = min(old, 1e6 * quartiles(r["seconds"]).median)
    if not best:
        return
    yield "\nPredicting with 16-64-64-2, microseconds:\n"
    rows = [
        (key, *(digits(times[n]) if n in times else "-" for n in sizes))
        for key, times in sorted(best.items(), key=lambda item: item[1].get(1, 0))
    ]
    titles = ["", *(f">{n:,} rows" if n > 1 else ">1 row" for n in sizes)]
    yield from Table(titles, rows).markdown()
