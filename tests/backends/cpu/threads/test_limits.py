"""Launches of calls: thread counts, layers, and processes that fork."""

import os
from collections.abc import Callable

import numba
import pytest
from conditions import only_compiled
from nets import Net

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.threads import limits
from fastmlp.compiler import COMPILER

# Another library's kernel starts the threads; this one is first used in the child.
FORK_AFTER_OTHERS = """
import os, signal, warnings
import numba
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.threads import worker_pool, limits
from fastmlp.rules.optimizers import (SGD)

@numba.njit(parallel=True)
def of_another_library(numbers):
    for i in numba.prange(numbers.size):
        numbers[i] += 1

warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
dispatch.pays, dispatch.REGION_SECONDS = lambda work, n_threads: True, 0
rng = np.random.default_rng(0)
net = Net((5, 17, 3))
parameters, data = net.draw(rng, 100)
of_another_library(np.zeros(1000))
process = os.fork()
if process == 0:
    signal.alarm(60)
    train(net, parameters, data, SGD(0.03), orders(rng, 2, 100), 50, n_threads=2)
    os._exit(limits.parallel_is_safe())
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""

FORK_BESIDE_A_LAUNCH = """
import os, signal, threading
import numba
from numba.np.ufunc import parallel
from fastmlp.backends.cpu.threads import limits

held, done = threading.Event(), threading.Event()

