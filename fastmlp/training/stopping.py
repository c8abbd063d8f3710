"""Early stopping, the epoch that is kept, and lower rates after plateaus.

`EarlyStopping` and `ReduceLROnPlateau` are settings, which many nets may share. Their counts are
kept for each net: `Patience`, `Plateau`, and both in a `EpochWatch`.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.training.history import History
from fastmlp.training.loop import Rates
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.suggestions import suggestion

Mode = Literal["min", "max"]
MODES = ("min", "max")


@explained
@dataclass(frozen=True)
class EarlyStopping:
    """Settings of a fit that stops when it gets no better, and keeps its best epoch.

    An object holds no state: it may serve many fits, and all nets of `fit_many`.

    Parameters
    ----------
    monitor : str, default "validation_loss"
        The series of the `History` to look at: "validation_loss", "loss", or the name of a metric.
    patience : int of 0 or more, or None, default 10
        Stop after so many epochs in a row that are no better than the best one; 0 stops where 1
        does. None: never stop, and keep the best epoch alone.
    min_delta : float of 0 or more, default 0
        An epoch is better than the best one by more than this.
    mode : "min" or "max", optional
        Whether lower or higher is better. None: lower of losses, higher of scikit-learn's scorers;
        a metric of your own needs it.
    restore_best_weights : bool, default True
        End with the parameters of the best epoch, the first of equals, however the fit ends: also
        after the last epoch, Ctrl-C, a divergence or an error. The optimizer's state is that of the
        last epoch.
    start_from_epoch : int of 0 or more, default 0
        Leave the epochs before this one out of account, counted from 0.

    Raises
    ------
    TypeError, ValueError
        If a setting has a wrong type or value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, EarlyStopping
    >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> net = MLP((2, 32, 1), seed=0)
    >>> history = net.fit(X, X[:, 0] * X[:, 1], epochs=1000, validation_split=0.2,
    ...                   early_stopping=EarlyStopping(patience=5, min_delta=1e-4))
    >>> history.status.name
    'STOPPED_EARLY'
    >>> len(history.loss) - 1 - history.best_epoch
    5
    """

    monitor: str = "validation_loss"
    _: KW_ONLY
    patience: int | None = 10
    min_delta: float = 0.0
    mode: Mode | None = None
    restore_best_weights: bool = True
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        who = "EarlyStopping"
        if self.patience is not None:
            _store(self, patience=_epochs(who, "patience", self.patience))
        scalars.boolean(who, "restore_best_weights", self.restore_best_weights)
        start = _epochs(who, "start_from_epoch", self.start_from_epoch)
        _store(self, start_from_epoch=start)
        _check_shared(self, "patience")


@explained
@dataclass(frozen=True)
class ReduceLROnPlateau:
    """Settings of a fit that lowers its learning rate when it gets no better: one of `callbacks`.

    The rate of a step is the optimizer's, a number or a schedule's, times a factor that begins at
    1. An object holds no state: it may serve many fits, and all nets of `fit_many`.

    Parameters
    ----------
    factor : float in (0, 1), default 0.1
        The rate is multiplied by it.
    patience : int of 0 or more, default 10
        Lower the rate after so many epochs in a row that are no better; 0 lowers it where 1 does.
    min_delta : float of 0 or more, default 1e-4
        An epoch is better than the best one by more than this.
    cooldown : int of 0 or more, default 0
        How many epochs after a reduction do not count.
    min_lr : float of 0 or more, default 0
        The rate is not lowered beyond it.
    monitor : str, default "validation_loss"
        The series of the `History` to look at: "validation_loss", "loss", or the name of a metric.
    mode : "min" or "max", optional
        As of `EarlyStopping`.

    Raises
    ------
    TypeError, ValueError
        If a setting has a wrong type or value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Adam, ReduceLROnPlateau
    >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> net = MLP((2, 32, 1), optimizer=Adam(0.01), seed=0)
    >>> history = net.fit(X, X[:, 0] * X[:, 1], epochs=100, validation_split=0.2,
    ...                   callbacks=ReduceLROnPlateau(0.1, patience=3, min_lr=0.001))
    >>> history.learning_rate[0], history.learning_rate[-1]
    (0.01, 0.001)
    """

    factor: float = 0.1
    _: KW_ONLY
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    monitor: str = "validation_loss"
    mode: Mode | None = None

    def __post_init__(self) -> None:
        who, factor = "ReduceLROnPlateau", self.factor
        valid = scalars.is_positive(factor) and factor < 1
        _store(self, factor=scalars.real(who, "factor", factor, "a number in (0, 1)", valid))
        for name in ("patience", "cooldown"):
            _store(self, **{name: _epochs(who, name, getattr(self, name))})
        _store(self, min_lr=scalars.non_negative(who, "min_lr", self.min_lr))
        _check_shared(self, "factor")


Settings = EarlyStopping | ReduceLROnPlateau


class BestValue:
    """The best of the values that it takes.

    Attributes
    ----------
    value : float or None, before the first
    """

    def __init__(self, min_delta: float, mode: str) -> None:
        self._min_delta, self._sign = min_delta, -1.0 if mode == "max" else 1.0
        self.value: float | None = None

    def take(self, value: float) -> bool:
        """Return True if the value is better than the best one, and keep it; NaN never is."""
        if not math.isfinite(value):
            return False
        best, sign = self.value, self._sign
        if best is not None and not sign * value < sign * best - self._min_delta:
            return False
        self.value = value
        return True


class Patience:
    """The counts of `EarlyStopping` in one fit.

    Attributes
    ----------
    best_epoch : int or None, counted from 0
    """

    def __init__(self, settings: EarlyStopping, mode: str) -> None:
        self._settings, self._best = settings, BestValue(settings.min_delta, mode)
        self.best_epoch: int | None = None
        self._wait = 0

    def take(self, epoch: int, value: float) -> bool:
        """Take the monitored value of an epoch; return True if the fit is to stop after it."""
        patience = self._settings.patience
        if epoch < self._settings.start_from_epoch:
            return False
        if self._best.take(value):
            self.best_epoch, self._wait = epoch, 0
            return False
        self._wait += 1
        return patience is not None and self._wait >= patience


class Plateau:
    """The counts of `ReduceLROnPlateau` in one fit.

    Attributes
    ----------
    scale : float, by which the optimizer's rates are multiplied
    """

    def __init__(self, settings: ReduceLROnPlateau, mode: str) -> None:
        self._settings, self._best = settings, BestValue(settings.min_delta, mode)
        self.scale = 1.0
        self._wait = self._cooldown = 0

    def take(self, value: float, rate: float) -> None:
        """Take the monitored value of an epoch, and its last learning rate."""
        settings = self._settings
        if self._cooldown:
            self._cooldown -= 1
            self._wait = 0
        if self._best.take(value):
            self._wait = 0
        elif not self._cooldown:
            self._wait += 1
            if self._wait >= settings.patience and rate > settings.min_lr:
                self.scale *= settings.factor
                self._wait, self._cooldown = 0, settings.cooldown

    def scaled(self, rates: Rates) -> Rates:
        """Return rates of steps as they are lowered when they are called."""
        lowest = self._settings.min_lr

        def lowered(steps: NDArray[np.int64]) -> NDArray[np.float64]:
            full = rates(steps)
            # A schedule may pass below the lowest rate by itself.
            floored: NDArray[np.float64] = np.maximum(full * self.scale, np.minimum(full, lowest))
            return floored

        return lowered


class EpochWatch:
    """The state of one fit's `EarlyStopping` and `ReduceLROnPlateau`.

    It is a function of the history, but for the parameters of the best epoch.

    Attributes
    ----------
    best : (n_parameters,) array, the parameters of the best epoch, if they are to be restored
    """

    def __init__(self, stopping: EarlyStopping | None, plateau: ReduceLROnPlateau | None) -> None:
        self._stopping, self._plateau = stopping, plateau
        if self._stopping is not None:
            self._patience = Patience(self._stopping, str(self._stopping.mode))
        if self._plateau is not None:
            self._lowering = Plateau(self._plateau, str(self._plateau.mode))
        self.best: NDArray[Any] | None = None

    def take(self, history: History, parameters: NDArray[Any]) -> bool:
        """Look at the last epoch; return True if the fit is to stop after it."""
        epoch = len(history.loss) - 1
        stop = self._take(history, epoch)
        restores = self._stopping is not None and self._stopping.restore_best_weights
        if restores and history.best_epoch == epoch:
            # A new array: a checkpoint that is not written yet has the one before.
            self.best = parameters.copy()
        return stop

    def repeat(self, history: History, best: NDArray[Any] | None) -> None:
        """Look at all epochs of a fit that goes on."""
        for epoch in range(len(history.loss)):
            self._take(history, epoch)
        self.best = best

    def _take(self, history: History, epoch: int) -> bool:
        if self._plateau is not None:
            value = series(history, self._plateau.monitor)[epoch]
            self._lowering.take(value, history.learning_rate[epoch])
        if self._stopping is None:
            return False
        stop = self._patience.take(epoch, series(history, self._stopping.monitor)[epoch])
        history.best_epoch = self._patience.best_epoch
        return stop

    def scaled(self, rates: Rates) -> Rates:
        """Return the learning rates of steps, lowered after plateaus."""
        return rates if self._plateau is None else self._lowering.scaled(rates)


def series(history: History, name: str) -> list[float]:
    """Return the losses, or the metric, of this name."""
    by_name: list[float] = {
        "loss": history.loss,
        "validation_loss": history.validation_loss,
        **history.metrics,
    }[name]
    return by_name


def _check_shared(settings: Settings, first: str) -> None:
    """Check the settings that both have; `first` is a number that may be given as the monitor."""
    who, monitor = type(settings).__name__, cast(object, settings.monitor)
    if not isinstance(monitor, str):
        hint = f"; did you mean {first}={monitor!r}?" if isinstance(monitor, int | float) else ""
        raise TypeError(f"{who}: monitor must be the name of a series, got {monitor!r}{hint}")
    _store(settings, min_delta=scalars.non_negative(who, "min_delta", settings.min_delta))
    if settings.mode is not None and settings.mode not in MODES:
        words = {"min": "minimize lower", "max": "maximize higher", "leave it out": "auto"}
        meant = suggestion(settings.mode, MODES, words)
        raise ValueError(f"{who}: unknown mode {settings.mode!r}{meant} known: max, min")


def _epochs(who: str, name: str, value: object) -> int:
    """Check a number of epochs, 0 or more."""
    if value == 0 and not isinstance(value, bool | float):
        return 0
    expected = "an integer of 0 or more"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{who}: {name} must be {expected}, got {value!r}")
    if value < 0:
        raise ValueError(f"{who}: {name} must be {expected}, got {value!r}")
    return scalars.positive_integer(who, name, value)


def _store(settings: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(settings, name, value)
