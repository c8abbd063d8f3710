"""Second-order fits beside Adam, L-BFGS and the peers', at equal seconds, each in a new process.

All start from the same weights of float64, on one thread. Seconds are of the process's CPU, after a
fit that compiles, so that a busy machine disturbs them less.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peak import peak
from benchmarks.race import Contestant, Part, Race, calls_in_turns
from benchmarks.scores import Record, failed, quartiles
from benchmarks.workloads import Array, forward

PAGE = DOCS / "second-order.md"
PICTURE = DOCS / "_static" / "second-order.png"
# Each fit's seconds, its seeds, and Adam's rates.
SECONDS, SEEDS, RATES = 2.0, (10, 11, 12), (1e-3, 3e-3, 1e-2)
# Times of a path that are kept.
PATH = 60


def sinc(x: Array) -> Array:
    """sin(6 x) / (6 x)."""
    return np.sinc(6 * x / np.pi)


def friedman(x: Array) -> Array:
    """Friedman's first function of inputs in [-1, 1], standardized."""
    u = (x + 1) / 2
    value = 10 * np.sin(np.pi * u[:, :1] * u[:, 1:2]) + 20 * (u[:, 2:3] - 0.5) ** 2
    return (value + 10 * u[:, 3:4] + 5 * u[:, 4:5] - 14.4) / 4.9


def arm(x: Array) -> Array:
    """The reach of an arm of two joints, by angles and lengths."""
    angle, turn = np.pi / 2 * x[:, :1], np.pi / 2 * x[:, 1:2]
    return (0.75 + x[:, 2:3] / 4) * np.cos(angle) + (0.75 + x[:, 3:4] / 4) * np.cos(
        angle + turn
    )


def pressure(x: Array) -> Array:
    """van der Waals' reduced pressure, by temperature 1 to 2 and volume 0.6 to 3."""
    t, v = 1.5 + x[:, :1] / 2, 1.8 + 1.2 * x[:, 1:]
    return (8 * t / (3 * v - 1) - 3 / v**2 - 2.5) / 2


def gauss(x: Array) -> Array:
    """Two peaks on an exponential, as in NIST's Gauss1."""
    t = 125 * (x + 1)
    peaks = [
        100 * np.exp(-((t - 65) ** 2) / 23**2),
        70 * np.exp(-((t - 180) ** 2) / 18**2),
    ]
    return (98 * np.exp(-0.0105 * t) + sum(peaks) - 60) / 40


def thurber(x: Array) -> Array:
    """A ratio of cubic polynomials, as in NIST's Thurber."""
    t = 2.5 * x - 0.5
    above = 1288 + t * (1491 + t * (583 + t * 75))
    return (above / (1 + t * (0.966 + t * (0.398 + t * 0.0497))) - 800) / 500


def mgh17(x: Array) -> Array:
    """A sum of two exponentials, as in NIST's MGH17."""
    t = 160 * (x + 1)
    return (
        0.375 + 1.936 * np.exp(-0.01287 * t) - 1.465 * np.exp(-0.02212 * t) - 0.6
    ) / 0.2


# The function, the net, rows, and the standard deviation of the noise.
SMOOTH: dict[str, tuple[Callable[[Array], Array], tuple[int, ...], int, float]] = {
    "sinc, 1-20-1": (sinc, (1, 20, 1), 1000, 0.0),
    "sinc, 1-16-16-1": (sinc, (1, 16, 16, 1), 1000, 0.0),
    "Friedman, 5-16-16-1": (friedman, (5, 16, 16, 1), 1000, 0.0),
    "arm, 4-24-24-1": (arm, (4, 24, 24, 1), 1000, 0.0),
    "van der Waals, 2-16-16-1": (pressure, (2, 16, 16, 1), 1000, 0.0),
}
NOISY = {
    "like Gauss1, 1-10-1": (gauss, (1, 10, 1), 250, 0.06),
    "like Thurber, 1-5-1": (thurber, (1, 5, 1), 37, 0.02),
    "like MGH17, 1-4-1": (mgh17, (1, 4, 1), 33, 0.01),
}
TARGETS = {**SMOOTH, **NOISY}
LARGE = (8, 50, 48, 1), 10_000


