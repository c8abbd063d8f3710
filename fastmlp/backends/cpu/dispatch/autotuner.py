"""One thread or a team, by timing both on the work itself.

A drill cannot tell what a net's own data cost on their way between cores, nor that another process
has just taken one: 16-64-64-2 took 15.8 us a step on one thread and 23.6 on two, of two free cores.
"""

from collections.abc import Hashable
from functools import lru_cache

# The first call of a team compiles, or waits for its threads to come.
SETTLING = {True: 1, False: 0}
# Calls of the faster way before the other is tried again: few at first, because one call that was
# disturbed by another process may have decided, and twice as many each time it changes nothing.
AGAIN, MOST_AGAIN = 4, 4096
# One call can make a way look so many times as slow at most: it takes several to change over.
SLOWER = 1.25


@lru_cache(maxsize=256)
def pilot_for(job: Hashable) -> "Pilot":
    """Return the pilot of jobs of one kind: what one fit has learnt serves the next."""
    return Pilot()


class Pilot:
    """Chooses for calls of one kind of job; those of a training last about 50 ms each."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._calls = {True: 0, False: 0}
        self._since, self._again = 0, AGAIN
        self._woke = False

    def wants_team(self) -> bool:
        """Return whether the next call should be a team's: each is tried, then the faster runs.

        Now and then the other one is tried again.
        """
        for team in (True, False):
            if self._calls[team] <= SETTLING[team]:
                return team
        best = self._best()
        return best if self._since < self._again else not best

    def record(self, team: bool, work: float, seconds: float, *, awake: bool = True) -> None:
        """Learn from a call that did so much work, in any unit; none teaches nothing.

        Nor does one that found helpers asleep, if the next one may find them awake: of calls of
        0.1 ms in a row, a team's first took 0.45 ms, and the others two thirds of one thread's.
        """
        if work <= 0:
            return
        self._woke = not awake and not self._woke
        if self._woke:
            return
        n_calls = self._calls[team] + 1
        if n_calls > SETTLING[team]:
            self._learn(team, seconds / work)
        # Counted last: another thread that sees the count must find the seconds.
        self._calls[team] = n_calls

    def _learn(self, team: bool, seconds: float) -> None:
        known, before = len(self._seconds) == 2, self._best()
        slowest = SLOWER * self._seconds.get(team, float("inf"))
        self._seconds[team] = min(seconds, slowest)
        if known and self._best() != before:
            self._again, self._since = AGAIN, 0
        elif known and team != before:
            self._again, self._since = min(2 * self._again, MOST_AGAIN), 0
        else:
            self._since += 1

    def _best(self) -> bool:
        """Return the faster way so far; one that is not known yet is slow."""
        slow = float("inf")
        return self._seconds.get(True, slow) < self._seconds.get(False, slow)
