"""Many fits at once, each on a thread of its own, the costly ones first.

Compiled calls release the GIL, so threads of Python are enough, whatever Numba's threading layer:
what runs in them is serial. A thread that finds no fit left gives its core to those that still run.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from fastmlp._process.warnings import collected

# How long the caller sleeps between two looks for signals, where nothing wakes it.
LOOK_SECONDS = 0.1
WORKER = "fastmlp worker"


class Stopped(KeyboardInterrupt):
    """Ends a fit in a pool that is to end: its caller was interrupted, or another fit failed."""


class Task(NamedTuple):
    """A fit: about how long it takes, in any unit, and what to call.

    Attributes
    ----------
    name : what a note to its error says it is
    apart : whether it gets a thread beside the pool's, for it leaves the cores to others
    """

    cost: float
    run: Callable[[], Any]
    name: str = ""
    apart: bool = False


class Outcome(NamedTuple):
    """What a task returned, and of what it warned: pairs of a message and its category."""

    result: Any
    warnings: list[tuple[str, type[Warning]]]


class Pool:
    """Runs tasks on up to so many threads, which live for one call.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the call; tasks that had not begun have no outcome then.
    """

    def __init__(self, n_threads: int) -> None:
        self.interrupted = False
        self._n_threads = n_threads
        self._outer: Pool | None = None
        self._waiting: deque[int] = deque()
        self._tasks: list[Task] = []
        self._outcomes: list[Outcome | None] = []
        self._failed: tuple[int, BaseException] | None = None
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self.turn = threading.Lock()
        self._ended = threading.Semaphore(0)

    @property
    def share(self) -> int:
        """How many threads one task may use now: more than one where there are too few tasks."""
        return 1 if self._waiting else max(1, self._n_threads // max(1, self._running))

    @property
    def stopping(self) -> bool:
        """Whether tasks are to end, as where they are part of a task that is to."""
        return self._stopping.is_set() or (self._outer is not None and self._outer.stopping)

    @property
    def outcomes(self) -> list[Outcome | None]:
        """What has become of the tasks so far."""
        return self._outcomes

    def run(self, tasks: Sequence[Task], name: str = "task") -> list[Outcome | None]:
        """Do the tasks, the costly ones first; return their outcomes in the order given.

        Ctrl-C, or any other exception in the caller, ends those that run at their next call of
        compiled code. So does an error in one of them, which is raised when all have ended, with a
        note that says which `name` it was, or what the task's own name is. In a task of another
        pool, such as the fit of an ensemble in a search, they end with that one.
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
            error.add_note(f"in {self._tasks[i].name or f'{name} {i}'}")
            raise error
        check()
        return self._outcomes

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start the tasks, the costly ones first, those apart at once; `end` must follow.

        In a task of another pool that is to end, those that wait are begun all the same, to say so
        themselves: whoever else waits for them would wait for ever.
        """
        self._outer = getattr(_here, "pool", None)
        self._tasks, self._outcomes = list(tasks), [None] * len(tasks)
        by_cost = sorted(range(len(tasks)), key=lambda i: (-tasks[i].cost, i))
        self._waiting.extend(i for i in by_cost if not tasks[i].apart)
        self._running = min(self._n_threads, len(self._waiting))
        for _ in range(self._running):
            self._threads.append(threading.Thread(target=self._work, name=WORKER, daemon=True))
        for i in by_cost:
            if tasks[i].apart:
                thread = threading.Thread(target=self._work_apart, args=(i,), daemon=True)
                self._threads.append(thread)
        self._threads = [thread for thread in self._threads if self._started(thread)]

    def _started(self, thread: threading.Thread) -> bool:
        """Start a thread; where there can be no more, those of the pool that run do its work."""
        try:
            thread.start()
        except RuntimeError:
            if thread.name != WORKER or not any(other.ident for other in self._threads):
                raise
            with self._lock:
                self._running -= 1
            return False
        return True

    def add(self, task: Task) -> None:
        """Have one more task done, after those that wait; for a task to call."""
        with self._lock:
            self._tasks.append(task)
            self._outcomes.append(None)
            self._waiting.append(len(self._tasks) - 1)

    def end(self) -> None:
        """Have the tasks that still run end at their next call of compiled code, and wait."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _wait(self) -> None:
        for _ in self._threads:
            # Short waits: elsewhere than on Linux a long one hears no signals.
            while not self._ended.acquire(timeout=LOOK_SECONDS):
                pass

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
            with collected() as warned:
                self._outcomes[i] = Outcome(self._tasks[i].run(), warned)
        except Stopped:
            pass
        except BaseException as error:
            with self._lock:
                self._failed = self._failed or (i, error)
            self._stopping.set()


def check() -> None:
    """End what this thread does, where its pool is to end.

    Raises
    ------
    Stopped
        There.
    """
    pool: Pool | None = getattr(_here, "pool", None)
    if pool is not None and pool.stopping:
        raise Stopped


def turn() -> AbstractContextManager[Any]:
    """Return a context in which only one thread of a pool is at a time, for what holds the GIL.

    Threads whose fits are alike prepare them at the same time, and hand the GIL to and fro so that
    they also end at the same time, again and again: in turns they fall out of step.
    """
    pool: Pool | None = getattr(_here, "pool", None)
    return nullcontext() if pool is None else pool.turn


def share() -> int | None:
    """Return how many threads this thread may use; None where no pool shares them out."""
    pool: Pool | None = getattr(_here, "pool", None)
    return None if pool is None else pool.share


_here = threading.local()
