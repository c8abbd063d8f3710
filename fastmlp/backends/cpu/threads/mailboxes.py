"""Where helpers wait for the next call: a little while, awake, each in a seat of its own.

A thread that sleeps comes after 40 to 400 us, in which one core predicts thousands of rows; one
that waits here comes in 1 us, for as long as calls follow one another as in a loop.

A call takes a seat where somebody waits: it writes down where its team is, and the helper enters.
When the helper has left the team, its record says so; until then the pool keeps it.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.threads.team import LEFT, LINE, MOST, POSTED, entry, give_way
from fastmlp.backends.cpu.tuning import MAILBOX_SPINS, MAILBOX_YIELDS
from fastmlp.compiler import call, exchange_if, fetch_add, load_acquire, pause, row, store_release

EMPTY, WAITING, TAKEN, WRITTEN = range(4)
# `queue` is where it says how many calls wait for somebody who sleeps.
_WORDS = ("state", "team", "driver", "job", "enter", "give_way", "queue", "spins")
SEAT = np.dtype((np.record, [(n, np.int64) for n in _WORDS]))


class Seats:
    """The seats of a team's helpers, each on lines of its own.

    Parameters
    ----------
    spins : int, how long to wait there

    Attributes
    ----------
    first : address of the first one
    queue : int64, shape (1,): how many calls wait for somebody who sleeps
    """

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        words = LINE // 8
        self._memory = memory = np.zeros((MOST + 2) * words, np.int64)
        lines = memory[-memory.ctypes.data % LINE // 8 :][: (MOST + 1) * words]
        self.queue, seats = lines[:1], lines[words:]
        self.first = int(seats.ctypes.data)
        seats[4::words], seats[5::words] = entry().address, give_way()
        seats[6::words], seats[7::words] = self.queue.ctypes.data, spins

    def place(self, number: int) -> int:
        """Return the address of a seat."""
        return self.first + number % MOST * LINE


def serve(scalar: Any) -> Any:
    """Make the block in which a helper enters a team, and then waits in a seat for others, until no
    call has come for a while, or one has gone to those who sleep.

    It never returns to Python between two calls: there it would wait for the lock.
    """

    def serve_calls(place: Any, team: Any, driver: Any, job: Any) -> None:
        seat, spins = row(place, 1, SEAT)[0], 0
        call(seat.enter, (team, driver, job))
        store_release(place, WAITING)
        while True:
            if load_acquire(place) == WRITTEN:
                posted = seat.team
                call(seat.enter, (posted, seat.driver, seat.job))
                fetch_add(posted + LEFT, 1)
                store_release(place, WAITING)
                spins = 0
            elif spins >= seat.spins or load_acquire(seat.queue) > 0:
                if exchange_if(place, WAITING, EMPTY):
                    return
            else:
                spins += 1
                if seat.give_way != 0 and spins % MAILBOX_YIELDS == 0:
                    call(seat.give_way, ())
            pause()

    return serve_calls


def post(scalar: Any) -> Any:
    """Make the block that calls up to n helpers from their seats to a team, and writes to the
    team's record how many there were."""

    def post_call(seats: Any, n_seats: Any, n: Any, team: Any, driver: Any, job: Any) -> None:
        n_posted = 0
        for s in range(n_seats):
            place = seats + s * LINE
            if n_posted < n and load_acquire(place) == WAITING:
                if exchange_if(place, WAITING, TAKEN):
                    seat = row(place, 1, SEAT)[0]
                    seat.team, seat.driver, seat.job = team, driver, job
                    n_posted += 1
                    store_release(place, WRITTEN)
        store_release(team + POSTED, n_posted)

    return post_call
