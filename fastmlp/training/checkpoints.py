"""Checkpoints of a fit: its progress, settings that must agree, and the file."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastmlp.serialization.model_state import CheckpointFile, SavedFit
from fastmlp.training.history import (
    OF_DERIVATIVES,
    History,
    Status,
)

SERIES = ("loss", "validation_loss", "learning_rate")
# The series of a metric, before its name.
METRIC = "metrics."
# The series of a head, before its name.
HEAD = "head_losses."
VALIDATION_HEAD = "validation_head_losses."
# Settings that determine the bits of a fit, in the order of messages.
FURTHER = (
    *("data", "early_stopping", "reduce_lr_on_plateau", "metrics"),
    *("validation_data", "ranks", "average_every"),
)
Settings = Mapping[str, Any]


class Progress(NamedTuple):
    """A fit's progress at the end of an epoch.

    Attributes
    ----------
    first_step : the net's number of steps when the fit began
    best : (n_parameters,) array, the parameters of the best epoch, or None
    """

    first_step: int
    history: History
    best: NDArray[Any] | None


class Checkpoint:
    """The checkpoints of one fit, written now and then and at the end.

    Parameters
    ----------
    every : int or timedelta
        Write after this number of epochs,
        or at the first end of an epoch after this time.
    fit : JSON settings that, with the net, determine the bits of the fit
    """

    def __init__(
        self, file: CheckpointFile, every: int | timedelta, fit: Settings
    ) -> None:
        self._file = file
        self._every = every
        self._fit = fit
        self._metrics: Sequence[str] = fit["metrics"] or ()
        self._series = (*SERIES, *(OF_DERIVATIVES if fit.get("derivatives") else ()))
        self._heads = file.heads
        self._pending: SavedFit | None = None
        self._last_epoch, self._last_time = 0, time.perf_counter()

    def resume(self, *, validated: bool) -> Progress | None:
        """Restore the checkpoint and return the fit's progress; None without a file.

        `validated` is True if the fit has validation data.
        """
        file = self._file
        saved = file.read(
            self._fit,
            [
                *self._series,
                *(f"{METRIC}{name}" for name in self._metrics),
                *self._of_heads(),
            ],
        )
        if saved is None:
            return None
        with file.refusing():
            progress = _progress(saved, self._metrics, self._heads)
        history = progress.history
        if history.loss and bool(history.validation_loss) != validated:
            if validated:
                difference = "it has no validation data, here there is validation_data"
            else:
                difference = "it has validation data, here there is no validation_data"
            raise ValueError(
                f"MLP.fit: {file.path} is a checkpoint of another fit: {difference}; "
                "resume=False starts over"
            )
        file.restore(saved.state)
        self._last_epoch = len(history.loss)
        return progress

    def _of_heads(self) -> list[str]:
        """The names of the series of heads' losses."""
        kinds = (HEAD, VALIDATION_HEAD)
        return [f"{kind}{name}" for name in self._heads for kind in kinds]

    def window(self, n_epochs: int) -> int | None:
        """Return the epochs until the next write; None: it depends on time."""
        if not isinstance(self._every, int):
            return None
        return self._every - (n_epochs - self._last_epoch)

    def capture(
        self, first_step: int, history: History, best: NDArray[Any] | None = None
    ) -> bool:
        """Capture the fit's progress;
        return True if it is time to write. `best` is not copied.
        """
        facts = {
            **self._fit,
            "first_step": first_step,
            "status": history.status.name,
            "seconds": history.seconds,
        }
        series = {name: list(getattr(history, name)) for name in self._series}
        for name in self._metrics:
            series[f"{METRIC}{name}"] = list(history.metrics.get(name, ()))
        for name in self._heads:
            series[f"{HEAD}{name}"] = list(history.head_losses.get(name, ()))
            validated = history.validation_head_losses.get(name, ())
            series[f"{VALIDATION_HEAD}{name}"] = list(validated)
        self._pending = SavedFit(self._file.capture(), facts, series, best)
        if isinstance(self._every, int):
            return len(history.loss) - self._last_epoch >= self._every
        return time.perf_counter() - self._last_time >= self._every.total_seconds()

    def write(self) -> None:
        """Write the last captured progress, unless it is written."""
        pending = self._pending
        if pending is None:
            return
        self._last_epoch, self._last_time = (
            len(pending.series["loss"]),
            time.perf_counter(),
        )
        self._file.write(pending)
        self._pending = None


def _progress(saved: SavedFit, names: Sequence[str], heads: Sequence[str]) -> Progress:
    n_epochs, n_validated, n_rates = (len(saved.series[name]) for name in SERIES)
    metrics = {name: list(saved.series[f"{METRIC}{name}"]) for name in names}
    uneven = any(len(values) != n_validated for values in metrics.values())
    if n_rates != n_epochs or n_validated not in (0, n_epochs) or uneven:
        raise ValueError("losses and learning rates must be one for each epoch")
    facts = saved.facts
    status = Status[facts["status"]]
    seconds = float(facts["seconds"])
    series = [name for name in (*SERIES, *OF_DERIVATIVES) if name in saved.series]
    lists: dict[str, Any] = {name: list(saved.series[name]) for name in series}
    if n_epochs:
        lists["metrics"] = metrics
        lists["head_losses"] = _of_each(saved, HEAD, heads)
    if n_validated:
        lists["validation_head_losses"] = _of_each(saved, VALIDATION_HEAD, heads)
    history = History(**lists, status=status, seconds=seconds)
    return Progress(facts["first_step"], history, saved.best)


def _of_each(
    saved: SavedFit, kind: str, heads: Sequence[str]
) -> dict[str, list[float]]:
    """The losses of each head in a checkpoint, by its name."""
    return {name: list(saved.series[f"{kind}{name}"]) for name in heads}
