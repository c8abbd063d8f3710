"""Gauss-Newton matrices beside `torch.func.jacrev` and the Hessians of PyTorch's losses."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.protocol import Data

torch: Any = pytest.importorskip("torch", reason="compares with PyTorch")
# PyTorch's own decompositions are compiled by it, on the first use of torch.func.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson"])
def test_the_matrix_is_that_of_jacrev(loss: Any) -> None:
    rng, n_out = np.random.default_rng(0), 1 if loss == "binary_cross_entropy" else 3
    net = MLP((4, 7, 5, n_out), activation="tanh", loss=loss, dtype="float64", seed=0)
    x, weight = rng.normal(size=(40, 4)), rng.uniform(0.5, 2, 40)
    y = np.eye(n_out)[rng.integers(0, n_out, 40)]
    system: Any = Engine(net._network, 1).gauss_newton(Data(x, y, weight))
    system.linearize(net.parameters)

    shapes = [array.shape for array in (*net.weights, *net.biases)]
    cuts = np.cumsum([np.prod(shape) for shape in shapes]).tolist()

    def raw(flat: Any, row: Any) -> Any:
        parts = torch.tensor_split(flat, cuts[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
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

    flat = torch.tensor(np.concatenate([a.ravel() for a in (*net.weights, *net.biases)]))
    rows, targets = torch.tensor(x), torch.tensor(y)
    jacobians = torch.func.vmap(torch.func.jacrev(raw), (None, 0))(flat, rows)
    outputs = torch.func.vmap(raw, (None, 0))(flat, rows)
    hessians = torch.func.vmap(torch.func.hessian(objective))(outputs, targets)
    shares = torch.tensor(weight / weight.sum())
    expected = torch.einsum("n,nap,nab,nbq->pq", shares, jacobians, hessians, jacobians)
    np.testing.assert_allclose(system.matrix(), expected.numpy(), rtol=1e-10, atol=1e-10)
