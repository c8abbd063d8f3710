"""Loss, gradient, prediction, Gauss-Newton matrix:
the oracle's; the same bits on any threads.
"""

import hashlib
import tracemalloc
from itertools import combinations
from typing import Any

import naive
import numpy as np
import pytest
from conditions import count_as_wide, needs_a_team, needs_threads, only_compiled
from loss_cases import CASES, draw_targets, outputs_for
from nets import (
    FORMS,
    PENALTY_SETS,
    Net,
    distance,
    oracle_gradient,
    orders,
    split,
    take_form,
    train,
)
from pairwise import all_pairs

from fastmlp import EMA, MLP
from fastmlp.backends.cpu import tuning
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.second_order import GaussNewton
from fastmlp.backends.cpu.session import Moments
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.protocol import Data
from fastmlp.compiler import COMPILER
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from fastmlp.training import loop
from fastmlp.training.options import FitOptions
from fastmlp.training.request import FitRequest

TOLERANCE = {"float64": 1e-10, "float32": 2e-5}
SHAPES = [(4, 3), (1, 1), (1, 3, 1), (17, 5, 33), (3, 33, 17, 5), (5, 1, 3, 17, 2)]
# Every two of them meet in a case: each rule with each dtype,
# shape, number of rows, ...
FACTORS: dict[str, list[Any]] = {
    "dtype": [*TOLERANCE],
    "loss": [*CASES],
    "activation": [*ACTIVATIONS],
    "penalties": PENALTY_SETS,
    "weighted": [False, True],
    "sizes": [*SHAPES, (3, 5, 2)],
    "n_rows": [1, 7, 33, 65, 200],
}
GRADIENTS = all_pairs(**FACTORS)
LOSSES = all_pairs(
    **{name: FACTORS[name] for name in ("dtype", "loss", "weighted", "n_rows")}
)
NETS = [
    *(Net((3, 5, outputs_for(name, 2)), loss=name) for name in CASES),
    *(Net((3, 5, 2), output_activation=name) for name in ACTIVATIONS),
    *(Net(sizes) for sizes in SHAPES),
]
PREDICTIONS = all_pairs(net=NETS, dtype=[*TOLERANCE], n_rows=[1, 65])
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_loss = pytest.mark.parametrize("loss", CASES)


def told(case: dict[str, Any]) -> str:
    words = [
        f"{value.loss}-{value.output_activation}-{value.sizes}"
        if isinstance(value, Net)
        else str(value)
        for value in case.values()
    ]
    return "-".join(words)


def evaluate(net: Net, parameters: Any, data: Data) -> tuple[float, Any]:
    value, gradient = Engine(net.network, 1).loss_and_gradient(parameters, data)
    return value, gradient.copy()


def assert_gradient_is_that_of_the_oracle(
    net: Net, parameters: Any, data: Data
) -> None:
    value, gradient = evaluate(net, parameters, data)
    expected, slopes = oracle_gradient(net, parameters, data)
    assert gradient.dtype == net.dtype
    assert value == pytest.approx(expected, rel=TOLERANCE[net.dtype], abs=0)
    assert distance(gradient, slopes) <= TOLERANCE[net.dtype]


def test_every_two_values_meet_in_a_case() -> None:
    for (a, of_a), (b, of_b) in combinations(FACTORS.items(), 2):
        met = {(repr(case[a]), repr(case[b])) for case in GRADIENTS}
        assert met == {(repr(x), repr(y)) for x in of_a for y in of_b}


@pytest.mark.few(24)
@pytest.mark.parametrize("case", GRADIENTS, ids=told)
def test_gradient_is_that_of_the_oracle(
    case: dict[str, Any], rng: np.random.Generator
) -> None:
    (*inner, last), loss, activation = case["sizes"], case["loss"], case["activation"]
    least = (
        2 if CASES[loss].targets == "classes" else 1
    )  # the gradient of one class is 0
    sizes = (*inner, outputs_for(loss, max(last, least)))
    net = Net(sizes, activation, loss, activation, case["penalties"], case["dtype"])
    parameters, data = net.draw(rng, case["n_rows"], weighted=case["weighted"])
    # So that no output of a wide net is out of the range of exp.
    parameters *= min(1.0, 2 / max(sizes) ** 0.5)
    assert_gradient_is_that_of_the_oracle(net, parameters, data)


