"""One bar over the epochs of many nets."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastmlp.training.bar import new_bar


class Bar:
    """Shows the epochs of all nets; the training loop uses it as the bar of a single fit."""

    def __init__(self, bar: Any, n_nets: int) -> None:
        self._bar, self._n_nets, self._n_done = bar, n_nets, 0
        self._lock = threading.Lock()
        self._tell()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, n_epochs: int) -> None:
        """Count completed epochs."""
        with self._lock:
            self._bar.update(n_epochs)

    def net_ends(self, n_epochs: int) -> None:
        """Count a net that has ended, so many epochs before its last."""
        with self._lock:
            self._n_done += 1
            self._tell()
            self._bar.update(n_epochs)

    def set_postfix(self, numbers: Any = None, **others: Any) -> None:
        """Show no loss: losses of different nets cannot be compared."""

    def _tell(self) -> None:
        self._bar.set_postfix_str(f"{self._n_done} of {self._n_nets} nets", refresh=False)


def bar_over(n_epochs: int, n_nets: int, who: str, *, shown: bool) -> AbstractContextManager[Any]:
    """Return a bar over the epochs of all nets, or nothing, to be used in a with statement."""
    return Bar(new_bar(n_epochs, 0, who), n_nets) if shown else nullcontext()
