"""Training as in scikit-learn: by batches and epochs,
or on all rows at once by L-BFGS.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from typing import Any, ClassVar, final

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
from sklearn.utils.optimize import _check_optimize_result

from fastmlp._process.task_pool import Stopped, one_thread
from fastmlp.backends.protocol import Data, Engine, Order, Trainer
from fastmlp.estimators import net, to_core
from fastmlp.estimators.common import warn
from fastmlp.estimators.to_core import engine_of, network_of, signs_of_estimator
from fastmlp.model import core_of
from fastmlp.network import layer_settings
from fastmlp.network.state import NetState
from fastmlp.rules.schedules import rates_of
from fastmlp.training import loop
from fastmlp.training.history import History, Status, new_bar, shown
from fastmlp.training.loop import MAX_ORDER_NUMBERS, Rates
from fastmlp.training.options import FitOptions
from fastmlp.training.second_order import check, solver_of
from fastmlp.training.stopping import EarlyStopping, EpochWatch
from fastmlp.validation import Array

# From this `verbose` on, each epoch prints a second line.
DETAILED = 2


def fit_epochs(
    estimator: Any,
    part: net.RowSubset,
    validation: net.RowSubset | None,
    reports: Reports | None,
    *,
    incremental: bool,
) -> None:
    anew = not incremental or not hasattr(estimator, "_optimizer")
    if anew:
        estimator._optimizer = to_core.new_optimizer(estimator)
    if estimator.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    if validation is None and to_core.holds_out(estimator):
        part, validation = part.split(estimator)
    state = state_to_train(estimator, anew=anew)
    network = to_core.network_of(estimator, state.layout.sizes, state.parameters.dtype)
    network = to_core.in_training(estimator, network)
    if network.dropout is not None:
        state.key = to_core.key_of_fit(estimator)
    engine = to_core.kept_engine(estimator, network, state.lock)
    data = part.data(engine)
    batch_size = batch_rows(estimator, data.n_rows)
    metrics = {} if reports is None else reports.options.metrics
    held_out: net.HeldOutRows | None = None
    if validation is not None:
        if estimator.validation_loss_curve_ is None:
            estimator.validation_loss_curve_ = []
        estimator._best_coefs = [coef.copy() for coef in state.weights]
        estimator._best_intercepts = [intercept.copy() for intercept in state.biases]
        # Subsets of one table also share targets and weights in the core's form.
        shared = validation.shares(part)
        if shared:
            own = data._replace(rows=validation.rows)
        else:
            own = validation.data(engine)
        held_out = net.HeldOutRows(estimator, validation, own, state, engine, metrics)
    estimator._held_out = held_out
    try:
        epochs = Epochs(estimator, data, batch_size, held_out, incremental, reports)
        loop.fit(engine, state, epochs)
        if to_core.stops_by_score(estimator):
            assert held_out is not None
            state.assign(net.flat_of(estimator._best_coefs, estimator._best_intercepts))
            to_core.warn_of_kept_epoch(estimator, held_out.common_share())
    finally:
        del estimator._held_out
        net.write_back(state, vars(estimator))


def state_to_train(estimator: Any, *, anew: bool) -> NetState:
    """The state of a net, with the optimizer's numbers unless `anew`."""
    state: NetState = estimator._live_state()
    if anew:
        state.set_slots(None)
    else:
        net.take_slots(state, estimator.__dict__.get("_state"))
    estimator._state = state
    state.optimizer = to_core.averaged(estimator)
    state.n_steps = to_core.steps_of(estimator._optimizer)
    return state


