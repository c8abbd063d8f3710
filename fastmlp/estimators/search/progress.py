"""The bar over the fits of a search."""

import threading
from typing import Any, final

from fastmlp.training.bar import new_bar


@final
class FitBar:
    """Counts the fits of a search, from several threads; shows them in a tqdm bar if `shown`.

    Under halving the number of fits is known round by round: the bar grows.

    Raises
    ------
    ImportError
        If a bar is asked for without tqdm.
    """

    def __init__(self, who: str, *, shown: bool) -> None:
        self._bar: Any = new_bar(0, 0, who, "fit") if shown else None
        self._lock = threading.Lock()

    def __enter__(self) -> "FitBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self) -> None:
        """Count one more fit to be done."""
        if self._bar is not None:
            with self._lock:
                self._bar.total += 1

    def update(self) -> None:
        """Count one more fit that is done."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(1)
