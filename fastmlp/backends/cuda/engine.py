"""The CUDA backend of one network.

Rows pass through the GPU in chunks, so that the memory for activations is bounded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._process.locks import NetLock
from fastmlp.backends import protocol
from fastmlp.backends.cuda import device, plan
from fastmlp.backends.cuda.rule_blocks import Samples
from fastmlp.backends.cuda.training import (
    Launches,
    Moments,
    Trainer,
    launch_chunk,
    launch_update,
)
from fastmlp.backends.protocol import Data, Select, as_given
from fastmlp.network.spec import Computed, Network, weight_views
from fastmlp.network.state import N_SLOTS, NetState, n_slots_of
from fastmlp.rules.losses import unsmoothed
from fastmlp.rules.optimizer_protocol import Optimizer, Rates
from fastmlp.rules.updates import groups_of
from fastmlp.validation import Array, arrays

# Activations of a chunk: 64 MB in float32.
GPU_CHUNK_NUMBERS = 1 << 24


class ForwardPass:
    """The pass of some rows through the net, in the mode PREDICT, EVALUATE or TRAIN.

    Attributes
    ----------
    mass : number of rows, or sum of their weights
    """

    mass: float
    session: plan.Session

    def __init__(
        self,
        card: device.Card,
        network: Network,
        lock: NetLock,
        data: Data,
        mode: int,
        who: str,
    ) -> None:
        """Rows move to the card once; buffers hold a chunk of at most
        `GPU_CHUNK_NUMBERS` numbers, which calls pass over.
        """
        data = device.gather_rows(data)
        self._lock = lock
        self._mode = mode
        self.mass = data.mass
        self._layout = network.layout
        self._rules = plan.rules_of(network)
        self._n_rows = len(data.x)
        width = 4 * sum(network.layout.sizes)
        self._chunk = max(1, min(self._n_rows, GPU_CHUNK_NUMBERS // width))
        self._shape = plan.grid_shape(network, self._chunk, card)
        tile = self._shape.weights
        need = plan.Need(
            self._chunk,
            self._chunk,
            n_weights=len(data.weight),
            with_penalties=mode == plan.TRAIN,
            tile=(tile.tile_rows, tile.tile_columns),
        )
        card.require_bytes(device.host_bytes(data), who)
        self.session = plan.Session(card, [network], need, who=who)
        self.session.set(mode=mode, last=1)
        with card.current():
            self._rows = Samples(
                device.to_device(card, data.x), device.to_device(card, data.y)
            )
            if data.weight.size:
                self.session.put("weights", np.ascontiguousarray(data.weight))

    def run(self, parameters: Array, inputs: Array | None = None) -> None:
        """Pass all rows through the net;
        write the gradient by the inputs to `inputs`, if given.
        """
        session = self.session
        with self._lock.parameters:
            values = parameters.copy()
        session.put("parameters", values)
        mass = self.mass if self._mode == plan.TRAIN else 1.0
        session.set_progress(epoch_loss=0.0, batch_mass=mass)
        for first in range(0, self._n_rows, self._chunk):
            n = min(self._chunk, self._n_rows - first)
            last = first + n == self._n_rows
            session.set(
                n_rows=n,
                batch=n,
                first_row=first,
                accumulate=first > 0,
                last_chunk=last,
            )
            session.send_plans()
            losses = self._mode != plan.PREDICT
            launch_chunk(self._rules, self._shape, session, self._rows, losses=losses)
            if inputs is not None:
                device.synchronize()
                weights = weight_views(self._layout, values)[0]
                np.matmul(self.first_deltas(), weights.T, out=inputs[first : first + n])
        device.synchronize()

    def first_deltas(self) -> Array:
        """The first layer's deltas of the last chunk, shape (n, n_units)."""
        layer = self.session.nets.layers.copy_to_host()[0]
        n = int(self.session.plans["n_rows"][0])
        start = int(layer["deltas"])
        width = int(layer["delta_stride"])
        return device.to_host(
            self.session.nets.memory[0, start : start + n * width]
        ).reshape(n, width)

    def loss(self) -> float:
        """The mean loss over the rows, at the parameters of the last run."""
        return float(self.session.progress()["epoch_loss"][0]) / self.mass


