"""Single steps from the user's loop, with trainers that are kept between calls."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp._process import locks, warn
from fastmlp._process.memory import BufferPool, keep
from fastmlp.backends.protocol import Data, Engine, Objective, Trainer
from fastmlp.network import layer_settings
from fastmlp.network.layer_settings import require_trained
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.activations import identity
from fastmlp.rules.dropout import numbers_of
from fastmlp.rules.losses import LINKS, OUTPUT_GRADIENT
from fastmlp.rules.optimizer_protocol import (
    SWA,
    Optimizer,
    Rates,
    coefficients_of,
    has_coefficients_alone,
    is_averaged,
    traits_of,
)
from fastmlp.rules.optimizers import TAKING_ONE_RATE, require_first_order
from fastmlp.rules.schedules import NoEnd, is_known
from fastmlp.rules.updates import ParameterGroup, groups_of
from fastmlp.training import derivatives as of_derivatives
from fastmlp.training.loop import checked_rates, rates_at
from fastmlp.training.options import FitRows, rates_in_use, setting_of_length
from fastmlp.validation import Array, arrays, frames, gaps, scalars
from fastmlp.validation.heads import Columns, HeadForms, joined

Kind = Literal[
    "batch",
    "weighted",
    "gradient",
    "vjp",
    "objective",
    "derivatives",
    "jacobian_gradient",
    "jacobian_vjp",
]
# Steps and objectives with derivatives, by those without.
WITH_DERIVATIVES: dict[Kind, tuple[Kind, Literal["targets", "gradient"]]] = {
    "derivatives": ("batch", "targets"),
    "jacobian_gradient": ("gradient", "gradient"),
    "jacobian_vjp": ("vjp", "gradient"),
}
# The trainers of all nets of the process: at most 64 MB, and 4096 trainers.
KEPT = BufferPool(1 << 26, 4096)
WHO_STEPS: dict[Kind, str] = {
    "batch": "MLP.train_on_batch",
    "weighted": "MLP.train_on_batch",
    "gradient": "MLP.train_on_gradient",
    "derivatives": "MLP.train_on_batch",
    "jacobian_gradient": "MLP.train_on_gradient",
}
# Objectives keep their last rows up to this number.
MOST_KEPT_ROWS = 4096
# Steps whose coefficients are computed at once.
TABLE_STEPS = 256
# A net's kept trainers: one for each form of a step and number of rows.
MOST_KEPT_TRAINERS = 32
NO_END: Any = NoEnd()


class Steps:
    """The single steps of one net.

    Parameters
    ----------
    engine_of : from a network to its engine on the net's device
    """

    def __init__(
        self,
        state: NetState,
        engine_of: Callable[[Network], Engine[Any]],
        network: Network,
    ) -> None:
        self._trainers: dict[Key, weakref.ref[Kept]] = {}
        self._objectives: dict[Key, weakref.ref[Objective]] = {}
        self._owners = state.lock
        raw = network._replace(
            loss=OUTPUT_GRADIENT,
            heads=(),
            activations=(*network.activations[:-1], identity),
            link=LINKS["identity"],
        )
        plain = raw._replace(penalties=(), dropout=None, compute_dtype=None)
        networks: dict[Kind, Network] = {
            "batch": network,
            "gradient": raw,
            "vjp": plain,
        }
        networks["objective"] = network._replace(compute_dtype=None)
        self._engines = {kind: engine_of(network) for kind, network in networks.items()}
        # Steps on targets with factors beside them.
        self._engines["weighted"] = self._engines["batch"]
        self._engine_of = engine_of
        self._state = state
        # Ready trainers, by the shape of rows, valid while the optimizer's state stays.
        self._ready: dict[Kind, dict[Any, weakref.ref[Kept]]] = {
            kind: {} for kind in WHO_STEPS
        }
        self._slots: object = None
        self._n_owners = 0
        # Coefficients of the steps in `_steps`.
        self._table = np.empty(0)
        self._steps = range(0)
        self._tabled: Optimizer | None = None
        # True if the last optimizer needs only its coefficients; True if no user
        # function gives a rate, which is asked for the current step only.
        self._is_plain = self._is_known = False
        self._groups: tuple[ParameterGroup, ...] = ()
        self._row = np.empty((1, 0), network.dtype)
        self._checked: Optimizer | None = None
        self._warned = self._warned_of_gaps = False
        forms = network.targets
        self._forms = forms if isinstance(forms, HeadForms) else None
        # Columns of the heads' targets, and of their slopes.
        self._targets = self._slopes = None
        if self._forms:
            self._targets = Columns(self._forms, network.dtype, slopes=False)
            self._slopes = Columns(self._forms, network.dtype, slopes=True)
        self._codes = layer_settings.codes_of(network) if network.signs else None

    def __del__(self, pool: BufferPool = KEPT) -> None:
        """Drop a dead net's buffers: the pool would keep them until it is full.

        A net that a rule's globals hold dies after the interpreter has cleared this
        module.
        """
        references: list[weakref.ref[Any]] = [
            *self._trainers.values(),
            *self._objectives.values(),
        ]
        for reference in references:
            pool.drop(reference())

    def __reduce__(self) -> Any:
        """Copy and pickle as None: a copy of a net makes new ones."""
        return type(None), ()

    def change(self, network: Network) -> None:
        """Take steps with other factors of learning rates, in the same buffers."""
        batch: Any = self._engines["batch"]
        gradient: Any = self._engines["gradient"]
        batch.change(network)
        rates = {"layer_rates": network.layer_rates, "trainable": network.trainable}
        gradient.change(gradient.network._replace(**rates))
        for kind in ("derivatives", "jacobian_gradient"):
            if kind in self._engines:
                engine: Any = self._engines[kind]
                engine.change(engine.network._replace(**rates))
        self._checked = None
        self._steps = range(0)
        self._tabled = None
        locks.change[0] = object()
        for key in list(self._trainers):
            kept = self._kept(key)
            trains = kept is not None and any(map(any, network.factors))
            if kept is None or not trains or not kept.trainer.regroup(kept.optimizer):
                self._let_go(key)
        self._look()

    def engine(self, kind: Kind, who: str) -> Engine[Any]:
        """The engine of steps with derivatives, made on first use."""
        if kind not in self._engines:
            plain, derivatives = WITH_DERIVATIVES[kind]
            network = self._engines[plain].network._replace(derivatives=derivatives)
            if self._engines["batch"].queue is None:
                of_device = "cpu"
            else:
                of_device = "cuda"
            of_derivatives.check(network, of_device, who)
            self._engines[kind] = self._engine_of(network)
        return self._engines[kind]

    def on_jacobian_gradient(
        self, X: Any, output_gradient: Any, of_jacobian: Any
    ) -> None:
        who = WHO_STEPS["jacobian_gradient"]
        self.require_steps(who)
        data = self._given("jacobian_gradient", X, output_gradient, who, of_jacobian)
        self._step("jacobian_gradient", data, who)

    def on_batch(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        missing_targets: Any = "raise",
        given: of_derivatives.Given | None = None,
    ) -> float:
        """Take a step; return the rows' objective."""
        who = WHO_STEPS["batch"]
        ignores = missing_targets != "raise"
        if ignores:
            ignores = gaps.checked(missing_targets, who)
        elif given is None:
            plain = y
            if self._targets is not None:
                plain = self._targets(y, np.shape(X)[:1])
            loss = self._quickly("batch", X, plain, sample_weight)
            if loss is not None:
                return loss
        data, names = self.checked("batch", X, y, sample_weight, who, ignores, given)
        loss = self.on_checked(data, who)
        self._state.feature_names = names
        return loss

    def on_checked(self, data: Data, who: str) -> float:
        """Take a step on checked rows; return 0, without a step, if no target is known."""
        if data.weight.size and not data.mass:
            if not self._warned_of_gaps:
                self._warned_of_gaps = True
                text = "a batch has no known target: no step was taken, and 0 returned"
                warn(f"{who}: {text}", UserWarning)
            return 0.0
        if data.derivatives:
            return self._step("derivatives", data, who)
        network = self._engines["batch"].network
        has_factors = network.has_factors(data.y.shape[1])
        return self.take("weighted" if has_factors else "batch", data, who)

    def take(self, kind: Kind, data: Data, who: str) -> float:
        """Take a step on checked rows, by one call where a trainer is ready:
        1,010 -> 830 us (23-256-256-1, 256 rows, one thread).
        """
        y = data.y
        if kind == "batch" and self._engines[kind].network.loss.targets == "classes":
            y = y.astype(np.int64)
        weight = data.weight if data.weight.size else None
        loss = self._quickly(kind, data.x, y, weight, who)
        return self._step(kind, data, who) if loss is None else loss

    def checked(
        self,
        kind: Kind,
        X: Any,
        y: Any,
        weight: Any,
        who: str,
        ignores: bool = False,
        given: of_derivatives.Given | None = None,
    ) -> tuple[Data, frames.Names]:
        """A step's rows, with targets or the gradient by the raw outputs;
        the columns' names.
        """
        self.require_steps(who)
        if kind == "gradient":
            return self._given(kind, X, y, who), self._state.feature_names
        engine = self._engines[kind]
        if given is not None:
            given.check(engine.network, "cpu", self._state.optimizer, who)
        if given:
            engine = self.engine("derivatives", who)
        X, names = frames.named(X, self._state.feature_names, who, warns=True)
        data = engine.data(X, y, weight, who, ignore=ignores)
        if given:
            rows = FitRows(None, data, None, names)
            data = given.attached(rows, engine.network, who, all_unknown=True).data
        return data, names

    def on_gradient(self, X: Any, output_gradient: Any) -> None:
        plain = output_gradient
        if self._slopes is not None and type(plain) is not np.ndarray:
            plain = self._slopes(plain, np.shape(X)[:1])
        matrix = type(plain) is np.ndarray and plain.ndim == 2
        if matrix and self._quickly("gradient", X, plain) is not None:
            return
        who = WHO_STEPS["gradient"]
        data, _ = self.checked("gradient", X, output_gradient, None, who)
        self.take("gradient", data, who)

    def _joined(self, output_gradient: Any, who: str) -> Any:
        """Slopes by the outputs as one array, from an array or one for each head."""
        if not isinstance(output_gradient, tuple | Mapping) or not self._forms:
            return output_gradient
        dtype = self._engines["batch"].network.dtype
        return joined(output_gradient, self._forms, dtype, who)

    def vjp(
        self,
        X: Any,
        output_gradient: Any,
        inputs: object,
        parameters: object,
        who: str = "MLP.vjp",
        of_jacobian: Any = None,
    ) -> Any:
        """The gradient by the parameters, by the inputs, or both."""
        scalars.boolean(who, "inputs", inputs)
        if not scalars.boolean(who, "parameters", parameters) and not inputs:
            raise ValueError(
                f"{who}: inputs=False and parameters=False leave nothing to return"
            )
        kind: Kind = "vjp" if of_jacobian is None else "jacobian_vjp"
        data = self._given(kind, X, output_gradient, who, of_jacobian)
        state = self._state
        by_inputs = np.empty(
            (data.n_rows, state.layout.sizes[0]), state.parameters.dtype
        )
        where = by_inputs if inputs else None
        by: Any = {"by_parameters": parameters}
        _, gradient = self._differentiate(kind, data, state.parameters, where, **by)
        result = gradient if parameters else by_inputs
        if not self._warned and not np.isfinite(result).all():
            self._warned = True
            text = "the gradient is not finite; look at X and the parameters for huge numbers"
            warn(f"{who}: {text}", RuntimeWarning)
        if not parameters:
            return by_inputs
        return (gradient, by_inputs) if inputs else gradient

    def loss_and_gradient(
        self, X: Any, y: Any, sample_weight: Any, missing_targets: Any
    ) -> tuple[float, Array]:
        who = "MLP.loss_and_gradient"
        state = self._state
        ignores = gaps.checked(missing_targets, who)
        X = state.select(X, who)
        data = self._engines["batch"].data(X, y, sample_weight, who, ignore=ignores)
        if not data.mass:
            raise ValueError(f"{who}: y has no known target of a weight above 0")
        return self._differentiate("objective", data, state.trained())

    def _differentiate(
        self,
        kind: Kind,
        data: Data,
        parameters: Array,
        by_inputs: Any = None,
        **options: bool,
    ) -> tuple[float, Array]:
        """The objective and its gradient, by a kept objective,
        which one thread gets, or by a new one.
        """
        key = _key(kind, data)
        kept = self._objectives
        known = self._serving(kept, key)
        reference = kept.pop(known, None)
        objective = None if reference is None else reference()
        if objective is None:
            known = key._replace(room=self._room(kept, key, KEPT.drop))
            objective = self.new_objective(
                kind, data, known.room if key.is_dense else None
            )
        else:
            KEPT.drop(objective)
            objective.take(data)
        result = objective(parameters, by_inputs, **options)
        if key.is_dense and data.n_rows <= MOST_KEPT_ROWS:
            kept[known] = weakref.ref(objective)
            KEPT.give(None, objective, objective.n_bytes)
        return result

    def new_objective(
        self, kind: Kind, data: Data, room: int | None = None
    ) -> Objective:
        """An objective of these rows, or of others up to `room`."""
        summed = kind in ("vjp", "jacobian_vjp")
        return self._engines[kind].objective(data, summed=summed, room=room)

    def _serving(self, kept: dict[Key, Any], key: Key) -> Key:
        """The key of a kept trainer that serves these rows; else the rows' key."""
        engine = self._engines[key.kind]
        for it in list(kept):
            if it[:3] == key[:3] and (
                engine.serves(key.room, it.room) if key.is_dense else it == key
            ):
                return it
        return key

    def _room(self, kept: dict[Key, Any], key: Key, drop: Callable[[Any], Any]) -> int:
        """The rows of new buffers: twice the rows of kept ones that are too small,
        which are dropped, where one size serves both.
        """
        engine = self._engines[key.kind]
        room = key.room
        for it in list(kept) if key.is_dense else []:
            if it[:3] == key[:3] and engine.serves(it.room, key.room):
                reference = kept.pop(it, None)
                drop(None if reference is None else reference())
                room = max(room, 2 * it.room)
        while not engine.serves(key.room, room):
            room = key.room + (room - key.room) // 2
        return room

    def require_steps(self, who: str) -> None:
        network = self._engines["batch"].network
        optimizer = self._state.optimizer
        if optimizer is self._checked:
            return
        require_trained(network, who)
        require_first_order(optimizer, who)
        setting = setting_of_length(network, optimizer, known=True)
        if setting is not None:
            if isinstance(setting, SWA):
                instead = "use EMA"
            else:
                instead = "give its n_steps="
            raise ValueError(
                f"{who}: {setting!r} needs the number of steps, which single steps do "
                f"not have: {instead}"
            )
        self._checked = optimizer

    def _given(
        self,
        kind: Kind,
        X: Any,
        output_gradient: Any,
        who: str,
        of_jacobian: Any = None,
    ) -> Data:
        """Rows whose targets are the gradient by the raw outputs,
        and perhaps by the Jacobian.
        """
        X = self._state.select(X, who)
        engine = self.engine(kind, who)
        output_gradient = self._joined(output_gradient, who)
        if (
            output_gradient is None
            and of_jacobian is not None
            and hasattr(X, "__len__")
        ):
            output_gradient = np.zeros((len(X), self._state.layout.sizes[-1]))
        if not hasattr(output_gradient, "__cuda_array_interface__"):
            n_rows = len(X) if hasattr(X, "__len__") else 0
            shape = (n_rows, self._state.layout.sizes[-1])
            dtype = engine.network.dtype
            output_gradient = arrays.matrix(
                output_gradient, shape, dtype, "output_gradient", who
            )
        data = engine.data(X, output_gradient, None, who)
        if of_jacobian is None:
            return data
        if not isinstance(data.x, np.ndarray):
            of_derivatives.refuse("expanded rows", "a dense array X", who)
        gradient = of_derivatives.gradient(
            of_jacobian, len(data.x), engine.network, who
        )
        return data._replace(derivatives=gradient)

    def _quickly(
        self, kind: Kind, X: Any, y: Any, weight: Any = None, who: str | None = None
    ) -> float | None:
        """Take the next step by one call,
        if a trainer is ready; return the loss, or None.
        """
        if type(X) is not np.ndarray or X.ndim != 2:
            return None
        kept = self.ready(kind, X.shape)
        if kept is None:
            return None
        size = kept.quick.sizes.get(len(X)) or kept.quick.size_of(len(X))
        if size is None:
            return None
        owners = self._owners
        step = self._state.n_steps
        if not size.is_short:
            with owners.training(WHO_STEPS[kind]):
                loss = self._take(kept, X, y, weight)
        else:
            # While this lock is held, no other thread begins to train.
            with self._state.lock.parameters:
                if owners.owner is not None:
                    return None
                owners.owner = self
                owners.n_owners += 1
                locks.change[0] = object()
                try:
                    loss = self._take(kept, X, y, weight)
                finally:
                    owners.owner = None
        if loss is not None and (self._state.n_steps == step or kept.quick.is_lost):
            self._warn(loss, who or WHO_STEPS[kind], taken=self._state.n_steps > step)
        return loss

    def ready(self, kind: Kind, shape: tuple[int, int]) -> Kept | None:
        reference = self._ready[kind].get(shape)
        kept = (None if reference is None else reference()) or self._find(kind, shape)
        return None if kept is None or kept.quick is None else kept

    def _find(self, kind: Kind, shape: tuple[int, int]) -> Kept | None:
        """A ready trainer for rows of this shape, the first time that they come."""
        n_rows = shape[0]
        engine = self._engines[kind]
        if shape[1] != self._state.layout.sizes[0] or not n_rows:
            return None
        for key in list(self._trainers):
            if key.kind == kind and key.is_dense and engine.serves(n_rows, key.room):
                kept = self._kept(key)
                if kept is not None and kept.quick is not None:
                    keep(self._ready[kind], shape, self._trainers[key])
                    return kept
        return None

    def _take(self, kept: Kept, X: Any, y: Any, weight: Any) -> float | None:
        """Take the next step by one call; return the loss,
        or None if the step was not taken: its loss is not finite.
        """
        state = self._state
        quick = kept.quick
        step = self._state.n_steps
        if not self.set_up(kept, 1):
            return None
        try:
            loss: float | None = quick(step, X, y, weight)
        except KeyboardInterrupt:
            # An interrupt may have come as the call returned.
            state.n_steps = step + quick.has_taken(step)
            raise
        if loss is not None and (loss - loss == 0 or quick.has_taken(step)):
            state.n_steps = step + 1
        return loss

    def set_up(self, kept: Kept, n_owners: int) -> bool:
        """Let a trainer's one call take the next step; return False where it cannot.
        `n_owners`: the lock's owners since the last step, the caller included.
        """
        state = self._state
        quick = kept.quick
        step = self._state.n_steps
        optimizer = state.optimizer
        # The length of a new schedule is not checked yet.
        is_new = optimizer is not kept.optimizer
        if is_new and (
            callable(optimizer.learning_rate) or not kept.follows(optimizer)
        ):
            return False
        if (
            self._owners.n_owners != self._n_owners + n_owners
            or quick.slots is not self._slots
        ):
            # An average's beginning may have changed.
            if is_averaged(optimizer):
                return False
            if not quick.adopt(self._engines["batch"].slots(state)):
                return False
            self._slots = quick.slots
        self._n_owners = self._owners.n_owners
        tabled = step in self._steps and optimizer is self._tabled
        if not tabled or kept.table is not self._table:
            self._fill(kept, step)
        return True

    @property
    def n_tabled(self) -> int:
        return self._steps.stop - self._state.n_steps

    def _fill(self, kept: Kept, step: int) -> None:
        """Give a trainer the coefficients of the next steps:
        one step for a new optimizer, or where a user's function gives the rate.
        """
        optimizer: Any = self._state.optimizer
        if step not in self._steps or optimizer is not self._tabled:
            ahead = optimizer is self._tabled and self._is_known
            if ahead and self._is_plain:
                factors = self._engines["batch"].network.factors
                table = _plain_table(optimizer, factors, step, self._row.dtype)
            elif ahead or not self._is_plain:
                numbers = self.coefficients(step, TABLE_STEPS if ahead else 1)
                table = np.ascontiguousarray(numbers, self._row.dtype)
            else:
                # `coefficients` would take 12 us, this 2.
                row = []
                rate = optimizer.learning_rate
                if callable(rate):
                    rate = self._asked_rate(rate, step)
                for group in self._groups:
                    settings = group.settings_of(optimizer)
                    row += settings.coefficients(step + 1, rate * group.factor)
                if len(row) != self._row.shape[1]:
                    self._row = np.empty((1, len(row)), self._row.dtype)
                table = self._row
                self._steps = range(0)
                table[0] = row
            # Last: an interrupt before would leave a table that does not belong to
            # `_steps`.
            self._table = table
            self._steps = range(step, step + len(table))
            self._tabled = optimizer
        if kept.table is not self._table:
            kept.quick.point_to(self._table, self._steps.start)
            kept.table = self._table

    def _step(self, kind: Kind, data: Data, who: str) -> float:
        """Take the next step, unless its loss is not finite; return the loss."""
        state = self._state
        losses = np.full(1, np.nan)
        with self._owners.training(who):
            if self._codes is not None:
                # A user may have written weights of a wrong sign.
                state.assign(layer_settings.bounded(state.parameters, self._codes))
            kept = self._kept_trainer(kind, data)
            step = state.n_steps
            trainer = kept.trainer
            state.average_over(step, step + 1)
            asked = step in self._steps and self._tabled is state.optimizer
            # An average may begin anew.
            if asked and not is_averaged(state.optimizer):
                coefficients = self._table[step - self._steps.start][None]
            else:
                coefficients = self.coefficients(step, who=who)
            order = data.plain_order
            trainer.begin()
            try:
                for unit in range(trainer.units_per_epoch):
                    # One at a time: Ctrl-C between them leaves the net unchanged.
                    trainer.run(order, coefficients, losses, unit, unit + 1)
                self._conclude(trainer, step)
            except BaseException:
                # An interrupt may have come after the step, or within its conclusion.
                self._conclude(trainer, step)
                raise
            if trainer.diverged or not np.isfinite(state.parameters).all():
                self._warn(float(losses[0]), who, taken=not trainer.diverged)
            self._get_ready(kind, kept, data.x.shape)
        return float(losses[0])

    def _conclude(self, trainer: Trainer, step: int) -> None:
        """Store and count a step, if it was taken; a second call changes nothing."""
        if trainer.reached == trainer.units_per_epoch and not trainer.diverged:
            trainer.store()
            self._state.n_steps = step + 1

    def _get_ready(self, kind: Kind, kept: Kept, shape: Any) -> None:
        """Prepare a trainer for steps by one call, after a step that the loop took."""
        kept.quick = kept.trainer.pause()
        self._steps = range(0)
        self._tabled = self._state.optimizer
        self._look()
        if kept.quick is not None:
            self._slots = kept.quick.slots
            self._n_owners = self._owners.n_owners
            keep(self._ready[kind], shape, weakref.ref(kept))

    def _asked_rate(self, rate: Any, step: int) -> float:
        """The rate of a step by a user's function; `checked_rates` alone takes 3 us."""
        try:
            returned = rate(np.array([step]), NO_END)
        except TypeError as error:
            raise self._without_end("MLP", error) from error
        if type(returned) is np.ndarray and returned.shape == (1,):
            number = returned.item()
            if type(number) is float and 0 <= number < math.inf:
                return number
        return float(checked_rates(rate, returned, 1)[0])

    def _look(self) -> None:
        network = self._engines["batch"].network
        optimizer = self._state.optimizer
        dropout = network.dropout
        self._groups = groups_of(optimizer, network.factors).groups
        alone = type(optimizer) in TAKING_ONE_RATE and has_coefficients_alone(optimizer)
        self._is_plain = dropout is None and alone
        self._is_known = all(map(is_known, rates_in_use(dropout, optimizer)))

    def _warn(self, loss: float, who: str, *, taken: bool = False) -> None:
        """Warn, once, that a step was not taken, or has lost the parameters."""
        if self._warned:
            return
        self._warned = True
        lost = "parameters are not finite after this step"
        if taken:
            what = lost
        else:
            what = "no step was taken, and the net is as it was"
        advice = "try a smaller learning rate, or standardise X"
        warn(f"{who}: the loss is {loss:.3g}, {what}; {advice}", RuntimeWarning)

    def coefficients(self, step: int, n_steps: int = 1, who: str = "MLP") -> Rates:
        state = self._state
        network = self._engines["batch"].network
        steps = step + np.arange(n_steps)
        end = NO_END
        groups = groups_of(state.optimizer, network.factors).groups
        try:
            rates = rates_at(state.optimizer, steps, end)
            table = coefficients_of(
                state.optimizer, step + 1, rates, groups, state.averaged_from
            )
            if network.dropout is None:
                return table
            drawn = numbers_of(network.dropout, state.kept_key(), steps, end)
        except TypeError as error:
            raise self._without_end(who, error) from error
        return np.column_stack([table, drawn])

    def _without_end(self, who: str, error: TypeError) -> ValueError:
        dropout = self._engines["batch"].network.dropout
        rates = rates_in_use(dropout, self._state.optimizer)
        used = [it for it in rates if callable(it)]
        return ValueError(
            f"{who}: {used} needs the number of steps, which single steps do not have: "
            f"{error}"
        )

    def trainer(self, kind: Kind, data: Data, room: int | None = None) -> Trainer:
        state = self._state
        engine = self._engines[kind]
        fixed = state.parameters, engine.slots(state, data), state.optimizer, data
        summed = kind in ("gradient", "jacobian_gradient")
        return engine.trainer(*fixed, room or data.n_rows, stepping=True, summed=summed)

    def _kept_trainer(self, kind: Kind, data: Data) -> Kept:
        """The trainer kept for steps of this kind and shape, or a new one there."""
        state = self._state
        engine = self._engines[kind]
        trainers = self._trainers
        slots = engine.slots(state, data)
        key = _key(kind, data)
        known = self._serving(trainers, key)
        kept = self._kept(known)
        if kept is not None and kept.follows(state.optimizer):
            kept.trainer.resume(slots, data)
            return kept
        self._let_go(known)
        if kept is None:
            room = self._room(trainers, key, _end)
        else:
            room = known.room
        for old in list(trainers)[: 1 - MOST_KEPT_TRAINERS]:
            self._let_go(old)
        trainer = self.trainer(kind, data, room)
        kept = Kept(trainer, state.optimizer, room)
        trainers[key._replace(room=room)] = weakref.ref(kept)
        KEPT.give(None, kept, trainer.n_bytes)
        return kept

    def _kept(self, key: Any) -> Kept | None:
        reference = self._trainers.get(key)
        return None if reference is None else reference()

    def _let_go(self, key: Key) -> None:
        kept = self._kept(key)
        self._trainers.pop(key, None)
        _end(kept)


