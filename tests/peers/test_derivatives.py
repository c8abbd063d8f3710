"""Losses, slopes, dropout, derivatives,
attributions and Gauss-Newton matrices beside PyTorch's.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam, Cosine, jacobian, shap_values
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.protocol import Data
from fastmlp.rules.dropout import mask, noise

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
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
    parameters = [
        (torch.from_numpy(np.array(w)), torch.from_numpy(np.array(b)))
        for w, b in zip(net.weights, net.biases, strict=True)
    ]

    def predict(row: Any) -> Any:
        for i, (w, b) in enumerate(parameters):
            row = row @ w + b
            if i < len(parameters) - 1:
                row = ACTIVATIONS[activation](row)
            else:
                row = row
        return link(row)

    return torch.func.vmap(torch.func.jacrev(predict))


@pytest.mark.parametrize("loss", LINKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_pytorchs(activation: Any, loss: Any) -> None:
    net = MLP((5, 16, 9, 4), activation=activation, loss=loss, dtype="float64", seed=0)
    expected = peer_of(net, activation, LINKS[loss])(torch.from_numpy(X)).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        jacobian(net, X), expected, rtol=1e-12, atol=1e-13 * scale
    )


def test_attributions_are_a_quadrature_of_pytorchs_gradients() -> None:
    net = MLP((5, 16, 16, 1), activation="tanh", dtype="float64", seed=0)
    derive = peer_of(net, "tanh", LINKS["mse"])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = np.zeros((4, 5))
    for node, weight in zip(nodes, weights, strict=True):
        lines = X[:4, None] - X[None, 10:]
        points = torch.from_numpy(
            (X[None, 10:] + (node + 1) / 2 * lines).reshape(-1, 5)
        )
        slopes = derive(points).numpy().reshape(lines.shape)
        expected += weight / 2 * (slopes * lines).mean(axis=1)
    np.testing.assert_allclose(
        shap_values(net, X[:4], X[10:]).values, expected, atol=1e-6
    )


def test_attributions_are_close_to_shapley_values() -> None:
    shap: Any = pytest.importorskip("shap", reason="compares with shap")
    net = MLP((5, 32, 32, 1), activation="tanh", dtype="float64", seed=0)
    net.fit(X, np.sin(X[:, 0]) + X[:, 1] * X[:, 2], epochs=100)
    values = shap_values(net, X[:10], X[10:40]).values
    explainer = shap.PermutationExplainer(net.predict, X[10:40], seed=0)
    expected = explainer(X[:10], silent=True).values.reshape(10, 5)
    assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.99


RAW = np.array([0, 1e-3, -1e-3, 1, -1, 30, -30])
TWO = np.array(
    [*product(RAW, (-10.0, -1.0, 0.0, 1e-3, 30.0))]
)  # a mean, and log(variance)
THREE = np.array([*product(RAW[[0, 1, 4, 5]], repeat=3)])


class Peer(NamedTuple):
    settings: dict[str, Any]
    raw: Any
    targets: tuple[float, ...]
    loss: Callable[[Any, Any], Any]


def number(
    loss: Any, targets: tuple[float, ...], formula: Callable[[Any, Any], Any]
) -> Peer:
    return Peer({"loss": loss}, RAW[:, None], targets, formula)


def softplus(z: Any) -> Any:
    """F.softplus is a line from 20 on, which 1e-12 tells from a logarithm."""
    return -F.logsigmoid(-z)


def smoothed(y: Any) -> Any:
    return 0.9 * y + 0.05


def deviance(z: Any, y: Any) -> Any:
    return F.poisson_nll_loss(z, y, log_input=True) + torch.xlogy(y, y) - y


CLASSES = (0, 1, 2)
SOFT = (0.0, 0.3, 1.0)
REAL = (0.3, -7.0)
POSITIVE = (0.3, 7.0)
CE = "cross_entropy"
BCE = "binary_cross_entropy"
SMOOTH = {"label_smoothing": 0.1}
PEERS: dict[str, Peer] = {
    "mse": number("mse", REAL, F.mse_loss),
    "mae": number("mae", REAL, F.l1_loss),
    "huber": number("huber", REAL, F.huber_loss),
    "poisson": number("poisson", (0.0, 1.0, 7.0), deviance),
    "gaussian_nll": Peer(
        {"loss": "gaussian_nll"},
        TWO,
        REAL,
        lambda z, y: F.gaussian_nll_loss(z[:, :1], y, torch.exp(z[:, 1:])),
    ),
    "binary_cross_entropy": number(BCE, SOFT, F.binary_cross_entropy_with_logits),
    "smoothed binary_cross_entropy": Peer(
        {"loss": BCE, **SMOOTH},
        RAW[:, None],
        SOFT,
        lambda z, y: F.binary_cross_entropy_with_logits(z, smoothed(y)),
    ),
    "cross_entropy": Peer(
        {"loss": CE}, THREE, CLASSES, lambda z, y: F.cross_entropy(z, y[:, 0].long())
    ),
    "smoothed cross_entropy": Peer(
        {"loss": CE, **SMOOTH},
        THREE,
        CLASSES,
        lambda z, y: F.cross_entropy(z, y[:, 0].long(), label_smoothing=0.1),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_value_and_slopes_are_pytorchs(name: str) -> None:
    """The raw outputs of this net are its inputs,
    so its biases' slopes are those of the loss.
    """
    settings, raw, targets, formula = PEERS[name]
    n = raw.shape[1]
    net = MLP((n, n), dtype="float64", **settings)
    net.weights[0][:] = np.eye(n)
    net.biases[0][:] = 0
    for row, target in product(raw, targets):
        value, slopes = net.loss_and_gradient(row[None], np.array([target]))
        z = torch.tensor(row[None], requires_grad=True)
        expected = formula(z, torch.tensor([[target]], dtype=torch.float64)).sum()
        expected.backward()
        assert value == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(
            slopes[-n:], z.grad.numpy()[0], rtol=1e-12, atol=1e-12
        )


SIZES = (7, 24, 13, 2)
N_ROWS = 40
BATCH = 8
N_EPOCHS = 10
N_STEPS = N_EPOCHS * N_ROWS // BATCH
OPTIMIZERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "sgd": (
        SGD(0.05, momentum=0.9),
        lambda tensor: torch.optim.SGD(tensor, 0.05, momentum=0.9),
    ),
    "adam": (Adam(0.01), lambda tensor: torch.optim.Adam(tensor, 0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_fifty_steps_are_pytorchs(
    name: str, activation: str, rng: np.random.Generator
) -> None:
    ours, theirs = OPTIMIZERS[name]
    X = rng.normal(size=(N_ROWS, SIZES[0]))
    y = rng.normal(size=(N_ROWS, SIZES[-1]))
    net = MLP(
        SIZES,
        activation=activation,  # type: ignore[arg-type]
        dropout=[0.2, Cosine(0.5)],
        input_dropout=0.1,
        input_noise=0.3,
        optimizer=ours,
        dtype="float64",
        seed=1,
    )
    pairs = [
        [torch.tensor(array.copy(), requires_grad=True) for array in pair]
        for pair in zip(net.weights, net.biases, strict=True)
    ]
    optimizer = theirs([pair_of_net for pair in pairs for pair_of_net in pair])
    key = net._state.key
    assert key is not None
    cosine = Cosine(0.5)(np.arange(N_STEPS), N_STEPS)
    for step in range(N_STEPS):
        first = step * BATCH % N_ROWS
        x = X[first : first + BATCH]
        x = (x + noise(key, step, x.shape, 0.3)) * mask(key, step, -1, x.shape, 0.1)
        a = torch.tensor(x)
        for i, (w, b) in enumerate(pairs):
            a = a @ w + b
            if i < len(pairs) - 1:
                drops = mask(key, step, i, tuple(a.shape), (0.2, cosine[step])[i])
                a = getattr(torch, activation)(a) * torch.tensor(drops)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(
            a, torch.tensor(y[first : first + BATCH])
        ).backward()
        optimizer.step()
    net.fit(X, y, epochs=N_EPOCHS, batch_size=BATCH, shuffle=False)
    assert net.n_steps == N_STEPS == 50
    for pair, pair_of_net in zip(
        pairs, zip(net.weights, net.biases, strict=True), strict=True
    ):
        for tensor, array in zip(pair, pair_of_net, strict=True):
            np.testing.assert_allclose(
                array, tensor.detach().numpy(), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize(
    "loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson"]
)
def test_the_matrix_is_that_of_jacrev(loss: Any) -> None:
    rng = np.random.default_rng(0)
    n_out = 1 if loss == "binary_cross_entropy" else 3
    net = MLP((4, 7, 5, n_out), activation="tanh", loss=loss, dtype="float64", seed=0)
    x = rng.normal(size=(40, 4))
    weight = rng.uniform(0.5, 2, 40)
    y = np.eye(n_out)[rng.integers(0, n_out, 40)]
    system: Any = Engine(net._network, 1).gauss_newton(Data(x, y, weight))
    system.linearize(net.parameters)

    shapes = [array.shape for array in (*net.weights, *net.biases)]
    cuts = np.cumsum([np.prod(shape) for shape in shapes]).tolist()

    def raw(flat: Any, row: Any) -> Any:
        parts = torch.tensor_split(flat, cuts[:-1])
        arrays = [
            part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        for i in range(3):
            row = row @ arrays[i] + arrays[3 + i]
            row = torch.tanh(row) if i < 2 else row
        return row

    def objective(outputs: Any, target: Any) -> Any:
        functions = torch.nn.functional
        match loss:
            case "mse":
                return ((outputs - target) ** 2).mean()
            case "cross_entropy":
                return -(target * torch.log_softmax(outputs, 0)).sum()
            case "poisson":
                return (torch.exp(outputs) - target * outputs).mean()
        return functions.binary_cross_entropy_with_logits(outputs, target)

    flat = torch.tensor(
        np.concatenate([a.ravel() for a in (*net.weights, *net.biases)])
    )
    rows, targets = torch.tensor(x), torch.tensor(y)
    jacobians = torch.func.vmap(torch.func.jacrev(raw), (None, 0))(flat, rows)
    outputs = torch.func.vmap(raw, (None, 0))(flat, rows)
    hessians = torch.func.vmap(torch.func.hessian(objective))(outputs, targets)
    shares = torch.tensor(weight / weight.sum())
    expected = torch.einsum("n,nap,nab,nbq->pq", shares, jacobians, hessians, jacobians)
    np.testing.assert_allclose(
        system.matrix(), expected.numpy(), rtol=1e-10, atol=1e-10
    )