class Prediction:
    def __init__(
        self, card: device.Card, network: Network, lock: NetLock, x: Any, out: Any
    ) -> None:
        weight = np.empty(0, network.dtype)
        self._card = card
        self._out = out
        with card.current():
            on_host = isinstance(out, np.ndarray) and not hasattr(out, "copy_to_host")
            device_out = card.empty(out.shape, out.dtype) if on_host else out
        self._device_out, data = device_out, Data(x, device_out, weight)
        self._pass = ForwardPass(card, network, lock, data, plan.PREDICT, "MLP.predict")

    def __call__(self, parameters: Array) -> Any:
        """Write the predictions at these parameters to `out`, and return it."""
        with self._card.current():
            self._pass.run(parameters)
            if self._device_out is not self._out:
                self._device_out.copy_to_host(self._out)
        return self._out


class Evaluation:
    head_losses: Array = np.empty(0)

    def __init__(
        self, card: device.Card, network: Network, lock: NetLock, data: Data
    ) -> None:
        self._plain = network._replace(penalties=(), loss=unsmoothed(network.loss))
        self._card = card
        self._lock = lock
        self._data = data
        self._pass = ForwardPass(
            card, self._plain, lock, data, plan.EVALUATE, "MLP.fit"
        )
        # Each epoch of a fit writes to the same array.
        self._predictions: tuple[Prediction | None, Array | None] = None, None

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        if out is not None:
            made, last = self._predictions
            if made is None or last is not out:
                x = device.gather_rows(self._data).x
                made = Prediction(self._card, self._plain, self._lock, x, out)
                self._predictions = made, out
            made(parameters)
        with self._card.current():
            self._pass.run(parameters)
            return self._pass.loss()


class Objective:
    def __init__(
        self,
        card: device.Card,
        network: Network,
        lock: NetLock,
        data: Data,
        *,
        summed: bool = False,
    ) -> None:
        self._card = card
        self._fixed = (card, network, lock)
        self._summed = summed
        self.take(data)

    def take(self, data: Data) -> None:
        self._pass = ForwardPass(
            *self._fixed, data, plan.TRAIN, "MLP.loss_and_gradient"
        )
        if self._summed:
            self._pass.mass = 1.0

    @property
    def n_bytes(self) -> int:
        """Bytes on the GPU."""
        return self._pass.session.n_bytes

    def __call__(
        self,
        parameters: Array,
        inputs: Array | None = None,
        *,
        by_parameters: bool = True,
    ) -> tuple[float, Array]:
        with self._card.current():
            self._pass.run(parameters, inputs)
            gradient = device.to_host(
                self._pass.session.get("gradient", len(parameters))
            )
            return self._pass.loss(), gradient.copy()


class Predictor:
    """Predictions of one net on a GPU.

    Parameters
    ----------
    parameters : (n_parameters,) array on the host, live: changes count
    select : from X and the caller's name to the columns to predict from
    """

    def __init__(
        self,
        card: device.Card,
        network: Network,
        lock: NetLock,
        parameters: Array,
        select: Select,
    ) -> None:
        self._card = card
        self._network = network
        self._lock = lock
        self._parameters = parameters
        self._select = select

    def __reduce__(self) -> Any:
        """A copy of a net makes a new predictor."""
        return type(None), ()

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Any:
        """Return predictions, shape (n_rows, n_outputs): on the GPU if X or `out` is.

        Predictions on the host that are not finite warn.
        """
        result = self._predict(self._select(X, who), out, who)
        on_host = isinstance(result, np.ndarray)
        return arrays.warn_if_not_finite(result, who) if on_host else result

    def _predict(self, X: Any, out: Any, who: str = "MLP.predict") -> Any:
        layout = self._network.layout
        dtype = self._network.dtype
        with self._card.current():
            x = device.features(X, layout.sizes[0], dtype, who)
            shape = (len(x), layout.sizes[-1])
            if device.is_device_array(out):
                result = device.out_array(out, shape, dtype, who)
            elif out is None and device.is_device_array(X):
                result = self._card.empty(shape, dtype)
            else:
                result = arrays.out_array(out, shape, dtype, who)
            Prediction(self._card, self._network, self._lock, x, result)(
                self._parameters
            )
        return result if out is None else out

    def quick(self, x: object, *, alone: bool) -> Array | None:
        """Return None: all rows take one way."""
        return None

    def write(self, x: Array, out: Array) -> None:
        self._predict(x, out)