@lru_cache(maxsize=64)
def _plain_table(
    optimizer: Any, factors: Any, step: int, dtype: np.dtype[Any]
) -> Array:
    """The coefficients of the next steps,
    which nets of one loop share: 3.9 -> 0.7 ms for 100.
    """
    rates = rates_at(optimizer, step + np.arange(TABLE_STEPS), NO_END)
    groups = groups_of(optimizer, factors).groups
    table = coefficients_of(optimizer, step + 1, rates, groups)
    return np.ascontiguousarray(table, dtype)


class Key(NamedTuple):
    """Rows that the same buffers serve, up to `room`."""

    kind: Kind
    width: int
    is_dense: bool
    room: int


def _key(kind: Kind, data: Data) -> Key:
    return Key(kind, data.y.shape[1], isinstance(data.x, np.ndarray), data.n_rows)


def _end(kept: Kept | None) -> None:
    if kept is not None:
        KEPT.drop(kept)
        kept.quick = None
        kept.trainer.end()


class Kept:
    """A trainer that waits for the next step of its net.

    Attributes
    ----------
    optimizer : for which it was made, or another with the same traits
    room : most rows
    quick : its steps by one call, or None
    table : the coefficients that `quick` reads
    """

    def __init__(self, trainer: Trainer, optimizer: Optimizer, room: int) -> None:
        self.trainer: Trainer = trainer
        self.optimizer: Optimizer = optimizer
        self.room: int = room
        self._traits = traits_of(optimizer)
        self.quick: Any = None
        self.table: Array | None = None

    def follows(self, optimizer: Optimizer) -> bool:
        """Return True if the steps of this optimizer differ in coefficients alone; take
        it.
        """
        if optimizer is not self.optimizer:
            if traits_of(optimizer) != self._traits:
                return False
            self.optimizer = optimizer
        return True
