"""Clipping, groups and averages against PyTorch,
optax and the reference of schedule-free AdamW.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp import EMA, MLP, SGD, Adam, AdamW, ScheduleFreeAdamW

torch = pytest.importorskip("torch", reason="compares with PyTorch")
SIZES = (5, 12, 9, 3)
N_ROWS = 24
N_STEPS = 50
# Clips gradients in place; returns the norms.
Clip = Callable[[list[Any], float], list[float]]


def by_pytorch(variables: list[Any], limit: float) -> list[float]:
    """PyTorch's own, whose factor is
    min(1, max_norm / (total + 1e-6)), without the 1e-6.
    """
    total = float(torch.nn.utils.clip_grad_norm_(variables, np.inf))
    torch.nn.utils.clip_grad_norm_(variables, limit * (total + 1e-6) / total)
    return [total]


def by_variable_as_keras(variables: list[Any], limit: float) -> list[float]:
    """Of each variable: values * (clipnorm / max(l2norm(values), clipnorm))."""
    norms = [
        float(torch.sqrt(torch.sum(torch.square(tensor.grad)))) for tensor in variables
    ]
    for tensor, norm in zip(variables, norms, strict=True):
        tensor.grad = tensor.grad * (limit / max(norm, limit))
    return norms


def peer_of(net: MLP) -> list[Any]:
    """The layers' weights and biases as PyTorch's tensors;
    a frozen layer's need no gradient.
    """
    pairs = zip(net.weights, net.biases, net.trainable, strict=True)
    return [
        [torch.tensor(each.copy(), requires_grad=trains) for each in (w, b)]
        for w, b, trains in pairs
    ]


def groups_of(
    layers: Any, rates: Any, rate: float, decay: float, bias_decay: float
) -> Any:
    """PyTorch's groups: one of each tensor, with its learning rate and weight decay."""
    return [
        {"params": [tensor], "lr": rate * factor, "weight_decay": its_decay}
        for tensors, factors in zip(layers, rates, strict=True)
        for tensor, factor, its_decay in zip(
            tensors, factors, (decay, bias_decay), strict=True
        )
        if tensor.requires_grad
    ]


def train_peer(
    layers: Any, optimizer: Any, data: Any, clip: Clip, limit: float
) -> list[float]:
    """Train PyTorch's tensors in place; return the norms before they are clipped."""
    norms = list[float]()
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        a = torch.tensor(data[0])
        for i, (w, b) in enumerate(layers):
            a = a @ w + b
            a = torch.tanh(a) if i < len(layers) - 1 else a
        torch.nn.functional.mse_loss(a, torch.tensor(data[1])).backward()
        norms += clip([group["params"][0] for group in optimizer.param_groups], limit)
        optimizer.step()
    return norms


RATES = ((0.1, 0.1), (1.0, 0.5), (2.0, 1.0))
GIVEN: Any = [{"weights": w, "biases": b} for w, b in RATES]
CLIPS: dict[str, tuple[dict[str, Any], Clip, float]] = {
    "none": ({}, lambda variables, limit: [], 0.0),
    "global": ({"global_clipnorm": 0.7}, by_pytorch, 0.7),
    "by variable": ({"clipnorm": 0.2}, by_variable_as_keras, 0.2),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("frozen", [[], [0], [0, 2], [1]], ids=str)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "AdamW without decay of biases"])
