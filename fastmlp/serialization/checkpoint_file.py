"""A checkpoint as a file: the net, the settings of its fit, and where the fit stands."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.serialization import model_state, safetensors_file
from fastmlp.serialization.model_state import SavedNet
from fastmlp.serialization.safetensors_file import Content, FileError

Series = Mapping[str, Sequence[float]]
BEST = "best_parameters"
# Fields of a net that a header has where they are in use.
OPTIONAL = (
    *("layer_rates", "trainable", "compute_dtype", "monotonic_cst", "feature_names"),
    *model_state.DROPOUT,
)


class SavedFit(NamedTuple):
    """The content of a checkpoint.

    Attributes
    ----------
    state : of the net
    facts : numbers and names by name: settings of the fit, and where it stands
    series : one number an epoch, by name
    best : (n_parameters,) array, the parameters of the best epoch, or None
    """

    state: SavedNet
    facts: Mapping[str, Any]
    series: Series
    best: NDArray[Any] | None = None


class CheckpointFile:
    """The checkpoints of one fit, each written over the one before.

    Parameters
    ----------
    path : path
    network, state : the net that is trained
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str], network: Network, state: NetState) -> None:
        self.path, self._network, self._state = Path(path), network, state

    def capture(self) -> SavedNet:
        """Return a copy of the net and its state of training now."""
        return model_state.capture(self._network, self._state, training=True)

    def restore(self, state: SavedNet) -> None:
        """Set the net back to a captured state."""
        model_state.restore(self._state, state)

    def write(self, saved: SavedFit) -> None:
        """Write a checkpoint.

        Raises
        ------
        OSError
            If it cannot be written; the file is as it was.
        """
        kind, header, arrays = model_state.pack(saved.state)
        series = {name: np.array(numbers, np.float64) for name, numbers in saved.series.items()}
        best = {} if saved.best is None else {BEST: saved.best}
        content = Content(kind, {**header, "fit": saved.facts}, {**arrays, **series, **best})
        safetensors_file.write(self.path, content)

    def read(self, fit: Mapping[str, Any], names: Sequence[str]) -> SavedFit | None:
        """Return the checkpoint, or None where there is no file yet.

        Parameters
        ----------
        fit : settings that a fit must share with the checkpoint's
        names : of the series

        Raises
        ------
        FileError
            If the file is no checkpoint.
        ValueError
            If it is one of another fit, or of another net.
        """
        if not self.path.exists():
            return None
        content, state_now = safetensors_file.read(self.path), self.capture()
        with self.refusing():
            if "fit" not in content.header:
                raise FileError("a model file, not a checkpoint; MLP.load reads it")
            settings = {**content.header, **{name: content.header["fit"][name] for name in fit}}
        expected = {**dict.fromkeys(OPTIONAL), **model_state.header_of(state_now), **fit}
        for name, value in expected.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"MLP.fit: {self.path} is a checkpoint of another fit: its {name} is "
                    f"{settings.get(name)!r}, here it is {value!r}; resume=False starts over"
                )
        with self.refusing():
            state = model_state.state_of(content, state_now.network, state_now.optimizer)
            first = content.header["fit"]["first_step"]
            series = _series(content, names)
            if state.generator is None or type(first) is not int or not 0 <= first <= state.n_steps:
                raise FileError("the state of the fit is not whole")
            best = content.arrays.get(BEST)
            if best is not None:
                best = model_state.checked(best, BEST, state.parameters).copy()
        return SavedFit(state, content.header["fit"], series, best)

    def refusing(self) -> AbstractContextManager[None]:
        """Return a context in which what the file lacks is a `FileError`."""
        return safetensors_file.refusing(self.path)


def _series(content: Content, names: Sequence[str]) -> Series:
    arrays: dict[str, NDArray[Any]] = {name: content.arrays[name] for name in names}
    if any(numbers.ndim != 1 or numbers.dtype != np.float64 for numbers in arrays.values()):
        raise FileError("losses and learning rates must be float64 vectors")
    return {name: numbers.tolist() for name, numbers in arrays.items()}
