"""The request of a fit on several ranks: what all of them do alike, and what rank 0 does."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.random_state import shuffling_words
from fastmlp._process.warnings import collected
from fastmlp.backends.protocol import Data, Engine, Order, Trainer
from fastmlp.data.rows import Reading
from fastmlp.network.state import NetState
from fastmlp.training.checkpoint import File, Progress, digest
from fastmlp.training.history import Callback, History, Report, Status
from fastmlp.training.loop import Rates
from fastmlp.training.monitors import Monitors
from fastmlp.training.ranks.ranks import Ranks
from fastmlp.training.ranks.validation import OnAllRanks
from fastmlp.training.request import FitRequest
from fastmlp.training.stream import FitRows

# Random words of rank 0's generator for each order; each rank's own follow from them.
N_WORDS = 4


def request_on(
    ranks: Ranks,
    rows: FitRows,
    reading: Reading,
    batch_size: int,
    *,
    state: NetState,
    average_every: int | None,
    callbacks: Sequence[Callback],
    monitors: Monitors,
    progress: bool,
    net: Any,
) -> "FitRequest | RanksRequest":
    """Return the request of a fit; of one rank alone it is that of a fit without others.

    Further parameters are those of `FitRequest`, but for the batch size, which is of all ranks.
    """
    data, epochs, shuffle = rows.data, reading.epochs, reading.shuffle
    its: Any = {"held_out": rows.held_out, "net": net, "shuffle": shuffle}
    if ranks.size == 1:
        its |= {"callbacks": callbacks, "monitors": monitors, "progress": progress}
        return FitRequest(data, epochs, min(batch_size, data.n_rows), **its)
    n_rows = int(ranks.allgather(np.array([data.n_rows], np.int64)).sum())
    with ranks.agreeing():
        if not n_rows:
            raise ValueError("MLP.fit: X has no rows on any rank")
    fit = FitRequest(
        data,
        epochs,
        min(batch_size, n_rows),
        callbacks=[partial(_call_back, ranks, state, callbacks)],
        # The time of rank 0 counts.
        monitors=monitors if ranks.is_first else monitors._replace(time_limit=None),
        progress=progress and ranks.is_first,
        validation_of=partial(OnAllRanks, ranks),
        draw=partial(_draw, ranks),
        **its,
    )
    fit.n_rows, fit.shuffle = n_rows, shuffle and batch_size < n_rows
    return RanksRequest(fit, ranks, average_every)


def _call_back(
    ranks: Ranks, state: NetState, callbacks: Sequence[Callback], report: Report
) -> None:
    """Call the callbacks of rank 0; all ranks stop, and take the parameters, as they say."""
    parameters, changed = state.parameters, False
    if ranks.is_first and callbacks:
        before = parameters.tobytes()
        for callback in callbacks:
            callback(report)
        changed = parameters.tobytes() != before
    stops, changed = ranks.flags(report.stopping, changed)[0]
    if changed:
        state.assign(ranks.broadcast(parameters))
    report.stopping = bool(stops)


def _draw(
    ranks: Ranks, generator: np.random.Generator, n_orders: int, n: int
) -> NDArray[np.uint32]:
    """Draw the random words of orders of this rank's rows, shape (n_orders, n).

    They follow from the number of the rank and from what rank 0 draws, as much for any number of
    rows: so a checkpoint of rank 0 has what all ranks need.
    """
    words = generator.integers(1 << 32, size=n_orders * N_WORDS, dtype=np.uint32)
    seeds = ranks.allgather(words)[0].reshape(n_orders, N_WORDS).tolist()
    own = [shuffling_words(np.random.default_rng([*seed, ranks.rank]), 1, n) for seed in seeds]
    return np.concatenate(own)


@final
class RanksRequest:
    """The request of a fit on several ranks to the training loop.

    All ranks have the same history, and so they stop, and lower rates, alike. Rank 0 looks at the
    clock, calls the callbacks, warns, shows the bar and writes checkpoints.

    Parameters
    ----------
    fit : FitRequest, of this rank's rows
    ranks : Ranks
    average_every : int or None
    """

    batch_size: int
    options: Mapping[str, Any]

    def __init__(self, fit: FitRequest, ranks: Ranks, average_every: int | None) -> None:
        self._fit, self._ranks, self._average_every = fit, ranks, average_every
        self.batch_size = fit.batch_size
        self.options = {"ranks": ranks, "average_every": average_every}
        self._step = 0

    @property
    def data(self) -> Data:
        """This rank's rows."""
        return self._fit.data

    @data.setter
    def data(self, given: Data) -> None:
        self._fit.data = given

    @property
    def n_rows(self) -> int:
        """The rows of an epoch, of all ranks."""
        return self._fit.n_rows

    @n_rows.setter
    def n_rows(self, given: int) -> None:
        self._fit.n_rows = given

    @property
    def history(self) -> History:
        """The record of the fit, the same on all ranks."""
        return self._fit.history

    def plan(self, steps_per_epoch: int) -> None:
        """Set the number of steps of an epoch, where it does not follow from the rows."""
        self._fit.steps_per_epoch = steps_per_epoch

    def keep(self, file: File, state: NetState, every: int | timedelta, *, resume: bool) -> None:
        """Write checkpoints of the fit to rank 0's file; with `resume`, continue from it.

        Raises
        ------
        FileError, ValueError, OSError, RuntimeError
            As `FitRequest.keep`, on all ranks.
        """
        ranks, fit = self._ranks, self._fit
        own = fit.digests()
        hashed = {
            name: digest(*map(_bytes, ranks.allgather_objects(its))) for name, its in own.items()
        }
        how = {"ranks": ranks.size, "average_every": self._average_every}
        so_far: Progress | None = None
        content: dict[str, Any] = {}
        with ranks.agreeing():
            if ranks.is_first:
                so_far = fit.keep(file, state, every, resume=resume, hashed=hashed, how=how)
                if so_far is not None:
                    with state.lock.calling_back():
                        content = state.__getstate__()
                    # They are every rank's own.
                    del content["optimizer"], content["layout"]
        so_far, content = ranks.broadcast((so_far, content))
        if so_far is not None and not ranks.is_first:
            state.adopt(content)
            fit.go_on(so_far)

    def begin(
        self, engine: Engine[Any], trainer: Trainer, state: NetState
    ) -> AbstractContextManager[Any]:
        """Prepare; return a context in which the windows run."""
        self._state = state
        if engine.network.dropout is not None:
            # A net that has been loaded may draw its key only now.
            state.key = self._ranks.broadcast(state.kept_key())
        return self._fit.begin(engine, trainer, state)

    def window(self, most: int) -> int:
        """Return 1, an epoch; 0 ends the fit."""
        ranks, fit = self._ranks, self._fit
        # Rank 0 alone knows whether the time is up: it asks first, and the others after its answer.
        n = fit.window(1) if ranks.is_first else 0
        late = fit.history.status is Status.OUT_OF_TIME
        if ranks.flags(late)[0, 0]:
            fit.history.status = Status.OUT_OF_TIME
        return n if ranks.is_first else fit.window(1)

    def order(self, n_epochs: int) -> Order:
        """Return the order of this rank's rows."""
        return self._fit.order(n_epochs)

    def rates(self, n_epochs: int) -> Rates:
        """Return the learning rates, as a function of step numbers."""
        self._step = self._state.n_steps
        return self._fit.rates(n_epochs)

    @property
    def last_step(self) -> int:
        """The step at which the fit ends, as schedules take it."""
        return self._fit.last_step

    def end_window(self, losses: NDArray[np.float64], diverged: float | None) -> None:
        """Do what a fit does at the end of an epoch; other ranks than 0 warn of nothing."""
        if diverged is None:
            self.plan(self._state.n_steps - self._step)
        silent = nullcontext() if self._ranks.is_first else collected()
        with silent:
            self._fit.end_window(losses, diverged)

    def cut_short(self, losses: NDArray[np.float64]) -> None:
        """Record nothing: the history has whole epochs."""

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Raise the error again: it ends all ranks."""
        raise error

    def close(self) -> None:
        """Conclude the fit."""
        self._fit.close()


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)
