"""Second-order optimizers on values and derivatives, beside complex steps."""

from typing import Any

import numpy as np
import pytest

from fastmlp import LBFGS, MLP, Adam, LevenbergMarquardt
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.protocol import Data, Derivatives
from fastmlp.model import core_of

rng = np.random.default_rng(0)
N_ROWS = 37
STEP = 1e-30
X = rng.uniform(-1, 1, (N_ROWS, 3))
WEIGHT = rng.uniform(0.5, 2, N_ROWS)
NETS = [
    ((3, 7, 5, 1), "tanh", "identity"),
    ((3, 7, 2), "tanh", "tanh"),
    ((3, 6, 6, 2), ["identity", "sigmoid"], "identity"),
    ((3, 2), "tanh", "identity"),
]
Pair = tuple[Any, Any]


def values_of(name: str, z: Any) -> Pair:
    """Values and slopes of an activation at complex numbers."""
    if name == "identity":
        return z, np.ones_like(z)
    if name == "tanh":
        return np.tanh(z), 1 - np.tanh(z) ** 2
    s = 1 / (1 + np.exp(-z))
    return s, s * (1 - s)


def outputs_of(parameters: Any, sizes: Any, names: Any) -> Pair:
    """Outputs, shape (n_rows, n), and the Jacobian, shape (n_rows, n, n_features)."""
    a: Any = X
    jacobian: Any = np.broadcast_to(np.eye(X.shape[1]), (N_ROWS, 3, 3))
    n_weights = sum(np.multiply(sizes[:-1], sizes[1:]))
    at_w = 0
    at_b = n_weights
    for n_in, n_out, name in zip(sizes[:-1], sizes[1:], names, strict=True):
        end_w = at_w + n_in * n_out
        end_b = at_b + n_out
        w = parameters[at_w:end_w].reshape(n_in, n_out)
        a, slope = values_of(name, a @ w + parameters[at_b:end_b])
        jacobian = np.einsum("rif,ij->rjf", jacobian, w) * slope[:, :, None]
        at_w = end_w
        at_b = end_b
    return a, jacobian


class Problem:
    """A net, its data with unknown derivatives, and residuals at complex parameters."""

    def __init__(self, sizes: Any, activation: Any, output: str) -> None:
        options: Any = {"dtype": "float64", "output_activation": output, "seed": 1}
        self.net = MLP(sizes, activation=activation, **options)
        hidden = [activation] * (len(sizes) - 2)
        if not isinstance(activation, str):
            hidden = activation
        self.sizes = sizes
        self.names = [*hidden, output]
        n = sizes[-1]
        self.y = rng.normal(size=(N_ROWS, n))
        self.g = rng.normal(size=(N_ROWS, n, 3))
        self.g[::3, 0] = np.nan
        self.weights = rng.uniform(0.5, 2, (n, 3))
        n_known = np.count_nonzero(~np.isnan(self.g), axis=(1, 2))
        known = n_known * WEIGHT
        self.known = known.sum()
        derivatives = Derivatives(self.g, known, self.weights)
        self.data = Data(X, self.y, WEIGHT, derivatives=derivatives)

    def engine(self, n_threads: int = 1) -> Engine:
        network = core_of(self.net).engine.network
        return Engine(network._replace(derivatives="targets"), n_threads)

    def residuals(self, parameters: Any) -> Any:
        outputs, jacobian = outputs_of(parameters, self.sizes, self.names)
        share = WEIGHT[:, None] / WEIGHT.sum() / self.sizes[-1]
        first = np.sqrt(share) * (outputs - self.y)
        factors = np.sqrt(self.weights * WEIGHT[:, None, None] / self.known)
        second = np.where(np.isnan(self.g), 0, factors * (jacobian - self.g))
        return np.concatenate([first.ravel(), second.ravel()])

    def jacobian(self, parameters: Any) -> Any:
        columns = []
        for j in range(len(parameters)):
            moved = parameters.astype(complex)
            moved[j] += STEP * 1j
            columns.append(self.residuals(moved).imag / STEP)
        return np.column_stack(columns)


