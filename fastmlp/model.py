"""MLP: the net that users hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._process.buffer_pool import Idle
from fastmlp._process.locks import Guard
from fastmlp.backends import protocol
from fastmlp.network import resolve
from fastmlp.network.parameter_layout import Views, bias_views, make_layout, weight_views
from fastmlp.network.spec import Network
from fastmlp.network.summary import Description, name_of
from fastmlp.rules.losses import Loss
from fastmlp.rules.optimizers import Optimizer
from fastmlp.serialization.model_state import State
from fastmlp.trainable import Trainable

Array = NDArray[Any]
Rule = str | Callable[..., Any]


class MLP(Trainable):
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
        Views into `parameters`, shape (n_in, n_out) and (n_out,) each. Writing to one, or setting
        it, changes the net.
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
        sizes = resolve.layer_sizes(layer_sizes)
        hidden = resolve.hidden_activations(activation, len(sizes) - 2)
        function = resolve.loss(loss)
        self._loss_name = name_of(loss if isinstance(loss, str) else function.rule)
        output, link = resolve.output_activation(output_activation, self._loss_name, function)
        self._output_name = name_of(function.link or output)
        self._network = Network(
            layout=make_layout(sizes),
            activations=(*hidden, output),
            loss=function,
            link=link,
            penalties=resolve.penalty_terms(l2, l1, penalties),
            dtype=resolve.dtype(dtype),
        )
        self._optimizer = resolve.optimizer(optimizer)
        self.device = resolve.device(device)
        protocol.require(self.device)
        self.n_threads = n_threads
        self.n_steps = 0
        self._generator = resolve.generator(seed)
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
    def parameters(self) -> Array:
        """All weights, then all biases: one flat vector, live."""
        return self._parameters

    @property
    def weights(self) -> list[Array]:
        """The weight matrices, shape (n_in, n_out) each, as live views."""
        return Views(weight_views(self._network.layout, self._parameters))

    @property
    def biases(self) -> list[Array]:
        """The bias vectors, shape (n_out,) each, as live views."""
        return Views(bias_views(self._network.layout, self._parameters))

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
        resolve.room_for_parameters(layout, self.dtype)
        flat = np.zeros(layout.n_parameters, self.dtype)
        rules = resolve.initializer(initializer, self._network.activations)
        for rule, view in zip(rules, weight_views(layout, flat), strict=True):
            resolve.initial_weights(rule, self._generator, view)
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
