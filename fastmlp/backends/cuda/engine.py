"""The CUDA backend: prediction, gradient and training of one network on a GPU."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import NetLock, publish
from fastmlp.backends.cuda.device import arrays as device_arrays
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.card import Card, card_of, require
from fastmlp.backends.cuda.kernels.launch import launch_update
from fastmlp.backends.cuda.plan.design import refuse_predicting, rules_of
from fastmlp.backends.cuda.plan.plan import Need
from fastmlp.backends.cuda.plan.session import Session
from fastmlp.backends.cuda.predict import Evaluation, Objective, Predictor
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.backends.cuda.training.trainer import Launches, Trainer
from fastmlp.backends.protocol import (
    Data,
    GroupEngine,
    Memo,
    Select,
    as_given,
    no_memo,
)
from fastmlp.network.spec import Computed, Network
from fastmlp.network.state import N_SLOTS, NetState, n_slots_of
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizer_protocol import Optimizer, Rates

Array = NDArray[Any]


class Engine:
    """Prediction, gradient and training of one network on an NVIDIA GPU.

    Parameters
    ----------
    network : Network
    index : int, the number of the GPU
    lock : NetLock, held while all parameters are read or written

    Raises
    ------
    ImportError, RuntimeError
        If there is no package, no driver or no such device.
    """

    network: Network
    lock: NetLock
    card: Card
    queue: int

    def __init__(self, network: Network, index: int, lock: NetLock | None = None) -> None:
        require(index)
        self.network, self.lock = network, lock or NetLock()
        self.card, self.queue = card_of(index), index

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, memo: Memo = no_memo) -> Data:
        """Return validated rows, on the host or the GPU; `memo` caches what several nets share."""
        sizes, dtype, loss = self.network.layout.sizes, self.network.dtype, self.network.loss
        index = self.card.index
        with self.card.current():
            x = memo(
                ("x", sizes[0], dtype, index),
                lambda: device_arrays.features(X, sizes[0], dtype, who),
            )
            table = memo(
                ("y", sizes[-1], dtype, loss.targets, loss.per_target, index),
                lambda: device_arrays.targets(y, len(x), sizes[-1], loss, dtype, who),
            )
            weight = memo(
                ("weight", id(sample_weight), dtype, index),
                lambda: device_arrays.weights(sample_weight, len(x), dtype, who),
            )
        return Data(x, table, weight)

    def trusted(self, X: Any, y: Array, sample_weight: Array | None) -> Data:
        """Return rows that are validated already, on the host, converted to the dtype."""
        dtype, weight = self.network.dtype, np.empty(0) if sample_weight is None else sample_weight
        table, weight = (np.ascontiguousarray(array, dtype) for array in (y, weight))
        return Data(self.features(X), table, weight)

    def features(self, X: Any) -> Array:
        """Return validated features on the host; a sparse matrix as a dense one."""
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
        """Return the predictor for these live parameters; `raw`: before activation or link.

        Raises
        ------
        ValueError
            If products are to be in `compute_dtype`.
        """
        refuse_predicting(compute_dtype)
        network = self.network.without_output() if raw else self.network
        return Predictor(self.card, network, self.lock, parameters, select)

    def evaluation(self, data: Data) -> Evaluation:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self.card, self.network, self.lock, data)

    def serves(self, n_rows: int, room: int) -> bool:
        """Return True if a trainer, or an objective, for `room` rows serves so many."""
        return n_rows == room

    def objective(self, data: Data, *, summed: bool = False, room: int | None = None) -> Objective:
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self.card, self.network, self.lock, data, summed=summed)

    def slots(self, state: NetState, data: Data | None = None) -> Moments:
        """Return the optimizer's state of a net on the GPU."""
        n_slots = n_slots_of(state.optimizer)
        return state.packed(("cuda", self.queue), lambda flat: self.moments(flat, n_slots=n_slots))

    def moments(self, flat: Array | None = None, *, n_slots: int = N_SLOTS) -> Moments:
        """Return an optimizer's state on the GPU, from a flat copy, or zeros."""
        return Moments(self.network, self.card.index, flat, n_slots)

    def update(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        rules = rules_of(self.network._replace(dropout=None), optimizer)
        groups = groups_of(optimizer, self.network.factors)
        need = Need(1, 1, n_steps=1, train=True, average=rules.average)
        need = need.of_groups(groups, rules.n_coefficients)
        with self.card.current():
            session = Session(self.card, [self.network], need, who="MLP.apply_gradient")
            slots.load(session, parameters)
            session.put("gradient", np.ascontiguousarray(gradient))
            session.put("coefficients", np.ascontiguousarray(coefficients[0], parameters.dtype))
            launch_update(rules, session)
            synchronize()
            values = slots.store(session)
        with self.lock.parameters:
            publish(values, parameters)

    def trainer(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: Any,
    ) -> Trainer:
        """Allocate and compile what training on `data` needs; `options` are those of `Trainer`."""
        fixed = (self.card, self.network, self.lock)
        return Trainer(*fixed, parameters, slots, optimizer, data, batch_size, **options)

    def kind(self, state: NetState, data: Data) -> Any:
        """Return the key of nets that may train in the same launches: layers, rules, groups of
        parameters, X and y, and if rows have weights."""
        network, rules = self.network, rules_of(self.network, state.optimizer)
        rows, groups = (id(data.x), id(data.y)), groups_of(state.optimizer, network.factors)
        return rows, network.layout.sizes, network.activations, rules, groups, data.weight.size > 0

    def launches(
        self, members: Sequence[tuple["Engine", NetState, Data]], batch_size: int
    ) -> Launches:
        """Return the launches of as many of these nets as fit into memory, the first ones."""
        networks = [engine.network for engine, _, _ in members]
        _, state, data = members[0]
        return Launches(self.card, networks, state.optimizer, data, batch_size, "fit_many")


if TYPE_CHECKING:
    _conforms: type[GroupEngine[Moments]] = Engine
