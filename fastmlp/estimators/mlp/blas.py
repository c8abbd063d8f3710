"""The threads of BLAS, kept to one while SciPy's L-BFGS-B runs.

It calls BLAS for vectors of a few thousand numbers, whose threads then only wait for each other: a
step on 1,201 parameters took 3.2 ms on two of them and 0.04 ms on one.
"""

import os
import threading
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class OneThread:
    """A context in which BLAS has one thread; whoever leaves it last gives the others back.

    The number is the process's: two fits in two threads that each put back what they found would
    leave it at one for good.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
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
        """Forget the users, whose threads do not exist in a forked child."""
        self._lock, self._users = threading.Lock(), 0


@cache
def _libraries() -> ThreadpoolController:
    """Return all that are loaded: to look for them takes 20 ms."""
    return ThreadpoolController()


one_thread = OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.renew)
