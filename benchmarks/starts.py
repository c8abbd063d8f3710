"""Starts of a net side by side: least validation losses, as ratios to one start's.

A cell is a problem, an activation, a number of hidden layers, a width and an optimizer.
Cells cover each pair of values of two of these. A cell's figure for a start is the
median over seeds of the ratio of least validation losses. The program is resumed from
its file of results, a line a cell:

    python -m benchmarks.starts race results.jsonl
    python -m benchmarks.starts show results.jsonl --half 2
"""

import argparse
import json
import warnings
from collections.abc import Callable
from functools import cache
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import LBFGS, MLP, SGD, Adam, LevenbergMarquardt, fit_many
from fastmlp.rules import initializers

Array = NDArray[Any]
Bounds = tuple[float, float]

N_TRAIN = 1024
N_VALIDATION = 512
BATCH = 32
# Least losses below this count as this; targets have a variance of 1.
FLOOR = 1e-6
# Ratios are within 1 / LIMIT and LIMIT.
LIMIT = 1000.0
RELU = ("relu", "leaky_relu", "elu", "gelu", "silu", "mish")
ACTIVATIONS = (
    "relu",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "softplus",
    "sigmoid",
)
DEPTHS = (1, 2, 3, 4, 6, 8)
WIDTHS = (16, 32, 64, 128, 256, 512)


class Optimizer(NamedTuple):
    """An optimizer's settings, its epochs, and the most parameters of its nets."""

    settings: Any
    epochs: int
    most: int

    @property
    def first_order(self) -> bool:
        return isinstance(self.settings, Adam | SGD)


OPTIMIZERS = {
    "Adam(1e-3)": Optimizer(Adam(1e-3), 30, 80_000),
    "Adam(3e-3)": Optimizer(Adam(3e-3), 30, 80_000),
    "SGD(0.01, momentum=0.9)": Optimizer(SGD(0.01, momentum=0.9), 30, 80_000),
    "LBFGS": Optimizer(LBFGS(), 60, 3_000),
    "LevenbergMarquardt": Optimizer(LevenbergMarquardt(), 25, 300),
}
# Levels of the covering array: first-order optimizers are drawn twice as often.
OF_CELLS = (*[*OPTIMIZERS][:3], *OPTIMIZERS)


class Layer(NamedTuple):
    """One layer of a net: its sizes, its place,
    and the hidden activation of the net.
    """

    n_in: int
    n_out: int
    is_first: bool
    is_last: bool
    activation: str


Start = Callable[[Layer], Bounds]


def by_activation(layer: Layer) -> Bounds:
    """He's for relu and its kin, LeCun's for selu, else Glorot's; biases 0."""
    if not layer.is_last:
        if layer.activation in RELU:
            return np.sqrt(6 / layer.n_in), 0.0
        if layer.activation == "selu":
            return np.sqrt(3 / layer.n_in), 0.0
    return np.sqrt(6 / (layer.n_in + layer.n_out)), 0.0


def sklearn(layer: Layer) -> Bounds:
    """Weights and biases within the bound of Glorot; scikit-learn's."""
    factor = 2 if layer.activation == "sigmoid" else 6
    bound = np.sqrt(factor / (layer.n_in + layer.n_out))
    return bound, bound


def torch(layer: Layer) -> Bounds:
    """Weights and biases within 1 / sqrt(n_in); that of PyTorch's nn.Linear."""
    bound = 1 / np.sqrt(layer.n_in)
    return bound, bound


def glorot_with_biases(layer: Layer) -> Bounds:
    """Glorot's weights, hidden biases within 1 / sqrt(n_in),
    output weights times 0.1.
    """
    bound = np.sqrt(6 / (layer.n_in + layer.n_out))
    if layer.is_last:
        return 0.1 * bound, 0.0
    return bound, 1 / np.sqrt(layer.n_in)


def within(first: float, hidden: float, output: float) -> Start:
    """Weights within c / sqrt(n_in), c by layer;
    hidden biases within 1 / sqrt(n_in).
    """

    def bounds(layer: Layer) -> Bounds:
        root = np.sqrt(layer.n_in)
        if layer.is_last:
            return output / root, 0.0
        if layer.is_first:
            return first / root, 1 / root
        return hidden / root, 1 / root

    return bounds


