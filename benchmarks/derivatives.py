"""Derivatives by the inputs beside PyTorch's and JAX's: `python -m benchmarks.derivatives`.

All in turns, on one thread, in one process, by its processor time: `predict` and `jacobian`,
`vmap(jacrev)` of PyTorch's functions, and JAX's, jitted. Nets and rows are constants here. Peers
that are missing are left out.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, say
from benchmarks.race import calls_in_turns
from benchmarks.scores import Record
from benchmarks.workloads import forward
from fastmlp import MLP, jacobian, shap_values

PAGE = DOCS / "how-to" / "derivatives.md"
PEERS = {"torch": "PyTorch", "jax": "JAX"}
N_ROWS = 20_000
# Turns of each, and the seconds after which they end.
TURNS, SECONDS = 200, 30.0
# Of attributions: rows, rows of background.
ROWS, BACKGROUND = 1000, 100
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


NETS: dict[str, tuple[tuple[int, ...], Any]] = {
    "16-64-64-1 relu": ((16, 64, 64, 1), "relu"),
    "16-64-64-1 tanh": ((16, 64, 64, 1), "tanh"),
    "8-32-32-3 tanh": ((8, 32, 32, 3), "tanh"),
}


def of_torch(net: MLP, activation: str, x: Any) -> Callable[[], Any]:
    """A call that derives the rows by PyTorch."""
    import torch

    torch.set_num_threads(1)
    pairs = zip(net.weights, net.biases, strict=True)
    layers = [
        (torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in pairs
    ]
    predict = partial(forward, layers, activation=getattr(torch, activation))
    derive: Any = torch.func.vmap(torch.func.jacrev(predict))
    rows = torch.from_numpy(x)
    return lambda: derive(rows).numpy()


def of_jax(net: MLP, activation: str, x: Any) -> Callable[[], Any]:
    """A call that derives the rows by JAX."""
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    import jax

    pairs = zip(net.weights, net.biases, strict=True)
    layers = [(jax.numpy.array(w), jax.numpy.array(b)) for w, b in pairs]
    predict = partial(forward, layers, activation=getattr(jax.nn, activation))
    derive = jax.jit(jax.vmap(jax.jacrev(predict)))
    rows = jax.numpy.array(x)
    return lambda: np.asarray(derive(rows).block_until_ready())


BY_PEER = {"torch": of_torch, "jax": of_jax}
LIBRARIES = tuple(BY_PEER)
cpu_seconds = partial(calls_in_turns, seconds=SECONDS, clock=time.process_time)


def times_of(name: str) -> Record:
    """The seconds of calls by turn, and the distances of the peers' derivatives."""
    sizes, activation = NETS[name]
    net = MLP(sizes, activation=activation, seed=0, n_threads=1)
    x = np.random.default_rng(0).normal(size=(N_ROWS, sizes[0])).astype(np.float32)
    ours = jacobian(net, x)
    calls: dict[str, Any] = {
        "predict": partial(
            net.predict, x, out=np.empty((N_ROWS, sizes[-1]), np.float32)
        ),
        "jacobian": partial(jacobian, net, x, out=np.empty_like(ours)),
    }
    errors = {}
    for peer, make in BY_PEER.items():
        if machine.installed(peer) is not None:
            calls[peer] = make(net, activation, x)
            errors[peer] = float(
                np.abs(calls[peer]() - ours).max() / np.abs(ours).max()
            )
    return {"net": name, "seconds": cpu_seconds(calls, TURNS), "errors": errors}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    records = []
    for name in NETS:
        say(name)
        records.append(times_of(name))
    net = MLP((16, 64, 64, 1), activation="tanh", seed=0, n_threads=1)
    x = np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32)
    say("shap_values")
    call: Any = {"shap_values": partial(shap_values, net, x, x[:BACKGROUND])}
    return {"nets": records, "attributions": cpu_seconds(call, 5)["shap_values"]}


def lines(results: Record) -> Iterator[str]:
    yield machine.measured(results, "one thread, least processor times of turns")
    yield f"{N_ROWS:,} rows in one call, in ms; JAX is jitted, its rows lie there already.\n"
    peers = [peer for peer in PEERS if peer in results["nets"][0]["seconds"]]
    titles = ["net", ">`predict`", ">`jacobian`", ">ratio"]
    titles += [f">{PEERS[peer]} `vmap(jacrev)`" for peer in peers]
    rows = []
    for record in results["nets"]:
        least = {name: min(seconds) for name, seconds in record["seconds"].items()}
        plain, ours = least["predict"], least["jacobian"]
        cells = [f"{1e3 * seconds:.2f}" for seconds in (plain, ours)]
        of_peers = [
            f"{1e3 * least[peer]:.1f} ({least[peer] / ours:.1f}x)" for peer in peers
        ]
        rows.append((record["net"], *cells, f"**{ours / plain:.2f}x**", *of_peers))
    yield from output.Table(titles, rows).markdown()
    seconds = min(results["attributions"])
    yield (
        f"\n`shap_values` of {ROWS:,} rows, {BACKGROUND} of background and 16 steps takes "
        f"{seconds:.2f} s (16-64-64-1 tanh)."
    )


main = output.program(PAGE, measure, derivatives=lines)

if __name__ == "__main__":
    main()
