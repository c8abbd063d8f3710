"""Losses and inverse links, uncompiled:
against the oracle, far out, and at NaN; settings.
"""

import copy
import json
import pickle
from typing import Any

import naive
import numpy as np
import pytest
from loss_cases import CASES, SETTINGS, constants_of, outputs_for

from fastmlp import MLP, BinaryFocal, Focal, Loss, Quantile, Tweedie
from fastmlp.rules.losses import (
    LINKS,
    LOSSES,
    SETTINGS_BY_KIND,
    of_settings,
    spelled,
    unsmoothed,
)

each_loss = pytest.mark.parametrize("name", CASES)


def evaluate(name: str, outputs: Any, targets: Any) -> tuple[Any, Any]:
    """The value of one row, and its slopes, shape (n_outputs,)."""
    loss = CASES[name]
    slopes = np.empty_like(outputs)
    constants = constants_of(name, outputs.dtype)
    if loss.by_row:
        value = np.empty(1, outputs.dtype)
        loss.rule(outputs[None], targets[None], slopes[None], value, *constants)
        return value[0], slopes
    pairs = [loss.rule(p, y, *constants) for p, y in zip(outputs, targets, strict=True)]
    values, slopes[:] = zip(*pairs, strict=True)
    value = sum(values)
    if loss.over_outputs == "mean":
        n = len(values)
        return value / outputs.dtype.type(n), slopes / n
    return value, slopes


def draw_targets(name: str, rng: np.random.Generator, n_outputs: int) -> Any:
    n = n_outputs // CASES[name].per_target
    draws = {
        "real": rng.normal(scale=3, size=n),
        "unit": rng.uniform(size=n),
        "count": rng.poisson(2.0, size=n).astype(float),
        "positive": rng.gamma(2.0, size=n),
        "classes": rng.dirichlet(np.ones(n)),
    }
    return draws[CASES[name].targets]


def draw_rows(name: str) -> list[tuple[Any, Any]]:
    """Twenty pairs of outputs and targets."""
    rng = np.random.default_rng(0)
    n = outputs_for(name, 4)
    rows = []
    for _ in range(20):
        outputs = rng.normal(scale=3, size=n)
        targets = draw_targets(name, rng, n)
        rows.append((outputs, targets))
    return rows


def as_targets(name: str, one_hot: Any) -> Any:
    n = outputs_for(name, len(one_hot)) // CASES[name].per_target
    if CASES[name].targets == "positive":
        return np.maximum(one_hot[:n], 0.5)
    return one_hot[:n]


@each_loss
def test_a_loss_has_the_link_of_the_oracle(name: str) -> None:
    assert CASES[name].link == naive.LINK_OF.get(name)


@each_loss
def test_a_loss_is_the_oracles(name: str) -> None:
    for outputs, targets in draw_rows(name):
        value, slopes = evaluate(name, outputs, targets)
        expected = naive.row_losses(name, outputs[None], targets[None])[0]
        expected_slopes = naive.row_slopes(name, outputs[None], targets[None])[0]
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-14)
        np.testing.assert_allclose(slopes, expected_slopes, rtol=1e-12, atol=1e-14)


@each_loss
def test_a_loss_in_float32_is_that_of_the_same_numbers_in_float64(name: str) -> None:
    for row in draw_rows(name):
        narrow = [part.astype(np.float32) for part in row]
        wide = [part.astype(np.float64) for part in narrow]
        value, slopes = evaluate(name, *narrow)
        expected, expected_slopes = evaluate(name, *wide)
        assert value == pytest.approx(expected, rel=2e-6, abs=2e-6)
        np.testing.assert_allclose(slopes, expected_slopes, rtol=2e-6, atol=2e-6)


@each_loss
@pytest.mark.parametrize("place", range(3))
def test_nan_stays_nan(name: str, place: int) -> None:
    outputs = np.arange(1.0, 1 + outputs_for(name, 3))
    outputs[place] = np.nan
    targets = as_targets(name, np.array([1.0, 0.0, 0.0]))
    value, _ = evaluate(name, outputs, targets)
    assert np.isnan(value)


