"""Early stopping, the epoch that is kept, and lower rates after plateaus.

Settings may be shared by nets; an `EpochWatch` has the counts of one net.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.state import NetState
from fastmlp.serialization import codec
from fastmlp.training.history import History, Status, last_report, series_of
from fastmlp.training.loop import Rates
from fastmlp.validation import scalars
from fastmlp.validation.calls import settings
from fastmlp.validation.messages import suggestion

Mode = Literal["min", "max"]
MODES = ("min", "max")


@settings
class EarlyStopping:
    """Settings of a fit that stops when it gets no better, and keeps its best epoch.

    The object is stateless: many fits, and all nets of `fit_many`, may share it.

    Parameters
    ----------
    monitor : str, default "validation_loss"
        The series of the `History` to look at: "validation_loss", "loss", the name of a
        metric, or a head's, such as "value_loss" or "validation_value_loss".
    patience : int of 0 or more, or None, default 10
        Stop after this number of epochs in a row without a better one; 0 stops where 1
        does. None: never stop, and keep the best epoch alone.
    min_delta : float of 0 or more, default 0
        An epoch is better than the best one by more than this.
    mode : "min" or "max", optional
        Whether lower or higher is better. None: lower of losses,
        higher of scikit-learn's scorers; your metric needs it.
    restore_best_weights : bool, default True
        End with the parameters of the best epoch, the first of equals,
        however the fit ends. The optimizer keeps the state of the last epoch.
    start_from_epoch : int of 0 or more, default 0
        Ignore the epochs before this one, counted from 0.

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
        scalars.boolean(who, "restore_best_weights", self.restore_best_weights)
        _check_epochs(
            self, "start_from_epoch", *([] if self.patience is None else ["patience"])
        )
        _check_shared(self, "patience")


codec.add_settings("early_stopping", EarlyStopping)