class Engine:
    """One network on an NVIDIA GPU. Making it raises the errors of `device.require`.

    Parameters
    ----------
    index : number of the GPU
    lock : held while all parameters are read or written
    """

    network: Network
    lock: NetLock
    card: device.Card
    queue: int

    def __init__(
        self, network: Network, index: int, lock: NetLock | None = None
    ) -> None:
        device.require(index)
        self.network, self.lock = network, lock or NetLock()
        self.card = device.card_of(index)
        self.queue = index

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, **gaps: bool) -> Data:
        network = self.network
        dtype = self.network.dtype
        with self.card.current():
            x = device.features(X, network.layout.sizes[0], dtype, who)
            n = len(x)
            form = network.targets
            return Data(
                x, *device.targets(y, sample_weight, n, form, dtype, who, **gaps)
            )

    def weights(self, sample_weight: Any, n_rows: int, who: str) -> Array:
        with self.card.current():
            return device.weights(sample_weight, n_rows, self.network.dtype, who)

    def trusted(self, X: Any, y: Array, sample_weight: Array | None) -> Data:
        dtype = self.network.dtype
        weight = np.empty(0) if sample_weight is None else sample_weight
        table, weight = (np.ascontiguousarray(array, dtype) for array in (y, weight))
        return Data(self.features(X), table, weight)

    def features(self, X: Any) -> Array:
        """A sparse matrix becomes a dense one."""
        dense = X.toarray() if hasattr(X, "toarray") else X
        return np.ascontiguousarray(dense, self.network.dtype)

    def predictor(
        self,
        parameters: Array,
        *,
        raw: bool = False,
        select: Select = as_given,
        compute_dtype: Computed = None,
    ) -> Predictor:
        """`raw`: before activation or link.
        Products in `compute_dtype` raise a ValueError.
        """
        if compute_dtype is not None:
            feature = (
                "predict in mixed precision (compute_dtype): use compute_dtype=None"
            )
            raise plan.refused(feature)
        network = self.network.without_output() if raw else self.network
        return Predictor(self.card, network, self.lock, parameters, select)

    def evaluation(self, data: Data) -> Evaluation:
        return Evaluation(self.card, self.network, self.lock, data)

    def serves(self, n_rows: int, room: int) -> bool:
        return n_rows == room

    def objective(
        self, data: Data, *, summed: bool = False, room: int | None = None
    ) -> Objective:
        return Objective(self.card, self.network, self.lock, data, summed=summed)

    def slots(self, state: NetState, data: Data | None = None) -> Moments:
        n_slots = n_slots_of(state.optimizer)
        return state.packed(
            ("cuda", self.queue), lambda flat: self.moments(flat, n_slots=n_slots)
        )

    def moments(self, flat: Array | None = None, *, n_slots: int = N_SLOTS) -> Moments:
        """An optimizer's state on the GPU, from a flat copy, or zeros."""
        return Moments(self.network, self.card.index, flat, n_slots)

    def update(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        rules = plan.rules_of(self.network._replace(dropout=None), optimizer)
        groups = groups_of(optimizer, self.network.factors)
        need = plan.Need(1, 1, n_steps=1, train=True, average=rules.average)
        need = need.of_groups(groups, rules.n_coefficients)
        with self.card.current():
            session = plan.Session(
                self.card, [self.network], need, who="MLP.apply_gradient"
            )
            slots.load(session, parameters)
            session.put("gradient", np.ascontiguousarray(gradient))
            session.put(
                "coefficients", np.ascontiguousarray(coefficients[0], parameters.dtype)
            )
            launch_update(rules, session)
            device.synchronize()
            values = slots.store(session)
        self.lock.publish(values, parameters)

    def trainer(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: Any,
    ) -> Trainer:
        """Allocate and compile what training on `data` needs;
        `options` are as in `Trainer`.
        """
        fixed = (self.card, self.network, self.lock)
        return Trainer(
            *fixed, parameters, slots, optimizer, data, batch_size, **options
        )

    def kind(self, state: NetState, data: Data) -> Any:
        """Layers, rules, groups of parameters, X and y, and if rows have weights."""
        network = self.network
        rules = plan.rules_of(self.network, state.optimizer)
        rows = (id(data.x), id(data.y))
        groups = groups_of(state.optimizer, network.factors)
        return (
            rows,
            network.layout.sizes,
            network.activations,
            rules,
            groups,
            data.weight.size > 0,
        )

    def launches(
        self, members: Sequence[tuple["Engine", NetState, Data]], batch_size: int
    ) -> Launches:
        networks = [engine.network for engine, _, _ in members]
        _, state, data = members[0]
        return Launches(
            self.card, networks, state.optimizer, data, batch_size, "fit_many"
        )


if TYPE_CHECKING:
    _conforms: type[protocol.GroupEngine[Moments]] = Engine
