"""What a net keeps on disk: files of its own, and checkpoints of its fits."""

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import random_state
from fastmlp._process.locks import Guard
from fastmlp.backends import protocol
from fastmlp.network import resolve
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer
from fastmlp.serialization import model_state, safetensors_file
from fastmlp.serialization.model_state import State
from fastmlp.serialization.safetensors_file import Content
from fastmlp.training import loop
from fastmlp.training.checkpoint import Checkpoint
from fastmlp.training.history import History
from fastmlp.validation import scalars


class Persistent:
    """A net that can be saved and loaded, and whose fits can be resumed."""

    optimizer: Optimizer
    n_steps: int
    _network: Network
    _parameters: NDArray[Any]
    _moments: Any
    _generator: np.random.Generator
    _guard: Guard

    def save(self, path: str | os.PathLike[str], *, include_training_state: bool = False) -> None:
        """Write the net to a safetensors file, for `load`; needs the extra `safetensors`.

        The file is written whole or not at all. It holds names and numbers, no code: rules of your
        own are kept by their names, and `load` is given the functions again.

        Parameters
        ----------
        path : path
        include_training_state : bool
            Add the optimizer's state, the number of steps and the generator's state, so that `fit`
            on the loaded net goes on with the same bits.

        Raises
        ------
        TypeError
            Where an argument is not what it must be.
        ImportError
            Where safetensors is not installed.
        OSError
            Where the file cannot be written; one that was there before is as it was.
        ValueError
            Where a rule of your own has no name, as a lambda, or a parameter is not finite.
        RuntimeError
            Where a fit is running, and with it the training state: see `checkpoint` of `fit`.

        Examples
        --------
        >>> import os, tempfile
        >>> from fastmlp import MLP
        >>> net, path = MLP((2, 4, 1), seed=0), os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> net.save(path)
        >>> bool((MLP.load(path).predict([[1, 2]]) == net.predict([[1, 2]])).all())
        True
        """
        scalars.path("MLP.save", "path", path)
        scalars.boolean("MLP.save", "include_training_state", include_training_state)
        if include_training_state:
            with self._guard.training("MLP.save"):
                state = self._state(self.n_steps)
        else:
            state = self._state()
        safetensors_file.write(path, model_state.pack(state))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        rules: Mapping[str, Any] | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> Self:
        """Return the net that `save`, or a checkpoint of `fit`, wrote to a file.

        Nothing in the file is run, and it takes no more memory than its own size allows: a file
        from anywhere is a net or a `FileError`. Files of every released version load.

        Parameters
        ----------
        path : path
        rules : mapping of str to callable, Loss or Optimizer, optional
            Your own rules that the net was made with, by their names.
        n_threads : int, optional
            As for `MLP`; a file does not keep it.
        device : "cpu", "cuda" or "cuda:<number>"
            As for `MLP`; a file does not keep it.

        Raises
        ------
        FileError
            A ValueError, where the file is damaged, of another kind or of a later version, or
            names a rule that is neither fastmlp's nor among `rules`.
        TypeError, ValueError
            Where an argument is not what it must be.
        OSError
            Where there is no file, or it cannot be read.
        ImportError
            Where safetensors is not installed.

        Examples
        --------
        >>> from fastmlp import FileError, MLP
        >>> try:
        ...     MLP.load("README.md")
        ... except (FileError, OSError) as error:
        ...     print("no net")
        no net
        """
        scalars.path("MLP.load", "path", path)
        if n_threads is not None:
            scalars.positive_integer("MLP.load", "n_threads", n_threads)
        protocol.require(resolve.device(device), "MLP.load")
        own = resolve.own_rules(rules, "MLP.load")
        content = safetensors_file.read(path)
        with safetensors_file.refusing(path):
            net = cls._unpacked(content, own, n_threads)
        return net if device == "cpu" else net.to(device)

    @classmethod
    def _unpacked(cls, content: Content, own: Mapping[str, Any], n_threads: int | None) -> Self:
        """Return the net that a file holds."""
        state = model_state.unpack(content, own)
        net = cls._made_of(state, n_threads)
        net._adopt(state)
        return net

    def __copy__(self) -> Self:
        """Return what `copy.deepcopy` does: two nets that had arrays in common would train both."""
        return deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = other = type(self).__new__(type(self))
        with self._guard.whole:
            other.__setstate__(deepcopy(self._content(), memo))
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Copied, for pickle writes the arrays later, when a fit may have begun.
        with self._guard.whole:
            content = self._content()
            changing = {name: deepcopy(content[name]) for name in ("_parameters", "_moments")}
        return content | changing

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # joblib maps large arrays into its workers, to be read only.
        if not self._parameters.flags.writeable:
            self._parameters = np.array(self._parameters)

    def _content(self) -> dict[str, Any]:
        """Return what a copy holds; where another thread fits the net, no state of training."""
        state = {"_moments": None, "n_steps": 0} if self._guard.is_trained_elsewhere else {}
        return vars(self) | state

    def _state(self, n_steps: int | None = None) -> State:
        """Return a copy of the net; with the state of training, after so many steps, if given."""
        with self._guard.whole:
            parameters = self._parameters.copy()
        if n_steps is None:
            return State(self._network, self.optimizer, 0, parameters)
        moments = None if self._moments is None else self._moments.flat()
        random = random_state.state_of(self._generator)
        return State(self._network, self.optimizer, n_steps, parameters, moments, random)

    def _adopt(self, state: State) -> None:
        """Take over parameters and, where there is one, the state of training."""
        self._parameters[:] = state.parameters
        self._moments, self.n_steps = None, state.n_steps
        if state.moments is not None:
            self._moments = self._engine().moments(state.moments)
        if state.generator is not None:
            self._generator = random_state.from_state(state.generator)

    def _started(self, request: loop.Request, keeper: Checkpoint, resume: bool) -> loop.Request:
        """Return the request with its checkpoint: gone on from, or written for the first time."""
        so_far = keeper.resume(validated=request.validate is not None) if resume else None
        if so_far is not None:
            self._adopt(so_far.state)
        else:
            keeper.take(self.n_steps, self.n_steps, History())
            keeper.write()
        return request._replace(checkpoint=keeper, so_far=so_far)

    @classmethod
    def _made_of(cls, state: State, n_threads: int | None) -> Self:
        """Return a net of this form, its parameters yet to come."""
        raise NotImplementedError

    def to(self, device: str) -> Self:
        """Move the net to another device."""
        raise NotImplementedError

    def _engine(self) -> Any:
        """Return the backend, set up for this net."""
        raise NotImplementedError
