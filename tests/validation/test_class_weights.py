"""Weights of classes: the same fit as with the sample weights that they stand for."""

from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from fastmlp import MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
LABELS = RNG.choice(3, size=60, p=[0.7, 0.2, 0.1])
TWO = (LABELS == 0).astype(int)
SOFT = RNG.dirichlet(np.ones(3), 60)
WEIGHT = RNG.uniform(0.5, 2, size=60)


def net(n: int = 3, loss: Any = "cross_entropy", **settings: Any) -> MLP:
    return MLP((3, 5, n), loss=loss, seed=0, **settings)


def bits(model: MLP, y: Any, **options: Any) -> bytes:
    model.fit(X, y, epochs=3, batch_size=16, **options)
    return model.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["balanced", {0: 0.3, 2: 5}, {1: 2.5}], ids=str)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_fit_is_that_of_the_sample_weights(
    given: Any, weight: Any, one_hot: bool, dtype: str
) -> None:
    of_rows = compute_sample_weight(given, LABELS) * (1 if weight is None else weight)
    y = np.eye(3)[LABELS] if one_hot else LABELS
    found = bits(net(dtype=dtype), y, class_weight=given, sample_weight=weight)
    assert found == bits(net(dtype=dtype), y, sample_weight=of_rows)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "binary_focal"])
@pytest.mark.parametrize("given", ["balanced", {0: 1.0, 1: 4.0}], ids=str)
def test_two_classes_have_one_output(loss: str, given: Any) -> None:
    of_rows = compute_sample_weight(given, TWO)
    for y in (TWO, TWO[:, None], TWO.astype(float)):
        assert bits(net(1, loss), y, class_weight=given) == bits(
            net(1, loss), TWO, sample_weight=of_rows
        )


def test_validation_rows_have_no_class_weights() -> None:
    model, given = net(), {0: 100.0}
    history = model.fit(X, LABELS, epochs=1, class_weight=given, validation_data=(X, LABELS))
    assert history.validation_loss[-1] == pytest.approx(
        model.loss_and_gradient(X, LABELS)[0], rel=1e-6
    )


def test_rows_that_are_split_off_have_no_class_weights() -> None:
    model, given = net(), {0: 100.0}
    options: dict[str, Any] = {"epochs": 1, "sample_weight": WEIGHT, "validation_split": 0.25}
    history = model.fit(X, LABELS, class_weight=given, **options)
    held_out = model.loss_and_gradient(X[45:], LABELS[45:], WEIGHT[45:])[0]
    assert history.validation_loss[-1] == pytest.approx(held_out, rel=1e-6)
    of_rows, apart = compute_sample_weight(given, LABELS) * WEIGHT, net()
    apart.fit(X[:45], LABELS[:45], epochs=1, sample_weight=of_rows[:45])
    assert apart.parameters.tobytes() == model.parameters.tobytes()