def test_gradients_of_many_tiles_and_soft_targets_are_the_oracles(
    rng: np.random.Generator,
) -> None:
    net = Net(
        (70, 130, 3), penalties={"l2": 0.1, "l1": 0.1}
    )  # two tiles high, several wide
    assert_gradient_is_that_of_the_oracle(net, *net.draw(rng, 3))
    net = Net((3, 5, 4), loss="cross_entropy")
    parameters, data = net.draw(rng, 9)
    soft = data._replace(y=rng.uniform(size=(9, 4)))
    assert_gradient_is_that_of_the_oracle(net, parameters, soft)


@pytest.mark.parametrize("case", LOSSES, ids=told)
def test_loss_is_without_penalties(
    case: dict[str, Any], rng: np.random.Generator
) -> None:
    dtype, loss = case["dtype"], case["loss"]
    sizes = (3, 5, outputs_for(loss, 2))
    net = Net(sizes, loss=loss, penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, case["n_rows"], weighted=case["weighted"])
    value = Engine(net.network, 1).loss(parameters, data)
    # A validation loss is of labels as they are.
    plain = net._replace(loss=loss.removeprefix("smoothed "), penalties={})
    expected, _ = oracle_gradient(plain, parameters, data)
    assert value == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)


@pytest.mark.parametrize("case", PREDICTIONS, ids=told)
def test_prediction_is_that_of_the_oracle(
    case: dict[str, Any], rng: np.random.Generator
) -> None:
    dtype, n_rows = case["dtype"], case["n_rows"]
    net = case["net"]._replace(dtype=dtype)
    parameters, data = net.draw(rng, n_rows)
    out = np.full((n_rows, net.sizes[-1]), np.nan, dtype)
    Engine(net.network, 1).predict(parameters, data.x, out)
    expected = naive.predict(*split(net, parameters), data.x, **net.oracle)
    np.testing.assert_allclose(
        out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@each_loss
def test_a_raw_prediction_is_the_last_pre_activation(
    loss: str, rng: np.random.Generator
) -> None:
    net = Net((3, 5, outputs_for(loss, 2)), loss=loss, output_activation="tanh")
    parameters, data = net.draw(rng, 33)
    out = np.full((33, net.sizes[-1]), np.nan)
    Engine(net.network, 1).predict(parameters, data.x, out, raw=True)
    before, _ = naive.forward(
        *split(net, parameters), data.x, net.oracle["activations"]
    )
    np.testing.assert_allclose(out, before[-1], rtol=1e-12, atol=1e-12)


@each_dtype
def test_weights_of_one_are_none_and_nan_stays(
    dtype: str, rng: np.random.Generator
) -> None:
    net = Net(dtype=dtype)
    parameters, data = net.draw(rng, 40)
    value, gradient = evaluate(
        net, parameters, data._replace(weight=np.ones(40, dtype))
    )
    expected, slopes = evaluate(net, parameters, data)
    assert value == expected
    assert np.array_equal(gradient, slopes)
    net = Net(activation="relu", dtype=dtype)
    parameters, data = net.draw(rng, 20)
    data.x[11, 1] = np.nan
    assert np.isnan(Engine(net.network, 1).loss(parameters, data))


CURVED = [name for name, loss in CASES.items() if loss.curvature is not None]
CURVED_ACTIVATIONS = ["tanh", "relu", "silu", "identity"]
MATRICES = all_pairs(
    loss=CURVED,
    activation=CURVED_ACTIVATIONS,
    sizes=[(3, 2), (1, 5, 3), (4, 9, 7, 2), (2, 45, 1), (1, 24, 1, 47, 2)],
    n_rows=[1, 7, 12, 130],
    weighted=[False, True],
    frozen=[False, True],
)


def drawn(case: dict[str, Any], seed: int = 0) -> tuple[MLP, Data]:
    rng = np.random.default_rng(seed)
    loss = case["loss"]
    sizes = case["sizes"]
    n = case["n_rows"]
    if CASES[loss].link == "softmax" and sizes[-1] == 1:
        sizes = (*sizes[:-1], 2)
    net = MLP(
        sizes,
        loss=CASES[loss],
        activation=case["activation"],
        l2=0.3,
        seed=seed,
        dtype="float64",
    )
    if case["frozen"] and len(sizes) > 2:
        net.layer_rates = [{"weights": 0.0}, *(1.0 for _ in sizes[2:])]
    x = rng.normal(size=(n, sizes[0]))
    y = draw_targets(loss, rng, n, sizes[-1])
    if case["weighted"]:
        weight = rng.uniform(0.5, 2, n)
    else:
        weight = np.empty(0)
    return net, Data(x, np.asarray(y, float), weight)


def system_of(net: MLP, data: Data, n_threads: int = 1) -> GaussNewton:
    return GaussNewton(Engine(net._network, n_threads), data)


@pytest.mark.few(12)
@pytest.mark.parametrize("case", MATRICES, ids=str)
def test_matrix_and_step_are_the_oracles(case: dict[str, Any]) -> None:
    net, data = drawn(case)
    weights, biases = list(net.weights), list(net.biases)
    model: dict[str, Any] = {"activations": [case["activation"]] * len(weights)}
    model["loss"] = case["loss"]
    if case["weighted"]:
        model["sample_weight"] = data.weight
    kept = trained_parameters(net._network)
    plain = naive.gauss_newton(weights, biases, data.x, data.y, **model)[
        np.ix_(kept, kept)
    ]
    whole = naive.gauss_newton(weights, biases, data.x, data.y, l2=0.3, **model)
    _, *slopes = naive.gradient(weights, biases, data.x, data.y, l2=0.3, **model)
    system = system_of(net, data)
    parameters = net.parameters.copy()
    _, gradient = system.objective(parameters)
    system.linearize(parameters)
    scale = float(abs(plain).max())
    close: Any = {"rtol": 0, "atol": 1e-10 * max(1, scale)}
    np.testing.assert_allclose(system.matrix(), plain, **close)
    np.testing.assert_allclose(system.diagonal, np.diag(whole)[kept], **close)
    step = system.step(gradient, np.full(kept.sum(), 0.1))
    damped = whole[np.ix_(kept, kept)] + 0.1 * np.eye(kept.sum())
    expected: Any = np.linalg.solve(damped, -naive.flatten(*slopes)[kept])
    assert step is not None
    np.testing.assert_allclose(
        step, expected, rtol=1e-9, atol=1e-9 * abs(expected).max()
    )


def test_no_step_where_a_pivot_is_not_positive() -> None:
    net = MLP((2, 3, 1), initializer="zeros", dtype="float64")
    rng = np.random.default_rng(0)
    system = system_of(
        net, Data(rng.normal(size=(5, 2)), rng.normal(size=(5, 1)), np.empty(0))
    )
    _, gradient = system.objective(net.parameters)
    system.linearize(net.parameters)
    assert system.step(gradient, np.zeros(13)) is None
    assert system.step(gradient, np.full(13, np.nan)) is None
    assert system.step(gradient, np.ones(13)) is not None


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: takes minutes")
@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_do_not_change_a_bit(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastmlp.backends.cpu import dispatch, limits

    rng = np.random.default_rng(0)
    net = MLP((3, 20, 12, 2), activation="tanh", seed=0, dtype="float64")
    data = Data(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 2)), np.empty(0))
    results = []
    for n in (1, n_threads):
        monkeypatch.setattr(limits, "thread_limit", lambda n=n: n)
        monkeypatch.setattr(limits, "free_threads", lambda most, n=n: min(most, n))
        monkeypatch.setattr(dispatch, "pays", lambda work, most, n=n: n > 1)
        monkeypatch.setattr(dispatch.Autotuner, "wants_team", lambda self: True)
        system = system_of(net, data, n)
        _, gradient = system.objective(net.parameters)
        system.linearize(net.parameters)
        step = system.step(gradient, 1e-3 * system.diagonal)
        assert step is not None
        results.append([gradient.tobytes(), system.matrix().tobytes(), step.tobytes()])
    assert results[0] == results[1]


