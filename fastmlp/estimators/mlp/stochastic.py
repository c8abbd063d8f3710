"""Training by batches and epochs: scikit-learn's rules of stopping around the core's epochs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from fastmlp._process.task_pool import Stopped
from fastmlp._process.warnings import warn_at
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.estimators.mlp import solvers
from fastmlp.estimators.mlp.held_out import HeldOut
from fastmlp.estimators.mlp.shuffling import shuffled_again
from fastmlp.network.spec import Network
from fastmlp.training.loop import MAX_ORDER_NUMBERS, Calls, Trainer

Array = NDArray[Any]


class Epochs:
    """The epochs of one fit.

    The stopping rule looks at each epoch's loss. But it cannot end a fit, nor change a rate, before
    `n_iter_no_change` epochs have passed without progress: so many run in one call, and the books
    are kept afterwards.

    Parameters
    ----------
    estimator : the estimator, whose attributes are the books
    trainer : Trainer of the core
    core : Optimizer of the core
    n_rows : int, to train on
    held_out : HeldOut, optional
    incremental : bool
        One epoch only, and no warnings.
    """

    def __init__(
        self,
        estimator: Any,
        trainer: Trainer,
        core: Any,
        n_rows: int,
        held_out: HeldOut | None,
        incremental: bool,
    ) -> None:
        self._estimator, self._trainer, self._core = estimator, trainer, core
        self._n_rows, self._held_out, self._incremental = n_rows, held_out, incremental
        self._stops_early = estimator.early_stopping and not incremental
        books = estimator._optimizer
        self._calls = Calls(trainer, core, solvers.steps_of(books))
        self._steps_per_epoch = trainer.step_of(trainer.units_per_epoch)
        self._most = 1 if incremental else int(estimator.max_iter)
        last = self._calls.step + self._most * self._steps_per_epoch
        self._rule = solvers.Rule(books, self._steps_per_epoch, n_rows, last)
        self._order = trainer.plain_order()[0]

    def run(self) -> None:
        """Train until the rule stops it; on Ctrl-C, keep what is learnt."""
        try:
            self._estimator.n_iter_ = 0
            while self._estimator.n_iter_ < self._most and not self._window():
                pass
        except Stopped:
            raise
        except KeyboardInterrupt:
            warn_at("Training interrupted by user.", UserWarning, stacklevel=2)
        finally:
            self._store()
        self._trainer.end()

    def _window(self) -> bool:
        """Run epochs up to where the rule may stop them; return whether it does."""
        estimator, first = self._estimator, self._calls.step
        n_epochs = self._epochs_ahead()
        losses = np.full(n_epochs, np.nan)
        rates = self._rule.ahead(first, n_epochs, estimator.t_)
        try:
            self._calls.run(self._orders(n_epochs), losses, rates)
        except KeyboardInterrupt:
            self._record(losses[: (self._calls.step - first) // self._steps_per_epoch])
            raise
        return self._record(losses)

    def _epochs_ahead(self) -> int:
        """Return how many epochs are sure to come; one where somebody looks after each."""
        estimator = self._estimator
        if self._held_out or estimator.verbose or estimator.early_stopping:
            return 1
        certain = estimator.n_iter_no_change - estimator._no_improvement_count + 1
        most = MAX_ORDER_NUMBERS // self._n_rows
        return max(1, int(min(certain, self._most - estimator.n_iter_, most)))

    def _orders(self, n_epochs: int) -> NDArray[np.int64]:
        """Return the rows' orders, each the one before it shuffled again."""
        estimator = self._estimator
        if not estimator.shuffle:
            return self._trainer.plain_order()
        # scikit-learn shuffles places, and takes these from the order before.
        orders = shuffled_again(estimator._random_state, self._order, n_epochs)
        self._order = orders[-1]
        return orders

    def _record(self, losses: Array) -> bool:
        """Keep the books of epochs with these losses; return whether they end the fit."""
        if self._held_out:
            self._store()
        return any(self._end_epoch(loss) for loss in losses)

    def _end_epoch(self, loss: float) -> bool:
        estimator, held_out = self._estimator, self._held_out
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.t_ += self._n_rows
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if held_out:
            estimator.validation_loss_curve_.append(held_out.loss())
        rows = (held_out.X, held_out.labels, held_out.weight) if held_out else (None,) * 3
        estimator._update_no_improvement_count(self._stops_early, *rows)
        estimator._optimizer.iteration_ends(estimator.t_)
        if self._is_over():
            return True
        if not self._incremental and estimator.n_iter_ == estimator.max_iter:
            message = (
                f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the "
                "optimization hasn't converged yet."
            )
            warn_at(message, ConvergenceWarning, stacklevel=2)
        return False

    def _is_over(self) -> bool:
        """Whether there is no progress any more, and no lower rate to try."""
        estimator = self._estimator
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
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

    def _store(self) -> None:
        self._trainer.store()
        solvers.note_steps(self._estimator._optimizer, self._core, self._calls.step)


def moments_of(books: Any, network: Network, *, sparse: bool) -> Moments:
    """Return the optimizer's state, which lies beside its books."""
    moments: Moments | None = getattr(books, "moments", None)
    if moments is None or moments.network.layout.sizes != network.layout.sizes:
        moments = Moments(network, sparse=sparse)
    elif (moments.sparse, moments.network.dtype) != (sparse, network.dtype):
        # The precision changes where a user has put weights of another one into the lists.
        moments = Moments(network, moments.flat().astype(network.dtype, copy=False), sparse=sparse)
    books.moments = moments
    return moments
