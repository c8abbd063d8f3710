"""One step at a time, from the user's own loop: the trainers that are kept between the calls."""

import weakref
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.memory import BufferPool
from fastmlp._process.warnings import warn
from fastmlp.backends.protocol import Data, Engine, Objective, Trainer
from fastmlp.network import monotone
from fastmlp.network.layer_settings import require_trained
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.activations import identity
from fastmlp.rules.averages import SWA
from fastmlp.rules.dropout import numbers_of
from fastmlp.rules.groups import groups_of
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import OUTPUT_GRADIENT
from fastmlp.rules.optimizers import Optimizer, Rates, coefficients_of, require_first_order
from fastmlp.training.loop import rates_at
from fastmlp.training.rows import setting_of_length
from fastmlp.validation import scalars

Array = NDArray[Any]
Kind = Literal["batch", "gradient", "vjp"]
# The trainers of all nets of the process; bytes, and how many.
KEPT = BufferPool(1 << 26, 4096)
WHO: dict[Kind, str] = {"batch": "MLP.train_on_batch", "gradient": "MLP.train_on_gradient"}
# Objectives keep their last rows, if they are few.
MOST_KEPT_ROWS = 4096
# The steps whose coefficients are computed at once.
TABLE_STEPS = 256
# The sizes of batches whose trainers a net finds again.
MOST_SIZES = 8


