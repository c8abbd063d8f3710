"""The locks of a net, and signal handlers deferred while code must not be interrupted.

Python runs handlers in the main thread, between any two bytecodes, and a handler's
exception leaves from there. Raised out of a callback of LLVM's it ends the process; out
of a compilation or an import it leaves modules and caches half initialised.
"""

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Short compiled calls hold the GIL, by which no other thread reads or writes meanwhile.
# False: they take the net's lock in its place.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

# A forked child has another object. Asking for the process's number takes 60 to 220 ns.
_process = [object()]

# Another object after each change, but for parameters, of what a net's step depends on:
# who trains it, its settings, its buffers. Written while the net's `parameters` are
# held.
change = [object()]


def _nothing() -> None:
    """Return None, as a weak reference to a dead object does."""


def _note_fork() -> None:
    _process[0] = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class NetLock:
    """The locks of one net; a copy has new locks, and in a forked child they are open.

    Code that has released the GIL holds `parameters` while it reads or writes all
    parameters. One thread at a time is inside `training`: it owns the optimizer's
    state.

    Attributes
    ----------
    owner : of the optimizer's state, or None
    n_owners : how many have been inside `training`
    n_published : how often training has written the parameters
    n_lent : how often a view of the parameters was made for outside
    is_lent : True if there are always such views
    packed : the weights as predictions have packed them last, or None

    Parameters
    ----------
    values : array, optional
        The net's parameters, which nobody writes without the lock but by views that
        were lent.
    """

    owner: object
    n_owners: int
    n_published: int
    n_lent: int
    is_lent = False
    packed: Any = None

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.n_owners = self.n_published = self.n_lent = 0
        self._values = values
        self._lent: Callable[[], NDArray[Any] | None] = _nothing
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._process = _process[0]
        self.owner = None
        self._caller: int | None = None

    def __reduce__(self) -> Any:
        return NetLock, ()

    @property
    def parameters(self) -> threading.RLock:
        """The lock of the parameters, held briefly to copy them in or out.

        An RLock's `__enter__` is one step, so Ctrl-C cannot come between acquiring it
        and entering the block. The lock is reentrant: a signal's handler that predicts
        may interrupt the holder, which copies in one step.
        """
        if self._process is not _process[0]:
            self._renew()
        return self._lock

    def exclusive(self, entry: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled call that holds the GIL;
        without a GIL, one that holds this lock.
        """
        if HAS_GIL:
            return entry

        def run(*arguments: Any) -> Any:
            with self.parameters:
                return entry(*arguments)

        return run

    def publish(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        with self.parameters:
            self.n_published += 1
            publish(values, target)

    def seen(self) -> tuple[int, int]:
        """A token that changes when training has written the parameters."""
        with self.parameters:
            return self.n_published, self.n_owners

    def lend(self) -> NDArray[Any]:
        """Return the parameters as a view for outside,
        which `settled` knows of while it lives.
        """
        with self.parameters:
            view = self._lent()
            values = self._values
            if view is None:
                assert values is not None
                # The base is not an array: every view of the view keeps it alive.
                view = np.frombuffer(values.data, values.dtype)
                self._lent = weakref.ref(view)
                self.n_lent = self.n_lent + 1
            return view

    def settled(self, values: NDArray[Any]) -> object:
        """A token that changes when these parameters may have been written;
        None: somebody may write at any time.
        """
        if self.is_lent or self.owner is not None or self._lent() is not None:
            return None
        if values is not self._values:
            return None
        return self.n_published, self.n_owners, self.n_lent

    def training(self, who: str) -> "Training":
        return Training(self, who)

    def require_free(self, who: str) -> None:
        if self.owner is not None:
            raise RuntimeError(
                f"{who}: a fit of this net is running, which owns its optimizer's "
                f"state; wait for "
                "its end, or train a copy: copy.deepcopy(net)"
            )

    @contextmanager
    def calling_back(self) -> Iterator[None]:
        """While this thread runs callbacks,
        they may read the training state, which is at rest.
        """
        self._caller = threading.get_ident()
        try:
            yield
        finally:
            self._caller = None

    @property
    def is_trained_elsewhere(self) -> bool:
        """True if a fit is changing its state,
        and this thread does not run its callbacks.
        """
        return self.owner is not None and self._caller != threading.get_ident()


class Training:
    """A context that owns the optimizer's state of a net.
    A generator would take 1 us more.
    """

    # Ctrl-C may come before they are set.
    _lock: NetLock | None = None
    _ticket: object = None

    def __init__(self, lock: NetLock, who: str) -> None:
        self._lock, self._who, self._ticket = lock, who, object()

    def __enter__(self) -> None:
        lock = self._lock
        assert lock is not None
        try:
            with lock.parameters:
                lock.require_free(self._who)
                lock.owner = self._ticket
                lock.n_owners += 1
                change[0] = object()
        except BaseException:  # Ctrl-C, as the lock is given back: no __exit__ follows
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and self._lock.owner is self._ticket:
            self._lock.owner = None

    def __del__(self) -> None:
        self.__exit__()


def publish(values: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy values to a C-contiguous target while holding the GIL,
    which NumPy's copy releases.

    A prediction of few rows holds the GIL too, so it sees all new values or all old
    ones. Without a GIL it holds `NetLock.parameters`, as do the callers of this
    function.
    """
    target.data.cast("B")[:] = values.data.cast("B")


# All but the thirty real-time signals: to query a handler costs 0.8 us.
SIGNALS = [
    int(n) for n in signal.valid_signals() if n < getattr(signal, "SIGRTMIN", 65)
]

# The thread inside the context, or None. Written in one step, after all handlers were
# replaced and before the first is restored. A child that another thread forks is not
# inside.
_inside: int | None = None
_handlers: dict[int, Any] = {}
_came: dict[int, FrameType | None] = {}


class deferred:
    """A context that defers signal handlers;
    handlers of signals that arrived run at its end.

    Keep the block short: Ctrl-C is deferred too. The context does nothing outside the
    main thread, where Python runs no handlers, and inside another such context. The
    cost is 30 us. A setting made by `signal.siginterrupt`, which cannot be queried, is
    lost.
    """

    def __init__(self) -> None:
        self._outermost = False

    def __enter__(self) -> None:
        """Replace all handlers; if a part fails, those replaced are put back."""
        global _inside
        me = threading.get_ident()
        if me == _inside or me != threading.main_thread().ident:
            return
        try:
            _replace_handlers()
            self._outermost = True
            _inside = me
        except BaseException as error:
            _put_back_handlers()
            # An embedded Python may report another thread as the main one.
            if not (isinstance(error, ValueError) and "main thread" in str(error)):
                raise

    def __exit__(self, *_: object) -> None:
        global _inside
        if not self._outermost:
            return
        _inside = None
        try:
            _put_back_handlers()
        except BaseException:  # raised by a handler that was just restored
            _put_back_handlers()
            raise
        finally:
            _run_handlers()


def _replace_handlers() -> None:
    """Install a deferring handler;
    until the context is entered it forwards to the originals.
    """
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not _wait:
            _handlers[number] = handler
            signal.signal(number, _wait)


def _put_back_handlers() -> None:
    for number, handler in _handlers.items():
        if signal.getsignal(number) is _wait:
            signal.signal(number, handler)


def _wait(number: int, frame: FrameType | None) -> None:
    """Record that a signal arrived; outside the context, run its handler at once."""
    _came.setdefault(number, frame)
    if _inside != threading.get_ident():
        _run_handlers()


def _run_handlers() -> None:
    """Run the handler of every signal that arrived, even if another handler raises."""
    if _came:
        number = next(iter(_came))
        frame = _came.pop(number)
        try:
            _handlers[number](number, frame)
        finally:
            _run_handlers()


@contextmanager
def interrupts_call(function: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls a function instead of raising KeyboardInterrupt;
    nothing changes outside the main thread.
    """
    handler = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)  # type: ignore[operator, misc]
        except KeyboardInterrupt:
            function()

    if threading.current_thread() is not threading.main_thread() or not callable(
        handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
