"""Errors of surrogates that are trained on values alone, or on values and derivatives.

``python -m benchmarks.surrogates`` prints the tables of "Little data: train on
derivatives". ``--jenn PYTHON`` adds JENN in the environment of that interpreter,
``--picture FILE`` draws errors over rows, and ``--quick`` takes one design and few
steps. Functions take complex numbers: derivatives are complex steps, exact to rounding.
Each error is the root mean square on 10,000 new rows over the deviation of the function
there, the median of five Latin hypercubes and seeds.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, qmc

from benchmarks.machine import describe, measured
from fastmlp import (
    MLP,
    Adam,
    LevenbergMarquardt,
    OneCycle,
    Standardizer,
    fold,
    jacobian,
)

Array = np.ndarray[Any, Any]
N_TEST = 10_000
N_DESIGNS = 5
N_STEPS = 3000
# The rate of the documented call; values alone, and the basket,
# have the better of both by the test rows.
RATE = 0.1
OTHER_RATE = 0.01


class Target(NamedTuple):
    """A function of rows, shape (n_rows, n),
    and the lower and upper ends of its inputs.
    """

    function: Callable[[Array], Array]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_rows: int


def wing_weight(x: Array) -> Array:
    """Weight of a light aircraft's wing. Forrester, Sobester & Keane (2008)."""
    area, fuel, aspect, sweep, pressure, taper, thick, load, gross, paint = x.T
    angle = np.cos(sweep * np.pi / 180)
    wing = 0.036 * area**0.758 * fuel**0.0035
    wing = wing * (aspect / angle**2) ** 0.6
    wing = wing * pressure**0.006 * taper**0.04
    wing = wing * (100 * thick / angle) ** -0.3
    return wing * (load * gross) ** 0.49 + area * paint


def borehole(x: Array) -> Array:
    """Flow of water through a borehole. Harper & Gupta (1983)."""
    radius, influence, upper, above, lower, below, length, conductivity = x.T
    ratio = np.log(influence / radius)
    leak = 2 * length * upper / (ratio * radius**2 * conductivity)
    return 2 * np.pi * upper * (above - below) / (ratio * (1 + leak + upper / lower))


def branin(x: Array) -> Array:
    a, b = x.T
    parabola = b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6
    wave = 10 * (1 - 1 / (8 * np.pi)) * np.cos(a)
    return parabola**2 + wave + 10


def rosenbrock(x: Array) -> Array:
    after = x[:, 1:]
    before = x[:, :-1]
    valley = 100 * (after - before**2) ** 2
    slope = (1 - before) ** 2
    return np.sum(valley + slope, axis=1)


def ridge_and_bump(x: Array) -> Array:
    """A ridge along a diagonal, and a bump on it, in ten inputs."""
    along = x @ (np.arange(1, 11) / np.sqrt(385))
    squares = np.sum((x - 0.25) ** 2, axis=1)
    return np.tanh(4 * along) + 2 * np.exp(-squares)


def ackley(x: Array) -> Array:
    size = np.sqrt(np.mean(x**2, axis=1))
    waves = np.mean(np.cos(2 * np.pi * x), axis=1)
    return 20 + np.e - 20 * np.exp(-0.2 * size) - np.exp(waves)


WING = (
    (150, 220, 6, -10, 16, 0.5, 0.08, 2.5, 1700, 0.025),
    (200, 300, 10, 10, 45, 1.0, 0.18, 6.0, 2500, 0.08),
)
BOREHOLE = (
    (0.05, 100, 63070, 990, 63.1, 700, 1120, 9855),
    (0.15, 50000, 115600, 1110, 116, 820, 1680, 12045),
)
TARGETS = {
    "wing weight": Target(wing_weight, *WING, 50),
    "borehole": Target(borehole, *BOREHOLE, 50),
    "Branin": Target(branin, (-5.0, 0.0), (10.0, 15.0), 200),
    "Rosenbrock": Target(rosenbrock, (-2.0,) * 5, (2.0,) * 5, 200),
    "ridge and bump": Target(ridge_and_bump, (-1.0,) * 10, (1.0,) * 10, 500),
    "Ackley": Target(ackley, (-5.0,) * 5, (5.0,) * 5, 200),
}


