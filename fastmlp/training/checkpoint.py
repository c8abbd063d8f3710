"""A fit's checkpoints: where it stands at the end of an epoch, in a file that it can go on from."""

import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.serialization import codec, model_state, safetensors_file
from fastmlp.serialization.model_state import State
from fastmlp.serialization.safetensors_file import Content, FileError
from fastmlp.training.history import History, Status

SERIES = ("loss", "validation_loss", "learning_rate")
DIGEST_BYTES = 16
EVERY = timedelta(minutes=1)


class Fit(NamedTuple):
    """What fixes the bits of a fit beside its net; JSON can say all of it."""

    epochs: int
    batch_size: int
    shuffle: bool
    n_rows: int
    data: str


class Progress(NamedTuple):
    """Where a fit stands at the end of an epoch.

    Attributes
    ----------
    first_step : int
        The net's number of steps when the fit began.
    """

    first_step: int
    state: State
    history: History


def digest(*arrays: NDArray[Any]) -> str:
    """Return a hash of C-contiguous arrays: other data would give other bits."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for array in arrays:
        hasher.update(repr((array.dtype.str, array.shape)).encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


class Checkpoint:
    """The file of one fit, written now and then and at the end.

    Parameters
    ----------
    path : where it lies
    every : int or timedelta
        Write after so many epochs, or at the first end of an epoch after so much time.
    fit : Fit
    capture : callable
        Returns the net's state now, in memory of its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int | timedelta,
        fit: Fit,
        capture: Callable[[], State],
    ) -> None:
        self._path, self._every, self._fit, self._capture = Path(path), every, fit, capture
        self._pending: Progress | None = None
        self._last_epoch, self._last_time = 0, time.monotonic()

    def resume(self, *, validated: bool) -> Progress | None:
        """Return where the file stands, or None where there is none yet; `validated` says whether
        the fit has validation data.

        Raises
        ------
        FileError
            Where the file is no checkpoint.
        ValueError
            Where it is one of another fit, or of another net.
        """
        if not self._path.exists():
            return None
        content = safetensors_file.read(self._path)
        with safetensors_file.refusing(self._path):
            fit = _fit(content)
        here = self._capture()
        wanted = {**model_state.header_of(here), **self._fit._asdict()}
        there = {**content.header, **fit._asdict()}
        with safetensors_file.refusing(self._path):
            there["optimizer"] = codec.completed(there["optimizer"])
        for name, value in wanted.items():
            if there.get(name) != value:
                raise ValueError(
                    f"MLP.fit: {self._path} is a checkpoint of another fit: its {name} is "
                    f"{there.get(name)!r}, here it is {value!r}; resume=False starts over"
                )
        with safetensors_file.refusing(self._path):
            progress = _progress(content, here)
        history = progress.history
        if history.loss and bool(history.validation_loss) != validated:
            there_is, here_is = ("no ", "") if validated else ("", "no ")
            raise ValueError(
                f"MLP.fit: {self._path} is a checkpoint of another fit: it has {there_is}"
                f"validation data, here there is {here_is}validation_data; resume=False starts over"
            )
        self._last_epoch = len(history.loss)
        return progress

    def window(self, n_epochs: int) -> int | None:
        """Return how many epochs, after so many, end with the next write; None: any number."""
        if not isinstance(self._every, int):
            return None
        return self._every - (n_epochs - self._last_epoch)

    def take(self, first_step: int, history: History) -> bool:
        """Capture where the fit stands; return True if it is time to write it."""
        past = History(
            **{name: list(getattr(history, name)) for name in SERIES},
            status=history.status,
            seconds=history.seconds,
        )
        self._pending = Progress(first_step, self._capture(), past)
        if isinstance(self._every, int):
            return len(past.loss) - self._last_epoch >= self._every
        return time.monotonic() - self._last_time >= self._every.total_seconds()

    def write(self) -> None:
        """Write what was taken last, unless that is done.

        Raises
        ------
        OSError
            Where it cannot be written; the file is as it was.
        """
        pending = self._pending
        if pending is None:
            return
        self._last_epoch, self._last_time = len(pending.history.loss), time.monotonic()
        safetensors_file.write(self._path, pack(self._fit, pending))
        self._pending = None


def pack(fit: Fit, progress: Progress) -> Content:
    """Return the content of a checkpoint: that of its net, and the fit's."""
    kind, header, arrays = model_state.pack(progress.state)
    history = progress.history
    told = {
        **fit._asdict(),
        "first_step": progress.first_step,
        "status": history.status.name,
        "seconds": history.seconds,
    }
    series = {name: np.array(getattr(history, name), np.float64) for name in SERIES}
    return Content(kind, {**header, "fit": told}, {**arrays, **series})


def _fit(content: Content) -> Fit:
    if "fit" not in content.header:
        raise FileError("a model file, not a checkpoint; MLP.load reads it")
    told = content.header["fit"]
    return Fit(**{name: told[name] for name in Fit._fields})


def _progress(content: Content, like: State) -> Progress:
    """Return where a fit of a net like this stands, checked."""
    told, state = content.header["fit"], model_state.state_of(content, like.network, like.optimizer)
    series = {name: content.arrays[name] for name in SERIES}
    if any(each.ndim != 1 or each.dtype != np.float64 for each in series.values()):
        raise FileError("losses and learning rates must be float64 vectors")
    n_epochs, n_validated, n_rates = (len(series[name]) for name in SERIES)
    if n_rates != n_epochs or n_validated not in (0, n_epochs):
        raise FileError("losses and learning rates must be one for each epoch")
    first = told["first_step"]
    if state.generator is None or type(first) is not int or not 0 <= first <= state.n_steps:
        raise FileError("the state of the fit is not whole")
    lists: dict[str, Any] = {name: each.tolist() for name, each in series.items()}
    history = History(**lists, status=Status[told["status"]], seconds=float(told["seconds"]))
    return Progress(first, state, history)
