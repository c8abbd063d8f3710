"""MLP: the net that users hold. Read this first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._process import random_state
from fastmlp.backends import devices
from fastmlp.backends.protocol import Engine, Predictor
from fastmlp.data.batches import PredictBatch, batches_of
from fastmlp.data.sources import Source
from fastmlp.network import layer_settings as rates_of_layers
from fastmlp.network import monotone, resolve, spec
from fastmlp.network.layer_settings import dropout_of
from fastmlp.network.resolve import smoothed
from fastmlp.network.spec import (
    Activation,
    ComputeDTypes,
    DropoutLike,
    DType,
    InitializerLike,
    LayerRates,
    LossLike,
    OptimizerLike,
    OutputActivation,
    Penalties,
    Rates,
    Seed,
    Views,
)
from fastmlp.network.state import NetState
from fastmlp.network.summary import Description
from fastmlp.rules.dropout import Rate
from fastmlp.rules.optimizer_protocol import Optimizer, is_averaged
from fastmlp.rules.optimizers import require_first_order
from fastmlp.serialization import model_state, safetensors_file
from fastmlp.serialization.safetensors_file import Content
from fastmlp.training import loop
from fastmlp.training.exchange import CommunicatorLike, check_ranks
from fastmlp.training.history import History, interrupted
from fastmlp.training.loop import single_step
from fastmlp.training.metrics import Given as Metrics
from fastmlp.training.options import EVERY, FitOptions, Listener, ValidationData
from fastmlp.training.ranks import ranks_of
from fastmlp.training.request import FitRequest
from fastmlp.training.rows import RawRows
from fastmlp.training.second_order import batch_size_for
from fastmlp.training.second_order import check as check_second_order
from fastmlp.training.steps import Steps
from fastmlp.training.stopping import EarlyStopping
from fastmlp.validation import arrays, frames, scalars
from fastmlp.validation.calls import OF_NETS, AdvisingType, explained
from fastmlp.validation.suggestions import needs

if TYPE_CHECKING:
    from fastmlp.network.spec import Computed
else:
    # Of a property with a Literal jedi 0.20 raises, and IPython completes nothing at all.
    Computed = str | tuple[str, ...] | None

Array = NDArray[Any]


@final
class MLP(metaclass=AdvisingType, advice=OF_NETS):
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
    loss : str, callable, Loss, Quantile, Tweedie, Focal or BinaryFocal
        A name, or a loss with settings, such as ``Quantile([0.1, 0.5, 0.9])``, or a function of
        your own: ``loss(prediction, target) -> (value, slope)``.
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
    label_smoothing : float in [0, 1)
        In training, classes have the targets ``(1 - label_smoothing) y + label_smoothing / n``,
        for n classes ("binary_cross_entropy": 2). Validation losses are of the labels themselves.
    layer_rates : sequence of float or mapping, one per layer, or a mapping, optional
        Factors of the learning rate of the layers, hidden and output: ``[0.1, 0.1, 1.0]``, or
        ``{"weights": 1.0, "biases": 0.1}`` in place of a number, or alone for all layers. The
        factor 0 freezes.
    dropout : float in [0, 1) or schedule, or a sequence of them, one per hidden layer
        In the steps of `fit`, each output of a hidden layer is 0 with this probability; the others
        are divided by (1 - rate). A schedule, such as ``Cosine(0.2)``, is the rate over the fit.
        Losses in `History.loss` are with dropout; nothing is dropped anywhere else.
    input_dropout : float in [0, 1) or schedule
        As `dropout`, of the inputs.
    input_noise : float of 0 or more, or schedule
        In the steps of `fit`, normally distributed numbers with this standard deviation are added
        to the inputs.
    dtype : "float32" or "float64"
    compute_dtype : "bfloat16", or a sequence of "bfloat16" and "float32", one per layer, optional
        Training in mixed precision: in the steps of `fit`, the matrix products of wide layers, or
        of those told, take operands rounded to bfloat16, 8 binary digits, and sum in float32;
        `summary` says which layers. All else is float32: parameters, optimizer, activations,
        losses; predictions too, unless `predict` is asked for others. It needs dtype="float32", and
        halves the time of wide nets on processors with AVX512-BF16. None: products are those of
        `dtype`.
    monotonic_cst : sequence of -1, 0 and 1, one per input, optional
        Predictions do not fall as an input of 1 rises, and do not rise with one of -1; each with
        the others as they are. Its activations must rise; with "relu", "leaky_relu" and "identity"
        the order holds to the last digit, with others but for rounding.
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        For the initial weights, the shuffling, dropout and noise. None: different every time.
    n_threads : int, optional
        Maximum number of threads; None: all that the process may use. Results do not depend on it.
    device : "cpu", "cuda" or "cuda:<number>"
        Where it trains and predicts; "cuda" is an NVIDIA GPU, and needs the extra `cuda`. `to`
        moves a net.

    Attributes
    ----------
    parameters : (n_parameters,) array
        All weights, then all biases, in one vector. Writing to it changes the net. With an
        optimizer that averages they are the average; see `average` there.
    weights, biases : lists of arrays
        Views into `parameters`, shape (n_in, n_out) and (n_out,) each. Writing to one, or setting
        it, changes the net.
    optimizer : Optimizer
        May be set, to all that the constructor takes, between fits. With one of the same rule, as
        of another rate, a fit goes on with the optimizer's state; one of another rule starts from
        step 0, with a state of its own.
    trainable : list of bool, one per layer
        May be set, as a whole or by item, between fits; also to one bool for all. False: the layer
        is frozen; its parameters and the optimizer's state of them stay as they are.
    layer_rates : list of float or mapping, one per layer
        May be set, as the constructor takes it, between fits.
    feature_names : tuple of str, or None
        The names of the columns of X. A fit of a frame with names sets them, where there are none;
        then columns of frames are found by name, in any order, among others. Columns of arrays go
        by position. May be set; a file keeps them.
    n_steps : int
        Optimizer steps done so far. A further fit goes on with the optimizer's state.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value; nothing has been compiled then.
    ImportError, RuntimeError
        If a GPU is asked for, and the package, the driver or the device is missing.
    MemoryError
        If there is not enough memory for the parameters; nothing has been allocated then.

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

    @explained
    def __init__(
        self,
        layer_sizes: Iterable[int],
        *,
        activation: Activation | Sequence[Activation] = "relu",
        output_activation: OutputActivation | None = None,
        loss: LossLike = "mse",
        optimizer: OptimizerLike = "adam",
        l2: float = 0.0,
        l1: float = 0.0,
        penalties: Penalties | None = None,
        initializer: InitializerLike | None = None,
        label_smoothing: float = 0.0,
        layer_rates: LayerRates | None = None,
        dropout: DropoutLike = 0.0,
        input_dropout: Rate = 0.0,
        input_noise: Rate = 0.0,
        dtype: DType = "float32",
        compute_dtype: ComputeDTypes | None = None,
        monotonic_cst: Sequence[int] | None = None,
        seed: Seed | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        aim = smoothed(loss, label_smoothing)
        arguments = (layer_sizes, activation, output_activation, aim, l2, l1, penalties, dtype)
        network, self._loss_name, self._output_name = resolve.network(*arguments)
        factors = rates_of_layers.layer_rates(layer_rates, network.layout.n_layers)
        drawn = dropout_of(dropout, input_dropout, input_noise, len(network.activations) - 1)
        computed = spec.compute_dtype(compute_dtype, network.layout.sizes, network.dtype)
        network = network._replace(layer_rates=factors, dropout=drawn)
        signs = monotone.signs_of(monotonic_cst, network)
        self._network = network._replace(compute_dtype=computed, signs=signs)
        rule = resolve.optimizer(optimizer)
        monotone.check_optimizer(rule, signs)
        self._device = resolve.device(device)
        devices.require(self._device)
        self._engine: Engine[Any] | None = None
        self._predictor: Predictor | None = None
        self._raw_predictor: Predictor | None = None
        self._steps: Steps | None = None
        self._initializer = initializer
        self.n_threads = n_threads
        generator = resolve.generator(seed)
        self._state = resolve.initial_state(self._network, rule, generator, initializer)
        if drawn is not None:
            self._state.key = random_state.key_of(random_state.seeds_of(seed, generator))

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sizes of the layers, inputs first."""
        return self._network.layout.sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and predictions."""
        return self._network.dtype

    @property
    def compute_dtype(self) -> Computed:
        """The dtype that training rounds operands of products to: of wide layers, or one per layer;
        or None."""
        return self._network.compute_dtype

    @property
    def monotonic_cst(self) -> tuple[int, ...] | None:
        """For each input 1 if predictions rise with it, -1 if they fall, or 0; None: all are 0."""
        return self._network.signs or None

    @property
    def device(self) -> str:
        """Where the net trains and predicts: "cpu", "cuda" or "cuda:<number>"."""
        return self._device

    @property
    def n_threads(self) -> int | None:
        """The most threads that its calls use on the CPU; None: as many as the process may use."""
        return self._n_threads

    @n_threads.setter
    def n_threads(self, n_threads: int | None) -> None:
        if n_threads is not None:
            n_threads = scalars.positive_integer("MLP", "n_threads", n_threads)
        self._n_threads = n_threads
        self._engine = self._predictor = self._raw_predictor = self._steps = None

    @property
    def n_steps(self) -> int:
        """Optimizer steps done so far."""
        return self._state.n_steps

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; another rule's, if set, starts from step 0 with a state of its own."""
        return self._state.optimizer

    @optimizer.setter
    def optimizer(self, setting: OptimizerLike) -> None:
        optimizer, state = resolve.optimizer(setting), self._state
        monotone.check_optimizer(optimizer, self._network.signs)
        if optimizer.rule is state.optimizer.rule:
            # Not an owner: steps go on with the state, which stays where it is.
            with state.lock.parameters:
                state.lock.require_free("MLP.optimizer")
                state.optimizer = optimizer
            return
        with state.lock.training("MLP.optimizer"):
            state.restart()
            state.optimizer = optimizer

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns of X, or None; a fit of a frame sets them."""
        return self._state.feature_names

    @feature_names.setter
    def feature_names(self, names: Iterable[str] | None) -> None:
        checked = frames.names_given(names, self.layer_sizes[0], "MLP.feature_names")
        self._state.feature_names = checked

    @property
    def trainable(self) -> list[bool]:
        """True for each layer that is trained, False for one that is frozen; live."""
        switches = self._network.trainable or (True,) * self._network.layout.n_layers
        return rates_of_layers.Switches(switches, partial(setattr, self, "trainable"))

    @trainable.setter
    def trainable(self, switches: bool | Sequence[bool]) -> None:
        self._change(trainable=rates_of_layers.trainable(switches, self._network.layout.n_layers))

    @property
    def layer_rates(self) -> list[float | Rates]:
        """The factors of the learning rate of each layer."""
        return rates_of_layers.all_shown(self._network)

    @layer_rates.setter
    def layer_rates(self, factors: LayerRates | None) -> None:
        self._change(
            layer_rates=rates_of_layers.layer_rates(factors, self._network.layout.n_layers)
        )

    def _change(self, **fields: Any) -> None:
        """Change settings of the layers."""
        lock, averaged = self._state.lock, is_averaged(self._state.optimizer)
        with lock.parameters:
            lock.require_free(f"MLP.{next(iter(fields))}")
            lock.n_owners += averaged
            before, self._network = self._network, self._network._replace(**fields)
            # Predictions and buffers are the same with other rates.
            for prepared in (self._engine, self._steps) if self._device == "cpu" else ():
                changing: Any = prepared
                if changing is not None:
                    changing.change(self._network)
            if self._device != "cpu":
                self._engine = self._steps = None
            frozen = rates_of_layers.frozen
            if averaged and frozen(before) != frozen(self._network):
                # Frozen layers stay as they are seen, and the others were averaged beside them.
                self._state.train_shown()

    @property
    def parameters(self) -> Array:
        """All weights, then all biases: one flat vector, live."""
        return self._state.parameters

    @property
    def weights(self) -> list[Array]:
        """The weight matrices, shape (n_in, n_out) each, as live views."""
        return Views(self._state.weights, "MLP.weights")

    @property
    def biases(self) -> list[Array]:
        """The bias vectors, shape (n_out,) each, as live views."""
        return Views(self._state.biases, "MLP.biases")

    @explained
    def fit(
        self,
        X: ArrayLike | Source,
        y: ArrayLike | None = None,
        *,
        epochs: int = 100,
        batch_size: int | None = None,
        shuffle: bool = True,
        target: str | Sequence[str] | None = None,
        buffer_rows: int | None = None,
        steps_per_epoch: int | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        validation_data: ValidationData | Source | None = None,
        validation_split: float | None = None,
        metrics: Metrics | None = None,
        early_stopping: int | EarlyStopping | None = None,
        keep_best: bool = False,
        time_limit: float | timedelta | None = None,
        callbacks: Listener | Iterable[Listener] = (),
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | timedelta = EVERY,
        resume: bool = False,
        communicator: CommunicatorLike | None = None,
        average_every: int | None = None,
    ) -> History:
        """Train on X and y; a further call goes on where this one ended.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow
            Not copied if it is C-contiguous and of the net's dtype. On a GPU it is copied there,
            once for the fit, or taken as it is, if it is an array there (one that has
            ``__cuda_array_interface__``, of CuPy or PyTorch). In the place of X and y a source,
            whose rows need not fit into memory: blocks, such as `Blocks`, or a function without
            arguments that begins a stream of (X, y) or (X, y, sample_weight). With `target` paths,
            patterns or folders of Parquet, Arrow or CSV files (of other encodings `CSVFile`), a
            frame of pandas or polars, a table or a data set of pyarrow, a relation of DuckDB, or
            what else has ``__arrow_c_stream__``.
        y : (n_rows,) or (n_rows, n_outputs) array, or a column, or columns, of a frame
            For "cross_entropy" integer labels from 0, or one-hot rows. A source has its own.
        epochs : int of 1 or more
            How often to go through all rows.
        batch_size : int of 1 or more, optional
            Rows per step; the last batch of an epoch may be shorter. None: 32, or with
            `LevenbergMarquardt` and `LBFGS`, which take no other, all rows.
        shuffle : bool
            Take the rows in a new order each epoch; of a source its blocks in the order of its
            seed, and the rows of a buffer in a new order.
        target : str or sequence of str, optional
            The column of y in files or a table, or its columns; all others are features. Needs the
            extra `arrow`.
        buffer_rows : int, at least 16 times the batch size, optional
            How many rows of a source to hold in memory and to mix, twice: a thread fills a second
            buffer meanwhile. None: what an eighth of the available memory holds. If that is all
            rows, they are read once, and train in the bits of arrays.
        steps_per_epoch : int, optional
            Of a source, as an endless stream: end an epoch after so many steps, and go on there in
            the next. None: an epoch is one pass.
        sample_weight : (n_rows,) array, optional
            How much each row counts, 0 or more. A batch of zero weights takes no step.
        class_weight : mapping of int to float, or "balanced", optional
            How much the rows of each class count, times `sample_weight`; a class that is not named
            counts 1. "balanced": n_rows / (n_classes n_rows_of_the_class), for which a source is
            read once more, of files y alone. Not for validation rows.
        validation_data : (X, y) or (X, y, sample_weight), or a source, optional
        validation_split : float in (0, 1), optional
            Hold out this fraction of the rows, the last ones as they are given, and validate on
            them. Rows that are sorted, as by class, must be mixed before. Of a source the last ones
            of its blocks; a stream has none.
        metrics : dict of str to callable or str, or names, optional
            What to measure on the validation rows after each epoch, beside the loss:
            ``function(targets, predictions) -> float``, with ``sample_weight`` where it has such a
            parameter and the rows have weights; or a name: "mse", "mae", "huber", or one of
            scikit-learn's scorers. One prediction serves all. Columns of one output are vectors.
        early_stopping : int or EarlyStopping, optional
            An int: stop after this number of epochs without a lower validation loss, and end with
            the parameters of the best epoch.
        keep_best : bool
            End with the parameters of the epoch of the lowest validation loss, without stopping.
        time_limit : float or datetime.timedelta, optional
            Seconds; the fit ends after the first epoch that ends later.
        callbacks : callable, EarlyStopping or ReduceLROnPlateau, or a sequence of them
            Each callable is called with a `Report` after every epoch; ``report.stop()`` ends the
            fit.
        progress : bool
            Show a tqdm bar with the losses and the metrics.
        checkpoint : path, optional
            A file to which the fit's progress is written: at its beginning, at ends of epochs,
            and at its end, also after Ctrl-C or an error. `load` reads it, too.
        checkpoint_every : int or datetime.timedelta, default one minute
            How many epochs, or how much time, from one checkpoint to the next.
        resume : bool
            Go on from the checkpoint, where there is one: a fit that was killed at any moment and
            then resumed, with the same arguments on a net that was made alike, ends in the bits of
            one that was not. State that functions keep is not in the file.
        communicator : a communicator of mpi4py's, or "world", which is ``MPI.COMM_WORLD``, optional
            Train one net on several processes or machines, its ranks: each gives its own rows, of
            any number, also none, and its own validation rows; all else is the same on all. A batch
            has `batch_size` rows of all ranks together, from each in proportion to how many it has.
            All ranks end with the same parameters and history. The callbacks of rank 0 are called,
            and its checkpoint is written and resumed from. An error of one rank ends all. What has
            MPI's ``Get_rank``, ``Get_size``, ``Alltoall`` and ``Allgather`` will do, as the threads
            of `fastmlp.cluster.threads`.
        average_every : int of 1 or more, optional
            Each rank takes steps of its own, by its share of each batch; after so many, and at the
            end of each epoch, all take the mean of their parameters and of the optimizer's state,
            weighted by their rows since the last time. None: gradients are summed in each step, as
            one process would take it.

        Returns
        -------
        History
            Losses by epoch, the status and the seconds. Ctrl-C ends the fit with a warning, a
            usable net and `Status.INTERRUPTED`; a loss or parameter that is no longer finite with
            a warning, the parameters from before that epoch and `Status.DIVERGED`. After all of
            them the net has the best epoch's parameters, if those are kept.

        Raises
        ------
        TypeError, ValueError
            If data or arguments have a wrong type, shape or value; the net is unchanged then.
        FileError
            A ValueError, where the checkpoint to resume from is not one, or damaged.
        RuntimeError
            If another fit of this net is running.
        MemoryError
            If there is not enough memory; the net is unchanged then.
        ImportError
            If `progress` is asked for without tqdm, or a checkpoint without safetensors.
        OSError
            If the first checkpoint cannot be written. A later one that cannot is a warning.

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
        who, state = "MLP.fit", self._state
        ranks = ranks_of(communicator, who)
        with ranks.ending_together():
            with ranks.agreeing():
                rates_of_layers.require_trained(self._network, who)
                size = batch_size_for(state.optimizer, batch_size, who)
                options = FitOptions.checked(
                    who, epochs=epochs, batch_size=size, shuffle=shuffle, target=target,
                    buffer_rows=buffer_rows, steps_per_epoch=steps_per_epoch,
                    class_weight=class_weight, validation_data=validation_data,
                    validation_split=validation_split, metrics=metrics,
                    early_stopping=early_stopping, keep_best=keep_best, time_limit=time_limit,
                    callbacks=callbacks, progress=progress, checkpoint=checkpoint,
                    checkpoint_every=checkpoint_every, resume=resume, average_every=average_every,
                )  # fmt: skip
                check_ranks(communicator, average_every, self._device, who)
                fit_of = self._network, state.optimizer, options, self._device, communicator
                reading = check_second_order(*fit_of, who)
            ranks.agree_on(options, self._network, state)
            raw = RawRows(X, y, sample_weight, validation_data)
            try:
                engine, rows = ranks.rows(self._on_device, raw, reading, self.feature_names)
            except KeyboardInterrupt as error:
                # The first call of a process imports Numba there: 0.3 s.
                ranks.interrupted(error)
                return interrupted(History())
            options = ranks.options(options, state)
            request = FitRequest(rows.data, options, held_out=rows.held_out, net=self, ranks=ranks)
            buffered = ranks.buffered(request, rows.feed, engine, state)
            with state.lock.training(who):
                state.feature_names = rows.names
                request.keep(self._network, state)
                loop.fit(engine, state, request, buffered)
            return request.history

    @explained
    def loss_and_gradient(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the objective on all rows of X and y, penalties included, and its gradient.

        Of an optimizer that averages, they are those of the parameters that it trains.

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
            If the data have a wrong type, shape or value.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((1, 1), initializer="zeros", dtype="float64")
        >>> net.loss_and_gradient([[1.0], [3.0]], [1.0, 2.0])
        (2.5, array([-7., -3.]))
        """
        return self._single_steps().loss_and_gradient(X, y, sample_weight)

    @explained
    def apply_gradient(self, gradient: ArrayLike) -> None:
        """Take one optimizer step with a gradient of your own making.

        Together with `loss_and_gradient` it is a step of `fit` taken apart: average or change the
        gradient in between. It is clipped as the optimizer says.

        Parameters
        ----------
        gradient : (n_parameters,) array, in the order of `parameters`

        Raises
        ------
        TypeError, ValueError
            If the gradient has a wrong type, shape or value; the net is unchanged then.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP, SGD
        >>> net = MLP((1, 1), optimizer=SGD(0.5), initializer="zeros")
        >>> net.apply_gradient([1.0, -2.0])
        >>> net.parameters
        array([-0.5,  1. ], dtype=float32)
        """
        who, state = "MLP.apply_gradient", self._state
        rates_of_layers.require_trained(self._network, who)
        require_first_order(state.optimizer, who)
        n_parameters, dtype = len(state.parameters), self._network.dtype
        slopes = arrays.vector(gradient, n_parameters, dtype, "gradient", who)
        with state.lock.training(who):
            single_step(self._on_device(), state, slopes)

    def train_on_batch(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Take one optimizer step on these rows, from a training loop of your own.

        It does to the net what ``fit(X, y, epochs=1, batch_size=len(X), shuffle=False)`` does, to
        the bit, unless that diverges, and keeps its buffers for the next call: they serve every
        number of rows up to the largest so far. Whatever the net is asked for between two calls
        sees all steps before, and the next call sees what has changed: another fit, parameters that
        were written to, a new `optimizer`, `trainable`, `layer_rates`.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow
            Any number of rows. Arrays that are C-contiguous and of the net's dtype are taken as
            they are, as is y; class labels as int64 or int32. Other arrays of numbers are copied,
            in a few microseconds; lists, frames and other labels take some 0.2 ms more. A GPU takes
            arrays that lie there.
        y : (n_rows,) or (n_rows, n_outputs) array
        sample_weight : (n_rows,) array, optional

        Returns
        -------
        float
            The mean objective of the rows before the step, penalties included. If it is not
            finite, no step is taken, and the net is as it was; the first time a RuntimeWarning says
            so. A step that is taken is not undone: if the gradient of a finite loss overflows, as
            with inputs near 1e19 in float32, or 1e10 with Adam, parameters are not finite
            afterwards, where `fit` goes back to those before. The first such step warns.

        Raises
        ------
        TypeError, ValueError
            If the data have a wrong type, shape or value, or a schedule, or an average, needs a
            fit's number of steps, as ``Cosine(0.1)`` does: ``Cosine(0.1, n_steps=10_000)``. A
            function of your own, as rate or dropout, is asked for the step at hand alone.
        RuntimeError
            If another thread is training this net.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP, Adam
        >>> rng = np.random.default_rng(0)
        >>> net = MLP((2, 16, 1), optimizer=Adam(0.01), seed=0)
        >>> losses = []
        >>> for step in range(300):
        ...     X = rng.uniform(-1, 1, (32, 2)).astype(np.float32)
        ...     losses.append(net.train_on_batch(X, X[:, :1] * X[:, 1:]))
        >>> losses[-1] < losses[0] / 5, net.n_steps
        (True, 300)
        """
        steps = self._steps or self._single_steps()
        return steps.on_batch(X, y, sample_weight)

    @explained
    def train_on_gradient(self, X: ArrayLike, output_gradient: ArrayLike) -> None:
        """Take one optimizer step on an objective of your own, from its gradient by the outputs.

        Back-propagation goes on from there. Nothing is divided by the number of rows, and the
        net's loss plays no part; its penalties are added as in training.

        Parameters
        ----------
        X : (n_rows, n_features) array
            As for `train_on_batch`.
        output_gradient : (n_rows, n_outputs) array
            The gradient of your objective by the raw outputs, which `predict_raw` returns.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `train_on_batch`.

        Warns
        -----
        RuntimeWarning
            The first time that a raw output is not finite, and no step is taken, or that
            parameters are not finite after a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP, SGD
        >>> net = MLP((2, 1), optimizer=SGD(0.5), initializer="zeros")
        >>> X = np.array([[1, 2], [3, 4]], np.float32)
        >>> net.train_on_gradient(X, net.predict_raw(X) - [[1], [1]])
        >>> net.parameters
        array([2., 3., 1.], dtype=float32)
        """
        self._single_steps().on_gradient(X, output_gradient)

    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ArrayLike,
        inputs: Literal[True] = True,
        parameters: Literal[True] = True,
    ) -> tuple[Array, Array]: ...
    @overload
    def vjp(self, X: ArrayLike, output_gradient: ArrayLike, inputs: Literal[False]) -> Array: ...
    @overload
    def vjp(
        self, X: ArrayLike, output_gradient: ArrayLike, *, parameters: Literal[False]
    ) -> Array: ...
    @explained
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ArrayLike,
        inputs: bool = True,
        parameters: bool = True,
    ) -> Any:
        """Return the gradient by the parameters and by the inputs, from that by the raw outputs.

        It is the vector-Jacobian product of `predict_raw`: no step is taken, nothing is dropped,
        and penalties are left out. By the inputs it is what a net before this one needs.

        Parameters
        ----------
        X : (n_rows, n_features) array
        output_gradient : (n_rows, n_outputs) array
            The gradient of an objective by the raw outputs.
        inputs : bool, default True
            Also return the gradient by X.
        parameters : bool, default True
            False: return the gradient by X alone.

        Returns
        -------
        gradient : (n_parameters,) array of the net's dtype, in the order of `parameters`
            Summed over the rows; with `parameters`.
        input_gradient : (n_rows, n_features) array of the net's dtype, with `inputs`

        Raises
        ------
        TypeError, ValueError
            If the data have a wrong type, shape or value.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP
        >>> net = MLP((2, 1), initializer="zeros", dtype="float64")
        >>> net.weights[0] = [[3], [4]]
        >>> net.vjp([[1.0, 2.0], [5.0, 6.0]], [[1.0], [10.0]])
        (array([51., 62., 11.]), array([[ 3.,  4.],
               [30., 40.]]))
        """
        return self._single_steps().vjp(X, output_gradient, inputs, parameters)

    def _single_steps(self) -> Steps:
        """The net's single steps, made on first use."""
        steps = self._steps
        if steps is None:
            engine_of = partial(
                devices.engine_on, self._device, n_threads=self._n_threads, lock=self._state.lock
            )
            steps = self._steps = Steps(self._state, engine_of, self._network)
        return steps

    def predict(
        self,
        X: ArrayLike,
        out: Array | None = None,
        *,
        compute_dtype: ComputeDTypes | None = None,
    ) -> Array:
        """Return predictions: values, or the probabilities of a loss that owns a link.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow
        out : (n_rows, n_outputs) array of the net's dtype, optional
            Where to write them; it may share memory with X. Where X holds a number that is not
            finite, which is an error, some may have been written.
        compute_dtype : "bfloat16", or a sequence of dtypes, one per layer, optional
            Products of wide layers, or of those told, take operands rounded to bfloat16, as in
            training in mixed precision, whatever the net was trained in; it needs dtype="float32".
            With AVX512-BF16 many rows of a wide net take half the time; weights are rounded anew in
            each call. None: products are those of `dtype`.

        Returns
        -------
        (n_rows, n_outputs) array of the net's dtype
            `out`, or a new array: of the host, but for an X that lies on the GPU, whose predictions
            lie there too. A prediction that is not finite warns, with a RuntimeWarning. Beside a y
            of shape (n_rows,) take the column, ``predict(X)[:, 0]``: a difference of the two shapes
            would have n_rows columns.

        Raises
        ------
        TypeError, ValueError
            If X or `out` has a wrong type, shape or value.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((2, 4, 3), loss="cross_entropy", seed=0)
        >>> probabilities = net.predict([[0.5, 1.0], [2.0, 0.0]])
        >>> probabilities.shape, probabilities.sum(axis=1).round(6)
        ((2, 3), array([1., 1.], dtype=float32))
        """
        if compute_dtype is not None:
            return self._new_predictor("MLP.predict", compute_dtype)(X, out)
        predictor = self._predictor
        if predictor is None:
            predictor = self._predictor = self._new_predictor()
        return predictor(X, out)

    def predict_raw(
        self,
        X: ArrayLike,
        out: Array | None = None,
        *,
        compute_dtype: ComputeDTypes | None = None,
    ) -> Array:
        """Return the raw outputs: the output layer before activation or link (logits).

        Parameters, results and errors are those of `predict`.
        """
        who, predictor = "MLP.predict_raw", self._raw_predictor
        if predictor is None or compute_dtype is not None:
            predictor = self._new_predictor(who, compute_dtype, raw=True)
            if compute_dtype is None:
                self._raw_predictor = predictor
        return predictor(X, out, who)

    @explained
    def predict_batches(
        self,
        source: ArrayLike | Source,
        *,
        batch_rows: int = 65536,
        compute_dtype: ComputeDTypes | None = None,
    ) -> Iterator[Array]:
        """Yield predictions of a source, an array each: only one batch is in memory at a time.

        Parameters
        ----------
        source : array, frame, path or list of paths, table, blocks or stream
            All that `fit` takes, without y: a stream yields X, or (X, y) as for `fit`. Of files and
            tables columns are found by name, if the net has `feature_names`.
        batch_rows : int of 1 or more, default 65536
            The most rows of an array.
        compute_dtype
            As for `predict`.

        Yields
        ------
        (n_rows, n_outputs) array of the net's dtype
            In the order of the rows.

        Raises
        ------
        TypeError, ValueError, ImportError, OSError
            If rows have a wrong type, shape or value, pyarrow is missing, or a file cannot be read;
            when they are asked for. The message names the rows.

        See Also
        --------
        fastmlp.predict_arrow, fastmlp.predict_parquet : predictions beside columns of a table.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLP
        >>> net = MLP((2, 4, 1), seed=0)
        >>> [len(rows) for rows in net.predict_batches(np.zeros((10, 2)), batch_rows=4)]
        [4, 4, 2]
        """
        who = "MLP.predict_batches"
        scalars.positive_integer(who, "batch_rows", batch_rows)
        computed = self._computed(compute_dtype, who)
        batches = batches_of(source, self.feature_names, batch_rows, who)
        return (self._predicted(batch, who, computed) for batch in batches)

    def _predicted(self, batch: PredictBatch, who: str, compute_dtype: Computed) -> Array:
        if compute_dtype is None:
            predictor = self._predictor = self._predictor or self._new_predictor()
        else:
            predictor = self._new_predictor(who, compute_dtype)
        predicted: Array = predictor(batch.rows, None, f"{who}: {batch.where}".removesuffix(": "))
        return predicted

    @property
    def _link(self) -> str | None:
        """The link that the loss owns, or None."""
        return self._network.loss.link

    def _new_predictor(
        self, who: str = "MLP.predict", compute_dtype: object = None, *, raw: bool = False
    ) -> Predictor:
        state, computed = self._state, self._computed(compute_dtype, who)
        return self._on_device().predictor(
            state.parameters, raw=raw, select=state.select, compute_dtype=computed
        )

    def _computed(self, compute_dtype: object, who: str) -> Computed:
        layout, dtype = self._network.layout, self._network.dtype
        return spec.compute_dtype(compute_dtype, layout.sizes, dtype, who)

    @explained
    def to(self, device: str) -> Self:
        """Move the net, and the optimizer's state with it, to another device; return it.

        `parameters` stay where they are, in the memory of the host: a call on a GPU begins with a
        copy of them, and a fit ends with one back.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:<number>"

        Raises
        ------
        ValueError
            If it is no device's name.
        ImportError, RuntimeError
            If a package, the driver or the device is missing; the net stays where it was.
        RuntimeError
            If a fit of this net is running.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> MLP((2, 4, 1), seed=0).to("cpu").device
        'cpu'
        """
        who = "MLP.to"
        target = resolve.device(device)
        devices.require(target, who)
        with self._state.lock.training(who):
            self._state.unpack()
            self._device = target
            self._engine = self._predictor = self._raw_predictor = self._steps = None
        return self

    @explained
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
            If an argument has a wrong type or value.
        ImportError
            If safetensors is not installed.
        OSError
            If the file cannot be written; one that was there before is as it was.
        ValueError
            If a rule of your own has no name, as a lambda, or a parameter is not finite.
        RuntimeError
            If a fit is running, and with it the training state: see `checkpoint` of `fit`.

        Examples
        --------
        >>> import os, tempfile
        >>> from fastmlp import MLP
        >>> net, path = MLP((2, 4, 1), seed=0), os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> net.save(path)
        >>> bool((MLP.load(path).predict([[1, 2]]) == net.predict([[1, 2]])).all())
        True
        """
        scalars.path("MLP.save", "path", path, mode="w")
        scalars.boolean("MLP.save", "include_training_state", include_training_state)
        if include_training_state:
            with self._state.lock.training("MLP.save"):
                state = model_state.capture(self._network, self._state, training=True)
        else:
            state = model_state.capture(self._network, self._state, training=False)
        safetensors_file.write(path, model_state.pack(state))

    @classmethod
    @explained
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
        from anywhere is a net or a `FileError`. Files of fastmlp 0.3 and later load.

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
            If an argument has a wrong type or value.
        OSError
            If there is no file, or it cannot be read.
        ImportError
            If safetensors is not installed.

        Examples
        --------
        >>> from fastmlp import FileError, MLP
        >>> try:
        ...     MLP.load("README.md")
        ... except (FileError, OSError) as error:
        ...     print("no net")
        no net
        """
        scalars.path("MLP.load", "path", path, mode="r")
        if n_threads is not None:
            scalars.positive_integer("MLP.load", "n_threads", n_threads)
        devices.require(resolve.device(device), "MLP.load")
        own = resolve.own_rules(rules, "MLP.load")
        content = safetensors_file.read(path)
        with safetensors_file.refusing(path):
            net = unpacked(content, own, n_threads)
        return net.to(device)

    def as_estimator(
        self, kind: Literal["classifier", "regressor"] | None = None, **settings: Any
    ) -> Any:
        """Return an estimator of scikit-learn that fits nets like this one, each with new weights.

        Its parameters are the keywords of `MLP`, with this net's settings, and those of `fit`, but
        for data, callbacks, progress and checkpoints; `random_state` is the seed. So it can be
        cloned, cross-validated, searched over and put in a pipeline, whatever losses and rules it
        has. The fitted net is its `net_`, the record of the fit its `history_`.

        Parameters
        ----------
        kind : "classifier" or "regressor", optional
            None: a classifier if the loss has the link softmax or sigmoid. A classifier takes
            labels of any kind, as many as `layer_sizes` has outputs; two for one output.
        **settings
            Other values of its parameters, such as ``epochs=50, random_state=0``.

        Raises
        ------
        TypeError, ValueError
            If there is no such kind or parameter, or a layer is frozen.
        ImportError
            If scikit-learn is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from fastmlp import MLP, Focal
        >>> net = MLP((4, 16, 3), loss=Focal(1.0))
        >>> model = net.as_estimator(epochs=200, random_state=0)
        >>> X, y = load_iris(return_X_y=True)
        >>> cross_val_score(model, X, y).mean() > 0.9
        np.True_
        """
        try:
            room = import_module("fastmlp.estimators.net_estimators")
        except ModuleNotFoundError as error:
            raise ImportError(needs("MLP.as_estimator", "scikit-learn")) from error
        return room.estimator_of(self, self._network, self._initializer, kind, settings)

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

    def _repr_html_(self) -> str:
        return self._description().html()

    def _description(self) -> Description:
        names = (self._loss_name, self._output_name)
        return Description(self._network, self.optimizer, *names, self.n_steps, self.device)

    def _on_device(self) -> Engine[Any]:
        """The engine of the net's device, made on first use: it imports Numba."""
        if self._engine is None:
            lock = self._state.lock
            self._engine = devices.engine_on(self._device, self._network, self._n_threads, lock)
        return self._engine

    def __copy__(self) -> Self:
        """A deep copy: two nets that had arrays in common would train both."""
        return deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict.fromkeys(("_engine", "_predictor", "_raw_predictor", "_steps"))
        return {**vars(self), **kept}