each_precision = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = (17, 33, 20, 5) if INTERPRETED else (17, 90, 33, 5)
N_ROWS, BATCH = (37, 20) if INTERPRETED else (130, 70)
# Features of a fit: settings of the net.
FEATURES: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": kind(0.03)} for name, kind in OPTIMIZERS.items()},
    "penalties": {"l2": 0.1, "l1": 0.1},
    "softmax": {"loss": "cross_entropy"},
    "clipvalue": {"optimizer": Adam(clipvalue=0.02), "l2": 0.1},
    "clipnorm": {"optimizer": SGD(clipnorm=0.2)},
    "global_clipnorm": {"optimizer": Adam(global_clipnorm=0.3)},
    "average": {"optimizer": Adam(average=EMA(0.9))},
    "dropout": {"dropout": [0.3, 0.1], "input_dropout": 0.1, "input_noise": 0.2},
    "frozen front": {
        "layer_rates": [0, 0.5, 1],
        "optimizer": AdamW(decay_biases=False),
        "l2": 0.3,
    },
    "frozen outputs": {"layer_rates": [{"biases": 0.1}, {"weights": 0}, 0], "l2": 0.3},
    "mixed precision": {"compute_dtype": "bfloat16", "dropout": 0.2},
}


def digest(net: MLP, n_threads: int, rows: tuple[Any, ...], batch_size: int) -> str:
    core: Any = core_of(net)
    engine, state = core
    engine.n_threads = n_threads
    data = engine.data(*rows, "MLP.fit")
    fit = FitRequest(data, FitOptions(2, batch_size))
    TRAININGS.clear()
    loop.fit(engine, state, fit)
    value, gradient = engine.loss_and_gradient(net.parameters, data)
    losses = np.array([value, engine.loss(net.parameters, data), *fit.history.loss])
    slots = state.slots()
    arrays = [net.parameters, gradient, losses, *(() if slots is None else slots)]
    for raw in (False, True):
        arrays.append(np.empty((len(rows[0]), SIZES[-1]), net.dtype))
        engine.predict(net.parameters, data.x, arrays[-1], raw=raw)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.few(30)
