"""The CPU backend's engine: predictions, gradients and training of one network."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._process.locks import NetLock
from fastmlp._process.memory import FreeList
from fastmlp.backends import protocol
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.evaluation import Evaluation, Objective
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.kernels.first_layer import SparseRows
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.jacobian import JacobianBlocks
from fastmlp.backends.cpu.predict.predictor import Predictor
from fastmlp.backends.cpu.predict.small_batch import SmallBatch
from fastmlp.backends.cpu.rank_trainer import RankTrainer
from fastmlp.backends.cpu.session import Moments
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.backends.protocol import Data, Select, as_given
from fastmlp.network.spec import (
    Computed,
    Layout,
    Network,
    bias_views,
    gain_views,
    shift_views,
    spread,
    weight_views,
)
from fastmlp.network.state import N_SLOTS, NetState, n_slots_of
from fastmlp.rules.losses import OUTPUT_GRADIENT
from fastmlp.rules.optimizer_protocol import (
    NormLimit,
    Optimizer,
    Rates,
    average_of,
    norm_limit_of,
)
from fastmlp.rules.updates import FROZEN, ParameterGroups, groups_of, norm_factor
from fastmlp.validation import Array, arrays, expanded
from fastmlp.validation.expanded import Expanded
from fastmlp.validation.heads import weighted_targets


class Engine(Runner):
    """One network on the CPU.

    Parameters
    ----------
    network, n_threads, lock : as for a `Runner`
    buffers : the free list of predictions' buffers, optional
    """

    queue = None

    def __init__(
        self,
        network: Network,
        n_threads: int | None = None,
        lock: NetLock | None = None,
        buffers: FreeList | None = None,
    ) -> None:
        super().__init__(network, n_threads, lock)
        self._idle, self._jacobians = buffers or FreeList(), FreeList()

    def change(self, network: Network) -> None:
        """Become the engine of the same network with other factors of learning
        rates.
        """
        self.network = network
        self.rules = None
        self.last = None

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, **gaps: bool) -> Data:
        network = self.network
        dtype = self.network.dtype
        x = expanded.rows(X, network.layout.sizes[0], dtype, who)
        n = len(x)
        form = network.targets
        return Data(x, *weighted_targets(y, sample_weight, n, form, dtype, who, **gaps))

    def weights(self, sample_weight: Any, n_rows: int, who: str) -> Array:
        return arrays.weights(sample_weight, n_rows, self.network.dtype, who)

    def trusted(self, X: Any, y: Array, sample_weight: Array | None) -> Data:
        weight = np.empty(0) if sample_weight is None else sample_weight
        y, weight = (
            np.ascontiguousarray(array, self.network.dtype) for array in (y, weight)
        )
        return Data(self.features(X), y, weight)

    def features(self, X: Any) -> Array | SparseRows | Expanded:
        """Validated features as kernels read them; sparse and expanded ones stay so."""
        dtype = self.network.dtype
        if isinstance(X, Expanded):
            return X.astype(dtype)
        if not hasattr(X, "tocsr"):
            return np.ascontiguousarray(X, dtype)
        rows = X.tocsr()
        values = rows.data.astype(dtype, copy=False)
        return SparseRows(values, rows.indices, rows.indptr, X.shape[1])

    def predictor(
        self,
        parameters: Array,
        *,
        raw: bool = False,
        select: Select = as_given,
        compute_dtype: Computed = None,
    ) -> Predictor:
        """`raw`: outputs before the output activation or link. `select` converts an X
        that is not a plain array. Products are in `compute_dtype`.
        """
        network = self.network.without_output() if raw else self.network
        network = network._replace(compute_dtype=compute_dtype)
        return Predictor(self, network, parameters, self._idle, select)

    def predict(
        self,
        parameters: Array,
        x: Array | SparseRows | Expanded,
        out: Array,
        *,
        raw: bool = False,
    ) -> SmallBatch | None:
        return self.predictor(parameters, raw=raw).write(x, out)

    def jacobian(
        self,
        parameters: Array,
        x: Array,
        derived: Sequence[int],
        out: Array,
        raw: Array | None = None,
        *,
        linear: bool = False,
    ) -> bool:
        """Write derivatives of outputs by inputs to out; return True if all are finite.

        Parameters
        ----------
        x : (n_rows, n_features) C-contiguous array of the network's dtype
        derived : indices of outputs
        out : (n_rows, n_derived, n_features) C-contiguous array of the network's dtype
        raw : (n_rows, n_outputs) C-contiguous array, receives the outputs before a link, or None
        linear : True for the outputs before the output activation too
        """
        network = self.network.without_output() if linear else self.network
        if not network.layout.is_plain:
            return self._jacobian_by_outputs(parameters, x, derived, out, raw, network)
        key = (network, self.n_threads)
        blocks = self._jacobians.take(key) or JacobianBlocks(self, network)
        finite: bool = blocks.derive(
            parameters, x, np.asarray(derived, np.int64), out, raw
        )
        self._jacobians.give(key, blocks)
        return finite

    def _jacobian_by_outputs(
        self,
        parameters: Array,
        x: Array,
        derived: Sequence[int],
        out: Array,
        raw: Array | None,
        network: Network,
    ) -> bool:
        """`jacobian` of a net with norms or skips: a backward pass for each output."""
        unlinked = network.without_link()
        if raw is not None:
            Predictor(self, unlinked, parameters, self._idle).write(x, raw)
        aim: dict[str, Any] = {"loss": OUTPUT_GRADIENT, "heads": ()}
        plain = unlinked._replace(**aim, penalties=(), dropout=None)
        engine = Engine(plain, self.n_threads, self.lock)
        slopes = np.zeros((len(x), network.layout.sizes[-1]), network.dtype)
        objective = engine.objective(Data(x, slopes, np.empty(0)), summed=True)
        by_inputs = np.empty(x.shape, network.dtype)
        for k, place in enumerate(derived):
            slopes[:] = 0
            slopes[:, place] = 1
            objective(parameters, by_inputs, by_parameters=False)
            out[:, k] = by_inputs
        numbers = (x, out) if raw is None else (x, out, raw)
        return all(bool(np.isfinite(array).all()) for array in numbers)

    def loss(self, parameters: Array, data: Data) -> float:
        """The weighted mean loss over the rows of `data`, without penalties."""
        return self.evaluation(data)(parameters)

    def evaluation(self, data: Data) -> Evaluation:
        return Evaluation(self, data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        return self.objective(data)(parameters)

    def objective(
        self, data: Data, *, summed: bool = False, room: int | None = None
    ) -> Objective:
        return Objective(self, data, summed=summed, room=room)

    def gauss_newton(self, data: Data) -> protocol.GaussNewton:
        """Objective, Gauss-Newton matrix and damped steps on dense rows, in float64."""
        room: Any = import_module("fastmlp.backends.cpu.second_order")
        made: protocol.GaussNewton = room.GaussNewton(self, data)
        return made

    def slots(self, state: NetState, data: Data | None = None) -> Moments:
        """A net's optimizer state, packed for training on dense or other rows."""
        sparse = data is not None and not isinstance(data.x, np.ndarray)

        def pack(flat: Array | None) -> Moments:
            return self.moments(
                flat, sparse=sparse, n_slots=n_slots_of(state.optimizer)
            )

        return state.packed(("cpu", sparse), pack)

    def moments(
        self, flat: Array | None = None, *, sparse: bool = False, n_slots: int = N_SLOTS
    ) -> Moments:
        """A flat optimizer state, packed for dense or sparse rows; None: zeros."""
        return Moments(self.network, flat, sparse=sparse, n_slots=n_slots)

    def update(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        network, panels = self.network, slots.panels
        limit = norm_limit_of(optimizer)
        groups = groups_of(optimizer, network.factors)
        if limit is not None:
            gradient = _clipped(gradient, network.layout, groups, limit)
        trained, average = slots.trained, slots.average
        w = panels.packed(parameters) if trained is None else trained
        # The address also stands for vectors that the rule does not use.
        unused = panels.packed(gradient)
        state = [w, unused, slots.m, slots.v]
        follows = average is not None and average_of(optimizer) is not None
        state.append(average if average is not None and follows else unused)
        state.append(slots.signs if network.signs else unused)
        step = _step(rule_blocks.optimizer(network, optimizer))
        constants = np.ascontiguousarray(coefficients, network.dtype)
        if groups.alike:
            step(state, constants, panels.size)
        else:
            numbers = 1 + spread(network.layout, groups.weights, groups.biases)
            of_group = panels.packed(numbers.astype(network.dtype))
            for number, group_constants in enumerate(
                np.split(constants[0], len(groups.groups)), 1
            ):
                where = np.flatnonzero(of_group == number)
                members = [numbers[where] for numbers in state]
                step(members, group_constants, len(where))
                for numbers, changed in zip(state, members, strict=True):
                    numbers[where] = changed
        self.lock.publish(panels.flat(slots.shown(w)), parameters)

    def trainer(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: Any,
    ) -> protocol.Trainer:
        """`options` as for `Trainer`, or, with `ranks`, `RankTrainer`."""
        if "ranks" in options:
            return RankTrainer(
                self, parameters, slots, optimizer, data, batch_size, **options
            )
        last = self.last
        self.last = None
        made_for = (batch_size, options)
        if last is not None and last.made_for == made_for:
            if last.goes_on(self, parameters, slots, optimizer, data):
                return last
        trainer = Trainer(
            self, parameters, slots, optimizer, data, batch_size, **options
        )
        trainer.made_for = made_for
        return trainer


def _clipped(
    gradient: Array, layout: Layout, groups: ParameterGroups, limit: NormLimit
) -> Array:
    """A flat gradient clipped by its norm, as kernels/gradient_update.py clips it."""
    result = gradient.copy()
    numbers = (*groups.weights, *groups.biases)
    views = [*weight_views(layout, result), *bias_views(layout, result)]
    of_norms = [*gain_views(layout, result), *shift_views(layout, result)]
    centred = [norm for norm in layout.norms if norm.shifts >= 0]
    layers = [norm.layer for norm in (*layout.norms, *centred)]
    views = [*views, *of_norms]
    numbers = (*numbers, *(groups.biases[layer] for layer in layers))
    variables = [
        variable
        for variable, number in zip(views, numbers, strict=True)
        if number != FROZEN
    ]
    with np.errstate(all="ignore"):
        squares = [
            np.square(variable, dtype=np.float64).sum() for variable in variables
        ]
        for variable, square in zip(variables, squares, strict=True):
            norm = np.sqrt(square if limit.by_variable else sum(squares))
            variable *= result.dtype.type(norm_factor(norm, limit.limit))
    return result


def _step(block: Any) -> Callable[[list[Array], Array, int], None]:
    """An optimizer's block as a function of packed vectors: parameters,
    gradient, m, v, average and the signs of the parameters.
    """

    def step(state: list[Array], constants: Array, n: int) -> None:
        block(*map(address, (*state, constants)), n)

    return step


if TYPE_CHECKING:
    _conforms: type[protocol.Engine[Moments]] = Engine
