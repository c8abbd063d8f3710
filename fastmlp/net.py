"""NetBase: the attributes of an MLP: settings, parameters, the optimizer's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastmlp._process import locks, random_state
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Engine, Predictor
from fastmlp.network import heads, layer_settings, residual, resolve, spec
from fastmlp.network.residual import EPSILON, Residual
from fastmlp.network.resolve import smoothed
from fastmlp.network.summary import Description
from fastmlp.rules import losses
from fastmlp.rules.dropout import Rate
from fastmlp.rules.optimizer_protocol import Optimizer, is_averaged
from fastmlp.validation import Array, frames, scalars
from fastmlp.validation.calls import explained

if TYPE_CHECKING:
    from fastmlp.network.residual import NormName, SkipName
    from fastmlp.network.spec import Computed
else:
    # jedi 0.20 raises at a property with a Literal, and IPython then completes nothing.
    Computed = str | tuple[str, ...] | None
    NormName = SkipName = str

F32 = "leave compute_dtype out, for products in float32"


class NetBase:
    """The base of `MLP`, which documents arguments and attributes."""

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
        norm_epsilon: float = EPSILON,
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
        has_heads = heads.is_spelled(loss)
        if has_heads:
            heads.check_settings(output_activation, label_smoothing)
        elif loss_weights is not None:
            raise ValueError(f"MLP: loss_weights needs heads: loss={heads.FORM}")
        aim = losses.JOINT if has_heads else smoothed(loss, label_smoothing)
        arguments = (
            layer_sizes,
            activation,
            output_activation,
            aim,
            l2,
            l1,
            penalties,
            dtype,
            norm,
            norm_epsilon,
            skip,
        )
        found = resolve.network(*arguments)
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
                network, f"MLP: compute_dtype={compute_dtype!r}", F32
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