@needs_threads
@needs_a_team
@pytest.mark.parametrize(
    ("feature", "form", "dtype", "activation", "piece_flops"),
    [
        (*case.values(),)
        for case in all_pairs(
            feature=[*FEATURES],
            form=[*FORMS],
            dtype=["float32", "float64"],
            activation=["relu", "tanh"],
            piece_flops=[1, 1 << 60],
        )
    ],
)
def test_several_threads_have_the_bits_of_one(
    feature: str,
    form: str,
    dtype: str,
    activation: str,
    piece_flops: int,
    monkeypatch: pytest.MonkeyPatch,
    rng: Any,
) -> None:
    take_form(form, monkeypatch)
    monkeypatch.setattr(tuning, "PIECE_FLOPS", piece_flops)
    settings = {"dtype": dtype, "activation": activation, **FEATURES[feature]}
    if feature == "mixed precision":
        if COMPILER == "numba":
            pytest.skip("Numba compiles products of pairs for half a minute")
        settings["dtype"] = "float32"
        count_as_wide(33, monkeypatch)
    n_rows, batch_size = (20, 1) if form == "single row" else (N_ROWS, BATCH)
    x = rng.normal(size=(n_rows, SIZES[0]))
    y = rng.normal(size=(n_rows, SIZES[-1]))
    rows = (
        x,
        y.argmax(axis=1) if feature == "softmax" else y,
        rng.uniform(0.1, 3, n_rows),
    )
    nets = [MLP(SIZES, seed=1, **settings) for _ in range(3)]
    digests = {
        digest(net, n, rows, batch_size) for net, n in zip(nets, (1, 2, 4), strict=True)
    }
    assert len(digests) == 1


@each_precision
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.03),
        OPTIMIZERS["rmsprop"](0.03),
        Adam(0.03, clipnorm=0.2),
        SGD(global_clipnorm=0.2),
    ],
    ids=repr,
)
def test_non_temporal_stores_have_the_same_bits(
    optimizer: Any,
    n_threads: int,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: Any,
) -> None:
    take_form("rows", monkeypatch)
    net = Net(SIZES, penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    arguments = (net, parameters, data, optimizer, orders(rng, 2, N_ROWS), BATCH)
    cached = train(*arguments)
    monkeypatch.setattr(tuning, "NON_TEMPORAL_BYTES", 0)
    non_temporal = train(*arguments, n_threads=n_threads)
    assert np.array_equal(cached.parameters, non_temporal.parameters)
    assert np.array_equal(cached.moments, non_temporal.moments)
    assert np.array_equal(cached.losses, non_temporal.losses)


@only_compiled
def test_python_allocates_the_same_for_10_steps_and_1000(
    rng: np.random.Generator,
) -> None:
    net = Net()
    parameters, data = net.draw(rng, 40)
    moments = Moments(net.network)
    order = np.arange(40)[None]
    trainer = Engine(net.network, 1).trainer(parameters, moments, SGD(), data, 4)
    coefficients = np.full((1000, 1), 0.01)
    losses = np.zeros(1000)
    peaks = []
    trainer.run(order, coefficients, losses, 0, 1000)
    for n_steps in (10, 1000):
        tracemalloc.start()
        trainer.run(order, coefficients[:n_steps], losses, 0, n_steps)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= peaks[0] + 1000  # bytes: one a step would be as many
