"""Fits of nets with heads against PyTorch's sum of losses,
with weights and gaps by head.
"""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Adam, AdamW

torch = pytest.importorskip("torch", reason="compares with PyTorch")
RNG = np.random.default_rng(3)
N, N_STEPS = 24, 50
X = RNG.normal(size=(N, 5))
LABELS = RNG.integers(0, 3, N)
VALUES = RNG.normal(size=(N, 2))
KNOWN = RNG.random((2, N)) < 0.7
W = RNG.uniform(0.2, 2.0, (2, N))
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "Adam": (
        Adam(0.01, epsilon=1e-8),
        lambda tensors: torch.optim.Adam(tensors, 0.01),
    ),
    "AdamW": (
        AdamW(0.01, weight_decay=0.1, epsilon=1e-8),
        lambda tensors: torch.optim.AdamW(tensors, 0.01, weight_decay=0.1),
    ),
}
CASES = ("plain", "weights", "gaps")


def factors_of(case: str) -> Any:
    """The weight of each head's row, shape (2, N)."""
    factors = {"plain": np.ones((2, N)), "weights": W, "gaps": KNOWN.astype(float)}
    return factors[case]


def targets_of(case: str) -> Any:
    """The targets of both heads, with gaps where the case has them."""
    if case != "gaps":
        return LABELS, VALUES
    labels = np.where(KNOWN[0], LABELS, np.nan)
    values = np.where(KNOWN[1][:, None], VALUES, np.nan)
    return labels, values


def parameters_of_torch(
    net: MLP, make_optimizer: Any, factors: Any, batch_size: int, epochs: int
) -> Any:
    """Train from the net's weights; return all parameters, flat."""
    tensors = [
        torch.tensor(each.copy(), requires_grad=True)
        for each in (*net.weights, *net.biases)
    ]
    optimizer = make_optimizer(tensors)
    x, labels, values = map(torch.tensor, (X, LABELS, VALUES))
    for start in list(range(0, N, batch_size)) * epochs:
        rows = slice(start, start + batch_size)
        optimizer.zero_grad()
        z = torch.tanh(x[rows] @ tensors[0] + tensors[2]) @ tensors[1] + tensors[3]
        of_labels = torch.nn.functional.cross_entropy(
            z[:, :3], labels[rows], reduction="none"
        )
        of_values = ((z[:, 3:] - values[rows]) ** 2).mean(axis=1)
        first, second = factors[:, rows]
        total = (first * of_labels + 0.5 * second * of_values).sum()
        (total / factors[:, rows].mean(axis=0).sum()).backward()
        optimizer.step()
    return np.concatenate([each.detach().numpy().ravel() for each in tensors])


@pytest.mark.parametrize("batch_size", [N, 7])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_are_those_of_the_sum_of_losses(
    name: str, case: str, batch_size: int
) -> None:
    ours, theirs = OPTIMIZERS[name]
    net = MLP(
        (5, 12, 5),
        activation="tanh",
        loss=[("cross_entropy", 3), ("mse", 2)],
        loss_weights=[1.0, 0.5],
        optimizer=ours,
        seed=0,
        dtype="float64",
    )
    epochs = -(-N_STEPS // len(range(0, N, batch_size)))
    factors = torch.tensor(factors_of(case))
    expected = parameters_of_torch(net, theirs, factors, batch_size, epochs)
    options: dict[str, Any] = {}
    if case == "weights":
        options["sample_weight"] = tuple(W)
    if case == "gaps":
        options["missing_targets"] = "ignore"
    y = targets_of(case)
    net.fit(X, y, epochs=epochs, batch_size=batch_size, shuffle=False, **options)
    largest = abs(expected).max()
    assert abs(net.parameters - expected).max() < 1e-12 * largest