def default(layer: Layer) -> Bounds:
    """What `MLP` has without an initializer."""
    squares = initializers.SQUARES.get(layer.activation, initializers.OTHER_SQUARES)
    first = np.sqrt(squares.first)
    further = np.sqrt(squares.further)
    output = np.sqrt(initializers.OUTPUT_SQUARE)
    bounds = within(first, further, output)
    return bounds(layer)


BEFORE = "by activation"
STARTS: dict[str, Start] = {
    BEFORE: by_activation,
    "default": default,
    "sklearn": sklearn,
    "torch": torch,
    "glorot, biases, output 0.1": glorot_with_biases,
    "1, 1, 0.3": within(1.0, 1.0, 0.3),
    "1.41, 1.41, 0.4": within(1.41, 1.41, 0.4),
    "1.41, 1.41, 0.14": within(1.41, 1.41, 0.14),
    "1.73, 1.73, 0.5": within(1.73, 1.73, 0.5),
    "1, 1.73, 0.3": within(1.0, 1.73, 0.3),
    "1, 2.45, 0.3": within(1.0, 2.45, 0.3),
    "1.41, 2.45, 0.2": within(1.41, 2.45, 0.2),
    "1.73, 2.45, 0.2": within(1.73, 2.45, 0.2),
}


def set_start(net: MLP, activation: str, start: Start, seed: int) -> None:
    """Write the numbers of a start; those of one seed differ by their bounds only."""
    generator = np.random.default_rng([seed, 58])
    sizes = [*pairwise(net.layer_sizes)]
    for i, (n_in, n_out) in enumerate(sizes):
        is_first = i == 0
        is_last = i == len(sizes) - 1
        layer = Layer(n_in, n_out, is_first, is_last, activation)
        weight_bound, bias_bound = start(layer)
        net.weights[i][:] = weight_bound * generator.uniform(-1, 1, (n_in, n_out))
        net.biases[i][:] = bias_bound * generator.uniform(-1, 1, n_out)


class Problem(NamedTuple):
    """Rows to train and to validate on; y are labels from 0 where there are classes."""

    x: Array
    y: Array
    train: Array
    validation: Array
    n_classes: int


def sinc(u: Array, random: Any) -> Array:
    return np.sinc(6 * u[:, 0] / np.pi)


def chirp(u: Array, random: Any) -> Array:
    wave = np.sin(4 * u[:, 0] + 5 * u[:, 0] ** 2)
    return wave + 0.1 * random.normal(size=len(u))


def franke(u: Array, random: Any) -> Array:
    a, b = 4.5 * (u.T + 1)
    return (
        0.75 * np.exp(-((a - 2) ** 2) / 4 - (b - 2) ** 2 / 4)
        + 0.75 * np.exp(-((a + 1) ** 2) / 49 - (b + 1) / 10)
        + 0.5 * np.exp(-((a - 7) ** 2) / 4 - (b - 3) ** 2 / 4)
        - 0.2 * np.exp(-((a - 4) ** 2) - (b - 7) ** 2)
    )


def waves(u: Array, random: Any) -> Array:
    """Two outputs."""
    products = np.sin(3 * u[:, 0]) * np.cos(2 * u[:, 1])
    return np.column_stack([products, np.cos(4 * np.hypot(*u.T))])


def friedman_1(u: Array, random: Any) -> Array:
    a, b, c, d, e = (u.T[:5] + 1) / 2
    wave = np.sin(np.pi * a * b)
    return 10 * wave + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e


def noisy_friedman(u: Array, random: Any) -> Array:
    """Five inputs of ten are without effect."""
    return friedman_1(u, random) + random.normal(size=len(u))


def friedman_3(u: Array, random: Any) -> Array:
    a, b, c, d = (u.T + 1) / 2
    b = np.pi * (40 + 520 * b)
    d = 1 + 10 * d
    return np.arctan((b * c - 1 / (b * d)) / (100 * a + 1))