def derivatives_of(function: Callable[[Array], Array], x: Array) -> Array:
    """Derivatives by each input, shape (n_rows, n), by complex steps."""
    columns = []
    for j in range(x.shape[1]):
        moved = x.astype(complex)
        moved[:, j] += 1e-30j
        columns.append(function(moved).imag / 1e-30)
    return np.column_stack(columns)


def rows_of(target: Target, n_rows: int, seed: int) -> tuple[Array, Array, Array]:
    low = np.array(target.low, float)
    high = np.array(target.high, float)
    cube = qmc.LatinHypercube(len(low), rng=np.random.default_rng(seed))
    x = low + cube.random(n_rows) * (high - low)
    return x, target.function(x), derivatives_of(target.function, x)


def documented(x: Array, y: Array, seed: int, g: Any = None, **options: Any) -> MLP:
    """Train as the page says, and return a net of unscaled columns."""
    rate = options.pop("rate", RATE)
    weight = options.pop("weight", "balanced")
    steps = options.pop("steps", N_STEPS)
    net = MLP(
        (x.shape[1], 20, 20, 20, 20, 1),
        activation="softplus",
        optimizer=Adam(OneCycle(rate)),
        n_threads=1,
        seed=seed,
    )
    n_batches = -(-len(x) // 64)
    fit = {"batch_size": 64, "epochs": steps // n_batches}
    if g is not None:
        fit["derivative_weight"] = weight
    return scaled_fit(net, x, y, g, **(fit | options))


def second_order(x: Array, y: Array, seed: int, g: Array, steps: int) -> MLP:
    """The page's second call: a small net by `LevenbergMarquardt`,
    a step for 50 of Adam.
    """
    net = MLP(
        (x.shape[1], 12, 12, 1),
        activation="softplus",
        optimizer=LevenbergMarquardt(),
        dtype="float64",
        n_threads=1,
        seed=seed,
    )
    return scaled_fit(net, x, y, g, epochs=steps // 50)


def scaled_fit(net: MLP, x: Array, y: Array, g: Any, **fit: Any) -> MLP:
    of_x = Standardizer().fit(x)
    of_y = Standardizer().fit(y[:, None])
    if g is not None:
        fit["derivatives"] = of_x.scale_derivatives(g, of_y)
    net.fit(of_x.transform(x), of_y.transform(y[:, None]), **fit)
    return fold(net, of_x, of_y)


def error_of(found: Array, expected: Array) -> float:
    root = np.sqrt(np.mean((found - expected) ** 2))
    return float(100 * root / expected.std())


class Row(NamedTuple):
    """Median errors of a target, %, and the CPU seconds of a fit."""

    values: float
    twice: float
    plain: float
    balanced: float
    seconds: float
    second_order: float
    its_seconds: float


def surrogate(target: Target, n_rows: int, n_designs: int, steps: int) -> Row:
    x_test, y_test, _ = rows_of(target, N_TEST, 1_000_000)
    results: list[Any] = []
    for seed in range(n_designs):
        x, y, g = rows_of(target, n_rows, seed)
        more_x, more_y, _ = rows_of(target, 2 * n_rows, seed)

        def tested(net: MLP) -> float:
            return error_of(np.ravel(net.predict(x_test)), y_test)

        def of_values(x: Array, y: Array, seed: int = seed) -> float:
            errors = []
            for rate in (RATE, OTHER_RATE):
                net = documented(x, y, seed, steps=steps, rate=rate)
                errors.append(tested(net))
            return min(errors)

        values = of_values(x, y)
        twice = of_values(more_x, more_y)
        plain = tested(documented(x, y, seed, g, steps=steps, weight=1.0))
        start = time.thread_time()
        balanced = tested(documented(x, y, seed, g, steps=steps))
        seconds = time.thread_time() - start
        start = time.thread_time()
        net = second_order(x, y, seed, g, steps)
        its_seconds = time.thread_time() - start
        row = Row(values, twice, plain, balanced, seconds, tested(net), its_seconds)
        results.append(row)
    return Row(*np.median(results, axis=0))


# Run by the interpreter of another environment:
# rows in a file, errors and CPU seconds on a line.
JENN = """
import sys, time
import numpy as np
from jenn import NeuralNet
data = np.load(sys.argv[1])
x, y, g, x_test = (data[name] for name in ("x", "y", "g", "x_test"))
start = time.process_time()
net = NeuralNet([len(x), 20, 20, 1])
net.fit(x, y, dydx=g, is_normalize=True, max_iter=int(sys.argv[3]), random_state=int(sys.argv[2]))
seconds = time.process_time() - start
np.savez(sys.argv[1], found=net.predict(x_test), seconds=seconds)
"""


def jenn(
    python: str, target: Target, n_designs: int, steps: int
) -> tuple[float, float]:
    """The median error of JENN with derivatives after `steps` / 3 iterations,
    by default 1,000 as is its default, and its CPU seconds on one thread.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    x_test, y_test, _ = rows_of(target, N_TEST, 1_000_000)
    results = []
    for seed in range(n_designs):
        x, y, g = rows_of(target, target.n_rows, seed)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.npz")
            np.savez(file, x=x.T, y=y[None], g=g.T[None], x_test=x_test.T)
            command = [python, "-c", JENN, str(file), str(seed), str(steps // 3)]
            subprocess.run(command, check=True, env=os.environ | threads)
            with np.load(file) as made:
                error = error_of(made["found"].ravel(), y_test)
                results.append((error, made["seconds"]))
    error, seconds = np.median(results, axis=0)
    return float(error), float(seconds)


class Basket:
    """A call on a basket of assets in the model of Bachelier, from T1 = 1 to T2 = 2.

    Huge & Savine, Differential machine learning (2020): rows are spots at T1, a target
    is the payoff of one path from there, and its derivative is that of this path.
    """

    strike = 1.1
    volatility = 0.2
    spread = 1.5

    def __init__(self, n_assets: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._rng = rng
        weights = rng.uniform(1, 10, n_assets)
        self.weights = weights / weights.sum()
        drawn = rng.uniform(-1, 1, (2 * n_assets, n_assets))
        covariance = drawn.T @ drawn
        deviations = rng.uniform(5, 50, n_assets)
        factors = deviations / np.sqrt(np.diag(covariance))
        covariance *= np.outer(factors, factors)
        total = np.sqrt(self.weights @ covariance @ self.weights)
        self._root = np.linalg.cholesky(covariance) * self.volatility / total

    def paths(self, n: int) -> tuple[Array, Array, Array]:
        moves = self._rng.normal(size=(2, n, len(self.weights))) @ self._root.T
        spots = 1 + self.spread * moves[0]
        ends = (spots + moves[1]) @ self.weights
        payoffs = np.maximum(ends - self.strike, 0)
        is_in = ends > self.strike
        return spots, payoffs, is_in[:, None] * self.weights

    def truth(self, spots: Array) -> tuple[Array, Array]:
        """Prices, and deltas by each asset."""
        distance = (spots @ self.weights - self.strike) / self.volatility
        chance = norm.cdf(distance)
        prices = self.volatility * (distance * chance + norm.pdf(distance))
        return prices, chance[:, None] * self.weights


def basket_errors(n_paths: int, seed: int, *, derived: bool, steps: int) -> list[float]:
    """Errors of prices and of deltas, % of the largest price and of the mean weight."""
    basket = Basket(20, seed)
    x, y, g = basket.paths(n_paths)
    test, *_ = basket.paths(4096)
    prices, deltas = basket.truth(test)
    size = max(64, n_paths // 16)
    epochs = max(1, steps // (n_paths // size))
    slopes = g if derived else None
    results = []
    for rate in (RATE, OTHER_RATE):
        options = {"batch_size": size, "epochs": epochs, "rate": rate}
        net = documented(x, y, seed, slopes, **options)
        price_error = error_of(np.ravel(net.predict(test)), prices)
        delta_error = error_of(jacobian(net, test)[:, 0], deltas)
        results.append([price_error, delta_error])
    return min(results)


def print_functions(arguments: Any, n_designs: int, steps: int) -> None:
    titles = [
        "rows",
        "values alone",
        "of twice the rows",
        "derivatives, weight 1",
        "balanced",
        "seconds",
        "LevenbergMarquardt",
        "its seconds",
    ]
    if arguments.jenn:
        titles += ["JENN", "its seconds"]
    print(f"| function | {' | '.join(titles)} |")
    print("|---|" + "--:|" * len(titles))
    for name, target in TARGETS.items():
        row = surrogate(target, target.n_rows, n_designs, steps)
        figures = [*row]
        if arguments.jenn:
            figures += jenn(arguments.jenn, target, n_designs, steps)
        cells = [name, str(target.n_rows), *(f"{figure:.3g}" for figure in figures)]
        print(f"| {' | '.join(cells)} |", flush=True)


def differences(target: Target, x: Array) -> Array:
    """Derivatives by one more call of the function for each input."""
    first = target.function(x)
    columns = []
    for j, (low, high) in enumerate(zip(target.low, target.high, strict=True)):
        step = 1e-6 * (high - low)
        moved = x.copy()
        moved[:, j] += step
        columns.append((target.function(moved) - first) / step)
    return np.column_stack(columns)


def print_differences(n_designs: int, steps: int) -> None:
    """As many calls of the program:
    rows with finite differences, or more rows of values.
    """
    print("| function | calls | rows with differences | values alone |")
    print("|---|--:|--:|--:|")
    for name, n_rows in product(("wing weight", "borehole", "Branin"), (20, 50)):
        target = TARGETS[name]
        results = []
        n_calls = n_rows * (1 + len(target.low))
        x_test, y_test, _ = rows_of(target, N_TEST, 1_000_000)
        for seed in range(n_designs):
            x, y, _ = rows_of(target, n_rows, seed)
            more = rows_of(target, n_calls, seed)
            nets = [documented(x, y, seed, differences(target, x), steps=steps)]
            for rate in (RATE, OTHER_RATE):
                nets.append(documented(*more[:2], seed, steps=steps, rate=rate))
            errors = [error_of(np.ravel(net.predict(x_test)), y_test) for net in nets]
            results.append([errors[0], min(errors[1:])])
        cells = " | ".join(f"{error:.3g}" for error in np.median(results, axis=0))
        print(f"| {name} | {n_calls} | {cells} |", flush=True)


def print_basket(n_designs: int, steps: int) -> None:
    print("| paths | trained on | prices | deltas |\n|--:|---|--:|--:|")
    for n_paths in (1024, 8192):
        for name, derived in (("values", False), ("values and derivatives", True)):
            options: Any = {"derived": derived, "steps": steps}
            errors = [basket_errors(n_paths, s, **options) for s in range(n_designs)]
            prices, deltas = np.median(errors, axis=0)
            print(f"| {n_paths:,} | {name} | {prices:.3g} | {deltas:.3g} |", flush=True)


def draw(file: Path, n_designs: int, steps: int) -> None:
    """Errors over rows: values, and values with derivatives."""
    import matplotlib.pyplot as plt

    names = ("wing weight", "borehole", "Ackley")
    numbers = (10, 20, 40, 80, 160)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for name, place in zip(names, axes, strict=True):
        rows = [surrogate(TARGETS[name], n, n_designs, steps) for n in numbers]
        values = [row.values for row in rows]
        balanced = [row.balanced for row in rows]
        second = [row.second_order for row in rows]
        place.loglog(numbers, values, "o-", label="values")
        place.loglog(numbers, balanced, "s-", label="with derivatives")
        place.loglog(numbers, second, "^-", label="and second order")
        place.set(title=name, xlabel="rows", xticks=numbers, xticklabels=numbers)
        place.minorticks_off()
    axes[0].set_ylabel("error, % of the deviation")
    axes[0].legend()
    figure.savefig(file, dpi=110)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jenn", help="the interpreter of an environment with JENN")
    parser.add_argument("--picture", type=Path, help="the picture's file")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(words)
    n_designs, steps = (1, 100) if arguments.quick else (N_DESIGNS, N_STEPS)
    print(measured({"machine": describe()}, "1 thread", versions={}))
    if arguments.picture:
        draw(arguments.picture, n_designs, steps)
        return
    print_functions(arguments, n_designs, steps)
    print_differences(n_designs, steps)
    print_basket(n_designs, min(steps, 1600))


if __name__ == "__main__":
    main()
