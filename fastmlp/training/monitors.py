"""What a fit looks at after each epoch: settings that nets may share, and one net's state."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Network
from fastmlp.training import metrics as of_metrics
from fastmlp.training.history import Callback, History
from fastmlp.training.loop import Rates
from fastmlp.training.metrics import Metrics
from fastmlp.training.stopping import EarlyStopping, Patience, Plateau, ReduceLROnPlateau
from fastmlp.validation import scalars

Listener: TypeAlias = Callback | EarlyStopping | ReduceLROnPlateau
MONITORS = {"validation_loss": "val_loss valid_loss", "loss": "train_loss training_loss"}


class Monitors(NamedTuple):
    """The settings of a fit that look at its losses, metrics and time.

    Attributes
    ----------
    early_stopping, plateau : settings with a known mode, or None
    time_limit : in seconds, or None
    within_epochs : bool, True if the time may also end within an epoch, the first one too
    """

    early_stopping: EarlyStopping | None = None
    plateau: ReduceLROnPlateau | None = None
    metrics: Metrics = MappingProxyType({})
    time_limit: float | None = None
    within_epochs: bool = False

    @property
    def look_at_epochs(self) -> bool:
        """True if they look at each epoch's end."""
        return self.early_stopping is not None or self.plateau is not None

    @property
    def look_at_fits(self) -> bool:
        """True if a fit may take another course for them."""
        return self.look_at_epochs or self.time_limit is not None

    def check(self, network: Network, held_out: Data | None, who: str) -> None:
        """Check that a net, and its validation rows or none, have what is looked at.

        Raises
        ------
        ValueError
            If they do not.
        """
        if held_out is not None:
            of_metrics.check(self.metrics, network, held_out, who)
            return
        looking = [one.monitor for one in (self.early_stopping, self.plateau) if one is not None]
        if self.metrics or any(monitor != "loss" for monitor in looking):
            raise ValueError(f"{who}: there are no validation rows to look at: {_advice(who)}")

    def settings(self) -> dict[str, Any]:
        """Return what determines the bits of a fit, as JSON values, where it is in use."""
        found = {
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "reduce_lr_on_plateau": self.plateau and asdict(self.plateau),
            "metrics": list(self.metrics),
        }
        return {name: value for name, value in found.items() if value}


NONE = Monitors()


class Watch:
    """The state of one fit's `EarlyStopping` and `ReduceLROnPlateau`.

    It is a function of the history, but for the parameters of the best epoch.

    Attributes
    ----------
    best : (n_parameters,) array, the parameters of the best epoch, if they are to be restored
    """

    def __init__(self, monitors: Monitors) -> None:
        self._stopping, self._plateau = monitors.early_stopping, monitors.plateau
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
    found: list[float] = {
        "loss": history.loss,
        "validation_loss": history.validation_loss,
        **history.metrics,
    }[name]
    return found


def monitors_of(
    who: str,
    callbacks: Any,
    *,
    early_stopping: Any,
    keep_best: Any,
    metrics: Any,
    time_limit: Any,
    validated: bool,
) -> tuple[tuple[Callback, ...], Monitors]:
    """Check arguments of a fit; return its callbacks, and what else looks at it.

    Parameters
    ----------
    validated : bool, True if the fit has validation rows

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be.
    """
    if isinstance(callbacks, Iterator):
        callbacks = list(callbacks)
    given = callbacks if isinstance(callbacks, Iterable) else (callbacks,)
    kinds = (EarlyStopping, ReduceLROnPlateau)
    for one in given:
        if one in kinds:
            raise TypeError(f"{who}: callbacks has the class {one.__name__}: {one.__name__}(...)")
    own = [one for one in given if isinstance(one, kinds)]
    others = [one for one in given if not isinstance(one, kinds)] if own else callbacks
    listeners = validation.callbacks(others, who)
    stoppings = [one for one in own if isinstance(one, EarlyStopping)]
    plateaus = [one for one in own if isinstance(one, ReduceLROnPlateau)]
    asked = "EarlyStopping"
    if early_stopping is not None:
        stoppings.append(_early_stopping(early_stopping, who))
        asked = "early_stopping"
    for kind, n in zip(kinds, (len(stoppings), len(plateaus)), strict=True):
        if n > 1:
            raise ValueError(f"{who}: got {n} {kind.__name__}, at most one is possible")
    if scalars.boolean(who, "keep_best", keep_best):
        asked = asked if stoppings else "keep_best"
        stopping = stoppings[0] if stoppings else EarlyStopping(patience=None)
        stoppings = [replace(stopping, restore_best_weights=True)]
    measured = of_metrics.metrics_of(metrics, who)
    if measured and not validated:
        raise ValueError(f"{who}: metrics are of validation rows: {_advice(who)}")
    return listeners, Monitors(
        next((_resolved(one, measured, validated, who, asked) for one in stoppings), None),
        next((_resolved(one, measured, validated, who) for one in plateaus), None),
        measured,
        scalars.seconds(who, "time_limit", time_limit),
    )