@pytest.mark.parametrize("name", sorted(naive.OF_CLASSES))
@pytest.mark.parametrize("label", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_label_is_its_one_hot_row(name: str, label: int, dtype: Any) -> None:
    outputs = np.array([0.3, -1.2, 2.5, 0.1], dtype)
    value, slopes = evaluate(name, outputs, np.array([label], dtype))
    expected, expected_slopes = evaluate(name, outputs, np.eye(4, dtype=dtype)[label])
    near = 8 * float(np.finfo(dtype).eps)
    assert value == pytest.approx(expected, rel=near, abs=near)
    np.testing.assert_allclose(slopes, expected_slopes, rtol=near, atol=near)


each_link = pytest.mark.parametrize("name", LINKS)


def apply(name: str, row: Any) -> Any:
    link = LINKS[name]
    values = np.empty_like(row)
    if link.by_row:
        link.rule(row[None], values[None])
    else:
        values[:] = [link.rule(raw) for raw in row]
    return values


@each_link
def test_a_link_is_the_oracles(name: str, rng: np.random.Generator) -> None:
    rows = rng.normal(scale=5, size=(20, 4))
    values = np.array([apply(name, row) for row in rows])
    np.testing.assert_allclose(values, naive.LINKS[name](rows), rtol=1e-13)


@each_link
def test_a_link_in_float32_is_that_of_the_same_numbers_in_float64(
    name: str, rng: np.random.Generator
) -> None:
    row = rng.normal(scale=5, size=6).astype(np.float32)
    values = apply(name, row)
    expected = apply(name, row.astype(np.float64))
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@each_link
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", range(3))
def test_a_link_keeps_nan(name: str, dtype: Any, place: int) -> None:
    row = np.array([1, 2, 3], dtype)
    row[place] = np.nan
    assert np.isnan(apply(name, row)[place])


def test_softmax_may_go_over_its_row() -> None:
    row = np.array([1.0, -2.0, 0.5])
    expected = apply("softmax", row)
    LINKS["softmax"].rule(row[None], row[None])
    assert (row == expected).all()


def squared(p: Any, y: Any, factor: Any = 1.0) -> Any:
    error = p - y
    return factor * error * error, factor * (error + error)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loss_is_found_again_from_what_a_file_says(name: str) -> None:
    settings = SETTINGS[name]
    record = of_settings(settings)
    assert json.loads(json.dumps(record)) == record
    again = SETTINGS_BY_KIND[record.pop("name")](**record)
    assert again == settings
    assert again.loss == settings.loss
    assert hash(again) == hash(settings)
    assert spelled(settings.loss) == settings


@pytest.mark.parametrize("name", SETTINGS)
def test_a_copy_of_settings_has_the_same_loss(name: str) -> None:
    settings = SETTINGS[name]
    assert pickle.loads(pickle.dumps(settings)).loss == settings.loss
    assert copy.deepcopy(settings).loss == settings.loss


def test_a_curvature_is_a_function() -> None:
    wrong: Any = 1.0
    message = r"MLP: curvature must .*curvature\(output, target\)"
    with pytest.raises(TypeError, match=message):
        MLP((2, 1), loss=LOSSES["mse"]._replace(curvature=wrong))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("quantile", Quantile()),
        ("tweedie", Tweedie()),
        ("focal", Focal()),
        ("binary_focal", BinaryFocal()),
    ],
)
def test_a_name_stands_for_default_settings(name: str, settings: Any) -> None:
    assert settings.loss == LOSSES[name]
    assert spelled(settings.loss) == name


def test_tweedie_of_power_1_is_poisson() -> None:
    assert Tweedie(1).loss == LOSSES["poisson"]


def test_tweedie_of_power_2_is_gamma() -> None:
    assert Tweedie(2).loss == LOSSES["gamma"]


@pytest.mark.parametrize("level", [[0.5], np.float32(0.5)])
def test_one_level_of_quantiles_is_a_number(level: Any) -> None:
    assert Quantile(level) == Quantile(0.5)


@pytest.mark.parametrize(
    "loss", [Loss(squared), LOSSES["tweedie"]._replace(over_outputs="sum")]
)
def test_a_loss_of_ones_own_has_no_name(loss: Loss) -> None:
    assert spelled(loss) is None


def test_losses_with_smoothed_labels_are_two() -> None:
    smoothed = {name for name in CASES if unsmoothed(CASES[name]) != CASES[name]}
    assert smoothed == {"smoothed cross_entropy", "smoothed binary_cross_entropy"}


def test_a_loss_is_found_without_its_smoothing() -> None:
    assert unsmoothed(CASES["smoothed cross_entropy"]) == LOSSES["cross_entropy"]


def test_a_net_shows_smoothing_beside_its_loss() -> None:
    net = MLP((2, 3), loss="cross_entropy", label_smoothing=0.1)
    assert "loss='cross_entropy', label_smoothing=0.1, " in repr(net)
    assert "loss cross_entropy, label_smoothing=0.1;" in net.summary()


@pytest.mark.parametrize(
    ("settings", "shown"),
    [(Quantile(0.9), "Quantile(levels=0.9)"), (Tweedie(), "'tweedie'")],
)
def test_a_net_shows_the_settings_of_its_loss(settings: Any, shown: str) -> None:
    assert f"loss={shown}, " in repr(MLP((2, 1), loss=settings))


@pytest.mark.slow
def test_a_loss_of_ones_own_may_have_settings() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2))
    y = rng.normal(size=20)

    def loss_and_gradient(factor: float) -> Any:
        loss = Loss(squared, constants=(factor,))
        net = MLP((2, 3, 1), loss=loss, dtype="float64", seed=0)
        return net.loss_and_gradient(x, y)

    single, slopes = loss_and_gradient(1.0)
    triple, triple_slopes = loss_and_gradient(3.0)
    assert triple == pytest.approx(3 * single, rel=1e-14)
    np.testing.assert_allclose(triple_slopes, 3 * slopes, rtol=1e-13)
