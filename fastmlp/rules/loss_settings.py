"""Losses with settings."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import Any

from fastmlp.rules import losses
from fastmlp.validation import scalars
from fastmlp.validation.calls import settings


class LossSettings:
    """A loss with settings: a dataclass, which `MLP` takes as `loss`.

    Attributes
    ----------
    kind : name in `LOSSES` and in files
    """

    kind: str

    @property
    def loss(self) -> losses.Loss:
        return losses.LOSSES[self.kind]._replace(constants=tuple(vars(self).values()))


@settings
class Quantile(LossSettings):
    """The pinball loss, whose least mean is at quantiles of the targets.

    With one level each output is the quantile of a column of y. With several levels y has one
    column, and the net an output for each level; predictions are sorted, so that quantiles do not
    cross.

    Parameters
    ----------
    levels : float or sequence of float, default 0.5
        Levels in (0, 1), in ascending order.

    Raises
    ------
    TypeError, ValueError
        If the levels are not that.

    References
    ----------
    Koenker & Bassett, Regression quantiles, 1978.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Quantile
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> net = MLP((1, 16, 3), loss=Quantile([0.1, 0.5, 0.9]), seed=0)
    >>> history = net.fit(X, X[:, 0] ** 2, epochs=5)
    >>> net.predict(X).shape
    (200, 3)
    """

    kind = "quantile"
    levels: Any = 0.5

    def __post_init__(self) -> None:
        numbers: Any = (self.levels,) if isinstance(self.levels, Real) else self.levels
        if isinstance(numbers, str | bytes) or not isinstance(numbers, Iterable):
            raise TypeError(
                f"Quantile: levels must be a number in (0, 1), or several, got {self.levels!r}"
            )
        levels = tuple(scalars.inner_fraction("Quantile", "levels", level) for level in numbers)
        if not levels or any(low >= high for low, high in pairwise(levels)):
            raise ValueError(
                f"Quantile: levels must be one or more, in ascending order, got {self.levels!r}"
            )
        object.__setattr__(self, "levels", levels[0] if len(levels) == 1 else levels)

    @property
    def loss(self) -> losses.Loss:
        if isinstance(self.levels, float):
            return losses.Loss(losses.quantile, constants=(self.levels,))
        n = len(self.levels)
        return losses.Loss(
            losses.quantiles, "sorted", by_row=True, constants=(self.levels,), per_target=n
        )


@settings
class Tweedie(LossSettings):
    """Half the Tweedie deviance, for targets of 0 or more with many zeros, such as claims.

    The net predicts the mean, exp of its raw output.

    Parameters
    ----------
    power : float from 1 to 2, default 1.5
        The variance is in proportion to the mean to this power: 1 is "poisson", 2 is "gamma", for
        targets above 0.

    Raises
    ------
    TypeError, ValueError
        If the power is not that.

    References
    ----------
    Jorgensen, Exponential dispersion models, 1987.

    Examples
    --------
    >>> from fastmlp import MLP, Tweedie
    >>> MLP((2, 4, 1), loss=Tweedie(1.7))
    MLP((2, 4, 1), activation='relu', output_activation='exp', loss=Tweedie(power=1.7), ...)
    """

    kind = "tweedie"
    power: float = 1.5

    def __post_init__(self) -> None:
        valid = scalars.is_finite(self.power) and 1 <= self.power <= 2
        power = scalars.real("Tweedie", "power", self.power, "a number from 1 to 2", valid)
        object.__setattr__(self, "power", power)

    @property
    def loss(self) -> losses.Loss:
        limits = {1.0: "poisson", 2.0: "gamma"}
        return losses.LOSSES[limits[self.power]] if self.power in limits else super().loss


@settings
class Focal(LossSettings):
    """The focal loss of several classes: the cross-entropy times (1 - p)^gamma, p the probability
    of the right class.

    Rows that are already right count little. `class_weight` of `MLP.fit` takes the place of alpha
    elsewhere.

    Parameters
    ----------
    gamma : float of 0 or more, default 2.0
        0 is the cross-entropy.

    Raises
    ------
    TypeError, ValueError
        If gamma is not that.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017.

    Examples
    --------
    >>> from fastmlp import MLP, Focal
    >>> net = MLP((2, 4, 3), loss=Focal(1.5))
    """

    kind = "focal"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", scalars.non_negative("Focal", "gamma", self.gamma))


@settings
class BinaryFocal(LossSettings):
    """The focal loss of two classes, or of several labels at once: see `Focal`.

    Parameters
    ----------
    gamma : float of 0 or more, default 2.0
        0 is the binary cross-entropy.

    Raises
    ------
    TypeError, ValueError
        If gamma is not that.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017.

    Examples
    --------
    >>> from fastmlp import MLP, BinaryFocal
    >>> net = MLP((2, 4, 1), loss=BinaryFocal(1.5))
    """

    kind = "binary_focal"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", scalars.non_negative("BinaryFocal", "gamma", self.gamma))


@settings
class Smoothed(LossSettings):
    """`MLP`'s `loss` and `label_smoothing` together."""

    kind: str
    label_smoothing: float

    def __post_init__(self) -> None:
        scalars.known("MLP", "loss for label_smoothing", self.kind, SMOOTHED)

    @property
    def loss(self) -> losses.Loss:
        rule, of_rule = SMOOTHED[self.kind]
        constants = (self.label_smoothing,)
        return losses.LOSSES[self.kind]._replace(rule=rule, constants=constants, curvature=of_rule)

    def __str__(self) -> str:
        return f"{self.kind}, label_smoothing={self.label_smoothing!r}"

    def __repr__(self) -> str:
        return f"{self.kind!r}, label_smoothing={self.label_smoothing!r}"


# Rules that smooth labels, and their curvatures, by the loss that is smoothed.
SMOOTHED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (losses.smoothed_cross_entropy, losses.cross_entropy_curvature),
    "binary_cross_entropy": (
        losses.smoothed_binary_cross_entropy,
        losses.smoothed_binary_cross_entropy_curvature,
    ),
}
# By their names in files.
KINDS: dict[str, Callable[..., LossSettings]] = {
    **{each.kind: each for each in LossSettings.__subclasses__() if each is not Smoothed},
    **{name: partial(Smoothed, name) for name in SMOOTHED},
}


def spelled(loss: losses.Loss) -> Any:
    """Return the argument of `MLP` for a loss: its name, or a loss with settings; None: custom."""
    for name, known in losses.LOSSES.items():
        if known == loss:
            return name
    for kind in KINDS.values() if len(loss.constants) == 1 else ():
        try:
            settings = kind(*loss.constants)
        except (TypeError, ValueError):
            continue
        if settings.loss == loss:
            return settings
    return None


def of_settings(settings: LossSettings) -> dict[str, Any]:
    values = {name: _as_json(value) for name, value in vars(settings).items() if name != "kind"}
    return {**values, "name": settings.kind}


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def unsmoothed(loss: losses.Loss) -> losses.Loss:
    for name, (rule, _) in SMOOTHED.items():
        if rule is loss.rule:
            return losses.LOSSES[name]._replace(over_outputs=loss.over_outputs)
    return loss
