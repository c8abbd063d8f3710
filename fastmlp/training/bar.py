"""Progress bars, and the numbers in them."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastmlp.training.history import History
from fastmlp.validation.packages import needs


def new_bar(total: int, done: int, who: str, unit: str = "epoch") -> Any:
    """Return a tqdm bar over so many epochs, or other units.

    Raises
    ------
    ImportError
        If tqdm is missing.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(needs(f"{who}: progress=True", "tqdm")) from error
    return tqdm(total=total, initial=done, unit=unit)


def shown(history: History) -> dict[str, str]:
    """Return the last losses and metrics, as the bar shows them."""
    losses = {"loss": history.loss, "validation_loss": history.validation_loss}
    series = {**losses, **history.metrics}
    return {name: f"{values[-1]:.4g}" for name, values in series.items() if values}


class Bar:
    """One bar over the epochs of many nets; each fit uses it as its own."""

    def __init__(self, bar: Any, n_nets: int) -> None:
        self._bar, self._n_nets, self._n_done = bar, n_nets, 0
        self._lock = threading.Lock()
        self._show_nets()

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
            self._show_nets()
            self._bar.update(n_epochs)

    def set_postfix(self, numbers: Any = None, **others: Any) -> None:
        """Show no loss: losses of different nets cannot be compared."""

    def _show_nets(self) -> None:
        self._bar.set_postfix_str(f"{self._n_done} of {self._n_nets} nets", refresh=False)


def bar_over(n_epochs: int, n_nets: int, who: str, *, shown: bool) -> AbstractContextManager[Any]:
    """Return a bar over the epochs of all nets, or nothing, to be used in a with statement."""
    return Bar(new_bar(n_epochs, 0, who), n_nets) if shown else nullcontext()
