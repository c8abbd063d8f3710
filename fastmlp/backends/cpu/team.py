"""A team: threads that share the loops of one compiled call and join by spinning.

The thread that enters first leads: it runs the driver. The others are workers. For each
loop the leader cuts the work into one part per thread that has joined, publishes it
under a new generation, and does part 0; worker t claims part t. A thread that has done
its part claims further parts. So the leader waits only for parts in progress: a worker
that joins late or never, or is off its core, costs nothing. No two threads work on one
part at a time: a part may have separate buffers.

A part is claimed by raising its `claim` to the generation (compare and exchange). The
leader leaves a generation when all its parts are done, hence claimed. A worker with an
older generation finds no part to claim; a worker that has claimed reads a command that
stays until its part is done.

Cores differ in speed: by design, by load, and as a virtual machine's cores may share
execution units. So long parts are cut into pieces: a part's thread takes them from the
front, a thread that is done with its part from the back. A loop's body then gets the
number of its thread in place of the part's.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.tuning import (
    BARRIER_SPINS,
    BARRIER_YIELDS,
    MOST_PIECES,
    TEAM_SPINS,
)
from fastmlp.compiler import (
    Block,
    block_of,
    call,
    flush_denormals,
    njit,
    pause,
    restore_denormals,
)
from fastmlp.compiler.jit import runtime
from fastmlp.compiler.memory import (
    Record,
    exchange_if,
    fetch_add,
    load_acquire,
    record_at,
    store_release,
)

# Bytes. Neighbouring pairs of cache lines travel together on x86,
# and are one line on Apple's cores.
LINE = 128
# The record of a team, in bytes from its start: the leader's command on line 0; on line
# 1 how many threads have joined, how many workers were called (-1: not called yet), how
# many of those have left, and how many slept; constants on line 2; then a line for each
# part.
GENERATION = 0
JOINED = LINE
CONSTANT = 2 * LINE
PART_LINES = 3 * LINE
POSTED = JOINED + 8
LEFT = JOINED + 16
WOKEN = JOINED + 24
# A part's line: its claim, the generation that is done;
# the pieces taken, the pieces done.
DONE = 8
TAKEN = 16
FINISHED = 24
# The number of threads has one byte of the generation's word.
MOST_THREADS = 255
STOPPED = -1


class Command(Record):
    """A loop that the leader publishes."""

    generation: (
        int  # generation << 8 | threads that share it; STOPPED: the call has ended
    )
    block: int  # address of the loop's body: (environment, first, last, thread)
    n: int  # iterations
    environment: int  # address that the body gets


class Constants(Record):
    limit: int  # the most threads
    yield_core: int  # address of the system's function that yields the core, or 0
    share_iterations: int  # address of the block of `share_iterations`
    pieces: int  # into how many pieces a part is cut


def make_team(limit: int, pieces: int = 1) -> NDArray[np.int64]:
    """The record of a team of at most `limit` threads, which no thread has entered.

    A record serves one call: a worker that enters after the call's end must find it
    stopped. The address is a multiple of LINE bytes.

    Parameters
    ----------
    pieces : into how many pieces a part is cut, at most `MOST_PIECES`
    """
    words = LINE // 8
    n = PART_LINES // 8 + min(limit, MOST_THREADS) * LINE // 8
    memory = np.zeros(n + words, np.int64)
    skip = -memory.ctypes.data % LINE // 8
    team = memory[skip : skip + n]
    team[POSTED // 8] = -1
    constants = (
        min(limit, MOST_THREADS),
        yield_core(),
        _share_address(),
        min(pieces, MOST_PIECES),
    )
    team[CONSTANT // 8 : CONSTANT // 8 + 4] = constants
    return team


def renew(team: NDArray[np.int64]) -> NDArray[np.int64]:
    """The record of a team that all threads have left,
    for another call of as many threads and pieces: 11 -> 3 us, between long steps.
    """
    team[: CONSTANT // 8] = 0
    team[PART_LINES // 8 :] = 0
    team[POSTED // 8] = -1
    return team


@cache
def _share_address() -> int:
    return block_of(share_iterations, np.int64).address


@cache
def yield_core() -> int:
    """The address of the system's function that yields the core, or 0."""
    try:
        windows = os.name == "nt"
        library = ctypes.CDLL("kernel32" if windows else None)
        function = library.SwitchToThread if windows else library.sched_yield
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@njit
def constants_of(team: int) -> Constants:
    return record_at(team + CONSTANT, Constants)


@njit
def spin(team: int, spins: int) -> int:
    """Spin once, and yield the core now and then after the first `BARRIER_SPINS`;
    return the number of spins so far, for the next call.
    """
    pause()
    if spins < BARRIER_SPINS:
        return spins + 1
    other = constants_of(team).yield_core
    if other != 0:
        call(other, ())
    return BARRIER_SPINS - BARRIER_YIELDS


@njit
def _take(team: int, generation: int, n_threads: int, t: int) -> None:
    """Do part t of a generation, unless another thread has claimed it."""
    claim = team + PART_LINES + t * LINE
    before = load_acquire(claim)
    if before < generation and exchange_if(claim, before, generation):
        command = record_at(team, Command)
        first = t * command.n // n_threads
        last = (t + 1) * command.n // n_threads
        call(command.block, (command.environment, first, last, t))
        store_release(claim + DONE, generation)


