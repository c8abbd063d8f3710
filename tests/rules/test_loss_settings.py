"""Losses with settings: their checks, and how they are told apart and found again."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, SETTINGS
from numba.core import event

from fastmlp import MLP, BinaryFocal, Focal, Loss, Quantile, Tweedie
from fastmlp.rules.loss_settings import KINDS, of_settings, spelled, unsmoothed
from fastmlp.rules.losses import LOSSES

X = np.linspace(-1, 1, 12).reshape(6, 2)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Quantile(1.0), ValueError, r"Quantile: levels must be a number in \(0, 1\), got 1.0"),
    (lambda: Quantile([0.1, 0]), ValueError, r"Quantile: levels must be a number in \(0, 1\)"),
    (lambda: Quantile([0.9, 0.1]), ValueError, "in ascending order, got"),
    (lambda: Quantile([0.5, 0.5]), ValueError, "in ascending order, got"),
    (lambda: Quantile([]), ValueError, "levels must be one or more"),
    (lambda: Quantile("median"), TypeError, "a number in .* or several, got 'median'"),
    (lambda: Quantile(None), TypeError, "a number in .* or several, got None"),
    (lambda: Quantile(["a"]), TypeError, "got 'a'"),
    (lambda: Tweedie(0.5), ValueError, "Tweedie: power must be a number from 1 to 2, got 0.5"),
    (lambda: Tweedie(np.nan), ValueError, "a number from 1 to 2, got nan"),
    (lambda: Tweedie("a"), TypeError, "a number from 1 to 2, got 'a'"),  # type: ignore[arg-type]
    (lambda: Tweedie(p=1.5), TypeError, "unexpected keyword argument 'p'"),  # type: ignore[call-arg]
    (lambda: Focal(-1), ValueError, "Focal: gamma must be a finite number of 0 or more, got -1"),
    (lambda: BinaryFocal(np.inf), ValueError, "BinaryFocal: gamma must be a finite number"),
    (lambda: MLP((2, 1), loss=Tweedie), TypeError, r"did you mean Tweedie\(\)"),  # type: ignore[arg-type]
    (
        lambda: MLP((2, 4), loss=Quantile([0.1, 0.9])),
        ValueError,
        r"loss=Quantile\(levels=\(0.1, 0.9\)\) needs 2 outputs in all, one for each level, but "
        r"layer_sizes=\(2, 4\) has 4 outputs",
    ),
    (
        lambda: MLP((2, 3), loss="gaussian_nll"),
        ValueError,
        r"loss='gaussian_nll' needs 2 outputs for each column of y, but layer_sizes=\(2, 3\)",
    ),
    (lambda: MLP((2, 1), loss=Focal()), ValueError, "for two classes use loss='binary_focal'"),
    (
        lambda: MLP((2, 1), loss="cross_entropy", label_smoothing=0.1),
        ValueError,
        "for two classes use loss='binary_cross_entropy'",
    ),
    (
        lambda: MLP((2, 1), label_smoothing=0.1),
        ValueError,
        "MLP: label_smoothing needs loss='cross_entropy' or 'binary_cross_entropy', got loss='mse'",
    ),
    (lambda: MLP((2, 1), label_smoothing=1), ValueError, r"must be a number in \[0, 1\), got 1"),
    (lambda: MLP((2, 1), label_smoothing=True), TypeError, "label_smoothing must be a number"),
    (
        lambda: MLP((2, 1), loss="gamma").fit(X, np.arange(6)),
        ValueError,
        "y must be above 0 for this loss, got 0.0; for targets of 0 and more use loss='tweedie'",
    ),
    (
        lambda: MLP((2, 1), loss="tweedie").fit(X, np.arange(6) - 1),
        ValueError,
        "y must be 0 or more for this loss, got -1",
    ),
    (
        lambda: MLP((2, 3), loss=Quantile([0.1, 0.5, 0.9])).fit(X, np.ones((6, 3))),
        ValueError,
        "y has 3 columns, but the net has 3 outputs, 3 for each column with this loss: y must "
        "have 1 column",
    ),
    (
        lambda: MLP((2, 2), loss=Loss(squared, per_target=2)),
        ValueError,
        "per_target=2 needs by_row=True",
    ),
    (lambda: MLP((2, 1), loss=Loss(squared, constants=("a",))), TypeError, "constants"),
    (lambda: MLP((2, 1), loss="pinbal"), ValueError, "did you mean 'quantile'"),  # type: ignore[arg-type]
    (lambda: MLP((2, 1), loss="focal_loss"), ValueError, "'binary_focal' or 'focal'"),  # type: ignore[arg-type]
]


def squared(p: Any, y: Any, factor: Any = 1.0) -> Any:
    error = p - y
    return factor * error * error, factor * (error + error)


@pytest.mark.parametrize(("call", "kind", "words"), WRONG)
def test_what_is_wrong_is_told_before_anything_is_compiled(
    call: Callable[[], Any], kind: type[Exception], words: str
) -> None:
    with event.install_recorder("numba:compile") as recorder, pytest.raises(kind, match=words):
        call()
    assert recorder.buffer == []


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loss_is_found_again_from_what_a_file_says(name: str) -> None:
    settings = SETTINGS[name]
    told = of_settings(settings)
    assert json.loads(json.dumps(told)) == told
    again = KINDS[told.pop("name")](**told)
    assert again == settings
    assert hash(again) == hash(settings)
    assert spelled(settings.loss) == settings
    assert again.loss == pickle.loads(pickle.dumps(settings)).loss == copy.deepcopy(settings).loss


def test_defaults_are_the_losses_of_the_table() -> None:
    defaults: dict[str, Any] = {"quantile": Quantile(), "tweedie": Tweedie(), "focal": Focal()}
    for name, settings in {**defaults, "binary_focal": BinaryFocal()}.items():
        assert settings.loss == LOSSES[name]
        assert spelled(settings.loss) == name
    assert Tweedie(1).loss == LOSSES["poisson"]
    assert Tweedie(2).loss == LOSSES["gamma"]
    assert Quantile([0.5]) == Quantile(np.float32(0.5)) == Quantile(0.5)


def test_a_loss_of_ones_own_is_not_spelled() -> None:
    assert spelled(Loss(squared)) is None
    assert spelled(LOSSES["tweedie"]._replace(over_outputs="sum")) is None


def test_validation_losses_are_not_smoothed() -> None:
    smoothed = {name for name in CASES if unsmoothed(CASES[name]) != CASES[name]}
    assert smoothed == {"smoothed cross_entropy", "smoothed binary_cross_entropy"}
    assert unsmoothed(CASES["smoothed cross_entropy"]) == LOSSES["cross_entropy"]


def test_a_loss_of_ones_own_may_have_settings() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    nets = [
        MLP((2, 3, 1), loss=Loss(squared, constants=(factor,)), dtype="float64", seed=0)
        for factor in (1.0, 3.0)
    ]
    (one, slopes), (three, slopes_of_three) = (net.loss_and_gradient(x, y) for net in nets)
    assert three == pytest.approx(3 * one, rel=1e-14)
    np.testing.assert_allclose(slopes_of_three, 3 * slopes, rtol=1e-13)


def test_repr_is_the_call() -> None:
    net = MLP((2, 3), loss="cross_entropy", label_smoothing=0.1)
    assert "loss='cross_entropy', label_smoothing=0.1, " in repr(net)
    assert "loss cross_entropy, label_smoothing=0.1;" in net.summary()
    assert "loss=Quantile(levels=0.9), " in repr(MLP((2, 1), loss=Quantile(0.9)))
    assert "loss='tweedie', " in repr(MLP((2, 1), loss=Tweedie()))