@pytest.mark.parametrize("of_net", NETS)
def test_matrix_and_gradient_are_those_of_complex_steps(of_net: Any) -> None:
    """Each row has n (1 + d) residuals."""
    problem = Problem(*of_net)
    parameters = problem.net.parameters.copy()
    system: Any = problem.engine().gauss_newton(problem.data)
    loss, gradient = system.objective(parameters)
    system.linearize(parameters)
    residuals = problem.residuals(parameters)
    jacobian = problem.jacobian(parameters)
    assert loss == pytest.approx(residuals @ residuals, rel=1e-13)
    close: Any = {"rtol": 0, "atol": 1e-12 * abs(jacobian).max() ** 2}
    expected = 2 * jacobian.T @ residuals
    np.testing.assert_allclose(gradient, expected, **close)
    matrix = 2 * jacobian.T @ jacobian
    np.testing.assert_allclose(system.matrix(), matrix, rtol=0, atol=1e-11)


def test_the_objective_of_lbfgs_is_that_of_complex_steps() -> None:
    problem = Problem(*NETS[0])
    parameters = problem.net.parameters.copy()
    loss, gradient = problem.engine().objective(problem.data)(parameters)
    residuals = problem.residuals(parameters)
    jacobian = problem.jacobian(parameters)
    assert loss == pytest.approx(residuals @ residuals, rel=1e-13)
    expected = 2 * jacobian.T @ residuals
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_one_thread_has_the_bits_of_two() -> None:
    problem = Problem(*NETS[0])
    matrices = []
    for n_threads in (1, 2):
        system: Any = problem.engine(n_threads).gauss_newton(problem.data)
        system.linearize(problem.net.parameters.copy())
        matrices.append(system.matrix())
    np.testing.assert_array_equal(*matrices)


Y = np.sin(X @ [1, 2, 3])
G = np.cos(X @ [1, 2, 3])[:, None] * np.array([1.0, 2.0, 3.0])
OPTIMIZERS = [LBFGS(), LevenbergMarquardt()]


def make(optimizer: Any, **settings: Any) -> MLP:
    chosen: Any = {"activation": "tanh", "dtype": "float64", "seed": 0, **settings}
    return MLP((3, 8, 8, 1), optimizer=optimizer, **chosen)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_second_order_learns_more_digits_than_adam(optimizer: Any) -> None:
    options: Any = {"derivatives": G, "derivative_weight": 1.0, "epochs": 150}
    adam = make(Adam(0.01)).fit(X, Y, **options)
    history = make(optimizer).fit(X, Y, **options)
    assert history.loss[-1] < adam.loss[-1] / 10
    assert len(history.derivative_loss) == len(history.loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_history_has_the_mean_square_of_derivatives(optimizer: Any) -> None:
    net = make(optimizer)
    history = net.fit(X, Y, derivatives=G, derivative_weight=2.0, epochs=5)
    outputs, jacobian = outputs_of(
        net.parameters, (3, 8, 8, 1), ["tanh", "tanh", "identity"]
    )
    squares = np.mean((jacobian[:, 0] - G) ** 2)
    assert history.derivative_loss[-1] == pytest.approx(squares, rel=1e-12)
    whole = np.mean((outputs[:, 0] - Y) ** 2) + 2 * squares
    assert history.loss[-1] == pytest.approx(whole, rel=1e-12)


def test_a_loss_with_a_link_is_refused_by_levenberg_marquardt_alone() -> None:
    positive = np.exp(Y)
    options: Any = {"derivatives": positive[:, None] * G, "epochs": 2}
    net = make(LevenbergMarquardt(), loss="poisson")
    with pytest.raises(ValueError, match="the loss has a link: use LBFGS"):
        net.fit(X, positive, **options)
    history = make(LBFGS(), loss="poisson").fit(X, positive, **options)
    assert history.loss[-1] < history.loss[0]