@final
class Epochs:
    """The request of an estimator's fit to the training loop.

    The stopping rule needs `n_iter_no_change` epochs without progress to end a fit or
    change a rate. Until then epochs run in one window, and the estimator's attributes
    are updated afterwards.

    Parameters
    ----------
    estimator : the estimator; its attributes record the training
    incremental : bool
        One epoch only, without warnings.
    reports : Reports, optional
        Callbacks, bar and lines of each epoch.
    """

    data: Data
    batch_size: int
    last_step: int
    n_rows: int
    history: History

    # An epoch's loss weighs batches by rows,
    # and a fit that diverges goes on, as in scikit-learn.
    trainer_options: ClassVar[Mapping[str, bool]] = {"guarded": False, "by_rows": True}

    def __init__(
        self,
        estimator: Any,
        data: Data,
        batch_size: int,
        held_out: net.HeldOutRows | None,
        incremental: bool,
        reports: Reports | None = None,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.n_rows = data.n_rows
        self.history = History() if reports is None else reports.history
        self._estimator = estimator
        self._held_out = held_out
        self._incremental = incremental
        self._reports = reports
        # True if validation or callbacks look at the parameters after each epoch.
        self._looks = held_out is not None or (reports is not None and reports.looks)
        self._stops_early = to_core.stops_by_score(estimator) and not incremental
        self._has_watch = (
            reports is not None and reports.options.early_stopping is not None
        )
        self._most = 1 if incremental else int(estimator.max_iter)
        self._begun = self._over = False

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Prepare; return a context for the windows."""
        self._trainer = trainer
        self._state = state
        self._order = self.data.plain_order[0]
        self._steps_per_epoch = steps_per_epoch = -(-self.n_rows // self.batch_size)
        last = self.last_step = state.n_steps + self._most * steps_per_epoch
        state.average_over(state.n_steps, last)
        self._estimator.n_iter_ = 0
        self._begun = True
        if self._reports is None:
            return nullcontext()
        return self._reports.begin(state)

    def window(self, most: int) -> int:
        """Number of epochs up to the first that may stop the fit;
        1 if each is observed.
        """
        estimator = self._estimator
        left = 0 if self._over else self._most - estimator.n_iter_
        if self._looks or estimator.verbose or estimator.early_stopping:
            return min(1, left)
        certain = estimator.n_iter_no_change - estimator._no_improvement_count + 1
        most = min(certain, left, MAX_ORDER_NUMBERS // self.data.n_rows)
        return max(min(1, left), int(most))

    def order(self, n_epochs: int) -> Order:
        """Row orders; each shuffles the previous order."""
        estimator = self._estimator
        if not estimator.shuffle:
            return self.data.plain_order
        # scikit-learn shuffles positions of the previous order.
        orders = self.data.reshuffled(estimator._random_state, self._order, n_epochs)
        self._order = orders[-1]
        return orders

    def rates(self, n_epochs: int) -> Rates:
        """Rates of the next epochs, as the optimizer object would set them."""
        first = self._state.n_steps
        last = self.last_step
        optimizer = self._estimator._optimizer
        self._first_step = first
        if isinstance(optimizer, to_core.CoreOptimizer):
            rate = optimizer.core.learning_rate
            self._rates: Rates = lambda steps: rates_of(rate, steps, last)
        else:
            by_epoch = self._rates_by_epoch(n_epochs)
            steps_per_epoch = self._steps_per_epoch
            self._rates = lambda steps: by_epoch[(steps - first) // steps_per_epoch]
        if self._reports is not None:
            self._rates = self._reports.watch.scaled(self._rates)
        return self._rates

    def _rates_by_epoch(self, n_epochs: int) -> Array:
        """Rates of scikit-learn's optimizer objects, shape (n_epochs,)."""
        optimizer = self._estimator._optimizer
        if isinstance(optimizer, AdamOptimizer):
            # The object's `learning_rate` is the last step's, including corrections.
            return np.full(n_epochs, float(optimizer.learning_rate_init))
        optimizer = copy(optimizer)
        rates = np.empty(n_epochs)
        for i in range(n_epochs):
            rates[i] = optimizer.learning_rate
            optimizer.iteration_ends(self._estimator.t_ + (i + 1) * self.n_rows)
        return rates

    def end_window(self, losses: Array, diverged: float | None) -> None:
        if self._looks:
            self._trainer.store()
            self._note_steps()
        self._over = any(self._end_epoch(i, loss) for i, loss in enumerate(losses))

    def cut_short(self, losses: Array) -> None:
        self.end_window(losses, None)

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Warn that Ctrl-C has ended the training;
        raise before the first epoch or in a pool.
        """
        if not self._begun or isinstance(error, Stopped):
            raise error
        self.history.status = Status.INTERRUPTED
        warn("Training interrupted by user.", UserWarning)

    def close(self) -> None:
        """Record the steps in the optimizer object; restore the best epoch."""
        if self._begun:
            self._note_steps()
        if self._reports is not None:
            self._reports.end(self._state)

    def _note_steps(self) -> None:
        optimizer = self._estimator._optimizer
        state = self._state
        to_core.note_steps(optimizer, state.optimizer, state.n_steps)

    def _end_epoch(self, i: int, loss: float) -> bool:
        """Record an epoch in scikit-learn's order; True if the fit ends here."""
        estimator = self._estimator
        held_out = self._held_out
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.t_ += self.n_rows
        estimator.loss_curve_.append(loss)
        print_loss(estimator)
        if held_out:
            estimator.validation_loss_curve_.append(held_out.loss())
            rows = (held_out.X, held_out.labels, held_out.weight)
        else:
            rows = (None,) * 3
        estimator._update_no_improvement_count(self._stops_early, *rows)
        estimator._optimizer.iteration_ends(estimator.t_)
        if self._is_stopped(i) or self._is_over():
            return True
        if not self._incremental and estimator.n_iter_ == estimator.max_iter:
            message = (
                f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) "
                "reached and the optimization hasn't converged yet."
            )
            warn(message, ConvergenceWarning)
        return False

    def _is_stopped(self, i: int) -> bool:
        if self._reports is None:
            return False
        last_step = np.array([self._first_step + (i + 1) * self._steps_per_epoch - 1])
        try:
            return self._reports.epoch_ends(
                float(self._rates(last_step)[0]), self._state
            )
        finally:
            if self._reports.looks:
                # Parameters that a callback wrote are used, also before it raised.
                self._state.begin_average()
                self._trainer.load()

    def _is_over(self) -> bool:
        """True if progress stopped for too long,
        and a lower rate is not left to try.
        """
        estimator = self._estimator
        if (
            self._has_watch
            or estimator._no_improvement_count <= estimator.n_iter_no_change
        ):
            return False
        what = "Validation score" if self._stops_early else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{int(estimator.n_iter_no_change)} consecutive epochs."
        )
        if estimator._optimizer.trigger_stopping(message, estimator.verbose):
            return True
        estimator._no_improvement_count = 0
        return False


