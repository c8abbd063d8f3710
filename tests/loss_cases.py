"""Every loss by the name that the oracle has, and rules as users write them."""

from typing import Any

import numpy as np

from fastmlp import BinaryFocal, Focal, Quantile, Tweedie
from fastmlp.backends.cpu.kernels.rule_blocks import loss_options
from fastmlp.rules.losses import LOSSES, Loss, Smoothed, in_dtype

SETTINGS: dict[str, Any] = {
    "quantile 0.9": Quantile(0.9),
    "three quantiles": Quantile([0.1, 0.5, 0.9]),
    "tweedie 1.2": Tweedie(1.2),
    "binary_focal 0.5": BinaryFocal(0.5),
    "focal 0.5": Focal(0.5),
    "smoothed binary_cross_entropy": Smoothed("binary_cross_entropy", 0.1),
    "smoothed cross_entropy": Smoothed("cross_entropy", 0.1),
}
CASES: dict[str, Loss] = LOSSES | {name: one.loss for name, one in SETTINGS.items()}


def outputs_for(name: str, n: int) -> int:
    """The outputs of a net with this loss: n,
    or the next number that the loss takes.
    """
    each = CASES[name].per_target
    if CASES[name].link == "sorted":
        return each
    return -(-n // each) * each


def draw_targets(
    name: str, rng: np.random.Generator, n_rows: int, n_outputs: int
) -> Any:
    """Targets that make sense for the loss; class labels for a loss of classes."""
    shape = n_rows, n_outputs // CASES[name].per_target
    match CASES[name].targets:
        case "unit":
            return rng.uniform(size=shape)
        case "count":
            return rng.poisson(2.0, size=shape).astype(float)
        case "positive":
            return rng.gamma(2.0, size=shape)
        case "classes":
            return rng.integers(n_outputs, size=(n_rows, 1))
    return rng.normal(scale=2, size=shape)


def constants_of(name: str, dtype: Any) -> Any:
    """What the rule takes after its other arguments."""
    return in_dtype(CASES[name].constants, np.dtype(dtype).type)


def options_of(loss: Loss) -> dict[str, Any]:
    """What `loss_loop` takes beside the rule."""
    return loss_options(loss, np.dtype(np.float64))[0]


def settings_of(loss: Loss, dtype: Any) -> int:
    """The address of a loss's constants."""
    return loss_options(loss, np.dtype(dtype))[1]


def cube(z: Any) -> Any:
    """Return an activation and its slope."""
    return z * z * z, 3 * z * z


def fourth(prediction: Any, target: Any) -> Any:
    """Return a loss and its slope."""
    error = prediction - target
    return error * error * error * error, 4 * error * error * error


def descent(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    """Return w, m and v after a step."""
    return w - rate * g, m, v
