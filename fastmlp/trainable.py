"""A net that trains."""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import validation
from fastmlp.network import resolve
from fastmlp.placed import Placed
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import rates_of
from fastmlp.training.checkpoint import EVERY, Checkpoint, Fit, digest
from fastmlp.training.history import Callback, History
from fastmlp.training.loop import Loop, Request, interrupted
from fastmlp.validation import scalars

Array = NDArray[Any]


class Trainable(Placed):
    """A net that trains: whole fits, or steps taken apart.

    Attributes
    ----------
    n_steps : int
        Optimizer steps done so far.
    """

    n_steps: int
    _optimizer: Optimizer
    _generator: np.random.Generator

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; another rule's, if set, starts from step 0 with a state of its own."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, given: str | Optimizer | Callable[..., Any]) -> None:
        optimizer = resolve.optimizer(given)
        with self._guard.training("MLP.optimizer"):
            if optimizer.rule is not self._optimizer.rule:
                self._moments, self.n_steps = None, 0
            self._optimizer = optimizer

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int = 100,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        validation_data: Any = None,
        callbacks: Callback | Iterable[Callback] = (),
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | timedelta = EVERY,
        resume: bool = False,
    ) -> History:
        """Train on X and y; a further call goes on where this one ended.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers
            Not copied if it is C-contiguous and of the net's dtype. On a GPU it is copied there,
            once for the fit, or taken as it is, if it is an array there (one that has
            ``__cuda_array_interface__``, of CuPy or PyTorch).
        y : (n_rows,) or (n_rows, n_outputs) array
            For "cross_entropy" integer labels from 0, or one-hot rows.
        epochs : int of 1 or more
            How often to go through all rows.
        batch_size : int of 1 or more
            Rows per step; the last batch of an epoch may be shorter.
        shuffle : bool
            Take the rows in a new order each epoch.
        sample_weight : (n_rows,) array, optional
            How much each row counts, 0 or more. A batch of zero weights takes no step.
        validation_data : (X, y) or (X, y, sample_weight), optional
        callbacks : callable or sequence of callables
            Each is called with a `Report` after every epoch; ``report.stop()`` ends the fit.
        progress : bool
            Show a tqdm bar with the loss.
        checkpoint : path, optional
            A file to write where the fit stands to: at its beginning, at ends of epochs, and on
            the way out, whatever the way. `load` reads it, too.
        checkpoint_every : int or datetime.timedelta, default one minute
            How many epochs, or how much time, from one checkpoint to the next.
        resume : bool
            Go on from the checkpoint, where there is one: a fit that was killed at any moment and
            then resumed, with the same arguments on a net that was made alike, ends in the bits of
            one that was not. What callbacks keep for themselves is not in the file.

        Returns
        -------
        History
            Losses by epoch, the status and the seconds. Ctrl-C ends the fit with a warning, a
            usable net and `Status.INTERRUPTED`; a loss or parameter that is no longer finite with
            a warning, the parameters from before that epoch and `Status.DIVERGED`.

        Raises
        ------
        TypeError, ValueError
            Where data or arguments are not what they must be; the net is unchanged then.
        FileError
            A ValueError, where the checkpoint to resume from is not one, or damaged.
        RuntimeError
            Where another fit of this net is running.
        MemoryError
            Where there is not enough memory; the net is unchanged then.
        ImportError
            Where `progress` is asked for without tqdm, or a checkpoint without safetensors.
        OSError
            Where the first checkpoint cannot be written. A later one that cannot is a warning.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP
        >>> X = np.linspace(-1, 1, 50)[:, None]
        >>> net = MLP((1, 16, 1), activation="tanh", seed=0)
        >>> history = net.fit(X, X**3, epochs=20, validation_data=(X[::5], X[::5] ** 3))
        >>> len(history.loss), history.validation_loss[-1] < history.validation_loss[0]
        (20, True)
        """
        who = "MLP.fit"
        scalars.positive_integer(who, "epochs", epochs)
        scalars.positive_integer(who, "batch_size", batch_size)
        scalars.boolean(who, "shuffle", shuffle)
        scalars.boolean(who, "progress", progress)
        every = validation.checkpoint(checkpoint, checkpoint_every, resume, who)
        listeners = validation.callbacks(callbacks, who)
        try:
            data, held_out = self._rows(X, y, sample_weight, validation_data)
        except KeyboardInterrupt:
            # The first of a process loads Numba there: 0.3 s.
            return interrupted(History())
        batch = min(int(batch_size), data.n_rows)
        request = self._request(data, held_out, int(epochs), batch, shuffle)
        request = request._replace(callbacks=listeners, progress=progress)
        with self._guard.training(who):
            if checkpoint is not None:
                hashed = digest(*map(np.asarray, (data.x, data.y, data.weight)))
                fit = Fit(int(epochs), batch, request.shuffle, data.n_rows, hashed)
                keeper = Checkpoint(checkpoint, every, fit, self._state)
                request = self._started(request, keeper, resume)
            return self._train(data, batch, request)

    def loss_and_gradient(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the objective on all rows of X and y, penalties included, and its gradient.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        objective : float
        gradient : (n_parameters,) array of the net's dtype, in the order of `parameters`

        Raises
        ------
        TypeError, ValueError
            Where the data are not what they must be.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((1, 1), initializer="zeros", dtype="float64")
        >>> net.loss_and_gradient([[1.0], [3.0]], [1.0, 2.0])
        (2.5, array([-7., -3.]))
        """
        engine = self._engine()
        data = engine.data(X, y, sample_weight, "MLP.loss_and_gradient")
        value, slopes = engine.loss_and_gradient(self._parameters, data)
        return value, slopes

    def apply_gradient(self, gradient: ArrayLike) -> None:
        """Take one optimizer step with a gradient of your own making.

        Together with `loss_and_gradient` it is a step of `fit` taken apart: clip, average or
        change the gradient in between.

        Parameters
        ----------
        gradient : (n_parameters,) array, in the order of `parameters`

        Raises
        ------
        TypeError, ValueError
            Where the gradient is not what it must be; the net is unchanged then.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP, SGD
        >>> net = MLP((1, 1), optimizer=SGD(0.5), initializer="zeros")
        >>> net.apply_gradient([1.0, -2.0])
        >>> net.parameters
        array([-0.5,  1. ], dtype=float32)
        """
        who = "MLP.apply_gradient"
        slopes = validation.vector(
            gradient, len(self._parameters), self._network.dtype, "gradient", who
        )
        rate = self.optimizer.learning_rate
        with self._guard.training(who):
            steps = np.array([self.n_steps])
            rates = validation.rates(rates_of(rate, steps, self.n_steps + 1), 1, rate)
            coefficients = self.optimizer.coefficients(self.n_steps + 1, rates)
            self._engine().update(*self._trained(), slopes, coefficients)
            self.n_steps += 1

    def _rows(self, X: Any, y: Any, sample_weight: Any, validation_data: Any) -> tuple[Any, Any]:
        """Return the rows to train on and those to validate on, if any, checked."""
        data, held_out = self._engine().data(X, y, sample_weight, "MLP.fit"), None
        if validation_data is not None:
            pair = validation.validation_pair(validation_data, "MLP.fit")
            held_out = self._engine().data(*pair, "MLP.fit: validation_data")
        return data, held_out

    def _request(
        self, data: Any, held_out: Any, epochs: int, batch_size: int, shuffle: bool
    ) -> Request:
        """Return what a fit is asked to do, so far without callbacks and a bar."""
        validate = None
        if held_out is not None:
            evaluation = cache(lambda: self._engine().evaluation(held_out))
            validate = lambda: evaluation()(self._parameters)  # noqa: E731
        # Where a batch is all rows, their order is but rounding.
        shuffled = shuffle and batch_size < data.n_rows
        return Request(data.n_rows, epochs, shuffled, validate, (), False, self)

    def _train(self, data: Any, batch_size: int, request: Request) -> History:
        state = self._trained()
        loop = Loop(
            lambda: self._engine().trainer(*state, data, batch_size),
            self.optimizer,
            self.n_steps,
            self._generator,
            request,
        )
        try:
            return loop.run()
        finally:
            self.n_steps = loop.step
