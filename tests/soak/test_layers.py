"""Threads and processes of every kind.

What is known to abort, kill or hang a program that uses Numba's threads: two Python
threads in a parallel kernel, a fork after one, a fork of that fork, pools of processes
and of threads.
"""

import importlib.util
import os
from collections.abc import Callable

import numba
import pytest

pytestmark = [
    pytest.mark.skipif(
        bool(numba.config.DISABLE_JIT), reason="uncompiled, no team gathers"
    ),
    pytest.mark.filterwarnings("ignore"),
]

BEGIN = """
import faulthandler, hashlib, os, signal, sys, threading, traceback, warnings
import numpy as np
from work import *
warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
def begin(scenario):
    print(scenario, file=sys.stderr, flush=True)
    signal.alarm(100 if sys.argv[1] == "4" else 600)
if __name__ == "__main__":
    serial = {seed: fitted(seed, n_threads=1) for seed in range(8)}
"""

SCENARIOS = {
    # Busy threads of a higher priority on the one core: every thread of a team is off
    # it most of the time. Where a fit waited for ever, the traces of all threads would
    # be printed.
    "threads that get little of one core": """
    n, n_busy = {4: (4, 2), 50: (18, 10)}[int(sys.argv[1])]
    def starve():
        signal.alarm(0)
        faulthandler.dump_traceback_later(400, exit=True)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        net = MLP((5, 17, 3), loss="cross_entropy", seed=0)
        net.fit(X, Y, epochs=1)
        x, done = np.tile(X, (30, 1)), threading.Event()
        expected = net.predict(x)
        def keep_busy():
            while not done.is_set():
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
        def predict_beside_fits(i):
            for j in range(5):
                if i >= n:
                    assert fitted(j) == serial[j]
                else:
                    assert np.array_equal(net.predict(x), expected)
        for _ in range(n_busy):
            threading.Thread(target=keep_busy, daemon=True).start()
        os.nice(5)  # of this thread, and of those that it starts
        in_threads(predict_beside_fits, n + 4)
        in_threads(lambda i: fitted(i % 8) == serial[i % 8] or 1 / 0, n)
        done.set()
        return 0
    assert forked(starve) == 0
    """,
    "threads after set_num_threads": """
    import numba
    numba.set_num_threads(1)
    assert in_threads(lambda i: same(serial[i], i)) == [0] * 8
    """,
    "threads beside another library": """
    import numba
    @numba.njit(parallel=True)
    def of_another_library(numbers):
        for i in numba.prange(numbers.size):
            numbers[i] += 1
    def work(i):
        # Another library's launches are its own affair: on workqueue two at a time abort.
        for _ in range(20):
            of_another_library(np.zeros(1000)) if i == 0 else same(serial[i], i)
    in_threads(work, 4)
    """,
    "eight threads fit many nets": """
    n = int(sys.argv[1])
    in_threads(lambda i: [fitted(j % 8) == serial[j % 8] or 1 / 0 for j in range(i, i + n)])
    """,
    "eight threads predict row by row": """
    n = {4: 20_000, 50: 1_000_000}[int(sys.argv[1])]
    net = MLP((5, 17, 3), loss="cross_entropy", seed=0)
    net.fit(X, Y, epochs=1)
    x = np.random.default_rng(1).normal(size=(n, 5)).astype(np.float32)
    expected, out = net.predict(x), np.empty((n, 3), np.float32)
    def predict(t):
        for i in range(t, n, 8):
            net.predict(x[i : i + 1], out[i : i + 1])
    in_threads(predict)
    assert out.tobytes() == expected.tobytes()
    """,
    "fork of a fork": """
    assert same(serial[0]) == 0
    assert forked(lambda: same(serial[0]) or forked(lambda: same(serial[0]))) == 0
    """,
    "fork before any launch": """
    assert forked(lambda: same(serial[0])) == 0
    assert same(serial[0]) == 0
    """,
    "fork from another thread": """
    assert same(serial[0]) == 0
    assert in_threads(lambda i: forked(lambda: same(serial[0])), 2) == [0, 0]
    """,
    "fork beside a fit": """
    with beside(lambda: same(serial[1], 1)):
        assert [forked(lambda: same(serial[0])) for _ in range(5)] == [0] * 5
    """,
    "fork beside a compilation": """
    from fastmlp import MLP
    def new_rule():
        def rule(z):
            return z * z, z + z
        return rule
    def compiled():
        net = MLP((5, 4, 1), activation=new_rule(), seed=0, n_threads=1)
        return int(not np.isfinite(net.predict(X)).all())
    with beside(compiled):
        for _ in range(5):
            assert forked(lambda: same(serial[0]) or compiled()) == 0
    """,
    **{
        f"multiprocessing {method}": f"""
    import multiprocessing
    assert same(serial[0]) == 0
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert pool.map(fitted, range(4)) == [serial[i] for i in range(4)]
    """
        for method in ("fork", "spawn", "forkserver")
    },
    "joblib loky": """
    import joblib
    assert same(serial[0]) == 0
    done = joblib.Parallel(2)(joblib.delayed(fitted)(i) for i in range(4))
    assert done == [serial[i] for i in range(4)]
    """,
    # As gunicorn does: the application is loaded and used, then workers are forked,
    # and again where one has died; each serves from several threads until SIGTERM.
    "workers forked before": """
    net = MLP((5, 17, 3), loss="cross_entropy", seed=0, n_threads=2)
    net.fit(X, Y, epochs=2)
    expected = net.predict(X)
    def serve():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        def request(i):
            for r in range(200):
                row = (i + r) % 100
                assert np.array_equal(net.predict(X[row : row + 1])[0], expected[row])
            assert same(serial[i], i) == 0
        in_threads(request, 4)
        os.write(ready, b".")
        signal.pause()
    def worker():
        process = os.fork()
        if process == 0:
            try:
                serve()
            except BaseException:
                traceback.print_exc()  # otherwise its parent waits without a word
            finally:
                os._exit(1)
        return process
    served, ready = os.pipe()
    assert same(serial[0]) == 0
    workers = [worker() for _ in range(2)]
    for _ in workers:
        os.read(served, 1)
    os.kill(workers[0], signal.SIGKILL)
    os.waitpid(workers[0], 0)
    workers[0] = worker()
    os.read(served, 1)
    for process in workers:
        os.kill(process, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    """,
}
# In one process each, in this order: none has launched anything before its first fork.
GROUPS = {
    "forks": (
        "fork before any launch",
        "fork of a fork",
        "fork from another thread",
        "fork beside a fit",
        "multiprocessing fork",
        "workers forked before",
    ),
    "threads": (
        "threads that get little of one core",
        "eight threads fit many nets",
        "eight threads predict row by row",
        "threads after set_num_threads",
        "threads beside another library",
    ),
    "new processes": (
        "fork beside a compilation",
        "multiprocessing spawn",
        "multiprocessing forkserver",
        "joblib loky",
    ),
}


# Not slow is the one without which no other test finds locks that a forked child
# inherits.
@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=[] if group == "forks" else [pytest.mark.slow])
        for group in GROUPS
    ],
)
def test_every_scenario(group: str, python: Callable[..., str], soak: bool) -> None:
    if hasattr(os, "fork"):
        without = []
    else:
        without = ["fork"]
    without += [] if hasattr(os, "sched_setaffinity") else ["one core"]
    without += [] if importlib.util.find_spec("joblib") else ["joblib"]
    names = [
        name for name in GROUPS[group] if not any(word in name for word in without)
    ]
    texts = [f"\n    begin({name!r})\n{SCENARIOS[name].rstrip()}" for name in names]
    many = 50 if soak else 4
    python(
        BEGIN + "".join(texts), many, timeout=120 * len(names), NUMBA_NUM_THREADS="2"
    )