@settings
class ReduceLROnPlateau:
    """Settings of a fit that lowers its learning rate when it gets no better:
    one of `callbacks`.

    The optimizer's rate, a number or a schedule's, is multiplied by a factor that
    begins at 1. The object is stateless, as `EarlyStopping` is.

    Parameters
    ----------
    factor : float in (0, 1), default 0.1
        The rate is multiplied by it.
    patience : int of 0 or more, default 10
        Lower the rate after this number of epochs without a better one;
        0 lowers it where 1 does.
    min_delta : float of 0 or more, default 1e-4
        An epoch is better than the best one by more than this.
    cooldown : int of 0 or more, default 0
        How many epochs after a reduction do not count.
    min_lr : float of 0 or more, default 0
        The rate is not lowered beyond it.
    monitor : str, default "validation_loss"
        The series of the `History` to look at: "validation_loss", "loss", the name of a
        metric, or a head's, such as "value_loss" or "validation_value_loss".
    mode : "min" or "max", optional
        As for `EarlyStopping`.

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
        checked = scalars.real(who, "factor", factor, "a number in (0, 1)", valid)
        vars(self).update(
            factor=checked, min_lr=scalars.non_negative(who, "min_lr", self.min_lr)
        )
        _check_epochs(self, "patience", "cooldown")
        _check_shared(self, "factor")


Settings = EarlyStopping | ReduceLROnPlateau


class EpochWatch:
    """The counts of one fit's `EarlyStopping` and `ReduceLROnPlateau`.

    Attributes
    ----------
    best : (n_parameters,) array, the parameters of the best epoch, if they are to be restored
    """

    def __init__(
        self, stopping: EarlyStopping | None, plateau: ReduceLROnPlateau | None
    ) -> None:
        self._stopping = stopping
        self._plateau = plateau
        self.best: NDArray[Any] | None = None
        # The best monitored value of each; its sign is changed where higher is better.
        self._values: dict[Settings, float] = {}
        self._waited = self._waited_to_lower = self._cooldown = 0
        self._scale = 1.0

    def take(self, history: History, parameters: NDArray[Any]) -> bool:
        """Return True if the fit is to stop after this epoch."""
        epoch = len(history.loss) - 1
        stop = self._take(history, epoch)
        restores = self._stopping is not None and self._stopping.restore_best_weights
        if restores and history.best_epoch == epoch:
            # A new array: an unwritten checkpoint has the earlier one.
            self.best = parameters.copy()
        return stop

    def end_epoch(
        self,
        history: History,
        callbacks: Sequence[Callable[..., Any]],
        net: Any,
        state: NetState,
    ) -> bool:
        """Keep the best epoch, call the callbacks, and return True to stop the fit."""
        stops = self.take(history, state.parameters)
        asked = bool(callbacks) and _ask_callbacks(history, callbacks, net, state)
        if stops or asked:
            history.status = Status.STOPPED_EARLY if stops else Status.STOPPED
        return stops or asked

    def repeat(self, history: History, best: NDArray[Any] | None) -> None:
        for epoch in range(len(history.loss)):
            self._take(history, epoch)
        self.best = best

    def _take(self, history: History, epoch: int) -> bool:
        if self._plateau is not None:
            self._lower(self._plateau, history, epoch)
        stopping = self._stopping
        if stopping is None or epoch < stopping.start_from_epoch:
            return False
        if self._is_better(stopping, history, epoch):
            history.best_epoch = epoch
            self._waited = 0
            return False
        self._waited += 1
        return stopping.patience is not None and self._waited >= stopping.patience

    def _lower(self, plateau: ReduceLROnPlateau, history: History, epoch: int) -> None:
        if self._cooldown:
            self._cooldown -= 1
            self._waited_to_lower = 0
        if self._is_better(plateau, history, epoch):
            self._waited_to_lower = 0
        elif not self._cooldown:
            self._waited_to_lower += 1
            is_above = history.learning_rate[epoch] > plateau.min_lr
            if self._waited_to_lower >= plateau.patience and is_above:
                self._scale *= plateau.factor
                self._waited_to_lower = 0
                self._cooldown = plateau.cooldown

    def _is_better(self, settings: Settings, history: History, epoch: int) -> bool:
        """Return True for a value better than the best one,
        and keep it; NaN never is.
        """
        value = series_of(history)[settings.monitor][epoch]
        signed = -value if settings.mode == "max" else value
        if not (
            math.isfinite(value)
            and signed < self._values.get(settings, math.inf) - settings.min_delta
        ):
            return False
        self._values[settings] = signed
        return True

    def scaled(self, rates: Rates) -> Rates:
        """The learning rates of steps, lowered after plateaus so far."""
        plateau = self._plateau
        if plateau is None:
            return rates

        def lowered(steps: NDArray[np.int64]) -> NDArray[np.float64]:
            full = rates(steps)
            # A schedule may pass below the lowest rate by itself.
            least = np.minimum(full, plateau.min_lr)
            floored: NDArray[np.float64] = np.maximum(full * self._scale, least)
            return floored

        return lowered


def _ask_callbacks(
    history: History, callbacks: Sequence[Callable[..., Any]], net: Any, state: NetState
) -> bool:
    """True if a callback asks for the end."""
    report = last_report(history, net)
    with state.lock.calling_back():
        for callback in callbacks:
            callback(report)
    return report.stopping


def _check_epochs(settings: Settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        number = scalars.non_negative_integer(type(settings).__name__, name, value)
        vars(settings)[name] = number


def _check_shared(settings: Settings, first: str) -> None:
    """`first` is a number that may be given as the monitor."""
    who = type(settings).__name__
    monitor = cast(object, settings.monitor)
    if not isinstance(monitor, str):
        if isinstance(monitor, int | float):
            hint = f"; did you mean {first}={monitor!r}?"
        else:
            hint = ""
        raise TypeError(
            f"{who}: monitor must be the name of a series, got {monitor!r}{hint}"
        )
    vars(settings)["min_delta"] = scalars.non_negative(
        who, "min_delta", settings.min_delta
    )
    if settings.mode is not None and settings.mode not in MODES:
        words = {
            "min": "minimize lower",
            "max": "maximize higher",
            "leave it out": "auto",
        }
        meant = suggestion(settings.mode, MODES, words)
        raise ValueError(
            f"{who}: unknown mode {settings.mode!r}{meant} known: max, min"
        )
