"""Predictions, losses and gradients of the same rows, as functions of the parameters.

Rows pass through the GPU in chunks, so that the memory for activations is bounded.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.locks import NetLock
from fastmlp.backends.cuda.device import arrays as device_arrays
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import gathered, host_bytes, to_device, to_host
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.launch import launch_chunk
from fastmlp.backends.cuda.plan.design import grid_shape, rules_of
from fastmlp.backends.cuda.plan.plan import EVALUATE, PREDICT, TRAIN, Need
from fastmlp.backends.cuda.plan.session import Session
from fastmlp.backends.protocol import Data, Select
from fastmlp.network.spec import Network, weight_views
from fastmlp.rules.losses import unsmoothed

Array = NDArray[Any]
# The activations of a chunk: 64 MB in float32.
CHUNK_NUMBERS = 1 << 24


class ForwardPass:
    """The pass of some rows through the net, in the mode PREDICT, EVALUATE or TRAIN.

    Attributes
    ----------
    mass : the number of rows, or the sum of their weights
    session : Session
    """

    mass: float
    session: Session

    def __init__(
        self, card: Card, network: Network, lock: NetLock, data: Data, mode: int, who: str
    ) -> None:
        data = gathered(data)
        self._lock, self._mode, self.mass = lock, mode, data.mass
        self._layout = network.layout
        self._rules, self._n_rows = rules_of(network), len(data.x)
        width = 4 * sum(network.layout.sizes)
        self._chunk = max(1, min(self._n_rows, CHUNK_NUMBERS // width))
        self._shape = grid_shape(network, self._chunk, card)
        tile = self._shape.weights
        need = Need(
            self._chunk,
            self._chunk,
            n_weights=len(data.weight),
            with_penalties=mode == TRAIN,
            tile=(tile.tile_rows, tile.tile_columns),
        )
        card.require_bytes(host_bytes(data), who)
        self.session = Session(card, [network], need, who=who)
        self.session.set(mode=mode, last=1)
        with card.current():
            self._rows = Samples(to_device(card, data.x), to_device(card, data.y))
            if data.weight.size:
                self.session.put("weights", np.ascontiguousarray(data.weight))

    def run(self, parameters: Array, inputs: Array | None = None) -> None:
        """Pass all rows through the net with these parameters; write the gradient by the inputs to
        `inputs`, if there is such an array."""
        session = self.session
        with self._lock.parameters:
            values = parameters.copy()
        session.put("parameters", values)
        mass = self.mass if self._mode == TRAIN else 1.0
        session.set_progress(epoch_loss=0.0, batch_mass=mass)
        for first in range(0, self._n_rows, self._chunk):
            n = min(self._chunk, self._n_rows - first)
            last = first + n == self._n_rows
            session.set(n_rows=n, batch=n, first_row=first, accumulate=first > 0, last_chunk=last)
            session.send_plans()
            losses = self._mode != PREDICT
            launch_chunk(self._rules, self._shape, session, self._rows, losses=losses)
            if inputs is not None:
                synchronize()
                weights = weight_views(self._layout, values)[0]
                np.matmul(self.first_deltas(), weights.T, out=inputs[first : first + n])
        synchronize()

    def first_deltas(self) -> Array:
        """Return the first layer's deltas of the last chunk, shape (n, n_units)."""
        layer, n = self.session.nets.layers.copy_to_host()[0], int(self.session.plans["n_rows"][0])
        start, width = int(layer["deltas"]), int(layer["delta_stride"])
        return to_host(self.session.nets.memory[0, start : start + n * width]).reshape(n, width)

    def loss(self) -> float:
        """Return the mean loss over the rows, at the parameters of the last run."""
        return float(self.session.progress()["epoch_loss"][0]) / self.mass


class Prediction:
    """The predictions for some rows."""

    def __init__(self, card: Card, network: Network, lock: NetLock, x: Any, out: Any) -> None:
        weight = np.empty(0, network.dtype)
        self._card, self._out = card, out
        with card.current():
            on_host = isinstance(out, np.ndarray) and not hasattr(out, "copy_to_host")
            device_out = card.empty(out.shape, out.dtype) if on_host else out
        self._device_out, data = device_out, Data(x, device_out, weight)
        self._pass = ForwardPass(card, network, lock, data, PREDICT, "MLP.predict")

    def __call__(self, parameters: Array) -> Any:
        """Write the predictions at these parameters to `out`, and return it."""
        with self._card.current():
            self._pass.run(parameters)
            if self._device_out is not self._out:
                self._device_out.copy_to_host(self._out)
        return self._out


