"""Deferral of signal handlers while code runs that must not be interrupted.

Python runs handlers in the main thread, between any two bytecodes, and a handler's exception leaves
from there. Raised out of a callback of LLVM's it ends the process; raised out of a compilation or
an import it leaves modules and caches half initialised.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# All but the thirty real-time signals: to query a handler costs 0.8 us.
SIGNALS = [int(n) for n in signal.valid_signals() if n < getattr(signal, "SIGRTMIN", 65)]

# The thread inside the context, or None. Written in one step, after all handlers were replaced and
# before the first is restored. A child that another thread forks is not inside.
_inside: int | None = None
_handlers: dict[int, Any] = {}
_came: dict[int, FrameType | None] = {}


class deferred:
    """A context that defers signal handlers; handlers of signals that arrived run at its end.

    Keep the block short: Ctrl-C is deferred too. The context does nothing outside the main thread,
    where Python runs no handlers, and inside another such context. It costs 30 us. A setting made
    by `signal.siginterrupt`, which cannot be queried, is lost.
    """

    def __init__(self) -> None:
        self._outermost = False

    def __enter__(self) -> None:
        global _inside
        me = threading.get_ident()
        if me == _inside or me != threading.main_thread().ident:
            return
        try:
            _replace_handlers()
            self._outermost, _inside = True, me
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
    """Install a deferring handler; until the context is entered it forwards to the originals."""
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
    """Ctrl-C calls a function instead of raising KeyboardInterrupt; nothing changes outside the
    main thread."""
    handler = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)  # type: ignore[operator, misc]
        except KeyboardInterrupt:
            function()

    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
