"""Second-order fits beside Adam, L-BFGS and the peers':
the seconds until the loss is small enough.

All start from the same weights of float64.
A peer that does not reach the goal is skipped.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.peers import Unsupported
from benchmarks.race import Clock
from benchmarks.scores import Record
from benchmarks.workloads import Array, forward

# The most seconds of a fit, and Adam's rates.
SECONDS = 5.0
RATES = (1e-3, 3e-3, 1e-2)


def sinc(x: Array) -> Array:
    """sin(6 x) / (6 x)."""
    return np.sinc(6 * x / np.pi)


def friedman(x: Array) -> Array:
    """Friedman's first function of inputs in [-1, 1], standardized."""
    a, b, c, d, e = np.split((x + 1) / 2, 5, axis=1)
    wave = np.sin(np.pi * a * b)
    value = 10 * wave + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
    return (value - 14.4) / 4.9


def arm(x: Array) -> Array:
    """The reach of an arm of two joints, by angles and lengths."""
    angle, turn, first, second = np.split(x, 4, axis=1)
    angle = np.pi / 2 * angle
    turn = np.pi / 2 * turn
    first = 0.75 + first / 4
    second = 0.75 + second / 4
    return first * np.cos(angle) + second * np.cos(angle + turn)


def pressure(x: Array) -> Array:
    """van der Waals' reduced pressure, by temperature 1 to 2 and volume 0.6 to 3."""
    t = 1.5 + x[:, :1] / 2
    v = 1.8 + 1.2 * x[:, 1:]
    return (8 * t / (3 * v - 1) - 3 / v**2 - 2.5) / 2


# The function, the net, and the mean squared error that a fit ends at.
TARGETS: dict[str, tuple[Callable[[Array], Array], tuple[int, ...], float]] = {
    "sinc-1-20-1": (sinc, (1, 20, 1), 1e-6),
    "sinc-1-16-16-1": (sinc, (1, 16, 16, 1), 1e-6),
    "Friedman-5-16-16-1": (friedman, (5, 16, 16, 1), 1e-4),
    "arm-4-24-24-1": (arm, (4, 24, 24, 1), 1e-4),
    "van-der-Waals-2-16-16-1": (pressure, (2, 16, 16, 1), 1e-5),
}
N_ROWS = 1000


class Problem:
    """A target's rows, and the first net.

    Attributes
    ----------
    goal : the loss that ends a fit
    settings : of each net
    """

    def __init__(self, target: str, quick: bool, clock: Callable[[], float]) -> None:
        function, self.sizes, goal = TARGETS[target]
        self.goal = np.inf if quick else goal
        self.clock = clock
        random = np.random.default_rng(10)
        self.x = random.uniform(-1, 1, (N_ROWS, self.sizes[0]))
        self.y = function(self.x)
        self.settings: Any = {"activation": "tanh", "dtype": "float64", "seed": 10}

    def net(self, optimizer: Any) -> Any:
        """A new net of fastmlp's."""
        mlp: Any = import_module("fastmlp").MLP
        return mlp(self.sizes, optimizer=optimizer, **self.settings)

    def watch(self) -> "Watch":
        """A clock that begins now."""
        return Watch(self.goal, self.clock)


class Watch:
    """The seconds of a fit until its loss is the goal's.

    Attributes
    ----------
    seconds : inf if it has not been reached
    """

    def __init__(self, goal: float, clock: Clock) -> None:
        self.seconds = np.inf
        self._goal = goal
        self._clock = clock
        self._start = clock()

    def ends(self, loss: float) -> bool:
        """Take a loss; return True if it is small enough, or the time is up."""
        now = self._clock() - self._start
        if loss <= self._goal:
            self.seconds = now
        return loss <= self._goal or now >= SECONDS


def by_fastmlp(name: str, problem: Problem) -> float:
    """A fit by an optimizer of fastmlp's."""
    net = problem.net(getattr(import_module("fastmlp"), name)())
    watch = problem.watch()

    def look(report: Any) -> None:
        if watch.ends(report.loss):
            report.stop()

    net.fit(problem.x, problem.y, epochs=10**7, callbacks=look)
    return watch.seconds


def by_adam(problem: Problem) -> float:
    """The best of fits by Adam, each with a rate."""
    library = import_module("fastmlp")
    times = []
    for rate in RATES:
        net = problem.net(library.Adam(rate))
        watch = problem.watch()

        def look(report: Any, watch: Watch = watch) -> None:
            if watch.ends(report.loss):
                report.stop()

        net.fit(problem.x, problem.y, epochs=10**7, callbacks=look)
        times.append(watch.seconds)
    return min(times)