def test_fifty_steps_are_pytorchs(
    name: str, frozen: list[int], clip: str, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(N_ROWS, SIZES[0]))
    y = rng.normal(size=(N_ROWS, SIZES[-1]))
    clipping, by, limit = CLIPS[clip]
    whole = name == "AdamW"
    ours: Any = AdamW(0.01, weight_decay=0.1, decay_biases=whole, **clipping)
    if name == "SGD":
        ours = SGD(0.05, momentum=0.9, **clipping)
    net = MLP(
        SIZES,
        activation="tanh",
        optimizer=ours,
        layer_rates=GIVEN,
        # Norms of the gradient on both sides of the limits, with layers frozen too.
        initializer="glorot_uniform",
        dtype="float64",
        seed=0,
    )
    net.biases[:] = [rng.normal(size=each.shape) for each in net.biases]
    for i in frozen:
        net.trainable[i] = False
    layers = peer_of(net)
    before = [each.copy() for each in (*net.weights, *net.biases)]
    if name == "SGD":
        peer = torch.optim.SGD(groups_of(layers, RATES, 0.05, 0, 0), momentum=0.9)
    else:
        groups = groups_of(layers, RATES, 0.01, 0.1, 0.1 if whole else 0.0)
        peer = torch.optim.AdamW(groups)
    norms = train_peer(layers, peer, (x, y), by, limit)
    assert not norms or min(norms) < limit < max(norms)
    net.fit(x, y, epochs=N_STEPS, batch_size=N_ROWS)
    for i, pair in enumerate(zip(net.weights, net.biases, strict=True)):
        for mine, tensor, first in zip(
            pair, layers[i], before[i :: len(layers)], strict=True
        ):
            np.testing.assert_allclose(
                mine, tensor.detach().numpy(), rtol=1e-10, atol=1e-12
            )
            assert np.array_equal(mine, first) is (i in frozen)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5))
Y = RNG.normal(size=(24, 3))
N_AVERAGED, DECAY = 50, 0.9


def make(optimizer: Any) -> MLP:
    settings: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    return MLP((5, 12, 3), optimizer=optimizer, **settings)


def shown_after_each_step(net: MLP) -> list[Any]:
    """The parameters after each step; an epoch is a step."""
    path: list[Any] = []
    net.fit(
        X,
        Y,
        epochs=N_AVERAGED,
        batch_size=len(X),
        callbacks=lambda report: path.append(report.net.parameters.copy()),
    )
    return path


def test_an_ema_of_adams_steps_is_that_of_optax() -> None:
    jax = pytest.importorskip("jax", reason="compares with optax, which works on JAX")
    optax = pytest.importorskip("optax", reason="compares with optax")
    trained = shown_after_each_step(make(Adam(0.01)))
    averages = shown_after_each_step(make(Adam(0.01, average=EMA(DECAY))))
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        for debias in (True, False):
            tensor = optax.ema(DECAY, debias=debias)
            state = tensor.init(trained[0])
            for k, (w, average) in enumerate(
                zip(trained, averages, strict=True), start=1
            ):
                expected, state = tensor.update(w, state)
                # Without the correction the weights of k steps sum to 1 - decay^k.
                mass = 1.0 if debias else 1 - DECAY**k
                np.testing.assert_allclose(
                    mass * average, expected, rtol=1e-12, atol=1e-12
                )
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_schedule_free_adamw_is_that_of_its_authors(weight_decay: float) -> None:
    torch = pytest.importorskip(
        "torch", reason="the reference package works on PyTorch"
    )
    schedulefree = pytest.importorskip(
        "schedulefree", reason="compares with the reference"
    )
    net = make(ScheduleFreeAdamW(0.01, warmup_steps=10, weight_decay=weight_decay))
    layers = [torch.nn.Linear(5, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)]
    peer = torch.nn.Sequential(*layers).double()
    for i, layer in enumerate((layers[0], layers[2])):
        layer.weight.data[:] = torch.tensor(net.weights[i].T.copy())
        layer.bias.data[:] = torch.tensor(net.biases[i].copy())
    settings: dict[str, Any] = {
        "lr": 0.01,
        "warmup_steps": 10,
        "weight_decay": weight_decay,
    }
    theirs = schedulefree.AdamWScheduleFree(peer.parameters(), **settings)
    x = torch.tensor(X)
    theirs.train()
    for _ in range(N_AVERAGED):
        net.fit(X, Y, epochs=1, batch_size=len(X))
        theirs.zero_grad()
        torch.nn.functional.mse_loss(peer(x), torch.tensor(Y)).backward()
        theirs.step()
        theirs.eval()
        expected = peer(x).detach().numpy()
        theirs.train()
        np.testing.assert_allclose(net.predict(X), expected, rtol=1e-10, atol=1e-10)
