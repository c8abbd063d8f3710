"""Forecasts of the gain of one net over machines: `python -m benchmarks.forecasts`.

Steps of nets are timed here, alone and as one rank of several; the time of messages is computed
from latency and bandwidth. Two ranks on this machine measure those of the loopback.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import machine, output
from benchmarks.machines import AS_ROOT, LOOPBACK, PAGE, mpiexec
from benchmarks.race import asked_for
from benchmarks.scores import Record
from benchmarks.workloads import CE, Workload
from fastmlp import MLP
from fastmlp.cluster.forecast import RANKS, Interconnect, forecast

AVERAGE_EVERY = 16
# As many steps an epoch, of at most so many rows.
STEPS, MOST_ROWS = 16, 2**16


NETWORKS = {
    "10 Gbit/s, 30 us": Interconnect(30e-6, 10e9),
    "100 Gbit/s, 3 us": Interconnect(3e-6, 100e9),
}
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
    "network = measured(MPI.COMM_WORLD); "
    "MPI.COMM_WORLD.Get_rank() or print(network.latency, network.bandwidth)"
)


def loopback() -> Iterator[Record]:
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


def forecasts_of(load: Workload) -> Iterator[Record]:
    """Yield the forecast of a net on each network.

    Computing is the same on all networks: the least of its times counts.
    """
    x, y = load.data()
    net = MLP(load.sizes, loss=load.loss, seed=0)
    options: Record = {"batch_size": load.batch, "average_every": AVERAGE_EVERY}
    every = [
        forecast(net, x, y, latency=network.latency, bandwidth=network.bandwidth, **options)
        for network in NETWORKS.values()
    ]
    alone = min(on_network.alone for on_network in every)
    for title, on_network in zip(NETWORKS, every, strict=True):
        record = {"load": load.name, "parameters": net.parameters.size, "alone": alone}
        record["network"] = title
        for key in ("each_step", "averaged"):
            columns = zip(*(getattr(other, key) for other in every), strict=True)
            computing = [min(row.computing for row in rows) for rows in columns]
            record[key] = [
                {"ranks": row.n_ranks, "speed_up": alone / (seconds + row.messages)}
                for row, seconds in zip(getattr(on_network, key), computing, strict=True)
            ]
        yield record


def lines(results: Record) -> Iterator[str]:
    yield f"{machine.measured(results, versions={})}\n"
    yield from _costs(results)
    for network in NETWORKS:
        rows = []
        for r in (r for r in results["records"] if r["network"] == network):
            pairs = zip(r["each_step"], r["averaged"], strict=True)
            cells = [f"{a['speed_up']:.2g} ({b['speed_up']:.2g})" for a, b in pairs]
            rows.append((r["load"], _time(r["alone"]), *cells))
        titles = ("net@batch", ">alone", *(f">{n} ranks" for n in RANKS))
        yield from output.Table(titles, rows).under(
            f"**Simulated**, {network}: the time of a step on one machine over that on "
            f"several; in brackets with averages every {AVERAGE_EVERY} steps."
        )


def _costs(results: Record) -> Iterator[str]:
    """The bytes and times of the messages of a step of four ranks, over each network."""
    networks = {r["title"]: Interconnect(r["latency"], r["bandwidth"]) for r in results["loopback"]}
    for title, network in networks.items():
        rate = f"{network.bandwidth / 1e9:.3g} Gbit/s"
        yield f"- {title}, measured: {1e6 * network.latency:.3g} us, {rate}"
    networks |= NETWORKS
    rows = []
    for r in {r["load"]: r for r in results["records"]}.values():
        n_bytes = 4 * r["parameters"]
        size = f"{n_bytes / 1e3:.0f} kB" if n_bytes < 1e6 else f"{n_bytes / 1e6:.1f} MB"
        times = [_time(n.alltoall(4, n_bytes) + n.allgather(4, n_bytes)) for n in networks.values()]
        rows.append((r["load"], f"{r['parameters']:,}", size, _time(r["alone"]), *times))
    yield ""
    titles = ("net@batch", ">parameters", ">bytes", ">alone", *(f">{title}" for title in networks))
    yield from output.Table(titles, rows).markdown()


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    loads = [load for load in LOADS if asked_for(load.name, options.loads)]
    new = [record for load in loads for record in forecasts_of(load)]
    kept = [r for r in earlier.get("records", []) if r["load"] not in [w.name for w in loads]]
    order = [load.name for load in LOADS]
    records = sorted([*kept, *new], key=lambda r: order.index(r["load"]))
    return {"loopback": list(loopback()), "records": records}


LOADED = {"nargs": "+", "metavar": "NAME", "help": "parts of names; default: all"}
main = output.program(PAGE, measure, {"--loads": LOADED}, forecasts=lines)

if __name__ == "__main__":
    main()
