"""Steps and gradients with derivatives by the inputs, in compiled code."""

from typing import Any

import numpy as np
import pytest
from numba import njit

from fastmlp import MLP, jit

rng = np.random.default_rng(0)
X = rng.normal(size=(16, 3))
Y = rng.normal(size=(16, 2))
G = rng.normal(size=(16, 2, 3))
G[3] = np.nan
G[:, 1, 0] = np.nan
U = rng.normal(size=(16, 2, 3))


def make(**settings: Any) -> MLP:
    chosen = {"activation": "tanh", "seed": 0, "dtype": "float64", **settings}
    return MLP((3, 9, 7, 2), **chosen)


@njit
def learn(handle: Any, X: Any, y: Any, G: Any, U: Any, n: int) -> float:
    loss = 0.0
    for _ in range(n):
        loss = jit.train_on_batch(handle, X, y, G)
        jit.train_on_batch(handle, X, y)
        jit.train_on_gradient(handle, X, y, U)
    return loss


@njit
def differentiate(
    handle: Any, X: Any, y: Any, U: Any, gradient: Any, by_X: Any
) -> None:
    jit.vjp(handle, X, y, gradient, by_X, U)


def learn_in_python(net: MLP, n: int, **options: Any) -> float:
    loss = 0.0
    for _ in range(n):
        loss = net.train_on_batch(X, Y, derivatives=G, derivative_weight=0.5)
        net.train_on_batch(X, Y)
        net.train_on_gradient(X, Y, jacobian_gradient=U)
    return loss


@pytest.mark.slow
def test_compiled_steps_have_the_bits_of_methods() -> None:
    net = make()
    other = make()
    third = make()
    with jit.learner(net, batch_size=16, derivative_weight=0.5) as handle:
        loss = learn(handle, X, Y, G, U, 3)
    assert loss == learn_in_python(other, 3)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    with jit.learner(third, batch_size=16, derivative_weight=0.5) as handle:
        assert loss == learn.py_func(handle, X, Y, G, U, 3)
    np.testing.assert_array_equal(third.parameters, other.parameters)


@pytest.mark.slow
def test_compiled_gradients_have_the_bits_of_vjp() -> None:
    net = make()
    expected, expected_by_X = net.vjp(X, Y, jacobian_gradient=U)
    for function in (differentiate, differentiate.py_func):
        gradient = np.empty(len(net.parameters))
        by_X = np.empty_like(X)
        with jit.learner(net, batch_size=16, derivative_weight=1.0) as handle:
            function(handle, X, Y, U, gradient, by_X)
        np.testing.assert_array_equal(gradient, expected)
        np.testing.assert_array_equal(by_X, expected_by_X)


def test_targets_beside_derivatives_may_have_gaps() -> None:
    gaps = Y.copy()
    net = make()
    other = make()
    gaps[0] = np.nan
    gaps[4, 1] = np.nan
    settings: Any = {"missing_targets": "ignore", "derivative_weight": 2.0}
    with jit.learner(net, batch_size=16, **settings) as handle:
        loss = jit.train_on_batch(handle, X, gaps, G)
    assert loss == other.train_on_batch(X, gaps, derivatives=G, **settings)
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_derivatives_need_a_weight() -> None:
    net = make()
    with (
        jit.learner(net, batch_size=16) as handle,
        pytest.raises(ValueError, match="derivative_weight="),
    ):
        jit.train_on_batch(handle, X, Y, G)
    assert net.n_steps == 0


@pytest.mark.parametrize(
    "wrong", [G[:8], G.swapaxes(1, 2), G[:, :1]], ids=["rows", "axes", "outputs"]
)
def test_derivatives_of_another_shape_are_refused(wrong: Any) -> None:
    net = make()
    with (
        jit.learner(net, batch_size=16, derivative_weight=1.0) as handle,
        pytest.raises(ValueError, match="another shape"),
    ):
        jit.train_on_batch(handle, X, Y, wrong)
    assert net.n_steps == 0


def test_derivatives_that_are_not_finite_are_refused() -> None:
    net = make()
    with (
        jit.learner(net, batch_size=16, derivative_weight=1.0) as handle,
        pytest.raises(ValueError, match="not finite"),
    ):
        jit.train_on_batch(handle, X, Y, G * np.inf)
    assert net.n_steps == 0


def test_a_gradient_takes_no_derivatives() -> None:
    net = make()
    with (
        jit.learner(net, batch_size=16, derivative_weight=1.0) as handle,
        pytest.raises(ValueError, match="not finite"),
    ):
        jit.train_on_gradient(handle, X, Y, G)
    assert net.n_steps == 0


def test_a_balanced_weight_needs_rows() -> None:
    with (
        pytest.raises(ValueError, match="has no rows yet"),
        jit.learner(make(), batch_size=16, derivative_weight="balanced"),
    ):
        pass
