"""Single steps on a GPU: those of a fit of one batch, and of a net on the CPU."""

import copy
from typing import Any

import numpy as np
import pytest
from runs import net

from fastmlp import EMA, MLP, SGD, Adam, Cosine

N_ROWS = 6


@pytest.fixture
def rows() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 3)), rng.integers(2, size=N_ROWS), rng.uniform(1, 2, N_ROWS)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": Adam(Cosine(0.05, n_steps=3), average=EMA(0.5))},
        {"optimizer": SGD(0.1, momentum=0.9), "dropout": 0.3},
    ],
    ids=["plain", "average", "dropout"],
)
def test_a_step_is_a_fit_of_one_batch(rows: Any, settings: Any, weighted: bool) -> None:
    x, y, weight = rows
    nets = [net(**settings), net(**settings)]
    other = net("cpu", **settings)
    for n in (N_ROWS, 3, N_ROWS):
        part: Any = (x[:n], y[:n], weight[:n] if weighted else None)
        history = nets[0].fit(*part[:2], sample_weight=part[2], epochs=1, batch_size=n)
        loss = nets[1].train_on_batch(*part)
        assert loss == history.loss[0]
        assert nets[1].parameters.tobytes() == nets[0].parameters.tobytes()
        assert loss == pytest.approx(other.train_on_batch(*part), rel=1e-10)
        np.testing.assert_allclose(nets[1].parameters, other.parameters, rtol=1e-9)
        assert nets[1].n_steps == nets[0].n_steps
        nets[1].parameters[0] = nets[0].parameters[0] = other.parameters[0] = 0.1


def test_steps_with_and_without_weights_alternate(rows: Any) -> None:
    x, y, weight = rows
    kept, other = net(), net("cpu")
    for part in (None, weight, None, weight[::-1]):
        assert kept.train_on_batch(x, y, part) == pytest.approx(
            other.train_on_batch(x, y, part), rel=1e-10
        )
        np.testing.assert_allclose(kept.parameters, other.parameters, rtol=1e-9)


def test_a_step_from_a_gradient_and_a_product_with_the_jacobian(rows: Any) -> None:
    x, given = rows[0], np.random.default_rng(1).normal(size=(N_ROWS, 2))
    nets = [net(), net("cpu")]
    for each in nets:
        each.train_on_gradient(x, given)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-9)
    for sizes in [(3, 4, 2), (3, 2)]:
        shaped = [MLP(sizes, dtype="float64", seed=0, device=each) for each in ("cuda", "cpu")]
        products = [each.vjp(x, given) for each in shaped]
        for ours, theirs in zip(*products, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_loss_that_is_not_finite_takes_no_step(rows: Any) -> None:
    x = rows[0]
    each = net(loss="mse")
    y = np.ones((N_ROWS, 2))
    each.train_on_batch(x, y)
    other = copy.deepcopy(each)
    with pytest.warns(RuntimeWarning, match="no step was taken"):
        assert not np.isfinite(each.train_on_batch(x, y * 1e200))
    assert each.n_steps == 1
    assert each.parameters.tobytes() == other.parameters.tobytes()
    each.train_on_batch(x, y)
    other.train_on_batch(x, y)
    assert each.parameters.tobytes() == other.parameters.tobytes()