@njit
def _next_piece(word: int, generation: int, pieces: int, back: int) -> int:
    """Take a piece of a part and return its number: the first left,
    or the last with `back`; -1: all are taken.

    The word is generation << 16 | pieces taken from the front << 8 | pieces taken from
    the back.
    """
    while True:
        before = load_acquire(word)
        front = before >> 8 & MOST_THREADS
        rear = before & MOST_THREADS
        if before >> 16 < generation:
            front, rear = 0, 0
        if before >> 16 > generation or front + rear >= pieces:
            return -1
        after = generation << 16 | (front + 1 - back) << 8 | rear + back
        if exchange_if(word, before, after):
            return pieces - 1 - rear if back else front


@njit
def _do_pieces(team: int, generation: int, n_threads: int, t: int, thread: int) -> None:
    """The remaining pieces of part t, this thread's or another thread's."""
    line = team + PART_LINES + t * LINE
    pieces = constants_of(team).pieces
    while True:
        piece = _next_piece(line + TAKEN, generation, pieces, 0 if t == thread else 1)
        if piece < 0:
            return
        command = record_at(team, Command)
        start = t * command.n // n_threads
        stop = (t + 1) * command.n // n_threads
        first = start + piece * (stop - start) // pieces
        last = start + (piece + 1) * (stop - start) // pieces
        if first < last:
            call(command.block, (command.environment, first, last, thread))
        fetch_add(line + FINISHED, 1)


@njit
def _do_all_pieces(team: int, generation: int, n_threads: int, thread: int) -> None:
    """This thread's part, then the remaining pieces of the other parts."""
    for i in range(n_threads):
        _do_pieces(team, generation, n_threads, (thread + i) % n_threads, thread)


@njit
def _wait(team: int, word: int, value: int) -> None:
    spins = 0
    while load_acquire(word) != value:
        spins = spin(team, spins)


@runtime
@njit
def share_loop(team: int, block: int, n: int, environment: int) -> None:
    """Run the iterations 0 to n of a loop's body on a team.

    By address: compiled in place, sharing took 0.6 s of a first fit on one thread.
    """
    call(constants_of(team).share_iterations, (team, block, n, environment))


def share_iterations(scalar: Any) -> Callable[[int, int, int, int], None]:
    """A leader shares a loop with its team by this block."""

    def share_work(team: int, block: int, n: int, environment: int) -> None:
        """Threads that have joined by now share the loop; fewer than two, and the
        caller runs it alone. The generation is published last, after the command that
        it announces.
        """
        constants = constants_of(team)
        n_threads = min(load_acquire(team + JOINED), constants.limit, n)
        pieces = constants.pieces
        if n_threads < 2:
            call(block, (environment, 0, n, 0))
            return
        command = record_at(team, Command)
        generation = (command.generation >> 8) + 1
        command.block = block
        command.n = n
        command.environment = environment
        if pieces > 1:
            for t in range(n_threads):
                store_release(team + PART_LINES + t * LINE + FINISHED, 0)
            store_release(team + GENERATION, generation << 8 | n_threads)
            _do_all_pieces(team, generation, n_threads, 0)
            for t in range(n_threads):
                _wait(team, team + PART_LINES + t * LINE + FINISHED, pieces)
            return
        store_release(team + GENERATION, generation << 8 | n_threads)
        call(block, (environment, 0, n // n_threads, 0))
        for t in range(1, n_threads):
            _take(team, generation, n_threads, t)
        for t in range(1, n_threads):
            _wait(team, team + PART_LINES + t * LINE + DONE, generation)

    return share_work


@njit
def _assist(team: int, worker: int) -> None:
    """Do parts of each generation that the leader publishes,
    until it stops the team.
    """
    seen, spins = 0, 0
    while True:
        word = load_acquire(team + GENERATION)
        if word == STOPPED:
            return
        if word == seen:
            spins = spin(team, spins)
            continue
        seen = word
        spins = 0
        n_threads = word & MOST_THREADS
        if worker < n_threads and constants_of(team).pieces > 1:
            _do_all_pieces(team, word >> 8, n_threads, worker)
        elif worker < n_threads:
            for t in range(worker, n_threads):
                _take(team, word >> 8, n_threads, t)
            for t in range(1, worker):
                _take(team, word >> 8, n_threads, t)


@njit
def wait_for_team(team: int, n_threads: int, most: int) -> None:
    """Wait until `n_threads` have joined, at most `most` spins."""
    spins = 0
    while load_acquire(team + JOINED) < n_threads and spins < most:
        pause()
        spins += 1


def enter(scalar: Any) -> Callable[[int, int, int], None]:
    """Each thread enters a team by this block:
    the first runs the driver, the others are workers.
    """

    def enter_team(team: int, driver: int, job: int) -> None:
        mode = flush_denormals()
        ticket = fetch_add(team + JOINED, 1)
        if ticket == 0:
            wait_for_team(team, constants_of(team).limit, TEAM_SPINS)
            call(driver, (job,))
            store_release(team + GENERATION, STOPPED)
        elif ticket < constants_of(team).limit:
            _assist(team, ticket)
        restore_denormals(mode)

    return enter_team


def entry() -> Block:
    return block_of(enter, np.int64)


@njit
def lead_team(team: int, n_threads: int, driver: int, job: int) -> None:
    """Wait briefly for `n_threads`, this one included, unless that is 1; then run the
    driver.
    """
    mode = flush_denormals()
    if n_threads > 1:
        wait_for_team(team, n_threads, TEAM_SPINS)
    call(driver, (job,))
    restore_denormals(mode)


def lead(scalar: Any) -> Callable[[int, int, int, int], None]:
    """Runs a driver as the leader; its workers enter by their mailboxes.

    The leader waits 0.2 ms at most for `n_threads` threads,
    itself included; 1: no wait.
    """

    def run_driver(team: int, n_threads: int, driver: int, job: int) -> None:
        lead_team(team, n_threads, driver, job)

    return run_driver