class Evaluation:
    """The mean loss over some rows, weighted, without penalties."""

    def __init__(self, card: Card, network: Network, lock: NetLock, data: Data) -> None:
        self._plain = network._replace(penalties=(), loss=unsmoothed(network.loss))
        self._card, self._lock, self._data = card, lock, data
        self._pass = ForwardPass(card, self._plain, lock, data, EVALUATE, "MLP.fit")
        # Each epoch of a fit writes to the same array.
        self._predictions: tuple[Prediction | None, Array | None] = None, None

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        """Return the loss at these parameters; write predictions to `out`, if there is one."""
        if out is not None:
            made, last = self._predictions
            if made is None or last is not out:
                x = gathered(self._data).x
                made = Prediction(self._card, self._plain, self._lock, x, out)
                self._predictions = made, out
            made(parameters)
        with self._card.current():
            self._pass.run(parameters)
            return self._pass.loss()


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient."""

    def __init__(
        self, card: Card, network: Network, lock: NetLock, data: Data, *, summed: bool = False
    ) -> None:
        self._card, self._fixed, self._summed = card, (card, network, lock), summed
        self.take(data)

    def take(self, data: Data) -> None:
        """Be that of these rows from now on."""
        self._pass = ForwardPass(*self._fixed, data, TRAIN, "MLP.loss_and_gradient")
        if self._summed:
            self._pass.mass = 1.0

    @property
    def n_bytes(self) -> int:
        """The bytes of its numbers on the GPU."""
        return self._pass.session.n_bytes

    def __call__(
        self, parameters: Array, inputs: Array | None = None, *, by_parameters: bool = True
    ) -> tuple[float, Array]:
        """Return the objective and its gradient, flat, at these parameters; write the gradient by
        the inputs to `inputs`, if there is such an array."""
        with self._card.current():
            self._pass.run(parameters, inputs)
            gradient = to_host(self._pass.session.get("gradient", len(parameters)))
            return self._pass.loss(), gradient.copy()


class Predictor:
    """Predictions of one net on a GPU.

    Parameters
    ----------
    parameters : (n_parameters,) array on the host, live: changes count
    select : from X and the caller's name to the columns to predict from
    """

    is_quick = False

    def __init__(
        self, card: Card, network: Network, lock: NetLock, parameters: Array, select: Select
    ) -> None:
        self._card, self._network, self._lock = card, network, lock
        self._parameters, self._select = parameters, select

    def __reduce__(self) -> Any:
        """Return a call that makes None: a copy of a net makes a predictor of its own."""
        return type(None), ()

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Any:
        """Return predictions, shape (n_rows, n_outputs): on the GPU if X or `out` is.

        Predictions on the host that are not finite warn.
        """
        result = self._predict(self._select(X, who), out, who)
        on_host = isinstance(result, np.ndarray)
        return validation.warn_if_not_finite(result, who) if on_host else result

    def _predict(self, X: Any, out: Any, who: str = "MLP.predict") -> Any:
        layout, dtype = self._network.layout, self._network.dtype
        with self._card.current():
            x = device_arrays.features(X, layout.sizes[0], dtype, who)
            shape = (len(x), layout.sizes[-1])
            if device_arrays.is_device_array(out):
                result = device_arrays.out_array(out, shape, dtype, who)
            elif out is None and device_arrays.is_device_array(X):
                result = self._card.empty(shape, dtype)
            else:
                result = validation.out_array(out, shape, dtype, who)
            Prediction(self._card, self._network, self._lock, x, result)(self._parameters)
        return result if out is None else out

    def quick(self, x: object, out: object = None) -> Array | None:
        """Return None: a few rows go to the GPU as many do."""
        return None

    def write(self, x: Array, out: Array) -> None:
        """Write predictions of validated rows to `out`."""
        self._predict(x, out)