S = TypeVar("S", EarlyStopping, ReduceLROnPlateau)


def _resolved(
    settings: S, metrics: Metrics, validated: bool, who: str, asked: str = "ReduceLROnPlateau"
) -> S:
    """Return settings with their mode, after checking what they monitor; `asked` is the word in
    the call."""
    owner, monitor = f"{who}: {asked}", settings.monitor
    scalars.known(owner, "monitor", monitor, [*MONITORS, *metrics], MONITORS)
    if monitor == "validation_loss" and not validated:
        instead = f"{type(settings).__name__}(monitor='loss')"
        raise ValueError(f"{owner} looks at validation rows: {_advice(who)}, or use {instead}")
    mode = settings.mode or (metrics[monitor].mode if monitor in metrics else "min")
    if mode is None:
        raise ValueError(
            f"{owner}: monitor={monitor!r} needs mode='max' if higher is better, else mode='min'"
        )
    return replace(settings, mode=mode)  # type: ignore[arg-type]


def _advice(who: str) -> str:
    rows = "validation_rows=" if who.startswith("fit_many") else "validation_data=(X_val, y_val)"
    return f"give {rows} or validation_split=0.1"


def _early_stopping(given: Any, who: str) -> EarlyStopping:
    if isinstance(given, EarlyStopping):
        return given
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        hint = "; try early_stopping=10" if given is True else ""
        raise TypeError(
            f"{who}: early_stopping must be a number of epochs or EarlyStopping(...), got "
            f"{given!r}{hint}"
        )
    if given < 0:
        raise ValueError(f"{who}: early_stopping must be 0 or more epochs, got {given}")
    return EarlyStopping(patience=int(given))


def first_held_out(n: int, fraction: Any, who: str) -> int:
    """Return the place of the first of n rows to validate on, the last ones, a fraction of all.

    Raises
    ------
    TypeError, ValueError
        If it is no number in (0, 1), or one of the parts would have no rows.
    """
    valid = scalars.is_positive(fraction) and fraction < 1
    share = scalars.real(who, "validation_split", fraction, "a number in (0, 1)", valid)
    first = int(n * (1 - share))
    if not 0 < first < n:
        raise ValueError(
            f"{who}: validation_split={fraction!r} of {n} rows leaves {first} to train on and "
            f"{n - first} to validate on"
        )
    return first


def split(data: Data, fraction: Any, who: str) -> tuple[Data, Data]:
    """Return the first rows, to train on, and the last ones, a fraction of all, to validate on.

    Raises
    ------
    TypeError, ValueError
        If it is no number in (0, 1), or one of the parts would have no rows, or no weight.
    """
    n = data.n_rows
    first = first_held_out(n, fraction, who)
    rows = np.arange(n) if data.rows is None else data.rows
    parts = data._replace(rows=rows[:first]), data._replace(rows=rows[first:])
    if any(part.mass == 0 for part in parts):
        raise ValueError(f"{who}: sample_weight must not be 0 in all rows of a part of the split")
    return parts
