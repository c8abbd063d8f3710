"""The first seconds of a library: `python -m benchmarks.first_seconds --pages`.

A new process imports it, fits a table of 1,000 rows and predicts them: first in an empty home, then
again in the same home, where compiled code may lie.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine, output
from benchmarks.output import DOCS, ROOT, Table, say
from benchmarks.peers import PEERS, missing
from benchmarks.race import OVER, Part, Race, in_turns
from benchmarks.scores import Comparison, Record, failed, fastest, quartiles, reason

PAGE = DOCS / "how-to" / "first-fit.md"
LIBRARIES = (
    "numba",
    "numpy",
    "scikit-learn",
    "torch",
    "jax",
    "optax",
    "lightgbm",
    "chimeraboost",
)
TURNS = 5
WHEEL = "wheel"
ROWS = """import numpy as np
X = np.random.default_rng(0).random((1000, 8), np.float32)
y = X[:, 0] * X[:, 1]
"""
TORCH = """import torch
from torch import nn
net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
rule, x, t = torch.optim.Adam(net.parameters()), torch.from_numpy(X), torch.from_numpy(y[:, None])
for _ in range(10):
    for rows in torch.randperm(1000).split(32):
        rule.zero_grad()
        nn.functional.mse_loss(net(x[rows]), t[rows]).backward()
        rule.step()
net(x).detach().numpy()"""
JAX = """import jax, optax
def start(key, a, b):
    return jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, np.zeros(b, np.float32)
def predict(net, x):
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ net[-1][0] + net[-1][1]
@jax.jit
def step(net, state, x, t):
    loss = lambda net: ((predict(net, x)[:, 0] - t) ** 2).mean()
    change, state = rule.update(jax.grad(loss)(net), state)
    return optax.apply_updates(net, change), state
rule, sizes = optax.adam(1e-3), [(8, 32), (32, 32), (32, 1)]
net = [start(key, *ab) for key, ab in zip(jax.random.split(jax.random.key(0), 3), sizes)]
state = rule.init(net)
for _ in range(10):
    for rows in np.random.permutation(992).reshape(-1, 32):
        net, state = step(net, state, X[rows], y[rows])
np.asarray(jax.jit(predict)(net, X))"""
OURS = """from fastmlp import MLP
net = MLP((8, 32, 32, 1), seed=0)
net.fit(X, y, epochs=10, batch_size=32)
net.predict(X)"""
THEIRS = "from {} import {} as Model\nModel({}).fit(X, y).predict(X)"
PROGRAMS = {
    "fastmlp": OURS,
    WHEEL: OURS,
    "numpy": "",
    "sklearn": THEIRS.format(
        "sklearn.neural_network",
        "MLPRegressor",
        "hidden_layer_sizes=(32, 32), batch_size=32, max_iter=10",
    ),
    "torch": TORCH,
    "jax": JAX,
    "lightgbm": THEIRS.format("lightgbm", "LGBMRegressor", "verbose=-1"),
    "chimeraboost": THEIRS.format("chimeraboost", "ChimeraBoostRegressor", ""),
}


class Start(NamedTuple):
    """Wall time, CPU time and the peak of the memory in MB, of a new process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def launch(code: str, home: Path, checkout: Path = ROOT) -> Start:
    """Run code in a new process, with a home and with the fastmlp of a folder."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    # Numba's cache, which else lies beside the sources of a library, is in the home, too.
    home_of = {"HOME": str(home), "NUMBA_CACHE_DIR": str(home / "numba")}
    if checkout == ROOT:
        kept["FASTMLP_PREBUILT"] = "0"  # a clone may have the code of a wheel
    env = {**kept, **home_of, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
    home.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=home, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{code.splitlines()[-1]!r} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Start(seconds, cpu_seconds, usage.ru_maxrss * unit / 1e6)


def starts(names: Iterable[str], turns: int, wheel: Path | None = None) -> list[Record]:
    """The processes of each library that is installed, or why there are none, in turns."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as room:
        folders = {WHEEL: Path(room, "site")}
        if wheel:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--target",
            ]
            subprocess.run([*pip, folders[WHEEL], wheel], check=True)

        def turn(record: Record) -> None:
            name = record["contestant"]
            say(f"first seconds of {PEERS[name].title}")
            with tempfile.TemporaryDirectory() as home:
                for key in () if failed(record) else ("empty", "again"):
                    try:
                        code = ROWS + PROGRAMS[name]
                        record[key].append(
                            launch(code, Path(home), folders.get(name, ROOT))
                        )
                    except RuntimeError as error:
                        record["error"] = str(error)

        for name in names:
            why = "no --wheel" if name == WHEEL and not wheel else missing(name)
            records.append({"contestant": name, "empty": [], "again": []})
            records[-1] |= {"unsupported": why} if why else {}
        # The first round writes bytecode.
        in_turns([(record,) for record in records], turns + 1, turn)
    for record in records:
        for key in ("empty", "again"):
            record[key] = record[key][1:]
    return records


