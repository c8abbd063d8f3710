"""The CUDA backend: prediction, gradient and training of one network on a GPU."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.locks import NetLock, publish
from fastmlp.backends.cuda.device import arrays as device_arrays
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import is_device_array
from fastmlp.backends.cuda.device.card import Card, card_of, require
from fastmlp.backends.cuda.kernels.launch import launch_update
from fastmlp.backends.cuda.plan import design
from fastmlp.backends.cuda.plan.design import refuse_predicting, rules_of
from fastmlp.backends.cuda.plan.plan import Need
from fastmlp.backends.cuda.plan.session import Session
from fastmlp.backends.cuda.predict import Evaluation, Objective, Prediction, Predictor
from fastmlp.backends.cuda.training.batched_fits import Member, train_together
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.backends.cuda.training.trainer import Trainer
from fastmlp.backends.protocol import (
    Data,
    GroupEngine,
    MemberOutcome,
    Memo,
    Select,
    as_given,
    no_memo,
)
from fastmlp.network.spec import Computed, Network
from fastmlp.network.state import N_SLOTS, NetState, n_slots_of
from fastmlp.rules.activations import identity
from fastmlp.rules.groups import groups_of
from fastmlp.rules.links import LINKS
from fastmlp.rules.optimizers import Optimizer, Rates

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
        return Predictor(self, parameters, raw=raw, select=select)

    def predictions(
        self, parameters: Array, X: Any, out: Any, *, raw: bool = False, who: str = "MLP.predict"
    ) -> Any:
        """Return predictions, or with `raw` the outputs before activation or link.

        They are on the GPU if X or `out` is.
        """
        layout, dtype = self.network.layout, self.network.dtype
        with self.card.current():
            x = device_arrays.features(X, layout.sizes[0], dtype, who)
            shape = (len(x), layout.sizes[-1])
            if is_device_array(out):
                result = device_arrays.out_array(out, shape, dtype, who)
            elif out is None and is_device_array(X):
                result = self.card.empty(shape, dtype)
            else:
                result = validation.out_array(out, shape, dtype, who)
            network = _without_output(self.network) if raw else self.network
            Prediction(self.card, network, self.lock, x, result)(parameters)
        return result if out is None else out

    def evaluation(self, data: Data) -> Evaluation:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self.card, self.network, self.lock, data)

    def objective(self, data: Data, *, summed: bool = False) -> Objective:
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self.card, self.network, self.lock, data, summed=summed)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        return self.objective(data)(parameters)

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
            session = Session(
                self.card, [self.network], need, shared=False, who="MLP.apply_gradient"
            )
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

    def fits_in_group(self, batch_size: int) -> bool:
        """Return True if a net's own fit with this batch size takes one block of a launch."""
        return design.design_for(self.network, batch_size, self.card).kind == "single_block"

    def train_group(
        self,
        members: Sequence[tuple["Engine", NetState, Data]],
        outcomes: Sequence[MemberOutcome],
        *,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        on_epochs: Callable[[int], object] | None,
    ) -> None:
        """Train nets over shared X and y for so many epochs each, a block a net; their states are
        brought up to date, also if an exception ends the call."""
        ready = [
            Member(engine.network, state, engine.slots(state), data)
            for engine, state, data in members
        ]
        sizes: Any = {"epochs": epochs, "batch_size": batch_size, "shuffle": shuffle}
        train_together(self.card, ready, outcomes, **sizes, on_epochs=on_epochs)


def _without_output(network: Network) -> Network:
    """Return the same network up to its raw outputs."""
    activations = (*network.activations[:-1], identity)
    return network._replace(activations=activations, link=LINKS["identity"])


if TYPE_CHECKING:
    _conforms: type[GroupEngine[Moments]] = Engine