class Problem:
    """A target's rows, and the first net.

    Attributes
    ----------
    settings : of each net
    x, y, x_test, y_test : arrays; those of the test are without noise
    """

    def __init__(self, target: str, seed: int) -> None:
        function, self.sizes, n, noise = TARGETS[target]
        random = np.random.default_rng(seed)
        self.x = random.uniform(-1, 1, (n, self.sizes[0]))
        self.x_test = random.uniform(-1, 1, (2000, self.sizes[0]))
        self.y = function(self.x) + noise * random.normal(size=(n, 1))
        self.y_test = function(self.x_test)
        self.settings: Any = {
            "activation": "tanh", "dtype": "float64", "seed": seed, "n_threads": 1,
        }  # fmt: skip

    def net(self, optimizer: Any) -> Any:
        """A new net of fastmlp's."""
        mlp: Any = import_module("fastmlp").MLP
        return mlp(self.sizes, optimizer=optimizer, **self.settings)

    def test(self, layers: list[tuple[Array, Array]]) -> float:
        """The mean squared error of weights and biases on the test's rows."""
        return float(
            np.mean((forward(layers, self.x_test, np.tanh) - self.y_test) ** 2)
        )


class Clock:
    """A fit's CPU seconds, and its losses by them."""

    def __init__(self, seconds: float) -> None:
        self.path: list[tuple[float, float]] = []
        self._start, self._seconds = time.process_time(), seconds

    def ends(self, loss: float) -> bool:
        """Take a loss; return True if the time is up."""
        now = time.process_time() - self._start
        self.path.append((now, loss))
        return now >= self._seconds


def by_fastmlp(name: str, problem: Problem, seconds: float) -> Record:
    """A fit by an optimizer of fastmlp's."""
    net, clock = problem.net(getattr(import_module("fastmlp"), name)()), Clock(seconds)

    def look(report: Any) -> None:
        if clock.ends(report.loss):
            report.stop()

    net.fit(problem.x, problem.y, epochs=10**7, callbacks=look)
    layers = list(zip(net.weights, net.biases, strict=True))
    return {"path": clock.path, "test": problem.test(layers)}


def by_adam(problem: Problem, seconds: float) -> Record:
    """The best of fits by Adam with a cosine rate, each of all seconds."""
    library = import_module("fastmlp")
    net = problem.net("adam")
    net.fit(problem.x, problem.y, epochs=50)
    start = time.process_time()
    net.fit(problem.x, problem.y, epochs=200)
    epochs = int(200 * seconds / (time.process_time() - start))
    results = []
    for rate in RATES:
        net, begin = (
            problem.net(library.Adam(library.Cosine(rate))),
            time.process_time(),
        )
        losses = net.fit(problem.x, problem.y, epochs=max(epochs, 1)).loss
        spent = time.process_time() - begin
        path = [((i + 1) / len(losses) * spent, loss) for i, loss in enumerate(losses)]
        test = problem.test(list(zip(net.weights, net.biases, strict=True)))
        results.append({"path": path, "test": test})
    return min(results, key=lambda result: result["test"])


