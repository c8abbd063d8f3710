"""Every activation x loss x optimizer, with penalties in turn: two epochs, compiled and naive.

In plain Python, where all of them take minutes, every two of them meet.
"""

from dataclasses import asdict
from itertools import product
from typing import Any

import naive
import numpy as np
import pytest
from pairwise import all_pairs

from fastmlp import MLP, SGD
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.activations import RULES
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS

FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(0.01, momentum=0.9),
    SGD(0.01, momentum=0.9, nesterov=True),
]
PENALTIES: list[dict[str, Any]] = [{}, {"l2": 0.5}, {"l1": 0.5}, {"l2": 0.5, "l1": 0.25}]
# In float32, an optimizer that divides by the size of the gradient turns its rounding into a share
# of a step; six steps of 0.01 at most then differ by less than this.
TOLERANCE = {"float64": 1e-10, "float32": 3e-4}


def targets(loss: str, rng: np.random.Generator) -> Any:
    if LOSSES[loss].targets == "classes":
        return rng.integers(0, 2, 9)
    return rng.uniform(0.1, 0.9, (9, 2 // LOSSES[loss].per_target))


def cases() -> dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]]:
    """Optimizers and penalties with which each activation, loss and dtype is trained."""
    if not INTERPRETED:
        return {
            (activation, loss, dtype): [
                (o, PENALTIES[(i + j + k) % 4]) for k, o in enumerate(FORMS)
            ]
            for (i, activation), (j, loss) in product(enumerate(RULES), enumerate(LOSSES))
            for dtype in TOLERANCE
        }
    rules = {"activation": [*RULES], "loss": [*LOSSES], "dtype": [*TOLERANCE]}
    found: dict[tuple[str, str, str], list[tuple[Any, dict[str, Any]]]] = {}
    for case in all_pairs(**rules, optimizer=FORMS, penalty=PENALTIES):
        *key, optimizer, penalty = (case[name] for name in (*rules, "optimizer", "penalty"))
        found.setdefault((key[0], key[1], key[2]), []).append((optimizer, penalty))
    return found


CASES = cases()


@pytest.mark.parametrize(("activation", "loss", "dtype"), CASES)
def test_training_follows_the_naive_net(activation: Any, loss: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x, y, order = rng.standard_normal((9, 3)), targets(loss, rng), np.arange(9)
    batches = [[order[:4], order[4:8], order[8:]]] * 2
    for optimizer, penalty in CASES[activation, loss, dtype]:
        net = MLP(
            (3, 4, 2),
            activation=activation,
            loss=loss,
            optimizer=optimizer,
            dtype=dtype,
            seed=7,
            **penalty,
        )
        start = [w.astype(float) for w in net.weights], [b.astype(float) for b in net.biases]
        history = net.fit(x, y, epochs=2, batch_size=4, shuffle=False)
        losses, weights, biases = naive.train(
            *start,
            x,
            y,
            batches,
            optimizer=optimizer.rule.__name__.removeprefix("sgd_"),
            settings=asdict(optimizer),
            activations=[activation],
            loss=loss,
            **penalty,
        )
        bound, expected = TOLERANCE[dtype], naive.flatten(weights, biases)
        np.testing.assert_allclose(history.loss, losses, rtol=bound)
        error = np.abs(net.parameters - expected).max()
        assert error <= bound * np.abs(expected).max(), (optimizer, penalty, error)
