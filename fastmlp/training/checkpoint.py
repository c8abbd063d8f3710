"""The checkpoints of a fit: when they are written, and how a fit resumes from one."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.serialization.model_state import CheckpointFile, SavedFit
from fastmlp.training.history import History, Status

SERIES = ("loss", "validation_loss", "learning_rate")
# The series of a metric, before its name.
METRIC = "metrics."
DIGEST_BYTES = 16
EVERY = timedelta(minutes=1)


class FitSettings(NamedTuple):
    """The settings that, with the net, determine the bits of a fit; JSON values."""

    epochs: int
    batch_size: int
    shuffle: bool
    n_rows: int
    data: str
    early_stopping: Mapping[str, Any] | None = None
    reduce_lr_on_plateau: Mapping[str, Any] | None = None
    metrics: Sequence[str] | None = None
    validation_data: str | None = None
    ranks: int | None = None
    average_every: int | None = None

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the series in a file."""
        return (*SERIES, *(f"{METRIC}{name}" for name in self.metrics or ()))


class Progress(NamedTuple):
    """The progress of a fit at the end of an epoch.

    Attributes
    ----------
    first_step : int
        The net's number of steps when the fit began.
    best : (n_parameters,) array, the parameters of the best epoch, or None
    """

    first_step: int
    history: History
    best: NDArray[Any] | None


def digest(*arrays: NDArray[Any]) -> str:
    """Return a hash of C-contiguous arrays, by which a fit's data are recognised."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for array in arrays:
        hasher.update(repr((array.dtype.str, array.shape)).encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


class Checkpoint:
    """The checkpoints of one fit, written now and then and at the end.

    Parameters
    ----------
    file : CheckpointFile
    every : int or timedelta
        Write after so many epochs, or at the first end of an epoch after so much time.
    fit : FitSettings
    """

    def __init__(self, file: CheckpointFile, every: int | timedelta, fit: FitSettings) -> None:
        self._file, self._every, self._fit = file, every, fit
        self._pending: SavedFit | None = None
        self._last_epoch, self._last_time = 0, time.monotonic()

    def resume(self, *, validated: bool) -> Progress | None:
        """Set the net back to the checkpoint and return the fit's progress; None if there is no
        file yet. `validated`: the fit has validation data.

        Raises
        ------
        FileError
            If the file is no checkpoint.
        ValueError
            If it is one of another fit, or of another net.
        """
        file = self._file
        saved = file.read(self._fit._asdict(), self._fit.series)
        if saved is None:
            return None
        with file.refusing():
            progress = _progress(saved, self._fit)
        history = progress.history
        if history.loss and bool(history.validation_loss) != validated:
            there_is, here_is = ("no ", "") if validated else ("", "no ")
            raise ValueError(
                f"MLP.fit: {file.path} is a checkpoint of another fit: it has {there_is}"
                f"validation data, here there is {here_is}validation_data; resume=False starts over"
            )
        file.restore(saved.state)
        self._last_epoch = len(history.loss)
        return progress

    def window(self, n_epochs: int) -> int | None:
        """Return the epochs until the next write, after `n_epochs`; None: it depends on time."""
        if not isinstance(self._every, int):
            return None
        return self._every - (n_epochs - self._last_epoch)

    def take(self, first_step: int, history: History, best: NDArray[Any] | None = None) -> bool:
        """Capture the fit's progress; return True if it is time to write it.

        `best` are the parameters of the best epoch; they are not copied.
        """
        facts = {
            **self._fit._asdict(),
            "first_step": first_step,
            "status": history.status.name,
            "seconds": history.seconds,
        }
        series = {name: list(getattr(history, name)) for name in SERIES}
        for name in self._fit.metrics or ():
            series[f"{METRIC}{name}"] = list(history.metrics.get(name, ()))
        self._pending = SavedFit(self._file.capture(), facts, series, best)
        if isinstance(self._every, int):
            return len(history.loss) - self._last_epoch >= self._every
        return time.monotonic() - self._last_time >= self._every.total_seconds()

    def write(self) -> None:
        """Write the last captured progress, unless it is written already.

        Raises
        ------
        OSError
            If it cannot be written; the file is as it was.
        """
        pending = self._pending
        if pending is None:
            return
        self._last_epoch, self._last_time = len(pending.series["loss"]), time.monotonic()
        self._file.write(pending)
        self._pending = None


def _progress(saved: SavedFit, fit: FitSettings) -> Progress:
    """Return the progress of a checkpoint's fit.

    Raises
    ------
    ValueError, LookupError, TypeError
        If the content is not that of a fit.
    """
    n_epochs, n_validated, n_rates = (len(saved.series[name]) for name in SERIES)
    metrics = {name: list(saved.series[f"{METRIC}{name}"]) for name in fit.metrics or ()}
    uneven = any(len(values) != n_validated for values in metrics.values())
    if n_rates != n_epochs or n_validated not in (0, n_epochs) or uneven:
        raise ValueError("losses and learning rates must be one for each epoch")
    facts = saved.facts
    status, seconds = Status[facts["status"]], float(facts["seconds"])
    lists: dict[str, Any] = {name: list(saved.series[name]) for name in SERIES}
    if n_epochs:
        lists["metrics"] = metrics
    history = History(**lists, status=status, seconds=seconds)
    return Progress(facts["first_step"], history, saved.best)
