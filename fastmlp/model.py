"""MLP: the net that users hold."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks, devices, training, validation
from fastmlp.archive import State
from fastmlp.checkpoint import EVERY, Checkpoint, Fit, digest
from fastmlp.description import Description, name_of
from fastmlp.guard import Guard
from fastmlp.history import Callback, History
from fastmlp.idle import Idle
from fastmlp.layout import bias_views, make_layout, weight_views
from fastmlp.losses import Loss
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.placed import Placed
from fastmlp.schedules import rates_of

Array = NDArray[Any]
Rule = str | Callable[..., Any]


class MLP(Placed):
    """A multi-layer perceptron: trains, predicts, and shows its parameters.

    Parameters
    ----------
    layer_sizes : sequence of int
        Inputs, hidden layers, outputs: ``(2, 4, 1)``.
    activation : str or callable, or a sequence of them, one per hidden layer
        A name, or a function of your own: ``activation(z) -> (value, slope)`` on scalars.
    output_activation : str or callable, optional
        Default: identity, or the link that the loss owns ("binary_cross_entropy": "sigmoid",
        "cross_entropy": "softmax", "poisson": "exp").
    loss : str, callable or Loss
        A name, or a function of your own: ``loss(prediction, target) -> (value, slope)``.
    optimizer : str, Optimizer or callable
        A name, such as "adam", or settings: ``Adam(0.01)``, ``SGD(0.1, momentum=0.9)``, or a
        function ``optimizer(w, g, m, v, rate) -> (w, m, v)``.
    l2, l1 : float
        Strengths of the penalties; both together are the elastic net. The objective of a batch is
        ``mean(loss) + (l2 sum(W^2) / 2 + l1 sum(abs(W))) / m``, with m its rows or the sum of
        their weights. Biases are not penalised.
    penalties : mapping of str or callable to float, optional
        Further penalties and their strengths: ``penalty(w) -> (value, slope)``.
    initializer : str or callable, optional
        Default: he_uniform for the relu family, lecun_normal for selu, else glorot_uniform. A
        function ``initializer(generator, shape) -> weights`` will do. Biases start at 0.
    dtype : "float32" or "float64"
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        For the initial weights and the shuffling. None: different every time.
    n_threads : int, optional
        At most so many; None: as many as the process may use. Results do not depend on it.
    device : "cpu", "cuda" or "cuda:<number>"
        Where it trains and predicts; "cuda" is an NVIDIA GPU, and needs the extra `cuda`. `to`
        moves a net.

    Attributes
    ----------
    parameters : (n_parameters,) array
        All weights, then all biases, in one vector. Writing to it changes the net.
    weights, biases : lists of arrays
        Views into `parameters`, shape (n_in, n_out) and (n_out,) each.
    optimizer : Optimizer
        May be set, to all that the constructor takes, between fits. With one of the same rule, as
        of another rate, a fit goes on with the optimizer's state; one of another rule starts from
        step 0, with a state of its own.
    n_steps : int
        Optimizer steps done so far. A further fit goes on with the optimizer's state.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not what it must be; nothing has been compiled then.
    ImportError, RuntimeError
        Where a GPU is asked for, and the package, the driver or the device is missing.
    MemoryError
        Where there is not enough memory for the parameters; nothing has been allocated then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, SGD
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> y = np.array([0, 1, 1, 0])
    >>> net = MLP((2, 4, 1), activation="tanh", loss="binary_cross_entropy", seed=0,
    ...           optimizer=SGD(0.5, momentum=0.9))
    >>> net.fit(X, y, epochs=500, batch_size=4).status.name
    'COMPLETED'
    >>> net.predict(X).round().ravel()
    array([0., 1., 1., 0.], dtype=float32)
    """

    def __init__(
        self,
        layer_sizes: Iterable[int],
        *,
        activation: Rule | Sequence[Rule] = "relu",
        output_activation: Rule | None = None,
        loss: Rule | Loss = "mse",
        optimizer: str | Optimizer | Callable[..., Any] = "adam",
        l2: float = 0.0,
        l1: float = 0.0,
        penalties: Mapping[Any, float] | None = None,
        initializer: Rule | None = None,
        dtype: Any = "float32",
        seed: Any = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        sizes = validation.layer_sizes(layer_sizes)
        hidden = validation.hidden_activations(activation, len(sizes) - 2)
        function = validation.loss(loss)
        self._loss_name = name_of(loss if isinstance(loss, str) else function.rule)
        output, link = validation.output_activation(output_activation, self._loss_name, function)
        self._output_name = name_of(function.link or output)
        self._network = Network(
            layout=make_layout(sizes),
            activations=(*hidden, output),
            loss=function,
            link=link,
            penalties=validation.penalty_terms(l2, l1, penalties),
            dtype=validation.dtype(dtype),
        )
        self._optimizer = validation.optimizer(optimizer)
        self.device = validation.device(device)
        devices.require(self.device)
        if n_threads is not None:
            checks.positive_integer("MLP", "n_threads", n_threads)
        self.n_threads = n_threads
        self.n_steps = 0
        self._generator = validation.generator(seed)
        self._guard, self._idle = Guard(), Idle()
        self._moments = None
        self._few_rows = None
        self._parameters = self._initial_parameters(initializer)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sizes of the layers, inputs first."""
        return self._network.layout.sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and predictions."""
        return self._network.dtype

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; another rule's, if set, starts from step 0 with a state of its own."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, given: str | Optimizer | Callable[..., Any]) -> None:
        optimizer = validation.optimizer(given)
        with self._guard.training("MLP.optimizer"):
            if optimizer.rule is not self._optimizer.rule:
                self._moments, self.n_steps = None, 0
            self._optimizer = optimizer

    @property
    def parameters(self) -> Array:
        """All weights, then all biases: one flat vector, live."""
        return self._parameters

    @property
    def weights(self) -> list[Array]:
        """The weight matrices, shape (n_in, n_out) each, as live views."""
        return weight_views(self._network.layout, self._parameters)

    @property
    def biases(self) -> list[Array]:
        """The bias vectors, shape (n_out,) each, as live views."""
        return bias_views(self._network.layout, self._parameters)

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
        checks.positive_integer(who, "epochs", epochs)
        checks.positive_integer(who, "batch_size", batch_size)
        checks.boolean(who, "shuffle", shuffle)
        checks.boolean(who, "progress", progress)
        every = validation.checkpoint(checkpoint, checkpoint_every, resume, who)
        listeners = validation.callbacks(callbacks, who)
        data = self._engine().data(X, y, sample_weight, who)
        held_out = None
        if validation_data is not None:
            pair = validation.validation_pair(validation_data, who)
            held_out = self._engine().data(*pair, f"{who}: validation_data")
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

    def predict(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return predictions: values, or the probabilities of a loss that owns a link.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers
        out : (n_rows, n_outputs) array of the net's dtype, optional
            Where to write them; it may share memory with X. Where X holds a number that is not
            finite, which is an error, some may have been written.

        Returns
        -------
        (n_rows, n_outputs) array of the net's dtype
            `out`, or a new array: of the host, but for an X that lies on the GPU, whose predictions
            lie there too. A prediction that is not finite warns, with a RuntimeWarning.

        Raises
        ------
        TypeError, ValueError
            Where X or `out` is not what it must be.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((2, 4, 3), loss="cross_entropy", seed=0)
        >>> probabilities = net.predict([[0.5, 1.0], [2.0, 0.0]])
        >>> probabilities.shape, probabilities.sum(axis=1).round(6)
        ((2, 3), array([1., 1.], dtype=float32))
        """
        quick = None if self._few_rows is None else self._few_rows(X, out)
        if quick is not None:
            return quick
        return self._predict(X, out, raw=False, who="MLP.predict")

    def predict_raw(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return the raw outputs: the output layer before activation or link (logits).

        Takes, returns and raises what `predict` does.
        """
        return self._predict(X, out, raw=True, who="MLP.predict_raw")

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
        slopes = validation.vector(gradient, len(self._parameters), self.dtype, "gradient", who)
        rate = self.optimizer.learning_rate
        with self._guard.training(who):
            steps = np.array([self.n_steps])
            rates = validation.rates(rates_of(rate, steps, self.n_steps + 1), 1, rate)
            coefficients = self.optimizer.coefficients(self.n_steps + 1, rates)
            self._engine().update(*self._trained(), slopes, coefficients)
            self.n_steps += 1

    def summary(self) -> str:
        """Return a table of the layers, and the settings, as text.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> print(MLP((2, 4, 1), activation="tanh", seed=0).summary())
        layer   inputs  outputs  activation  parameters
        hidden       2        4  tanh                12
        output       4        1  identity             5
        17 parameters, float32; loss mse; Adam(learning_rate=0.001); 0 steps done
        """
        return self._description().table()

    def __repr__(self) -> str:
        return self._description().short()

    def _description(self) -> Description:
        names = (self._loss_name, self._output_name)
        return Description(self._network, self.optimizer, *names, self.n_steps)

    def _initial_parameters(self, initializer: Rule | None) -> Array:
        layout = self._network.layout
        validation.room_for_parameters(layout, self.dtype)
        flat = np.zeros(layout.n_parameters, self.dtype)
        rules = validation.initializer(initializer, self._network.activations)
        for rule, view in zip(rules, weight_views(layout, flat), strict=True):
            validation.initial_weights(rule, self._generator, view)
        return flat

    @classmethod
    def _made_of(cls, state: State, n_threads: int | None) -> Self:
        network = state.network
        *hidden, output = network.activations
        net = cls(
            network.layout.sizes,
            activation=hidden,
            output_activation=network.loss.link or output,
            loss=network.loss,
            optimizer=state.optimizer,
            initializer="zeros",
            dtype=network.dtype,
            n_threads=n_threads,
        )
        net._network = network
        return net

    def _request(
        self, data: Any, held_out: Any, epochs: int, batch_size: int, shuffle: bool
    ) -> training.Request:
        """Return what a fit is asked to do, so far without callbacks and a bar."""
        validate = None
        if held_out is not None:
            evaluation = cache(lambda: self._engine().evaluation(held_out))
            validate = lambda: evaluation()(self._parameters)  # noqa: E731
        # Where a batch is all rows, their order is but rounding.
        shuffled = shuffle and batch_size < data.n_rows
        return training.Request(data.n_rows, epochs, shuffled, validate, (), False, self)

    def _train(self, data: Any, batch_size: int, request: training.Request) -> History:
        state = self._trained()
        loop = training.Loop(
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