def batch_rows(estimator: Any, n_rows: int) -> int:
    if estimator.batch_size == "auto":
        return min(200, n_rows)
    if estimator.batch_size > n_rows:
        warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to "
            "be clipped",
            UserWarning,
        )
    return min(int(estimator.batch_size), n_rows)


def reset_records(estimator: Any) -> None:
    """Reset the records of training, which scikit-learn does only in its solvers."""
    early = to_core.stops_by_score(estimator)
    estimator.loss_curve_ = []
    estimator._no_improvement_count = 0
    estimator.validation_scores_ = [] if early else None
    estimator.best_validation_score_ = -np.inf if early else None
    estimator.best_loss_ = None if early else np.inf
    estimator.validation_loss_curve_ = None


@final
class Reports:
    """Observers of a fit's epochs: callbacks, metrics, a watch, a bar, a second line.

    Attributes
    ----------
    history : History
    watch : EpochWatch, of early stopping and plateaus by the core's rules
    looks : bool, True if something looks at the parameters after each epoch
    """

    def __init__(self, estimator: Any, options: FitOptions) -> None:
        self._estimator, self.options, self.history = estimator, options, History()
        self.watch = EpochWatch(options.early_stopping, options.plateau)
        self.looks = bool(options.callbacks) or options.look_at_epochs
        self._start = time.perf_counter()
        self._net: Any = None
        self._bar: Any = None

    def begin(self, state: NetState) -> AbstractContextManager[Any]:
        """Prepare for the training of a state; return the bar, or a null context."""
        if self.options.callbacks:
            self._net = net.net_around(self._estimator, state)
        if not self.options.progress:
            return nullcontext()
        self._bar = new_bar(
            self._estimator.max_iter, 0, f"{type(self._estimator).__name__}.fit"
        )
        return self._bar

    def epoch_ends(self, rate: float, state: NetState) -> bool:
        """Report an epoch that the estimator has recorded;
        return True to stop after it.

        `rate` is the learning rate of its last step, or NaN.
        """
        estimator = self._estimator
        history = self.history
        history.loss.append(float(estimator.loss_))
        history.learning_rate.append(rate)
        held_out: net.HeldOutRows | None = estimator.__dict__.get("_held_out")
        if held_out is not None:
            history.validation_loss.append(estimator.validation_loss_curve_[-1])
            values = held_out.metrics()
            if to_core.stops_by_score(estimator):
                values = {
                    "validation_score": estimator.validation_scores_[-1],
                    **values,
                }
            for name, value in values.items():
                history.metrics.setdefault(name, []).append(value)
        if self._bar is not None:
            self._bar.set_postfix(shown(history), refresh=False)
            self._bar.update(1)
        if estimator.verbose >= DETAILED:
            print(self._second_line())
        return self.watch.end_epoch(history, self.options.callbacks, self._net, state)

    def end(self, state: NetState) -> None:
        if self.watch.best is not None:
            state.assign(self.watch.best)
        self.history.seconds = time.perf_counter() - self._start

    def _second_line(self) -> str:
        history = self.history
        seconds = time.perf_counter() - self._start
        rate = history.learning_rate[-1]
        losses = history.validation_loss
        parts = [f"{seconds:.2f} s", *([] if rate != rate else [f"rate = {rate:.6g}"])]
        parts += [f"validation loss = {losses[-1]:.8f}"] if losses else []
        return f"    {', '.join(parts)}"


def print_loss(estimator: Any) -> None:
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")


