"""Teardown in every order:
a process ends with the code that it was asked for, and in silence.
"""

import os
from collections.abc import Callable
from typing import Any

import numba
import pytest

from fastmlp.compiler import COMPILER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(numba.config.DISABLE_JIT) or COMPILER == "numba",
        reason="without the translator no worker waits in compiled code",
    ),
]

# A worker that spins at its mailbox for good,
# nets, and threads in the middle of a call.
BEGIN = """
import atexit, gc, os, signal, sys, threading, time
import numpy as np
from fastmlp import MLP, Loss, NetGroup
from fastmlp.backends.cpu import limits, worker_pool
from work import always_in_parallel

always_in_parallel()
limits.thread_limit = lambda: 2

rng = np.random.default_rng(0)
X, y = rng.standard_normal((64, 4)).astype("f4"), np.zeros((64, 1), "f4")
WIDE = rng.standard_normal((20_000, 4)).astype("f4")

def new(width=16, **options):
    return MLP((4, width, 1), seed=0, **options)

def train(net=None, epochs=3, **options):
    (net or new()).fit(X, y, epochs=epochs, batch_size=16, **options)

def in_the_middle(call, daemon=True):
    '''A thread that calls for ever, and has begun.'''
    begun = threading.Event()
    def work():
        while True:
            call()
            begun.set()
    threading.Thread(target=work, daemon=daemon).start()
    assert begun.wait(60)

def stop(code):
    def callback(*_):
        sys.exit(code)
    return callback

def spin():
    '''Have this process's worker spin for ever.'''
    train(new(n_threads=2))
    pool = worker_pool.pool()
    pool._mailboxes.fields["spins"][:] = 1 << 60
    train(new(n_threads=2))
    while pool._mailboxes.fields["state"][0] != worker_pool.WAITING:
        time.sleep(0.001)

spin()
"""

# The interpreter clears the names of modules that are held at the end, as pytest's are.
HELD = "threading.held = [*sys.modules.values()]\n"