class Core(NamedTuple):
    """The parts of a net that `fit_many` trains."""

    engine: Engine[Any]
    state: NetState


def core_of(net: MLP) -> Core:
    """A net's engine and state."""
    return Core(net._on_device(), net._state)


def net_on(state: NetState, **settings: Any) -> MLP:
    """A net that shares a state's parameters and lock; its optimizer starts from step 0."""
    net = MLP(state.layout.sizes, dtype=state.parameters.dtype, initializer="zeros", **settings)
    own, net._initializer = net._state, None
    net._state = NetState(state.layout, state.parameters, own.optimizer, own.generator)
    net._state.lock = state.lock
    return net


def unpacked(content: Content, own: Mapping[str, Any], n_threads: int | None) -> MLP:
    """The net that a file holds; `own` are the user's rules by their names.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the file's content is not a net's.
    """
    saved = model_state.unpack(content, own)
    network = saved.network
    *hidden, output = network.activations
    net = MLP(
        network.layout.sizes,
        activation=hidden,
        output_activation=network.loss.link or output,
        loss=network.loss,
        optimizer=saved.optimizer,
        initializer="zeros",
        dtype=network.dtype,
        n_threads=n_threads,
    )
    net._network, net._initializer = network, None
    model_state.restore(net._state, saved)
    return net
