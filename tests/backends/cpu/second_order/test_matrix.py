"""The Gauss-Newton matrix and its damped steps, against the oracle."""

from typing import Any

import naive
import numpy as np
import pytest
from loss_cases import CASES, draw_targets
from pairwise import all_pairs

from fastmlp import MLP
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.second_order.system import GaussNewton
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network.layer_settings import trained_parameters

LOSSES = [name for name, loss in CASES.items() if loss.curvature is not None]
ACTIVATIONS = ["tanh", "relu", "silu", "identity"]
MATRICES = all_pairs(
    loss=LOSSES,
    activation=ACTIVATIONS,
    sizes=[(3, 2), (1, 5, 3), (4, 9, 7, 2), (2, 45, 1), (1, 24, 1, 47, 2)],
    n_rows=[1, 7, 12, 130],
    weighted=[False, True],
    frozen=[False, True],
)


def drawn(case: dict[str, Any], seed: int = 0) -> tuple[MLP, Data]:
    """A net of a case, and rows for it."""
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
    """The system of a net on rows."""
    return GaussNewton(Engine(net._network, n_threads), data)


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
    from fastmlp.backends.cpu import dispatch
    from fastmlp.backends.cpu.threads import limits

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