# By what is alive at the end: a script, and the code that it asks for.
SCRIPTS: dict[str, tuple[str, int]] = {
    "a worker that spins": ("train()", 0),
    "a worker that sleeps": (
        "worker_pool.pool()._mailboxes.fields['spins'][:] = 0; train()",
        0,
    ),
    "an end by sys.exit": ("train(); sys.exit(3)", 3),
    "an end by os._exit": ("train(); os._exit(4)", 4),
    "sys.exit in a callback": ("train(callbacks=[stop(5)])", 5),
    "sys.exit in a callback on a team": (
        "new(256, n_threads=2).fit(WIDE, WIDE[:, :1], epochs=9, callbacks=[stop(5)])",
        5,
    ),
    "sys.exit in a thread": (
        "thread = threading.Thread(target=train, kwargs={'callbacks': [stop(5)]})\n"
        "thread.start(); thread.join()",
        0,
    ),
    "sys.exit in a fit of many": (
        """
from fastmlp import fit_many
fit_many([new() for _ in range(4)], X, y, epochs=9, callbacks=[stop(5)], n_threads=2)
""",
        5,
    ),
    "a daemonic thread in a fit": ("in_the_middle(train)", 0),
    "a daemonic thread in a fit on a team": (
        "net = new(256, n_threads=2)\n"
        "in_the_middle(lambda: net.fit(WIDE, WIDE[:, :1], epochs=1))",
        0,
    ),
    "a daemonic thread in long predictions": (
        "net = new(512); in_the_middle(lambda: net.predict(WIDE))",
        0,
    ),
    "daemonic threads in steps": (
        "for i in range(3): in_the_middle(lambda net=new(): net.train_on_batch(X, y))",
        0,
    ),
    "a daemonic thread in steps of groups": (
        "in_the_middle(lambda: NetGroup([new(), new()]).train_on_batch(X, y))",
        0,
    ),
    "a daemonic thread in a fit of many": (
        """
from fastmlp import fit_many
in_the_middle(lambda: fit_many([new() for _ in range(4)], X, y, epochs=9, n_threads=2))
""",
        0,
    ),
    "a daemonic thread that reads a stream": (
        """
def blocks():
    while True:
        yield X, y
threading.Thread(target=lambda: new().fit(blocks, epochs=1), daemon=True).start()
time.sleep(0.5)
""",
        0,
    ),
    "a thread that ends after the main thread": (
        """
def work():
    threading.main_thread().join()
    train(new(256, n_threads=2), epochs=9)
threading.Thread(target=work).start()
""",
        0,
    ),
    "a handler of atexit that trains": (
        """
atexit.register(lambda: (train(new(256, n_threads=2)), new().train_on_batch(X, y)))
atexit.register(lambda: NetGroup([new(), new()]).train_on_batch(X, y))
train()
""",
        0,
    ),
    "a handler of atexit that is the first to train": (
        "atexit.register(lambda: NetGroup([new(), new()]).train_on_batch(X, y))",
        0,
    ),
    "a handler of atexit that fits extra members": (
        """
from fastmlp.tabular import extras
def late():
    assert extras.start(lambda: [train()], in_turn=False)() == [None]
atexit.register(late)
""",
        0,
    ),
    "a child of a fork": (
        """
train()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    train(new(256, n_threads=2))
    NetGroup([new(), new()]).train_on_batch(X, y)
    spin()
""",
        0,
    ),
    "a child that is forked in a thread's call": (
        """
in_the_middle(train)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    train()
    spin()
""",
        0,
    ),
    "nets that a rule's globals hold": (
        """
def squares(p, t):
    return (p - t) ** 2, 2 * (p - t)
net, other = new(loss=Loss(squares)), new(loss=Loss(squares))
net.train_on_batch(X, y)
net.loss_and_gradient(X, y)
group = NetGroup([net, other])
group.train_on_batch(X, y)
group.predict(X)
""",
        0,
    ),
    "nets that a rule's closure holds": (
        """
def made():
    net = new()
    def squares(p, t):
        return (p - t) ** 2, 2 * (p - t)
    squares.net = net
    return Loss(squares), net
loss, net = made()
net.train_on_batch(X, y)
other = new(loss=loss)
for _ in range(3): other.train_on_batch(X, y)
""",
        0,
    ),
    "nets and groups in cycles": (
        """
class Holder: pass
gc.disable()
for _ in range(3):
    holder = Holder()
    holder.me, holder.net = holder, new()
    holder.group = NetGroup([holder.net, new()])
    holder.group.train_on_batch(X, y)
    holder.net.train_on_batch(X, y)
    holder.net.loss_and_gradient(X, y)
""",
        0,
    ),
    "a global that is dropped by the interpreter": (
        """
class Last:
    def __init__(self): self.net = new()
    def __del__(self): self.net.train_on_batch(X, y)
last = Last()
last.net.train_on_batch(X, y)
""",
        0,
    ),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_process_ends_as_it_was_asked_to(
    process: Callable[..., Any], case: str
) -> None:
    script, code = SCRIPTS[case]
    done = process(BEGIN + HELD + script, NUMBA_NUM_THREADS="2")
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(
    "case",
    ["a worker that spins", "a daemonic thread in a fit on a team"]
    + [case for case in SCRIPTS if "rule" in case or "global" in case],
)
def test_modules_that_nobody_holds_end_otherwise(
    process: Callable[..., Any], case: str
) -> None:
    done = process(BEGIN + SCRIPTS[case][0], NUMBA_NUM_THREADS="2")
    assert (done.returncode, done.stderr) == (0, "")


def test_of_an_exception_in_a_callback_nothing_else_is_printed(
    process: Callable[..., Any],
) -> None:
    script = "def fail(*_): raise ValueError('stop')\ntrain(callbacks=[fail])"
    done = process(BEGIN + HELD + script, NUMBA_NUM_THREADS="2")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("ValueError: stop\n")


# On one core a worker that was posted comes when its leader has left and dropped the
# group.
GROUPS = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
worker_pool.pool()._mailboxes.fields["spins"][:] = 0
nets = [new(), new(8)]
expected, wrong = [net.predict(X) for net in nets], 0
for i in range(int(sys.argv[1])):
    others = [np.zeros(words, np.int64) for words in range(64, 128, 2)]
    wrong += not np.array_equal(NetGroup(nets).predict(X), expected)
    wrong += any(map(np.any, others))
first = [net.parameters.copy() for net in nets]
losses = NetGroup(nets).train_on_batch(X, y)
for i in range(int(sys.argv[1])):
    for net, parameters in zip(nets, first):
        net.parameters[:] = parameters
    others = [np.zeros(words, np.int64) for words in range(64, 128, 2)]
    wrong += not np.array_equal(NetGroup(nets).train_on_batch(X, y), losses)
    wrong += any(map(np.any, others))
sys.exit(wrong != 0)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot name a core")
def test_groups_are_dropped_while_a_worker_is_posted(
    process: Callable[..., Any], soak: bool
) -> None:
    n_groups = 10_000 if soak else 300
    done = process(BEGIN + GROUPS, n_groups, timeout=1200, NUMBA_NUM_THREADS="2")
    assert (done.returncode, done.stderr) == (0, "")
