"""The GPU path on a card: parity, races of memory, speed; one command, one JSON file.

    python -m benchmarks.gpu [--out gpu.json] [--quick] [--parts parity races sanitizer]

It compares losses and weights with the CPU's over 100 steps, runs the same twice for
the same bits, runs compute-sanitizer where it is on PATH, and times fastmlp beside
PyTorch's eager mode, ``torch.compile(mode="reduce-overhead")`` and CUDA graphs, where
PyTorch is installed. A part that fails has its error in the file, and the others go on;
limits stand beside the measured numbers. With `--parts`, the file keeps what it has of
the others: each fits into a loan of ten minutes.
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.race import timed as seconds_of
from fastmlp import MLP, Adam
from fastmlp.model import core_of

PARITY_STEPS = 100
# The most that losses, relative, and weights may differ from the CPU's by then. In
# float32 a slope of about 0 has either sign, and Adam takes a step of 0.001 for it.
TOLERANCES = {"float32": (1e-3, 1e-2), "float64": (1e-8, 1e-6)}
# racecheck looks at shared memory; races in the card's memory are looked for in the
# simulator, by tests/backends/cuda/simulated/test_training.py.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
PARTS = ("parity", "races", "sanitizer")
SECONDS = 1.0
REPEATS = 5


class Load(NamedTuple):
    """A net, or many, on a card.

    Attributes
    ----------
    wanted : the least time of a CUDA graph of PyTorch over the load's
    """

    sizes: tuple[int, ...]
    batch: int
    activation: Any = "relu"
    n_nets: int = 1
    wanted: float | None = None

    @property
    def name(self) -> str:
        net = f"{'-'.join(map(str, self.sizes))}@{self.batch}, {self.activation}"
        if self.n_nets > 1:
            return f"{self.n_nets} nets of {net}"
        return net

    @property
    def n_rows(self) -> int:
        return 32 * self.batch

    def data(self) -> tuple[Any, Any]:
        """Draw rows, and targets that depend on them."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.n_rows, self.sizes[0])).astype(np.float32)
        teacher = rng.normal(size=(self.sizes[0], self.sizes[-1]))
        y = np.tanh(x @ teacher / 3)
        return x, y.astype(np.float32)

    def net(self, seed: int = 0, device: str = "cuda", dtype: Any = "float32") -> MLP:
        return MLP(
            self.sizes,
            activation=self.activation,
            optimizer=Adam(1e-3),
            seed=seed,
            device=device,
            dtype=dtype,
        )


LOADS = (
    Load((17, 64, 64, 6), 64, "tanh", wanted=3.0),
    Load((13, 32, 32, 1), 64, "tanh", n_nets=64, wanted=10.0),
    Load((23, 256, 256, 1), 256, wanted=1.0),
    Load((784, 512, 512, 10), 128),
    Load((128, 1024, 1024, 10), 512),
)


def missing_card() -> str | None:
    """The reason that there is no card, or None."""
    from fastmlp.backends.cuda import device

    try:
        device.require(0, "benchmarks.gpu")
    except (ImportError, RuntimeError) as error:
        return str(error)
    if device.SIMULATED:
        return "benchmarks.gpu: the simulator is no card"
    return None


def trainer_of(load: Load, net: MLP, dtype: str) -> Any:
    """A backend's trainer of a net on the load's rows."""
    engine, state = core_of(net)
    x, y = (part.astype(dtype) for part in load.data())
    data = engine.data(x, y, None, "benchmarks.gpu")
    slots = engine.slots(state)
    of_net = (net.parameters, slots, net.optimizer)
    return engine.trainer(*of_net, data, load.batch)


