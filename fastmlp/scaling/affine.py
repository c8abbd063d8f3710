"""What scalers do to columns, as x * factor + shift; scikit-learn's are known by their names."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.scaling.standardizer import Standardizer

Numbers = NDArray[np.float64]


class Affine(NamedTuple):
    """A change of each column: ``x * factor + shift``; both of shape (n_features,)."""

    factor: Numbers
    shift: Numbers

    def then(self, other: "Affine") -> "Affine":
        """Return this change followed by another."""
        return Affine(self.factor * other.factor, self.shift * other.factor + other.shift)


def identity(n_features: int) -> Affine:
    """Return the change that leaves columns as they are."""
    return Affine(np.ones(n_features), np.zeros(n_features))


def affine_of(scaler: Any, name: str, who: str) -> Affine:
    """Return what a fitted scaler does; `name` is its name in messages.

    Raises
    ------
    TypeError
        If it is no scaler that is a product and a sum.
    ValueError
        If it is not fitted, or clips.
    """
    if isinstance(scaler, Standardizer):
        return _scaled(scaler.center, scaler.scale)
    kind = type(scaler).__name__
    if kind not in OF_SKLEARN or not type(scaler).__module__.startswith("sklearn."):
        raise TypeError(
            f"{who}: {name} is {_told(scaler)}, which cannot be folded; what can be: Standardizer, "
            f"{', '.join(OF_SKLEARN)}, 'passthrough'"
        )
    if not hasattr(scaler, "n_features_in_"):
        raise ValueError(f"{who}: {name} is not fitted")
    if getattr(scaler, "clip", False):
        raise ValueError(f"{who}: {name} clips, which cannot be folded: use {kind}(clip=False)")
    center, scale = OF_SKLEARN[kind](scaler)
    n = scaler.n_features_in_
    return _scaled(
        np.zeros(n) if center is None else center, np.ones(n) if scale is None else scale
    )


def _scaled(center: Any, scale: Any) -> Affine:
    center, scale = np.asarray(center, np.float64), np.asarray(scale, np.float64)
    return Affine(1 / scale, -center / scale)


def _told(given: Any) -> str:
    return repr(given) if isinstance(given, str | int | float) else f"a {type(given).__name__}"


def _standard(scaler: Any) -> tuple[Any, Any]:
    return scaler.mean_ if scaler.with_mean else None, scaler.scale_ if scaler.with_std else None


def _robust(scaler: Any) -> tuple[Any, Any]:
    return (
        scaler.center_ if scaler.with_centering else None,
        scaler.scale_ if scaler.with_scaling else None,
    )


def _min_max(scaler: Any) -> tuple[Any, Any]:
    # Its x * scale_ + min_ as (x - center) / scale.
    return -scaler.min_ / scaler.scale_, 1 / scaler.scale_


# From a scaler to what it subtracts, and what it then divides by; None: nothing.
OF_SKLEARN: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": lambda scaler: (None, scaler.scale_),
    "RobustScaler": _robust,
}