def arm(u: Array, random: Any) -> Array:
    """The place of an arm's end, two outputs, by two angles and two lengths."""
    angle, turn, first, second = u.T
    angle = np.pi / 2 * angle
    turn = np.pi / 2 * turn
    first = 0.75 + first / 4
    second = 0.75 + second / 4
    x = first * np.cos(angle) + second * np.cos(angle + turn)
    y = first * np.sin(angle) + second * np.sin(angle + turn)
    return np.column_stack([x, y])


def borehole(u: Array, random: Any) -> Array:
    low = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
    high = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])
    inputs = low + (high - low) * (u + 1) / 2
    rw, r, tu, hu, tl, hl, length, kw = inputs.T
    logarithm = np.log(r / rw)
    leak = 2 * length * tu / (logarithm * rw**2 * kw)
    return 2 * np.pi * tu * (hu - hl) / (logarithm * (1 + leak + tu / tl))


def steps(u: Array, random: Any) -> Array:
    return np.floor(2 * u[:, 0]) + np.sign(u[:, 1]) * (u[:, 2] > 0.3)


def radial(u: Array, random: Any) -> Array:
    return np.cos(4 * np.linalg.norm(u, axis=1))


def projections(u: Array, random: Any) -> Array:
    """Waves along three directions of thirty inputs."""
    directions = np.random.default_rng(3).normal(size=(u.shape[1], 3)) / 3
    return np.sin(u @ directions).sum(axis=1) + 0.1 * random.normal(size=len(u))


def interactions(u: Array, random: Any) -> Array:
    """A linear function of twenty inputs, with products and noise."""
    coefficients = np.linspace(1, 0, u.shape[1])
    pairs = u[:, 0] * u[:, 1] + u[:, 2] * u[:, 3] * u[:, 4]
    return u @ coefficients + 2 * pairs + 0.3 * random.normal(size=len(u))


def checkers(u: Array, random: Any) -> Array:
    return (np.floor(2 * u[:, 0]) + np.floor(2 * u[:, 1])) % 2


def rings(u: Array, random: Any) -> Array:
    """Three classes by the distance from the middle, a tenth of them wrong."""
    labels = np.digitize(np.linalg.norm(u, axis=1), [0.8, 1.1])
    wrong = random.random(len(u)) < 0.1
    drawn = random.integers(0, 3, len(u))
    return np.where(wrong, drawn, labels)


def mixture(u: Array, random: Any) -> Array:
    """Five classes of the nearest of fifteen centres, by ten inputs of twenty."""
    centres = np.random.default_rng(4).uniform(-1, 1, (15, 10))
    far = ((u[:, None, :10] - centres) ** 2).sum(axis=-1)
    return far.argmin(axis=1) % 5


def parity(u: Array, random: Any) -> Array:
    """If an even number of three inputs of six are positive."""
    return (u[:, :3] > 0).sum(axis=1) % 2


# A function of inputs within -1 and 1, the number of inputs, and of classes or 0.
DRAWN: dict[str, tuple[Callable[[Array, Any], Array], int, int]] = {
    "sinc": (sinc, 1, 0),
    "chirp, noise": (chirp, 1, 0),
    "Franke": (franke, 2, 0),
    "two waves": (waves, 2, 0),
    "Friedman 1": (friedman_1, 5, 0),
    "Friedman 1 of 10, noise": (noisy_friedman, 10, 0),
    "Friedman 3": (friedman_3, 4, 0),
    "arm": (arm, 4, 0),
    "borehole": (borehole, 8, 0),
    "steps": (steps, 3, 0),
    "radial": (radial, 3, 0),
    "30 inputs, noise": (projections, 30, 0),
    "20 inputs, products, noise": (interactions, 20, 0),
    "checkers": (checkers, 2, 2),
    "rings, noise": (rings, 3, 3),
    "mixture of 15": (mixture, 20, 5),
    "parity of 3 of 6": (parity, 6, 2),
}
# Tables that scikit-learn carries: the loader,
# and the column that is the target or None.
TABLES: dict[str, tuple[str, int | None, int]] = {
    "diabetes": ("load_diabetes", None, 0),
    "wine: alcohol": ("load_wine", 0, 0),
    "cancer: worst concavity": ("load_breast_cancer", 26, 0),
    "digits": ("load_digits", None, 10),
    "breast cancer": ("load_breast_cancer", None, 2),
}
PROBLEMS = (*DRAWN, *TABLES)


