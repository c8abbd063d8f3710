"""Stretches of a program that no signal's handler cuts short.

Python runs handlers in the main thread, between any two steps of it, and what one raises leaves
from there: out of a callback of LLVM's it ends the process, and out of a compiler or an import it
leaves halves that nobody makes whole.
"""

import signal
import threading
from types import FrameType
from typing import Any

# All but those for real time, of which there are thirty more, and a look at each costs 0.8 us.
SIGNALS = [int(it) for it in signal.valid_signals() if it < getattr(signal, "SIGRTMIN", 65)]

# Who is inside: written in one step, after all handlers were replaced and before one is put back.
# A number of a thread, not of a process: a child forked by another thread is not inside.
_inside: int | None = None
_handlers: dict[int, Any] = {}
_came: dict[int, FrameType | None] = {}


class deferred:
    """A context in which handlers of signals wait; those of signals that came run at its end.

    For stretches that are as short as may be, for Ctrl-C waits too. In other threads than the main
    one, in which Python runs no handlers, and inside another such context it does nothing. It costs
    30 us. What `signal.siginterrupt` had chosen is lost: it cannot be asked for.

    Examples
    --------
    >>> import signal
    >>> from fastmlp._process import signals
    >>> try:
    ...     with signals.deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("whole")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    whole
    interrupted
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
            # An embedded Python may be wrong about which thread is the main one.
            if not (isinstance(error, ValueError) and "main thread" in str(error)):
                raise

    def __exit__(self, *_: object) -> None:
        global _inside
        if not self._outermost:
            return
        _inside = None
        try:
            _put_back_handlers()
        except BaseException:  # from a handler that has been put back
            _put_back_handlers()
            raise
        finally:
            _run_handlers()


def _replace_handlers() -> None:
    """Until somebody is inside, the one in their place calls them."""
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
    """Stand in for every handler: remember that its signal came, or run it where none is inside."""
    _came.setdefault(number, frame)
    if _inside != threading.get_ident():
        _run_handlers()


def _run_handlers() -> None:
    """Run the handlers of the signals that came, each of them, whatever another raises."""
    if _came:
        number = next(iter(_came))
        frame = _came.pop(number)
        try:
            _handlers[number](number, frame)
        finally:
            _run_handlers()
