"""Loss, gradient, prediction and the Gauss-Newton matrix, against the oracle and differences."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import naive
import numpy as np
import pytest
from loss_cases import CASES, draw_targets, outputs_for
from nets import PENALTY_SETS, Net, distance, oracle_gradient, split
from pairwise import all_pairs

from fastmlp import MLP
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.second_order import GaussNewton
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.rules.activations import RULES as ACTIVATIONS

TOLERANCE = {"float64": 1e-10, "float32": 2e-5}
SHAPES = [(4, 3), (1, 1), (1, 3, 1), (17, 5, 33), (3, 33, 17, 5), (5, 1, 3, 17, 2)]
# Every two of them meet in a case: each rule with each dtype, shape, number of rows, ...
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
LOSSES = all_pairs(**{name: FACTORS[name] for name in ("dtype", "loss", "weighted", "n_rows")})
NETS = [
    *(Net((3, 5, outputs_for(name, 2)), loss=name) for name in CASES),
    *(Net((3, 5, 2), output_activation=name) for name in ACTIVATIONS),
    *(Net(sizes) for sizes in SHAPES),
]
PREDICTIONS = all_pairs(net=NETS, dtype=[*TOLERANCE], n_rows=[1, 65])
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_loss = pytest.mark.parametrize("loss", CASES)
weighted_or_not = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])


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


def assert_gradient_is_that_of_the_oracle(net: Net, parameters: Any, data: Data) -> None:
    value, gradient = evaluate(net, parameters, data)
    expected, slopes = oracle_gradient(net, parameters, data)
    assert gradient.dtype == net.dtype
    assert value == pytest.approx(expected, rel=TOLERANCE[net.dtype], abs=0)
    assert distance(gradient, slopes) <= TOLERANCE[net.dtype]


def along(direction: Any, step: float, objective: Callable[[Any], float], w: Any) -> float:
    return (objective(w + step * direction) - objective(w - step * direction)) / (2 * step)


def test_every_two_values_meet_in_a_case() -> None:
    for (a, of_a), (b, of_b) in combinations(FACTORS.items(), 2):
        met = {(repr(case[a]), repr(case[b])) for case in GRADIENTS}
        assert met == {(repr(x), repr(y)) for x in of_a for y in of_b}


@pytest.mark.few(24)
@pytest.mark.parametrize("case", GRADIENTS, ids=told)
def test_gradient_is_that_of_the_oracle(case: dict[str, Any], rng: np.random.Generator) -> None:
    (*inner, last), loss, activation = case["sizes"], case["loss"], case["activation"]
    least = 2 if CASES[loss].targets == "classes" else 1  # the gradient of one class is 0
    sizes = (*inner, outputs_for(loss, max(last, least)))
    net = Net(sizes, activation, loss, activation, case["penalties"], case["dtype"])
    parameters, data = net.draw(rng, case["n_rows"], weighted=case["weighted"])
    # So that no output of a wide net is out of the range of exp.
    parameters *= min(1.0, 2 / max(sizes) ** 0.5)
    assert_gradient_is_that_of_the_oracle(net, parameters, data)


def test_gradient_of_a_matrix_of_many_tiles_is_that_of_the_oracle(rng: np.random.Generator) -> None:
    net = Net((70, 130, 3), penalties={"l2": 0.1, "l1": 0.1})  # two tiles high, several wide
    assert_gradient_is_that_of_the_oracle(net, *net.draw(rng, 3))


def test_gradient_of_soft_targets_is_that_of_the_oracle(rng: np.random.Generator) -> None:
    net = Net((3, 5, 4), loss="cross_entropy")
    parameters, data = net.draw(rng, 9)
    soft = data._replace(y=rng.uniform(size=(9, 4)))
    assert_gradient_is_that_of_the_oracle(net, parameters, soft)


@pytest.mark.parametrize("case", LOSSES, ids=told)
def test_loss_is_the_objective_without_penalties(
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
def test_prediction_is_that_of_the_oracle(case: dict[str, Any], rng: np.random.Generator) -> None:
    dtype, n_rows = case["dtype"], case["n_rows"]
    net = case["net"]._replace(dtype=dtype)
    parameters, data = net.draw(rng, n_rows)
    out = np.full((n_rows, net.sizes[-1]), np.nan, dtype)
    Engine(net.network, 1).predict(parameters, data.x, out)
    expected = naive.predict(*split(net, parameters), data.x, **net.oracle)
    np.testing.assert_allclose(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@each_loss
def test_a_raw_prediction_is_the_last_pre_activation(loss: str, rng: np.random.Generator) -> None:
    net = Net((3, 5, outputs_for(loss, 2)), loss=loss, output_activation="tanh")
    parameters, data = net.draw(rng, 33)
    out = np.full((33, net.sizes[-1]), np.nan)
    Engine(net.network, 1).predict(parameters, data.x, out, raw=True)
    before, _ = naive.forward(*split(net, parameters), data.x, net.oracle["activations"])
    np.testing.assert_allclose(out, before[-1], rtol=1e-12, atol=1e-12)


@weighted_or_not
def test_rows_of_weight_zero_count_as_if_they_were_not_there(
    weighted: bool, rng: np.random.Generator
) -> None:
    net = Net(penalties=PENALTY_SETS[-1])
    parameters, data = net.draw(rng, 40, weighted=True)
    weight = data.weight if weighted else np.ones(40)
    kept = rng.uniform(size=40) < 0.5
    masked = Data(data.x, data.y, np.where(kept, weight, 0))
    fewer = Data(data.x[kept], data.y[kept], weight[kept])
    value, gradient = evaluate(net, parameters, masked)
    expected, slopes = evaluate(net, parameters, fewer)
    assert value == pytest.approx(expected, rel=1e-14, abs=0)
    assert distance(gradient, slopes) <= 1e-14


@each_dtype
def test_weights_of_one_are_no_weights(dtype: str, rng: np.random.Generator) -> None:
    net = Net(dtype=dtype)
    parameters, data = net.draw(rng, 40)
    value, gradient = evaluate(net, parameters, data._replace(weight=np.ones(40, dtype)))
    expected, slopes = evaluate(net, parameters, data)
    assert value == expected
    assert np.array_equal(gradient, slopes)


@each_dtype
def test_a_nan_in_the_rows_is_a_nan_in_the_loss(dtype: str, rng: np.random.Generator) -> None:
    net = Net(activation="relu", dtype=dtype)
    parameters, data = net.draw(rng, 20)
    data.x[11, 1] = np.nan
    assert np.isnan(Engine(net.network, 1).loss(parameters, data))


@each_loss
def test_gradient_in_chunks_has_the_same_bits_but_for_biases(
    loss: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net((5, 17, outputs_for(loss, 3)), loss=loss, penalties=PENALTY_SETS[-1])
    parameters, data = net.draw(rng, 50, weighted=True)
    value, gradient = evaluate(net, parameters, data)
    monkeypatch.setattr("fastmlp.backends.cpu.plan.partition.CHUNK_NUMBERS", 0)
    monkeypatch.setattr("fastmlp.backends.cpu.plan.partition.MIN_CHUNK_ROWS", 7)
    in_chunks, slopes = evaluate(net, parameters, data)
    # The loss adds up by chunks. A weight's slope is one chain over the rows, cut or not; a
    # bias's is eight sums of every eighth row of a chunk, so a cut changes their order.
    assert in_chunks == pytest.approx(value, rel=1e-14, abs=0)
    n = net.network.layout.n_weights
    assert np.array_equal(gradient[:n], slopes[:n])
    np.testing.assert_allclose(gradient[n:], slopes[n:], rtol=1e-13, atol=1e-15)


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
    loss, sizes, n = case["loss"], case["sizes"], case["n_rows"]
    if CASES[loss].link == "softmax" and sizes[-1] == 1:
        sizes = (*sizes[:-1], 2)
    net = MLP(
        sizes, loss=CASES[loss], activation=case["activation"], l2=0.3, seed=seed, dtype="float64"
    )
    if case["frozen"] and len(sizes) > 2:
        net.layer_rates = [{"weights": 0.0}, *(1.0 for _ in sizes[2:])]
    x, y = rng.normal(size=(n, sizes[0])), draw_targets(loss, rng, n, sizes[-1])
    weight = rng.uniform(0.5, 2, n) if case["weighted"] else np.empty(0)
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
    plain = naive.gauss_newton(weights, biases, data.x, data.y, **model)[np.ix_(kept, kept)]
    whole = naive.gauss_newton(weights, biases, data.x, data.y, l2=0.3, **model)
    _, *slopes = naive.gradient(weights, biases, data.x, data.y, l2=0.3, **model)
    system, parameters = system_of(net, data), net.parameters.copy()
    _, gradient = system.objective(parameters)
    system.linearize(parameters)
    close = {"rtol": 0, "atol": 1e-10 * max(1, abs(plain).max())}
    np.testing.assert_allclose(system.matrix(), plain, **close)
    np.testing.assert_allclose(system.diagonal, np.diag(whole)[kept], **close)
    step = system.step(gradient, np.full(kept.sum(), 0.1))
    damped = whole[np.ix_(kept, kept)] + 0.1 * np.eye(kept.sum())
    expected: Any = np.linalg.solve(damped, -naive.flatten(*slopes)[kept])
    assert step is not None
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_no_step_where_a_pivot_is_not_positive() -> None:
    net = MLP((2, 3, 1), initializer="zeros", dtype="float64")
    rng = np.random.default_rng(0)
    system = system_of(net, Data(rng.normal(size=(5, 2)), rng.normal(size=(5, 1)), np.empty(0)))
    _, gradient = system.objective(net.parameters)
    system.linearize(net.parameters)
    assert system.step(gradient, np.zeros(13)) is None
    assert system.step(gradient, np.full(13, np.nan)) is None
    assert system.step(gradient, np.ones(13)) is not None


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: takes minutes")
@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_do_not_change_a_bit(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
