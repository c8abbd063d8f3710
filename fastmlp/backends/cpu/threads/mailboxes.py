"""Mailboxes: each worker spins at its own mailbox until the next call is posted there.

A sleeping worker takes 40 to 400 us to enter a team, time in which one core predicts thousands of
rows; a spinning worker takes 1 us. It spins as long as calls follow one another as in a loop.

A caller posts its team to the mailbox of a spinning worker, which enters it. After leaving, the
worker adds one to the team's record; until then the pool keeps that record.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.threads.team import LEFT, LINE, MOST, POSTED, entry, yield_core
from fastmlp.backends.cpu.tuning import MAILBOX_SPINS, MAILBOX_YIELDS
from fastmlp.compiler import (
    Record,
    call,
    exchange_if,
    fetch_add,
    load_acquire,
    pause,
    record_at,
    store_release,
)

# A mailbox's state: no worker spins at it; a worker spins; a caller writes; a call has been posted.
EMPTY, WAITING, TAKEN, WRITTEN = range(4)


class Mailbox(Record):
    """A call for one worker, and the worker's constants."""

    state: int  # EMPTY, WAITING, TAKEN or WRITTEN
    team: int  # address of the team's record
    driver: int  # address of the driver
    job: int  # address of the job's record
    enter: int  # address of the block by which threads enter a team
    yield_core: int  # address of the system's function that yields the core; 0: none
    queue: int  # address of the number of calls queued for sleeping workers
    spins: int  # how many times a worker spins before it sleeps


_FIELDS = Mailbox.dtype.names or ()


class Mailboxes:
    """The mailboxes of a pool's workers, each on cache lines of its own.

    Parameters
    ----------
    spins : int, how many times a worker spins before it sleeps

    Attributes
    ----------
    first : int, address of the first mailbox
    queue : int64, shape (1,), the number of calls queued for sleeping workers
    """

    queue: NDArray[np.int64]
    first: int

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        words = LINE // 8
        self._memory = memory = np.zeros((MOST + 2) * words, np.int64)
        lines = memory[-memory.ctypes.data % LINE // 8 :][: (MOST + 1) * words]
        self.queue, boxes = lines[:1], lines[words:]
        self.first = int(boxes.ctypes.data)
        fixed = {
            "enter": entry().address,
            "yield_core": yield_core(),
            "queue": self.queue.ctypes.data,
            "spins": spins,
        }
        for name, value in fixed.items():
            boxes[_FIELDS.index(name) :: words] = value

    def place(self, number: int) -> int:
        """Return the address of a worker's mailbox."""
        return self.first + number % MOST * LINE


def serve(scalar: Any) -> Callable[[int, int, int, int], None]:
    """Make the worker's loop: run the current call, then spin on the mailbox until a call is
    posted, the spins are used up, or a call is queued for sleeping workers.

    Between two calls it does not return to Python, where it would wait for the GIL.
    """

    def serve_calls(place: int, team: int, driver: int, job: int) -> None:
        box, spins = record_at(place, Mailbox), 0
        call(box.enter, (team, driver, job))
        store_release(place, WAITING)
        while True:
            if load_acquire(place) == WRITTEN:
                posted = box.team
                call(box.enter, (posted, box.driver, box.job))
                fetch_add(posted + LEFT, 1)
                store_release(place, WAITING)
                spins = 0
            elif spins >= box.spins or load_acquire(box.queue) > 0:
                if exchange_if(place, WAITING, EMPTY):
                    return
            else:
                spins += 1
                if box.yield_core != 0 and spins % MAILBOX_YIELDS == 0:
                    call(box.yield_core, ())
            pause()

    return serve_calls


def post(scalar: Any) -> Callable[..., None]:
    """Make the block that posts a call to the mailboxes of up to n spinning workers, and writes
    their number to the team's record."""

    def post_call(boxes: int, n_boxes: int, n: int, team: int, driver: int, job: int) -> None:
        n_posted = 0
        for b in range(n_boxes):
            place = boxes + b * LINE
            if n_posted < n and load_acquire(place) == WAITING:
                if exchange_if(place, WAITING, TAKEN):
                    box = record_at(place, Mailbox)
                    box.team, box.driver, box.job = team, driver, job
                    n_posted += 1
                    store_release(place, WRITTEN)
        store_release(team + POSTED, n_posted)

    return post_call
