"""Fits by LevenbergMarquardt and LBFGS: the oracle's steps,
all that a fit can do, and refusals.
"""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from fitting import Cut, cut_after
from loss_cases import CASES, draw_targets

from fastmlp import LBFGS, MLP, SGD, Blocks, LevenbergMarquardt, Loss, fit_many, load
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.second_order import GaussNewton
from fastmlp.backends.protocol import Data
from fastmlp.model import core_of
from fastmlp.rules.optimizers import jacobian_bytes, matrix_bytes

LOSSES = [name for name, loss in CASES.items() if loss.curvature is not None]
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.sin(3 * X[:, :1]) * X[:, 1:]
OPTIMIZERS = [LevenbergMarquardt(), LBFGS()]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["lm", "lbfgs"])


def net_of(optimizer: Any = None, seed: int = 0, **settings: Any) -> MLP:
    chosen = {"activation": "tanh", "dtype": "float64", **settings}
    return MLP(
        (2, 6, 1), optimizer=optimizer or LevenbergMarquardt(), seed=seed, **chosen
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_are_the_oracles(loss: str) -> None:
    rng = np.random.default_rng(3)
    n_out = 3 if CASES[loss].link == "softmax" else 2
    y = draw_targets(loss, rng, 60, n_out)
    weight = rng.uniform(0.5, 2, 60)
    net = MLP(
        (2, 5, n_out),
        activation="tanh",
        loss=CASES[loss],
        l2=0.1,
        dtype="float64",
        seed=1,
        optimizer=LevenbergMarquardt(1e-2),
        layer_rates=[1.0, {"biases": 0.0}],
    )
    kept = np.arange(len(net.parameters)) < len(net.parameters) - n_out
    start = [array.copy() for array in (*net.weights, *net.biases)]
    model = {"activations": ["tanh"], "loss": loss, "l2": 0.1, "sample_weight": weight}
    losses, flat = naive.levenberg_marquardt(
        start[:2], start[2:], X, y, 4, damping=1e-2, is_trained=kept, **model
    )
    history = net.fit(X, y, epochs=4, sample_weight=weight)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(net.parameters, flat, rtol=1e-9, atol=1e-9)


def test_linear_nets_are_solved_in_two_steps() -> None:
    y = np.column_stack([X @ [1.0, -2.0] + 0.5, np.cos(X[:, 0])])
    net = MLP((2, 2), dtype="float64", seed=0, optimizer=LevenbergMarquardt(1e-8))
    net.fit(X, y, epochs=2)
    solved = np.linalg.lstsq(np.column_stack([X, np.ones(60)]), y, rcond=None)[0]
    np.testing.assert_allclose(
        np.vstack([net.weights[0], net.biases[0]]), solved, atol=1e-10
    )


def test_lbfgs_keeps_a_net_monotonic() -> None:
    net = net_of(LBFGS(), monotonic_cst=[1, 0])
    net.fit(X, Y, epochs=20)
    line = np.column_stack([np.linspace(-1, 1, 50), np.zeros(50)])
    rising = net.predict(line).ravel()
    assert (np.diff(rising) >= 0).all()


@pytest.mark.parametrize(
    "case",
    ["constant", "duplicates", "one row", "wide", "dead", "zeros", "exact", "huge"],
)
@each_optimizer
def test_degenerate_fits_end_finite_with_a_status(case: str, optimizer: Any) -> None:
    x = X
    y = Y
    settings = dict[str, Any]()
    match case:
        case "constant":
            y = np.ones((60, 1))
        case "duplicates":
            x = np.repeat(X[:1], 60, axis=0)
            y = Y
        case "one row":
            x = X[:1]
            y = Y[:1]
        case "wide":
            settings = {"activation": "relu"}
            x = X[:5]
            y = Y[:5]
        case "dead" | "zeros":
            settings = {"activation": "relu", "initializer": "zeros"}
        case "exact":
            y = np.zeros((60, 1))
        case "huge":
            y = 1e100 * Y
    net = net_of(optimizer, **settings)
    if case == "dead":
        net.biases[0] = np.full(6, -100.0)
    history = net.fit(x, y, epochs=30)
    assert np.isfinite(net.parameters).all()
    assert history.status.name in ("COMPLETED", "CONVERGED")


@pytest.mark.parametrize("scale", [1e-3, 0.07, 16.0**3, 1e6, -(16.0**-2)])
@pytest.mark.parametrize("seed", range(3))
def test_targets_of_any_scale_are_learned_alike(seed: int, scale: float) -> None:
    x = np.linspace(-1, 1, 200)[:, None]
    y = np.sin(5 * x) + 0.25

    def fitted(y: Any, start: Any = None, epochs: int = 100) -> tuple[MLP, list[float]]:
        net = MLP(
            (1, 12, 1),
            activation="tanh",
            dtype="float64",
            seed=seed,
            optimizer=LevenbergMarquardt(),
        )
        if start is not None:
            net.parameters[:] = start
        return net, net.fit(x, y, epochs=epochs).loss

    net, loss = fitted(scale * y)
    assert loss[-1] < 1e-3 * scale**2
    if abs(np.log2(abs(scale)) % 4) == 0 and scale > 0:
        assert loss == [scale**2 * number for number in fitted(y)[1]]
    # A net that has learned goes on from there, without its training state.
    assert fitted(scale * y, net.parameters, epochs=1)[1][0] <= loss[-1]


@pytest.mark.parametrize("seed", range(6))
def test_a_time_limit_ends_within_a_step(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the matrices and the trials, of which many lower nothing."""
    rng = np.random.default_rng(seed)
    product = 0.2
    trial = rng.uniform(0.05, 0.2)
    limit = rng.uniform(1, 3)
    now = 0.0

    def slow(name: str, seconds: float) -> None:
        work = getattr(GaussNewton, name)

        def slowed(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return work(*arguments)

        monkeypatch.setattr(GaussNewton, name, slowed)

    slow("linearize", product)
    slow("step", trial)
    monkeypatch.setattr("fastmlp.training.request.time.perf_counter", lambda: now)
    history = net_of(LevenbergMarquardt(1e-12), seed=seed).fit(
        X, Y, time_limit=limit, epochs=1000
    )
    assert history.status.name == "OUT_OF_TIME"
    assert limit <= history.seconds <= limit + product


def soon_damped() -> MLP:
    return net_of(
        LevenbergMarquardt(1e-3, max_damping=2e-3),
        activation="relu",
        initializer="he_uniform",
    )


def test_damping_above_its_limit_ends_a_fit() -> None:
    net = soon_damped()
    history = net.fit(X, Y, epochs=1000)
    assert history.status.name == "CONVERGED"
    assert len(history.loss) < 1000


def test_a_fit_after_a_converged_one_begins_its_damping_anew() -> None:
    net = soon_damped()
    assert net.fit(X, Y, epochs=1000).status.name == "CONVERGED"
    assert len(net.fit(X, X[:, 0], epochs=5).loss) == 5


@pytest.mark.parametrize(
    ("optimizer", "x"),
    [(LevenbergMarquardt(1e-50), X), (LevenbergMarquardt(), 1e20 * X)],
)
@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_no_end_of_a_fit(optimizer: Any, x: Any) -> None:
    net = MLP((2, 1), optimizer=optimizer, initializer="zeros")
    assert net.fit(x, Y, epochs=5).loss


def test_data_that_are_not_finite_at_the_start_diverge() -> None:
    net = net_of()
    net.parameters[:] = 1e200
    with pytest.warns(RuntimeWarning, match="diverged"):
        history = net.fit(X, Y * 1e200, epochs=3)
    assert history.status.name == "DIVERGED"


@each_optimizer
def test_a_fit_does_what_others_do(optimizer: Any) -> None:
    net = net_of(optimizer, l2=1e-4)
    seen = []
    history = net.fit(
        X,
        Y,
        epochs=40,
        validation_split=0.2,
        early_stopping=30,
        metrics=["mae"],
        callbacks=lambda report: seen.append(report.loss),
        sample_weight=np.ones(60),
    )
    assert seen == history.loss
    assert history.loss == sorted(history.loss, reverse=True)
    assert (
        len(history.validation_loss)
        == len(history.metrics["mae"])
        == net.n_steps
        == len(seen)
    )
    assert history.best_epoch == int(np.argmin(history.validation_loss))
    assert net.fit(X, Y, epochs=1000, time_limit=1e-9).status.name == "OUT_OF_TIME"
    assert (
        net.fit(X, Y, epochs=9, callbacks=lambda report: report.stop()).status.name
        == "STOPPED"
    )


@each_optimizer
def test_weights_are_repetitions_in_fit_many_too(optimizer: Any) -> None:
    weight = np.arange(60) % 3
    nets = [net_of(optimizer), net_of(optimizer)]
    nets[0].fit(X, Y, epochs=5, sample_weight=weight)
    nets[1].fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0), epochs=5)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-6)
    nets = [net_of(optimizer, seed) for seed in range(3)] + [net_of(SGD(), 4)]
    alone = deepcopy(nets)
    rows = np.arange(0, 60, 2)
    histories = fit_many(nets, X, Y, epochs=5, rows=rows, n_threads=2)
    for net, own, history in zip(nets, alone, histories, strict=True):
        assert own.fit(X[rows], Y[rows], epochs=5).loss == history.loss
        assert own.parameters.tobytes() == net.parameters.tobytes()


def test_what_callbacks_write_is_trained() -> None:
    net, other = net_of(), net_of()

    def reset(report: Any) -> None:
        if report.epoch == 2:
            report.net.parameters[:] = start

    start = net.parameters.copy()
    history = net.fit(X, Y, epochs=6, callbacks=reset)
    other_history = other.fit(X, Y, epochs=6)
    assert history.loss[:3] == other_history.loss[:3]
    assert (net.parameters != other.parameters).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_resumed_fit_has_the_same_bits(tmp_path: Path, dtype: str) -> None:
    whole = net_of(dtype=dtype)
    file = tmp_path / "fit.safetensors"
    history = whole.fit(X, Y, epochs=8)
    cut = net_of(dtype=dtype)
    with pytest.raises(Cut):
        cut.fit(
            X, Y, epochs=8, checkpoint=file, checkpoint_every=1, callbacks=cut_after(4)
        )
    resumed = net_of(dtype=dtype)
    assert (
        resumed.fit(X, Y, epochs=8, checkpoint=file, resume=True).loss == history.loss
    )
    assert resumed.parameters.tobytes() == whole.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_fits_have_the_bits_of_one_over_their_epochs(dtype: str) -> None:
    whole = net_of(dtype=dtype)
    whole.fit(X, Y, epochs=8)
    parts = net_of(dtype=dtype)
    parts.fit(X, Y, epochs=4)
    parts.fit(X, Y, epochs=4)
    assert parts.parameters.tobytes() == whole.parameters.tobytes()


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_net_goes_on_alike_wherever_it_was(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    optimizer = [
        LevenbergMarquardt(float(rng.choice([1e-4, 1e-3, 0.1])), max_damping=1e8),
        LBFGS(history_size=int(rng.integers(1, 12))),
    ][seed % 2]
    if rng.integers(2):
        frozen = [1.0, {"biases": 0.0}]
    else:
        frozen = [1.0, 1.0]
    net = net_of(
        optimizer,
        seed,
        dtype=str(rng.choice(["float32", "float64"])),
        activation=str(rng.choice(["tanh", "gelu", "sigmoid"])),
        loss=str(rng.choice(["mse", "huber", "poisson"])),
        l2=float(rng.choice([0.0, 0.1])),
        layer_rates=frozen,
        n_threads=int(rng.integers(1, 3)),
    )
    options: dict[str, Any] = {"epochs": 3}
    if rng.integers(2):
        options["sample_weight"] = rng.uniform(0, 2, len(X))
    if rng.integers(2):
        options["validation_split"] = 0.2
    y = np.abs(Y) + 0.1
    net.fit(X, y, **options)
    net.save(tmp_path / "net.safetensors", include_training_state=True)
    others = [
        deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        load(tmp_path / "net.safetensors"),
    ]
    history = net.fit(X, y, **options)
    for other in others:
        assert isinstance(other, MLP)
        assert other.fit(X, y, **options).loss == history.loss
        assert np.array_equal(other.parameters, net.parameters)
        assert np.array_equal(other.predict(X), net.predict(X))


@each_optimizer
def test_frozen_layers_stay(optimizer: Any) -> None:
    net = net_of(optimizer)
    net.trainable[0] = False
    first = net.weights[0].copy()
    history = net.fit(X, Y, epochs=5)
    assert history.loss[-1] < history.loss[0]
    assert (net.weights[0] == first).all()


def test_a_step_of_lbfgs_is_scipys() -> None:
    from scipy.optimize import minimize

    net = net_of(LBFGS(history_size=5))
    other = net_of()

    def objective(parameters: Any) -> Any:
        other.parameters[:] = parameters
        return other.loss_and_gradient(X, Y)

    options = {"maxiter": 20, "maxcor": 5, "ftol": 0.0, "gtol": 0.0}
    start = other.parameters.copy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    history = net.fit(X, Y, epochs=20)
    assert history.loss[-1] == found.fun
    assert (net.parameters == found.x).all()


@pytest.mark.slow
def test_a_loss_of_ones_own_has_a_curvature_of_its_own() -> None:
    def square(p: Any, y: Any) -> Any:
        error = p - y
        return error * error, error + error

    def two(p: Any, y: Any) -> Any:
        return type(p)(2)

    nets = [net_of(loss=loss) for loss in ("mse", Loss(square, curvature=two))]
    for net in nets:
        net.fit(X, Y, epochs=5)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_a_source_is_read_whole() -> None:
    source = Blocks.from_arrays(np.tile(X, (20, 1)), np.tile(Y, (20, 1)), rows=100)
    assert len(net_of().fit(source, epochs=2).loss) == 2


def test_a_matrix_above_a_quarter_of_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastmlp._process import memory

    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    net = MLP((100, 100, 1), optimizer=LevenbergMarquardt())
    with pytest.raises(MemoryError, match=r"832\.* MB .* 10,201 parameters"):
        net.fit(np.ones((3, 100)), np.ones(3))
    assert "832" in str(net.summary())
    # Rows of the Jacobian by many outputs take more than the matrix of few parameters.
    net = MLP((4, 4, 600), optimizer=LevenbergMarquardt())
    with pytest.raises(
        MemoryError, match=r"needs \d+ MB, 73.* MB .* 3,020 .* 600 outputs, more"
    ):
        net.fit(np.ones((3, 4)), np.ones((3, 600)))


@pytest.mark.parametrize("seed", range(8))
def test_the_memory_that_is_asked_for_is_that_of_the_system(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_out = int(rng.choice([1, 3, 40, 300]))
    sizes = (3, int(rng.integers(2, 9)), n_out)
    net = MLP(sizes, optimizer=LevenbergMarquardt(), dtype="float64")
    n_rows = 5
    runner = Runner(core_of(net).engine.network, int(rng.integers(1, 3)))
    n = len(net.parameters)
    data = Data(
        rng.normal(size=(n_rows, 3)), rng.normal(size=(n_rows, n_out)), np.empty(0)
    )
    system = GaussNewton(runner, data)
    arrays: list[Any] = [system._gram, system._factor]
    for kept in system._kept:
        arrays += kept if isinstance(kept, list) else [kept]
    own = sum(array.nbytes for array in arrays if hasattr(array, "nbytes"))
    asked = matrix_bytes(n) + jacobian_bytes(n, n_out, runner.n_threads)
    # Of small nets blocks of 48 columns are the most.
    assert own < 1.1 * asked + (1 << 20)
    # 2.08 with vectors of 16 bytes, whose rows have less padding.
    assert asked < 2.25 * own