def hold():
    with parallel._backend_init_thread_lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    with limits.threads(1):
        os._exit(int(limits.parallel_is_safe()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
print(limits._state["forked"])
"""

LAYER_IN_USE = """
import os
import numba
from fastmlp.backends.cpu.threads import limits

def n_tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

tasks = n_tasks()
foreseen, safe = limits.threading_layer(), limits.parallel_is_safe()
assert n_tasks() == tasks
try:
    numba.threading_layer()
except ValueError:
    numba.set_num_threads(1)
    print(safe, foreseen, limits.threading_layer(), numba.threading_layer())
"""


# Each way to launch a call, in turn; after each, which layer's threads there are, how many parallel
# kernels were launched, and how many workers of ours there are.
MODES = """
import os, threading, warnings
import numba
from work import MLP, X, Y, always_in_parallel
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.threads import worker_pool, limits

warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
bits, regions, gather = set(), [], worker_pool.gather

def counted(*arguments):
    regions.append(0)
    gather(*arguments)

def fit(n_threads=None):
    net = MLP((5, 17, 3), loss="cross_entropy", seed=0, n_threads=n_threads)
    net.fit(X, Y, epochs=2, batch_size=50)
    bits.add(net.parameters.tobytes())

def tell(mode):
    try:
        layer = numba.threading_layer()
    except ValueError:
        layer = "none"
    ours = sum(thread.name == "fastmlp team worker" for thread in threading.enumerate())
    print(mode, layer, len(regions) > 0, ours > 0, flush=True)
    regions.clear()

worker_pool.gather = counted
fit()
tell("little")
always_in_parallel()
fit(1)
tell("one")
fit(2)
tell("long")
dispatch.REGION_SECONDS = 1 << 60
fit(2)
tell("short")
dispatch.REGION_SECONDS = 0
child = os.fork()
if child == 0:
    fit(2)
    tell("forked")
    os._exit(len(bits) - 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
fit(2)
tell("after")
assert len(bits) == 1
"""
NONE = "none False False"


@pytest.mark.slow
@pytest.mark.skipif(COMPILER == "numba", reason="Numba's threads stand in for a team")
@only_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_each_way_to_launch_a_call_is_taken_where_it_should_be(
    layer: str, python: Callable[..., str]
) -> None:
    if not limits._present(layer):
        pytest.skip(f"the {layer} layer does not load here: its library is not installed")
    printed = python(MODES, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    modes = dict(line.split(maxsplit=1) for line in printed.splitlines())
    # A little work, and one thread, start no thread of anybody's.
    assert (modes["little"], modes["one"]) == (NONE, NONE)
    if layer == "workqueue":
        # Its own threads are never started.
        expected = dict.fromkeys(("long", "short", "forked", "after"), "none False True")
    else:
        expected = {
            "long": f"{layer} True False",
            "short": f"{layer} False True",
            # The workers of the parent are not there.
            "forked": f"{layer} False True",
            "after": f"{layer} True True",
        }
    assert {mode: modes[mode] for mode in expected} == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="none is told here")
def test_the_thread_limit_obeys_the_affinity(python: Callable[..., str]) -> None:
    script = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]); "
    script += "from fastmlp.backends.cpu.threads import limits; limits._cgroup_cpus = lambda: 8; "
    assert python(script + "print(limits.thread_limit())") == "1\n"


@pytest.mark.parametrize("n", [1, 3])
def test_the_thread_limit_obeys_numbas(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_cgroup_cpus", lambda: 8)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", n)
    assert limits.thread_limit() == n


@pytest.mark.parametrize(
    ("cpus", "limit"), [(0, 1), (1, 1), (1 << 16, numba.config.NUMBA_NUM_THREADS)]
)
def test_the_thread_limit_obeys_the_control_group(
    cpus: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_cgroup_cpus", lambda: cpus)
    assert limits.thread_limit() == limit


def test_an_engine_takes_no_more_threads_than_the_limit() -> None:
    assert Engine(Net().network).n_threads == limits.thread_limit()
    assert Engine(Net().network, 10**6).n_threads == limits.thread_limit()
    assert Engine(Net().network, 1).n_threads == 1


def test_a_call_leaves_alone_the_threads_of_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)
    with limits.reserved(3) as first, limits.reserved(3) as second, limits.reserved(3) as third:
        assert (first, second, third) == (3, 1, 1)
    with limits.reserved(4) as again:
        assert again == 4


def test_threads_are_given_back_after_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), limits.reserved(limits.thread_limit()):
        raise KeyboardInterrupt
    with limits.reserved(limits.thread_limit()) as n:
        assert n == limits.thread_limit()


class InterruptedLock:
    """A lock as which an interrupt comes the n-th time that it is taken: before or after."""

    def __init__(self, n: int, *, before: bool) -> None:
        self._n, self._before = n, before

    def __enter__(self) -> None:
        self._n -= 1
        if self._n == 0 and self._before:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._n == 0 and not self._before:
            self._n = -1
            raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_threads_are_given_back_after_an_interrupt_on_the_way_in_or_out(
    n: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = limits._state["busy"]
    monkeypatch.setattr(limits, "_lock", InterruptedLock(n, before=before))
    try:
        with limits.reserved(1):
            assert limits._state["busy"] == busy + 1
    except KeyboardInterrupt:
        pass
    else:
        pytest.fail("no interrupt came")
    assert limits._state["busy"] == busy


def test_threads_puts_the_number_back_after_an_exception_too() -> None:
    before, inside = numba.get_num_threads(), list[int]()

    def interrupted() -> None:
        inside.append(numba.get_num_threads())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), limits.threads(1):
        interrupted()
    assert (inside, numba.get_num_threads()) == ([1], before)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["default", "workqueue", "forksafe", "threadsafe"])
def test_the_layer_is_foreseen_and_none_is_started(wanted: str, python: Callable[..., str]) -> None:
    if wanted == "threadsafe" and limits.threading_layer() == "workqueue":
        pytest.skip("neither OpenMP nor TBB is installed")
    safe, *layers = python(LAYER_IN_USE, NUMBA_THREADING_LAYER=wanted).split()
    assert layers == [layers[0]] * 3
    assert layers[0] in limits.POOLS
    assert safe == str(layers[0] != "workqueue")


@pytest.mark.slow
@only_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_numba_starts_its_threads_does_not_hang(python: Callable[..., str]) -> None:
    assert python(FORK_BESIDE_A_LAUNCH).split() == ["0", "False"]


@pytest.mark.slow
@only_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.skipif(limits.threading_layer() != "omp", reason="only OpenMP minds a fork")
def test_training_goes_on_in_a_child_of_a_process_where_others_launched(
    python: Callable[..., str],
) -> None:
    printed = python(FORK_AFTER_OTHERS, NUMBA_NUM_THREADS="2")
    assert printed.strip() == "0"
