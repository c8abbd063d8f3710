"""MLP: the net that users hold. Read this first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._process import locks, random_state
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Engine, Predictor
from fastmlp.data.batches import PredictBatch, batches_of
from fastmlp.data.sources import Source
from fastmlp.network import heads, layer_settings, residual, resolve, spec
from fastmlp.network.residual import NORM_EPSILON, Residual
from fastmlp.network.resolve import smoothed
from fastmlp.network.spec import ComputeDTypes
from fastmlp.network.state import NetState
from fastmlp.network.summary import Description
from fastmlp.rules import losses
from fastmlp.rules.dropout import Rate
from fastmlp.rules.optimizer_protocol import Optimizer, is_averaged
from fastmlp.rules.optimizers import require_first_order
from fastmlp.serialization import codec, files, model_state
from fastmlp.serialization.files import Content, content_of
from fastmlp.training import loop
from fastmlp.training.derivatives import DerivativeWeight, Given, is_one, refuse
from fastmlp.training.history import History, interrupted
from fastmlp.training.loop import single_step
from fastmlp.training.metrics import Given as Metrics
from fastmlp.training.options import (
    EVERY,
    FitOptions,
    Listener,
    RawRows,
    ValidationData,
)
from fastmlp.training.ranks import CommunicatorLike, check_ranks, ranks_of
from fastmlp.training.request import FitRequest
from fastmlp.training.second_order import batch_size_for
from fastmlp.training.second_order import check as check_second_order
from fastmlp.training.steps import Steps
from fastmlp.training.stopping import EarlyStopping
from fastmlp.validation import Array, arrays, frames, scalars
from fastmlp.validation.calls import OF_NETS, AdvisingType, assignable, explained
from fastmlp.validation.gaps import MissingTargets
from fastmlp.validation.heads import ByHead, WeightsByHead
from fastmlp.validation.messages import imported

if TYPE_CHECKING:
    from fastmlp.network.residual import NormName, SkipName
    from fastmlp.network.spec import Computed
else:
    # jedi 0.20 raises at a property with a Literal, and IPython then completes nothing.
    Computed = str | tuple[str, ...] | None
    NormName = SkipName = str

WITHOUT_COMPUTE_DTYPE = "leave compute_dtype out, for products in float32"


@final
@assignable(
    *("optimizer", "trainable", "layer_rates", "n_threads", "feature_names"),
    also="items of weights, biases and parameters",
)
class MLP(metaclass=AdvisingType, advice=OF_NETS):
    """A multi-layer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int and Residual
        Inputs, hidden layers or residual blocks, outputs: ``(2, 4, 1)``.
    activation : str or callable, or a sequence of them, one per hidden layer
        A name, or your function ``activation(z) -> (value, slope)`` on scalars.
    norm : "layer" or "rms", or a sequence of them and None, one per hidden layer, optional
        Norm of each hidden layer before its activation,
        or of a residual block's inputs. Dropout stands before it.
    norm_epsilon : float above 0
        Added to the variance.
    skip : "input", optional
        The output layer takes the inputs too, after the last hidden layer's outputs.
    output_activation : str or callable, optional
        None: identity, or the loss's link, such as "softmax" for "cross_entropy".
    loss : str, callable, Loss, Quantile, Tweedie, Focal or BinaryFocal, or several for heads
        A name, a loss with settings, or a function: ``loss(prediction, target) ->
        (value, slope)``. Heads are slices of the outputs, each with a loss:
        ``[("cross_entropy", 6), ("mse", 1)]``, or by name ``{"action":
        ("cross_entropy", 6), "value": ("mse", 1)}``.
    loss_weights : sequence of float, or mapping by the heads' names, optional
        Weights of the heads' losses in their sum. None: all are 1.
    optimizer : str, Optimizer or callable
        A name, settings such as ``Adam(0.01)``,
        or ``optimizer(w, g, m, v, rate) -> (w, m, v)``.
    l2, l1 : float
        Strengths of penalties on weights: a batch of mass m has the objective
        ``mean(loss) + (l2 sum(W^2) / 2 + l1 sum(abs(W))) / m``.
    penalties : mapping of str or callable to float, optional
        Strengths of further penalties: ``penalty(w) -> (value, slope)``.
    initializer : str or callable, optional
        A name, `Orthogonal`, or ``initializer(generator, shape) -> weights``, or
        ``(weights, biases)``; biases are 0 without. None: weights and biases that suit
        the activation.
    label_smoothing : float in [0, 1)
        Training targets of n classes are ``(1 - label_smoothing)
        y + label_smoothing / n``.
    layer_rates : sequence of float or mapping, one per layer, or a mapping, optional
        Factors of the learning rate, such as ``[0.1, 0.1, 1.0]``, or ``{"weights":
        1.0, "biases": 0.1}`` in the place of a number. The factor 0 freezes.
    dropout : float in [0, 1) or schedule, or a sequence of them, one per hidden layer
        Probability with which `fit` drops each output of a hidden layer.
    input_dropout : float in [0, 1) or schedule
        Probability with which `fit` drops each input.
    input_noise : float of 0 or more, or schedule
        Standard deviation of the normal noise that `fit` adds to the inputs.
    dtype : "float32" or "float64"
    compute_dtype : "bfloat16", or a sequence of "bfloat16" and "float32", one per layer, optional
        Precision of products in training, in wide layers or in the layers you list;
        the rest is float32. None: products are in `dtype`.
    monotonic_cst : sequence of -1, 0 and 1, one per input, optional
        Predictions do not fall with inputs of 1, and do not rise with inputs of -1.
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        Source of initial weights, shuffling, dropout and noise. None: random.
    n_threads : int, optional
        Maximum number of threads. None: all of the process.
        Results do not depend on it.
    device : "cpu", "cuda" or "cuda:<number>"
        "cuda" is an NVIDIA GPU, with the extra `cuda`.

    Attributes
    ----------
    parameters : (n_parameters,) array
        All weights, all biases, all gains, all shifts: writing to it changes the net.
    weights, biases : lists of arrays
        Views into `parameters`, shape (n_in, n_out)
        and (n_out,) each, one per linear layer.
    gains, shifts : lists of arrays
        Views into `parameters`, shape (n_units,) each,
        one per norm; "rms" has no shifts.
    optimizer : Optimizer
        Can be replaced between fits. Another update rule starts at step 0;
        else the state is kept.
    trainable : list of bool, one per layer
        Can be set between fits, whole, by item, or by one bool. False freezes a layer.
    layer_rates : list of float or mapping, one per layer
        Can be set between fits.
    feature_names : tuple of str, or None
        Names of the columns of X, by which frames are read. A fit on a frame sets them.
    n_steps : int
        Optimizer steps so far.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    ImportError, RuntimeError
        If a GPU's package, driver or device is missing.
    MemoryError
        If the parameters do not fit into memory.

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

    _engine: Engine[Any] | None
    _predictor: Predictor | None
    _raw_predictor: Predictor | None
    _steps: Any

    @explained
    def __init__(
        self,
        layer_sizes: Iterable[int | Residual],
        *,
        activation: spec.Activation | Sequence[spec.Activation] = "relu",
        norm: NormName | Sequence[NormName | None] | None = None,
        norm_epsilon: float = NORM_EPSILON,
        skip: SkipName | None = None,
        output_activation: spec.OutputActivation | None = None,
        loss: spec.LossLike = "mse",
        loss_weights: spec.LossWeights | None = None,
        optimizer: spec.OptimizerLike = "adam",
        l2: float = 0.0,
        l1: float = 0.0,
        penalties: spec.Penalties | None = None,
        initializer: spec.InitializerLike | None = None,
        label_smoothing: float = 0.0,
        layer_rates: spec.LayerRates | None = None,
        dropout: spec.DropoutLike = 0.0,
        input_dropout: Rate = 0.0,
        input_noise: Rate = 0.0,
        dtype: spec.DType = "float32",
        compute_dtype: spec.ComputeDTypes | None = None,
        monotonic_cst: Sequence[int] | None = None,
        seed: spec.Seed | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        # All arguments are checked before parameters are allocated; nothing is
        # compiled.
        has_heads = heads.is_spelled(loss)
        if has_heads:
            heads.check_settings(output_activation, label_smoothing)
        elif loss_weights is not None:
            raise ValueError(f"MLP: loss_weights needs heads: loss={heads.HEADS_FORM}")
        aim = losses.JOINT if has_heads else smoothed(loss, label_smoothing)
        found = resolve.network(
            layer_sizes,
            activation=activation,
            output=output_activation,
            loss_setting=aim,
            l2=l2,
            l1=l1,
            penalties=penalties,
            kind=dtype,
            norm=norm,
            epsilon=norm_epsilon,
            skip=skip,
        )
        if has_heads:
            found = heads.with_heads(found, loss, loss_weights)
        network, self._loss_name, self._output_name = found
        factors = layer_settings.layer_rates(layer_rates, network.layout.n_layers)
        drawn = layer_settings.dropout_of(
            dropout, input_dropout, input_noise, len(network.layer_sizes) - 2
        )
        if drawn is not None:
            drawn = drawn._replace(hidden=residual.of_linear(network, drawn.hidden))
        computed = spec.compute_dtype(
            compute_dtype, network.layout.sizes, network.dtype
        )
        network = network._replace(layer_rates=factors, dropout=drawn)
        if computed:
            residual.require_plain(
                network, f"MLP: compute_dtype={compute_dtype!r}", WITHOUT_COMPUTE_DTYPE
            )
        if monotonic_cst is not None and network.link.parts:
            raise heads.refuse("monotonic_cst")
        signs = layer_settings.signs_of(monotonic_cst, network)
        self._network = network._replace(compute_dtype=computed, signs=signs)
        rule = resolve.optimizer(optimizer)
        layer_settings.check_optimizer(rule, self._network)
        self._device = resolve.device(device)
        protocol.require(self._device)
        self._initializer = initializer
        self.n_threads = n_threads
        generator = resolve.generator(seed)
        self._state = resolve.initial_state(self._network, rule, generator, initializer)
        if drawn is not None:
            self._state.key = random_state.key_of(
                random_state.seeds_of(seed, generator)
            )

    @property
    def layer_sizes(self) -> tuple[Any, ...]:
        """Layer sizes, inputs first, as given: integers, and residual blocks."""
        return self._network.layer_sizes

    @property
    def norm(self) -> NormName | tuple[NormName | None, ...] | None:
        """The norm of all hidden layers, or one of each."""
        written = self._network.written
        norms: Any = () if written is None else written.norms
        return norms if len({*norms}) > 1 else next(iter(norms), None)

    @property
    def skip(self) -> SkipName | None:
        """ "input" if the output layer takes the inputs too."""
        written: Any = self._network.written
        return None if written is None else written.skip

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and predictions."""
        return self._network.dtype

    @property
    def compute_dtype(self) -> Computed:
        """The dtype of products in training, or one per layer, or None."""
        return self._network.compute_dtype

    @property
    def monotonic_cst(self) -> tuple[int, ...] | None:
        """For each input 1 if predictions rise with it,
        -1 if they fall, else 0; None: all 0.
        """
        return self._network.signs or None

    @property
    def device(self) -> str:
        """The device that trains and predicts: "cpu", "cuda" or "cuda:<number>"."""
        return self._device

    @property
    def n_threads(self) -> int | None:
        """Maximum number of threads on the CPU;
        None: as many as the process may use.
        """
        return self._n_threads

    @n_threads.setter
    def n_threads(self, n_threads: int | None) -> None:
        if n_threads is not None:
            n_threads = scalars.positive_integer("MLP", "n_threads", n_threads)
        self._n_threads = n_threads
        self._engine = self._predictor = self._raw_predictor = self._steps = None
        locks.change[0] = object()

    @property
    def n_steps(self) -> int:
        """Optimizer steps so far."""
        return self._state.n_steps

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; one with another rule starts from step 0 with a new state."""
        return self._state.optimizer

    @optimizer.setter
    def optimizer(self, setting: spec.OptimizerLike) -> None:
        optimizer = resolve.optimizer(setting)
        state = self._state
        layer_settings.check_optimizer(optimizer, self._network)
        if optimizer.rule is state.optimizer.rule:
            # Not an owner: steps go on with the state, which stays in place.
            with state.lock.parameters:
                state.lock.require_free("MLP.optimizer")
                state.optimizer = optimizer
                locks.change[0] = object()
            return
        with state.lock.training("MLP.optimizer"):
            state.restart()
            state.optimizer = optimizer

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the columns of X, or None; a fit of a frame sets them."""
        return self._state.feature_names

    @feature_names.setter
    def feature_names(self, names: Iterable[str] | None) -> None:
        checked = frames.names_given(names, self.layer_sizes[0], "MLP.feature_names")
        self._state.feature_names = checked

    @property
    def trainable(self) -> list[bool]:
        """True for each trained layer, False for a frozen layer; live."""
        switches = self._network.trainable or (True,) * self._network.layout.n_layers
        return layer_settings.Switches(switches, partial(setattr, self, "trainable"))

    @trainable.setter
    def trainable(self, switches: bool | Sequence[bool]) -> None:
        self._change(
            trainable=layer_settings.trainable(switches, self._network.layout.n_layers)
        )

    @property
    def layer_rates(self) -> list[float | spec.Rates]:
        """Factors of the learning rate of each layer."""
        return layer_settings.all_shown(self._network)

    @layer_rates.setter
    def layer_rates(self, factors: spec.LayerRates | None) -> None:
        self._change(
            layer_rates=layer_settings.layer_rates(
                factors, self._network.layout.n_layers
            )
        )

    def _change(self, **fields: Any) -> None:
        lock = self._state.lock
        averaged = is_averaged(self._state.optimizer)
        with lock.parameters:
            lock.require_free(f"MLP.{next(iter(fields))}")
            lock.n_owners += averaged
            before = self._network
            self._network = self._network._replace(**fields)
            # Predictions and buffers do not depend on rates.
            for prepared in (
                (self._engine, self._steps) if self._device == "cpu" else ()
            ):
                changing: Any = prepared
                if changing is not None:
                    changing.change(self._network)
            if self._device != "cpu":
                self._engine = self._steps = None
            frozen = layer_settings.frozen
            if averaged and frozen(before) != frozen(self._network):
                # Frozen layers keep their shown parameters,
                # and others were averaged beside them.
                self._state.train_shown()

    @property
    def parameters(self) -> Array:
        """All weights, then all biases, gains and shifts: one flat vector, live."""
        return self._state.lock.lend()

    @property
    def weights(self) -> list[Array]:
        """Weight matrices, shape (n_in, n_out) each, as live views."""
        return spec.Views(
            spec.weight_views(self._network.layout, self.parameters), "MLP.weights"
        )

    @property
    def biases(self) -> list[Array]:
        """Bias vectors, shape (n_out,) each, as live views."""
        return spec.Views(
            spec.bias_views(self._network.layout, self.parameters), "MLP.biases"
        )

    @property
    def gains(self) -> list[Array]:
        """Gains of each norm, shape (n_units,) each, as live views."""
        return spec.Views(
            spec.gain_views(self._network.layout, self.parameters), "MLP.gains"
        )

    @property
    def shifts(self) -> list[Array]:
        """Shifts of each norm of "layer", shape (n_units,) each, as live views."""
        return spec.Views(
            spec.shift_views(self._network.layout, self.parameters), "MLP.shifts"
        )

    @explained
    def fit(
        self,
        X: ArrayLike | Source,
        y: ByHead | None = None,
        *,
        epochs: int = 100,
        batch_size: int | None = None,
        shuffle: bool = True,
        target: str | Sequence[str] | None = None,
        buffer_rows: int | None = None,
        steps_per_epoch: int | None = None,
        sample_weight: ArrayLike | WeightsByHead | None = None,
        missing_targets: MissingTargets = "raise",
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
        derivatives: ArrayLike | None = None,
        derivative_weight: DerivativeWeight = "balanced",
        validation_derivatives: ArrayLike | None = None,
    ) -> History:
        """Train on X and y; a further call goes on where this one ended.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, frame, or source
            C-contiguous arrays of the net's dtype are not copied. A source may exceed
            memory: `Blocks`, a stream's function or, with `target`, paths of files.
        y : (n_rows,) or (n_rows, n_outputs) array, or a column, or columns, of a frame
            Integer labels from 0, or one-hot rows, for "cross_entropy". Sources contain
            y. A net with heads takes a tuple or a dict of such arrays, or one array of
            numbers.
        epochs : int of 1 or more
            Passes over all rows.
        batch_size : int of 1 or more, optional
            Rows per step. None: 32; all rows for `LevenbergMarquardt` and `LBFGS`.
        shuffle : bool
            Take rows, or blocks of a source and rows of a buffer,
            in a new order each epoch.
        target : str or sequence of str, optional
            Columns of y in files or a table;
            others are features. Needs the extra `arrow`.
        buffer_rows : int, at least 16 times the batch size, optional
            Rows of a source in memory, twice. None: an eighth of the available memory.
        steps_per_epoch : int, optional
            Steps after which an epoch of a source ends. None: an epoch is one pass.
        sample_weight : (n_rows,) or (n_rows, n_targets) array, optional
            Weights of rows, or of targets, 0 or more. A batch of zero weights takes no
            step. A net with heads takes a tuple or a dict, too.
        missing_targets : "raise" or "ignore"
            "ignore": NaN, None and NA in y are unknown targets, which weigh 0.
        class_weight : mapping of int to float, or "balanced", optional
            Weights of classes, 1 by default,
            which multiply `sample_weight` in training.
        validation_data : (X, y) or (X, y, sample_weight), or a source, optional
            Rows to validate on after each epoch.
        validation_split : float in (0, 1), optional
            Fraction of the rows to hold out, the last ones.
        metrics : dict of str to callable or str, or names, optional
            Measures of the validation rows: names of losses or of scikit-learn's
            scorers, or ``function(targets, predictions) -> float``, which may take
            ``sample_weight``.
        early_stopping : int or EarlyStopping, optional
            Epochs without a lower validation loss before the end,
            with the best parameters.
        keep_best : bool
            End with the parameters of the lowest validation loss,
            without stopping early.
        time_limit : float or datetime.timedelta, optional
            Seconds; the fit ends with the first epoch that ends later.
        callbacks : callable, EarlyStopping or ReduceLROnPlateau, or a sequence of them
            Functions called with a `Report` after each epoch;
            ``report.stop()`` ends the fit.
        progress : bool
            Show a tqdm bar with the losses and the metrics.
        checkpoint : path, optional
            File of the fit's progress,
            written between epochs and at the end; `load` reads it.
        checkpoint_every : int or datetime.timedelta, default one minute
            Epochs, or time, between checkpoints.
        resume : bool
            Go on from a checkpoint, if any, to the bits of an uninterrupted fit.
        communicator : a communicator of mpi4py's, or "world", which is ``MPI.COMM_WORLD``, optional
            Ranks that train this net together,
            each with its rows (how-to: several machines).
        average_every : int of 1 or more, optional
            Steps of each rank between averages. None:
            gradients are summed in each step.
        derivatives : (n_rows, n_outputs, n_features) array, or (n_rows, n_features), optional
            Derivatives of the targets by the inputs, NaN where unknown, which
            predictions learn too: the objective has ``derivative_weight *
            mean((jacobian(net, X) - derivatives)**2)`` more, the mean over a batch's
            known numbers. Activations must be smooth.
        derivative_weight : float, (n_features,) or (n_outputs, n_features) array, or "balanced"
            Weights of the squares; default "balanced": each column of derivatives
            weighs as the targets do, by mean squares, and at most ten times as much as
            the largest column.
        validation_derivatives : array as `derivatives`, optional
            Derivatives of `validation_data`;
            the validation loss is then the whole objective.

        Returns
        -------
        History
            Losses by epoch, status and seconds. Ctrl-C ends the fit with a warning and
            a usable net. A loss or parameter that is not finite warns, and parameters
            return to the previous epoch.

        Raises
        ------
        TypeError, ValueError, FileError, MemoryError
            If data, an argument or the checkpoint is invalid,
            or memory is short; the net is unchanged.
        RuntimeError
            If another fit of this net is running.
        ImportError, OSError
            If a package is missing, or the first checkpoint cannot be written.
            Later ones warn.

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
                layer_settings.require_trained(self._network, who)
                size = batch_size_for(state.optimizer, batch_size, who)
                given = Given(derivatives, derivative_weight, validation_derivatives)
                options = FitOptions.checked(
                    who,
                    epochs=epochs,
                    batch_size=size,
                    shuffle=shuffle,
                    target=target,
                    buffer_rows=buffer_rows,
                    steps_per_epoch=steps_per_epoch,
                    missing_targets=missing_targets,
                    heads=self._network.head_names,
                    class_weight=class_weight,
                    validation_data=validation_data,
                    validation_split=validation_split,
                    metrics=metrics,
                    early_stopping=early_stopping,
                    keep_best=keep_best,
                    time_limit=time_limit,
                    callbacks=callbacks,
                    progress=progress,
                    checkpoint=checkpoint,
                    checkpoint_every=checkpoint_every,
                    resume=resume,
                    average_every=average_every,
                    derivatives=given.known,
                )
                check_ranks(communicator, average_every, self._device, who)
                fit_of = (
                    self._network,
                    state.optimizer,
                    options,
                    self._device,
                    communicator,
                )
                reading = check_second_order(*fit_of, who)
                given.check(self._network, self._device, state.optimizer, who)
                if given and communicator is not None:
                    refuse("communicator", "one process", who)
            ranks.agree_on(options, self._network, state)
            raw = RawRows(X, y, sample_weight, validation_data, given)
            engine_of = self._with_derivatives if given else self._on_device
            try:
                engine, rows = ranks.rows(engine_of, raw, reading, self.feature_names)
            except KeyboardInterrupt as error:
                # The first call of a process imports the backend: 0.1 s.
                ranks.interrupted(error)
                return interrupted(History())
            options = ranks.options(options, state)
            request = FitRequest(
                rows.data, options, held_out=rows.held_out, net=self, ranks=ranks
            )
            buffered = ranks.buffered(request, rows.feed, engine, state)
            with state.lock.training(who):
                state.feature_names = rows.names
                request.open_checkpoint(self._network, state)
                loop.fit(engine, state, request, buffered)
            return request.history

    def _with_derivatives(self) -> Engine[Any]:
        network = self._network._replace(derivatives="targets")
        lock = self._state.lock
        return protocol.engine_on(self._device, network, self._n_threads, lock)

    @explained
    def loss_and_gradient(
        self,
        X: ArrayLike,
        y: ByHead,
        sample_weight: ArrayLike | WeightsByHead | None = None,
        *,
        missing_targets: MissingTargets = "raise",
    ) -> tuple[float, Array]:
        """Return the objective on all rows, including penalties, and the gradient.

        With an averaging optimizer, both belong to the parameters in training.

        Parameters
        ----------
        X, y, sample_weight, missing_targets
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
        steps = self._single_steps()
        return steps.loss_and_gradient(X, y, sample_weight, missing_targets)

    @explained
    def apply_gradient(self, gradient: ArrayLike) -> None:
        """Take one optimizer step with a gradient, which the optimizer may clip.

        Parameters
        ----------
        gradient : (n_parameters,) array, in the order of `parameters`

        Raises
        ------
        TypeError, ValueError
            If the gradient has a wrong type, shape or value; the net is unchanged then.

        Examples
        --------
        >>> from fastmlp import MLP, SGD
        >>> net = MLP((1, 1), optimizer=SGD(0.5), initializer="zeros")
        >>> net.apply_gradient([1.0, -2.0])
        >>> net.parameters
        array([-0.5,  1. ], dtype=float32)
        """
        who, state = "MLP.apply_gradient", self._state
        layer_settings.require_trained(self._network, who)
        require_first_order(state.optimizer, who)
        n_parameters = len(state.parameters)
        dtype = self._network.dtype
        slopes = arrays.vector(gradient, n_parameters, dtype, "gradient", who)
        with state.lock.training(who):
            single_step(self._on_device(), state, slopes)

    def train_on_batch(
        self,
        X: ArrayLike,
        y: ByHead,
        sample_weight: ArrayLike | WeightsByHead | None = None,
        *,
        missing_targets: MissingTargets = "raise",
        derivatives: ArrayLike | None = None,
        derivative_weight: DerivativeWeight = 1.0,
    ) -> float:
        """Take one optimizer step on these rows, in your training loop.

        Bits are as after ``fit(X, y, epochs=1, batch_size=len(X), shuffle=False)``.
        Buffers serve all numbers of rows up to the largest so far.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow
            C-contiguous arrays of the net's dtype are fastest,
            as is y; other arrays are copied.
        y : (n_rows,) or (n_rows, n_outputs) array
        sample_weight : (n_rows,) or (n_rows, n_targets) array, optional
        missing_targets : "raise" or "ignore"
            As for `fit`. A batch without a known target takes no step, and warns once.
        derivatives, derivative_weight
            As for `fit`, but 1 by default: "balanced" weighs by these rows alone.

        Returns
        -------
        float
            The mean objective before the step, including penalties. If it is not
            finite, a warning replaces the step. Parameters that are not finite warn
            too.

        Raises
        ------
        TypeError, ValueError
            If the data have a wrong type, shape or value, or a schedule or an average
            needs a fit's number of steps, as ``Cosine(0.1)`` does:
            ``Cosine(0.1, n_steps=10_000)``.
        RuntimeError
            If another thread is training this net.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((2, 16, 1), seed=0)
        >>> losses = [net.train_on_batch([[0, 1], [1, 1]], [1, 2]) for step in range(300)]
        >>> losses[-1] < losses[0] / 5, net.n_steps
        (True, 300)
        """
        steps = self._steps or self._single_steps()
        if derivatives is None and is_one(derivative_weight):
            return steps.on_batch(X, y, sample_weight, missing_targets)
        given = Given(derivatives, derivative_weight)
        return steps.on_batch(X, y, sample_weight, missing_targets, given)

    @explained
    def train_on_gradient(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> None:
        """Take one optimizer step on your objective, from the gradient by the outputs.

        Penalties are added, the net's loss is unused,
        and gradients are not divided by rows.

        Parameters
        ----------
        X : (n_rows, n_features) array
        output_gradient : (n_rows, n_outputs) array, or one for each head, or None
            Gradient of your objective by the raw outputs of `predict_raw`.
            None: 0, with `jacobian_gradient`.
        jacobian_gradient : (n_rows, n_outputs, n_features) or (n_rows, n_features) array, optional
            Gradient of your objective by ``jacobian(net, X, raw=True)``,
            the second shape for a net of one output. Activations must be smooth.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `train_on_batch`, with the same warnings.

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
        steps = self._single_steps()
        if jacobian_gradient is None:
            steps.on_gradient(X, output_gradient)
        else:
            steps.on_jacobian_gradient(X, output_gradient, jacobian_gradient)

    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: Literal[True] = True,
        parameters: Literal[True] = True,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> tuple[Array, Array]: ...
    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: Literal[False],
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> Array: ...
    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        *,
        parameters: Literal[False],
        jacobian_gradient: ArrayLike | None = None,
    ) -> Array: ...
    @explained
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: bool = True,
        parameters: bool = True,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> Any:
        """Return gradients by parameters and inputs,
        from the gradient by the raw outputs.

        Steps, dropout and penalties are left out.

        Parameters
        ----------
        X : (n_rows, n_features) array
        output_gradient : (n_rows, n_outputs) array, or one for each head, or None
            Gradient of an objective by the raw outputs.
            None: 0, with `jacobian_gradient`.
        inputs : bool, default True
            Also return the gradient by X.
        parameters : bool, default True
            False: return the gradient by X alone.
        jacobian_gradient : (n_rows, n_outputs, n_features) or (n_rows, n_features) array, optional
            Gradient of the objective by the raw Jacobian, as for `train_on_gradient`:
            the results are of ``sum(output_gradient * f) +
            sum(jacobian_gradient * J)``.

        Returns
        -------
        gradient : (n_parameters,) array of the net's dtype, summed over the rows, with `parameters`
        input_gradient : (n_rows, n_features) array of the net's dtype, with `inputs`

        Raises
        ------
        TypeError, ValueError
            If the data have a wrong type, shape or value.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> net = MLP((2, 1), initializer="zeros", dtype="float64")
        >>> net.weights[0] = [[3], [4]]
        >>> net.vjp([[1.0, 2.0], [5.0, 6.0]], [[1.0], [10.0]])
        (array([51., 62., 11.]), array([[ 3.,  4.],
               [30., 40.]]))
        """
        steps = self._single_steps()
        wanted = (inputs, parameters)
        of_jacobian = jacobian_gradient
        return steps.vjp(X, output_gradient, *wanted, of_jacobian=of_jacobian)

    def _single_steps(self) -> Steps:
        steps = self._steps
        if steps is None:
            engine_of = partial(
                protocol.engine_on,
                self._device,
                n_threads=self._n_threads,
                lock=self._state.lock,
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
        """Return predictions: values, or probabilities if the loss has a link.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow
        out : (n_rows, n_outputs) array of the net's dtype, optional
            Receives the result; may share memory with X.
        compute_dtype : "bfloat16", or a sequence of dtypes, one per layer, optional
            Precision of products, as for `MLP`. None: products are in `dtype`.

        Returns
        -------
        (n_rows, n_outputs) array of the net's dtype
            `out`, or a new array, on the GPU like X. Predictions that are not finite
            warn. Compare a y of shape (n_rows,) with the column ``predict(X)[:, 0]``.

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

        Parameters, results and errors as for `predict`.
        """
        who = "MLP.predict_raw"
        predictor = self._raw_predictor
        if predictor is None or compute_dtype is not None:
            predictor = self._new_predictor(who, compute_dtype, raw=True)
            if compute_dtype is None:
                self._raw_predictor = predictor
        return predictor(X, out, who)

    @explained
    def predict_heads(self, X: ArrayLike) -> Any:
        """Return the predictions of each head.

        Parameters
        ----------
        X : (n_rows, n_features) array of real numbers, or a frame of pandas, polars or Arrow

        Returns
        -------
        tuple, or dict by the heads' names, of (n_rows, n) arrays of the net's dtype
            Slices of what `predict` returns:
            probabilities or values, by the loss of each head.

        Raises
        ------
        TypeError, ValueError
            If the net has no heads, or X has a wrong type, shape or value.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> loss = {"action": ("cross_entropy", 3), "value": ("mse", 1)}
        >>> net = MLP((2, 8, 4), loss=loss, seed=0)
        >>> each = net.predict_heads([[0.5, 1.0], [2.0, 0.0]])
        >>> {name: values.shape for name, values in each.items()}
        {'action': (2, 3), 'value': (2, 1)}
        """
        network = self._network
        if not network.heads:
            raise ValueError(f"MLP.predict_heads needs heads: loss={heads.HEADS_FORM}")
        return heads.slices(network, self.predict(X))

    @explained
    def predict_batches(
        self,
        source: ArrayLike | Source,
        *,
        batch_rows: int = 65536,
        compute_dtype: ComputeDTypes | None = None,
    ) -> Iterator[Array]:
        """Yield arrays of predictions, with one batch in memory at a time.

        Parameters
        ----------
        source : array, frame, path or list of paths, table, blocks or stream
            As for `fit`, without y; a stream may yield X alone.
        batch_rows : int of 1 or more, default 65536
            Maximum number of rows of an array.
        compute_dtype
            As for `predict`.

        Yields
        ------
        (n_rows, n_outputs) array of the net's dtype, in the order of the rows

        Raises
        ------
        TypeError, ValueError, ImportError, OSError
            When requested rows are invalid or cannot be read.
            The message names the rows.

        See Also
        --------
        fastmlp.predict_arrow, fastmlp.predict_parquet :
            Predictions beside columns of a table.

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

    def _predicted(
        self, batch: PredictBatch, who: str, compute_dtype: Computed
    ) -> Array:
        if compute_dtype is None:
            predictor = self._predictor = self._predictor or self._new_predictor()
        else:
            predictor = self._new_predictor(who, compute_dtype)
        predicted: Array = predictor(
            batch.rows, None, f"{who}: {batch.where}".removesuffix(": ")
        )
        return predicted

    def _new_predictor(
        self,
        who: str = "MLP.predict",
        compute_dtype: object = None,
        *,
        raw: bool = False,
    ) -> Predictor:
        state = self._state
        computed = self._computed(compute_dtype, who)
        return self._on_device().predictor(
            state.parameters, raw=raw, select=state.select, compute_dtype=computed
        )

    def _computed(self, compute_dtype: object, who: str) -> Computed:
        layout = self._network.layout
        dtype = self._network.dtype
        if compute_dtype is not None:
            residual.require_plain(
                self._network,
                f"{who}: compute_dtype={compute_dtype!r}",
                WITHOUT_COMPUTE_DTYPE,
            )
        return spec.compute_dtype(compute_dtype, layout.sizes, dtype, who)

    @explained
    def to(self, device: str) -> Self:
        """Move the net and the optimizer's state to another device; return the net.

        `parameters` stay in host memory: a call on a GPU begins with a copy.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:<number>"

        Raises
        ------
        ValueError
            If the name is unknown.
        ImportError, RuntimeError
            If a package, the driver or the device is missing,
            or a fit of this net is running.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> MLP((2, 4, 1), seed=0).to("cpu").device
        'cpu'
        """
        who = "MLP.to"
        target = resolve.device(device)
        protocol.require(target, who)
        with self._state.lock.training(who):
            self._state.unpack()
            self._device = target
            self._engine = self._predictor = self._raw_predictor = self._steps = None
        return self

    @explained
    def save(
        self, path: str | os.PathLike[str], *, include_training_state: bool = False
    ) -> None:
        """Write the net to a safetensors file,
        for `load`; needs the extra `safetensors`.

        The file holds names and numbers without code,
        and is written whole or not at all. Your rules are passed to `load` again.

        Parameters
        ----------
        path : path
        include_training_state : bool
            Add the states of optimizer and generator,
            so that `fit` goes on to the same bits.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, the path ends as another format's,
            your rule has no name, or a parameter is not finite.
        ImportError, OSError
            If safetensors is not installed, or the file cannot be written;
            an old file is unchanged.
        RuntimeError
            If a fit is running, for the training state: see `checkpoint` of `fit`.

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
        files.check_ending(path, "MLP.save")
        scalars.boolean("MLP.save", "include_training_state", include_training_state)
        if include_training_state:
            with self._state.lock.training("MLP.save"):
                state = model_state.capture(self._network, self._state, training=True)
        else:
            state = model_state.capture(self._network, self._state, training=False)
        files.write(path, model_state.pack(state))

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

        Nothing in the file is run, and memory is bounded by its size.
        Files of fastmlp 0.3 and later load.

        Parameters
        ----------
        path : path
        rules : mapping of str to callable, Loss or Optimizer, optional
            The net's user-defined rules, by name.
        n_threads, device
            As for `MLP`; files leave them out.

        Raises
        ------
        FileError
            A ValueError: the file is damaged,
            of another kind or of a later version, or names an unknown rule.
        TypeError, ValueError, ImportError, OSError
            If an argument is not valid, safetensors is missing,
            or the file cannot be read.

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
        protocol.require(resolve.device(device), "MLP.load")
        own = resolve.own_rules(rules, "MLP.load")
        content = files.read(path)
        with files.refusing(path):
            net = unpacked(content, own, n_threads)
        return net.to(device)

    def as_estimator(
        self, kind: Literal["classifier", "regressor"] | None = None, **settings: Any
    ) -> Any:
        """Return a scikit-learn estimator that fits nets like this one,
        with new weights.

        Parameters are the keywords of `MLP` and `fit`, without data, callbacks,
        progress and checkpoints; `random_state` is the seed. The fitted net is `net_`,
        the record `history_`.

        Parameters
        ----------
        kind : "classifier" or "regressor", optional
            None: a classifier if the loss has the link softmax or sigmoid.
            A classifier has any labels, as many as outputs; two for one output.
        **settings
            Other parameters, such as ``epochs=50, random_state=0``.

        Raises
        ------
        TypeError, ValueError
            If a kind or a parameter is not known, or a layer is frozen.
        ImportError
            If scikit-learn is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from fastmlp import MLP, Focal
        >>> model = MLP((4, 16, 3), loss=Focal(1.0)).as_estimator(epochs=200, random_state=0)
        >>> cross_val_score(model, *load_iris(return_X_y=True)).mean() > 0.9
        np.True_
        """
        module = "fastmlp.estimators.net_estimators"
        room = imported(module, "MLP.as_estimator", "scikit-learn")
        return room.estimator_of(self, self._network, self._initializer, kind, settings)

    @property
    def _link(self) -> str | None:
        return self._network.loss.link

    @explained
    def summary(self) -> str:
        """Return layers and settings as text.

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
        return Description(
            self._network, self.optimizer, *names, self.n_steps, self.device
        )

    def _on_device(self) -> Engine[Any]:
        """The engine of the net's device,
        made on first use, which imports the backend.
        """
        if self._engine is None:
            lock = self._state.lock
            self._engine = protocol.engine_on(
                self._device, self._network, self._n_threads, lock
            )
        return self._engine

    def __copy__(self) -> Self:
        """A deep copy: nets with common arrays would train together."""
        return deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict.fromkeys(("_engine", "_predictor", "_raw_predictor", "_steps"))
        return {**vars(self), **kept}


class Core(NamedTuple):
    engine: Engine[Any]
    state: NetState


def core_of(net: MLP) -> Core:
    return Core(net._on_device(), net._state)


def heads_of(nets: Iterable[MLP]) -> tuple[str, ...]:
    """The names of heads that all nets have, or ()."""
    each = {net._network.head_names for net in nets}
    if len(each) == 1:
        return each.pop()
    return ()


def net_on(state: NetState, **settings: Any) -> MLP:
    """A net that shares a state's parameters and lock;
    the optimizer starts from step 0.
    """
    net = MLP(
        state.layout.sizes,
        dtype=state.parameters.dtype,
        initializer="zeros",
        **settings,
    )
    own = net._state
    net._initializer = None
    net._state = NetState(state.layout, state.parameters, own.optimizer, own.generator)
    net._state.lock = state.lock
    return net


def unpacked(content: Content, own: Mapping[str, Any], n_threads: int | None) -> MLP:
    """The net in a file; `own` are the user's rules by name."""
    saved = model_state.unpack(content, own)
    network = saved.network
    *hidden, output = network.activations
    written: dict[str, Any] = {}
    if network.written is not None:
        written = {"norm": network.written.norms, "skip": network.written.skip}
    net = MLP(
        network.layer_sizes,
        activation=residual.of_entries(network, hidden),
        **written,
        output_activation=None if network.heads else network.loss.link or output,
        **heads.arguments(network),
        optimizer=saved.optimizer,
        initializer="zeros",
        dtype=network.dtype,
        n_threads=n_threads,
    )
    net._network = network
    net._initializer = None
    model_state.restore(net._state, saved)
    return net


def _in_file(net: MLP) -> tuple[Any, dict[str, NDArray[Any]]]:
    engine, state = core_of(net)
    saved = model_state.pack(model_state.capture(engine.network, state, training=False))
    return codec.FORMS_IN_FILES[Content].write(saved)


codec.FORMS_IN_FILES[MLP] = codec.InFile(
    _in_file, lambda header, arrays: unpacked(content_of(header, arrays), {}, None)
)
