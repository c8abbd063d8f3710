"""Launches of calls: thread counts, layers, and processes that fork."""

import os
from collections.abc import Callable

import numba
import pytest
from conditions import only_compiled
from nets import Net

from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.engine import Engine

FORK_BESIDE_A_LAUNCH = """
import os, signal, threading
import numba
from numba.np.ufunc import parallel
from fastmlp.backends.cpu import limits

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
from fastmlp.backends.cpu import limits

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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="none is told here")
def test_the_thread_limit_obeys_the_affinity(python: Callable[..., str]) -> None:
    script = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]); "
    script += "from fastmlp.backends.cpu import limits; limits._cgroup_cpus = lambda: 8; "
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