def table(results: Record, threads: int = 0) -> Iterator[str]:
    rows = []
    for r in (r for r in results["cold_starts"] if r["again"]):
        medians = [
            quartiles(x).median
            for key in ("empty", "again")
            for x in zip(*r[key], strict=True)
        ]
        cells = [f"{x:.2f}" for x in (*medians[:2], *medians[3:5])]
        rows.append(
            (
                PEERS[r["contestant"]].title,
                *cells,
                f"{max(medians[2], medians[5]):,.0f}",
            )
        )
    titles = (
        "",
        ">empty home, s",
        ">CPU, s",
        ">again, s",
        ">CPU, s",
        ">peak memory, MB",
    )
    text = "A new process imports the library, fits 1,000 rows of 8 numbers and predicts them:"
    yield from Table(titles, rows).under(text)
    for r in results["cold_starts"]:
        if failed(r) and reason(r) != OVER:
            yield f"\n{PEERS[r['contestant']].title}: {reason(r)}."


def compared(results: Record, threads: int) -> Iterator[Comparison]:
    records = [
        r for r in results["cold_starts"] if r["again"] and r["contestant"] != "numpy"
    ]
    for key, case in (
        ("empty", "nothing compiled before"),
        ("again", "compiled before"),
    ):
        turns = {r["contestant"]: [start[0] for start in r[key]] for r in records}
        yield from fastest("A first fit in a new process", case, turns)


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    names = dict.fromkeys(c.name for c in race.contestants if c.name in PROGRAMS)
    if race.is_over:
        late = {"empty": [], "again": [], "unsupported": OVER}
        return [{"contestant": name, **late} for name in names]
    return starts(names, 1 if race.quick else TURNS)


PART = Part("cold", "cold_starts", measure, table, compared=compared)


def measured(options: argparse.Namespace, earlier: Record) -> Record:
    known = [
        r
        for r in earlier.get("cold_starts", ())
        if r["contestant"] not in options.libraries
    ]
    return {
        "cold_starts": [
            *known,
            *starts(options.libraries, options.turns, options.wheel),
        ]
    }


def lines(results: Record) -> Iterator[str]:
    n, load = len(results["cold_starts"][0]["again"]), results["machine"]["load"]
    yield machine.measured(results, f"medians of {n}, beside a load of {load:.0f}")
    yield from table(results)


OPTIONS: Record = {
    "--wheel": {"type": Path, "help": "of fastmlp, with compiled code: measured, too"},
    "--libraries": {
        "nargs": "+",
        "choices": PROGRAMS,
        "default": [*PROGRAMS],
        "metavar": "NAME",
    },
    "--turns": {"type": int, "default": TURNS, "help": "in an empty home, and again"},
}
main = output.program(PAGE, measured, OPTIONS, benchmarks=lines)

if __name__ == "__main__":
    main()
