"""When does one net over machines pay? `python -m benchmarks.forecasts`.

Steps of nets are timed here, alone and as one rank of several; what messages take is computed, from
latency and bandwidth. Two ranks on this machine measure those of the loopback.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine, output
from benchmarks.machines import AS_ROOT, LOOPBACK, mpiexec
from benchmarks.page import MACHINES
from benchmarks.workloads import CE, Workload
from fastmlp import MLP
from fastmlp.cluster.forecast import RANKS, Interconnect, forecast

AVERAGE_EVERY = 16
# As many steps an epoch, of at most so many rows.
STEPS, MOST_ROWS = 16, 2**16


class Network(NamedTuple):
    """A network by its usual name."""

    title: str
    latency: float
    bandwidth: float


NETWORKS = (
    Network("10 Gbit/s, 30 us", 30e-6, 10e9),
    Network("100 Gbit/s, 3 us", 3e-6, 100e9),
)
LOADS = tuple(
    Workload(sizes, batch, min(STEPS * batch, MOST_ROWS), loss=CE)
    for sizes, batch in (
        ((16, 64, 64, 2), 1024),
        ((784, 128, 10), 4096),
        ((784, 512, 512, 10), 4096),
    )
)
TRANSPORTS = {"TCP over loopback": {**AS_ROOT, **LOOPBACK}, "shared memory": AS_ROOT}
MEASURE = (
    "from mpi4py import MPI; from fastmlp.cluster.forecast import measured; "
    "found = measured(MPI.COMM_WORLD); "
    "MPI.COMM_WORLD.Get_rank() or print(found.latency, found.bandwidth)"
)


def loopback() -> Iterator[dict[str, Any]]:
    """Yield latency and bandwidth between two processes of this machine."""
    if mpiexec() is None:
        return
    for title, settings in TRANSPORTS.items():
        command = [str(mpiexec()), "-n", "2", sys.executable, "-m", "mpi4py", "-c", MEASURE]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **settings}
        )
        latency, bandwidth = map(float, done.stdout.split())
        yield {"title": title, "latency": latency, "bandwidth": bandwidth}


def measure(load: Workload) -> Iterator[dict[str, Any]]:
    """Yield the forecast of a net on each network.

    What is computed is the same on all: the least of its times counts.
    """
    x, y = load.data()
    net = MLP(load.sizes, loss=load.loss, seed=0)
    found = [
        forecast(
            net,
            x,
            y,
            batch_size=load.batch,
            average_every=AVERAGE_EVERY,
            latency=network.latency,
            bandwidth=network.bandwidth,
        )
        for network in NETWORKS
    ]
    alone = min(one.alone for one in found)
    for network, one in zip(NETWORKS, found, strict=True):
        record = {"load": load.name, "parameters": net.parameters.size, "alone": alone}
        record["network"] = network.title
        for key in ("each_step", "averaged"):
            columns = zip(*(getattr(each, key) for each in found), strict=True)
            computing = [min(row.computing for row in rows) for rows in columns]
            rows = zip(getattr(one, key), computing, strict=True)
            record[key] = [
                {"ranks": row.n_ranks, "speed_up": alone / (seconds + row.messages)}
                for row, seconds in rows
            ]
        yield record


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The tables, in Markdown."""
    m, records = results["machine"], results["records"]
    yield f"Measured on {m['date']}: {m['cores']} cores of {m['cpu']}, fastmlp {m['fastmlp']}.\n"
    yield from _costs(results)
    for network in NETWORKS:
        its = [r for r in records if r["network"] == network.title]
        if not its:
            continue
        yield (
            f"\n**Simulated**, {network.title}: the time of a step on one machine over that on "
            f"several; in brackets with averages every {AVERAGE_EVERY} steps.\n"
        )
        yield f"| net@batch | alone | {' | '.join(f'{n} ranks' for n in RANKS)} |"
        yield "|---|--:|" + "--:|" * len(RANKS)
        for r in its:
            pairs = zip(r["each_step"], r["averaged"], strict=True)
            cells = [f"{a['speed_up']:.2g} ({b['speed_up']:.2g})" for a, b in pairs]
            yield f"| {r['load']} | {_time(r['alone'])} | {' | '.join(cells)} |"


def _costs(results: dict[str, Any]) -> Iterator[str]:
    """What a step computes and sends, of four ranks, over each network."""
    networks = {each["title"]: each for each in results["loopback"]}
    networks |= {each.title: each._asdict() for each in NETWORKS}
    for title, each in networks.items():
        if title in TRANSPORTS:
            rate = f"{each['bandwidth'] / 1e9:.3g} Gbit/s"
            yield f"- {title}, measured: {1e6 * each['latency']:.3g} us, {rate}"
    yield f"\n| net@batch | parameters | bytes | alone | {' | '.join(networks)} |"
    yield "|---|--:|--:|--:|" + "--:|" * len(networks)
    for r in {r["load"]: r for r in results["records"]}.values():
        n_bytes = 4 * r["parameters"]
        cells = [r["load"], f"{r['parameters']:,}", _bytes(n_bytes), _time(r["alone"])]
        for each in networks.values():
            network = Interconnect(each["latency"], each["bandwidth"])
            cells.append(_time(network.alltoall(4, n_bytes) + network.allgather(4, n_bytes)))
        yield f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _bytes(n: float) -> str:
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"


def main(words: list[str] | None = None) -> None:
    """Measure what is asked for, add it to what was measured before, print and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecasts", description=__doc__)
    parser.add_argument("--loads", nargs="*", metavar="NAME", help="parts of names; default: all")
    parser.add_argument("--json", type=Path, help="results, which replace those there of the same")
    parser.add_argument("--pages", action="store_true", help=f"rewrite {MACHINES.name}")
    options = parser.parse_args(words)
    before = output.earlier(options)
    names = options.loads
    loads = [load for load in LOADS if names is None or any(n in load.name for n in names)]
    new = [record for load in loads for record in measure(load)]
    done = {r["load"] for r in new}
    records = [*(r for r in before.get("records", []) if r["load"] not in done), *new]
    order = [load.name for load in LOADS]
    results = {
        "machine": machine.describe(),
        "loopback": list(loopback()) if loads else before["loopback"],
        "records": sorted(records, key=lambda r: order.index(r["load"])),
    }
    output.keep(results, options)
    output.show(lines(results), options, MACHINES, "forecasts")


if __name__ == "__main__":
    main()
