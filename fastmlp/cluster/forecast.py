"""What a fit on several machines would take: one rank's work measured, its messages computed."""

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import ArrayLike, NDArray

from fastmlp.cluster.simulated_ranks import DelayedCommunicator, MirrorCommunicator
from fastmlp.model import MLP
from fastmlp.training.history import Status
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Array = NDArray[Any]
RANKS = (2, 4, 8, 16, 32, 64)
LATENCY, BANDWIDTH = 30e-6, 10e9
# Seconds of a fit that is timed, and how many are: the fastest counts.
SECONDS, TURNS = 0.2, 3


class OfRanks(NamedTuple):
    """A step of one of several ranks.

    Attributes
    ----------
    n_ranks : int
    rows : rows of a step on each rank
    computing : seconds of a step without messages, measured
    messages : seconds of a step's messages, computed
    n_bytes : bytes that a rank sends a step
    speed_up : time of a step on one machine over that on these
    """

    n_ranks: int
    rows: int
    computing: float
    messages: float
    n_bytes: float
    speed_up: float


class Forecast(NamedTuple):
    """A step on one machine, and on as many as there are ranks; `str` shows it as a table.

    Attributes
    ----------
    alone : float
        Seconds of a step on this machine, measured.
    each_step : list of OfRanks
        With the gradient summed over the ranks in each step.
    averaged : list of OfRanks
        With parameters averaged every `average_every` steps; empty without.
    average_every : int or None

    Examples
    --------
    >>> from fastmlp.cluster import Forecast
    >>> found = Forecast(alone=0.02, each_step=[], averaged=[])
    >>> found.alone
    0.02
    """

    alone: float
    each_step: list[OfRanks]
    averaged: list[OfRanks]
    average_every: int | None = None

    def __str__(self) -> str:
        return "\n".join(_lines(self))


@explained
def forecast(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    batch_size: int,
    latency: float = LATENCY,
    bandwidth: float = BANDWIDTH,
    ranks: Sequence[int] = RANKS,
    average_every: int | None = None,
) -> Forecast:
    """Return what a step of `fit` would take on several machines like this one.

    Fits on one machine are timed, and those of one rank of several, as `MirrorCommunicator` makes
    it, with its share of each batch. To the latter is added what the messages take by
    `DelayedCommunicator`'s model. Nothing is overlapped. The net is not trained. It takes about a
    second for each number of ranks, and twice as long with `average_every`.

    Parameters
    ----------
    net : MLP
        It trains on all threads that it may use, as one rank a machine does.
    X : (n_rows, n_features) array
        Some of the rows, at least a batch; better several.
    y : array
        Their targets.
    batch_size : int
        Rows of a step, on all ranks together.
    latency : float, default 30e-6
        Seconds of a message without bytes.
    bandwidth : float, default 10e9
        Bits a second between two machines.
    ranks : sequence of int, default (2, 4, 8, 16, 32, 64)
        Numbers of machines; those above `batch_size` are left out.
    average_every : int, optional
        As of `fit`: shows the averages of every so many steps beside the sums of each.

    Returns
    -------
    Forecast

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be, such as fewer rows than a batch; and what `fit`
        raises.

    See Also
    --------
    fastmlp.MLP.fit : its `communicator` and `average_every`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, cluster
    >>> X = np.random.default_rng(0).normal(size=(4096, 20))
    >>> net = MLP((20, 64, 64, 1), seed=0)
    >>> found = cluster.forecast(net, X, X[:, 0], batch_size=1024, ranks=(2, 4), bandwidth=100e9)
    >>> [each.rows for each in found.each_step]
    [512, 256]
    """
    who = "cluster.forecast"
    batch = scalars.positive_integer(who, "batch_size", batch_size)
    numbers = [scalars.positive_integer(who, "ranks", each) for each in ranks]
    if average_every is not None:
        average_every = scalars.positive_integer(who, "average_every", average_every)
    network = {
        "latency": scalars.non_negative(who, "latency", latency),
        "bandwidth": scalars.positive(who, "bandwidth", bandwidth),
    }
    data = _Data(net, X, y, batch, who)
    alone = data.timed(len(data.X), batch).seconds

    def of_ranks(n: int, every: int | None) -> OfRanks:
        rows = batch // n
        comm = DelayedCommunicator(MirrorCommunicator(n), **network, clock=False)
        step = data.timed(data.n_steps * rows, n * rows, comm, every)
        speed_up = alone / (step.seconds + step.messages)
        return OfRanks(n, rows, step.seconds, step.messages, step.n_bytes, speed_up)

    found = [n for n in numbers if n <= batch]
    each_step = [of_ranks(n, None) for n in found]
    averaged = [of_ranks(n, average_every) for n in found] if average_every else []
    return Forecast(alone, each_step, averaged, average_every)


class _Step(NamedTuple):
    """What a step has taken: its computing, its messages, and the bytes that were sent."""

    seconds: float
    messages: float = 0.0
    n_bytes: float = 0.0


class _Data:
    """Whole batches of rows, on which copies of a net are trained, timed."""

    def __init__(self, net: MLP, X: Any, y: Any, batch: int, who: str) -> None:
        self.n_steps = len(X) // batch
        if not self.n_steps:
            told = f"got {len(X)} for a batch_size of {batch}"
            raise ValueError(f"{who}: X must have the rows of a batch or more, {told}")
        n = self.n_steps * batch
        self._net, self.X, self._y, self._who = copy.copy(net), X[:n], y[:n], who

    def timed(
        self,
        n_rows: int,
        batch: int,
        comm: DelayedCommunicator | None = None,
        every: int | None = None,
    ) -> _Step:
        """Return what a step takes in the fastest of some fits on the first rows."""
        net = copy.copy(self._net)

        def fit(epochs: int) -> _Step:
            sent = (comm.seconds, comm.n_bytes) if comm else (0.0, 0)
            begin = time.perf_counter()
            history = net.fit(
                self.X[:n_rows],
                self._y[:n_rows],
                epochs=epochs,
                batch_size=batch,
                communicator=comm,
                average_every=every,
            )
            seconds = time.perf_counter() - begin
            if history.status is Status.DIVERGED:
                raise ValueError(f"{self._who}: the net diverges on these rows")
            now = (comm.seconds, comm.n_bytes) if comm else (0.0, 0)
            return _Step(seconds, now[0] - sent[0], now[1] - sent[1])

        fit(1)
        one = fit(1)
        n = max(2, round(SECONDS / one.seconds))
        several = min(fit(n) for _ in range(TURNS))
        # What ranks tell each other before the first step is not a step's.
        later = (n - 1) * self.n_steps
        messages, n_bytes = ((b - a) / later for a, b in zip(one[1:], several[1:], strict=True))
        return _Step(several.seconds / (n * self.n_steps), messages, n_bytes)


def _lines(found: Forecast) -> list[str]:
    head = f"{'ranks':>5}  {'rows each':>9}  {'computing':>10}  {'messages':>10}  {'sent':>8}"
    head += f"  {'speed-up':>8}"
    lines = [f"{head}  {'averaged':>8}" if found.averaged else head]
    for i, each in enumerate(found.each_step):
        line = f"{each.n_ranks:>5}  {each.rows:>9,}  {_time(each.computing):>10}"
        line += f"  {_time(each.messages):>10}  {_bytes(each.n_bytes):>8}  {each.speed_up:>7.2f}x"
        lines.append(line + (f"  {found.averaged[i].speed_up:>7.2f}x" if found.averaged else ""))
    return lines


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def _bytes(n: float) -> str:
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"
