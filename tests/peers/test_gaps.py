"""Fits on targets with gaps, and with weights by target,
against PyTorch's masked mean.
"""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam

torch = pytest.importorskip("torch", reason="compares with PyTorch")
RNG = np.random.default_rng(3)
N = 24
N_STEPS = 50
L2 = 0.1
X = RNG.normal(size=(N, 5))
Y = np.where(RNG.random((N, 3)) < 0.3, np.nan, RNG.uniform(0.1, 0.9, (N, 3)))
W = RNG.uniform(0.2, 2.0, (N, 3))
OF_ELEMENTS: dict[str, Any] = {
    "mse": torch.nn.functional.mse_loss,
    "huber": torch.nn.functional.smooth_l1_loss,
    "binary_cross_entropy": torch.nn.functional.binary_cross_entropy_with_logits,
}
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "SGD": (
        SGD(0.05, momentum=0.9),
        lambda tensors: torch.optim.SGD(tensors, 0.05, momentum=0.9),
    ),
    "Adam": (
        Adam(0.01, epsilon=1e-8),
        lambda tensors: torch.optim.Adam(tensors, 0.01),
    ),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["gaps", "weights"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("loss", OF_ELEMENTS)
def test_fifty_steps_are_those_of_the_masked_mean(
    loss: Any, name: str, weighted: bool
) -> None:
    ours, theirs = OPTIMIZERS[name]
    net = MLP(
        (5, 12, 3),
        activation="tanh",
        loss=loss,
        optimizer=ours,
        l2=L2,
        seed=0,
        dtype="float64",
    )
    tensors = [
        torch.tensor(each.copy(), requires_grad=True)
        for each in (*net.weights, *net.biases)
    ]
    optimizer = theirs(tensors)
    x = torch.tensor(X)
    y = torch.tensor(Y)
    known = ~torch.isnan(y)
    w = torch.tensor(W if weighted else np.ones_like(W))[known]
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        z = torch.tanh(x @ tensors[0] + tensors[2]) @ tensors[1] + tensors[3]
        errors = OF_ELEMENTS[loss](z[known], y[known], reduction="none")
        decay = sum((each**2).sum() for each in tensors[:2])
        mass = w.sum() / 3
        ((w * errors).sum() / w.sum() + L2 / 2 * decay / mass).backward()
        optimizer.step()
    net.fit(
        X,
        Y,
        sample_weight=W if weighted else None,
        missing_targets="ignore",
        epochs=N_STEPS,
        batch_size=N,
    )
    expected = np.concatenate([each.detach().numpy().ravel() for each in tensors])
    largest = abs(expected).max()
    assert abs(net.parameters - expected).max() < 1e-12 * largest
