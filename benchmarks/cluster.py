"""The price of a cluster: `python -m benchmarks.cluster --pages`.

The same nets, search and model of a table, here and on two workers of one thread each on this
machine, in turns: the workers have the cores that the fits here have, so a ratio above 1 is the
price of Dask, pickles and groups. It holds for this machine alone. Code is compiled, and loaded by
the workers, in turns before those that count. Rows are new in each turn: they are sent each time.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import grid, machine, output
from benchmarks.output import DOCS
from benchmarks.race import timed
from benchmarks.scores import Record
from benchmarks.tabular.times import made_up
from benchmarks.workloads import Array

PAGE = DOCS / "how-to" / "cluster.md"
LIBRARIES = ("distributed", "scikit-learn", "numpy", "numba")
# The most of a time here that a cluster of the same cores is to take.
LIMIT = 1.25
N_NETS, N_TASKS = 60, 400


class Work(NamedTuple):
    """A title, and a function of a client, or None, and of the turn, which is timed."""

    title: str
    run: Callable[[Any, int], Any]


def nets(client: Any, turn: int) -> list[Array]:
    from fastmlp import MLP, fit_many

    rng = np.random.default_rng(turn)
    X = rng.normal(size=(5000, 20)).astype(np.float32)
    made = [MLP((20, 32 << i % 3, 32 << i % 3, 1), seed=i) for i in range(N_NETS)]
    fit_many(made, X, np.sin(X[:, 0]) + X[:, 1], epochs=16, client=client)
    return [net.parameters for net in made]


def search(client: Any, turn: int) -> list[Array]:
    """Search the grid of the other benchmarks on digits."""
    from sklearn.datasets import load_digits

    from fastmlp import MLPClassifier, MLPSearchCV

    X, y = load_digits(return_X_y=True)
    fixed: dict[str, Any] = grid.FIXED
    model = MLPClassifier(**fixed)
    done = MLPSearchCV(model, grid.GRID, cv=grid.FOLDS, client=client).fit((X + turn) / 16, y)
    return [done.cv_results_[f"split{k}_test_score"] for k in range(grid.FOLDS)]


def table(client: Any, turn: int) -> list[Array]:
    """Predict by a model of a table with the default preset."""
    from fastmlp import TabularMLPRegressor

    frame, y = made_up(10_000, "regression", turn)
    return [TabularMLPRegressor(random_state=0, client=client).fit(frame, y).predict(frame)]


WORKS = {
    "nets": Work("60 nets of 20-32-32-1 to 20-128-128-1, 5,000 rows, 16 epochs", nets),
    "search": Work("a search of 60 candidates, 5 folds of digits", search),
    "table": Work("a model of a table of 10,000 rows, 20 columns", table),
}


def beside(name: str, client: Any, turns: int) -> Record:
    """The seconds here and there, and the bytes that workers receive and send."""
    work, here, there = WORKS[name], [], []
    for turn in range(turns + 1):
        seconds, expected = timed(partial(work.run, None, turn))
        seconds_there, results = timed(partial(work.run, client, turn))
        for array, other in zip(expected, results, strict=True):
            np.testing.assert_array_equal(array, other)
        if turn:  # the first one is warming up
            here.append(seconds)
            there.append(seconds_there)
    client.run(count)
    work.run(client, turns + 1)
    first = counted(client)
    work.run(client, turns + 1)
    again = counted(client)
    return {"name": name, "here": here, "there": there, "first": first, "again": again}


def count() -> None:
    """Count the bytes of this worker's connections from now on."""
    from distributed.comm import tcp

    counts = [0, 0]
    vars(tcp)["fastmlp_counts"] = counts
    read, write = tcp.read_bytes_rw, tcp.TCP.write

    async def reading(stream: Any, n: int) -> Any:
        counts[0] += n
        return await read(stream, n)

    async def writing(self: Any, *words: Any, **more: Any) -> Any:
        n = await write(self, *words, **more)
        counts[1] += n
        return n

    vars(tcp)["read_bytes_rw"] = reading
    setattr(tcp.TCP, "write", writing)  # noqa: B010


def counts_so_far() -> list[int]:
    """The bytes since the last call; counting begins anew."""
    from distributed.comm import tcp

    counts: list[int] = vars(tcp)["fastmlp_counts"]
    until_now = list(counts)
    counts[:] = 0, 0
    return until_now


def counted(client: Any) -> list[int]:
    """The bytes that came to the workers, and those that they sent."""
    return [int(n) for n in np.sum([*client.run(counts_so_far).values()], axis=0)]


def nothing() -> list[None]:
    return [None]


def milliseconds_a_task(client: Any) -> float:
    """The milliseconds of a group without work."""
    from fastmlp.cluster.groups import Cluster, TaskGroup

    cluster = Cluster(client, "benchmarks")
    groups = [TaskGroup([i], nothing) for i in range(N_TASKS)]
    run = partial(cluster.run, groups, [], lambda *_: None)
    return 1000 * min(timed(run)[0] for _ in range(2)) / N_TASKS


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """The records of some parts, beside those of earlier runs."""
    from distributed import Client, LocalCluster

    settings: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        warnings.catch_warnings(),
        LocalCluster(**settings, memory_limit=0, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        warnings.simplefilter("ignore")
        records = [beside(name, client, options.turns) for name in options.parts]
        task = milliseconds_a_task(client)
    return {"records": merged(earlier.get("records", []), records), "milliseconds_a_task": task}


def merged(before: list[Record], now: list[Record]) -> list[Record]:
    """Both runs' records, the later ones of each name."""
    records = {r["name"]: r for r in [*before, *now]}
    return [records[name] for name in WORKS if name in records]


def lines(results: Record) -> Iterator[str]:
    """The table, in Markdown: ratios of the shortest times."""
    yield f"{machine.measured(results)}\n"
    rows = []
    for r in results["records"]:
        here, there = min(r["here"]), min(r["there"])
        sent = [f"{n / 1e6:.1f}" for n in (r["first"][0], r["again"][0], r["first"][1])]
        seconds = [f"{here:.2f} s", f"{there:.2f} s", f"{there / here:.2f}"]
        rows.append((WORKS[r["name"]].title, *seconds, *sent))
    titles = ("what", ">here", ">on 2 workers of 1 thread", ">times", ">MB to the workers")
    yield from output.Table((*titles, ">again", ">MB back"), rows).markdown()
    yield f"\nA group without work takes {results['milliseconds_a_task']:.1f} ms."
    for r in results["records"]:
        if min(r["there"]) > LIMIT * min(r["here"]):
            output.say(f"{r['name']}: above {LIMIT} times")


OPTIONS: Record = {
    "--parts": {"nargs": "+", "default": [*WORKS], "choices": [*WORKS]},
    "--turns": {"type": int, "default": 3, "help": "the shortest counts"},
}
main = output.program(PAGE, measure, OPTIONS, benchmarks=lines)

if __name__ == "__main__":
    main()