def by_torch(problem: Problem) -> float:
    """A fit by torch-levenberg-marquardt, with its Cholesky factor."""
    torch: Any = import_module("torch")
    library: Any = import_module("torch_levenberg_marquardt")
    net = problem.net("adam")
    layers = []
    for weights, biases in zip(net.weights, net.biases, strict=True):
        layer = torch.nn.Linear(*weights.shape, dtype=torch.float64)
        layer.weight.data = torch.tensor(weights.T.copy())
        layer.bias.data = torch.tensor(biases)
        layers.append(layer)
        layers.append(torch.nn.Tanh())
    model = torch.nn.Sequential(*layers[:-1])
    lm = library.training.LevenbergMarquardtModule(
        model,
        loss_fn=library.loss.MSELoss(),
        solve_method="cholesky",
        damping_strategy=library.damping.StandardDampingStrategy(starting_value=1e-3),
    )
    rows = (torch.tensor(problem.x), torch.tensor(problem.y))
    watch = problem.watch()
    while True:
        _, loss, stops, _ = lm.training_step(*rows)
        if watch.ends(float(loss)) or stops:
            return watch.seconds


def by_optimistix(problem: Problem) -> float:
    """A fit by optimistix, jitted, ten steps a call, which is compiled before."""
    jax, eqx, optx, lx = map(import_module, ("jax", "equinox", "optimistix", "lineax"))
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    net = problem.net("adam")
    x = jnp.asarray(problem.x)
    y = jnp.asarray(problem.y)
    weights = [jnp.asarray(w) for w in net.weights]
    biases = [jnp.asarray(b) for b in net.biases]
    start = list(zip(weights, biases, strict=True))
    scale = 1 / np.sqrt(len(x))

    def residuals(layers: Any, _: Any) -> Any:
        error = forward(layers, x, jnp.tanh) - y
        return (error * scale).ravel(), None

    solver = optx.LevenbergMarquardt(
        rtol=1e-15, atol=1e-15, linear_solver=lx.Normal(lx.Cholesky())
    )
    out, aux = jax.eval_shape(residuals, start, None)
    state = solver.init(residuals, start, None, {}, out, aux, frozenset())
    dynamic, static = eqx.partition((start, state), eqx.is_array)

    @jax.jit
    def steps(dynamic: Any) -> Any:
        def step(_: Any, dynamic: Any) -> Any:
            layers, state = eqx.combine(dynamic, static)
            layers, state, _ = solver.step(
                residuals, layers, None, {}, state, frozenset()
            )
            dynamic, _ = eqx.partition((layers, state), eqx.is_array)
            return dynamic

        return jax.lax.fori_loop(0, 10, step, dynamic)

    @jax.jit
    def loss(layers: Any) -> Any:
        error, _ = residuals(layers, None)
        return jnp.sum(error**2)

    jax.block_until_ready((steps(dynamic), loss(start)))
    watch = problem.watch()
    while True:
        dynamic = jax.block_until_ready(steps(dynamic))
        # The layers that were accepted last; those of the state's own are tried.
        layers, _ = eqx.combine(dynamic, static)
        now = float(loss(layers))
        if watch.ends(now) or not np.isfinite(now):
            return watch.seconds


FITS: dict[str, Callable[[Problem], float]] = {
    "fastmlp": partial(by_fastmlp, "LevenbergMarquardt"),
    "fastmlp-LBFGS": partial(by_fastmlp, "LBFGS"),
    "fastmlp-Adam": by_adam,
    "lm": by_torch,
    "optimistix": by_optimistix,
}


class Work:
    """Fits to the goal, after one that compiles."""

    def __init__(
        self, worker: Any, quick: bool, target: str, form: str | None = None
    ) -> None:
        name = worker.name
        if form:
            name = f"{name}-{form}"
        problem = Problem(target, quick, worker.clock)
        self.fit = partial(FITS[name], problem)
        self.about: Record = {}
        self.units = 1
        if not np.isfinite(self.fit()):
            raise Unsupported(f"the goal is not reached within {SECONDS:g} s")

    def turn(self, n: int) -> float:
        return sum(self.fit() for _ in range(n))


@pytest.mark.libraries(*FITS)
@pytest.mark.parametrize("target", TARGETS)
def test_second_order(race: Race, target: str) -> None:
    race(Work, seconds=0, target=target)