@cache
def problem(name: str) -> Problem:
    """The rows of a problem: inputs, and targets that are numbers, are standardized."""
    random = np.random.default_rng(7)
    if name in DRAWN:
        function, n_inputs, n_classes = DRAWN[name]
        x = random.uniform(-1, 1, (N_TRAIN + N_VALIDATION, n_inputs))
        y = function(x, random)
    else:
        from sklearn import datasets

        loader, column, n_classes = TABLES[name]
        table = getattr(datasets, loader)()
        x = table.data
        y = table.target
        if column is not None:
            y = x[:, column]
            x = np.delete(x, column, axis=1)
    order = random.permutation(len(x))[: N_TRAIN + N_VALIDATION]
    n = 2 * len(order) // 3
    train = order[:n]
    validation = order[n:]

    def standardized(a: Array) -> Array:
        mean = a[train].mean(axis=0)
        deviation = a[train].std(axis=0)
        return (a - mean) / np.where(deviation > 0, deviation, 1.0)

    if n_classes:
        y = y.astype(np.int64)
    else:
        y = standardized(y.reshape(len(x), -1))
    return Problem(standardized(x), y, train, validation, n_classes)


class Cell(NamedTuple):
    """One place of the array."""

    problem: str
    activation: str
    depth: int
    width: int
    optimizer: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """Layer sizes, of the largest width that the optimizer and the depth allow."""
        rows = problem(self.problem)
        if rows.n_classes == 2:
            n_outputs = 1
        elif rows.n_classes:
            n_outputs = rows.n_classes
        else:
            n_outputs = rows.y.shape[1]
        most = OPTIMIZERS[self.optimizer].most
        width = self.width
        while True:
            sizes = (rows.x.shape[1], *[width] * self.depth, n_outputs)
            n_parameters = sum((a + 1) * b for a, b in pairwise(sizes))
            if n_parameters <= most or width <= 4:
                return sizes
            width = width * 3 // 4

    @property
    def has_classes(self) -> bool:
        return problem(self.problem).n_classes > 0


def cells(seed: int = 0) -> list[Cell]:
    """All cells, in an order that is drawn once.

    Each problem meets each activation. Depth,
    width and optimizer are those of the least met pairs.
    """
    random = np.random.default_rng(seed)
    pairs = [*product(PROBLEMS, range(len(ACTIVATIONS)))]
    options = [*product(DEPTHS, WIDTHS, range(len(OF_CELLS)))]
    n_met: dict[Any, int] = {}
    made = []
    for place in random.permutation(len(pairs)):
        taken = [combinations_of((*pairs[place], *option)) for option in options]
        # A pair that was met more than thrice counts as thrice.
        met = np.empty(len(options))
        for i, each in enumerate(taken):
            met[i] = sum(min(n_met.get(pair, 0), 3) for pair in each)
        best = random.choice(np.flatnonzero(met == met.min()))
        for pair in taken[best]:
            n_met[pair] = n_met.get(pair, 0) + 1
        name, activation = pairs[place]
        depth, width, optimizer = options[best]
        cell = Cell(name, ACTIVATIONS[activation], depth, width, OF_CELLS[optimizer])
        made.append(cell)
    return made


def combinations_of(values: tuple[Any, ...]) -> list[Any]:
    """The pairs of values of two factors."""
    return [*combinations(enumerate(values), 2)]


def nets_of(cell: Cell, starts: dict[str, Start], seeds: range) -> list[MLP]:
    """A net for each start and seed, in this order."""
    rows = problem(cell.problem)
    optimizer = OPTIMIZERS[cell.optimizer]
    activation: Any = cell.activation
    loss: Any
    if rows.n_classes == 2:
        loss = "binary_cross_entropy"
    elif rows.n_classes:
        loss = "cross_entropy"
    else:
        loss = "mse"
    nets = []
    for start, seed in product(starts.values(), seeds):
        net = MLP(
            cell.sizes,
            activation=activation,
            loss=loss,
            optimizer=optimizer.settings,
            dtype="float32" if optimizer.first_order else "float64",
            seed=seed,
        )
        set_start(net, cell.activation, start, seed)
        nets.append(net)
    return nets


