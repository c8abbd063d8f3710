"""The arguments of a fit: checked here for `MLP.fit` and `fit_many`, and carried in one record."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastmlp.backends.protocol import Data
from fastmlp.data.sources import Reading
from fastmlp.network.spec import Network
from fastmlp.training import metrics as of_metrics
from fastmlp.training.history import Callback
from fastmlp.training.metrics import OF_SCORERS, Metrics
from fastmlp.training.stopping import EarlyStopping, ReduceLROnPlateau
from fastmlp.validation import scalars
from fastmlp.validation.calls import misfit

ValidationData = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]
Listener: TypeAlias = Callback | EarlyStopping | ReduceLROnPlateau
EVERY = timedelta(minutes=1)
MONITORS = {"validation_loss": "val_loss valid_loss", "loss": "train_loss training_loss"}


@dataclass(frozen=True)
class FitOptions(Reading):
    """The arguments of a fit, but for its rows; `Reading` is checked with a source.

    Attributes
    ----------
    target : the columns of y, where the source is files or a table
    validated : bool, True if the fit has validation rows
    callbacks : functions of a `Report`
    early_stopping, plateau : settings with a known mode, or None
    metrics : by their names
    time_limit : in seconds, or None
    within_epochs : bool, True if the time may also end within an epoch, the first one too
    progress : bool, or a bar in which epochs are counted
    checkpoint, checkpoint_every, resume, average_every : as for `MLP.fit`
    """

    epochs: int = 1
    batch_size: int = 1
    shuffle: bool = True
    who: str = "MLP.fit"
    target: Any = None
    validated: bool = False
    callbacks: tuple[Callback, ...] = ()
    early_stopping: EarlyStopping | None = None
    plateau: ReduceLROnPlateau | None = None
    metrics: Metrics = field(default_factory=dict)
    time_limit: float | None = None
    within_epochs: bool = False
    progress: Any = False
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | timedelta = EVERY
    resume: bool = False
    average_every: int | None = None

    @classmethod
    def checked(
        cls,
        who: str,
        *,
        callbacks: Any = (),
        early_stopping: Any = None,
        keep_best: Any = False,
        metrics: Any = None,
        validation_data: Any = None,
        validation_rows: Any = None,
        **fields: Any,
    ) -> Self:
        """The arguments of a fit, checked; `fields` are those that have the names of fields."""
        # Defaults are attributes of the class: its `__init__` takes 6 us.
        options = cls.__new__(cls)
        own = vars(options)
        own.update(fields, who=who)
        for name in ("epochs", "batch_size"):
            own[name] = scalars.positive_integer(who, name, getattr(options, name))
        scalars.boolean(who, "shuffle", options.shuffle)
        scalars.boolean(who, "progress", options.progress)
        checkpoints = (options.checkpoint, options.checkpoint_every, options.resume)
        own["checkpoint_every"] = _checkpoint(*checkpoints, who)
        given, splits = validation_data is not None, options.validation_split is not None
        if splits and (given or validation_rows is not None):
            name = "validation_data" if validation_rows is None else "validation_rows"
            raise ValueError(f"{who}: give {name} or validation_split, not both")
        own["validated"] = validated = given or splits or validation_rows is not None
        functions, stopping, plateau, asked = _listeners(callbacks, early_stopping, keep_best, who)
        own["callbacks"], own["metrics"] = functions, of_metrics.metrics_of(metrics, who)
        if options.metrics and not validated:
            raise ValueError(f"{who}: metrics are of validation rows: {_advice(who)}")
        if stopping is not None:
            stopping = _resolved(stopping, options.metrics, validated, who, asked)
            own["early_stopping"] = stopping
        if plateau is not None:
            own["plateau"] = _resolved(plateau, options.metrics, validated, who)
        own["time_limit"] = scalars.seconds(who, "time_limit", options.time_limit)
        return options

    @property
    def look_at_epochs(self) -> bool:
        return self.early_stopping is not None or self.plateau is not None

    def check_rows(self, network: Network, held_out: Data | None, who: str) -> None:
        """Check that a net and its validation rows, if any, suit the metrics and monitors."""
        if held_out is not None:
            of_metrics.check(self.metrics, network, held_out, who)
            return
        watches = (self.early_stopping, self.plateau)
        if self.metrics or [look for look in watches if look and look.monitor != "loss"]:
            raise ValueError(f"{who}: there are no validation rows to look at: {_advice(who)}")

    def monitors(self) -> dict[str, Any]:
        """The monitors in use, by name, as JSON values: the bits of a fit depend on them."""
        settings = {
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "reduce_lr_on_plateau": self.plateau and asdict(self.plateau),
            "metrics": list(self.metrics),
        }
        return {name: value for name, value in settings.items() if value}


def _listeners(
    callbacks: Any, early_stopping: Any, keep_best: Any, who: str
) -> tuple[tuple[Callback, ...], EarlyStopping | None, ReduceLROnPlateau | None, str]:
    """The functions to call, the settings that look at epochs, and the word for the first in the
    call."""
    if type(callbacks) is tuple and not callbacks and early_stopping is None and keep_best is False:
        return (), None, None, ""
    if isinstance(callbacks, Iterator):
        callbacks = list(callbacks)
    listeners = callbacks if isinstance(callbacks, Iterable) else (callbacks,)
    kinds = (EarlyStopping, ReduceLROnPlateau)
    for listener in listeners:
        if listener in kinds:
            name = listener.__name__
            raise TypeError(f"{who}: callbacks has the class {name}: {name}(...)")
    settings = [listener for listener in listeners if isinstance(listener, kinds)]
    others = [listener for listener in listeners if not isinstance(listener, kinds)]
    functions = callbacks_of(others if settings else callbacks, who)
    stoppings = [listener for listener in settings if isinstance(listener, EarlyStopping)]
    plateaus = [listener for listener in settings if isinstance(listener, ReduceLROnPlateau)]
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
    return functions, next(iter(stoppings), None), next(iter(plateaus), None), asked


def callbacks_of(argument: Any, who: str) -> tuple[Callable[..., Any], ...]:
    """Check callbacks: a function, or a sequence of functions."""
    several = isinstance(argument, Iterable) and not callable(argument)
    functions: tuple[Any, ...] = tuple(argument) if several else (argument,)
    for function in functions:
        wrong = misfit(function, 1) if callable(function) else _of_events(function)
        if wrong or not callable(function):
            raise TypeError(
                f"{who}: callbacks must be functions of one argument, the Report of an epoch, got "
                f"{function!r}{wrong}"
            )
    return functions


def _of_events(callback: object) -> str:
    """The end of a message about a callback whose methods are called at events, else ""."""
    events = [name for name in dir(callback) if name.startswith("on_")]
    if not events:
        return ""
    return (
        f"; in the place of {', '.join(events[:3])} write a function: def log(report): "
        "print(report.epoch, report.loss); see 'How do I show progress, and log a fit?'"
    )


def _checkpoint(path: object, every: object, resume: object, who: str) -> int | timedelta:
    scalars.boolean(who, "resume", resume)
    if path is None and resume:
        raise ValueError(f"{who}: resume=True needs checkpoint=, the file to go on from")
    if path is not None:
        scalars.path(who, "checkpoint", path)
    if isinstance(every, timedelta):
        if every < timedelta(0):
            raise ValueError(f"{who}: checkpoint_every must be 0 or more, got {every!r}")
        return every
    if isinstance(every, float):
        raise TypeError(
            f"{who}: checkpoint_every must be a number of epochs, an integer, or a time: "
            f"datetime.timedelta(seconds={every!r})"
        )
    return scalars.positive_integer(who, "checkpoint_every", every)


S = TypeVar("S", EarlyStopping, ReduceLROnPlateau)


def _resolved(
    settings: S, metrics: Metrics, validated: bool, who: str, asked: str = "ReduceLROnPlateau"
) -> S:
    """The settings with their mode, checked; `asked` is the word for them in the call."""
    owner, monitor = f"{who}: {asked}", settings.monitor
    known = [*MONITORS, *metrics]
    name = next((n for n in OF_SCORERS if monitor in f"{n} {OF_SCORERS[n]}".split()), None)
    if monitor not in known and name is not None and name not in metrics:
        instead = f"metrics={name!r}, {type(settings).__name__}(monitor={name!r})"
        raise ValueError(f"{owner}: monitor {monitor!r} is none of the metrics; give it: {instead}")
    synonyms = {**MONITORS, **{name: OF_SCORERS.get(name, "") for name in metrics}}
    scalars.known(owner, "monitor", monitor, known, synonyms)
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
    if who.endswith(("Classifier.fit", "Regressor.fit")):
        return "give X_val and y_val, or early_stopping=True"
    rows = "validation_rows=" if who.startswith("fit_many") else "validation_data=(X_val, y_val)"
    return f"give {rows} or validation_split=0.1"


def _early_stopping(argument: Any, who: str) -> EarlyStopping:
    if isinstance(argument, EarlyStopping):
        return argument
    if isinstance(argument, bool) or not isinstance(argument, int | np.integer):
        hint = "; try early_stopping=10" if argument is True else ""
        raise TypeError(
            f"{who}: early_stopping must be a number of epochs or EarlyStopping(...), got "
            f"{argument!r}{hint}"
        )
    if argument < 0:
        raise ValueError(f"{who}: early_stopping must be 0 or more epochs, got {argument}")
    return EarlyStopping(patience=int(argument))
