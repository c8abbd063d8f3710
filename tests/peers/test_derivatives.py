"""Derivatives beside PyTorch's, attributions beside PyTorch's quadrature and shap's."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, jacobian, shap_values

torch: Any = pytest.importorskip("torch", reason="compares with PyTorch")
F = torch.nn.functional
rng = np.random.default_rng(0)
X = rng.normal(size=(50, 5))
ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
}
LINKS: dict[str, Any] = {
    "mse": lambda raw: raw,
    "binary_cross_entropy": torch.sigmoid,
    "poisson": torch.exp,
    "cross_entropy": lambda raw: torch.softmax(raw, dim=-1),
    "gaussian_nll": lambda raw: torch.stack(
        [raw[0], torch.exp(raw[1] / 2), raw[2], torch.exp(raw[3] / 2)]
    ),
}


def peer_of(net: MLP, activation: str, link: Any) -> Any:
    """The function of one row, and its derivatives of rows."""
    parameters = [
        (torch.from_numpy(np.array(w)), torch.from_numpy(np.array(b)))
        for w, b in zip(net.weights, net.biases, strict=True)
    ]

    def predict(row: Any) -> Any:
        for i, (w, b) in enumerate(parameters):
            row = row @ w + b
            row = ACTIVATIONS[activation](row) if i < len(parameters) - 1 else row
        return link(row)

    return torch.func.vmap(torch.func.jacrev(predict))


@pytest.mark.parametrize("loss", LINKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_pytorchs(activation: Any, loss: Any) -> None:
    net = MLP((5, 16, 9, 4), activation=activation, loss=loss, dtype="float64", seed=0)
    expected = peer_of(net, activation, LINKS[loss])(torch.from_numpy(X)).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(jacobian(net, X), expected, rtol=1e-12, atol=1e-13 * scale)


def test_attributions_are_a_quadrature_of_pytorchs_gradients() -> None:
    net = MLP((5, 16, 16, 1), activation="tanh", dtype="float64", seed=0)
    derive = peer_of(net, "tanh", LINKS["mse"])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = np.zeros((4, 5))
    for node, weight in zip(nodes, weights, strict=True):
        lines = X[:4, None] - X[None, 10:]
        points = torch.from_numpy((X[None, 10:] + (node + 1) / 2 * lines).reshape(-1, 5))
        slopes = derive(points).numpy().reshape(lines.shape)
        expected += weight / 2 * (slopes * lines).mean(axis=1)
    np.testing.assert_allclose(shap_values(net, X[:4], X[10:]).values, expected, atol=1e-6)


def test_attributions_are_close_to_shapley_values() -> None:
    shap: Any = pytest.importorskip("shap", reason="compares with shap")
    net = MLP((5, 32, 32, 1), activation="tanh", dtype="float64", seed=0)
    net.fit(X, np.sin(X[:, 0]) + X[:, 1] * X[:, 2], epochs=100)
    values = shap_values(net, X[:10], X[10:40]).values
    explainer = shap.PermutationExplainer(net.predict, X[10:40], seed=0)
    expected = explainer(X[:10], silent=True).values.reshape(10, 5)
    assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.99
