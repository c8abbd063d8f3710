"""One thread or a team, by timing both on the work itself.

A drill cannot tell what a net's own data cost on their way between cores, nor that another process
has just taken one: 16-64-64-2 took 15.8 us a step on one thread and 23.6 on two, of two free cores.
"""

from collections.abc import Hashable
from functools import lru_cache

# The first call of a team compiles, or waits for its threads to come.
SETTLING = {True: 1, False: 0}
AGAIN = 40


@lru_cache(maxsize=256)
def pilot_for(job: Hashable) -> "Pilot":
    """Return the pilot of jobs of one kind: what one fit has learnt serves the next."""
    return Pilot()


class Pilot:
    """Chooses for calls of one kind of job; those of a training last about 50 ms each."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._calls = {True: 0, False: 0}
        self._since = 0

    def wants_team(self) -> bool:
        """Return whether the next call should be a team's: each is tried, then the faster runs.

        Now and then the other one is tried again.
        """
        for team in (True, False):
            if self._calls[team] <= SETTLING[team]:
                return team
        best = self._seconds[True] < self._seconds[False]
        return best if self._since < AGAIN else not best

    def record(self, team: bool, work: float, seconds: float) -> None:
        """Learn from a call that did so much work, in any unit.

        Counted last: another thread that sees the count must find the seconds.
        """
        n_calls = self._calls[team] + 1
        if n_calls > SETTLING[team]:
            self._seconds[team] = seconds / max(work, 1)
        self._calls[team] = n_calls
        known = len(self._seconds) == 2
        best = known and (self._seconds[True] < self._seconds[False]) == team
        self._since = self._since + 1 if best else 0
