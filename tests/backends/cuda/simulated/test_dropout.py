"""Dropout and noise in the simulator: the masks of the CPU, by each design and in fit_many."""

from typing import Any

import numpy as np
import pytest
from runs import DESIGNS

from fastmlp import MLP, SGD, Cosine, fit_many
from fastmlp.backends.cuda.plan.design import design_for
from fastmlp.backends.cuda.training import trainer as cuda_trainer

SIZES, N_ROWS, BATCH = (5, 9, 10, 2), 7, 4
DRAWN: dict[str, Any] = {
    "dropout": [0.3, Cosine(0.5)],
    "input_dropout": 0.2,
    "input_noise": 0.5,
}


def made(device: str, seed: int = 0, **settings: Any) -> MLP:
    its = {"optimizer": SGD(0.05, momentum=0.9), "dtype": "float64", **DRAWN, **settings}
    return MLP(SIZES, device=device, seed=seed, **its)


def rows_of(rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.normal(size=(N_ROWS, SIZES[0])), rng.normal(size=(N_ROWS, SIZES[-1]))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_a_fit_is_that_of_the_cpu(
    design: str, activation: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cuda_trainer,
        "design_for",
        lambda network, batch, card, kind: design_for(network, batch, card, design),  # type: ignore[arg-type]
    )
    X, y = rows_of(rng)
    nets = [made(device, activation=activation) for device in ("cpu", "cuda")]
    losses = [net.fit(X, y, epochs=2, batch_size=BATCH).loss for net in nets]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=0, atol=1e-10)


def test_float32_has_the_same_masks(rng: np.random.Generator) -> None:
    X, y = rows_of(rng)
    nets = [made(device, dtype="float32") for device in ("cpu", "cuda")]
    for net in nets:
        net.fit(X, y, epochs=1, batch_size=BATCH)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=0, atol=1e-5)


def test_nets_of_one_launch_have_masks_of_their_own(rng: np.random.Generator) -> None:
    X, y = rows_of(rng)
    X = X.astype(np.float64)
    nets, alone = [made("cuda", seed) for seed in (1, 2)], [made("cpu", seed) for seed in (1, 2)]
    nets.append(made("cuda", 1, dropout=[0.0, 0.6]))
    alone.append(made("cpu", 1, dropout=[0.0, 0.6]))
    fit_many(nets, X, y, epochs=2, batch_size=BATCH)
    for net, other in zip(nets, alone, strict=True):
        other.fit(X, y, epochs=2, batch_size=BATCH)
        np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-10)


def test_nothing_is_dropped_but_in_fit(rng: np.random.Generator) -> None:
    X, y = rows_of(rng)
    net, plain = made("cuda"), made("cuda", dropout=0.0, input_dropout=0.0, input_noise=0.0)
    assert net.loss_and_gradient(X, y)[0] == plain.loss_and_gradient(X, y)[0]
    assert net.predict(X).tobytes() == plain.predict(X).tobytes()
    for each in (net, plain):
        each.apply_gradient(np.ones(len(each.parameters)))
    assert net.parameters.tobytes() == plain.parameters.tobytes()
