"""A pool of Python threads that runs many fits at once, the costliest first.

Compiled calls release the GIL, so Python threads suffice: each fit is serial.
When no fit is left to begin, the free cores go to the fits that run
(`threads_of_task`).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from fastmlp._process import collect_warnings, locks, warn

# The caller waits this long at a time, so that it can handle signals.
LOOK_SECONDS = 0.1
WORKER = "fastmlp worker"


class Stopped(KeyboardInterrupt):
    """Ends a fit in a pool that is stopping:
    the caller was interrupted, or another fit failed.
    """


class Task(NamedTuple):
    """A fit.

    Attributes
    ----------
    cost : estimated time, in any unit
    name : str, named in the note that is added to its error
    apart : True for a task that uses no core, such as one on a GPU: it gets a separate thread
    """

    cost: float
    run: Callable[[], Any]
    name: str = ""
    apart: bool = False


class Outcome(NamedTuple):
    """A task's result, and its warnings as pairs of message and category."""

    result: Any
    warnings: list[tuple[str, type[Warning]]]


class Pool:
    """Runs tasks on at most `n_threads` threads, which live for one call.

    The caller does the work of threads that the system does not start.

    Parameters
    ----------
    patience : seconds that `end` waits for a thread; None: until it ends
    look : called ten times a second by `run`; it may raise an error to end all tasks
    is_here : True for short tasks, which the caller does: a thread takes 0.2 ms or more to start

    Attributes
    ----------
    interrupted : True if Ctrl-C ended the call; tasks that had not begun then lack outcomes
    turn : held by a task while it does work that holds the GIL (see `turn` below)
    """

    def __init__(
        self,
        n_threads: int,
        patience: float | None = None,
        look: Callable[[], Any] | None = None,
        is_here: bool = False,
    ) -> None:
        self.interrupted = False
        self._is_here = is_here
        self._patience = patience
        self._look = look
        self._n_threads = n_threads
        self._outer: Pool | None = None
        self._waiting: deque[int] = deque()
        self._tasks: list[Task] = []
        self._outcomes: list[Outcome | None] = []
        self._failed: tuple[int, BaseException] | None = None
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._n_ending = 0
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self.turn = threading.Lock()
        self._ended = threading.Semaphore(0)

    @property
    def threads_of_task(self) -> int:
        """Threads that one task may use now: above 1 if there are too few tasks."""
        if self._waiting:
            return 1
        return max(1, self._n_threads // max(1, self._running))

    @property
    def stopping(self) -> bool:
        """True if this pool is to end, or the pool whose task it is part of."""
        return self._stopping.is_set() or (
            self._outer is not None and self._outer.stopping
        )

    @property
    def outcomes(self) -> list[Outcome | None]:
        return self._outcomes

    def run(self, tasks: Sequence[Task], name: str = "task") -> list[Outcome | None]:
        """Run the tasks, the costliest first; return their outcomes in the order given.

        Any exception in the caller, Ctrl-C included, or in a task ends running tasks at
        their next call of compiled code. The error is raised when all tasks have ended,
        with a note of the task's name, or `name` and its index, if there is one. Tasks
        of a pool inside a task of another pool, such as the fit of many nets in a
        search, end with that task.
        """
        try:
            self.begin(tasks)
            self._wait()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self.end()
        if self._failed is not None:
            i, error = self._failed
            label = self._tasks[i].name or (name and f"{name} {i}")
            if label:
                error.add_note(f"in {label}")
            raise error
        check()
        return self._outcomes

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start the tasks, the costliest first,
        and those apart at once; `end` must follow.

        Tasks are started even if the outer pool is stopping, to raise `Stopped`:
        a task that never starts would leave its waiting callers blocked.
        """
        self._outer = _here.pool
        self._tasks = list(tasks)
        self._outcomes = [None] * len(tasks)
        by_cost = sorted(range(len(tasks)), key=lambda i: (-tasks[i].cost, i))
        self._waiting.extend(i for i in by_cost if not tasks[i].apart)
        self._running = min(1 if self._is_here else self._n_threads, len(self._waiting))
        works: list[Callable[[], None]] = [self._work] * self._running
        works += [partial(self._work_apart, i) for i in by_cost if tasks[i].apart]
        self._n_ending = len(works)
        self._run_here(
            [it for it in works if self._is_here or not self._is_started(it)]
        )

    def _is_started(self, work: Callable[[], None]) -> bool:
        self._threads.append(threading.Thread(target=work, name=WORKER, daemon=True))
        return started(self._threads[-1])

    def _run_here(self, works: Sequence[Callable[[], None]]) -> None:
        """Do the work of threads that were not started;
        Ctrl-C stops the tasks here too.
        """
        if not works:
            return
        try:
            with locks.interrupts_call(self._interrupt):
                for work in works:
                    work()
        finally:
            _here.pool = self._outer
        if self.interrupted:
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stopping.set()

    def add(self, task: Task) -> None:
        with self._lock:
            self._tasks.append(task)
            self._outcomes.append(None)
            self._waiting.append(len(self._tasks) - 1)

    def end(self) -> None:
        """Stop the tasks that run, at their next call of compiled code,
        and join the threads.
        """
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(self._patience)

    def _wait(self) -> None:
        for _ in range(self._n_ending):
            # Short waits: outside Linux a long one delays signal handlers.
            while not self._ended.acquire(timeout=LOOK_SECONDS):
                if self._look is not None:
                    self._look()

    def _work(self) -> None:
        _here.pool = self
        try:
            while not self._stopping.is_set():
                try:
                    i = self._waiting.popleft()
                except IndexError:
                    return
                self._do(i)
        finally:
            with self._lock:
                self._running -= 1
            self._ended.release()

    def _work_apart(self, i: int) -> None:
        _here.pool = self
        try:
            self._do(i)
        finally:
            self._ended.release()

    def _do(self, i: int) -> None:
        try:
            with collect_warnings() as warned:
                self._outcomes[i] = Outcome(self._tasks[i].run(), warned)
        except Stopped:
            pass
        except BaseException as error:
            with self._lock:
                self._failed = self._failed or (i, error)
            self._stopping.set()


def run_all(functions: Sequence[Callable[[], Any]], n_threads: int) -> list[Any]:
    """Return the results of functions that run on threads side by side,
    and pass on warnings.
    """
    pool = Pool(n_threads)
    ended: list[Any] = pool.run([Task(1, function) for function in functions], "")
    if pool.interrupted:
        raise KeyboardInterrupt
    for outcome in ended:
        for message, category in outcome.warnings:
            warn(message, category)
    return [outcome.result for outcome in ended]


def started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def check() -> None:
    pool = _here.pool
    if pool is not None and pool.stopping:
        raise Stopped


def turn() -> AbstractContextManager[Any]:
    """A context that one thread of a pool enters at a time,
    for work that holds the GIL.

    Threads with similar fits would contend for the GIL:
    they prepare and end their fits at the same time, again and again.
    """
    pool = _here.pool
    return nullcontext() if pool is None else pool.turn


def threads_of_task() -> int | None:
    """Threads that this thread may use, or None outside a pool."""
    pool = _here.pool
    return None if pool is None else pool.threads_of_task


class _Here(threading.local):
    # An attribute of the class: a look-up of a missing one takes 0.5 us more.
    pool: Pool | None = None


_here = _Here()


class OneThread:
    """BLAS has one thread inside; the last thread to leave restores the number.

    The number belongs to the process: if each of two concurrent fits restored the
    number that it found, it would stay at one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limit = _libraries().limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limit.restore_original_limits()

    def renew(self) -> None:
        """Forget the users in a forked child, where their threads do not exist."""
        self._lock = threading.Lock()
        self._users = 0


@cache
def _libraries() -> Any:
    """The search for loaded libraries takes 20 ms."""
    return import_module("threadpoolctl").ThreadpoolController()


one_thread: OneThread = OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.renew)
