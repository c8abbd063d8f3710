"""Averages against optax, and schedule-free AdamW against its reference package."""

from typing import Any

import numpy as np
import pytest

from fastmlp import EMA, MLP, Adam, ScheduleFreeAdamW

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 5)), RNG.normal(size=(24, 3))
N_STEPS, DECAY = 50, 0.9


def make(optimizer: Any) -> MLP:
    settings: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    return MLP((5, 12, 3), optimizer=optimizer, **settings)


def shown_after_each_step(net: MLP) -> list[Any]:
    """The parameters after each step; an epoch is a step."""
    path: list[Any] = []
    net.fit(X, Y, epochs=N_STEPS, batch_size=len(X),
            callbacks=lambda report: path.append(report.net.parameters.copy()))  # fmt: skip
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
            its = optax.ema(DECAY, debias=debias)
            state = its.init(trained[0])
            for k, (w, average) in enumerate(zip(trained, averages, strict=True), start=1):
                expected, state = its.update(w, state)
                # Without the correction the weights of k steps sum to 1 - decay^k.
                mass = 1.0 if debias else 1 - DECAY**k
                np.testing.assert_allclose(mass * average, expected, rtol=1e-12, atol=1e-12)
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_schedule_free_adamw_is_that_of_its_authors(weight_decay: float) -> None:
    torch = pytest.importorskip("torch", reason="the reference package works on PyTorch")
    schedulefree = pytest.importorskip("schedulefree", reason="compares with the reference")
    net = make(ScheduleFreeAdamW(0.01, warmup_steps=10, weight_decay=weight_decay))
    layers = [torch.nn.Linear(5, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)]
    peer = torch.nn.Sequential(*layers).double()
    for i, layer in enumerate((layers[0], layers[2])):
        layer.weight.data[:] = torch.tensor(net.weights[i].T.copy())
        layer.bias.data[:] = torch.tensor(net.biases[i].copy())
    settings: dict[str, Any] = {"lr": 0.01, "warmup_steps": 10, "weight_decay": weight_decay}
    theirs, x = schedulefree.AdamWScheduleFree(peer.parameters(), **settings), torch.tensor(X)
    theirs.train()
    for _ in range(N_STEPS):
        net.fit(X, Y, epochs=1, batch_size=len(X))
        theirs.zero_grad()
        torch.nn.functional.mse_loss(peer(x), torch.tensor(Y)).backward()
        theirs.step()
        theirs.eval()
        expected = peer(x).detach().numpy()
        theirs.train()
        np.testing.assert_allclose(net.predict(X), expected, rtol=1e-10, atol=1e-10)
