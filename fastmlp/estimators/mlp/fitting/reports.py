"""Reports of the epochs of an estimator's fit: callbacks, the bar, and printed lines."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

from fastmlp import validation
from fastmlp.estimators.mlp.fitting.net import net_around
from fastmlp.network.state import NetState
from fastmlp.training.history import Callback, History, Report, Status, new_bar, shown
from fastmlp.training.stopping import EarlyStopping, ReduceLROnPlateau
from fastmlp.validation import scalars

INSTEAD: dict[type, str] = {
    EarlyStopping: "early_stopping=True, n_iter_no_change=10, tol=1e-4",
    ReduceLROnPlateau: 'solver="sgd", learning_rate="adaptive"',
}
# From this `verbose` on there is a second line for each epoch.
DETAILED = 2


@final
class Reports:
    """The callbacks, the bar and the second line of one fit.

    Parameters
    ----------
    estimator : the estimator; its attributes record the training
    callbacks : callable, or a sequence of them
    progress : bool or bar
        True: show a bar; a bar: count epochs in it.

    Attributes
    ----------
    looks : bool, True if callbacks look at the parameters after each epoch

    Raises
    ------
    TypeError
        If an argument is of a wrong type or value.
    ImportError
        If a bar is asked for without tqdm.
    """

    looks: bool

    def __init__(self, estimator: Any, callbacks: Any, progress: Any) -> None:
        self._estimator, self._history = estimator, History()
        self._callbacks = listeners(callbacks, f"{type(estimator).__name__}.fit")
        self._progress, self._bar = progress, None if isinstance(progress, bool) else progress
        self.looks = bool(self._callbacks)
        self._start = time.perf_counter()
        self._net: Any = None

    def begin(self, state: NetState) -> AbstractContextManager[Any]:
        """Prepare for the training of a state; return the bar, or nothing, for a with statement."""
        if self._callbacks:
            self._net = net_around(self._estimator, state)
        if self._progress is not True:
            return nullcontext()
        self._bar = new_bar(self._estimator.max_iter, 0, f"{type(self._estimator).__name__}.fit")
        return self._bar

    def epoch_ends(self, rate: float, state: NetState) -> bool:
        """Report an epoch that the estimator has recorded; return True to stop after it.

        `rate` is the learning rate of its last step, or NaN.
        """
        estimator, history = self._estimator, self._history
        history.loss.append(float(estimator.loss_))
        history.learning_rate.append(rate)
        if estimator.__dict__.get("_held_out") is not None:
            history.validation_loss.append(estimator.validation_loss_curve_[-1])
            if estimator.early_stopping:
                score = estimator.validation_scores_[-1]
                history.metrics.setdefault("validation_score", []).append(score)
        if self._bar is not None:
            self._bar.set_postfix(shown(history), refresh=False)
            self._bar.update(1)
        if estimator.verbose >= DETAILED:
            print(self._second_line())
        return bool(self._callbacks) and self._call_back(state)

    def _second_line(self) -> str:
        history, seconds = self._history, time.perf_counter() - self._start
        rate, losses = history.learning_rate[-1], history.validation_loss
        parts = [f"{seconds:.2f} s", *([] if rate != rate else [f"rate = {rate:.6g}"])]
        parts += [f"validation loss = {losses[-1]:.8f}"] if losses else []
        return f"    {', '.join(parts)}"

    def _call_back(self, state: NetState) -> bool:
        history = self._history
        losses = history.validation_loss
        report = Report(
            epoch=len(history.loss) - 1,
            loss=history.loss[-1],
            validation_loss=losses[-1] if losses else None,
            learning_rate=history.learning_rate[-1],
            net=self._net,
            history=history,
            metrics={name: values[-1] for name, values in history.metrics.items()},
        )
        with state.lock.calling_back():
            for callback in self._callbacks:
                callback(report)
        if report.stopping:
            history.status = Status.STOPPED
        return report.stopping


def print_loss(estimator: Any) -> None:
    """Print scikit-learn's line of an epoch, or iteration, if `verbose` asks for it."""
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")


def reports_of(estimator: Any, callbacks: Any, progress: Any) -> Reports | None:
    """Check the arguments of a fit; return the reports of its epochs, or None without any."""
    who = f"{type(estimator).__name__}.fit"
    if not hasattr(progress, "update"):
        scalars.boolean(who, "progress", progress)
    if progress is False and callbacks == () and not estimator.verbose >= DETAILED:
        return None
    return Reports(estimator, callbacks, progress)


def listeners(callbacks: Any, who: str) -> tuple[Callback, ...]:
    """Check callbacks; those of `MLP` that need its monitors are refused."""
    if isinstance(callbacks, Iterator):
        callbacks = list(callbacks)
    for callback in callbacks if isinstance(callbacks, Iterable) else (callbacks,):
        for kind, instead in INSTEAD.items():
            if callback is kind or isinstance(callback, kind):
                owner = who.removesuffix(".fit")
                raise TypeError(
                    f"{who}: {kind.__name__} is for MLP.fit; write {owner}({instead}) instead"
                )
    return validation.callbacks(callbacks, who)
