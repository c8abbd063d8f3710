"""Threads that work together for the length of one compiled call, and join by spinning.

Whoever enters first leads: it runs the driver. The others are helpers. The leader cuts a block's
work into a part for each thread that has come so far, publishes it under a new generation, and
does part 0; helper t claims part t. A block is told its range and the number of its part: no two
threads work on one part at a time, so it may use the part's own buffers. A part that nobody has
claimed when a thread has done its own goes to that thread. So the leader waits only for parts at
work: a helper that comes late, is off its core, or never comes costs nothing and blocks nobody.

A part is claimed by raising its `claim` to the generation. The leader leaves a generation when all
its parts are done, hence claimed: a helper with an old generation in hand finds no part to claim,
and one that has claimed reads a command that stands still until it is done.

Cores are not always as fast as each other: some are made smaller, other processes take some of the
time of one, and one of a virtual machine may share its execution units with others. So long
parts are cut into pieces, which their thread takes from the front, and one that has nothing left to
do from the back. A block then gets its thread's number in place of the part's.
"""

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.compiler import (
    Block,
    block_of,
    call,
    exchange_if,
    fetch_add,
    flush_denormals,
    load_acquire,
    njit,
    pause,
    restore_denormals,
    row,
    store_release,
)
from fastmlp.compiler.parallel import runtime

# Bytes. Neighbouring pairs of cache lines travel together on x86; 128 on Apple's cores anyway.
LINE = 128
# The leader's words on line 0, `joined` on line 1, constants on line 2, then a line for each part:
# its claim, the generation that is done; and of pieces, those taken and how many are done.
# Of helpers who waited in seats: how many were called, -1 before, and how many have left.
GENERATION, JOINED, CONSTANT, PARTS = 0, LINE, 2 * LINE, 3 * LINE
POSTED, LEFT = JOINED + 8, JOINED + 16
DONE, TAKEN, FINISHED = 8, 16, 24
COMMAND = np.dtype(
    (np.record, [(name, np.int64) for name in ("generation", "block", "n", "address")])
)
CONSTANTS = np.dtype(
    (np.record, [(name, np.int64) for name in ("limit", "give_way", "share", "pieces")])
)
MOST, MOST_PIECES = 255, 4
STOPPED = -1
# Spins of about 50 ns before a waiting thread offers its core to others, and between offers.
PATIENCE, AGAIN = 2000, 50
MUSTER = 5000


