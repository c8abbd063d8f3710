"""One thread or a team, by timing both on the work itself.

A calibration measures neither the traffic of a net's own data between cores, nor that another
process has just taken a core: 15.8 -> 23.6 us (16-64-64-2@64, 1 -> 2 threads on two free cores).
"""

from collections.abc import Hashable
from functools import lru_cache

from fastmlp.backends.cpu.tuning import MOST_RETRY, RETRY, SETTLING, SLOWER


@lru_cache(maxsize=256)
def tuner_for(kind: Hashable) -> "Autotuner":
    """Return the autotuner of jobs of one kind: one fit's timings serve the next fit."""
    return Autotuner()


class Autotuner:
    """Chooses one thread or a team for calls of one kind of job."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._calls = {True: 0, False: 0}
        self._since, self._retry = 0, RETRY
        self._woke = False

    def wants_team(self) -> bool:
        """Return True if the next call should run on a team.

        One thread and a team are tried first; then the faster of the two runs, and the other is
        retried now and then.
        """
        for team in (True, False):
            if self._calls[team] <= SETTLING[team]:
                return team
        best = self._best()
        return best if self._since < self._retry else not best

    def record(self, team: bool, work: float, seconds: float, *, awake: bool = True) -> None:
        """Take the time of a call that did `work`, in any unit; a call without work is ignored.

        A call that had to wake workers is ignored too, unless the call before it had to: the first
        of several calls of a team takes 0.45 ms, the others two thirds of one thread's 0.1 ms.
        """
        if work <= 0:
            return
        self._woke = not awake and not self._woke
        if self._woke:
            return
        n_calls = self._calls[team] + 1
        if n_calls > SETTLING[team]:
            self._learn(team, seconds / work)
        # Counted last: a thread that reads the count must find the seconds.
        self._calls[team] = n_calls

    def _learn(self, team: bool, seconds: float) -> None:
        known, before = len(self._seconds) == 2, self._best()
        slowest = SLOWER * self._seconds.get(team, float("inf"))
        self._seconds[team] = min(seconds, slowest)
        if known and self._best() != before:
            self._retry, self._since = RETRY, 0
        elif known and team != before:
            self._retry, self._since = min(2 * self._retry, MOST_RETRY), 0
        else:
            self._since += 1

    def _best(self) -> bool:
        """Return True if a team has been faster so far; without timings it counts as slower."""
        slow = float("inf")
        return self._seconds.get(True, slow) < self._seconds.get(False, slow)