def by_torch(problem: Problem, seconds: float) -> Record:
    """A fit by torch-levenberg-marquardt, with its Cholesky factor."""
    torch: Any = import_module("torch")
    library: Any = import_module("torch_levenberg_marquardt")
    torch.set_num_threads(1)
    net, layers = problem.net("adam"), []
    for weights, biases in zip(net.weights, net.biases, strict=True):
        layer = torch.nn.Linear(*weights.shape, dtype=torch.float64)
        layer.weight.data, layer.bias.data = (
            torch.tensor(weights.T.copy()),
            torch.tensor(biases),
        )
        layers += [layer, torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    lm = library.training.LevenbergMarquardtModule(
        model,
        loss_fn=library.loss.MSELoss(),
        solve_method="cholesky",
        damping_strategy=library.damping.StandardDampingStrategy(starting_value=1e-3),
    )
    rows, clock = (torch.tensor(problem.x), torch.tensor(problem.y)), Clock(seconds)
    while True:
        _, loss, stops, _ = lm.training_step(*rows)
        if clock.ends(float(loss)) or stops:
            break
    made = [layer for layer in model if hasattr(layer, "weight")]
    arrays = [(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in made]
    return {"path": clock.path, "test": problem.test(arrays)}


def by_optimistix(problem: Problem, seconds: float) -> Record:
    """A fit by optimistix, jitted, ten steps a call."""
    jax, eqx, optx, lx = map(import_module, ("jax", "equinox", "optimistix", "lineax"))
    jax.config.update("jax_enable_x64", True)
    jnp, net = jax.numpy, problem.net("adam")
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    start = [
        (jnp.asarray(w), jnp.asarray(b))
        for w, b in zip(net.weights, net.biases, strict=True)
    ]
    scale = 1 / np.sqrt(len(x))

    def residuals(layers: Any, _: Any) -> Any:
        return ((forward(layers, x, jnp.tanh) - y) * scale).ravel(), None

    options = {"jac": "bwd"} if net.layer_sizes[-1] > len(net.parameters) else {}
    solver = optx.LevenbergMarquardt(
        rtol=1e-15, atol=1e-15, linear_solver=lx.Normal(lx.Cholesky())
    )
    out, aux = jax.eval_shape(residuals, start, None)
    state = solver.init(residuals, start, None, options, out, aux, frozenset())
    dynamic, static = eqx.partition((start, state), eqx.is_array)

    @jax.jit
    def steps(dynamic: Any) -> Any:
        def step(_: Any, dynamic: Any) -> Any:
            layers, state = eqx.combine(dynamic, static)
            layers, state, _ = solver.step(
                residuals, layers, None, options, state, frozenset()
            )
            return eqx.partition((layers, state), eqx.is_array)[0]

        return jax.lax.fori_loop(0, 10, step, dynamic)

    loss = jax.jit(lambda layers: jnp.sum(residuals(layers, None)[0] ** 2))
    jax.block_until_ready((steps(dynamic), loss(start)))
    clock, best = Clock(seconds), (np.inf, start)
    while True:
        dynamic = jax.block_until_ready(steps(dynamic))
        # The layers that were accepted last; those of the state's own are tried.
        layers = eqx.combine(dynamic, static)[0]
        now = float(loss(layers))
        best = min(best, (now, layers), key=lambda pair: pair[0])
        if clock.ends(best[0]) or not np.isfinite(now):
            break
    arrays = [(np.asarray(w), np.asarray(b)) for w, b in best[1]]
    return {"path": clock.path, "test": problem.test(arrays), "steps_each": 10}


PEERS: dict[str, tuple[str, Callable[[Problem, float], Record]]] = {
    "lm": ("LevenbergMarquardt", partial(by_fastmlp, "LevenbergMarquardt")),
    "lbfgs": ("LBFGS (SciPy's)", partial(by_fastmlp, "LBFGS")),
    "adam": ("Adam, best of three rates", by_adam),
    "torch": ("torch-levenberg-marquardt", by_torch),
    "optimistix": ("optimistix, JAX", by_optimistix),
}


def fit(peer: str, target: str, seed: int, seconds: float) -> Record:
    """One fit, after one that compiles."""
    problem, (_, solve) = Problem(target, seed), PEERS[peer]
    if peer != "optimistix":
        solve(problem, 0.05)
    result = solve(problem, seconds)
    path = result["path"]
    rate = len(path) * result.get("steps_each", 1) / path[-1][0]
    places = np.unique(np.geomspace(1, len(path), PATH).astype(int)) - 1
    return {
        **result,
        "path": [path[i] for i in places],
        "rate": rate,
        "train": path[-1][1],
    }


def kernels(repeats: int) -> list[Record]:
    """The matrix and its factor beside the peak of multiply-adds, and beside LAPACK's."""
    lapack: Any = import_module("scipy.linalg.lapack")
    engine: Any = import_module("fastmlp.backends.cpu.engine").Engine
    data: Any = import_module("fastmlp.backends.protocol").Data
    mlp: Any = import_module("fastmlp").MLP
    results: list[Record] = []
    # The fastest of several: another process on the core makes some of them low.
    highest = max(peak("float64", 1) for _ in range(3 * repeats))

    def least(work: Callable[[], Any]) -> float:
        return min(calls_in_turns({"": work}, repeats, clock=time.process_time)[""])

    for sizes, n in (((1, 16, 16, 1), 1000), ((4, 24, 24, 1), 1000), LARGE):
        random = np.random.default_rng(0)
        net = mlp(sizes, activation="tanh", dtype="float64", seed=0)
        rows = data(
            random.normal(size=(n, sizes[0])), random.normal(size=(n, 1)), np.empty(0)
        )
        system, parameters = engine(net._network, 1).gauss_newton(rows), net.parameters
        _, gradient = system.objective(parameters)
        of_matrix = least(partial(system.linearize, parameters))
        damping = 1e-3 * system.diagonal
        of_factor = least(partial(system.step, gradient, damping))
        whole = system.matrix() + np.diag(damping)
        of_lapack = least(partial(lapack.dpotrf, whole, lower=0, clean=0))
        block, of_blas = (
            random.normal(size=(500, len(parameters))),
            np.zeros_like(whole),
        )
        blas = least(partial(np.matmul, block.T, block, out=of_blas)) * n / 500
        of_peak = n * len(parameters) ** 2 / 1e9 / highest
        results.append({
            "n": len(parameters), "rows": n, "matrix": of_matrix, "share": of_peak / of_matrix,
            "factor": of_factor, "lapack": of_lapack, "blas": blas,
        })  # fmt: skip
    return results


class Work:
    """In a process of its own: a fit, or the kernels."""

    def __init__(self, worker: Any, what: str, quick: bool, **options: Any) -> None:
        result = kernels(3 if quick else 7) if what == "kernels" else fit(**options)
        self.about: Record = {"result": result}


def _apart(race: Race, what: str, **options: Any) -> Any:
    """The result of a work in a new process, or its error."""
    with closing(Contestant("fastmlp", 1)) as contestant:
        reply = contestant.ask(
            "make", part="second", what=what, quick=race.quick, **options
        )
    return reply.get("result", reply)


def measure(race: Race, earlier: Record) -> Record:
    """Fits of all peers on all targets, and the kernels, in processes of one thread."""
    seeds, seconds, fits = (
        SEEDS[: 1 if race.quick else None],
        0.3 if race.quick else SECONDS,
        [],
    )
    for target in filter(race.asked_for, TARGETS):
        for seed in seeds:
            for peer in PEERS:
                record = {
                    "peer": peer,
                    "target": target,
                    "seed": seed,
                    "seconds": seconds,
                }
                result = _apart(race, "fit", **record)
                fits.append({**record, **result})
                race.say(f"{target}, {peer}: {result.get('test', result.get('error'))}")
    timed = _apart(race, "kernels")
    return {"fits": fits, "kernels": timed if isinstance(timed, list) else [timed]}


def _of(results: Record, peer: str, target: str, what: str) -> float:
    """The median over the seeds; nan where there is none."""
    chosen = [r for r in results["fits"] if (r["peer"], r["target"]) == (peer, target)]
    return quartiles([r[what] for r in chosen if what in r]).median


def table(results: Record, threads: int) -> Iterator[str]:
    """The lines of the page."""
    second = results["second"]
    if not second or not second["fits"]:
        return
    n_seeds, seconds = (
        len({r["seed"] for r in second["fits"]}),
        second["fits"][0]["seconds"],
    )
    of_seeds = "of one seed" if n_seeds == 1 else f"the median of {n_seeds} seeds"
    peers, targets = list(PEERS), dict.fromkeys(r["target"] for r in second["fits"])
    rows = []
    for target in targets:
        tests = [_of(second, peer, target, "test") for peer in peers]
        ratio = np.nanmin(tests[1:]) / tests[0]
        cells = [
            *(f"{test:.1e}" for test in tests),
            f"{ratio:,.{2 if ratio < 10 else 0}f}x",
        ]
        rows.append([target, *cells])
    titles = ["target", *(f">{PEERS[peer][0]}" for peer in peers), ">best of others"]
    yield from Table(titles, rows).under(
        f"Mean squared errors on 2,000 rows without noise, after {seconds:g} CPU seconds on one "
        f"thread, in float64, {of_seeds}; the last column is the best of the others' over ours."
    )
    rows = []
    for target in targets:
        rates = {peer: _of(second, peer, target, "rate") for peer in peers}
        ratios = [
            f"{rates[peer]:.0f} ({rates['lm'] / rates[peer]:.1f}x)"
            for peer in peers[3:]
        ]
        rows.append([target, f"{rates['lm']:.0f}", *ratios])
    titles = ["target", *(f">{PEERS[peer][0]}" for peer in ("lm", *peers[3:]))]
    text = "Iterations a second, and how many times as many ours are."
    yield from Table(titles, rows).under(text)
    rows = [
        [
            f"{r['n']:,}", f"{r['rows']:,}", f"{1e3 * r['matrix']:.2f}", f"{r['share']:.0%}",
            f"{1e3 * r['blas']:.2f}", f"{1e3 * r['factor']:.2f}", f"{1e3 * r['lapack']:.2f}",
            f"{8e-6 * r['n'] ** 2:.0f}",
        ]
        for r in second["kernels"] if not failed(r)
    ]  # fmt: skip
    titles = [
        ">P",
        ">rows",
        ">matrix",
        ">of peak",
        ">NumPy's",
        ">step",
        ">LAPACK's",
        ">MB",
    ]
    yield from Table(titles, rows).under(
        "One thread, milliseconds: the matrix with its Jacobian, the share of the float64 peak "
        "of multiply-adds that its n P^2 products have, J^T J by NumPy; the factor with its step, "
        "and LAPACK's factor; and the megabytes of both."
    )


def draw(results: Record, path: Path = PICTURE) -> None:
    """Draw the losses over seconds of the smooth targets to a file."""
    mpl: Any = import_module("matplotlib")
    mpl.use("Agg")
    plt: Any = import_module("matplotlib.pyplot")
    fits = [
        r for r in results["second"]["fits"] if r["target"] in SMOOTH and "path" in r
    ]
    targets = list(dict.fromkeys(r["target"] for r in fits))
    figure, axes = plt.subplots(
        1,
        len(targets),
        figsize=(3 * len(targets), 3),
        layout="constrained",
        squeeze=False,
    )
    for panel, target in zip(axes[0], targets, strict=True):
        for i, (peer, (title, _)) in enumerate(PEERS.items()):
            for r in (r for r in fits if (r["target"], r["peer"]) == (target, peer)):
                panel.loglog(
                    *zip(*r["path"], strict=True), color=f"C{i}", lw=1, label=title
                )
        panel.set_title(target, fontsize=9)
        panel.set_xlabel("CPU seconds")
    axes[0][0].set_ylabel("loss")
    lines = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(
        lines.values(), lines, loc="outside lower center", ncols=5, fontsize=8
    )
    figure.savefig(path, dpi=110)


PART = Part("second", "second", measure, table, PAGE, kind=dict, draw=draw)
