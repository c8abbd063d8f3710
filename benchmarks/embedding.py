"""Nets outside of Python, beside other ways to call them: `python -m benchmarks.embedding`.

A cart and a pole are simulated by Runge and Kutta's fourth order in one compiled function, with a
net as the controller. The time of the simulation with a controller that does nothing is subtracted.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from benchmarks import machine, output
from benchmarks.output import DOCS, Table
from benchmarks.race import calls_in_turns
from benchmarks.scores import Record
from fastmlp import MLP, jit

PAGE = DOCS / "how-to" / "call-from-numba.md"
LIBRARIES = ("numba", "llvmlite", "numpy")
NETS = ((4, 32, 32, 1), (16, 64, 64, 1))
ACTIVATIONS = ("relu", "tanh")
BEST, HANDLE, PYTHON = "rows of weights, fastmath", "`jit.value`", "`net.predict(x, out=out)`"
STEPS = 200


@njit
def slopes(state: Any, force: float, out: Any) -> None:
    """The derivatives of a cart's and a pole's places and velocities."""
    _, velocity, angle, spin = state
    sine, cosine = np.sin(angle), np.cos(angle)
    pushed = (force + 0.05 * spin * spin * sine) / 1.1
    twist = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
    out[0], out[1], out[2], out[3] = velocity, pushed - 0.05 * twist * cosine / 1.1, spin, twist


def simulation(control: Any) -> Any:
    """Make the compiled simulation with a controller of its own, called four times a step."""

    @njit
    def simulate(net: Any, x: Any, work: Any, n_steps: int) -> float:
        state, k, middle = np.zeros(4), np.empty((4, 4)), np.empty(4)
        state[2] = 0.01
        for _ in range(n_steps):
            for stage in range(4):
                step = 0.0 if stage == 0 else 0.02 if stage == 3 else 0.01
                for i in range(4):
                    middle[i] = state[i] + step * k[max(stage - 1, 0), i] if stage else state[i]
                    x[i] = middle[i]
                slopes(middle, min(max(control(net, x, work), -1.0), 1.0), k[stage])
            for i in range(4):
                state[i] += 0.02 / 6 * (k[0, i] + 2 * k[1, i] + 2 * k[2, i] + k[3, i])
                state[i] = min(max(state[i], -1.0), 1.0)
        return float(state.sum())

    return simulate


@njit
def nothing(net: Any, x: Any, work: Any) -> float:
    """A controller that only reads its row."""
    return float(x[0])


@njit
def by_handle(net: Any, x: Any, work: Any) -> float:
    """The library's way."""
    return float(jit.value(net, x))


def by_hand(activation: str, way: str) -> Any:
    """Make a net that is written by hand, of tuples of weights and biases."""

    @njit
    def relu(z: Any) -> Any:
        return max(z, np.float32(0))

    @njit
    def tanh(z: Any) -> Any:
        return np.tanh(z)

    act: Any = relu if activation == "relu" else tanh

    @njit
    def by_sums(net: Any, x: Any, work: Any) -> float:
        weights, biases = net
        for i in range(3):
            w, b, given = weights[i], biases[i], x if i == 0 else work[i - 1]
            for j in range(w.shape[1]):
                total = b[j]
                for k in range(w.shape[0]):
                    total += given[k] * w[k, j]
                work[i, j] = act(total) if i < 2 else total
        return float(work[2, 0])

    @njit(fastmath=True)
    def by_rows(net: Any, x: Any, work: Any) -> float:
        weights, biases = net
        for i in range(3):
            w, b, given, z = weights[i], biases[i], x if i == 0 else work[i - 1], work[i]
            for j in range(w.shape[1]):
                z[j] = b[j]
            for k in range(w.shape[0]):
                number, row = given[k], w[k]
                for j in range(w.shape[1]):
                    z[j] += number * row[j]
            if i < 2:
                for j in range(w.shape[1]):
                    z[j] = act(z[j])
        return float(work[2, 0])

    @njit
    def by_products(net: Any, x: Any, work: Any) -> float:
        weights, biases = net
        z = np.dot(x, weights[0]) + biases[0]
        for i in range(1, 3):
            for j in range(len(z)):
                z[j] = act(z[j])
            z = np.dot(z, weights[i]) + biases[i]
        return float(z[0])

    return {"one sum after the other": by_sums, BEST: by_rows, "`x @ W`": by_products}[way]


def calls_of(sizes: tuple[int, ...], activation: Any) -> dict[str, Callable[[], Any]]:
    """Simulations by each way, and by none."""
    net = MLP(sizes, activation=activation, seed=0, n_threads=1)
    x, work = np.zeros(sizes[0], np.float32), np.zeros((3, max(sizes)), np.float32)
    tables = tuple(map(np.ascontiguousarray, net.weights)), tuple(map(np.array, net.biases))
    ways: dict[str, tuple[Any, Any]] = {
        "": (nothing, tables),
        HANDLE: (by_handle, jit.compiled(net)),
    }
    for way in ("one sum after the other", BEST, "`x @ W`"):
        ways[way] = by_hand(activation, way), tables
    calls: dict[str, Callable[[], Any]] = {
        way: partial(simulation(control), handle, x, work, STEPS)
        for way, (control, handle) in ways.items()
    }
    row, out = np.zeros((1, sizes[0]), np.float32), np.empty((1, 1), np.float32)

    def predict() -> None:
        for _ in range(4 * STEPS):
            net.predict(row, out=out)

    return calls | {PYTHON: predict}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Nanoseconds of a call of each net, by way: the least of all turns."""
    records = []
    for sizes in NETS:
        for activation in ACTIVATIONS:
            calls = calls_of(sizes, activation)
            for call in calls.values():
                call()
            times = {way: min(t) for way, t in calls_in_turns(calls, options.turns).items()}
            alone = times.pop("")
            less = {way: t - (0 if way == PYTHON else alone) for way, t in times.items()}
            ns = {way: 1e9 * t / (4 * STEPS) for way, t in less.items()}
            records.append({"net": "-".join(map(str, sizes)), "activation": activation, "ns": ns})
    return {"records": records}


def lines(results: Record) -> Iterator[str]:
    records = results["records"]
    yield f"{machine.measured(results)}\n"
    titles = ["nanoseconds of a call", *(f">{r['net']} {r['activation']}" for r in records)]
    rows = [
        [way, *(f"{r['ns'][way]:.0f} ({r['ns'][way] / r['ns'][HANDLE]:.2f}x)" for r in records)]
        for way in records[0]["ns"]
    ]
    yield from Table(titles, rows).markdown()


TURNS = {"type": int, "default": 100, "help": "of each way"}
main = output.program(PAGE, measure, {"--turns": TURNS}, benchmarks=lines)

if __name__ == "__main__":
    main()