def measured(
    cell: Cell, starts: dict[str, Start], seeds: range, epochs: int | None = None
) -> dict[str, list[float]]:
    """Least validation losses of each start by seed;
    infinite where no loss is finite.
    """
    rows = problem(cell.problem)
    optimizer = OPTIMIZERS[cell.optimizer]
    if epochs is None:
        epochs = optimizer.epochs
        if optimizer.first_order:
            steps = N_TRAIN // BATCH * optimizer.epochs
            epochs = round(steps / np.ceil(len(rows.train) / BATCH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        histories = fit_many(
            nets_of(cell, starts, seeds),
            rows.x,
            rows.y,
            epochs=epochs,
            batch_size=BATCH if optimizer.first_order else None,
            rows=rows.train,
            validation_rows=rows.validation,
        )
    losses = []
    for history in histories:
        finite = [loss for loss in history.validation_loss if np.isfinite(loss)]
        losses.append(min(finite, default=np.inf))
    by_start = np.reshape(losses, (len(starts), len(seeds)))
    return dict(zip(starts, by_start.tolist(), strict=True))


def race(options: argparse.Namespace) -> None:
    """Measure the cells that the file lacks, and add each to it."""
    done = {Cell(*record["cell"]) for record in records_of(options.results)}
    chosen = {name: STARTS[name] for name in (BEFORE, *options.starts)}
    for n, cell in enumerate(cells()[: options.cells]):
        if cell not in done:
            losses = measured(cell, chosen, range(options.seeds), options.epochs)
            with options.results.open("a") as file:
                record = {"n": n, "cell": cell, "losses": losses}
                file.write(json.dumps(record) + "\n")


def records_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def ratio(record: dict[str, Any], start: str) -> float:
    """The median over seeds of the ratio of a start's loss to that of `BEFORE`."""
    losses = np.clip(record["losses"][start], FLOOR, 1 / FLOOR)
    before = np.clip(record["losses"][BEFORE], FLOOR, 1 / FLOOR)
    median = np.median(losses / before)
    return float(np.clip(median, 1 / LIMIT, LIMIT))


def show(options: argparse.Namespace) -> None:
    """Print tables of geometric means, and the cells in which the default loses."""
    records = records_of(options.results)
    if options.half:
        middle = len(cells()) // 2
        records = [r for r in records if (r["n"] >= middle) == (options.half == 2)]
    factors = (
        ("", lambda cell: "all"),
        ("", lambda cell: "classes" if cell.has_classes else "regression"),
        ("", lambda cell: cell.activation),
        ("layers", lambda cell: cell.depth),
        ("", lambda cell: cell.optimizer),
    )
    names = [name for name in STARTS if name in records[0]["losses"]]
    print("cells", *names, "worse", "worst", sep=" | ")
    for word, key in factors:
        groups: dict[Any, list[dict[str, Any]]] = {}
        for record in records:
            groups.setdefault(key(Cell(*record["cell"])), []).append(record)
        for value, group in sorted(groups.items()):
            means = []
            for name in names:
                logs = np.log([ratio(record, name) for record in group])
                means.append(f"{np.exp(np.mean(logs)):.2f}")
            of_default = np.array([ratio(record, "default") for record in group])
            worse = f"{np.sum(of_default > 1.1)} of {len(group)}"
            worst = f"{of_default.max():.1f}"
            print(f"{value} {word}".strip(), *means, worse, worst, sep=" | ")
    for record in sorted(records, key=lambda r: -ratio(r, "default")):
        if ratio(record, "default") > 1.1:
            print(f"{ratio(record, 'default'):.2f}", *record["cell"], sep=" | ")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["race", "show"])
    parser.add_argument("results", type=Path)
    parser.add_argument("--cells", type=int, help="the first so many")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=[*STARTS])
    parser.add_argument("--half", type=int, choices=[1, 2])
    options = parser.parse_args(words)
    if options.what == "race":
        race(options)
    else:
        show(options)


if __name__ == "__main__":
    main()
