"""The command forecast: the time of a net's steps on several machines."""

import argparse
import json
import os
import re
import sys
from typing import Any

from fastmlp.cli.options import CommandError, Parser, loss_name, positive
from fastmlp.validation.suggestions import count

# The most bytes of the random rows, and the most batches of them.
MOST_BYTES, MOST_STEPS = 2**26, 32
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# Variables that Open MPI, MPICH and Slurm set for the processes that they start.
OF_RANKS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
BITS = {"bit": 1.0, "b": 1.0, "B": 8.0}


def add_forecast(forecast: Parser) -> None:
    """Add the options of `forecast`."""
    forecast.description = (
        "Time steps of a net on this machine, add what the messages between several "
        "would take, and print the speed-up. Nothing is sent, but by ranks that mpiexec has "
        "started: these measure latency and bandwidth."
    )
    add = forecast.add_argument
    add("sizes", type=_sizes, metavar="SIZES", help="inputs, hidden layers, outputs: 784-512-10")
    batch = "rows of a step on all machines together; default: 4096"
    add("--batch-size", type=positive, default=4096, metavar="N", help=batch)
    latency = "of a message without bytes, such as 30us; default: measured by ranks, else 30us"
    add("--latency", type=_seconds, metavar="TIME", help=latency)
    bandwidth = "between two machines, such as 10Gbit; default: measured by ranks, else 10Gbit"
    add("--bandwidth", type=_bandwidth, metavar="RATE", help=bandwidth)
    ranks = "numbers of machines; default: 2,4,8,16,32,64"
    add("--ranks", type=_numbers, default="2,4,8,16,32,64", metavar="N,N", help=ranks)
    every = "steps between averages, which are shown beside sums in each step; default: 16"
    add("--average-every", type=positive, default=16, metavar="N", help=every)
    loss = "default: cross_entropy, of one output mse"
    add("--loss", type=loss_name, metavar="NAME", help=loss)
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--threads", type=positive, metavar="N", help="of each machine; default: all")
    add("--json", action="store_true", help="print it as JSON")


def run_forecast(arguments: argparse.Namespace) -> None:
    """Measure, and print the forecast; of several ranks the first prints it."""
    from fastmlp import MLP
    from fastmlp.cluster import forecast

    sizes, batch = arguments.sizes, arguments.batch_size
    loss = arguments.loss or ("cross_entropy" if sizes[-1] > 1 else "mse")
    settings: Any = {"loss": loss, "dtype": arguments.dtype, "n_threads": arguments.threads}
    comm, network, source = _network(arguments)
    try:
        net = MLP(sizes, seed=0, **settings)
        X, y = _rows(net, batch, loss)
        outlook = forecast(
            net,
            X,
            y,
            batch_size=batch,
            ranks=arguments.ranks,
            average_every=arguments.average_every,
            **network,
        )
    except (ValueError, MemoryError) as error:
        raise CommandError(str(error)) from error
    if comm is not None and comm.Get_rank():
        return
    if arguments.json:
        tables = [[row._asdict() for row in rows] for rows in (outlook.each_step, outlook.averaged)]
        rows = {"each_step": tables[0], "averaged": tables[1]}
        print(json.dumps({"alone": outlook.alone, **network, "measured": comm is not None, **rows}))
        return
    n_threads = arguments.threads or _threads()
    print(
        f"{'-'.join(map(str, sizes))}, {net.parameters.size:,} parameters, {arguments.dtype}; "
        f"{batch:,} rows a step\n"
        f"alone {1e3 * outlook.alone:.3g} ms a step, {count(n_threads, 'thread')}: measured here\n"
        f"network {1e6 * network['latency']:.3g} us, {network['bandwidth'] / 1e9:.3g} Gbit/s: "
        f"{source}\n"
        "simulated: a rank's computing measured here, its messages computed\n"
        f"averaged: parameters every {outlook.average_every} steps, no sum in each\n\n{outlook}"
    )


def _threads() -> int:
    from fastmlp.backends.cpu.threads.limits import thread_limit

    return thread_limit()


def _ranks() -> Any:
    """Return the communicator of the ranks that mpiexec has started, or None of one process."""
    if "mpi4py" not in sys.modules and not any(name in os.environ for name in OF_RANKS):
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() > 1 else None


def _network(arguments: argparse.Namespace) -> tuple[Any, dict[str, float], str]:
    """Return the communicator of several ranks, latency and bandwidth, and their source."""
    from fastmlp.cluster.forecast import BANDWIDTH, LATENCY, measured

    comm = _ranks()
    network = {"latency": LATENCY, "bandwidth": BANDWIDTH}
    options = {key: getattr(arguments, key) for key in network}
    options = {key: value for key, value in options.items() if value is not None}
    source = "assumed" if comm is None else f"measured between {comm.Get_size()} ranks"
    if comm is not None:
        network = measured(comm)._asdict()
    return comm, {**network, **options}, "given" if len(options) == len(network) else source


def _rows(net: Any, batch: int, loss: str) -> tuple[Any, Any]:
    """Return batches of rows, and targets that the loss takes."""
    import numpy as np

    n_inputs, n_outputs = net.layer_sizes[0], net.layer_sizes[-1]
    row_bytes = n_inputs * net.dtype.itemsize
    n = batch * max(1, min(MOST_STEPS, MOST_BYTES // (batch * row_bytes)))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, n_inputs), dtype=net.dtype)
    if loss == "cross_entropy":
        return X, rng.integers(n_outputs, size=n)
    return X, rng.uniform(size=(n, n_outputs)).astype(net.dtype)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.replace(",", "-").split("-")
    if len(parts) < 2 or not all(part.isdecimal() and int(part) for part in parts):
        message = f"must be numbers of units with hyphens, such as 784-512-512-10, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return tuple(map(int, parts))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        message = f"must be numbers of machines with commas, such as 2,4,8, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return tuple(map(int, parts))


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"([\d.]+) ?(ns|us|ms|s)", text)
    if not parts or not _is_number(parts[1]):
        message = f"must be a time such as 30us, 1.5us or 1ms, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return float(parts[1]) * SECONDS[parts[2]]


def _bandwidth(text: str) -> float:
    parts = re.fullmatch(r"([\d.]+) ?([kMGT]?)(bit|b|B)(/s|ps)?", text)
    if not parts or not _is_number(parts[1]) or not float(parts[1]):
        message = f"must be bits or bytes a second such as 10Gbit or 1.2GB, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return float(parts[1]) * PREFIXES[parts[2]] * BITS[parts[3]]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+\.?\d*|\.\d+", text) is not None
