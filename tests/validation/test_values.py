"""Checks of numbers, weights of classes and expanded rows: what passes, and what is refused."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from fastmlp import MLP, Expanded
from fastmlp.validation import scalars
from fastmlp.validation.arrays import rows as rows_of

Check = Callable[[str, str, object], Any]


def words(expected: str, value: object) -> str:
    return f"^{re.escape(f'Adam: beta_1 must be {expected}, got {value!r}')}$"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (scalars.positive, 1e-300),
        (scalars.positive, 3),
        (scalars.positive, np.float32(0.5)),
        (scalars.non_negative, 0),
        (scalars.non_negative, 1e300),
        (scalars.fraction, 0.0),
        (scalars.fraction, np.nextafter(1.0, 0.0)),
        (scalars.positive_integer, 1),
        (scalars.positive_integer, np.int64(7)),
    ],
)
def test_a_good_number_comes_back(check: Check, value: Any) -> None:
    assert check("Adam", "beta_1", value) == value


@pytest.mark.parametrize("check", [scalars.positive, scalars.non_negative, scalars.fraction])
def test_a_real_number_comes_back_as_a_float(check: Check) -> None:
    assert type(check("Adam", "beta_1", np.float32(0.5))) is float


def test_an_integer_comes_back_as_an_int() -> None:
    assert type(scalars.positive_integer("Adam", "beta_1", np.int64(7))) is int


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_comes_back(value: bool) -> None:
    assert scalars.boolean("Adam", "beta_1", value) is value


def test_a_known_name_passes() -> None:
    table = {"tanh": 1, "relu": 2}
    passed: Any = scalars.known
    assert [passed("MLP", "activation", name, table) for name in table] == [None, None]


@pytest.mark.parametrize("name", ["slu", "", None, ["relu"]])
def test_an_unknown_name_is_told_the_known_ones_in_order(name: Any) -> None:
    message = f"MLP: unknown activation {name!r}; known: relu, tanh"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scalars.known("MLP", "activation", name, {"tanh": 1, "relu": 2})


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
    result = bits(net(dtype=dtype), y, class_weight=given, sample_weight=weight)
    assert result == bits(net(dtype=dtype), y, sample_weight=of_rows)


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


VALUES = np.array([[7.0, 1.25, 2], [8, 3, 0], [9, -1, 1]])
ROWS = Expanded(VALUES, plain=1, pieces=[3], levels=[3])


def test_values_are_not_copied() -> None:
    assert ROWS.values is VALUES
    assert ROWS.astype(np.dtype("float64")) is ROWS
    assert ROWS.astype(np.dtype("float32")).dtype == np.float32
    assert Expanded([[1]], pieces=[2]).dtype == np.float64


def test_rows_are_chosen() -> None:
    assert (len(ROWS), ROWS.shape) == (3, (3, 7))
    assert np.array_equal(ROWS[1:].toarray(), ROWS.toarray()[1:])
    assert ROWS[[0]].kind == ROWS.kind == (1, (3,), (3,))
    assert ROWS.starts == (1, 4, 7)


def test_its_text_tells_the_columns() -> None:
    assert repr(ROWS) == "Expanded(3 rows: 1 plain, 1 of pieces, 1 of levels; 7 inputs)"


def test_a_net_has_as_many_inputs() -> None:
    kind = np.dtype("float32")
    assert rows_of(ROWS, 7, kind, "who").dtype == kind
    with pytest.raises(ValueError, match="who: X stands for 7 inputs, but the net has 6 inputs"):
        rows_of(ROWS, 6, kind, "who")
    with pytest.raises(ValueError, match="who: X has no rows"):
        rows_of(ROWS[:0], 7, kind, "who")
    with pytest.raises(ValueError, match=r"MLP\.fit: X stands for 7 inputs"):
        MLP((6, 1)).fit(ROWS, [1.0, 2.0, 3.0])


def test_numpy_takes_them_as_their_inputs() -> None:
    assert np.array_equal(np.asarray(ROWS), ROWS.toarray())
    assert np.asarray(ROWS, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy=False cannot be had"):
        ROWS.__array__(copy=False)


def test_they_are_no_targets() -> None:
    with pytest.raises(TypeError, match=r"y is expanded; use y\.toarray\(\)"):
        MLP((7, 7)).fit(ROWS, ROWS)