def trained(load: Load, device: str, dtype: str, n_steps: int) -> Any:
    """Train for so many steps; return the losses of the epochs and the parameters."""
    net = load.net(device=device, dtype=dtype)
    trainer = trainer_of(load, net, dtype)
    n_epochs = -(-n_steps // 32)
    order = np.empty((n_epochs, load.n_rows), np.int64)
    for epoch in range(n_epochs):
        order[epoch] = np.random.default_rng(epoch).permutation(load.n_rows)
    coefficients = net.optimizer.coefficients(1, np.full(32 * n_epochs, 1e-3))
    losses = np.zeros(n_epochs)
    trainer.begin()
    # A backend may count smaller units than steps.
    trainer.run(order, coefficients, losses, 0, trainer.units_per_epoch * n_epochs)
    trainer.store()
    return losses, net.parameters.copy()


def parity(loads: Sequence[Load] = LOADS[:4]) -> list[dict[str, Any]]:
    """Compare the card with the CPU, and with itself."""
    records = []
    for load, dtype in itertools.product(loads, TOLERANCES):
        about = {"net": load.name, "dtype": dtype, "steps": PARITY_STEPS}
        records.append(about | part(partial(compared, load, dtype)))
    return records


def compared(load: Load, dtype: str) -> dict[str, Any]:
    """Compare the card with the CPU, and with itself."""
    cpu_losses, cpu_parameters = trained(load, "cpu", dtype, PARITY_STEPS)
    losses, parameters = trained(load, "cuda", dtype, PARITY_STEPS)
    _, again = trained(load, "cuda", dtype, PARITY_STEPS)
    loss = float(np.abs(losses / cpu_losses - 1).max())
    weights = float(np.abs(parameters - cpu_parameters).max())
    most_loss, most_weights = TOLERANCES[dtype]
    same = bool(np.array_equal(parameters, again))
    return {
        "loss": loss,
        "weights": weights,
        "same bits twice": same,
        "wanted": {"loss": most_loss, "weights": most_weights, "same bits twice": True},
        "held": loss <= most_loss and weights <= most_weights and same,
    }


def sanitized() -> dict[str, Any]:
    """Run the drill under compute-sanitizer's tools."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"skipped": "compute-sanitizer is not on PATH"}
    results = {}
    for tool, options in TOOLS.items():
        command = [program, "--tool", tool, *options, "--error-exitcode", "3"]
        done = subprocess.run(
            [*command, sys.executable, "-m", "benchmarks.gpu", "--drill"],
            capture_output=True,
            text=True,
            timeout=900,
        )
        tail = (done.stdout + done.stderr)[-2000:]
        results[tool] = {
            "exit code": done.returncode,
            "held": done.returncode == 0,
            "tail": tail,
        }
    return results


def drill() -> None:
    """Few steps of everything, for a tool that watches."""
    load = Load((5, 17, 9, 3), 10, "tanh")
    trained(load, "cuda", "float32", 32)
    net = load.net()
    x, y = load.data()
    net.predict(x)
    net.loss_and_gradient(x, y)
    net.apply_gradient(np.ones_like(net.parameters))
    training(load._replace(n_nets=3))(3)


def training(load: Load) -> Callable[[int], None]:
    """A function that trains a net, or many in the same launches,
    for n epochs, the data on the device.
    """
    from fastmlp.backends.cuda.device import card_of, to_device
    from fastmlp.backends.protocol import Data, Span

    nets = [load.net(seed) for seed in range(load.n_nets)]
    rng = np.random.default_rng(0)
    with card_of(0).current():
        x, y = (to_device(card_of(0), table) for table in load.data())
    members: list[Any] = [(*core_of(net), Data(x, y, np.empty(0))) for net in nets]
    engine, state, data = members[0]
    launches = engine.launches(members, load.batch)
    trainers = []
    for i, (engine, state, _) in enumerate(members):
        of_net = (state.parameters, engine.slots(state), state.optimizer)
        seat = launches.seat(i)
        trainers.append(engine.trainer(*of_net, data, load.batch, seat=seat))

    def run(n_epochs: int) -> None:
        n_rows = load.n_rows
        n_steps = n_epochs * trainers[0].units_per_epoch
        coefficients = state.optimizer.coefficients(1, np.full(n_steps, 1e-3))
        spans = []
        for trainer in trainers:
            words = rng.integers(1 << 32, size=(n_epochs, n_rows), dtype=np.uint32)
            trainer.begin()
            fixed = (data.orders(words), coefficients, np.zeros(n_epochs))
            spans.append(Span(trainer, *fixed, 0, n_steps))
        launches.run(spans)

    return run


def seconds_per_step(
    run: Callable[[int], None], steps_per_unit: int, seconds: float
) -> Any:
    """Time `run(n)`, n units of so many steps each: median and extremes of repeats."""
    run(1)
    n = 1
    spent, _ = seconds_of(partial(run, n))
    while spent < seconds / REPEATS:
        n = max(2 * n, int(n * seconds / REPEATS / spent))
        spent, _ = seconds_of(partial(run, n))
    times = []
    for _ in range(REPEATS):
        spent, _ = seconds_of(partial(run, n))
        times.append(spent / n / steps_per_unit)
    return {"median": statistics.median(times), "least": min(times), "most": max(times)}


def contestants(load: Load) -> dict[str, Callable[[], Callable[[int], None]]]:
    """The makers of the contestants, which are functions that train for n epochs."""
    makers: dict[str, Callable[[], Callable[[int], None]]] = {}
    makers["fastmlp"] = partial(training, load)
    try:
        from benchmarks.peers import torch_cuda
    except ImportError:
        return makers
    for variant in torch_cuda.VARIANTS:
        makers[f"PyTorch, {variant}"] = partial(torch_cuda.make, load, variant)
    return makers


def race(load: Load, seconds: float) -> dict[str, Any]:
    """Time all contestants on one load."""
    times = {}
    for name, make in contestants(load).items():
        times[name] = part(partial(timed, make, seconds))
    ours = least(times, "fastmlp")
    graph = least(times, "PyTorch, graph")
    record: dict[str, Any] = {
        "net": load.name,
        "seconds per step": times,
        "wanted": None,
    }
    if load.wanted is not None:
        record["wanted"] = {"times a graph": load.wanted}
    if ours and graph:
        record["times a graph"] = graph / ours
        record["held"] = load.wanted is None or graph / ours >= load.wanted
    return record


def timed(make: Callable[[], Callable[[int], None]], seconds: float) -> Any:
    """Make a contestant, and time its epochs of 32 steps."""
    return seconds_per_step(make(), 32, seconds)


def least(times: dict[str, Any], start: str) -> float | None:
    """The least median of the contestants whose names begin with some words."""
    medians = []
    for name, figures in times.items():
        if name.startswith(start) and "median" in figures:
            medians.append(figures["median"])
    return min(medians, default=None)


def part(do: Callable[[], Any]) -> Any:
    """The result of a part, or its error."""
    try:
        return do()
    except Exception as error:
        return {"error": repr(error), "traceback": traceback.format_exc()[-3000:]}


def card_facts() -> dict[str, Any]:
    from fastmlp.backends.cuda import device

    gpu = device.NUMBA_MODULE.gpus[0]
    if isinstance(gpu.name, bytes):
        name = gpu.name.decode()
    else:
        name = str(gpu.name)
    capability = ".".join(map(str, gpu.compute_capability))
    return {
        "name": name,
        "CUDA of the driver": device._versions()[0],
        "packages": machine.versions(("numba-cuda", "cuda-bindings")),
        "compute capability": capability,
        "multiprocessors": device.card_of(0).n_multiprocessors,
    }


def main(arguments: list[str] | None = None) -> int:
    """Do all of it; return 1 where there is no card."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=summary)
    add = parser.add_argument
    add("--out", dest="json", type=Path, default=Path("gpu.json"))
    add("--quick", action="store_true", help="a tenth of the time for each figure")
    add("--parts", nargs="+", choices=PARTS, help="all, where none is named")
    add("--drill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    missing = missing_card()
    if missing:
        print(missing, file=sys.stderr)
        return 1
    if options.drill:
        drill()
        return 0
    results = {}
    if options.parts:
        results = output.earlier(options)
    results["machine"] = machine.describe()
    results["card"] = part(card_facts)

    def write() -> None:
        results["held"] = verdicts(results)
        output.keep(results, options)

    # After each step, so that a run that is cut short leaves what it has.
    for name, do in work(options.quick).items():
        if name in (options.parts or PARTS):
            results[name] = []
            for step in do:
                results[name].append(part(step))
                write()
                print(json.dumps(results[name][-1], indent=1))
    print(json.dumps(results["held"], indent=1))
    print(f"written to {options.json}")
    return 0


def work(quick: bool) -> dict[str, list[Callable[[], Any]]]:
    seconds = SECONDS / 10 if quick else SECONDS
    return {
        "parity": [lambda load=load: parity([load]) for load in LOADS[:4]],  # type: ignore[misc]
        "races": [lambda load=load: race(load, seconds) for load in LOADS],  # type: ignore[misc]
        "sanitizer": [sanitized],
    }


def verdicts(results: dict[str, Any]) -> dict[str, bool | None]:
    """The limits by name, and whether they hold;
    None where they could not be measured.
    """
    held: dict[str, bool | None] = {}
    for load in results.get("parity", ()):
        # A load that failed has the error in the place of its list.
        if isinstance(load, list):
            for record in load:
                name = f"parity: {record['net']}, {record['dtype']}"
                held[name] = record.get("held")
    for record in results.get("races", ()):
        if record.get("wanted"):
            held[f"race: {record['net']}"] = record.get("held")
    for record in results.get("sanitizer", ()):
        for tool in TOOLS:
            held[tool] = record[tool]["held"] if tool in record else None
    return held


if __name__ == "__main__":
    sys.exit(main())