class Steps:
    """The steps of one net that its user asks for one by one.

    Parameters
    ----------
    state : NetState
    engine_of : from a network to its engine on the net's device
    network : Network
    """

    def __init__(
        self,
        state: NetState,
        engine_of: Callable[[Network], Engine[Any]],
        network: Network,
    ) -> None:
        self._trainers: dict[Any, weakref.ref[Kept]] = {}
        self._objectives: dict[Any, weakref.ref[Objective]] = {}
        self._owners = state.lock
        raw = network._replace(
            loss=OUTPUT_GRADIENT,
            activations=(*network.activations[:-1], identity),
            link=LINKS["identity"],
        )
        plain = raw._replace(penalties=(), dropout=None, compute_dtype=None)
        networks: dict[Kind, Network] = {"batch": network, "gradient": raw, "vjp": plain}
        self._engines = {kind: engine_of(network) for kind, network in networks.items()}
        self._state = state
        # Trainers that are ready, by the shape of rows, while only this object trains the net.
        self._ready: dict[Kind, dict[Any, weakref.ref[Kept]]] = {"batch": {}, "gradient": {}}
        self._slots: object = None
        self._n_owners = 0
        # The coefficients, and the steps that have them.
        self._table, self._steps = np.empty(0), range(0)
        self._checked: Optimizer | None = None
        self._warned = False
        self._codes = monotone.codes_of(network) if network.signs else None

    def __del__(self) -> None:
        """Drop the buffers of a net that is gone: the pool would keep them until it is full."""
        references: list[weakref.ref[Any]] = [*self._trainers.values(), *self._objectives.values()]
        for reference in references:
            KEPT.drop(reference())

    def __reduce__(self) -> Any:
        """Copy and pickle as None: a copy of a net makes its own."""
        return type(None), ()

    def on_batch(self, X: Any, y: Any, sample_weight: Any) -> float:
        """Take a step on these rows; return their objective."""
        loss = self._quickly("batch", X, y, sample_weight)
        if loss is not None:
            return loss
        who, engine = WHO["batch"], self._engines["batch"]
        self.require_steps(who)
        X, names = validation.named(X, self._state.feature_names, who, warns=True)
        loss = self._step("batch", engine.data(X, y, sample_weight, who), who)
        self._state.feature_names = names
        return loss

    def on_gradient(self, X: Any, output_gradient: Any) -> None:
        """Take a step with the gradient by the raw outputs."""
        matrix = type(output_gradient) is np.ndarray and output_gradient.ndim == 2
        if matrix and self._quickly("gradient", X, output_gradient) is not None:
            return
        who = WHO["gradient"]
        self.require_steps(who)
        self._step("gradient", self._given("gradient", X, output_gradient, who), who)

    def vjp(self, X: Any, output_gradient: Any, inputs: object) -> Any:
        """The gradient by the parameters, and by the inputs if they are asked for."""
        who = "MLP.vjp"
        scalars.boolean(who, "inputs", inputs)
        data, state = self._given("vjp", X, output_gradient, who), self._state
        by_inputs = np.empty((data.n_rows, state.layout.sizes[0]), state.parameters.dtype)
        where = by_inputs if inputs else None
        _, gradient = self._differentiate("vjp", data, state.parameters, where)
        return (gradient, by_inputs) if inputs else gradient

    def loss_and_gradient(self, X: Any, y: Any, sample_weight: Any) -> tuple[float, Array]:
        """The objective of rows and its gradient, without a step."""
        who, state = "MLP.loss_and_gradient", self._state
        data = self._engines["batch"].data(state.select(X, who), y, sample_weight, who)
        return self._differentiate("batch", data, state.trained())

    def _differentiate(
        self, kind: Kind, data: Data, parameters: Array, by_inputs: Any = None
    ) -> tuple[float, Array]:
        """The objective and its gradient, by one that was kept, which a single thread gets, or by
        a new one."""
        dense, key = isinstance(data.x, np.ndarray), (kind, data.n_rows, data.y.shape[1])
        reference = self._objectives.pop(key, None) if dense else None
        objective = None if reference is None else reference()
        if objective is None:
            objective = self.objective(kind, data)
        else:
            KEPT.drop(objective)
            objective.take(data)
        result = objective(parameters, by_inputs)
        if dense and data.n_rows <= MOST_KEPT_ROWS:
            self._objectives[key] = weakref.ref(objective)
            KEPT.give(None, objective, objective.n_bytes)
        return result

    def require_steps(self, who: str) -> None:
        """Check that single steps can be taken with these settings.

        Raises
        ------
        ValueError
            If all layers are frozen, or a setting depends on a fit's number of steps.
        """
        network, optimizer = self._engines["batch"].network, self._state.optimizer
        if optimizer is self._checked:
            return
        require_trained(network, who)
        require_first_order(optimizer, who)
        setting = setting_of_length(network, optimizer)
        if setting is not None:
            instead = "use EMA" if isinstance(setting, SWA) else "give its n_steps="
            raise ValueError(
                f"{who}: {setting!r} needs the number of steps, which single steps do not have: "
                f"{instead}"
            )
        self._checked = optimizer

    def _given(self, kind: Kind, X: Any, output_gradient: Any, who: str) -> Data:
        """Rows whose targets are the gradient by the raw outputs, checked."""
        X, engine = self._state.select(X, who), self._engines[kind]
        if not hasattr(output_gradient, "__cuda_array_interface__"):
            n_rows = len(X) if hasattr(X, "__len__") else 0
            shape, dtype = (n_rows, self._state.layout.sizes[-1]), engine.network.dtype
            output_gradient = validation.matrix(
                output_gradient, shape, dtype, "output_gradient", who
            )
        return engine.data(X, output_gradient, None, who)

    def _quickly(self, kind: Kind, X: Any, y: Any, weight: Any = None) -> float | None:
        """Take the next step by one call, if a trainer is ready; return the loss, or None."""
        if type(X) is not np.ndarray:
            return None
        reference = self._ready[kind].get(X.shape)
        kept = None if reference is None else reference()
        if kept is None:
            return None
        owners, before, step = self._owners, self._n_owners, self._state.n_steps
        if not kept.quick.is_short:
            with owners.training(WHO[kind]):
                if owners.n_owners != before + 1:
                    return None
                self._n_owners = owners.n_owners
                loss = self._take(kept, X, y, weight)
        else:
            # Nobody else begins to train meanwhile: it is held to begin.
            with self._state.lock.parameters:
                if owners.owner is not None or owners.n_owners != before:
                    return None
                owners.owner = self
                try:
                    loss = self._take(kept, X, y, weight)
                finally:
                    owners.owner = None
        if loss is not None and self._state.n_steps == step:
            self._warn(loss, WHO[kind])
        return loss

    def _take(self, kept: "Kept", X: Any, y: Any, weight: Any) -> float | None:
        """Take the next step by one call, unless its loss is not finite; return the loss, or None
        where it cannot be taken so."""
        state, quick, step = self._state, kept.quick, self._state.n_steps
        if kept.optimizer is not state.optimizer or quick.slots is not self._slots:
            return None
        if kept.table is not self._table or step not in self._steps:
            self._fill(kept, step)
        try:
            loss: float | None = quick(step, X, y, weight)
        except KeyboardInterrupt:
            # It may have come as the call returned.
            state.n_steps = step + quick.has_taken(step)
            raise
        if loss is not None and (loss - loss == 0 or quick.has_taken(step)):
            state.n_steps = step + 1
        return loss

    def _fill(self, kept: "Kept", step: int) -> None:
        """Give a trainer the coefficients of the next steps."""
        if step not in self._steps:
            coefficients = self.coefficients(step, TABLE_STEPS)
            table = np.ascontiguousarray(coefficients, self._state.parameters.dtype)
            # Last: an interrupt before leaves steps and table of one another.
            self._table, self._steps = table, range(step, step + TABLE_STEPS)
        kept.quick.point_to(self._table, self._steps.start)
        kept.table = self._table

    def _step(self, kind: Kind, data: Data, who: str) -> float:
        """Take the next step on these rows, unless its loss is not finite; return the loss."""
        state, losses = self._state, np.full(1, np.nan)
        with self._owners.training(who):
            if self._codes is not None:
                # As a fit does: a user may have written weights of a wrong sign.
                state.assign(monotone.bounded(state.parameters, self._codes))
            kept, step = self._kept_trainer(kind, data), state.n_steps
            trainer = kept.trainer
            state.average_over(step, step + 1)
            coefficients = self.coefficients(step)
            order = data.plain_order
            trainer.begin()
            try:
                for unit in range(trainer.units_per_epoch):
                    # One at a time: Ctrl-C between them leaves the net as it was.
                    trainer.run(order, coefficients, losses, unit, unit + 1)
                self._conclude(trainer, step)
            except BaseException:
                # An interrupt may have come after the step, or within its conclusion.
                self._conclude(trainer, step)
                raise
            if trainer.diverged:
                self._warn(float(losses[0]), who)
            self._get_ready(kind, kept, data.x.shape)
        return float(losses[0])

    def _conclude(self, trainer: Trainer, step: int) -> None:
        """Store and count a step, if it was taken; a second time changes nothing."""
        if trainer.reached == trainer.units_per_epoch and not trainer.diverged:
            trainer.store()
            self._state.n_steps = step + 1

    def _get_ready(self, kind: Kind, kept: "Kept", shape: Any) -> None:
        """Prepare a trainer for steps by one call, after a step that was taken by the loop."""
        kept.quick, self._steps = kept.trainer.pause(), range(0)
        if kept.quick is not None:
            self._slots, self._n_owners = kept.quick.slots, self._owners.n_owners
            self._ready[kind][shape] = weakref.ref(kept)

    def _warn(self, loss: float, who: str) -> None:
        """Warn, the first time, that a step was not taken."""
        if not self._warned:
            self._warned = True
            warn(
                f"{who}: the loss is {loss:.3g}, no step was taken, and the net is as it was; try "
                "a smaller learning rate, or standardise X",
                RuntimeWarning,
            )

    def coefficients(self, step: int, n_steps: int = 1) -> Rates:
        """The numbers that steps take."""
        state, network = self._state, self._engines["batch"].network
        steps = step + np.arange(n_steps)
        groups = groups_of(state.optimizer, network.factors).groups
        rates = rates_at(state.optimizer, steps, step + 1)
        table = coefficients_of(state.optimizer, step + 1, rates, groups, state.averaged_from)
        if network.dropout is None:
            return table
        drawn = numbers_of(network.dropout, state.kept_key(), steps, step + 1)
        return np.column_stack([table, drawn])

    def trainer(self, kind: Kind, data: Data) -> Trainer:
        """A new trainer of steps on these rows."""
        state, engine = self._state, self._engines[kind]
        fixed = state.parameters, engine.slots(state, data), state.optimizer, data, data.n_rows
        return engine.trainer(*fixed, stepping=True, summed=kind == "gradient")

    def objective(self, kind: Kind, data: Data) -> Objective:
        """A new objective of these rows."""
        return self._engines[kind].objective(data, summed=kind == "vjp")

    def _kept_trainer(self, kind: Kind, data: Data) -> "Kept":
        """A trainer that is ready for these rows: one that was kept, or a new one."""
        state, engine, trainers = self._state, self._engines[kind], self._trainers
        slots = engine.slots(state, data)
        key = (kind, data.n_rows, data.y.shape[1], data.weight.size > 0)
        kept = self._kept(key)
        if kept is not None and kept.optimizer is state.optimizer:
            kept.trainer.resume(slots, data)
            return kept
        for old in [key, *list(trainers)[: 1 - MOST_SIZES]]:
            self._let_go(old)
        trainer = self.trainer(kind, data)
        kept = Kept(trainer, state.optimizer)
        trainers[key] = weakref.ref(kept)
        KEPT.give(None, kept, trainer.n_bytes)
        return kept

    def _kept(self, key: Any) -> "Kept | None":
        reference = self._trainers.get(key)
        return None if reference is None else reference()

    def _let_go(self, key: Any) -> None:
        """Leave a trainer's buffers to others."""
        kept = self._kept(key)
        self._trainers.pop(key, None)
        if kept is not None:
            KEPT.drop(kept)
            kept.trainer.end()


class Kept:
    """A trainer that waits for the next step of its net.

    Attributes
    ----------
    optimizer : for which it was made
    quick : its steps by one call, or None
    table : the coefficients that those read
    """

    def __init__(self, trainer: Trainer, optimizer: Optimizer) -> None:
        self.trainer, self.optimizer = trainer, optimizer
        self.quick: Any = None
        self.table: Array | None = None
