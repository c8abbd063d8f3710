"""`partial_fit` on one batch: a step of a trainer that is kept from one call to the next."""

from functools import partial
from operator import is_not
from typing import Any, NamedTuple

import numpy as np
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from fastmlp._process.locks import NetLock
from fastmlp.backends.protocol import Data
from fastmlp.estimators.mlp.fitting import to_core
from fastmlp.estimators.mlp.fitting.epochs import Epochs
from fastmlp.estimators.mlp.fitting.rows import RowSubset
from fastmlp.estimators.mlp.fitting.shortcuts import seeded
from fastmlp.network.state import NetState
from fastmlp.rules.optimizers import Optimizer
from fastmlp.training.steps import Steps


class KeptSteps(NamedTuple):
    """The single steps of an estimator, and the settings for which they were made.

    Attributes
    ----------
    core : Optimizer, of the core
    has_labels : bool, True if targets are labels, not numbers
    numbers : learning rate and number of threads
    values : parameters and other objects, which must be the same ones
    """

    steps: Steps
    core: Optimizer
    has_labels: bool
    numbers: tuple[float, int | None]
    values: list[Any]


def step_alone(estimator: Any, part: RowSubset) -> bool:
    """Train an estimator on rows that are one batch, by a kept trainer; return False, and leave it
    as it was, where that cannot be or the loss is not finite."""
    state: NetState = estimator._live_state()
    if state is not estimator.__dict__.get("_state") or not _is_one_batch(estimator, part):
        return False
    kept = _kept_steps(estimator, state)
    if kept is None:
        return False
    n, random = len(part.y), estimator._random_state
    before = None if type(estimator.random_state) is int else random.get_state()
    order = np.arange(n)
    if estimator.shuffle:
        random.shuffle(order)
    state.optimizer, state.n_steps = kept.core, to_core.steps_of(estimator._optimizer)
    y = part.y.argmax(axis=1) if kept.has_labels else part.y
    if y.dtype == bool:
        y = y.astype(state.parameters.dtype)
    epochs = Epochs(estimator, Data(part.X, y, np.empty(0)), n, None, True)
    loss = None
    try:
        loss = kept.steps.on_checked(part.X, y, part.weight, order, type(estimator).__name__)
    except KeyboardInterrupt as error:
        epochs.interrupted_alone(error)
        return True
    finally:
        to_core.note_steps(estimator._optimizer, kept.core, state.n_steps)
    if loss is None:
        # The general way takes this step, and draws the order again.
        if before is None:
            seeded(estimator)
        else:
            random.set_state(before)
        return False
    epochs.end_alone(np.float64(loss))
    return True


def _is_one_batch(estimator: Any, part: RowSubset) -> bool:
    """Return True for dense rows that are one batch, of an estimator without what changes between
    steps or needs the general way."""
    n, batch_size = len(part.y), estimator.batch_size
    whole = n <= 200 if batch_size == "auto" else n == batch_size
    return (
        whole
        and type(part.X) is np.ndarray
        and part.rows is None
        and not isinstance(estimator.activation, list)
        and not estimator.early_stopping
        and estimator.average is None
        and estimator.compute_dtype is None
        and not to_core.names_in_use(estimator)
    )


def _kept_steps(estimator: Any, state: NetState) -> KeptSteps | None:
    """The single steps of an estimator: those kept, or new ones; None without a constant rate."""
    rate = _constant_rate(estimator)
    if rate is None:
        return None
    values = [getattr(estimator, name) for name in estimator._get_param_names()]
    values += [state, estimator._optimizer, estimator.out_activation_]
    numbers = (rate, to_core.n_threads_of(estimator.n_jobs))
    kept: KeptSteps | None = estimator.__dict__.get("_single_steps")
    if kept is not None and kept.numbers == numbers and not any(map(is_not, kept.values, values)):
        return kept
    network = to_core.network_of(estimator, state.layout.sizes, state.parameters.dtype)
    network = to_core.in_training(estimator, network)
    engine_of = partial(to_core.engine_of, estimator, lock=state.lock)
    # Not the net's own lock: `net_` has an optimizer's state of its own.
    steps = Steps(state, engine_of, network, rate, NetLock(), by_rows=True)
    core, has_labels = to_core.averaged(estimator), network.loss.targets == "classes"
    kept = estimator._single_steps = KeptSteps(steps, core, has_labels, numbers, values)
    return kept


def _constant_rate(estimator: Any) -> float | None:
    """The learning rate of an optimizer object that does not change it, else None."""
    optimizer = estimator._optimizer
    if isinstance(optimizer, to_core.CoreOptimizer):
        rate = optimizer.core.learning_rate
        return None if callable(rate) else float(rate)
    if isinstance(optimizer, AdamOptimizer):
        return float(optimizer.learning_rate_init)
    return float(optimizer.learning_rate) if optimizer.lr_schedule == "constant" else None