def make_team(limit: int, pieces: int = 1) -> NDArray[np.int64]:
    """Return the record of a team of at most `limit` threads that nobody has entered yet.

    A part is cut into so many `pieces`, `MOST_PIECES` at most. The record starts at a multiple of
    LINE bytes. One serves one call: a helper that comes after its end must still find it ended.
    """
    words, n = LINE // 8, PARTS // 8 + min(limit, MOST) * LINE // 8
    memory = np.zeros(n + words, np.int64)
    skip = -memory.ctypes.data % LINE // 8
    team = memory[skip : skip + n]
    team[POSTED // 8] = -1
    constants = min(limit, MOST), give_way(), _share_address(), min(pieces, MOST_PIECES)
    team[CONSTANT // 8 : CONSTANT // 8 + 4] = constants
    return team


@cache
def _share_address() -> int:
    return block_of(share, np.int64).address


@cache
def give_way() -> int:
    """Return the address of the system's function that offers the core to others; 0: none."""
    try:
        windows = os.name == "nt"
        library = ctypes.CDLL("kernel32" if windows else None)
        function = library.SwitchToThread if windows else library.sched_yield
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@njit
def _rest(team: Any, spins: Any) -> Any:
    """Wait a little, the longer the more politely; return the number of spins."""
    pause()
    if spins < PATIENCE:
        return spins + 1
    other = row(team + CONSTANT, 1, CONSTANTS)[0].give_way
    if other != 0:
        call(other, ())
    return PATIENCE - AGAIN


@njit
def _take(team: Any, generation: Any, members: Any, t: Any) -> None:
    """Do part t of a generation, unless somebody has claimed it."""
    claim = team + PARTS + t * LINE
    before = load_acquire(claim)
    if before < generation and exchange_if(claim, before, generation):
        command = row(team, 1, COMMAND)[0]
        first, last = t * command.n // members, (t + 1) * command.n // members
        call(command.block, (command.address, first, last, t))
        store_release(claim + DONE, generation)


@njit
def _next_piece(word: Any, generation: Any, pieces: Any, back: Any) -> Any:
    """Take a piece of a part, the first or with `back` the last of those left, and return its
    number, or -1. The word holds the generation, and how many are taken from either end."""
    while True:
        before = load_acquire(word)
        front, rear = before >> 8 & MOST, before & MOST
        if before >> 16 < generation:
            front, rear = 0, 0
        if before >> 16 > generation or front + rear >= pieces:
            return -1
        after = generation << 16 | (front + 1 - back) << 8 | rear + back
        if exchange_if(word, before, after):
            return pieces - 1 - rear if back else front


@njit
def _do_pieces(team: Any, generation: Any, members: Any, t: Any, thread: Any) -> None:
    """Do what is left of part t: a thread's own, or another's."""
    line, pieces = team + PARTS + t * LINE, row(team + CONSTANT, 1, CONSTANTS)[0].pieces
    while True:
        piece = _next_piece(line + TAKEN, generation, pieces, 0 if t == thread else 1)
        if piece < 0:
            return
        command = row(team, 1, COMMAND)[0]
        start, stop = t * command.n // members, (t + 1) * command.n // members
        first = start + piece * (stop - start) // pieces
        last = start + (piece + 1) * (stop - start) // pieces
        if first < last:
            call(command.block, (command.address, first, last, thread))
        fetch_add(line + FINISHED, 1)


@njit
def _do_all_pieces(team: Any, generation: Any, members: Any, thread: Any) -> None:
    """Do a thread's own part, and then what the others have left."""
    for i in range(members):
        _do_pieces(team, generation, members, (thread + i) % members, thread)


@njit
def _wait(team: Any, word: Any, value: Any) -> None:
    spins = 0
    while load_acquire(word) != value:
        spins = _rest(team, spins)


@runtime
@njit
def spread(team: Any, block: Any, n: Any, address: Any) -> None:
    """Do a block's work from 0 to n, with those of the team who are there; 0 is no team, and 1
    stands for Numba's threads, which take no block by its address.

    By address: compiled in place, sharing took 0.6 s of a first fit that never shared.
    """
    if team < 2:
        call(block, (address, 0, n, 0))
    else:
        call(row(team + CONSTANT, 1, CONSTANTS)[0].share, (team, block, n, address))


def share(scalar: Any) -> Any:
    """Make the block by which a leader spreads work over its team."""

    def share_work(team: Any, block: Any, n: Any, address: Any) -> None:
        constants = row(team + CONSTANT, 1, CONSTANTS)[0]
        members, pieces = min(load_acquire(team + JOINED), constants.limit, n), constants.pieces
        if members < 2:
            call(block, (address, 0, n, 0))
            return
        command = row(team, 1, COMMAND)[0]
        generation = (command.generation >> 8) + 1
        command.block, command.n, command.address = block, n, address
        if pieces > 1:
            for t in range(members):
                store_release(team + PARTS + t * LINE + FINISHED, 0)
            store_release(team + GENERATION, generation << 8 | members)
            _do_all_pieces(team, generation, members, 0)
            for t in range(members):
                _wait(team, team + PARTS + t * LINE + FINISHED, pieces)
            return
        store_release(team + GENERATION, generation << 8 | members)
        call(block, (address, 0, n // members, 0))
        for t in range(1, members):
            _take(team, generation, members, t)
        for t in range(1, members):
            _wait(team, team + PARTS + t * LINE + DONE, generation)

    return share_work


@njit
def _assist(team: Any, helper: Any) -> None:
    seen, spins = 0, 0
    while True:
        word = load_acquire(team + GENERATION)
        if word == STOPPED:
            return
        if word == seen:
            spins = _rest(team, spins)
            continue
        seen, spins, members = word, 0, word & MOST
        if helper < members and row(team + CONSTANT, 1, CONSTANTS)[0].pieces > 1:
            _do_all_pieces(team, word >> 8, members, helper)
        elif helper < members:
            for t in range(helper, members):
                _take(team, word >> 8, members, t)
            for t in range(1, helper):
                _take(team, word >> 8, members, t)


@njit
def _muster(team: Any, members: Any) -> None:
    """Wait for so many of the team to come, for 0.2 ms at most.

    A step of 80 ms has two spreads: without, its first one often had one thread, and took twice as
    long.
    """
    spins = 0
    while load_acquire(team + JOINED) < members and spins < MUSTER:
        pause()
        spins += 1


def enter(scalar: Any) -> Any:
    """Make the block by which every thread enters: the first runs the driver, the others help."""

    def enter_team(team: Any, driver: Any, job: Any) -> None:
        mode = flush_denormals()
        ticket = fetch_add(team + JOINED, 1)
        if ticket == 0:
            _muster(team, row(team + CONSTANT, 1, CONSTANTS)[0].limit)
            call(driver, (job,))
            store_release(team + GENERATION, STOPPED)
        elif ticket < row(team + CONSTANT, 1, CONSTANTS)[0].limit:
            _assist(team, ticket)
        restore_denormals(mode)

    return enter_team


def entry() -> Block:
    """Return the block by which threads enter a team."""
    return block_of(enter, np.int64)


def alone(scalar: Any) -> Any:
    """Make the block that runs a driver in the way of a leader whose helpers come by themselves,
    once so many members are there, itself included, or late."""

    def run_driver(team: Any, members: Any, driver: Any, job: Any) -> None:
        mode = flush_denormals()
        if members > 1:
            _muster(team, members)
        call(driver, (job,))
        restore_denormals(mode)

    return run_driver