def reports_of(
    estimator: Any, callbacks: Any, progress: Any, validation: tuple[Any, Any, Any]
) -> Reports | None:
    """Checked reports of a fit's epochs, or None without observers."""
    early = estimator.early_stopping
    metrics = estimator.metrics
    watch = early if isinstance(early, EarlyStopping) else None
    asked = callbacks != () or metrics is not None or watch is not None
    if progress is False and not asked and not estimator.verbose >= DETAILED:
        return None
    if validation[0] is not None or to_core.holds_out(estimator):
        validated = True
    else:
        validated = None
    who = f"{type(estimator).__name__}.fit"
    options = FitOptions.checked(
        who,
        callbacks=callbacks,
        early_stopping=watch,
        metrics=metrics,
        progress=progress,
        validation_rows=validated,
    )
    if options.early_stopping is not None and to_core.stops_by_score(estimator):
        raise ValueError(
            f"{who}: early_stopping=True and EarlyStopping(...): give one of them"
        )
    watches = options.look_at_epochs or bool(options.metrics)
    if watches and not to_core.is_stochastic(estimator.solver):
        if options.early_stopping:
            looks = "EarlyStopping"
        else:
            looks = "ReduceLROnPlateau"
        raise to_core.needs_batches(estimator, "metrics" if options.metrics else looks)
    return Reports(estimator, options)


class StopIterations(Exception):
    """A callback asked to stop; SciPy before 1.11 does not know StopIteration."""


def objective_on(estimator: Any, part: net.RowSubset) -> Any:
    sizes = estimator._live_state().layout.sizes
    engine = engine_of(estimator, network_of(estimator, sizes, np.dtype(np.float64)))
    return engine.objective(part.data(engine))


def minimize_loss(estimator: Any, part: net.RowSubset, reports: Reports | None) -> None:
    """Run SciPy's L-BFGS-B on an estimator,
    as scikit-learn does, in float64 for any data.
    """
    evaluate = objective_on(estimator, part)
    last = [np.nan]
    state = estimator._live_state()
    looks = reports is not None
    reports = reports or Reports(estimator, FitOptions())
    # Arrays of the lists may have one number for a layer.
    net.write_back(state, vars(estimator))
    estimator.n_iter_ = 0

    def objective(flat: Array) -> Any:
        last[0], slopes = evaluate(np.ascontiguousarray(flat, np.float64))
        return last[0], slopes

    def iteration_ends(flat: Array) -> None:
        estimator.n_iter_ = estimator.n_iter_ + 1
        estimator.loss_ = last[0]
        estimator._unpack(flat)
        print_loss(estimator)
        if reports.epoch_ends(np.nan, state):
            raise StopIterations

    start = state.parameters.copy()
    limits = {
        "maxfun": estimator.max_fun,
        "maxiter": estimator.max_iter,
        "gtol": estimator.tol,
    }
    options: dict[str, Any] = {"method": "L-BFGS-B", "jac": True, "options": limits}
    network = network_of(estimator, state.layout.sizes, np.dtype(np.float64))
    if signs := signs_of_estimator(estimator, network):
        options["bounds"] = layer_settings.bounds_of(network._replace(signs=signs))
    with one_thread, reports.begin(state), suppress(StopIterations):
        result = minimize(
            objective, start, callback=iteration_ends if looks else None, **options
        )
        estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
        estimator.loss_ = result.fun
        estimator._unpack(result.x)
    estimator.loss_ = np.float64(estimator.loss_)


def fit_by_core(estimator: Any, part: net.RowSubset, reports: Reports | None) -> None:
    """Train on all rows for `max_iter` iterations,
    or until all gradients are within `tol`.
    """
    state = estimator._live_state()
    who = type(estimator).__name__
    engine, own = core_of(net.net_around(estimator, state))
    check(engine.network, own.optimizer, FitOptions(), "cpu", None, who)
    _, share = net.loss_for_net(estimator, state.layout.sizes[-1])
    estimator.n_iter_, estimator.loss_curve_, slope = 0, [], np.inf

    def goes_on(loss: float) -> bool:
        nonlocal slope
        solver.store()
        slope = solver.slope / share
        estimator.n_iter_ = estimator.n_iter_ + 1
        estimator.loss_ = loss / share
        estimator.loss_curve_.append(estimator.loss_)
        print_loss(estimator)
        if reports is not None and reports.epoch_ends(np.nan, state):
            return False
        return bool(estimator.n_iter_ < estimator.max_iter and slope > estimator.tol)

    solver = solver_of(engine, own, part.data(engine), who)
    estimator.loss_ = solver.loss / share
    if not np.isfinite(estimator.loss_):
        raise ValueError(
            f"{who}: the loss is {estimator.loss_} before the first step. The input "
            "data may contain large values and need to be preprocessed."
        )
    with nullcontext() if reports is None else reports.begin(state):
        solver.run(goes_on)
    net.write_back(state, vars(estimator))
    if estimator.n_iter_ == estimator.max_iter and slope > estimator.tol:
        warnings.warn(
            f"{type(own.optimizer).__name__}: Maximum iterations "
            f"({estimator.max_iter}) reached "
            "and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
