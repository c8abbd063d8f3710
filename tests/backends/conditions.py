"""Marks of tests that need threads, a team or compiled code;
jobs of a team, and stored code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastmlp.backends.cpu import dispatch, limits, tuning
from fastmlp.backends.cpu.team import JOINED, share_loop, spin
from fastmlp.compiler import block_of, call, njit
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.memory import fetch_add, load_acquire, row
from fastmlp.network import spec

needs_threads = pytest.mark.skipif(
    limits.thread_limit() < 2, reason="on one CPU every launch is serial"
)
only_compiled = pytest.mark.skipif(INTERPRETED, reason="uncompiled kernels are Python")
needs_a_team = pytest.mark.skipif(INTERPRETED, reason="uncompiled no team gathers")


def count_as_wide(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of so many inputs and outputs take part in mixed precision."""
    monkeypatch.setattr(spec, "WIDE_INPUTS", width)
    monkeypatch.setattr(spec, "WIDE_OUTPUTS", width)


def always_led(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every prediction share its work, however small, and wait for its workers."""
    for name, value in {
        "LEAST_LED": 1,
        "WORTH_COMPILING": -1.0,
        "PATIENT_SECONDS": 0.0,
        "LED_SPINS": LONGEST,
    }.items():
        monkeypatch.setattr(tuning, name, value)
    monkeypatch.setattr(dispatch.Autotuner, "wants_team", lambda self: True)
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)


JOB = np.dtype(
    (
        np.record,
        [
            (n, np.int64)
            for n in ("team", "n_parts", "block", "n", "address", "n_loops", "n_joined")
        ],
    )
)
# Waits for workers, of about 0.5 us: ten seconds and more.
LONGEST = 1 << 25


@njit
def shared(team: int, block: int, n: int, address: int) -> None:
    """Run n items of a block on a team; team 0:
    on this thread, as a translated `prange` does.
    """
    if team == 0:
        call(block, (address, 0, n, 0))
    else:
        share_loop(team, block, n, address)


def count(scalar: Any) -> Any:
    """Make the block that counts how often each item is done,
    and the calls on the word before.
    """

    def count_items(address: Any, first: Any, last: Any, part: Any) -> None:
        counts = row(address, last, np.int64)
        fetch_add(address - 8, 1)
        for i in range(first, last):
            counts[i] += 1

    return count_items


def repeat(scalar: Any) -> Any:
    """Make the driver that shares a block's work with its team,
    again and again, once so many threads have joined.
    """

    def repeat_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        spins = 0
        for _ in range(LONGEST if job.team != 0 else 0):
            if load_acquire(job.team + JOINED) >= job.n_joined:
                break
            spins = spin(job.team, spins)
        for _ in range(job.n_loops):
            shared(job.team, job.block, job.n, job.address)

    return repeat_job


class Drill:
    """`n_loops` times `n` items to count, for `worker_pool.run`.

    The leader waits for `n_joined` of its team, itself included, however long the
    system lets them wait for a core; who only works on may be done before any comes.
    """

    def __init__(self, n: int, n_loops: int, n_joined: int = 0) -> None:
        self.driver = block_of(repeat, np.int64)
        self.n_loops = n_loops
        self.memory = np.zeros(n + 1, np.int64)
        self.block = block_of(count, np.int64)
        fields = (
            0,
            0,
            self.block.address,
            n,
            self.memory.ctypes.data + 8,
            n_loops,
            n_joined,
        )
        self.job = np.array([fields], JOB)

    @property
    def calls(self) -> int:
        return int(self.memory[0])

    @property
    def exact(self) -> bool:
        return bool((self.memory[1:] == self.n_loops).all())


# Prints relu(-1), relu(2), sigmoid(0) and how often the compiler ran.
EVALUATE = """
import ctypes
import sys
import numpy as np
from fastmlp.compiler import block_of
from fastmlp.rules.activations import RULES
from fastmlp.backends.cpu.kernels.elementwise import activation_loop

z, value, slope = np.array([-1.0, 2.0, 0.0]), np.empty(3), np.empty(3)
kind = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)
numbers = []
for name, chosen in (("relu", z[:2]), ("sigmoid", z[2:])):
    address = block_of(activation_loop, np.float64, RULES[name]).address
    kind(address)(chosen.ctypes.data, value.ctypes.data, slope.ctypes.data, chosen.size)
    numbers += value[: chosen.size].tolist()
compiler = sys.modules.get("fastmlp.compiler.native.objects")
print(*numbers, compiler is not None and len(compiler.TRANSLATED) > 0)
"""
RIGHT = "0.0 2.0 0.5"

# Prints which libraries of compilers were imported.
IMPORTED = "\nprint({'numba', 'llvmlite'} & sys.modules.keys() or '')"

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in its digest": lambda content: content[:20],
    "cut after its digest": lambda content: content[:32],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with a byte more": lambda content: content + b"\0",
    "flipped in its digest": lambda content: flip(content, 5),
    "flipped at its start": lambda content: flip(content, 32),
    "flipped in the middle": lambda content: flip(content, len(content) // 2),
    "flipped at its end": lambda content: flip(content, len(content) - 1),
}


def flip(content: bytes, where: int) -> bytes:
    changed = bytearray(content)
    changed[where] ^= 0xFF
    return bytes(changed)
